//! The proof of a bundle: `arrcoc-export verify`.
//!
//! Tokenizer and chat template must put the conversations that the server puts to them when it loads. Weights
//! must be finite numbers. Every stored weight is held against the checkpoint's, as the portable fp32 bundle
//! has it, by what its form may make of it ([`restored`], [`fidelity`]), and constants that the graphs'
//! builder made against those of the checkpoint's networks ([`constants`]). Then a bundle of the same weights
//! in 32 bits, the *reference*, answers a question on tract, through the pipeline that serves ([`record`]):
//! the portable fp32 bundle itself, or, where the verified one has fewer bits, the weights that it has,
//! restored. Every run of its graphs is repeated with the verified bundle on ONNX Runtime ([`replay`],
//! [`decoding`]): two inference libraries that share no code, and for `cpu` bundles two sets of operators.
//! Bundles with rounded factors ([`rounding`]) say how far the two may be apart.

pub mod compare;
mod constants;
mod decoding;
mod fidelity;
mod pairs;
mod prompt;
mod question;
mod record;
mod replay;
mod report;
mod restored;
mod rounding;
mod smoothing;
pub mod tolerances;
mod weights;

use std::path::{Path, PathBuf};

use arrcoc_bundle::names::file;
use arrcoc_bundle::{Bundle, BundleError, MANIFEST};
use arrcoc_bundle::{Drift, Precision, Role, Statistics, Target};
use arrcoc_runtime::decoder::{DecoderError, Rows};
use arrcoc_runtime::error::LoadError;
use arrcoc_runtime::generate::GenerateError;
use arrcoc_runtime::image::ImageError;
use arrcoc_runtime::library::{LibraryError, LibraryKind, LibraryOptions};
use arrcoc_runtime::model;
use arrcoc_runtime::prompt::Prompter;
use arrcoc_runtime::tensor::TensorError;
use serde::Serialize;

use crate::build;
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::onnx::OnnxError;
use crate::progress::Progress;
use crate::tap::Call;
pub use decoding::DecodingReport;
use decoding::{Lines, Speeches};
pub use replay::StageReport;
use replay::{Side, Yardsticks};
pub use restored::{Strayed, WeightLoss};
pub use weights::{NotFinite, WeightReport};

/// Directory of the bundle that serves as the reference, beside the one that is verified.
const REFERENCE: &str = "fp32-portable";

/// What to verify, and against what.
#[derive(Debug, Clone)]
pub struct Options {
    /// Portable bundle of the same checkpoint; `None` looks for `fp32-portable` beside the bundle.
    pub reference: Option<PathBuf>,
    /// Checkpoint that the bundle must have been built from. With it, every constant of the graphs is
    /// compared with those of its networks; without it, tables with those of the reference.
    pub checkpoint: Option<PathBuf>,
    /// The test image; `None` takes a random one. Scales that were calibrated (fp8) fit images like those of
    /// the calibration.
    pub image: Option<PathBuf>,
    /// Side of the encoder's input, pixels, for families that have several; `None` takes the smallest, where
    /// it fills every tier.
    pub image_size: Option<usize>,
    /// Tokens to decode.
    pub tokens: usize,
    /// Seed of the test question.
    pub seed: u64,
    /// What runs the bundle; the reference always runs on tract.
    pub runtime: LibraryKind,
    /// How it runs, and the lengths that TensorRT plans were compiled for.
    pub library: LibraryOptions,
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
    /// Weights that are not what their form makes of the checkpoint's, and constants of graphs that are not
    /// those of the checkpoint's networks.
    pub strayed: Vec<Strayed>,
    /// What the precision makes of the weights, by graph, where it changes any.
    pub losses: Vec<WeightLoss>,
    /// The graphs' outputs; nothing is run when weights are not finite.
    pub stages: Vec<StageReport>,
    /// The statistics that the decoder was trained on, where the family says so.
    pub adapter_target: Option<Statistics>,
    /// What visual tokens look like, per tier, on the reference.
    pub adapter: Vec<AdapterReport>,
    /// The greedy continuation.
    pub decoding: Option<DecodingReport>,
    /// Whether everything is within its limits.
    pub passed: bool,
}

