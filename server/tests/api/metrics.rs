//! `/metrics`: the text parses, the names and buckets are vLLM's, and requests are counted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use arrcoc_bundle::{Precision, Statistics};
use arrcoc_runtime::generate::{Cache, Event, FinishReason, GenerateError, Note, Observer, Request, Stage};
use serde_json::json;

use crate::fake::{Fake, Step, chat_body, finished, hello, loading, service, started, token};
use crate::port::{eventually, read_until, start};

/// A parsed exposition: type and samples (series without value, value) of each family.
struct Exposition {
    types: BTreeMap<String, String>,
    samples: BTreeMap<String, f64>,
}

/// Parses the text format strictly: HELP, then TYPE, then the samples of that family only, no series twice.
fn parse(text: &str) -> Exposition {
    let (mut types, mut samples) = (BTreeMap::new(), BTreeMap::new());
    let (mut helped, mut family) = (BTreeSet::new(), String::new());
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(helped.insert(name.to_owned()) && help.len() > 10, "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(helped.contains(name) && matches!(kind, "counter" | "gauge" | "histogram"), "{line}");
            assert!(kind != "counter" || name.ends_with("_total"), "{line}");
            assert_eq!(types.insert(name.to_owned(), kind.to_owned()), None, "{line}");
            family = name.to_owned();
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let suffixes: &[&str] =
                if types[&family] == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.iter().any(|suffix| name == format!("{family}{suffix}")), "{line}");
            assert_eq!(samples.insert(series.to_owned(), value.parse().unwrap()), None, "{line}");
        }
    }
    Exposition { types, samples }
}

impl Exposition {
    /// The one sample whose series starts so and holds these labels.
    fn value(&self, name: &str, labels: &[&str]) -> f64 {
        let matching: Vec<_> = self
            .samples
            .iter()
            .filter(|(series, _)| series.split('{').next() == Some(name))
            .filter(|(series, _)| labels.iter().all(|label| series.contains(label)))
            .collect();
        assert_eq!(matching.len(), 1, "{name} {labels:?}: {matching:?}");
        *matching[0].1
    }

    fn buckets(&self, name: &str) -> Vec<f64> {
        let prefix = format!("{name}_bucket{{");
        let mut bounds: Vec<f64> = self
            .samples
            .keys()
            .filter(|series| series.starts_with(&prefix))
            .map(|series| series.split("le=\"").nth(1).unwrap().split('"').next().unwrap())
            .filter(|bound| *bound != "+Inf")
            .map(|bound| bound.parse().unwrap())
            .collect();
        bounds.sort_by(f64::total_cmp);
        bounds
    }
}

const VLLM: &[(&str, &str)] = &[
    ("vllm:time_to_first_token_seconds", "histogram"),
    ("vllm:inter_token_latency_seconds", "histogram"),
    ("vllm:request_time_per_output_token_seconds", "histogram"),
    ("vllm:e2e_request_latency_seconds", "histogram"),
    ("vllm:request_queue_time_seconds", "histogram"),
    ("vllm:request_prefill_time_seconds", "histogram"),
    ("vllm:request_decode_time_seconds", "histogram"),
    ("vllm:request_inference_time_seconds", "histogram"),
    ("vllm:kv_cache_usage_perc", "gauge"),
    ("vllm:gpu_cache_usage_perc", "gauge"),
    ("vllm:cache_config_info", "gauge"),
    ("vllm:prompt_tokens_total", "counter"),
    ("vllm:generation_tokens_total", "counter"),
    ("vllm:prompt_tokens_cached_total", "counter"),
    ("vllm:request_prompt_tokens", "histogram"),
    ("vllm:request_generation_tokens", "histogram"),
    ("vllm:request_max_num_generation_tokens", "histogram"),
    ("vllm:iteration_tokens_total", "histogram"),
    ("vllm:num_requests_running", "gauge"),
    ("vllm:num_requests_waiting", "gauge"),
    ("vllm:num_requests_waiting_by_reason", "gauge"),
    ("vllm:engine_sleep_state", "gauge"),
    ("vllm:request_success_total", "counter"),
    ("vllm:num_preemptions_total", "counter"),
    ("vllm:prefix_cache_queries_total", "counter"),
    ("vllm:prefix_cache_hits_total", "counter"),
    ("vllm:mm_cache_queries_total", "counter"),
    ("vllm:mm_cache_hits_total", "counter"),
];

