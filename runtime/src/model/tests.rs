#![allow(clippy::unwrap_used, missing_docs)]

//! The facade and the scheduler over toy graphs: no bundle, no engine, every token exact.

use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use bytes::Bytes;

use super::*;
use crate::decoder::{Decoder, Embedder, fused::Fused, portable::Portable};
use crate::form::Forms;
use crate::generate::{
    Budget, FinishReason, MaxTokens, Message, NoObserver, Part, Prompt, PromptReport, Sampling, Selection,
    Speaker, Stage, Timings, TokenLogprob, Usage,
};
use crate::prompt::Prompter;
use crate::scheduler::{Parts, Scheduler, Settings};
use crate::toy;
use crate::vision::{Pictures, Visual};

mod ends;
mod forms;
mod positions;

#[derive(Clone)]
struct Setup {
    target: Target,
    slots: usize,
    context_length: usize,
    prefill_chunk: usize,
    queue_limit: usize,
    timeout: Duration,
    panic_at: Option<i64>,
    nan_from: Option<i64>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            target: Target::Cpu,
            slots: 3,
            context_length: 96,
            prefill_chunk: 7,
            queue_limit: 64,
            timeout: Duration::from_secs(60),
            panic_at: None,
            nan_from: None,
        }
    }
}

/// A model whose requests with images end up in the returned channel.
fn model(setup: &Setup) -> (Model, Receiver<Job>) {
    let spec = toy::spec();
    let graph = Box::new(toy::Decoder {
        panic_at: setup.panic_at,
        nan_from: setup.nan_from,
        ..toy::Decoder::default()
    });
    let decoder: Box<dyn Decoder> = match setup.target.shares_cache() {
        true => Box::new(Fused::new(graph, &spec, setup.slots, setup.context_length).unwrap()),
        false => Box::new(Portable::new(graph, &spec, setup.slots, setup.context_length).unwrap()),
    };
    let prompter =
        Prompter::new(&toy::tokenizer_json(), "{}", Some(toy::TEMPLATE.into()), toy::IMAGE_PAD).unwrap();
    let prompter = Arc::new(prompter);
    let shared = Arc::new(Status::new(setup.queue_limit, setup.slots));
    let (ready, inbox) = channel();
    let (images, jobs) = channel();
    let parts = Parts {
        decoder,
        embedder: Arc::new(Embedder::new(Box::new(toy::Embedding), spec.hidden_size)),
        prompter: Arc::clone(&prompter),
        settings: Settings {
            context_length: setup.context_length,
            prefill_chunk: setup.prefill_chunk,
            solo_chunk: setup.prefill_chunk,
            eos_token_ids: spec.eos_token_ids,
            image_token_id: toy::IMAGE_PAD,
        },
        shared: Arc::clone(&shared),
        observer: Arc::new(NoObserver),
        inbox,
    };
    let info = ModelInfo {
        name: "toy".into(),
        precision: Precision::Fp32,
        target: setup.target,
        runtime: "toy".into(),
        checkpoint_sha256: String::new(),
        context_length: setup.context_length,
        family: "toy".into(),
        token_budgets: vec![4, 8],
        default_budget: Budget::Auto,
        selectors: &[],
        depths: &[],
        images_first: true,
        named_tokens: Vec::new(),
        generation: GenerationSpec::default(),
        kv_slots: setup.slots,
        weight_bytes: 0,
        kv_bytes: 0,
        working_bytes: 0,
    };
    let limits = ImageLimits { max_bytes: IMAGE.len(), ..ImageLimits::default() };
    let forms = Forms::new(toy::spec().eos_token_ids);
    let pictures = Pictures::toy(limits);
    let admission = Admission { prompter, context_length: setup.context_length, pictures, forms };
    let thread = std::thread::spawn(move || Scheduler::new(parts).run());
    let model = Model {
        info,
        admission,
        image_token_id: toy::IMAGE_PAD,
        timeout: setup.timeout,
        shared,
        images: Some(images),
        ready: Some(ready),
        watched: None,
        threads: vec![thread],
    };
    (model, jobs)
}

