//! Exact identities on a real bundle and a real library: they need no reference.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrcoc_runtime::generate::{
    Budget, Cache, FinishReason, GenerateError, MaxTokens, Note, Observer, Request, Sampling,
};
use arrcoc_runtime::library::{CpuOptions, Kernels, LibraryKind};
use arrcoc_runtime::model::{Model, Occupancy, Options};
use arrcoc_runtime::vision::VisionOptions;
use common::{ask, ask_about, collect, load, load_observed, options, picture, run};

/// Token ids must be equal; log-probabilities may differ by what another batch shape does to f32 sums.
const LOGPROB_TOLERANCE: f32 = 1e-3;

fn requests() -> Vec<Request> {
    let (a, b) = (picture(300, 200, 3), picture(128, 400, 9));
    vec![
        ask("Hello"),
        ask_about(&a, "What is in the picture?"),
        ask("Count to ten, please, and then count down again to one without leaving out a single number."),
        ask_about(&b, "Where is the square?"),
        Request { budget: Budget::Tokens(100), ..ask_about(&a, "Where is the square?") },
        ask("x"),
    ]
}

fn tokens(model: &Model) -> Vec<Vec<Vec<u32>>> {
    requests().into_iter().map(|request| run(model, request).tokens).collect()
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn interleaved_equals_lonely() {
    let model = load("fp32-cpu", &options());
    let lonely = tokens(&model);
    let generations: Vec<_> =
        (0..2).flat_map(|_| requests()).map(|request| model.submit(request).unwrap()).collect();
    for (index, generation) in generations.into_iter().enumerate() {
        let outcome = collect(generation);
        outcome.done();
        assert_eq!(outcome.tokens, lonely[index % lonely.len()], "request {index}");
    }
}

#[test]
fn chunked_prefill_equals_whole() {
    let whole = tokens(&load("fp32-cpu", &Options { prefill_chunk: 512, ..options() }));
    for prefill_chunk in [1, 13] {
        assert_eq!(
            tokens(&load("fp32-cpu", &Options { prefill_chunk, ..options() })),
            whole,
            "{prefill_chunk}"
        );
    }
}

#[test]
fn integers_know_no_neighbours() {
    for (bundle, kernels) in [
        ("int8-cpu", Kernels::Own),
        ("int4-cpu", Kernels::Own),
        ("int8-cpu", Kernels::Library),
        ("int4-cpu", Kernels::Library),
    ] {
        let mut options = options();
        options.library.cpu = CpuOptions { kernels };
        let lonely = tokens(&load(bundle, &Options { slots: 1, prefill_chunk: 512, ..options.clone() }));
        for prefill_chunk in [1, 13] {
            let chunked = tokens(&load(bundle, &Options { prefill_chunk, ..options.clone() }));
            assert_eq!(chunked, lonely, "{bundle}, {kernels:?}, {prefill_chunk}");
        }
        let model = load(bundle, &Options { slots: 8, ..options });
        let generations: Vec<_> =
            (0..2).flat_map(|_| requests()).map(|request| model.submit(request).unwrap()).collect();
        for (index, generation) in generations.into_iter().enumerate() {
            assert_eq!(
                collect(generation).tokens,
                lonely[index % lonely.len()],
                "{bundle}, {kernels:?}, {index}"
            );
        }
    }
}

#[test]
fn both_flavours_and_both_runtimes_agree() {
    let fused = tokens(&load("fp32-cpu", &options()));
    for runtime in [LibraryKind::Ort, LibraryKind::Tract] {
        let model = load("fp32-portable", &Options { runtime: Some(runtime), ..options() });
        assert_eq!(tokens(&model), fused, "{runtime:?}");
    }
}

#[test]
fn logprobs_do_not_depend_on_the_batch() {
    let model = load("fp32-cpu", &options());
    let with_logprobs = |mut request: Request| {
        request.top_logprobs = Some(5);
        request
    };
    let lonely: Vec<_> = requests().into_iter().map(|request| run(&model, with_logprobs(request))).collect();
    let generations: Vec<_> =
        requests().into_iter().map(|request| model.submit(with_logprobs(request)).unwrap()).collect();
    for (generation, lonely) in generations.into_iter().zip(&lonely) {
        let batched = collect(generation);
        assert!(!batched.logprobs.is_empty());
        for (a, b) in batched.logprobs.iter().zip(&lonely.logprobs) {
            assert_eq!(a.token.id, b.token.id);
            assert!((a.token.logprob - b.token.logprob).abs() <= LOGPROB_TOLERANCE);
        }
    }
}

#[test]
fn choices_equal_separate_requests() {
    let model = load("fp32-cpu", &options());
    let sampling = Sampling { temperature: 0.9, top_p: 0.9, seed: Some(5), ..Sampling::default() };
    let request = Request { sampling, ..ask_about(&picture(200, 200, 1), "Say something.") };
    // More choices than slots: the later ones inherit slots.
    let several = run(&model, Request { choices: 5, ..request.clone() });
    assert_eq!(several.tokens.len(), 5);
    assert_eq!(several.tokens[0], run(&model, request.clone()).tokens[0]);
    assert_eq!(
        several.tokens,
        run(&model, Request { choices: 5, ..request.clone() }).tokens,
        "same seed, same answers"
    );
    let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
    let same = run(&model, Request { choices: 4, sampling: greedy, ..request });
    assert!(same.tokens.windows(2).all(|pair| pair[0] == pair[1]), "greedy choices are all alike");
}

/// Counts what the caches were asked.
#[derive(Default)]
struct Caches(Mutex<Vec<(Cache, bool)>>, AtomicUsize);

impl Observer for Caches {
    fn note(&self, note: Note<'_>) {
        match note {
            Note::Cache { cache, hit } => self.0.lock().unwrap().push((cache, hit)),
            Note::Stage(stage, _) if stage.name() == "vision_encoder" => {
                self.1.fetch_add(1, Ordering::SeqCst);
            }
            _ => {}
        }
    }
}

#[test]
fn cached_features_equal_fresh_ones() {
    let file = picture(300, 200, 3);
    let questions = ["What is in the picture?", "Where is the square?", "What is in the picture?"];
    let vision = VisionOptions { feature_cache_bytes: 0, token_cache_bytes: 0, ..VisionOptions::default() };
    let uncached = load("fp32-cpu", &Options { vision, ..options() });
    let fresh: Vec<_> = questions.iter().map(|q| run(&uncached, ask_about(&file, q)).tokens).collect();
    let caches = Arc::new(Caches::default());
    let cached = load_observed("fp32-cpu", &options(), caches.clone());
    let found: Vec<_> = questions.iter().map(|q| run(&cached, ask_about(&file, q)).tokens).collect();
    assert_eq!(found, fresh);
    let asked = caches.0.lock().unwrap();
    let hits = |cache| asked.iter().filter(|(asked, hit)| *asked == cache && *hit).count();
    assert_eq!(hits(Cache::VisualTokens), 1, "the third question is the first one again: {asked:?}");
    assert_eq!(caches.1.load(Ordering::SeqCst), 1, "one image is encoded once");
}

#[test]
fn a_stop_string_cuts_the_answer_and_nothing_else() {
    let model = load("fp32-cpu", &options());
    let request = Request { max_tokens: MaxTokens::Exactly(40), ..ask("Tell me a story.") };
    let whole = run(&model, request.clone());
    let chars: Vec<char> = whole.texts[0].chars().collect();
    assert!(chars.len() > 8, "{:?}", whole.texts);
    let stop: String = chars[4..7].iter().collect();
    let stopped = run(&model, Request { stop: vec![stop.clone()], ..request });
    let (expected, _) = whole.texts[0].split_once(&stop).unwrap();
    assert_eq!(stopped.texts[0], expected);
    assert_eq!(stopped.finished[0], Some(FinishReason::Stop));
}

#[test]
fn hanging_up_frees_the_slot() {
    let model = load("fp32-cpu", &Options { slots: 1, ..options() });
    let mut long = model
        .submit(Request { max_tokens: MaxTokens::AtMost(usize::MAX), ..ask("Go on for ever.") })
        .unwrap();
    long.events.blocking_recv().unwrap();
    drop(long);
    run(&model, ask("Hello")).done();
    eventually("the model is idle", || model.occupancy() == Occupancy::default());
}

#[test]
fn usage_receipts_and_stages_add_up() {
    let model = load("fp32-cpu", &options());
    let file = picture(300, 200, 3);
    let outcome = run(&model, Request { explain: true, ..ask_about(&file, "What is in the picture?") });
    let (usage, timings) = outcome.done();
    assert_eq!(usage.visual_tokens, 64);
    assert!(usage.prompt_tokens > 64);
    assert_eq!(outcome.receipts.len(), 1);
    assert_eq!((outcome.receipts[0].tokens, outcome.receipts[0].places.len()), (64, 64));
    let stages: Vec<&str> = timings.stages.iter().map(|stage| stage.0.name()).collect();
    assert_eq!(
        stages,
        [
            "decode_image",
            "preprocess",
            "vision_encoder",
            "allocator",
            "compressor",
            "refiner",
            "quality_adapter",
            "prefill",
            "decode_step",
        ]
    );
    let spent: Duration = timings.stages.iter().map(|stage| stage.1).sum();
    assert!(spent <= timings.total, "{timings:?}");
}

#[test]
fn bad_images_fail_alone() {
    let model = load("fp32-cpu", &options());
    let mut truncated = picture(64, 64, 1).to_vec();
    truncated.truncate(truncated.len() / 2);
    for file in [b"not an image".to_vec(), truncated, Vec::new()] {
        // What a header tells is refused at once.
        let outcome = model.submit(ask_about(&file.into(), "What is it?")).map(collect);
        match outcome.map(|outcome| outcome.failed) {
            Err(GenerateError::Invalid { field: "messages", message })
            | Ok(Some(GenerateError::Invalid { field: "messages", message })) => {
                assert!(message.contains("image 1"))
            }
            other => panic!("expected a refusal, found {other:?}"),
        }
    }
    run(&model, ask_about(&picture(64, 64, 1), "What is it?")).done();
    assert!(model.healthy());
}
