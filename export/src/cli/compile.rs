//! `arrcoc-export compile`.

use std::path::PathBuf;

use arrcoc_export::compile::{self, Options, Plans};
use arrcoc_export::progress::Progress;
use arrcoc_runtime::library::ort::tensorrt::BuildOptions;
use serde_json::json;

use super::gpu::Gpu;

const EXAMPLES: &str = "\
Examples:
  arrcoc-export compile engines/my-model/fp32-portable --dry-run
  arrcoc-export compile engines/my-model/fp32-portable
  arrcoc-export compile engines/my-model/fp32-portable --context 8192 --prefill-chunk 512

TensorRT compiles a graph into a plan for one GPU, driver, TensorRT and ONNX Runtime, and for
lengths between a least and a most. That takes minutes per graph, so it is done here, on the machine
that will serve and while its GPU is idle; arrcoc-serve loads plans and compiles none. --context and
--prefill-chunk must be the server's engine.context_length and engine.prefill_chunk.

--dry-run prints what would be compiled and needs no GPU. Graphs that TensorRT's parser would refuse are
named either way.";

/// Compile a bundle's graphs into TensorRT plans on this machine's GPU
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Directory of the bundle, of target portable
    bundle: PathBuf,
    /// Directory of plans [default: .tensorrt beside the bundle]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    gpu: Gpu,
    /// Only this graph; may be given several times
    #[arg(long, value_name = "NAME")]
    graph: Vec<String>,
    /// Memory to try kernels in, MiB [default: all that the GPU has]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    workspace: Option<u32>,
    /// How hard to look for the best kernels, 0 to 5
    #[arg(long, value_name = "LEVEL", default_value_t = 3, value_parser = clap::value_parser!(u8).range(..=5))]
    optimization_level: u8,
    /// Compile even where a plan stands already
    #[arg(long)]
    force: bool,
    /// Print what would be compiled, and compile nothing
    #[arg(long)]
    dry_run: bool,
    /// Report in JSON, one object a line, on standard output
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let optimization_level = self.optimization_level;
        let workspace = self.workspace.map(|mib| (mib as usize) << 20);
        let options = Options {
            tensorrt: self.gpu.tensorrt(self.out),
            build: BuildOptions { workspace, optimization_level },
            graphs: self.graph,
            force: self.force,
        };
        let progress = Progress::detect(self.json);
        if self.dry_run {
            let listed = compile::dry_run(&self.bundle, &options)?;
            let text = if self.json { serde_json::to_string(&listed)? + "\n" } else { listed.to_string() };
            return super::print(&text);
        }
        let Plans { machine, plans, .. } = compile::compile(&self.bundle, &options, progress)?;
        progress.note(&format!("{} plans for {machine}", plans.len()));
        super::report(progress, &json!({ "event": "result", "machine": machine, "plans": plans }))
    }
}