fn request(prompt: Prompt) -> Request {
    Request {
        prompt,
        budget: Budget::Auto,
        selection: Selection::default(),
        explain: false,
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        choices: 1,
        max_tokens: MaxTokens::Exactly(20),
        stop: Vec::new(),
        top_logprobs: None,
        prompt_report: PromptReport::Nothing,
        form: None,
    }
}

fn ask(text: &str) -> Request {
    request(Prompt::Text(text.into()))
}

/// A GIF of one pixel.
const IMAGE: &[u8] = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";

fn with_image(file: &[u8]) -> Request {
    let content = vec![Part::Image(Bytes::copy_from_slice(file).into()), Part::Text("what?".into())];
    request(Prompt::from(vec![Message::new(Speaker::User, content)]))
}

/// Everything that came out of a request.
#[derive(Debug, Default)]
struct Outcome {
    started: Option<(usize, usize)>,
    tokens: Vec<Vec<u32>>,
    texts: Vec<String>,
    finished: Vec<Option<FinishReason>>,
    logprobs: Vec<TokenLogprob>,
    done: Option<(Usage, Timings)>,
    failed: Option<GenerateError>,
}

fn collect(mut generation: Generation) -> Outcome {
    let mut outcome = Outcome::default();
    let grow = |outcome: &mut Outcome, choice: usize| {
        let length = outcome.tokens.len().max(choice + 1);
        outcome.tokens.resize(length, Vec::new());
        outcome.texts.resize(length, String::new());
        outcome.finished.resize(length, None);
    };
    while let Some(event) = generation.events.blocking_recv() {
        assert!(outcome.done.is_none() && outcome.failed.is_none(), "nothing follows the end: {event:?}");
        match event {
            Event::Prompt { .. } => {}
            Event::Started { prompt_tokens, visual_tokens, .. } => {
                assert_eq!(outcome.started.replace((prompt_tokens, visual_tokens)), None);
            }
            Event::Token { choice, text, logprob, id, .. } => {
                assert!(outcome.started.is_some());
                grow(&mut outcome, choice);
                assert_eq!(outcome.finished[choice], None);
                outcome.tokens[choice].push(id);
                outcome.texts[choice].push_str(&text);
                outcome.logprobs.extend(logprob);
            }
            Event::Finished { choice, text, reason, .. } => {
                grow(&mut outcome, choice);
                assert_eq!(outcome.finished[choice].replace(reason), None);
                outcome.texts[choice].push_str(&text);
            }
            Event::Done { usage, timings } => {
                assert!(outcome.finished.iter().all(Option::is_some));
                outcome.done = Some((usage, timings));
            }
            Event::Failed(error) => outcome.failed = Some(error),
        }
    }
    assert!(outcome.done.is_some() || outcome.failed.is_some(), "every request has an end");
    outcome
}

fn idle(model: &Model) -> bool {
    let load = model.occupancy();
    (load.waiting, load.running) == (0, 0)
}

fn run(model: &Model, request: Request) -> Outcome {
    collect(model.submit(request).unwrap())
}

/// Waits for something that a worker thread is about to do.
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn invalid_field(model: &Model, request: Request) -> &'static str {
    match model.submit(request) {
        Err(GenerateError::Invalid { field, message }) => {
            assert!(message.contains("found") || message.contains("full"), "{message}");
            field
        }
        other => panic!("expected a refusal, found {other:?}"),
    }
}

const PROMPTS: [&str; 7] =
    ["a", "the cat", "on the mat, the long prompt of all", "x<|im_end|>y", "é€", "zzzz", "the the"];

#[test]
fn interleaved_equals_lonely_in_both_flavours() {
    let lonely: Vec<Vec<u32>> = {
        let (model, _jobs) = model(&Setup { slots: 1, prefill_chunk: 1000, ..Setup::default() });
        PROMPTS.iter().map(|prompt| run(&model, ask(prompt)).tokens[0].clone()).collect()
    };
    assert!(lonely.iter().collect::<std::collections::HashSet<_>>().len() > 3, "the toy does not degenerate");
    for (target, slots) in [(Target::Cpu, 3), (Target::Cpu, 8), (Target::Cuda, 3), (Target::Portable, 3)] {
        let (model, _jobs) = model(&Setup { target, slots, ..Setup::default() });
        let generations: Vec<Generation> =
            PROMPTS.iter().cycle().take(21).map(|prompt| model.submit(ask(prompt)).unwrap()).collect();
        for (index, generation) in generations.into_iter().enumerate() {
            assert_eq!(collect(generation).tokens[0], lonely[index % PROMPTS.len()], "{target:?} {index}");
        }
        eventually("idle", || idle(&model));
    }
}

