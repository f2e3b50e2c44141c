//! What a checkpoint's tensors reach on real images and questions: `arrcoc-export calibrate`.
//!
//! The portable graphs are built in 32-bit floats with extra outputs ([`instrument`]), run like a server would run them
//! ([`OfflineModel`]), and what they say is noted ([`recorder`]). The file that comes of it decides what `build --precision fp16`
//! leaves in 32 bits, how `int8` smooths outliers, and which scales `fp8` uses.

mod file;
mod histogram;
mod instrument;
mod recorder;
mod tiers;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use arrcoc_models::graph::{Graph, Initializer, Source};
use arrcoc_runtime::arms::{Arm, Positions};
use arrcoc_runtime::bundle::{Bundle, BundleError};
use arrcoc_runtime::engine::{EngineError, RuntimeKind};
use arrcoc_runtime::error::LoadError;
use arrcoc_runtime::generate::Budget;
use arrcoc_runtime::image::ImageError;
use arrcoc_runtime::model;
use arrcoc_runtime::offline::data::{DataError, DataSet, Row};
use arrcoc_runtime::offline::{AnswerRequest, Example, OfflineError, OfflineModel, Unsupported};

use crate::build::{self, BuildError};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::progress::Progress;
use crate::quantize::{self, Matrix};
pub use file::{Calibration, CalibrationFileError, Circumstances, GraphRanges, Skipped, TierStatistics};
pub use histogram::{Histogram, RangeMethod};
pub use recorder::Activation;
use recorder::{Observations, Recorder};
use tiers::Tiers;

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Images and questions in JSON: objects with `image`, `query` and `answer`.
    pub data: PathBuf,
    /// The calibration's file.
    pub output: PathBuf,
    /// Questions to ask at most.
    pub limit: Option<usize>,
    /// Side of the encoder's input, pixels; `None` takes the native one.
    pub image_size: Option<usize>,
    /// Tokens to answer with at most.
    pub tokens: usize,
    /// Threads of ONNX Runtime; 0 takes one per processor.
    pub threads: usize,
}

