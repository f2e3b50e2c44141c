//! The proof of a bundle: `arrcoc-export verify`.
//!
//! Tokenizer and chat template must put the conversations that the server puts to them when it loads. Weights must be
//! finite numbers. Then every stage runs on ONNX Runtime and, from the portable bundle of the same
//! checkpoint, on tract: two inference libraries that share no code, and for `cpu` bundles two sets of operators.

pub mod compare;
mod stages;
pub mod tolerances;
mod weights;

use std::fmt;
use std::path::{Path, PathBuf};

use arrcoc_runtime::bundle::manifest::{Precision, Statistics, Target};
use arrcoc_runtime::bundle::{Bundle, BundleError, MANIFEST};
use arrcoc_runtime::decoder::DecoderError;
use arrcoc_runtime::engine::{EngineError, RuntimeKind, RuntimeOptions};
use arrcoc_runtime::error::LoadError;
use arrcoc_runtime::image::ImageError;
use arrcoc_runtime::prompt::Prompter;
use arrcoc_runtime::tensor::TensorError;
use serde::Serialize;

use crate::build;
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::onnx::OnnxError;
use crate::progress::Progress;
use crate::table::{Table, grouped};
use stages::Side;
pub use stages::{AdapterReport, DecodingReport, StageReport};
pub use weights::{NotFinite, WeightReport};

/// Directory of the bundle that serves as the reference, beside the one that is verified.
const REFERENCE: &str = "fp32-portable";

/// What to verify, and against what.
#[derive(Debug, Clone)]
pub struct Options {
    /// Portable bundle of the same checkpoint; `None` looks for `fp32-portable` beside the bundle.
    pub reference: Option<PathBuf>,
    /// Checkpoint that the bundle must have been built from.
    pub checkpoint: Option<PathBuf>,
    /// The test image; `None` takes a random one. Scales that were calibrated (fp8) fit images like those of the calibration.
    pub image: Option<PathBuf>,
    /// Side of the test image, pixels; `None` takes the smallest that fills every tier.
    pub image_size: Option<usize>,
    /// Tokens to decode.
    pub tokens: usize,
    /// Seed of the test inputs.
    pub seed: u64,
    /// What runs the bundle; the reference always runs on tract.
    pub runtime: RuntimeKind,
    /// How it runs, and, of engines that take no other lengths, what they were built for.
    pub library: RuntimeOptions,
}

/// The outcome; a failed comparison is an outcome, not an error.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The bundle.
    pub bundle: PathBuf,
    /// The reference bundle.
    pub reference: PathBuf,
    /// The library that ran the bundle, and the one that ran the reference.
    pub runtimes: [String; 2],
    /// The weights.
    pub weights: WeightReport,
    /// The stages; none are run when weights are not finite.
    pub stages: Vec<StageReport>,
    /// The statistics that the decoder was trained on, which the adapter aims at.
    pub adapter_target: Statistics,
    /// What the adapter puts out, per tier.
    pub adapter: Vec<AdapterReport>,
    /// The greedy continuation.
    pub decoding: Option<DecodingReport>,
    /// Whether everything is within its limits.
    pub passed: bool,
}

