//! The metrics of vLLM, by its names, types, labels and buckets.
//!
//! Source: vLLM's `vllm/v1/metrics/loggers.py` and `docs/design/metrics.md`. Python's client appends `_total`
//! to counters, so the names here carry it. `vllm:gpu_cache_usage_perc` is the older name of
//! `vllm:kv_cache_usage_perc`, which production-stack's router still reads. Gateways read only the first
//! series of a gauge: each that they read has exactly one.

use std::collections::HashMap;
use std::time::Duration;

use arrcoc_runtime::generate::{FinishReason, Timings, Usage};
use arrcoc_runtime::model::{ModelInfo, Occupancy};
use prometheus::{Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry};

use super::register;

const FIRST_TOKEN: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
];
const INTER_TOKEN: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];
const REQUEST: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
    960.0, 1920.0, 7680.0,
];
const ITERATION: &[f64] =
    &[1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];

/// How an answer ended, in vLLM's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// End token or stop string.
    Stop,
    /// `max_tokens` or the end of the context.
    Length,
    /// The client went away.
    Abort,
    /// The engine failed, or time ran out.
    Error,
}

impl Finish {
    const ALL: [Self; 4] = [Self::Stop, Self::Length, Self::Abort, Self::Error];

    fn label(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Abort => "abort",
            Self::Error => "error",
        }
    }
}

impl From<FinishReason> for Finish {
    fn from(reason: FinishReason) -> Self {
        match reason {
            FinishReason::Stop => Self::Stop,
            FinishReason::Length => Self::Length,
        }
    }
}

/// The vLLM set of one engine.
pub struct Vllm {
    time_to_first_token: Histogram,
    inter_token: Histogram,
    per_output_token: Histogram,
    e2e: Histogram,
    queue: Histogram,
    prefill: Histogram,
    decode: Histogram,
    inference: Histogram,
    kv_usage: [Gauge; 2],
    running: Gauge,
    waiting: [Gauge; 2],
    prompt_tokens: IntCounter,
    generation_tokens: IntCounter,
    request_prompt_tokens: Histogram,
    request_generation_tokens: Histogram,
    request_max_tokens: Histogram,
    iteration_tokens: Histogram,
    success: IntCounterVec,
    mm_queries: IntCounter,
    mm_hits: IntCounter,
    cache_config: GaugeVec,
}

impl Vllm {
    pub(super) fn new(registry: &Registry, model_name: &str, context_length: usize) -> Self {
        let make = Maker { registry, model_name };
        let lengths = one_two_five(context_length);
        // No prefix cache and no preemption here: the series exist, at zero, because dashboards divide by
        // them.
        make.counter(
            "vllm:prefix_cache_queries_total",
            "Prefix cache queries, in tokens (no such cache: always 0).",
        );
        make.counter(
            "vllm:prefix_cache_hits_total",
            "Prefix cache hits, in tokens (no such cache: always 0).",
        );
        make.counter("vllm:prompt_tokens_cached_total", "Prompt tokens from the prefix cache (always 0).");
        make.counter(
            "vllm:num_preemptions_total",
            "Preempted requests (slots are reserved whole: always 0).",
        );
        // Engines are loaded or they are not: none of ours sleeps.
        let sleep =
            make.gauges("vllm:engine_sleep_state", "Engine sleep state (always awake).", "sleep_state");
        for (state, value) in [("awake", 1.0), ("weights_offloaded", 0.0), ("discard_all", 0.0)] {
            sleep.with_label_values(&[state]).set(value);
        }
        let waiting = make.gauges(
            "vllm:num_requests_waiting_by_reason",
            "Requests that wait, by reason (always for capacity: none is deferred).",
            "reason",
        );
        waiting.with_label_values(&["deferred"]);
        let success = register(
            registry,
            IntCounterVec::new(
                make.opts("vllm:request_success_total", "Finished answers by reason."),
                &["finished_reason"],
            ),
        );
        for finish in Finish::ALL {
            success.with_label_values(&[finish.label()]);
        }
        Self {
            time_to_first_token: make.histogram(
                "vllm:time_to_first_token_seconds",
                "From a request's arrival to its first token.",
                FIRST_TOKEN,
            ),
            inter_token: make.histogram(
                "vllm:inter_token_latency_seconds",
                "Between two tokens of an answer.",
                INTER_TOKEN,
            ),
            per_output_token: make.histogram(
                "vllm:request_time_per_output_token_seconds",
                "Mean time per token after the first, per request.",
                INTER_TOKEN,
            ),
            e2e: make.histogram(
                "vllm:e2e_request_latency_seconds",
                "From a request's arrival to its end.",
                REQUEST,
            ),
            queue: make.histogram("vllm:request_queue_time_seconds", "Waiting for a slot.", REQUEST),
            prefill: make.histogram(
                "vllm:request_prefill_time_seconds",
                "From leaving the queue to the first token, vision stages included.",
                REQUEST,
            ),
            decode: make.histogram(
                "vllm:request_decode_time_seconds",
                "From the first token to the last.",
                REQUEST,
            ),
            inference: make.histogram(
                "vllm:request_inference_time_seconds",
                "From leaving the queue to the last token.",
                REQUEST,
            ),
            kv_usage: [
                make.gauge("vllm:kv_cache_usage_perc", "Share of the KV cache that holds tokens, 0 to 1."),
                make.gauge("vllm:gpu_cache_usage_perc", "Older name of vllm:kv_cache_usage_perc."),
            ],
            running: make.gauge(
                "vllm:num_requests_running",
                "Answers that hold a KV slot: a request with n counts n times, as with vLLM.",
            ),
            waiting: [
                make.gauge("vllm:num_requests_waiting", "Requests that wait for a KV slot."),
                waiting.with_label_values(&["capacity"]),
            ],
            prompt_tokens: make
                .counter("vllm:prompt_tokens_total", "Prompt tokens processed, visual ones included."),
            generation_tokens: make.counter("vllm:generation_tokens_total", "Tokens generated."),
            request_prompt_tokens: make.histogram(
                "vllm:request_prompt_tokens",
                "Prompt tokens per request, visual ones included.",
                &lengths,
            ),
            request_generation_tokens: make.histogram(
                "vllm:request_generation_tokens",
                "Tokens generated per request, all choices.",
                &lengths,
            ),
            request_max_tokens: make.histogram(
                "vllm:request_max_num_generation_tokens",
                "Most tokens that a request's longest answer could have had.",
                &lengths,
            ),
            iteration_tokens: make.histogram(
                "vllm:iteration_tokens_total",
                "Tokens through the decoder per scheduler iteration.",
                ITERATION,
            ),
            success,
            mm_queries: make.counter("vllm:mm_cache_queries_total", "Images looked up in the caches."),
            mm_hits: make.counter(
                "vllm:mm_cache_hits_total",
                "Images found in the cache of visual tokens or in that of image features.",
            ),
            cache_config: register(
                registry,
                GaugeVec::new(
                    make.opts(
                        "vllm:cache_config_info",
                        "KV cache: tokens per slot (block) and slots. Always 1.",
                    ),
                    &["block_size", "num_gpu_blocks"],
                ),
            ),
        }
    }

