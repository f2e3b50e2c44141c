//! Stock families: checkpoints that transformers saved, exported and answered as it answers.
//!
//! Those below `tests/fixtures/stock` are always replayed. `ARRCOC_STOCK` names a directory of others, as
//! `python -m stock.draw` (`reference/`) makes them: checkpoints of drawn shapes, with the ids, features,
//! logits and greedy tokens of transformers.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

mod checkpoint;
mod chosen;
mod cuda;
mod identities;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use arrcoc_bundle::Target;
use arrcoc_export::tap::{Call, Recording, Tap};
use arrcoc_runtime::generate::{Event, NoObserver};
use arrcoc_runtime::library::LibraryKind;
use arrcoc_runtime::model::Model;
use arrcoc_runtime::tensor::Tensor;
use arrcoc_tests::compare::relative_error;
use arrcoc_tests::repository;
use safetensors::SafeTensors;
use serde_json::Value;
use tempfile::TempDir;

use checkpoint::Golden;

/// Logits, absolute, and features against their largest.
const CLOSE: f32 = 1e-3;

/// The graphs of every target, on the libraries that run them without a GPU.
const RUNS: [(Target, LibraryKind); 4] = [
    (Target::Cpu, LibraryKind::Ort),
    (Target::Cuda, LibraryKind::Ort),
    (Target::Portable, LibraryKind::Ort),
    (Target::Portable, LibraryKind::Tract),
];

#[test]
fn fixtures_are_answered_as_transformers_answers_them() -> Result<()> {
    replay_all(&repository("tests/fixtures/stock"), "cases.json", replay)
}

#[test]
fn drawn_checkpoints_are_answered_as_transformers_answers_them() -> Result<()> {
    replay_drawn("cases.json", replay)
}

/// Replays what `ARRCOC_STOCK` names.
fn replay_drawn(goldens: &str, replay: Replay) -> Result<()> {
    match std::env::var_os("ARRCOC_STOCK") {
        Some(dir) => replay_all(Path::new(&dir), goldens, replay),
        None => {
            println!("skipped: ARRCOC_STOCK names no directory of drawn checkpoints");
            Ok(())
        }
    }
}

/// Replays the goldens of a directory on a library; the largest difference of a logit.
type Replay = fn(&Path, Target, LibraryKind) -> Result<f32>;

/// Replays all directories that have such a file.
fn replay_all(dir: &Path, goldens: &str, replay: Replay) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("no checkpoints at {}", dir.display()))?;
    let mut drawn: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    drawn.retain(|path| path.join(goldens).is_file());
    drawn.sort();
    ensure!(!drawn.is_empty(), "no {goldens} below {}", dir.display());
    let mut failures = Vec::new();
    for dir in &drawn {
        for (target, library) in RUNS {
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
    ensure!(
        failures.is_empty(),
        "{} of {}:\n{}",
        failures.len(),
        RUNS.len() * drawn.len(),
        failures.join("\n")
    );
    Ok(())
}

/// Exports a checkpoint for a target and replays its conversations on a library; the largest difference of a
/// logit.
fn replay(dir: &Path, target: Target, library: LibraryKind) -> Result<f32> {
    let (model, recording, _scratch) = tapped(dir, target, library)?;
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

/// A checkpoint exported for a target and loaded on a library, what its graphs are run with, and the
/// directory that the bundle lies in while it is used.
fn tapped(dir: &Path, target: Target, library: LibraryKind) -> Result<(Model, Arc<Recording>, TempDir)> {
    let scratch = tempfile::tempdir()?;
    let bundle = checkpoint::build(dir, target, scratch.path())?;
    let recording = Arc::new(Recording::default());
    let tap = Tap::new(library.open(2)?, Arc::clone(&recording));
    let model = Model::load_on(bundle, &tap, &checkpoint::options(), Arc::new(NoObserver))?;
    Ok((model, recording, scratch))
}

fn conversation(dir: &Path, model: &Model, recording: &Recording, golden: &Golden<'_>) -> Result<f32> {
    let expected = golden.ids("greedy");
    let request = golden.request(dir, expected.len())?;
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
    if let Some(deep) = golden.floats("deepstack_features")? {
        let error = relative_error(&levels(&calls)?, &deep)?;
        ensure!(error <= CLOSE, "rows for deeper layers are off by {error:.1e}");
    }
    if let Some(positions) = golden.integers("position_ids")? {
        let found = positions_of(&calls, wanted.len())?;
        ensure!(found == positions, "positions: expected {positions:?}, found {found:?}");
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

/// `deep_rows` of all pictures, level by level.
fn levels(calls: &[Call]) -> Result<Vec<f32>> {
    let outputs = calls.iter().filter(|call| call.graph == "vision_encoder").map(|call| &call.outputs);
    let of_pictures = outputs.map(|outputs| {
        let deep = outputs.iter().find(|(name, _)| name == "deep_rows").context("no deep_rows")?;
        Ok((deep.1.shape()[0], deep.1.as_slice::<f32>()?))
    });
    let of_pictures = of_pictures.collect::<Result<Vec<_>>>()?;
    let count = of_pictures.first().map_or(0, |(levels, _)| *levels);
    let level = |level: usize| {
        of_pictures.iter().flat_map(move |(_, all)| all.chunks(all.len() / count).nth(level).unwrap_or(&[]))
    };
    Ok((0..count).flat_map(level).copied().collect())
}

/// The positions of a prompt of `tokens`, plane by plane, from all chunks.
fn positions_of(calls: &[Call], tokens: usize) -> Result<Vec<i64>> {
    let mut planes = [const { Vec::new() }; 3];
    for call in calls.iter().filter(|call| call.graph == "decoder") {
        let ids = call.inputs.iter().find(|(name, _)| name == "position_ids").context("no positions")?;
        let ids = ids.1.as_slice::<i64>()?;
        for (plane, ids) in planes.iter_mut().zip(ids.chunks(ids.len() / 3)) {
            plane.extend_from_slice(ids);
        }
    }
    Ok(planes.into_iter().flat_map(|plane| plane.into_iter().take(tokens)).collect())
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
