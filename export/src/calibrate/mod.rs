//! What a checkpoint's tensors reach on real images and questions: `arrcoc-export calibrate`.
//!
//! The portable graphs are built in 32-bit floats with extra outputs ([`instrument`]), run as a server runs
//! them ([`Model`] on a [`Tap`]), and what they say is noted ([`recorder`]). The file that comes of it
//! decides what `build --precision fp16` leaves in 32 bits (and `fp8` and portable `int4`), how `int8`
//! smooths outliers, and which scales `fp8` uses.

pub(crate) mod file;
pub(crate) mod histogram;
mod instrument;
mod recorder;
mod tiers;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arrcoc_bundle::names::axis;
use arrcoc_bundle::{Bundle, BundleError, Statistics};
use arrcoc_models::graph::{Graph, Initializer, Source};
use arrcoc_runtime::dataset::{DataError, DataSet, Row};
use arrcoc_runtime::error::LoadError;
use arrcoc_runtime::generate::{Budget, GenerateError, MaxTokens, Note, Observer};
use arrcoc_runtime::image::{ImageLimits, decode};
use arrcoc_runtime::library::LibraryOptions;
use arrcoc_runtime::library::{LibraryError, LibraryKind};
use arrcoc_runtime::model::{self, Model};
use arrcoc_runtime::vision::VisionOptions;

use crate::ask::{PATIENCE, ask};
use crate::build::{self, BuildError};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::progress::Progress;
use crate::quantize::{self, Matrix};
use crate::staging::{Owned, Staging, StagingError};
use crate::tap::Tap;
use file::structure;
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
    /// Side of the encoder's input, pixels, for families that have several; `None` takes the native one.
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
    Library(#[from] LibraryError),
    /// A graph does not load.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A question cannot be run.
    #[error("question {row} of the data set (counted from 0)")]
    Run {
        /// The row.
        row: usize,
        /// Why.
        source: GenerateError,
    },
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
    let recorder = Arc::new(Recorder::default());
    let library = Tap::new(LibraryKind::Ort.open(options.threads)?, Arc::clone(&recorder));
    let scratch = Staging::begin(&scratch(&options.output), 0, Owned::Scratch)?;
    let mut described = Described::default();
    let prepare = |graph: Graph| {
        described.add(&graph);
        instrument::instrument(graph)
    };
    let built = build::build_prepared(checkpoint, scratch.path(), prepare, progress)?;
    let bundle = Bundle::open(&built.bundle)?;
    let image_size = options.image_size.or_else(|| native_size(&bundle));
    let model_options = model::Options {
        runtime: Some(LibraryKind::Ort),
        slots: 1,
        library: LibraryOptions { threads: options.threads, ..LibraryOptions::default() },
        vision: VisionOptions { image_size: options.image_size, ..VisionOptions::default() },
        timeout: PATIENCE,
        ..model::Options::default()
    };
    let watch = Arc::new(Watch::default());
    let model = Model::load_on(bundle, &library, &model_options, Arc::<Watch>::clone(&watch))?;
    // The first run is of a grey picture.
    recorder.take();
    // Whatever ends the hours that follow, the graphs are gone: the library has them open.
    drop(scratch);
    let ran = run(&model, &watch, &data, options, progress)?;
    let mut calibration = Calibration {
        sha256: String::new(),
        checkpoint_sha256: built.checkpoint_sha256,
        circumstances: Circumstances {
            tool: format!("arrcoc-export {}", env!("CARGO_PKG_VERSION")),
            runtime: model.info().runtime.clone(),
            data_sha256: data.sha256,
            image_size,
            images: ran.images.len(),
            questions: ran.questions,
            skipped: ran.skipped,
        },
        adapter: ran.tiers.statistics(),
        graphs: ranges(recorder.take(), &described)?,
        weights: largest(&checkpoint_of(checkpoint)?, &described.weights)?,
    };
    calibration.write(&options.output)?;
    Ok(calibration)
}

/// Where the instrumented graphs lie while they are needed: hidden, beside the output, and emptied by the
/// next run if this one is killed.
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

/// The input size that the checkpoint was trained at, where its encoder has several.
fn native_size(bundle: &Bundle) -> Option<usize> {
    let heights = bundle.manifest().graphs.values().filter_map(|graph| graph.axes.get(axis::HEIGHT));
    heights.map(|range| range.opt as usize).next()
}

/// Statistics of the visual tokens since they were asked for last, by tier.
#[derive(Default)]
struct Watch(Mutex<Vec<(usize, Statistics)>>);

impl Observer for Watch {
    fn note(&self, note: Note<'_>) {
        if let Note::Embeds { tier, statistics } = note {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push((tier, statistics));
        }
    }
}

impl Watch {
    fn take(&self) -> Vec<(usize, Statistics)> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
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
    model: &Model,
    watch: &Watch,
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
        let picture = match read_picture(row) {
            Ok(picture) => picture,
            Err(reason) => {
                unreadable.insert(row.image.clone());
                ran.leave_out(row, reason, progress);
                continue;
            }
        };
        let question = Asked { picture: &picture, text: &row.query, tokens: options.tokens };
        match question.put(model, watch, &mut ran.tiers) {
            Ok(()) => {}
            // The question's fault, and no other's.
            Err(error @ GenerateError::Invalid { .. }) => {
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

/// A picture file that can be decoded.
fn read_picture(row: &Row) -> Result<Vec<u8>, String> {
    let bytes = std::fs::read(&row.path).map_err(|error| error.to_string())?;
    decode::decode(&bytes, &ImageLimits::default()).map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// A question of the data set.
struct Asked<'a> {
    picture: &'a [u8],
    text: &'a str,
    /// Most tokens of its answer.
    tokens: usize,
}

impl Asked<'_> {
    /// Puts it at every tier, and has it answered with the budget that the model chooses. A model without
    /// tiers is asked once.
    fn put(&self, model: &Model, watch: &Watch, tiers: &mut Tiers) -> Result<(), GenerateError> {
        let ask = |budget, tokens| ask(model, self.picture, self.text, budget, tokens);
        let answer = MaxTokens::AtMost(self.tokens.max(1));
        let known = &model.info().token_budgets;
        if known.is_empty() {
            return ask(Budget::Full, answer);
        }
        watch.take();
        for &tier in known {
            ask(Budget::Tokens(tier), MaxTokens::Exactly(1))?;
        }
        for (tier, statistics) in watch.take() {
            tiers.add(known[tier], statistics);
        }
        ask(Budget::Auto, answer)
    }
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

/// The checkpoint, its tensors under the names that the networks use.
fn checkpoint_of(dir: &Path) -> Result<Checkpoint, CalibrateError> {
    let mut checkpoint = Checkpoint::open(dir)?;
    build::Described::read(&mut checkpoint)?;
    Ok(checkpoint)
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
