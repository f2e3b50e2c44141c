//! TensorRT plans: where they lie, how they are compiled, and how they are loaded.
//!
//! `arrcoc-export compile` makes a plan, never while anything is served: compiling takes minutes, times
//! kernels on a GPU that must be idle for the times to mean anything, and needs memory that a running model
//! has. The runtime loads what was compiled, as an EPContext model beside its plan, and refuses where there
//! is nothing.
//!
//! ```text
//! PLANS/MACHINE/timing/                   TensorRT's timing cache
//! PLANS/MACHINE/GRAPH-KEY/GRAPH.onnx      the EPContext model: the graph's interface around one node
//! PLANS/MACHINE/GRAPH-KEY/*.engine        the plan that it names
//! ```

use std::path::{Path, PathBuf};

use ::ort::session::Session;
use ::ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use sha2::{Digest as _, Sha256};

use super::linked::{self, Mapped};
use super::{OrtLibrary, Provider, ProviderOption};
use crate::library::{BundledGraph, LibraryError, TensorRtOptions};
use arrcoc_bundle::hex;

mod machine;
mod profiles;

pub use machine::Machine;
pub use profiles::{InputProfile, NoRange, Profile, Ranges, ranges, shape};

/// The directory of plans beside a bundle, unless another is named. Hidden, so that it is not taken for a
/// bundle.
pub const PLANS: &str = ".tensorrt";

/// Where one plan lies.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PlanDir {
    /// The plan's own directory, named after its key.
    pub dir: PathBuf,
    /// The EPContext model in it.
    pub context: PathBuf,
    /// The machine's timing cache.
    pub timing: PathBuf,
}

impl PlanDir {
    /// Where the plan of a graph lies: below the machine that it is bound to, under a key of the graph's
    /// bytes, its weights and the ranges of its axes. `machine` is a [`Machine::slug`].
    pub fn of(graph: &BundledGraph<'_>, ranges: &Ranges, options: &TensorRtOptions, machine: &str) -> Self {
        let beside = || graph.bundle.parent().unwrap_or(graph.bundle).join(PLANS);
        let plans = options.plans.clone().unwrap_or_else(beside);
        // ONNX Runtime works relative paths out in more than one way.
        let machine = std::path::absolute(&plans).unwrap_or(plans).join(machine);
        let dir = machine.join(format!("{}-{}", graph.name, key(graph, ranges)));
        Self { context: dir.join(format!("{}.onnx", graph.name)), dir, timing: machine.join("timing") }
    }

    /// Whether the plan is there.
    pub fn is_built(&self) -> bool {
        self.context.is_file()
    }
}

/// 16 hexadecimal digits that stand for a graph, its bundle, which holds its weights, and its ranges.
fn key(graph: &BundledGraph<'_>, ranges: &Ranges) -> String {
    let mut hash = Sha256::new();
    for part in [graph.file.sha256.as_bytes(), &graph.bundle_digest] {
        hash.update(part);
        hash.update([0]);
    }
    for (axis, range) in ranges {
        hash.update(format!("{axis} {} {} {}\n", range.min, range.opt, range.max));
    }
    hex(&hash.finalize()[..8])
}

/// How to compile a plan; none of it changes what the plan computes or takes, so none of it is part of its
/// key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuildOptions {
    /// Memory for TensorRT to try kernels in, bytes; `None` for all that the GPU has.
    pub workspace: Option<usize>,
    /// How hard to look for the best kernels, 0 to 5 (`trt_builder_optimization_level`).
    pub optimization_level: u8,
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self { workspace: None, optimization_level: 3 }
    }
}

/// One plan to compile.
#[derive(Debug, Clone)]
pub struct Compilation<'a> {
    /// The graph.
    pub graph: BundledGraph<'a>,
    /// Where the plan is to lie.
    pub place: &'a PlanDir,
    /// The lengths that it takes.
    pub profile: &'a Profile,
    /// How to compile it.
    pub build: BuildOptions,
}