#[test]
fn choices_share_a_prefill_and_queue_for_slots() {
    let sampling = Sampling { temperature: 1.5, seed: Some(11), ..Sampling::default() };
    let several = |slots, target| {
        let (model, _jobs) = model(&Setup { slots, target, ..Setup::default() });
        run(&model, Request { choices: 5, sampling: sampling.clone(), ..ask("the cat") })
    };
    let wide = several(8, Target::Cpu);
    assert_eq!(wide.tokens.len(), 5);
    assert!(wide.tokens.iter().skip(1).any(|tokens| *tokens != wide.tokens[0]), "choices differ");
    for (slots, target) in [(1, Target::Cpu), (2, Target::Cuda), (2, Target::Portable), (5, Target::Portable)]
    {
        assert_eq!(several(slots, target).tokens, wide.tokens, "{slots} {target:?}");
    }
    let (model, _jobs) = model(&Setup::default());
    let one = run(&model, Request { sampling, ..ask("the cat") });
    assert_eq!(one.tokens[0], wide.tokens[0]);
    let usage = wide.done.unwrap().0;
    let picked: usize = wide.tokens.iter().map(Vec::len).sum();
    let ended = wide.finished.iter().filter(|reason| **reason == Some(FinishReason::Stop)).count();
    assert_eq!(usage.completion_tokens, picked + ended, "an end token counts, and is no text");
}

#[test]
fn a_seed_repeats_and_no_seed_does_not() {
    let (model, _jobs) = model(&Setup::default());
    let with = |seed| {
        let sampling = Sampling { temperature: 2.0, seed, ..Sampling::default() };
        run(&model, Request { sampling, ..ask("the") }).tokens
    };
    assert_eq!(with(Some(3)), with(Some(3)));
    assert_ne!(with(Some(3)), with(Some(4)));
    assert_ne!(with(None), with(None));
}

#[test]
fn stop_strings_end_answers_across_tokens() {
    let (model, _jobs) = model(&Setup::default());
    let sampling = Sampling { temperature: 3.0, seed: Some(1), ..Sampling::default() };
    let free = Request { sampling, max_tokens: MaxTokens::Exactly(60), ..ask("the") };
    let whole = run(&model, free.clone());
    let chars: Vec<char> = whole.texts[0].chars().collect();
    assert!(chars.len() > 12, "{chars:?}");
    let stop: String = chars[5..8].iter().collect();
    let expected = &whole.texts[0][..whole.texts[0].find(&stop).unwrap()];
    let stopped = run(&model, Request { stop: vec![stop, "never".into()], ..free });
    assert_eq!(stopped.texts[0], expected);
    assert_eq!(stopped.finished[0], Some(FinishReason::Stop));
    assert!(stopped.tokens[0].len() < whole.tokens[0].len());
}

#[test]
fn usage_timings_and_logprobs_are_reported() {
    let (model, _jobs) = model(&Setup::default());
    let outcome = run(
        &model,
        Request { top_logprobs: Some(3), max_tokens: MaxTokens::Exactly(6), ..ask("the cat sat on") },
    );
    let (usage, timings) = outcome.done.unwrap();
    assert_eq!(outcome.started, Some((usage.prompt_tokens, 0)));
    let text = outcome.tokens[0].len();
    assert_eq!(outcome.logprobs.len(), text);
    for (logprob, id) in outcome.logprobs.iter().zip(&outcome.tokens[0]) {
        assert_eq!(logprob.token.id, *id);
        assert_eq!((logprob.top.len(), logprob.top[0].id), (3, *id), "greedy takes the likeliest");
        assert!(logprob.token.logprob <= 0.0 && logprob.top[2].logprob <= logprob.top[1].logprob);
    }
    assert_eq!(outcome.finished[0], Some(FinishReason::Length));
    assert_eq!(usage.completion_tokens, 6);
    let stages: Vec<Stage> = timings.stages.iter().map(|stage| stage.0.clone()).collect();
    assert_eq!(stages, [Stage::PREFILL, Stage::DECODE_STEP]);
    assert!(timings.first_token <= timings.total && timings.queue <= timings.first_token);
}

