//! Stock families: checkpoints that transformers saved, exported and answered as it answers.
//!
//! The two below `tests/fixtures/stock` are always replayed. `ARRCOC_STOCK` names a directory of others, as
//! `python -m stock.draw` (`reference/`) makes them: checkpoints of drawn shapes, with the ids, features,
//! logits and greedy tokens of transformers.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use arrcoc_bundle::{Bundle, Precision, Target};
use arrcoc_export::build::{self, Options};
use arrcoc_export::calibrate::RangeMethod;
use arrcoc_export::progress::Progress;
use arrcoc_export::tap::{Call, Recording, Tap};
use arrcoc_runtime::generate::{
    Budget, Event, MaxTokens, Message, NoObserver, Part, Prompt, Request, Sampling, Speaker,
};
use arrcoc_runtime::image::ImageLimits;
use arrcoc_runtime::library::LibraryKind;
use arrcoc_runtime::model::{self, Model};
use arrcoc_runtime::tensor::Tensor;
use arrcoc_runtime::vision::VisionOptions;
use arrcoc_tests::compare::relative_error;
use arrcoc_tests::repository;
use safetensors::SafeTensors;
use serde_json::Value;

/// Logits, absolute, and features against their largest.
const CLOSE: f32 = 1e-3;

#[test]
fn fixtures_are_answered_as_transformers_answers_them() -> Result<()> {
    replay_all(&repository("tests/fixtures/stock"))
}

#[test]
fn drawn_checkpoints_are_answered_as_transformers_answers_them() -> Result<()> {
    match std::env::var_os("ARRCOC_STOCK") {
        Some(dir) => replay_all(Path::new(&dir)),
        None => {
            println!("skipped: ARRCOC_STOCK names no directory of drawn checkpoints");
            Ok(())
        }
    }
}

fn replay_all(dir: &Path) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("no checkpoints at {}", dir.display()))?;
    let mut drawn: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    drawn.retain(|path| path.join("cases.json").is_file());
    drawn.sort();
    ensure!(!drawn.is_empty(), "no goldens below {}", dir.display());
    let mut failures = Vec::new();
    for dir in &drawn {
        for (target, library) in [
            (Target::Cpu, LibraryKind::Ort),
            (Target::Portable, LibraryKind::Ort),
            (Target::Portable, LibraryKind::Tract),
        ] {
            let name = format!("{} {target} {}", dir.file_name().unwrap().display(), library.name());
            match replay(dir, target, library) {
                Ok(worst) => println!("{name:<40} {worst:.1e}"),
                Err(error) => {
                    println!("{name:<40} {error:#}");
                    failures.push(format!("{name}: {error:#}"));
                }
            }
        }
    }
    ensure!(failures.is_empty(), "{} of {}:\n{}", failures.len(), 3 * drawn.len(), failures.join("\n"));
    Ok(())
}

/// What transformers made of one conversation.
struct Golden<'a> {
    case: &'a Value,
    tensors: SafeTensors<'a>,
}

impl Golden<'_> {
    fn name(&self) -> &str {
        self.case["name"].as_str().unwrap_or_default()
    }

    fn ids(&self, key: &str) -> Vec<u32> {
        let ids = self.case[key].as_array().into_iter().flatten();
        ids.filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect()
    }

    fn floats(&self, key: &str) -> Result<Option<Vec<f32>>> {
        let Some(name) = self.case["tensors"][key].as_str() else { return Ok(None) };
        let tensor = self.tensors.tensor(name)?;
        let floats = tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        Ok(Some(floats.collect()))
    }
}

/// Exports a checkpoint for a target and replays its conversations on a library; the largest difference of a
/// logit.
fn replay(dir: &Path, target: Target, library: LibraryKind) -> Result<f32> {
    let scratch = tempfile::tempdir()?;
    let options = Options {
        out: scratch.path().to_owned(),
        precision: Precision::Fp32,
        target,
        weight_rules: Vec::new(),
        calibration: None,
        range: RangeMethod::Absmax,
        name: Some("drawn".to_owned()),
        max_context: Some(2048),
        force: false,
    };
    let built = build::build(&checkpoint(dir)?, &options, Progress::detect(true))?;
    let recording = Arc::new(Recording::default());
    let tap = Tap::new(library.open(2)?, Arc::clone(&recording));
    let options = model::Options {
        slots: 1,
        context_length: Some(2048),
        prefill_chunk: 100,
        vision: VisionOptions {
            feature_cache_bytes: 0,
            token_cache_bytes: 0,
            // One of the pictures is a line.
            limits: ImageLimits { max_aspect: 400, ..ImageLimits::default() },
            ..VisionOptions::default()
        },
        ..model::Options::default()
    };
    let model = Model::load_on(Bundle::open(&built.bundle)?, &tap, &options, Arc::new(NoObserver))?;
    let cases: Value = serde_json::from_slice(&fs::read(dir.join("cases.json"))?)?;
    let tensors = fs::read(dir.join("cases.safetensors"))?;
    let mut worst = 0.0f32;
    for case in cases["cases"].as_array().context("no cases")? {
        let golden = Golden { case, tensors: SafeTensors::deserialize(&tensors)? };
        recording.take();
        let off = conversation(dir, &model, &recording, &golden).with_context(|| golden.name().to_owned())?;
        worst = worst.max(off);
    }
    Ok(worst)
}

