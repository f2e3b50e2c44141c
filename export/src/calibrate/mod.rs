//! What a checkpoint's tensors reach on real images and questions: `arrcoc-export calibrate`.
//!
//! The portable graphs are built in 32-bit floats with extra outputs ([`instrument`]), run like a server would run them
//! ([`OfflineModel`]), and what they say is noted ([`recorder`]). The file that comes of it decides what `build --precision fp16`
//! leaves in 32 bits (and `fp8` and portable `int4`), how `int8` smooths outliers, and which scales `fp8` uses.

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
use sha2::{Digest as _, Sha256};

use crate::build::{self, BuildError};
use crate::checkpoint::{Checkpoint, CheckpointError, hex};
use crate::progress::Progress;
use crate::quantize::{self, Matrix};
use crate::staging::{Owned, Staging, StagingError};
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
        "graph `{graph}`: `{tensor}` holds NaN or infinity in 32-bit floats; look for broken weights with `arrcoc-export verify` \
         on an fp32 bundle"
    )]
    NotFinite {
        /// The graph.
        graph: String,
        /// The first such tensor.
        tensor: String,
    },
    /// The file cannot be written.
    #[error(transparent)]
    File(#[from] CalibrationFileError),
    /// There is no place for the instrumented graphs, or another run is at it.
    #[error("the instrumented graphs have no place beside the calibration")]
    Scratch(#[from] StagingError),
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
    let recorder = Recorder::new(RuntimeKind::Ort.open(options.threads)?);
    let scratch = Staging::begin(&scratch(&options.output), 0, Owned::Scratch)?;
    let mut described = Described::default();
    let prepare = |graph: Graph| {
        described.add(&graph);
        instrument::instrument(graph)
    };
    let built = build::build_prepared(checkpoint, scratch.path(), prepare, progress)?;
    let bundle = Bundle::open(&built.bundle)?;
    let model_options =
        model::Options { slots: 1, image_size: options.image_size, ..model::Options::default() };
    let mut model = OfflineModel::load_on(&bundle, &recorder, &model_options)?;
    // Whatever ends the hours that follow, the graphs are gone: the library has them open.
    drop((bundle, scratch));
    let ran = run(&mut model, &data, options, progress)?;
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
        graphs: ranges(recorder.take(), &described)?,
        weights: largest(&Checkpoint::open(checkpoint)?, &described.weights)?,
    };
    calibration.write(&options.output)?;
    Ok(calibration)
}

/// Where the instrumented graphs lie while they are needed: hidden, beside the output, and emptied by the next run if this one is killed.
fn scratch(output: &Path) -> PathBuf {
    let name = output.file_name().unwrap_or_default().to_string_lossy();
    output.with_file_name(format!("{name}.graphs"))
}

/// What is to be known of the graphs before they are instrumented.
#[derive(Default)]
struct Described {
    /// By graph: its structure, and what each linear layer's weight is multiplied with.
    graphs: BTreeMap<String, (String, BTreeMap<String, String>)>,
    /// Everything that comes from the checkpoint; matrices of linear layers are looked at column by column.
    weights: Vec<(Initializer, bool)>,
}

impl Described {
    fn add(&mut self, graph: &Graph) {
        let products: BTreeMap<String, String> = instrument::products(graph)
            .map(|(weight, input)| (weight.to_owned(), input.to_owned()))
            .collect();
        let weights = graph.initializers.iter().cloned();
        self.weights.extend(weights.map(|weight| {
            let by_column = products.contains_key(&*weight.name);
            (weight, by_column)
        }));
        self.graphs.insert(graph.name.to_owned(), (structure(graph), products));
    }
}

/// A digest of a graph's operators and of what they read and make: names of tensors mean the same only where it is the same.
pub(crate) fn structure(graph: &Graph) -> String {
    let mut hash = Sha256::new();
    for node in &graph.nodes {
        hash.update(node.operator);
        for name in node.inputs.iter().chain(&node.outputs) {
            hash.update([0]);
            hash.update(&**name);
        }
        hash.update([1]);
    }
    hex(&hash.finalize())
}

/// What was run, and what of it is no tensor's affair.
#[derive(Default)]
struct Ran {
    images: HashSet<String>,
    questions: usize,
    skipped: Vec<Skipped>,
    tiers: Tiers,
}

impl Ran {
    fn leave_out(&mut self, row: &Row, reason: String, progress: Progress) {
        progress.note(&format!("`{}` is left out: {reason}", row.image));
        self.skipped.push(Skipped { image: row.image.clone(), reason });
    }
}

fn run(
    model: &mut OfflineModel,
    data: &DataSet,
    options: &Options,
    progress: Progress,
) -> Result<Ran, CalibrateError> {
    let mut ran = Ran::default();
    let mut unreadable = HashSet::new();
    for (index, row) in data.rows.iter().enumerate() {
        if unreadable.contains(&row.image) {
            continue;
        }
        let image = match read_image(model, row) {
            Ok(image) => image,
            Err(reason) => {
                unreadable.insert(row.image.clone());
                ran.leave_out(row, reason, progress);
                continue;
            }
        };
        let asked = match model.question(&row.query) {
            Ok(question) => ask(model, &mut Example::new(image, question), options.tokens, &mut ran.tiers)?,
            Err(error) => Err(error),
        };
        match asked {
            Ok(()) => {}
            // The question's fault, and no other's.
            Err(error @ (OfflineError::Prompt(_) | OfflineError::Context { .. })) => {
                ran.leave_out(row, format!("question {index}: {error}"), progress);
                continue;
            }
            Err(source) => return Err(CalibrateError::Run { row: index, source }),
        }
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
    described: &Described,
) -> Result<BTreeMap<String, GraphRanges>, CalibrateError> {
    let mut graphs = BTreeMap::new();
    for (graph, seen) in observations {
        if let Some(tensor) = seen.not_finite {
            return Err(CalibrateError::NotFinite { graph, tensor });
        }
        let (structure, mut products) = described.graphs.get(&graph).cloned().unwrap_or_default();
        products.retain(|_, input| seen.activations.contains_key(input));
        // Masks may be infinite on purpose; JSON has no word for that.
        let magnitudes = seen.magnitudes.into_iter().map(|(name, x)| (name, x.min(f32::MAX))).collect();
        graphs.insert(graph, GraphRanges { structure, magnitudes, activations: seen.activations, products });
    }
    Ok(graphs)
}

/// Largest magnitude of every weight: per input channel of a linear layer's, else of the whole.
fn largest(
    checkpoint: &Checkpoint,
    weights: &[(Initializer, bool)],
) -> Result<BTreeMap<String, Vec<f32>>, CheckpointError> {
    let mut all = BTreeMap::new();
    for (weight, by_column) in weights {
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
        if !by_column {
            largest = vec![largest.into_iter().fold(0.0, f32::max)];
        }
        all.insert(weight.name.to_string(), largest);
    }
    Ok(all)
}