/// What the TensorRT provider is told to compile a plan in `dir`. It is not told of 16 or 8 bits: without
/// such options ONNX Runtime makes a strongly typed network (`kSTRONGLY_TYPED` in its
/// `tensorrt_execution_provider.cc`), which computes every tensor in the type that the graph gives it. With
/// them TensorRT would be free to take 16 bits where the graph insists on 32.
/// (<https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html>).
pub fn build_options(job: &Compilation<'_>, dir: &Path) -> Vec<ProviderOption> {
    let on = || "1".to_owned();
    let path = |path: &Path| path.display().to_string();
    let mut options = vec![
        // The plan lies beside the EPContext model, which names it without a path: the directory can be
        // moved.
        ("trt_engine_cache_enable", on()),
        ("trt_engine_cache_prefix", job.graph.name.to_owned()),
        ("trt_dump_ep_context_model", on()),
        ("trt_ep_context_file_path", path(&dir.join(format!("{}.onnx", job.graph.name)))),
        ("trt_ep_context_embed_mode", "0".to_owned()),
        ("trt_timing_cache_enable", on()),
        ("trt_timing_cache_path", path(&job.place.timing)),
        ("trt_builder_optimization_level", job.build.optimization_level.to_string()),
        // Weights go to TensorRT from memory: written into one protobuf with the graph they may not exceed 2
        // GB. All models take this way, so that small ones try what large ones need.
        ("trt_load_user_initializer", on()),
    ];
    options.extend(job.profile.options());
    if let Some(workspace) = job.build.workspace {
        options.push(("trt_max_workspace_size", workspace.to_string()));
    }
    options
}

/// Compiles a plan into an existing directory, which takes minutes. Whoever calls it moves that to the plan's
/// place when it is complete.
///
/// # Errors
/// [`LibraryError::Load`] with TensorRT's reason, a node that it does not take among them.
pub fn compile(runtime: &OrtLibrary, job: &Compilation<'_>, dir: &Path) -> Result<(), LibraryError> {
    let failed = |reason: String| LibraryError::Load { graph: job.graph.name.to_owned(), reason };
    let timing = &job.place.timing;
    std::fs::create_dir_all(timing)
        .map_err(|error| failed(format!("cannot write `{}`: {error}", timing.display())))?;
    let (level, options) = (GraphOptimizationLevel::Level1, build_options(job, dir));
    drop(linked_session(runtime, job, level, &options).map_err(|error| failed(error.to_string()))?);
    let context = dir.join(format!("{}.onnx", job.graph.name));
    if context.is_file() {
        return Ok(());
    }
    let expected = context.display();
    Err(failed(format!("expected ONNX Runtime to write `{expected}`, found nothing there")))
}

/// Loads a plan that was compiled.
///
/// # Errors
/// [`LibraryError::NoPlan`] where there is none; [`LibraryError::Load`] with the library's reason.
pub(super) fn load(
    runtime: &OrtLibrary,
    graph: &BundledGraph<'_>,
    place: &PlanDir,
    options: &TensorRtOptions,
) -> Result<Session, LibraryError> {
    if !place.is_built() {
        return Err(LibraryError::NoPlan {
            graph: graph.name.to_owned(),
            expected: place.context.clone(),
            command: command(graph.bundle, options),
        });
    }
    // The graph is one node: there is nothing to optimise, and looking for it only takes time.
    session(runtime, &place.context, GraphOptimizationLevel::Disable, &[])
        .map_err(|error| LibraryError::Load { graph: graph.name.to_owned(), reason: error.to_string() })
}

/// The command that compiles the plans which these options ask for.
fn command(bundle: &Path, options: &TensorRtOptions) -> String {
    let TensorRtOptions { device, plans, lengths } = options;
    let out = plans.as_ref().map(|dir| format!(" --out {}", dir.display())).unwrap_or_default();
    format!(
        "arrcoc-export compile {} --device {device} --context {} --prefill-chunk {}{out}",
        bundle.display(),
        lengths.context_length,
        lengths.prefill_chunk
    )
}

/// A session of a bundle's own graph, whose weights may lie behind links.
fn linked_session(
    runtime: &OrtLibrary,
    job: &Compilation<'_>,
    level: GraphOptimizationLevel,
    options: &[ProviderOption],
) -> Result<(Session, Mapped), ::ort::Error> {
    let (builder, weights) = linked::hand_over(runtime.session(true)?, job.graph.file)?;
    Ok((commit(runtime, builder, &job.graph.file.path, level, options)?, weights))
}

/// A session of TensorRT alone: a node that it does not take is an error, for there is no other provider to
/// take it.
fn session(
    runtime: &OrtLibrary,
    model: &Path,
    level: GraphOptimizationLevel,
    options: &[ProviderOption],
) -> Result<Session, ::ort::Error> {
    // TensorRT is to see the weights in their 8 or 4 bits: whatever the blocks, nothing is unpacked before.
    commit(runtime, runtime.session(true)?, model, level, options)
}