/// The checkpoint: a directory, or what a link of the hub's cache leads to.
fn checkpoint(dir: &Path) -> Result<PathBuf> {
    let plain = dir.join("checkpoint");
    if plain.join("config.json").exists() {
        return Ok(plain);
    }
    let snapshot = fs::read_dir(dir.join("snapshots"))?.next().context("no snapshot")??;
    Ok(snapshot.path())
}

fn conversation(dir: &Path, model: &Model, recording: &Recording, golden: &Golden<'_>) -> Result<f32> {
    let expected = golden.ids("greedy");
    let request = Request {
        prompt: Prompt::Chat(messages(dir, &golden.case["messages"])?),
        budget: Budget::Full,
        explain: true,
        sampling: Sampling { temperature: 0.0, ignore_eos: true, ..Sampling::default() },
        choices: 1,
        max_tokens: MaxTokens::Exactly(expected.len()),
        stop: Vec::new(),
        top_logprobs: None,
    };
    let (found, wanted) = (model.prompt_ids(&request)?, golden.ids("input_ids"));
    ensure!(found == wanted, "prompt ids: expected {wanted:?}, found {found:?}");
    let mut generation = model.submit(request)?;
    let mut tokens = Vec::new();
    while let Some(event) = generation.events.blocking_recv() {
        match event {
            Event::Token { id, .. } => tokens.push(id),
            Event::Failed(error) => anyhow::bail!("{error}"),
            _ => {}
        }
    }
    let calls = recording.take();
    let of = |graph: &str, output: &str| joined(&calls, graph, |call| &call.outputs, output);
    if let Some(pixels) = golden.floats("pixel_values")? {
        let found = joined(&calls, "vision_encoder", |call| &call.inputs, "pixel_values")?.concat();
        let error = relative_error(&found, &pixels)?;
        ensure!(error <= 1e-6, "pixel values are off by {error:.1e}");
        let rows = of("vision_encoder", "visual_rows")?.concat();
        let features = golden.floats("image_features")?.context("no image features")?;
        let error = relative_error(&rows, &features)?;
        ensure!(error <= CLOSE, "visual rows are off by {error:.1e}");
    }
    // Chunks of the prompt come before the last one, whose logits are the first token's.
    let logits = of("decoder", "logits")?;
    let steps = logits.get(logits.len().saturating_sub(expected.len())..).unwrap_or_default();
    let first = golden.floats("logits")?.context("no logits")?;
    let mut worst = furthest(&steps[0], &first)?;
    let later = golden.floats("step_logits")?.unwrap_or_default();
    for (step, expected) in steps.iter().skip(1).zip(later.chunks_exact(first.len())) {
        worst = worst.max(furthest(step, expected)?);
    }
    ensure!(worst <= CLOSE, "logits are off by {worst:.1e}");
    ensure!(tokens == expected, "greedy tokens: expected {expected:?}, found {tokens:?}");
    Ok(worst)
}

/// A tensor of every run of a graph.
fn joined(
    calls: &[Call],
    graph: &str,
    side: impl Fn(&Call) -> &Vec<(String, Tensor)>,
    name: &str,
) -> Result<Vec<Vec<f32>>> {
    let calls = calls.iter().filter(|call| call.graph == graph);
    calls
        .map(|call| {
            let found = side(call).iter().find(|(tensor, _)| tensor == name);
            Ok(found.with_context(|| format!("{graph} has no {name}"))?.1.as_slice::<f32>()?.to_vec())
        })
        .collect()
}

fn furthest(a: &[f32], b: &[f32]) -> Result<f32> {
    ensure!(a.len() == b.len(), "expected {} logits, found {}", b.len(), a.len());
    let off = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    Ok(off.fold(0.0, |worst, off| if off.is_nan() { f32::INFINITY } else { worst.max(off) }))
}

/// Messages in the form of OpenAI's API, whose images are files.
fn messages(dir: &Path, messages: &Value) -> Result<Vec<Message>> {
    let part = |part: &Value| match part["type"].as_str() {
        Some("text") => Ok(Part::Text(part["text"].as_str().context("no text")?.to_owned())),
        _ => {
            let file = part["image_url"]["url"].as_str().context("no url")?;
            Ok(Part::Image(fs::read(dir.join(file))?.into()))
        }
    };
    let message = |message: &Value| {
        let speaker = match message["role"].as_str() {
            Some("system") => Speaker::System,
            Some("assistant") => Speaker::Assistant,
            _ => Speaker::User,
        };
        let content = match &message["content"] {
            Value::String(text) => vec![Part::Text(text.clone())],
            parts => parts.as_array().into_iter().flatten().map(part).collect::<Result<_>>()?,
        };
        Ok(Message { speaker, content })
    };
    messages.as_array().context("no messages")?.iter().map(message).collect()
}