    pub(super) fn describe(&self, info: &ModelInfo) {
        self.cache_config.reset();
        self.cache_config
            .with_label_values(&[info.context_length.to_string(), info.kv_slots.to_string()])
            .set(1.0);
    }

    pub(super) fn set_occupancy(&self, load: Occupancy, answers: usize) {
        self.running.set(answers as f64);
        for gauge in &self.waiting {
            gauge.set(load.waiting as f64);
        }
        for gauge in &self.kv_usage {
            gauge.set(load.kv_usage);
        }
    }

    pub(super) fn mm_cache(&self, hit: bool) {
        self.mm_queries.inc();
        self.mm_hits.inc_by(hit.into());
    }

    pub(super) fn iteration(&self, tokens: usize) {
        self.iteration_tokens.observe(tokens as f64);
    }

    /// The prompt is known.
    pub fn prompt(&self, tokens: usize, max_tokens: usize) {
        self.prompt_tokens.inc_by(tokens as u64);
        self.request_prompt_tokens.observe(tokens as f64);
        self.request_max_tokens.observe(max_tokens as f64);
    }

    /// The first token of a request came.
    pub fn first_token(&self, after: Duration) {
        self.time_to_first_token.observe(after.as_secs_f64());
    }

    /// A token came; `gap` is the time since the one before it in the same answer.
    pub fn token(&self, gap: Option<Duration>) {
        self.generation_tokens.inc();
        if let Some(gap) = gap {
            self.inter_token.observe(gap.as_secs_f64());
        }
    }

    /// An answer ended.
    pub fn finished(&self, finish: Finish) {
        self.success.with_label_values(&[finish.label()]).inc();
    }

    /// A request ended well; `elapsed` is since its arrival.
    pub fn done(&self, usage: Usage, timings: &Timings, elapsed: Duration, choices: usize) {
        let decode = timings.total.saturating_sub(timings.first_token);
        self.e2e.observe(elapsed.as_secs_f64());
        self.queue.observe(timings.queue.as_secs_f64());
        self.prefill.observe(timings.first_token.saturating_sub(timings.queue).as_secs_f64());
        self.decode.observe(decode.as_secs_f64());
        self.inference.observe(timings.total.saturating_sub(timings.queue).as_secs_f64());
        self.request_generation_tokens.observe(usage.completion_tokens as f64);
        // The answers of a request decode side by side, so the mean is over the tokens of one.
        let steps = usage.completion_tokens / choices.max(1);
        if steps > 1 {
            self.per_output_token.observe(decode.as_secs_f64() / (steps - 1) as f64);
        }
    }
}

/// 1, 2, 5, 10, 20, 50 ... up to `limit`.
fn one_two_five(limit: usize) -> Vec<f64> {
    let decades = std::iter::successors(Some(1_usize), |decade| decade.checked_mul(10));
    let series = decades.flat_map(|decade| [1, 2, 5].map(|step| decade.saturating_mul(step)));
    series.take_while(|&bound| bound <= limit.max(1)).map(|bound| bound as f64).collect()
}

struct Maker<'a> {
    registry: &'a Registry,
    model_name: &'a str,
}

impl Maker<'_> {
    fn labels(&self) -> HashMap<String, String> {
        HashMap::from([("model_name".into(), self.model_name.into()), ("engine".into(), "0".into())])
    }

    fn opts(&self, name: &str, help: &str) -> Opts {
        Opts::new(name, help).const_labels(self.labels())
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        register(self.registry, IntCounter::with_opts(self.opts(name, help)))
    }

    fn gauge(&self, name: &str, help: &str) -> Gauge {
        register(self.registry, Gauge::with_opts(self.opts(name, help)))
    }

    fn gauges(&self, name: &str, help: &str, label: &str) -> GaugeVec {
        register(self.registry, GaugeVec::new(self.opts(name, help), &[label]))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let opts = HistogramOpts::new(name, help).const_labels(self.labels()).buckets(buckets.to_vec());
        register(self.registry, Histogram::with_opts(opts))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn length_buckets_are_one_two_five_up_to_the_limit() {
        assert_eq!(super::one_two_five(100), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        assert_eq!(super::one_two_five(0), [1.0]);
    }
}