fn commit(
    runtime: &OrtLibrary,
    builder: SessionBuilder,
    model: &Path,
    level: GraphOptimizationLevel,
    options: &[ProviderOption],
) -> Result<Session, ::ort::Error> {
    let builder = builder.with_optimization_level(level)?.with_disable_cpu_fallback()?;
    let provider: &Provider = &runtime.provider;
    provider.register(builder, options)?.commit_from_file(model)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::library::PlanLengths;
    use arrcoc_bundle::AxisRange;
    use arrcoc_bundle::GraphFile;
    use arrcoc_bundle::Role;

    fn file(sha256: &str) -> GraphFile {
        let tokens = AxisRange { min: 64, opt: 256, max: 400 };
        GraphFile {
            role: Role::Encoder,
            outputs: BTreeMap::new(),
            path: "bundle/refiner.onnx".into(),
            sha256: sha256.into(),
            opset: 18,
            axes: BTreeMap::from([("tokens".into(), tokens)]),
            external: BTreeMap::new(),
        }
    }

    fn place(file: &GraphFile, weights: u8, lengths: PlanLengths) -> PlanDir {
        let bundle = Path::new("models/fp32-portable");
        let graph = BundledGraph {
            name: "refiner",
            bundle,
            file,
            bundle_digest: [weights; 32],
            dequantizes_blocks: false,
        };
        let options = TensorRtOptions { lengths, ..TensorRtOptions::default() };
        PlanDir::of(&graph, &ranges(&file.axes, lengths), &options, "machine")
    }

    #[test]
    fn plans_lie_beside_the_bundle_under_a_key_of_all_they_depend_on() {
        let usual = place(&file("aa"), 12, PlanLengths::default());
        let machine = std::path::absolute("models/.tensorrt/machine").unwrap();
        assert!(usual.dir.starts_with(&machine), "{usual:?}");
        assert_eq!(usual.timing, machine.join("timing"));
        assert_eq!(usual, place(&file("aa"), 12, PlanLengths::default()));
        let mut wider = file("aa");
        wider.axes.insert("seq".into(), AxisRange { min: 1, opt: 1, max: 9000 });
        let longer = PlanLengths { context_length: 8192, ..PlanLengths::default() };
        let others = [
            place(&file("ab"), 12, PlanLengths::default()),
            place(&file("aa"), 13, PlanLengths::default()),
            place(&wider, 12, PlanLengths::default()),
            place(&wider, 12, longer),
        ];
        for (at, other) in others.iter().enumerate() {
            assert_ne!(*other, usual);
            assert!(!others[..at].contains(other), "{other:?}");
        }
        // The refiner has no axis that the context bounds.
        assert_eq!(place(&file("aa"), 12, longer), usual);
    }

    #[test]
    fn the_builder_gets_profiles_caches_and_a_context_model() {
        let file = file("aa");
        let graph = BundledGraph {
            name: "refiner",
            bundle: Path::new("b"),
            file: &file,
            bundle_digest: [12; 32],
            dequantizes_blocks: false,
        };
        let place = place(&file, 12, PlanLengths::default());
        let profile = Profile(vec![InputProfile {
            name: "token_slots".into(),
            min: vec![64],
            opt: vec![256],
            max: vec![400],
        }]);
        let build = BuildOptions { workspace: Some(1 << 30), optimization_level: 5 };
        let job = Compilation { graph, place: &place, profile: &profile, build };
        let options: BTreeMap<_, _> = build_options(&job, Path::new("new")).into_iter().collect();
        for (key, value) in [
            ("trt_profile_min_shapes", "token_slots:64"),
            ("trt_profile_max_shapes", "token_slots:400"),
            ("trt_timing_cache_path", place.timing.to_str().unwrap()),
            ("trt_ep_context_file_path", "new/refiner.onnx"),
            ("trt_ep_context_embed_mode", "0"),
            ("trt_load_user_initializer", "1"),
            ("trt_max_workspace_size", "1073741824"),
            ("trt_builder_optimization_level", "5"),
        ] {
            assert_eq!(options[key], value, "{key}");
        }
        // With a context model, ONNX Runtime refuses an engine path that is absolute or leads elsewhere.
        assert!(!options.contains_key("trt_engine_cache_path"));
        // Either would let TensorRT choose its types.
        assert!(!options.contains_key("trt_fp16_enable") && !options.contains_key("trt_int8_enable"));
    }

    #[test]
    fn the_command_that_is_named_asks_for_what_was_missing() {
        let options = TensorRtOptions {
            device: 1,
            plans: Some("cache".into()),
            lengths: PlanLengths { context_length: 8192, prefill_chunk: 128 },
        };
        assert_eq!(
            command(Path::new("b"), &options),
            "arrcoc-export compile b --device 1 --context 8192 --prefill-chunk 128 --out cache"
        );
    }
}
