//! Bundles for CUDA, on ONNX Runtime's CPU provider: 16 bits within their own tolerance, and rows of unequal
//! lengths in one step over one cache.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use arrcoc_bundle::{Bundle, Meaning, Precision, Role, Target};
use arrcoc_export::calibrate::{self, Calibration};
use arrcoc_export::progress::Progress;
use arrcoc_export::verify::{self, tolerances};
use arrcoc_runtime::decoder::{self, Rows};
use arrcoc_runtime::library::{Library, LibraryKind, LibraryOptions};
use arrcoc_runtime::tensor::Tensor;
use arrcoc_tests::compare::relative_error;
use arrcoc_tests::repository;
use serde_json::json;

use crate::checkpoint;

/// Tokens that a row has before the step; a hole lies in front of all rows.
const LENGTHS: [usize; 3] = [41, 3, 70];

const CAPACITY: usize = 128;

/// One question about one of the fixture's pictures.
fn calibrated(dir: &Path, scratch: &Path) -> Result<Calibration> {
    let (data, output) = (scratch.join("data.json"), scratch.join("calibration"));
    let image = dir.join("images/square.png");
    fs::write(&data, json!([{"image": image, "query": "What is it?", "answer": "A square."}]).to_string())?;
    let options = calibrate::Options { data, output, limit: None, image_size: None, tokens: 16, threads: 2 };
    Ok(calibrate::calibrate(&checkpoint::checkpoint(dir)?, &options, Progress::Silent)?)
}

#[test]
fn every_family_verifies_in_16_bits_and_its_batches_are_its_rows() -> Result<()> {
    for entry in fs::read_dir(repository("tests/fixtures/stock"))? {
        let (dir, scratch) = (entry?.path(), tempfile::tempdir()?);
        let name = dir.file_name().unwrap_or_default().display().to_string();
        let calibration = calibrated(&dir, scratch.path())?;
        checkpoint::build(&dir, Target::Portable, scratch.path())?;
        for precision in [Precision::Fp32, Precision::Fp16, Precision::Int4] {
            let calibration = (precision != Precision::Fp32).then(|| calibration.clone());
            let bundle = checkpoint::build_in(&dir, (precision, Target::Cuda), calibration, scratch.path())?;
            let options = verify::Options {
                reference: None,
                checkpoint: None,
                image: Some(dir.join("images/square.png")),
                image_size: None,
                tokens: 16,
                seed: 1,
                runtime: LibraryKind::Ort,
                library: LibraryOptions { threads: 2, ..LibraryOptions::default() },
            };
            let report = verify::verify(bundle.dir(), &options, Progress::Silent)?;
            println!("{name} {precision}\n{report}");
            ensure!(report.passed, "{name} {precision}:\n{report}");
            check_batch(&bundle).with_context(|| format!("{name} {precision}"))?;
        }
    }
    Ok(())
}

/// Rows of unequal lengths, a hole before them, stepped at once and each alone; a fork steps as its source.
fn check_batch(bundle: &Bundle) -> Result<()> {
    let library = LibraryKind::Ort.open(2)?;
    let limit = tolerances::limit(bundle.manifest(), "decoder", Role::Decoder, Meaning::Logits, None) as f32;
    let mut decoder = decoder::load(bundle, library.as_ref(), LENGTHS.len() + 2, CAPACITY)?;
    let hole = decoder.slots_mut().allocate().context("a slot")?;
    let mut rows = Vec::new();
    for (at, length) in LENGTHS.into_iter().enumerate() {
        let slot = decoder.slots_mut().allocate().context("a slot")?;
        decoder.prefill(slot, &Rows::plain(embeds(bundle, 500 * at, length)?))?;
        rows.push(slot);
    }
    decoder.free(hole);
    let mark = decoder.slots().mark(rows[2]);
    let width = bundle.manifest().decoder.hidden_size;
    let mut last = Vec::new();
    for (at, length) in LENGTHS.into_iter().enumerate() {
        last.extend_from_slice(embeds(bundle, 500 * at + length, 1)?.as_slice::<f32>()?);
    }
    let stepped = decoder.step(&rows, &Tensor::from_vec(&[1, LENGTHS.len(), width], last)?)?;
    for (at, (logits, length)) in stepped.iter().zip(LENGTHS).enumerate() {
        let alone = lonely(bundle, library.as_ref(), 500 * at, length)?;
        let error = relative_error(logits.values(), &alone)?;
        println!("row {at}: {error:.1e} of {limit:.0e}");
        ensure!(error <= limit, "row {at} is off by {error:.1e}");
    }
    let twin = decoder.fork(rows[2], mark)?.context("the hole's slot")?;
    let again = decoder.step(&[twin], &embeds(bundle, 1000 + LENGTHS[2], 1)?)?;
    let error = relative_error(again[0].values(), stepped[2].values())?;
    println!("fork: {error:.1e}");
    ensure!(error <= limit, "the fork is off by {error:.1e}");
    Ok(())
}

/// Logits behind a step after `length` tokens from `first` on.
fn lonely(bundle: &Bundle, library: &dyn Library, first: usize, length: usize) -> Result<Vec<f32>> {
    let mut decoder = decoder::load(bundle, library, 1, CAPACITY)?;
    let slot = decoder.slots_mut().allocate().context("a slot")?;
    decoder.prefill(slot, &Rows::plain(embeds(bundle, first, length)?))?;
    Ok(decoder.step(&[slot], &embeds(bundle, first + length, 1)?)?[0].values().to_vec())
}

/// Made-up embeddings, `[1, tokens, width]`: the same ones wherever they begin at the same number.
fn embeds(bundle: &Bundle, first: usize, tokens: usize) -> Result<Tensor> {
    let width = bundle.manifest().decoder.hidden_size;
    let numbers = (first * width..(first + tokens) * width).map(|i| ((i * 7919 % 1013) as f32 / 506.5) - 1.0);
    Ok(Tensor::from_vec(&[1, tokens, width], numbers.collect())?)
}
