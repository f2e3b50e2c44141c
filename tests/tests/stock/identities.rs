//! What must not change an answer: where a prompt is cut into chunks, inside of a picture too, and who is
//! answered beside it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use arrcoc_bundle::{Bundle, Target};
use arrcoc_runtime::generate::{Event, NoObserver};
use arrcoc_runtime::library::LibraryKind;
use arrcoc_runtime::model::{self, Generation, Model};
use arrcoc_tests::repository;
use safetensors::SafeTensors;
use serde_json::Value;

use crate::checkpoint::{self, Golden};

/// Tokens of an answer.
const TOKENS: usize = 12;

/// Every token of an answer, and the bits of its logarithmic probability.
type Answer = Vec<(u32, u32)>;

#[test]
fn chunks_and_neighbours_change_no_bit() -> Result<()> {
    for entry in fs::read_dir(repository("tests/fixtures/stock"))? {
        let dir = entry?.path();
        let scratch = tempfile::tempdir()?;
        checkpoint::build(&dir, Target::Cpu, scratch.path())?;
        let bundle = scratch.path().join("drawn/fp32-cpu");
        let whole = answers(&dir, &bundle, 2048, false)?;
        ensure!(whole.len() > 2, "expected several conversations in {}", dir.display());
        for (chunk, together) in [(1, false), (7, false), (2048, true), (7, true)] {
            let found = answers(&dir, &bundle, chunk, together)?;
            ensure!(found == whole, "{}, chunks of {chunk}, together {together}", dir.display());
        }
    }
    Ok(())
}

/// A manifest may be edited: what its tables do not have is found when the bundle is loaded, not by the first
/// request that is as long.
#[test]
fn a_context_beyond_the_tables_is_found_when_the_bundle_is_loaded() -> Result<()> {
    for target in [Target::Cpu, Target::Portable] {
        let scratch = tempfile::tempdir()?;
        let bundle = checkpoint::build(&repository("tests/fixtures/stock/qwen3_vl"), target, scratch.path())?;
        let options = |context| model::Options { context_length: Some(context), ..checkpoint::options() };
        let library = LibraryKind::Ort.open(2)?;
        let dir = scratch.path().join(format!("drawn/fp32-{target}"));
        let file = dir.join("manifest.yaml");
        drop(Model::load_on(bundle, library.as_ref(), &options(2048), Arc::new(NoObserver))?);
        let manifest = fs::read_to_string(&file)?;
        ensure!(manifest.contains("context_length: 2048"), "expected 2048 positions");
        fs::write(&file, manifest.replace("context_length: 2048", "context_length: 4096"))?;
        let loaded =
            Model::load_on(Bundle::open(&dir)?, library.as_ref(), &options(4096), Arc::new(NoObserver));
        let error = loaded.err().context("expected a refusal")?.to_string();
        ensure!(error.contains("position 4095, the last of the context"), "{error}");
    }
    Ok(())
}

/// The answers of all conversations, one after the other or all at once.
fn answers(dir: &Path, bundle: &Path, chunk: usize, together: bool) -> Result<Vec<Answer>> {
    let cases: Value = serde_json::from_slice(&fs::read(dir.join("cases.json"))?)?;
    let tensors = fs::read(dir.join("cases.safetensors"))?;
    let cases = cases["cases"].as_array().context("no cases")?;
    let slots = if together { cases.len() } else { 1 };
    let options = model::Options { slots, prefill_chunk: chunk, ..checkpoint::options() };
    let library = LibraryKind::Ort.open(2)?;
    let model = Model::load_on(Bundle::open(bundle)?, library.as_ref(), &options, Arc::new(NoObserver))?;
    let mut running = Vec::new();
    let mut answers = Vec::new();
    for case in cases {
        let golden = Golden { case, tensors: SafeTensors::deserialize(&tensors)? };
        let mut request = golden.request(dir, TOKENS)?;
        request.top_logprobs = Some(0);
        running.push(model.submit(request)?);
        if !together {
            answers.extend(running.drain(..).map(answer).collect::<Result<Vec<_>>>()?);
        }
    }
    answers.extend(running.into_iter().map(answer).collect::<Result<Vec<_>>>()?);
    Ok(answers)
}

fn answer(mut generation: Generation) -> Result<Answer> {
    let mut tokens = Vec::new();
    while let Some(event) = generation.events.blocking_recv() {
        match event {
            Event::Token { id, logprob, .. } => {
                tokens.push((id, logprob.map_or(0, |found| found.token.logprob.to_bits())));
            }
            Event::Failed(error) => anyhow::bail!("{error}"),
            _ => {}
        }
    }
    ensure!(tokens.len() == TOKENS, "expected {TOKENS} tokens, found {}", tokens.len());
    Ok(tokens)
}
