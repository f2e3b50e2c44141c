//! TensorRT plans for a bundle: `arrcoc-export compile`.
//!
//! [`list`] works out what is to be compiled, without a GPU: each graph is held against what TensorRT's
//! parser takes ([`parser`], [`parser_table`]), its profile follows from the manifest's axes, and its place
//! from what it depends on. [`compile`] compiles it, plan by plan. How a plan is compiled and loaded is the
//! runtime's affair ([`arrcoc_runtime::library::ort::tensorrt`]), so that both sides agree on its key.

pub mod parser;
pub mod parser_table;
mod report;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Instant;

use arrcoc_bundle::{Bundle, BundleError};
use arrcoc_runtime::library::ort::tensorrt::{
    self, BuildOptions, Compilation, InputProfile, Machine, NoRange, PlanDir, Profile,
};
use arrcoc_runtime::library::ort::{OrtLibrary, Provider};
use arrcoc_runtime::library::{Axis, BundledGraph, CpuOptions, LibraryError, TensorRtOptions};
use serde::Serialize;

use crate::onnx::{self, Graph, OnnxError, Value};
use crate::progress::Progress;
use crate::staging::{Owned, Staging, StagingError};
use parser::Finding;

/// What to compile, and how.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// GPU, place and lengths: what `arrcoc-serve` must be told alike.
    pub tensorrt: TensorRtOptions,
    /// How to compile.
    pub build: BuildOptions,
    /// Only these graphs; all of them where empty.
    pub graphs: Vec<String>,
    /// Compile even where a plan stands already.
    pub force: bool,
}

/// What is to be compiled.
#[derive(Debug, Clone, Serialize)]
pub struct Plans {
    /// The bundle.
    pub bundle: PathBuf,
    /// The machine, as its directory is named; a placeholder where it is unknown.
    pub machine: String,
    /// Why the machine is unknown.
    pub unknown: Option<String>,
    /// Plans in the order of their graphs' names.
    pub plans: Vec<Plan>,
}

/// One plan.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Name of the graph in the bundle.
    pub graph: String,
    /// Its `.onnx` file.
    pub file: PathBuf,
    /// Bytes of its weights, inline and external; shared ones count in every graph.
    pub weight_bytes: u64,
    /// The shapes of its dynamic inputs.
    pub profile: Vec<InputProfile>,
    /// Where it lies.
    pub place: PlanDir,
    /// Whether it is there.
    pub built: bool,
    /// The TensorRT provider's options.
    pub options: Vec<(&'static str, String)>,
}

/// Plans cannot be compiled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// The bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// TensorRT, or a library below it.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// A graph's file.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// Graph and manifest disagree.
    #[error("graph `{graph}`")]
    Range {
        /// The graph.
        graph: String,
        /// What is missing.
        source: NoRange,
    },
    /// The plan's directory cannot be written.
    #[error(transparent)]
    Staging(#[from] StagingError),
    /// A bundle for something else.
    #[error(
        "expected a bundle of target `portable`, found `{found}`; build one with `arrcoc-export build --target portable`"
    )]
    Target {
        /// The bundle's target.
        found: String,
    },
    /// The parser would refuse a graph.
    #[error("TensorRT would refuse graph `{graph}`: {}", shown(.findings))]
    Refused {
        /// The graph.
        graph: String,
        /// Its nodes.
        findings: Vec<Finding>,
    },
    /// A graph that the bundle does not have.
    #[error("expected one of {expected}, found `{found}`")]
    Graph {
        /// Graphs of the bundle.
        expected: String,
        /// What was asked for.
        found: String,
    },
}

/// The first findings; a graph of one wrong operator can have thousands of nodes with it.
fn shown(findings: &[Finding]) -> String {
    const SHOWN: usize = 5;
    let first: Vec<_> = findings.iter().take(SHOWN).map(Finding::to_string).collect();
    let more = findings.len().saturating_sub(SHOWN);
    first.join("; ") + &if more > 0 { format!("; and {more} more") } else { String::new() }
}

/// Says what would be compiled. Where there is no GPU, or no TensorRT, the machine is a placeholder.
///
/// # Errors
/// [`CompileError`] of the bundle; that there is no GPU is not one.
pub fn dry_run(dir: &Path, options: &Options) -> Result<Plans, CompileError> {
    let bundle = Bundle::open(dir)?;
    match open(&options.tensorrt) {
        Ok((_, machine)) => list(&bundle, options, &machine.slug(), None),
        Err(error) => {
            let onnxruntime = OrtLibrary::open(1, Provider::Cpu(CpuOptions::default()));
            let version = onnxruntime.as_ref().ok().map(OrtLibrary::version);
            list(&bundle, options, &Machine::placeholder(version), Some(error.to_string()))
        }
    }
}

