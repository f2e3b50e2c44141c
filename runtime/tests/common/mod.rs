//! Where the tests find a bundle, and how they run requests.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, dead_code)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrcoc_bundle::Bundle;
use arrcoc_runtime::generate::{
    Budget, Event, FinishReason, GenerateError, MaxTokens, Message, Observer, Part, Prompt, PromptReport,
    Receipt, Request, Sampling, Selection, Speaker, Timings, TokenLogprob, Usage,
};
use arrcoc_runtime::library::LibraryOptions;
use arrcoc_runtime::model::{Generation, Model, Options};
use bytes::Bytes;

/// A bundle of the tiny preset by its name, such as `fp32-cpu`: what `ARRCOC_TEST_BUNDLE` names when it is
/// called so, else the one that `cargo xtask test` has made.
pub fn tiny_bundle(bundle: &str) -> PathBuf {
    if let Some(dir) = std::env::var_os("ARRCOC_TEST_BUNDLE").map(PathBuf::from)
        && dir.file_name().is_some_and(|name| name.to_string_lossy() == bundle)
    {
        return dir;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-bundles");
    let dir = root.join("arr-coc-ovis-tiny").join(bundle);
    assert!(
        dir.join("manifest.yaml").is_file(),
        "no test bundle at {}: run `cargo xtask test`, which makes it, or point ARRCOC_TEST_BUNDLE at one",
        dir.display()
    );
    dir
}

pub fn load(bundle: &str, options: &Options) -> Model {
    load_observed(bundle, options, Arc::new(arrcoc_runtime::generate::NoObserver))
}

pub fn load_observed(bundle: &str, options: &Options, observer: Arc<dyn Observer>) -> Model {
    Model::load(Bundle::open(&tiny_bundle(bundle)).unwrap(), options, observer).unwrap()
}

/// Small enough to load quickly, with several slots.
pub fn options() -> Options {
    let library = LibraryOptions { threads: 2, ..LibraryOptions::default() };
    Options { library, slots: 3, context_length: Some(512), prefill_chunk: 64, ..Options::default() }
}

/// A picture with a gradient and one bright square, so that patches differ; `seed` moves the square.
pub fn picture(width: u32, height: u32, seed: u32) -> Bytes {
    let image = image::RgbImage::from_fn(width, height, |x, y| {
        let square = x.abs_diff(seed * 37 % width) < width / 8 && y.abs_diff(seed * 53 % height) < height / 8;
        if square {
            image::Rgb([250, 240, 30])
        } else {
            image::Rgb([(x % 256) as u8, (y % 256) as u8, (seed % 256) as u8])
        }
    });
    let mut file = std::io::Cursor::new(Vec::new());
    image.write_to(&mut file, image::ImageFormat::Png).unwrap();
    file.into_inner().into()
}

pub fn request(content: Vec<Part>) -> Request {
    Request {
        prompt: Prompt::from(vec![Message::new(Speaker::User, content)]),
        budget: Budget::Tokens(64),
        selection: Selection::default(),
        explain: false,
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        choices: 1,
        max_tokens: MaxTokens::Exactly(16),
        stop: Vec::new(),
        top_logprobs: None,
        prompt_report: PromptReport::Nothing,
        form: None,
    }
}

pub fn ask(text: &str) -> Request {
    request(vec![Part::Text(text.into())])
}

pub fn ask_about(file: &Bytes, text: &str) -> Request {
    request(vec![Part::Image(file.clone().into()), Part::Text(text.into())])
}

/// Everything that came out of a request, per choice where there are several.
#[derive(Debug, Default)]
pub struct Outcome {
    pub receipts: Vec<Receipt>,
    pub tokens: Vec<Vec<u32>>,
    pub texts: Vec<String>,
    pub finished: Vec<Option<FinishReason>>,
    pub logprobs: Vec<TokenLogprob>,
    pub done: Option<(Usage, Timings)>,
    pub failed: Option<GenerateError>,
}

impl Outcome {
    pub fn done(&self) -> &(Usage, Timings) {
        self.done.as_ref().unwrap_or_else(|| panic!("the request failed: {:?}", self.failed))
    }
}

pub fn collect(mut generation: Generation) -> Outcome {
    let mut outcome = Outcome::default();
    while let Some(event) = generation.events.blocking_recv() {
        let choices = match &event {
            Event::Token { choice, .. } | Event::Finished { choice, .. } => choice + 1,
            _ => 0,
        };
        let choices = choices.max(outcome.tokens.len());
        outcome.tokens.resize(choices, Vec::new());
        outcome.texts.resize(choices, String::new());
        outcome.finished.resize(choices, None);
        match event {
            Event::Started { receipts, .. } => outcome.receipts = receipts,
            Event::Prompt { .. } => {}
            Event::Token { choice, text, logprob, id, .. } => {
                outcome.tokens[choice].push(id);
                outcome.texts[choice].push_str(&text);
                outcome.logprobs.extend(logprob);
            }
            Event::Finished { choice, text, reason, .. } => {
                outcome.texts[choice].push_str(&text);
                outcome.finished[choice] = Some(reason);
            }
            Event::Done { usage, timings } => outcome.done = Some((usage, timings)),
            Event::Failed(error) => outcome.failed = Some(error),
        }
    }
    outcome
}

pub fn run(model: &Model, request: Request) -> Outcome {
    collect(model.submit(request).unwrap())
}
