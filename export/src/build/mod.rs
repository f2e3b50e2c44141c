//! From a checkpoint to a bundle: `arrcoc-export build`.
//!
//! `plan` settles everything that does not need the weights; then the weights stream through once, converted,
//! written and hashed at the same time, into a directory that appears only when it is complete
//! ([`crate::staging`]).

mod describe;
mod error;
mod files;
mod generation_config;
mod plan;
mod processor;
mod text;

use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use arrcoc_bundle::manifest::RawManifest;
use arrcoc_bundle::yaml;
use arrcoc_bundle::{Bundle, MANIFEST};
use arrcoc_bundle::{Precision, Target, WeightRule};
use arrcoc_models::graph::{DataFile, Element, Graph, Piece, Source};
use arrcoc_runtime::error::LoadError;
use arrcoc_runtime::vision::families;
use serde::Serialize;

pub(crate) use describe::Described;
pub use error::{BuildError, TextError};

use crate::calibrate::file::Calibration;
use crate::calibrate::histogram::RangeMethod;
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::hashed_file::HashedFile;
use crate::progress::{Progress, Step, peak_memory};
use crate::quantize::{self, Matrix};
use crate::staging::{Owned, Staging, StagingError};
use plan::Plan;

/// What to build.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory of bundles; the bundle becomes `<out>/<model>/<precision>-<target>`.
    pub out: PathBuf,
    /// Numeric precision.
    pub precision: Precision,
    /// What the graphs are written for.
    pub target: Target,
    /// Forms of weights that differ from what the precision gives them.
    pub weight_rules: Vec<WeightRule>,
    /// What the checkpoint's tensors reach: fp16, fp8 and portable int4 need it, int8 is better for it.
    pub calibration: Option<Calibration>,
    /// How the calibration's ranges are read where activations have scales of their own: fp8.
    pub range: RangeMethod,
    /// Model name; `None` takes the checkpoint directory's.
    pub name: Option<String>,
    /// Longest sequence, tokens; `None` takes the model's own limit.
    pub max_context: Option<usize>,
    /// Build even where the same bundle stands already.
    pub force: bool,
}

/// What was built.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// The bundle's directory.
    pub bundle: PathBuf,
    /// True when the same bundle stood there already and was left alone.
    pub up_to_date: bool,
    /// Digest of the checkpoint.
    pub checkpoint_sha256: String,
    /// Files in order of their names.
    pub files: Vec<FileSummary>,
    /// Bytes of all files.
    pub bytes: u64,
    /// Wall-clock time.
    pub seconds: f64,
    /// Largest resident memory of the process so far, where the system tells.
    pub peak_memory_bytes: Option<u64>,
}

/// One file of a bundle.
#[derive(Debug, Clone, Serialize)]
pub struct FileSummary {
    /// Name in the bundle.
    pub name: String,
    /// Length.
    pub bytes: u64,
    /// Hash.
    pub sha256: String,
}

/// Builds a bundle, or finds it built already.
///
/// # Errors
/// [`BuildError`]. A failed or killed build leaves at the destination what was there before.
pub fn build(checkpoint: &Path, options: &Options, progress: Progress) -> Result<Summary, BuildError> {
    let started = Instant::now();
    let mut checkpoint = Checkpoint::open(checkpoint)?;
    let plan = Plan::new(&mut checkpoint, options, std::convert::identity)?;
    plan.left_out.iter().for_each(|left_out| progress.note(&left_out.to_string()));
    let mut digest = None;
    if !options.force
        && let Some(existing) = read_manifest(&plan.destination).filter(|existing| plan.agrees_with(existing))
    {
        progress.note(&format!("{} exists; checking whether it is up to date", plan.destination.display()));
        let found = checkpoint.digest(cores())?;
        if found == existing.checkpoint_sha256 && Bundle::open(&plan.destination).is_ok() {
            Staging::sweep(&plan.destination, Owned::Bundle)?;
            return Ok(summary(&plan.destination, &existing, true, started));
        }
        digest = Some(found);
    }
    if let Some(calibration) = &options.calibration {
        let found = digest.take().map_or_else(|| checkpoint.digest(cores()), Ok)?;
        if found != calibration.checkpoint_sha256 {
            let expected = calibration.checkpoint_sha256.clone();
            return Err(BuildError::OtherCalibration { expected, found });
        }
        digest = Some(found);
    }
    publish(&checkpoint, &plan, digest, progress, started)
}

/// Builds the portable fp32 bundle below `out` from graphs that `prepare` has changed.
pub(crate) fn build_prepared(
    checkpoint: &Path,
    out: &Path,
    prepare: impl FnMut(Graph) -> Graph,
    progress: Progress,
) -> Result<Summary, BuildError> {
    let started = Instant::now();
    let mut checkpoint = Checkpoint::open(checkpoint)?;
    let options = Options {
        out: out.to_owned(),
        precision: Precision::Fp32,
        target: Target::Portable,
        weight_rules: Vec::new(),
        calibration: None,
        range: RangeMethod::Absmax,
        name: Some("instrumented".to_owned()),
        max_context: None,
        force: true,
    };
    let plan = Plan::new(&mut checkpoint, &options, prepare)?;
    publish(&checkpoint, &plan, None, progress, started)
}