/// Compiles the plans that are not there yet, one after the other.
///
/// # Errors
/// [`CompileError`]; plans that were finished before it stay.
pub fn compile(dir: &Path, options: &Options, progress: Progress) -> Result<Plans, CompileError> {
    let bundle = Bundle::open(dir)?;
    let (runtime, machine) = open(&options.tensorrt)?;
    let mut listed = list(&bundle, options, &machine.slug(), None)?;
    let count = listed.plans.len();
    for (at, plan) in listed.plans.iter_mut().enumerate() {
        let name = format!("{} ({} of {count})", plan.graph, at + 1);
        if plan.built && !options.force {
            progress.note(&format!("{name}: already compiled"));
            continue;
        }
        progress.note(&format!("{name}: compiling, which takes minutes"));
        let started = Instant::now();
        let mut step = progress.step(&plan.graph, plan.weight_bytes);
        let profile = Profile(plan.profile.clone());
        let graph = BundledGraph::of(&bundle, &plan.graph)?;
        let (place, build) = (&plan.place, options.build);
        let staging = Staging::begin(&place.dir, 0, Owned::Plan)?;
        tensorrt::compile(&runtime, &Compilation { graph, place, profile: &profile, build }, staging.path())?;
        staging.commit()?;
        step.advance(plan.weight_bytes);
        step.finish();
        plan.built = true;
        progress.note(&format!("{name}: {:.1} s", started.elapsed().as_secs_f64()));
    }
    Ok(listed)
}

fn open(options: &TensorRtOptions) -> Result<(OrtLibrary, Machine), LibraryError> {
    let runtime = OrtLibrary::open(0, Provider::TensorRt(options.clone()))?;
    let machine = runtime.machine().cloned().ok_or_else(|| LibraryError::Unavailable {
        runtime: "TensorRT",
        reason: "expected to know the GPU, found nothing of it".into(),
    })?;
    Ok((runtime, machine))
}

/// Works out what is to be compiled on a machine.
///
/// # Errors
/// [`CompileError`] when the bundle has another target, lacks a graph that is asked for, or holds one that
/// TensorRT would refuse.
pub fn list(
    bundle: &Bundle,
    options: &Options,
    machine: &str,
    unknown: Option<String>,
) -> Result<Plans, CompileError> {
    let manifest = bundle.manifest();
    if !manifest.target.is_standard() {
        return Err(CompileError::Target { found: manifest.target.name().to_owned() });
    }
    let names: Vec<&String> = manifest.graphs.keys().collect();
    if let Some(found) = options.graphs.iter().find(|name| !names.contains(name)) {
        let expected = names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
        return Err(CompileError::Graph { expected, found: found.clone() });
    }
    let wanted = |name: &&String| options.graphs.is_empty() || options.graphs.contains(name);
    let plans = names.into_iter().filter(wanted).map(|name| plan(bundle, name, options, machine));
    Ok(Plans {
        bundle: bundle.dir().to_owned(),
        machine: machine.to_owned(),
        unknown,
        plans: plans.collect::<Result<_, _>>()?,
    })
}

fn plan(bundle: &Bundle, name: &str, options: &Options, machine: &str) -> Result<Plan, CompileError> {
    let graph = BundledGraph::of(bundle, name)?;
    let path = &graph.file.path;
    let model = onnx::read_model(path)?;
    let findings = parser::check(&model);
    if !findings.is_empty() {
        return Err(CompileError::Refused { graph: name.to_owned(), findings });
    }
    let file = model.graph.unwrap_or_default();
    let ranges = tensorrt::ranges(&graph.file.axes, options.tensorrt.lengths);
    let inputs: Vec<_> = file.inputs.iter().map(interface).collect();
    let profile = Profile::new(&inputs, &ranges)
        .map_err(|source| CompileError::Range { graph: name.to_owned(), source })?;
    let place = PlanDir::of(&graph, &ranges, &options.tensorrt, machine);
    let job = Compilation { graph, place: &place, profile: &profile, build: options.build };
    let options = tensorrt::build_options(&job, &place.dir);
    let built = place.is_built();
    let weight_bytes = weight_bytes(&file, path)?;
    let (file, graph) = (path.clone(), name.to_owned());
    Ok(Plan { graph, file, weight_bytes, profile: profile.0, place, built, options })
}

/// Name and shape of an input.
fn interface(value: &Value) -> (String, Vec<Axis>) {
    let tensor = value.r#type.as_ref().and_then(|kind| kind.tensor.as_ref());
    let dims = tensor.and_then(|tensor| tensor.shape.as_ref()).map_or(&[][..], |shape| &shape.dims);
    let axis = |dim: &onnx::Dim| match dim.value.and_then(|length| usize::try_from(length).ok()) {
        Some(length) => Axis::Fixed(length),
        None => Axis::Named(dim.name.clone().unwrap_or_default()),
    };
    (value.name.clone(), dims.iter().map(axis).collect())
}

fn weight_bytes(graph: &Graph, path: &Path) -> Result<u64, OnnxError> {
    let bytes = graph
        .initializers
        .iter()
        .map(|tensor| Ok(tensor.location(path)?.map_or(tensor.raw_data.len() as u64, |place| place.length)));
    bytes.sum()
}