/// A bundle could not be verified.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// A bundle cannot be opened.
    #[error("cannot use {}", path.display())]
    Bundle {
        /// The bundle.
        path: PathBuf,
        /// Why.
        source: BundleError,
    },
    /// A file of a checked bundle is not listed in its manifest.
    #[error(transparent)]
    File(#[from] BundleError),
    /// A weight is of a type that cannot be scanned for NaN and infinity.
    #[error("weight `{tensor}`: expected 8-, 16- or 32-bit floats or integers, found {}; verify with the version that built the bundle", crate::onnx::element_name(*found))]
    WeightType {
        /// The weight.
        tensor: String,
        /// ONNX's code of its type.
        found: i32,
    },
    /// There is nothing to compare with.
    #[error(
        "a bundle is verified against the portable fp32 one of the same checkpoint, and there is none at {}; \
         build it with `--precision fp32 --target portable`, or name one with --reference",
        path.display()
    )]
    NoReference {
        /// Where it would be.
        path: PathBuf,
    },
    /// The reference is no portable bundle in 32 bits.
    #[error(
        "{} cannot be the reference: expected a portable fp32 bundle, found one in {precision} for {target:?}",
        path.display()
    )]
    Reference {
        /// The reference.
        path: PathBuf,
        /// Its precision.
        precision: Precision,
        /// What it was written for.
        target: Target,
    },
    /// The reference is of another model, or the checkpoint has changed.
    #[error(
        "{} was built from another checkpoint: expected {expected}, found {found}; build both again",
        path.display()
    )]
    OtherCheckpoint {
        /// The bundle or checkpoint that differs.
        path: PathBuf,
        /// Digest of the verified bundle.
        expected: String,
        /// The other digest.
        found: String,
    },
    /// No such image size.
    #[error("--image-size: expected one of {sizes:?}, found {found}")]
    ImageSize {
        /// What was asked for.
        found: usize,
        /// What the bundle takes.
        sizes: Vec<usize>,
    },
    /// There is no room for an answer.
    #[error(
        "expected a context of at least 3 tokens, found {found}: --context, or the model's own, is too short to decode anything"
    )]
    Context {
        /// The shorter of the two.
        found: usize,
    },
    /// The test image cannot be used.
    #[error("cannot use the image {}", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ImageError,
    },
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A graph file cannot be read.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// A weight file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A graph, the tokenizer or the chat template does not load.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A graph does not run, or a library is not to be had.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The decoder does not run.
    #[error(transparent)]
    Decoder(#[from] DecoderError),
    /// A tensor is not what the graph contract says.
    #[error("a stage returned a tensor of another kind than the graph contract says")]
    Tensor(#[from] TensorError),
    /// An output is missing.
    #[error("graph `{stage}` has no output `{output}`; export the checkpoint again")]
    Output {
        /// The graph.
        stage: &'static str,
        /// The output.
        output: String,
    },
}

/// Verifies a bundle.
///
/// # Errors
/// [`VerifyError`] when the comparison cannot be made. What it says is in the report.
pub fn verify(path: &Path, options: &Options, progress: Progress) -> Result<Report, VerifyError> {
    let subject = open(path)?;
    let digest = &subject.manifest().checkpoint_sha256;
    if let Some(dir) = &options.checkpoint {
        let found = Checkpoint::open(dir)?.digest(build::cores())?;
        same_checkpoint(dir, digest, &found)?;
    }
    // What cannot put a question cannot serve, whatever its stages compute.
    Prompter::load(&subject)?;
    let weights = weights::scan(&subject, progress)?;
    let reference_path = reference_path(&subject, options);
    let mut report = Report {
        bundle: path.to_owned(),
        reference: reference_path.clone(),
        runtimes: Default::default(),
        passed: weights.not_finite.is_empty(),
        weights,
        stages: Vec::new(),
        adapter_target: subject.manifest().vision.adapter_target,
        adapter: Vec::new(),
        decoding: None,
    };
    if !report.passed {
        return Ok(report);
    }
    if !reference_path.join(MANIFEST).exists() {
        return Err(VerifyError::NoReference { path: reference_path });
    }
    let reference = open(&reference_path)?;
    same_checkpoint(&reference_path, digest, &reference.manifest().checkpoint_sha256)?;
    let (precision, target) = (reference.manifest().precision, reference.manifest().target);
    if (precision, target) != (Precision::Fp32, Target::Portable) {
        return Err(VerifyError::Reference { path: reference_path, precision, target });
    }
    let subject_runtime = options.runtime.open_with(&options.library)?;
    let tract = RuntimeKind::Tract.open_with(&options.library)?;
    report.runtimes = [subject_runtime.describe(), tract.describe()];
    let sides = [
        Side { bundle: &subject, runtime: subject_runtime.as_ref() },
        Side { bundle: &reference, runtime: tract.as_ref() },
    ];
    let findings = stages::run(&sides, options, progress)?;
    report.passed = findings.stages.iter().all(StageReport::passed)
        && findings.adapter.iter().all(|tier| tier.drift.is_none())
        && findings.decoding.as_ref().is_none_or(|decoding| decoding.differing == 0);
    report.stages = findings.stages;
    report.adapter = findings.adapter;
    report.decoding = findings.decoding;
    Ok(report)
}

fn open(path: &Path) -> Result<Bundle, VerifyError> {
    Bundle::open(path).map_err(|source| VerifyError::Bundle { path: path.to_owned(), source })
}

/// A portable bundle in 32 bits is its own reference, on the other runtime.
fn reference_path(subject: &Bundle, options: &Options) -> PathBuf {
    match (&options.reference, subject.manifest().target) {
        (Some(path), _) => path.clone(),
        (None, Target::Portable) if subject.manifest().precision == Precision::Fp32 => {
            subject.dir().to_owned()
        }
        (None, _) => subject.dir().with_file_name(REFERENCE),
    }
}

fn same_checkpoint(path: &Path, expected: &str, found: &str) -> Result<(), VerifyError> {
    if expected == found {
        return Ok(());
    }
    let (expected, found) = (expected.to_owned(), found.to_owned());
    Err(VerifyError::OtherCheckpoint { path: path.to_owned(), expected, found })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weights = &self.weights;
        let (tensors, elements) = (weights.tensors, grouped(weights.elements));
        match weights.not_finite.len() {
            0 => writeln!(f, "{tensors} weight tensors, {elements} elements, all finite\n")?,
            n => writeln!(f, "{n} of {tensors} weight tensors are not finite; no stage was run\n")?,
        }
        for NotFinite { graph, tensor, count, first } in &weights.not_finite {
            writeln!(f, "  {tensor} ({graph}): {count} NaN or infinite, the first at element {first}")?;
        }
        if !self.stages.is_empty() {
            let [subject, reference] = &self.runtimes;
            writeln!(
                f,
                "{subject} on {}\n{reference} on {}\n",
                self.bundle.display(),
                self.reference.display()
            )?;
            write!(f, "{}", stage_table(&self.stages))?;
        }
        if !self.adapter.is_empty() {
            write!(f, "\n{}", adapter_table(&self.adapter, &self.adapter_target))?;
        }
        if let Some(DecodingReport { tokens, agreeing, differing }) = &self.decoding {
            let ties = tokens - agreeing - differing;
            writeln!(f, "\ngreedy tokens: {agreeing} of {tokens} equal, {differing} differ, {ties} tied")?;
        }
        writeln!(f, "\n{}", if self.passed { "passed" } else { "FAILED" })
    }
}