/// Writes a bundle and moves it into place.
fn publish(
    checkpoint: &Checkpoint,
    plan: &Plan,
    digest: Option<String>,
    progress: Progress,
    started: Instant,
) -> Result<Summary, BuildError> {
    let staging = Staging::begin(&plan.destination, plan.bytes(), Owned::Bundle)?;
    let manifest = write(checkpoint, plan, digest, &staging, progress)?;
    // What would not load is not left behind.
    let described = Bundle::describe(staging.path()).map_err(LoadError::from);
    described.and_then(|manifest| families::check(&manifest)).map_err(BuildError::Unusable)?;
    staging.commit()?;
    Ok(summary(&plan.destination, &manifest, false, started))
}

/// Writes every file of the bundle, the manifest last.
fn write(
    checkpoint: &Checkpoint,
    plan: &Plan,
    digest: Option<String>,
    staging: &Staging,
    progress: Progress,
) -> Result<RawManifest, BuildError> {
    let mut manifest = plan.manifest.clone();
    for (name, bytes) in &plan.small {
        staging.write(name, bytes)?;
    }
    manifest.checkpoint_sha256 = thread::scope(|scope| {
        // The digest needs the checkpoint's bytes, not the bundle's: it has a thread of its own.
        let digest = scope.spawn(|| digest.map_or_else(|| checkpoint.digest(1), Ok));
        for file in &plan.data {
            let mut step = progress.step(&file.name, file.length());
            let path = staging.path().join(&file.name);
            let sha256 =
                write_data(checkpoint, file, &path, &mut step).map_err(|error| unwrap_sink(error, &path))?;
            manifest.files.insert(file.name.clone(), sha256);
            step.finish();
        }
        let digest = digest.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok::<_, BuildError>(digest)
    })?;
    staging.write(MANIFEST, serde_yaml::to_string(&manifest)?.as_bytes())?;
    Ok(manifest)
}

/// Streams one data file; returns its SHA-256.
fn write_data(
    checkpoint: &Checkpoint,
    file: &DataFile,
    path: &Path,
    step: &mut Step,
) -> Result<String, CheckpointError> {
    let mut out = HashedFile::create(path).map_err(CheckpointError::Sink)?;
    for piece in &file.pieces {
        let before = out.length();
        out.pad_to(piece.offset).map_err(CheckpointError::Sink)?;
        write_piece(checkpoint, piece, &mut out)?;
        step.advance(out.length() - before);
    }
    out.finish().map_err(CheckpointError::Sink)
}

fn write_piece(
    checkpoint: &Checkpoint,
    piece: &Piece,
    out: &mut dyn io::Write,
) -> Result<(), CheckpointError> {
    match (&piece.source, piece.element) {
        (Source::Data(bytes), _) => out.write_all(bytes).map_err(CheckpointError::Sink),
        (Source::Quantized(quantized), _) => quantize::write(checkpoint, quantized, out),
        (Source::Checkpoint { tensor, range, factors: None, .. }, Element::F32) => {
            checkpoint.read_f32(tensor, range.clone(), out)
        }
        (Source::Checkpoint { tensor, range, factors: Some(factors), .. }, Element::F32) => {
            let matrix =
                Matrix { tensor, range, columns: factors.numbers().len(), factors: Some(factors.numbers()) };
            quantize::write_f32(checkpoint, &matrix, out)
        }
        (Source::Checkpoint { tensor, range, factors: None, .. }, Element::F16) => {
            quantize::write_f16(checkpoint, tensor, range, out)
        }
        (Source::Checkpoint { tensor, .. }, element) => {
            let unsupported = format!("tensor `{tensor}` as {element:?}");
            Err(CheckpointError::Sink(io::Error::new(io::ErrorKind::Unsupported, unsupported)))
        }
    }
}

/// A failed write is the destination's fault, not the checkpoint's.
fn unwrap_sink(error: CheckpointError, path: &Path) -> BuildError {
    match error {
        CheckpointError::Sink(source) => StagingError::Io { path: path.to_owned(), source }.into(),
        error => error.into(),
    }
}

/// The manifest of a bundle that may not be there, or not be one.
fn read_manifest(bundle: &Path) -> Option<RawManifest> {
    yaml::parse(&yaml::read(&bundle.join(MANIFEST)).ok()?).ok()
}

fn summary(bundle: &Path, manifest: &RawManifest, up_to_date: bool, started: Instant) -> Summary {
    let graphs = manifest.graphs.values().map(|graph| (&graph.file, &graph.sha256));
    let mut files: Vec<FileSummary> = graphs
        .chain(&manifest.files)
        .map(|(name, sha256)| FileSummary {
            name: name.clone(),
            bytes: bundle.join(name).metadata().map_or(0, |metadata| metadata.len()),
            sha256: sha256.clone(),
        })
        .collect();
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Summary {
        bundle: bundle.to_owned(),
        up_to_date,
        checkpoint_sha256: manifest.checkpoint_sha256.clone(),
        bytes: files.iter().map(|file| file.bytes).sum(),
        files,
        seconds: started.elapsed().as_secs_f64(),
        peak_memory_bytes: peak_memory(),
    }
}

pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}