/// What visual tokens look like at one tier. An adapter normalises each image, so a random one will do.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct AdapterReport {
    /// The tier, by its budget.
    pub tokens: usize,
    /// Of all rows.
    pub statistics: Statistics,
    /// What of it has left the statistics that the decoder was trained on.
    pub drift: Option<Drift>,
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
    /// Prompts, pictures or the ends of answers would be others, whatever the graphs compute.
    #[error(
        "`{what}` is another than that of the reference {}: build both from the checkpoint again", reference.display()
    )]
    Surroundings {
        /// A field of the manifest, or a file.
        what: &'static str,
        /// The reference.
        reference: PathBuf,
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
    /// The reference does not answer.
    #[error("the reference cannot answer the test question")]
    Question(#[source] GenerateError),
    /// A graph that the question did not need, and that is not verified therefore.
    #[error(
        "graph `{graph}` was not run by a question about a picture; verify with the version that built the bundle"
    )]
    Untried {
        /// The graph.
        graph: String,
    },
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The checkpoint's networks cannot be made again.
    #[error(transparent)]
    Compose(Box<build::BuildError>),
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
    /// The weights in 32 bits cannot be written where temporary files go.
    #[error("cannot write {}; the directory for temporary files (TMPDIR) needs as much room as the portable fp32 bundle", path.display())]
    Write {
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
    Library(#[from] LibraryError),
    /// The decoder does not run.
    #[error(transparent)]
    Decoder(#[from] DecoderError),
    /// A tensor is not what the graph contract says.
    #[error("a graph returned a tensor of another kind than the graph contract says")]
    Tensor(#[from] TensorError),
    /// An output is missing.
    #[error("graph `{stage}` has no output `{output}`; export the checkpoint again")]
    Output {
        /// The graph.
        stage: String,
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
    let mut composed = None;
    if let Some(dir) = &options.checkpoint {
        let mut checkpoint = Checkpoint::open(dir)?;
        same_checkpoint(dir, digest, &checkpoint.digest(build::cores())?)?;
        composed = Some(constants::compose(&mut checkpoint, subject.manifest())?);
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
        strayed: Vec::new(),
        losses: Vec::new(),
        stages: Vec::new(),
        adapter_target: subject.manifest().vision.embeds_target,
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
    same_surroundings(&subject, &reference)?;
    let (precision, target) = (reference.manifest().precision, reference.manifest().target);
    if precision != Precision::Fp32 || !target.is_standard() {
        return Err(VerifyError::Reference { path: reference_path, precision, target });
    }
    if let Some(graphs) = composed {
        report.strayed = constants::against_graphs(&subject, &graphs)?;
    } else if reference.dir() != subject.dir() {
        report.strayed = constants::against_reference(&subject, &reference)?;
    }
    let outcome = run(&subject, &reference, options, progress, &mut report);
    match outcome {
        // Networks of such weights may be beyond running. What is wrong with them is known.
        Err(error) if !report.strayed.is_empty() => {
            progress.note(&format!("not everything could be run: {error}"));
            report.passed = false;
        }
        outcome => outcome?,
    }
    Ok(report)
}

/// Compares weights, runs all sides and fills in what they say.
fn run(
    subject: &Bundle,
    reference: &Bundle,
    options: &Options,
    progress: Progress,
    report: &mut Report,
) -> Result<(), VerifyError> {
    let context = decoding::context_length(options, subject.manifest());
    if context < decoding::SHORTEST_CONTEXT {
        return Err(VerifyError::Context { found: context });
    }
    let asked = model::Options { runtime: Some(options.runtime), ..model::Options::default() };
    asked.check_target(subject.manifest().target, subject.manifest().precision)?;
    let library = options.runtime.open_with(&options.library)?;
    let [tract, second] =
        [LibraryKind::Tract, LibraryKind::Tract].map(|kind| kind.open_with(&options.library));
    let (tract, second) = (tract?, second?);
    report.runtimes = [library.describe(), tract.describe()];
    let subject = Side { name: "the bundle", bundle: subject, library: library.as_ref() };
    let (comparison, twins) = match reference.dir() == subject.bundle.dir() {
        true => Default::default(),
        false => restored::restore(reference, subject.bundle, progress)?,
    };
    report.strayed.extend(comparison.strayed);
    report.losses = comparison.losses;
    // The yardsticks need no second witness, and tract's time.
    let cpu = match &twins {
        Some(_) => Some(LibraryKind::Ort.open_with(&options.library)?),
        None => None,
    };
    let yardsticks = twins.as_ref().zip(cpu.as_deref()).map(|(twins, library)| Yardsticks {
        rounded: twins
            .rounded
            .iter()
            .map(|bundle| Side { name: "the rounded reference", bundle, library })
            .collect(),
        checkpoint: Side { name: "the checkpoint's weights", bundle: reference, library },
    });
    let reference = twins.as_ref().map_or(reference, |twins| &twins.restored);
    let record = record::record(reference, tract, options, progress)?;
    every_graph_ran(subject.bundle, &record.calls)?;
    report.adapter = record.adapter;
    report.stages = replay::replay(&record.calls, subject, yardsticks.as_ref(), progress)?;
    let reference = Side { name: "the reference", bundle: reference, library: second.as_ref() };
    let (stage, decoding) =
        decode(&record.prompt, [subject, reference], yardsticks.as_ref(), options, progress)?;
    report.stages.push(stage);
    report.passed = report.strayed.is_empty()
        && report.stages.iter().all(StageReport::passed)
        && report.adapter.iter().all(|tier| tier.drift.is_none())
        && decoding.differing == 0;
    report.decoding = Some(decoding);
    Ok(())
}

/// Feeds a prompt and the reference's choices to all sides.
fn decode(
    prompt: &Rows,
    [subject, reference]: [Side<'_>; 2],
    yardsticks: Option<&Yardsticks<'_>>,
    options: &Options,
    progress: Progress,
) -> Result<(StageReport, DecodingReport), VerifyError> {
    let manifest = subject.bundle.manifest();
    let lines = Lines::new(prompt, manifest, options)?;
    let waiting = progress.wait("decoding");
    let expected = lines.speak(&reference, None, &waiting)?;
    let beside = |side: &Side<'_>| lines.speak(side, Some(&expected), &waiting);
    let found = beside(&subject)?;
    let rounded = yardsticks.iter().flat_map(|sides| &sides.rounded).map(beside);
    let rounded = rounded.collect::<Result<Vec<_>, _>>()?;
    let checkpoint = yardsticks.map(|sides| beside(&sides.checkpoint)).transpose()?;
    let (rounded, checkpoint) = (rounded.as_slice(), checkpoint.as_ref());
    Ok(Speeches { subject: &found, reference: &expected, rounded, checkpoint }.compare(manifest))
}

/// What was not run was not compared.
fn every_graph_ran(subject: &Bundle, calls: &[Call]) -> Result<(), VerifyError> {
    let ran = |name: &str| calls.iter().any(|call| call.graph == name);
    let untried =
        subject.manifest().graphs.iter().find(|(name, graph)| graph.role != Role::Decoder && !ran(name));
    untried.map_or(Ok(()), |(name, _)| Err(VerifyError::Untried { graph: name.clone() }))
}

fn open(path: &Path) -> Result<Bundle, VerifyError> {
    Bundle::open(path).map_err(|source| VerifyError::Bundle { path: path.to_owned(), source })
}

/// A portable bundle in 32 bits is its own reference, on the other runtime.
fn reference_path(subject: &Bundle, options: &Options) -> PathBuf {
    match (&options.reference, subject.manifest().target.is_standard()) {
        (Some(path), _) => path.clone(),
        (None, true) if subject.manifest().precision == Precision::Fp32 => subject.dir().to_owned(),
        (None, _) => subject.dir().with_file_name(REFERENCE),
    }
}

/// What is no graph must be the same, too: the section of pictures, and the files that make prompts.
fn same_surroundings(subject: &Bundle, reference: &Bundle) -> Result<(), VerifyError> {
    // Their hashes were compared when the bundles were opened: they can be read.
    let bytes = |bundle: &Bundle, name| bundle.file_path(name).ok().and_then(|path| std::fs::read(path).ok());
    let mut different = subject.manifest().differs_from(reference.manifest());
    for name in [file::TOKENIZER, file::TOKENIZER_CONFIG, file::CHAT_TEMPLATE] {
        if different.is_none() && bytes(subject, name) != bytes(reference, name) {
            different = Some(name);
        }
    }
    match different {
        Some(what) => Err(VerifyError::Surroundings { what, reference: reference.dir().to_owned() }),
        None => Ok(()),
    }
}

fn same_checkpoint(path: &Path, expected: &str, found: &str) -> Result<(), VerifyError> {
    if expected == found {
        return Ok(());
    }
    let (expected, found) = (expected.to_owned(), found.to_owned());
    Err(VerifyError::OtherCheckpoint { path: path.to_owned(), expected, found })
}