fn stage_table(stages: &[StageReport]) -> Table {
    let columns =
        ["stage", "output", ">max|a-b|/max|b|", ">limit", "", ">cosine", ">seconds", ">reference s"];
    let mut table = Table::new(&columns);
    for stage in stages {
        table.row([
            stage.stage.clone(),
            stage.output.clone(),
            format!("{:.1e}", stage.distance),
            format!("{:.0e}", stage.limit),
            if stage.passed() { "ok" } else { "FAILED" }.to_owned(),
            format!("{:.6}", stage.cosine),
            format!("{:.2}", stage.seconds),
            format!("{:.2}", stage.reference_seconds),
        ]);
    }
    table
}

fn adapter_table(tiers: &[AdapterReport], target: &Statistics) -> Table {
    let mut table = Table::new(&["quality adapter", ">mean", ">std", ">zeros", ""]);
    let mut row = |name: String, of: &Statistics, verdict: String| {
        table.row([
            name,
            format!("{:.5}", of.mean),
            format!("{:.5}", of.std),
            format!("{:.3}", of.sparsity),
            verdict,
        ]);
    };
    row("target".to_owned(), target, String::new());
    for AdapterReport { tokens, statistics, drift } in tiers {
        let verdict = drift.map_or("ok".to_owned(), |drift| format!("DRIFTED ({drift})"));
        row(format!("{tokens} tokens"), statistics, verdict);
    }
    table
}