#[test]
fn an_answer_may_fill_the_context_exactly() {
    for target in Target::ALL {
        let (model, _jobs) = model(&Setup { context_length: 24, slots: 1, target, ..Setup::default() });
        let (prompt, mut found) = ("abcdefgh", 0);
        for max_tokens in [MaxTokens::Exactly(16), MaxTokens::AtMost(17)] {
            let outcome = run(&model, Request { max_tokens, ..ask(prompt) });
            assert!(outcome.failed.is_none(), "{:?}", outcome.failed);
            found = outcome.done.unwrap().0.completion_tokens;
        }
        assert!(found <= 16);
        assert_eq!(
            invalid_field(&model, Request { max_tokens: MaxTokens::Exactly(17), ..ask(prompt) }),
            "max_tokens"
        );
        assert_eq!(invalid_field(&model, ask(&"abc ".repeat(6))), "prompt");
    }
}

#[test]
fn what_does_not_fit_is_refused_with_its_field() {
    let (model, _jobs) = model(&Setup::default());
    let cases = [
        ("max_tokens", Request { max_tokens: MaxTokens::Exactly(usize::MAX), ..ask("x") }),
        ("arrcoc.budget", Request { budget: Budget::Full, ..ask("x") }),
        ("arrcoc.budget", Request { budget: Budget::Tokens(5), ..ask("x") }),
        ("messages", with_image(&[IMAGE, b"more"].concat())),
        ("messages", request(Prompt::from(vec![]))),
        ("prompt", ask("")),
    ];
    for (field, request) in cases {
        assert_eq!(invalid_field(&model, request), field);
    }
    assert!(idle(&model), "a refused request holds no place");
}

#[test]
fn images_are_charged_with_their_largest_budget() {
    let (model, jobs) = model(&Setup { context_length: 80, ..Setup::default() });
    let text_tokens = {
        let generation =
            model.submit(Request { max_tokens: MaxTokens::Exactly(1), ..with_image(IMAGE) }).unwrap();
        drop(generation);
        jobs.recv().unwrap().layout.text_tokens()
    };
    let left = 80 - text_tokens;
    let with = |budget, max_tokens| Request {
        budget,
        max_tokens: MaxTokens::Exactly(max_tokens),
        ..with_image(IMAGE)
    };
    assert!(model.submit(with(Budget::Auto, left - 8)).is_ok());
    assert_eq!(invalid_field(&model, with(Budget::Auto, left - 7)), "max_tokens");
    assert!(model.submit(with(Budget::Tokens(4), left - 4)).is_ok());
    assert_eq!(invalid_field(&model, with(Budget::Tokens(4), left - 3)), "max_tokens");
}

#[test]
fn a_cap_holds_where_an_image_leaves_more_room_than_it_was_charged() {
    let (model, jobs) = model(&Setup { context_length: 48, ..Setup::default() });
    let submit = |most| {
        let request = Request { max_tokens: MaxTokens::AtMost(most), ..with_image(IMAGE) };
        let generation = model.submit(request).unwrap();
        let job = jobs.recv().unwrap();
        let left = 48 - job.layout.text_tokens();
        let rows: Vec<f32> = (30..36).flat_map(toy::embedding_row).collect();
        let embeds = crate::tensor::Tensor::from_vec(&[1, 6, 8], rows).unwrap();
        let visuals = vec![Visual::toy(embeds)];
        model.ready.as_ref().unwrap().send(Ready { job, visuals }).unwrap();
        let outcome = collect(generation);
        assert_eq!(outcome.finished[0], Some(FinishReason::Length));
        (left, outcome.done.unwrap().0.completion_tokens)
    };
    // Charged 8, the image gets 6.
    let (left, answer) = submit(usize::MAX);
    assert_eq!(answer, left - 6);
    assert_eq!(submit(left - 7).1, left - 7);
}