/// A calibration cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrateError {
    /// The instrumented bundle cannot be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The data set cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The instrumented bundle does not load.
    #[error("the instrumented graphs cannot be used")]
    Bundle(#[from] BundleError),
    /// ONNX Runtime is not to be had.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A graph does not load.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A question cannot be run.
    #[error("question {row} of the data set (counted from 0)")]
    Run {
        /// The row.
        row: usize,
        /// Why.
        source: OfflineError,
    },
    /// The images are too small for any tier.
    #[error("images of that size fill no tier: {0}")]
    Budget(#[from] Unsupported),
    /// No image could be used.
    #[error(
        "none of the {count} images of `{}` can be used; the first, `{image}`: {reason}",
        data.display()
    )]
    NoImage {
        /// The data set.
        data: PathBuf,
        /// Images that it names.
        count: usize,
        /// One of them.
        image: String,
        /// Why not.
        reason: String,
    },
    /// In 32-bit floats, already, something is no number.
    #[error(
        "graph `{graph}`: `{tensor}` is NaN in 32-bit floats; look for broken weights with `arrcoc-export verify` on an fp32 bundle"
    )]
    NotANumber {
        /// The graph.
        graph: String,
        /// The first such tensor.
        tensor: String,
    },
    /// The file cannot be written.
    #[error(transparent)]
    File(#[from] CalibrationFileError),
    /// There is no place for the instrumented graphs.
    #[error("cannot write the instrumented graphs beside {}", output.display())]
    Scratch {
        /// The calibration's file.
        output: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Runs the data set through the checkpoint's graphs and writes the calibration.
///
/// # Errors
/// [`CalibrateError`]. A failed or killed run leaves the file as it was.
pub fn calibrate(
    checkpoint: &Path,
    options: &Options,
    progress: Progress,
) -> Result<Calibration, CalibrateError> {
    let data = DataSet::read(&options.data, options.limit)?;
    let scratch = scratch(&options.output)?;
    let mut weights = Vec::new();
    let mut products = BTreeMap::new();
    let prepare = |graph: Graph| {
        products.insert(graph.name.to_owned(), owned(instrument::products(&graph)));
        weights.extend(matrices(&graph));
        instrument::instrument(graph)
    };
    let built = build::build_prepared(checkpoint, scratch.path(), prepare, progress)?;
    let bundle = Bundle::open(&built.bundle)?;
    let recorder = Recorder::new(RuntimeKind::Ort.open(options.threads)?);
    let model_options =
        model::Options { slots: 1, image_size: options.image_size, ..model::Options::default() };
    let mut model = OfflineModel::load_on(&bundle, &recorder, &model_options)?;
    let ran = run(&mut model, &data, options, progress)?;
    let graphs = ranges(recorder.take(), &products)?;
    let mut calibration = Calibration {
        sha256: String::new(),
        checkpoint_sha256: built.checkpoint_sha256,
        circumstances: Circumstances {
            tool: format!("arrcoc-export {}", env!("CARGO_PKG_VERSION")),
            runtime: model.info().runtime.clone(),
            data_sha256: data.sha256,
            image_size: model.info().image_size,
            images: ran.images.len(),
            questions: ran.questions,
            skipped: ran.skipped,
        },
        adapter: ran.tiers.statistics(),
        graphs,
        weights: largest_per_column(&Checkpoint::open(checkpoint)?, &weights)?,
    };
    calibration.write(&options.output)?;
    Ok(calibration)
}

/// A directory beside the output for graphs that nobody else needs; it goes when it is dropped.
fn scratch(output: &Path) -> Result<tempfile::TempDir, CalibrateError> {
    let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let made = std::fs::create_dir_all(parent)
        .and_then(|()| tempfile::Builder::new().prefix(".calibrate-").tempdir_in(parent));
    made.map_err(|source| CalibrateError::Scratch { output: output.to_owned(), source })
}

fn owned<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> BTreeMap<String, String> {
    pairs.map(|(weight, input)| (weight.to_owned(), input.to_owned())).collect()
}

/// The weights of a graph's linear layers.
fn matrices(graph: &Graph) -> Vec<Initializer> {
    let read: HashSet<&str> = instrument::products(graph).map(|(weight, _)| weight).collect();
    graph.initializers.iter().filter(|tensor| read.contains(&*tensor.name)).cloned().collect()
}

/// What was run, and what of it is no tensor's affair.
#[derive(Default)]
struct Ran {
    images: HashSet<String>,
    questions: usize,
    skipped: Vec<Skipped>,
    tiers: Tiers,
}

fn run(
    model: &mut OfflineModel,
    data: &DataSet,
    options: &Options,
    progress: Progress,
) -> Result<Ran, CalibrateError> {
    let mut ran = Ran::default();
    for (index, row) in data.rows.iter().enumerate() {
        if ran.skipped.iter().any(|skipped| skipped.image == row.image) {
            continue;
        }
        let image = match read_image(model, row) {
            Ok(image) => image,
            Err(reason) => {
                progress.note(&format!("`{}` is left out: {reason}", row.image));
                ran.skipped.push(Skipped { image: row.image.clone(), reason });
                continue;
            }
        };
        let at = |source| CalibrateError::Run { row: index, source };
        let question = model.question(&row.query).map_err(at)?;
        let mut example = Example::new(image, question);
        ask(model, &mut example, options.tokens, &mut ran.tiers)?.map_err(at)?;
        ran.images.insert(row.image.clone());
        ran.questions += 1;
        progress.note(&format!("question {} of {}", index + 1, data.rows.len()));
    }
    match (ran.questions, ran.skipped.first()) {
        (0, Some(Skipped { image, reason })) => Err(CalibrateError::NoImage {
            data: options.data.clone(),
            count: ran.skipped.len(),
            image: image.clone(),
            reason: reason.clone(),
        }),
        _ => Ok(ran),
    }
}

fn read_image(model: &OfflineModel, row: &Row) -> Result<arrcoc_runtime::image::DecodedImage, String> {
    let bytes = std::fs::read(&row.path).map_err(|error| error.to_string())?;
    model.decode(&bytes).map_err(|error: ImageError| error.to_string())
}

/// Puts a question: its tokens at every tier that the image fills, and the answer from the tier that the allocator chooses.
fn ask(
    model: &mut OfflineModel,
    example: &mut Example,
    tokens: usize,
    tiers: &mut Tiers,
) -> Result<Result<(), OfflineError>, CalibrateError> {
    let auto = model.capacity().arm_budget(Arm::QueryAware, Budget::Auto)?;
    for budget in model.capacity().budgets.clone() {
        let Ok(tier) = model.capacity().arm_budget(Arm::QueryAware, Budget::Tokens(budget)) else { continue };
        match model.visual_tokens(example, tier, Positions::Original) {
            Ok(visual) => tiers.add(budget, visual.embeds()),
            Err(error) => return Ok(Err(error)),
        }
    }
    let answered = model.visual_tokens(example, auto, Positions::Original).and_then(|visual| {
        let request = AnswerRequest { question: example.question(), visual: &visual };
        model.answer(&[request], tokens)
    });
    Ok(answered.map(drop))
}

/// Checks what the graphs said and puts it in order.
fn ranges(
    observations: Observations,
    products: &BTreeMap<String, BTreeMap<String, String>>,
) -> Result<BTreeMap<String, GraphRanges>, CalibrateError> {
    let mut graphs = BTreeMap::new();
    for (graph, seen) in observations {
        if let Some((tensor, _)) = seen.magnitudes.iter().find(|(_, x)| x.is_nan()) {
            return Err(CalibrateError::NotANumber { graph, tensor: tensor.clone() });
        }
        let mut products = products.get(&graph).cloned().unwrap_or_default();
        products.retain(|_, input| seen.activations.contains_key(input));
        // Masks may be infinite on purpose; JSON has no word for that.
        let magnitudes = seen.magnitudes.into_iter().map(|(name, x)| (name, x.min(f32::MAX))).collect();
        graphs.insert(graph, GraphRanges { magnitudes, activations: seen.activations, products });
    }
    Ok(graphs)
}

/// Largest magnitude per input channel of every weight.
fn largest_per_column(
    checkpoint: &Checkpoint,
    weights: &[Initializer],
) -> Result<BTreeMap<String, Vec<f32>>, CheckpointError> {
    let mut all = BTreeMap::new();
    for weight in weights {
        let (Source::Checkpoint { tensor, range, .. }, Some(&columns)) =
            (&weight.source, weight.shape.last())
        else {
            continue;
        };
        let mut largest = vec![0.0f32; columns];
        quantize::each_row(checkpoint, &Matrix { tensor, range, columns, factors: None }, |row| {
            largest.iter_mut().zip(row).for_each(|(largest, x)| *largest = largest.max(x.abs()));
            Ok(())
        })?;
        all.insert(weight.name.to_string(), largest);
    }
    Ok(all)
}
