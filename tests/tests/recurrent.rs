//! Decoders with recurrent layers, as bundles of a tiny preset: every precision for CPUs, our kernel beside
//! its body, chunks, batches, forks and marks.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use arrcoc_bundle::{Bundle, Precision, Target, WeightForm, WeightRule};
use arrcoc_export::build::{self, Options};
use arrcoc_export::calibrate::{self, Calibration, RangeMethod};
use arrcoc_export::init::{self, SHARD_BYTES, WeightType};
use arrcoc_export::progress::Progress;
use arrcoc_export::verify;
use arrcoc_kernels::Operator;
use arrcoc_models::families;
use arrcoc_runtime::decoder::{self, Decoder, Rows};
use arrcoc_runtime::library::{CpuOptions, Kernels, Library, LibraryKind, LibraryOptions};
use arrcoc_runtime::tensor::Tensor;
use arrcoc_tests::compare::relative_error;
use arrcoc_tests::graphs::operators_that_ran;
use arrcoc_tests::repository;
use serde_json::json;
use tempfile::TempDir;

const CAPACITY: usize = 400;

/// What 32-bit floats stray in another order of summation, over all layers.
const FLOATS: f32 = 2e-5;

struct Workshop(TempDir);

impl Workshop {
    fn new() -> Result<Self> {
        let workshop = Self(tempfile::tempdir()?);
        let options = init::Options {
            preset: families::preset("qwen3.5-tiny").context("the preset")?,
            seed: 1,
            dtype: WeightType::Float32,
            shard_bytes: SHARD_BYTES,
            out: workshop.checkpoint(),
            force: false,
        };
        init::init(&options, Progress::Silent)?;
        Ok(workshop)
    }

    fn checkpoint(&self) -> PathBuf {
        self.0.path().join("qwen3.5-tiny")
    }

    fn build(&self, precision: Precision, target: Target) -> Result<PathBuf> {
        let integers = precision == Precision::Int4 && target.has_integers();
        let floats = precision != Precision::Fp32 && target.has_small_floats();
        let options = Options {
            out: self.0.path().join("engines"),
            precision,
            target,
            weight_rules: if integers { vec![eight_bits()] } else { Vec::new() },
            calibration: floats.then(|| self.calibrated()).transpose()?,
            range: RangeMethod::Absmax,
            name: None,
            max_context: Some(1024),
            force: false,
        };
        Ok(build::build(&self.checkpoint(), &options, Progress::Silent)?.bundle)
    }

    /// How large the tensors get in a question about one picture.
    fn calibrated(&self) -> Result<Calibration> {
        let (data, output) = (self.0.path().join("data.json"), self.0.path().join("calibration"));
        let image = repository("tests/fixtures/stock/qwen3_5/images/square.png");
        fs::write(
            &data,
            json!([{"image": image, "query": "What is it?", "answer": "A square."}]).to_string(),
        )?;
        let options =
            calibrate::Options { data, output, limit: None, image_size: None, tokens: 16, threads: 2 };
        Ok(calibrate::calibrate(&self.checkpoint(), &options, Progress::Silent)?)
    }

    fn open(&self, precision: Precision, target: Target) -> Result<Bundle> {
        Ok(Bundle::open(&self.build(precision, target)?)?)
    }
}

fn library(kernels: Kernels) -> Result<Box<dyn Library>> {
    let options = LibraryOptions { threads: 2, cpu: CpuOptions { kernels }, ..LibraryOptions::default() };
    Ok(LibraryKind::Ort.open_with(&options)?)
}

/// Recurrent layers in 8 bits. Random ones of this width make too much of the rounding to 4.
fn eight_bits() -> WeightRule {
    WeightRule {
        graph: None,
        role: None,
        tensor: Some("*.linear_attn.*".to_owned()),
        operator: None,
        form: WeightForm::Blocks { bits: 8, size: 32, symmetric: true },
    }
}