#[test]
fn visual_tokens_take_the_place_of_the_image() {
    let mut answers = Vec::new();
    for prefill_chunk in [1, 5, 1000] {
        let (model, jobs) = model(&Setup { prefill_chunk, ..Setup::default() });
        let generation = model.submit(with_image(IMAGE)).unwrap();
        let job = jobs.recv().unwrap();
        assert_eq!(job.layout.question, toy::byte_ids("what?"));
        let rows: Vec<f32> = (30..36).flat_map(toy::embedding_row).collect();
        let embeds = crate::tensor::Tensor::from_vec(&[1, 6, 8], rows).unwrap();
        let visuals = vec![Visual::toy(embeds)];
        let text_tokens = job.layout.text_tokens();
        model.ready.as_ref().unwrap().send(Ready { job, visuals }).unwrap();
        let outcome = collect(generation);
        assert_eq!(outcome.started, Some((text_tokens + 6, 6)));
        answers.push(outcome.tokens);
    }
    // The same rows, written as text: byte tokens 30 to 35.
    let (model, _jobs) = model(&Setup::default());
    let placed: String = (30u8..36).map(char::from).collect();
    let prompt = format!(
        "<|im_start|>user\n<|vision_start|>{placed}<|vision_end|>what?<|im_end|>\n<|im_start|>assistant\n"
    );
    answers.push(run(&model, ask(&prompt)).tokens);
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
}

#[test]
fn a_full_queue_refuses_before_anything_is_done() {
    let (model, jobs) = model(&Setup { queue_limit: 2, ..Setup::default() });
    let held: Vec<Generation> = (0..2).map(|_| model.submit(with_image(IMAGE)).unwrap()).collect();
    assert_eq!(model.occupancy().waiting, 2);
    match model.submit(with_image(IMAGE)) {
        Err(GenerateError::QueueFull { waiting: 2, retry_after }) => {
            assert!(retry_after >= Duration::from_secs(1))
        }
        other => panic!("expected a full queue, found {other:?}"),
    }
    drop(jobs.try_iter().collect::<Vec<_>>());
    assert!(idle(&model));
    for generation in held {
        assert!(
            matches!(collect(generation).failed, Some(GenerateError::Internal(_))),
            "lost jobs are reported"
        );
    }
}

#[test]
fn a_cancelled_request_frees_its_slot() {
    let (model, _jobs) = model(&Setup { slots: 1, context_length: 500, ..Setup::default() });
    let forever = Request { max_tokens: MaxTokens::AtMost(usize::MAX), ..ask("the cat") };
    let mut cancelled = model.submit(forever.clone()).unwrap();
    assert!(matches!(cancelled.events.blocking_recv(), Some(Event::Started { .. })));
    let next = model.submit(ask("the")).unwrap();
    drop(cancelled);
    assert!(collect(next).done.is_some(), "the only slot is free again");
    eventually("idle", || model.occupancy() == Occupancy::default());
}

#[test]
fn time_runs_out() {
    let (model, _jobs) = model(&Setup { timeout: Duration::ZERO, ..Setup::default() });
    assert!(matches!(run(&model, ask("x")).failed, Some(GenerateError::Timeout(Duration::ZERO))));
    eventually("idle", || idle(&model));
}

#[test]
fn draining_refuses_and_dropping_finishes() {
    let (model, _jobs) = model(&Setup::default());
    let running: Vec<Generation> = PROMPTS.iter().map(|prompt| model.submit(ask(prompt)).unwrap()).collect();
    model.drain();
    assert!(matches!(model.submit(ask("x")), Err(GenerateError::Draining)));
    drop(model);
    for generation in running {
        assert!(collect(generation).done.is_some());
    }
}

#[test]
fn a_panic_fails_every_request_and_the_model() {
    let (model, _jobs) = model(&Setup { panic_at: Some(12), ..Setup::default() });
    let generations: Vec<_> = PROMPTS.iter().map(|prompt| model.submit(ask(prompt))).collect();
    for generation in generations.into_iter().flatten() {
        let outcome = collect(generation);
        assert!(
            matches!(&outcome.failed, Some(GenerateError::Internal(reason)) if reason.contains("panicked"))
        );
    }
    assert!(!model.healthy());
    assert!(matches!(model.submit(ask("x")), Err(GenerateError::Internal(_))));
    eventually("idle", || idle(&model));
}