#[tokio::test]
async fn the_names_types_labels_and_buckets_are_vllms() {
    let service = service(Fake::new(hello), &[]);
    let reply = service.get("/metrics").await;
    assert_eq!(reply.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let metrics = parse(&reply.text);
    for (name, kind) in VLLM {
        assert_eq!(metrics.types.get(*name).map(String::as_str), Some(*kind), "{name}");
    }
    for series in metrics.samples.keys().filter(|series| series.starts_with("vllm:")) {
        assert!(series.contains("model_name=\"tiny\"") && series.contains("engine=\"0\""), "{series}");
    }
    let first = metrics.buckets("vllm:time_to_first_token_seconds");
    assert_eq!((first.len(), first[0], first[21]), (22, 0.001, 2560.0));
    let inter = metrics.buckets("vllm:inter_token_latency_seconds");
    assert_eq!((inter.len(), inter[0], inter[18]), (19, 0.01, 80.0));
    let e2e = metrics.buckets("vllm:e2e_request_latency_seconds");
    assert_eq!((e2e.len(), e2e[0], e2e[20]), (21, 0.3, 7680.0));
    let step = metrics.buckets("vllm:iteration_tokens_total");
    assert_eq!((step.len(), step[0], step[1], step[12]), (13, 1.0, 8.0, 16384.0));
    assert_eq!(metrics.buckets("vllm:request_prompt_tokens").last(), Some(&2000.0));
    assert_eq!(metrics.value("vllm:num_requests_running", &[]), 1.0);
    assert_eq!(metrics.value("vllm:kv_cache_usage_perc", &[]), 0.25);
    assert_eq!(metrics.value("vllm:gpu_cache_usage_perc", &[]), 0.25);
    assert_eq!(
        metrics.value("vllm:cache_config_info", &["block_size=\"2048\"", "num_gpu_blocks=\"4\""]),
        1.0
    );
    let labels = ["model=\"tiny\"", "precision=\"fp32\"", "target=\"cpu\"", "runtime=\"fake 1.0\""];
    assert_eq!(metrics.value("arrcoc_engine_info", &labels), 1.0);
}

/// Bounds are labels: vLLM's, and so the dashboards', are as Python writes them.
#[tokio::test]
async fn bucket_bounds_are_spelt_as_python_spells_them() {
    let service = service(Fake::new(hello), &[]);
    let engine = service.app.metrics.engine().unwrap();
    engine.note(Note::Stage(&Stage::PREFILL, Duration::from_millis(2)));
    service.app.metrics.swapped(Precision::Int8, Duration::from_millis(2));
    let metrics = parse(&service.get("/metrics").await.text);
    for (name, bound) in [
        ("vllm:time_to_first_token_seconds_bucket", "1.0"),
        ("vllm:e2e_request_latency_seconds_bucket", "5.0"),
        ("vllm:inter_token_latency_seconds_bucket", "10.0"),
        ("vllm:inter_token_latency_seconds_bucket", "0.025"),
        ("vllm:iteration_tokens_total_bucket", "16384.0"),
        ("vllm:iteration_tokens_total_bucket", "+Inf"),
        ("arrcoc_stage_seconds_bucket", "160.0"),
        ("arrcoc_swap_seconds_bucket", "60.0"),
    ] {
        metrics.value(name, &[&format!("le=\"{bound}\"")]);
    }
    for series in metrics.samples.keys().filter(|series| series.contains("_bucket{")) {
        let bound = series.split("le=\"").nth(1).unwrap().split('"').next().unwrap();
        assert!(bound == "+Inf" || bound.contains('.'), "{series}");
    }
}

#[tokio::test]
async fn a_service_that_is_loaded_counts_as_up() {
    let service = service(Fake::new(hello), &[]);
    service.engine.waiting.store(3, std::sync::atomic::Ordering::SeqCst);
    let metrics = parse(&service.get("/metrics").await.text);
    for (state, value) in [("awake", 1.0), ("weights_offloaded", 0.0), ("discard_all", 0.0)] {
        let label = format!("sleep_state=\"{state}\"");
        assert_eq!(metrics.value("vllm:engine_sleep_state", &[&label]), value, "{state}");
    }
    assert_eq!(metrics.value("vllm:num_requests_waiting", &[]), 3.0);
    assert_eq!(metrics.value("vllm:num_requests_waiting_by_reason", &["reason=\"capacity\""]), 3.0);
    assert_eq!(metrics.value("vllm:num_requests_waiting_by_reason", &["reason=\"deferred\""]), 0.0);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_process_is_measured_before_there_is_an_engine() {
    let service = loading(Fake::new(hello), &[]);
    let metrics = parse(&service.get("/metrics").await.text);
    assert_eq!(metrics.types["process_cpu_seconds_total"], "counter");
    assert!(metrics.value("process_cpu_seconds_total", &[]) >= 0.0);
    // A test program with a few threads: between a megabyte and a terabyte, and since the year 2020.
    assert!((1e6..1e12).contains(&metrics.value("process_resident_memory_bytes", &[])));
    let memory = metrics.value("process_virtual_memory_bytes", &[]);
    assert!(memory >= metrics.value("process_resident_memory_bytes", &[]));
    assert!(metrics.value("process_start_time_seconds", &[]) > 1.6e9);
    let open = metrics.value("process_open_fds", &[]);
    assert!(open >= 3.0 && open <= metrics.value("process_max_fds", &[]));
    assert!(metrics.value("process_threads", &[]) >= 1.0);
}

/// An image is looked up among the visual tokens, and among the image features where those did not have it.
#[tokio::test]
async fn an_image_that_any_cache_has_is_a_hit() {
    let service = service(Fake::new(hello), &[]);
    let engine = service.app.metrics.engine().unwrap();
    let seen = |lookups: &[(Cache, bool)]| {
        lookups.iter().for_each(|&(cache, hit)| engine.note(Note::Cache { cache, hit }))
    };
    // New; known, with another question; known, with the same question, twice.
    seen(&[(Cache::VisualTokens, false), (Cache::ImageFeatures, false)]);
    seen(&[(Cache::VisualTokens, false), (Cache::ImageFeatures, true)]);
    seen(&[(Cache::VisualTokens, true)]);
    seen(&[(Cache::VisualTokens, true)]);
    let metrics = parse(&service.get("/metrics").await.text);
    assert_eq!(metrics.value("vllm:mm_cache_queries_total", &[]), 4.0);
    assert_eq!(metrics.value("vllm:mm_cache_hits_total", &[]), 3.0);
}

#[tokio::test]
async fn requests_are_counted() {
    let service = service(Fake::new(hello), &[]);
    service.chat(json!({"max_tokens": 9})).await;
    service.chat(json!({"stream": true, "n": 2})).await;
    service.get("/v1/nothing").await;
    service.get("/v1/nothing/else").await;
    let metrics = parse(&service.get("/metrics").await.text);
    assert_eq!(metrics.value("vllm:prompt_tokens_total", &[]), 220.0);
    assert_eq!(metrics.value("vllm:generation_tokens_total", &[]), 6.0);
    assert_eq!(metrics.value("vllm:request_success_total", &["finished_reason=\"stop\""]), 3.0);
    assert_eq!(metrics.value("vllm:time_to_first_token_seconds_count", &[]), 2.0);
    assert_eq!(metrics.value("vllm:inter_token_latency_seconds_count", &[]), 3.0);
    assert_eq!(metrics.value("vllm:e2e_request_latency_seconds_count", &[]), 2.0);
    assert_eq!(metrics.value("vllm:request_generation_tokens_sum", &[]), 6.0);
    assert_eq!(metrics.value("vllm:request_max_num_generation_tokens_sum", &[]), 9.0 + 2048.0);
    let http = |route: &str, method: &str, status: &str| {
        let labels =
            [format!("route=\"{route}\""), format!("method=\"{method}\""), format!("status=\"{status}\"")];
        metrics.value("arrcoc_http_requests_total", &labels.each_ref().map(String::as_str))
    };
    assert_eq!(http("/v1/chat/completions", "POST", "200"), 2.0);
    assert_eq!(http("unmatched", "GET", "404"), 2.0);
}

#[tokio::test]
async fn failures_are_counted_apart() {
    let fail = Step::Emit(Event::Failed(GenerateError::Internal("x".into())));
    let service = service(Fake::new(move |_| vec![started(), fail.clone()]), &[]);
    service.chat(json!({"n": 2})).await.error(500);
    let metrics = parse(&service.get("/metrics").await.text);
    assert_eq!(metrics.value("vllm:request_success_total", &["finished_reason=\"error\""]), 2.0);
    assert_eq!(metrics.value("vllm:request_success_total", &["finished_reason=\"stop\""]), 0.0);
}

#[tokio::test]
async fn the_runtimes_reports_arrive() {
    let service = service(Fake::new(hello), &[]);
    let engine = service.app.metrics.engine().unwrap();
    for stage in [
        Stage::DECODE_IMAGE,
        Stage::PREPROCESS,
        Stage::graph("vision_encoder"),
        Stage::graph("allocator"),
        Stage::PREFILL,
        Stage::DECODE_STEP,
    ] {
        engine.note(Note::Stage(&stage, Duration::from_millis(2)));
    }
    engine.note(Note::Image { tier: Some(3), tokens: 256 });
    engine.note(Note::Cache { cache: Cache::ImageFeatures, hit: false });
    engine.note(Note::Cache { cache: Cache::ImageFeatures, hit: true });
    engine.note(Note::Cache { cache: Cache::VisualTokens, hit: false });
    engine.note(Note::Embeds { tier: 3, statistics: Statistics { mean: 0.5, std: 0.25, sparsity: 0.125 } });
    engine.note(Note::Iteration { tokens: 17 });
    let metrics = parse(&service.get("/metrics").await.text);
    for stage in ["decode_image", "preprocess", "vision_encoder", "allocator", "prefill", "decode_step"] {
        assert_eq!(metrics.value("arrcoc_stage_seconds_count", &[&format!("stage=\"{stage}\"")]), 1.0);
    }
    assert_eq!(metrics.value("arrcoc_visual_tokens_sum", &[]), 256.0);
    assert_eq!(metrics.value("arrcoc_tier_total", &["tier=\"256\""]), 1.0);
    assert_eq!(metrics.value("arrcoc_tier_total", &["tier=\"64\""]), 0.0);
    assert_eq!(metrics.value("arrcoc_cache_queries_total", &["cache=\"image_features\""]), 2.0);
    assert_eq!(metrics.value("arrcoc_cache_hits_total", &["cache=\"image_features\""]), 1.0);
    assert_eq!(metrics.value("arrcoc_cache_queries_total", &["cache=\"visual_tokens\""]), 1.0);
    assert_eq!(metrics.value("vllm:mm_cache_queries_total", &[]), 2.0);
    assert_eq!(metrics.value("vllm:mm_cache_hits_total", &[]), 1.0);
    assert_eq!(metrics.value("arrcoc_adapter_output_sparsity", &["tier=\"256\""]), 0.125);
    // Zeros where the decoder was trained on none: that is drift, of this tier and no other.
    assert_eq!(metrics.value("arrcoc_adapter_drift_total", &["tier=\"256\""]), 1.0);
    assert_eq!(metrics.value("arrcoc_adapter_drift_total", &["tier=\"64\""]), 0.0);
    assert!((metrics.value("arrcoc_adapter_output_std_target", &[]) - 0.02).abs() < 1e-6);
    assert_eq!(metrics.value("vllm:iteration_tokens_total_sum", &[]), 17.0);
}

/// vLLM makes a sequence of each answer and counts those.
#[tokio::test]
async fn each_answer_of_a_request_counts_as_running() {
    let script = |_: &Request| {
        let tokens = (0..3).map(|choice| token(choice, "a"));
        let end = [finished(2, "", FinishReason::Stop), token(0, "b"), Step::Hang];
        [started()].into_iter().chain(tokens).chain(end).collect()
    };
    let server = start(service(Fake::new(script), &[])).await;
    // The scripted engine says that it runs one request.
    let running = async || {
        let text = server.get("/metrics").await;
        let line = text.lines().find(|line| line.starts_with("vllm:num_requests_running{")).unwrap();
        line.rsplit(' ').next().unwrap().to_owned()
    };
    assert_eq!(running().await, "1");
    let mut stream = server.post(&chat_body(json!({"stream": true, "n": 4}))).await;
    // Three answers have begun, one of them has ended.
    read_until(&mut stream, "\"b\"").await;
    assert_eq!(running().await, "2");
    drop(stream);
    eventually("the request ends", || server.service.app.in_flight() == 0).await;
    assert_eq!(running().await, "1");
}