/// Made-up embeddings, `[1, tokens, width]`: the same ones wherever they begin at the same number.
fn embeds(bundle: &Bundle, first: usize, tokens: usize) -> Result<Tensor> {
    let width = bundle.manifest().decoder.hidden_size;
    let numbers = (first * width..(first + tokens) * width).map(|i| ((i * 7919 % 1013) as f32 / 506.5) - 1.0);
    Ok(Tensor::from_vec(&[1, tokens, width], numbers.collect())?)
}

/// The logits behind `tokens` tokens from `first` on, in chunks, alone in a fresh decoder.
fn lonely(
    bundle: &Bundle,
    library: &dyn Library,
    first: usize,
    tokens: usize,
    chunk: usize,
) -> Result<Vec<f32>> {
    let mut decoder = decoder::load(bundle, library, 1, CAPACITY)?;
    let slot = decoder.slots_mut().allocate().context("a slot")?;
    feed(decoder.as_mut(), bundle, slot, first, tokens, chunk)
}

fn feed(
    decoder: &mut dyn Decoder,
    bundle: &Bundle,
    slot: usize,
    first: usize,
    tokens: usize,
    chunk: usize,
) -> Result<Vec<f32>> {
    let mut logits = Vec::new();
    for start in (0..tokens).step_by(chunk) {
        let rows = embeds(bundle, first + start, chunk.min(tokens - start))?;
        logits = decoder.prefill(slot, &Rows::plain(rows))?.values().to_vec();
    }
    Ok(logits)
}

#[test]
fn every_precision_verifies() -> Result<()> {
    let workshop = Workshop::new()?;
    workshop.build(Precision::Fp32, Target::Portable)?;
    for (precision, target) in [
        (Precision::Fp32, Target::Portable),
        (Precision::Fp16, Target::Portable),
        (Precision::Fp32, Target::Cpu),
        (Precision::Int8, Target::Cpu),
        (Precision::Int4, Target::Cpu),
        (Precision::Fp32, Target::Cuda),
        (Precision::Fp16, Target::Cuda),
        (Precision::Int4, Target::Cuda),
    ] {
        let bundle = match (precision, target) {
            (Precision::Fp32, Target::Portable) => {
                workshop.0.path().join("engines/qwen3.5-tiny/fp32-portable")
            }
            _ => workshop.build(precision, target)?,
        };
        let options = verify::Options {
            reference: None,
            checkpoint: None,
            image: None,
            image_size: None,
            tokens: 16,
            seed: 1,
            runtime: LibraryKind::Ort,
            library: LibraryOptions { threads: 2, ..LibraryOptions::default() },
        };
        let report = verify::verify(&bundle, &options, Progress::Silent)?;
        println!("{precision} {target}\n{report}");
        ensure!(report.passed, "{precision} {target}:\n{report}");
    }
    Ok(())
}

#[test]
fn the_kernel_computes_what_the_body_says() -> Result<()> {
    let workshop = Workshop::new()?;
    let bundle = workshop.open(Precision::Fp32, Target::Cpu)?;
    let logits = |kernels| lonely(&bundle, library(kernels)?.as_ref(), 0, 300, 300);
    let (own, body) = (logits(Kernels::Own)?, logits(Kernels::Library)?);
    let error = relative_error(&own, &body)?;
    println!("kernel and body: {error:.1e}");
    ensure!(error <= FLOATS, "kernel and body differ by {error:.1e}");
    ensure!(!Operator::GatedDelta.has_kernel() || own != body, "the kernel did not run");
    Ok(())
}

/// A kernel under another name than the graph's would not be run, and nothing would be compared.
#[test]
fn both_kernels_run_where_they_are_wanted() -> Result<()> {
    let workshop = Workshop::new()?;
    let bundle = workshop.open(Precision::Fp32, Target::Cpu)?;
    let operators = [
        ("CausalConvolution", Operator::CausalConvolution.has_kernel()),
        ("GatedDelta", Operator::GatedDelta.has_kernel()),
    ];
    for kernels in [Kernels::Own, Kernels::Library] {
        let profiles = tempfile::tempdir()?;
        let options = LibraryOptions {
            threads: 2,
            cpu: CpuOptions { kernels },
            profile: Some(profiles.path().to_owned()),
            ..LibraryOptions::default()
        };
        let library = LibraryKind::Ort.open_with(&options)?;
        lonely(&bundle, library.as_ref(), 0, 9, 9)?;
        let ran = operators_that_ran(profiles.path())?;
        for (operator, supported) in operators {
            let wanted = supported && kernels == Kernels::Own;
            ensure!(ran.contains_key(operator) == wanted, "{kernels:?}: {operator} among {ran:?}");
        }
    }
    Ok(())
}

#[test]
fn chunks_and_batches_give_what_one_alone_gives() -> Result<()> {
    let workshop = Workshop::new()?;
    for (precision, target) in [
        (Precision::Fp32, Target::Cpu),
        (Precision::Int8, Target::Cpu),
        (Precision::Fp32, Target::Cuda),
        (Precision::Fp32, Target::Portable),
    ] {
        let bundle = workshop.open(precision, target)?;
        let library = library(Kernels::Own)?;
        let whole = lonely(&bundle, library.as_ref(), 0, 150, 150)?;
        for chunk in [1, 7, 64, 100] {
            let error = relative_error(&lonely(&bundle, library.as_ref(), 0, 150, chunk)?, &whole)?;
            println!("{precision} {target}: chunks of {chunk} {error:.1e}");
            ensure!(error <= FLOATS, "{precision} {target}: chunks of {chunk} are off by {error:.1e}");
        }

        let lengths = [70, 3, 129];
        let mut decoder = decoder::load(&bundle, library.as_ref(), 4, CAPACITY)?;
        let hole = decoder.slots_mut().allocate().context("a slot")?;
        let mut rows = Vec::new();
        for (at, length) in lengths.into_iter().enumerate() {
            let slot = decoder.slots_mut().allocate().context("a slot")?;
            feed(decoder.as_mut(), &bundle, slot, 500 * at, length, 50)?;
            rows.push(slot);
        }
        decoder.free(hole);
        let width = bundle.manifest().decoder.hidden_size;
        let mut last = Vec::new();
        for (at, length) in lengths.into_iter().enumerate() {
            last.extend_from_slice(embeds(&bundle, 500 * at + length, 1)?.as_slice::<f32>()?);
        }
        let stepped = decoder.step(&rows, &Tensor::from_vec(&[1, 3, width], last)?)?;
        for (at, (logits, length)) in stepped.iter().zip(lengths).enumerate() {
            let alone = lonely(&bundle, library.as_ref(), 500 * at, length + 1, length)?;
            let error = relative_error(logits.values(), &alone)?;
            println!("{precision} {target}: row {at} {error:.1e}");
            ensure!(error <= FLOATS, "{precision} {target}: row {at} is off by {error:.1e}");
        }
    }
    Ok(())
}

#[test]
fn forks_and_marks_lead_back_to_the_prompt() -> Result<()> {
    let workshop = Workshop::new()?;
    for target in Target::ALL {
        let bundle = workshop.open(Precision::Fp32, target)?;
        let library = library(Kernels::Own)?;
        let mut decoder = decoder::load(&bundle, library.as_ref(), 2, CAPACITY)?;
        let slot = decoder.slots_mut().allocate().context("a slot")?;
        feed(decoder.as_mut(), &bundle, slot, 0, 80, 80)?;
        let prompt = decoder.slots().mark(slot);
        let expected = decoder.step(&[slot], &embeds(&bundle, 80, 1)?)?[0].values().to_vec();
        let twin = decoder.fork(slot, prompt)?.context("a second slot")?;
        for slot in [twin, slot] {
            decoder.rewind(slot, prompt)?;
            let found = decoder.step(&[slot], &embeds(&bundle, 80, 1)?)?[0].values().to_vec();
            let error = relative_error(&found, &expected)?;
            ensure!(error <= FLOATS, "{target}: slot {slot} is off by {error:.1e}");
        }
    }
    Ok(())
}
