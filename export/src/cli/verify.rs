//! `arrcoc-export verify`.

use std::path::PathBuf;

use anyhow::bail;
use arrcoc_export::progress::Progress;
use arrcoc_export::verify::{self, Options};
use arrcoc_runtime::library::{CudaOptions, LibraryKind, LibraryOptions};

use super::gpu::Gpu;

const EXAMPLES: &str = "\
Examples:
  arrcoc-export verify engines/my-model/fp32-cpu
  arrcoc-export verify engines/my-model/fp32-portable --image-size 1024
  arrcoc-export verify engines/my-model/fp32-cpu --checkpoint ./my-checkpoint
  arrcoc-export verify engines/my-model/fp16-portable --runtime tensorrt --context 8192

Looks for weights that are not numbers and names them. Then the portable fp32 bundle of the same
checkpoint (fp32-portable beside it) answers a question about a random image on tract, and every run of its
graphs is repeated with this bundle on ONNX Runtime, on the CPU or where --runtime says, and compared.
The exit status is 1 when anything is beyond its tolerance.

A random image is enough where nothing was calibrated: what is proven is that both compute the same
function, not that the function is a good one. An fp8 bundle saturates what its calibration did not
see: give it an image of the kind that it was calibrated on.";

/// Prove a bundle: finite weights, and the same results on two inference libraries
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Directory of the bundle
    bundle: PathBuf,
    /// Portable bundle of the same checkpoint [default: fp32-portable beside the bundle]
    #[arg(long, value_name = "DIR")]
    reference: Option<PathBuf>,
    /// Also check that the bundle was built from this checkpoint, as it is now
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// Image to test with; fp8's scales fit images like those of its calibration [default: a random one]
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Side of the encoder's input, pixels, where it has several sizes [default: the smallest that fills
    /// every tier]
    #[arg(long, value_name = "PIXELS")]
    image_size: Option<usize>,
    /// Tokens to decode
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    tokens: u16,
    /// Seed of the test image and question
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Threads of ONNX Runtime [default: all cores]
    #[arg(long)]
    threads: Option<usize>,
    /// What runs the bundle: ort (ONNX Runtime on the CPU), or cuda (cuda and portable bundles), or, for
    /// portable ones, tensorrt (on plans that `arrcoc-export compile` made with the same --device, --context
    /// and --prefill-chunk)
    #[arg(long, value_name = "NAME", default_value = "ort", value_parser = runtime)]
    runtime: LibraryKind,
    /// Directory of TensorRT plans [default: .tensorrt beside the bundle]
    #[arg(long, value_name = "DIR")]
    plans: Option<PathBuf>,
    #[command(flatten)]
    gpu: Gpu,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn runtime(name: &str) -> Result<LibraryKind, String> {
    let known = [LibraryKind::Ort, LibraryKind::Cuda, LibraryKind::TensorRt];
    known
        .into_iter()
        .find(|kind| kind.name() == name)
        .ok_or_else(|| "expected ort, cuda or tensorrt".to_owned())
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let Self { bundle, reference, checkpoint, image, image_size, tokens, seed, runtime, json, .. } = self;
        let library = LibraryOptions {
            threads: self
                .threads
                .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
            cuda: CudaOptions { device: self.gpu.device, ..CudaOptions::default() },
            tensorrt: self.gpu.tensorrt(self.plans),
            ..LibraryOptions::default()
        };
        let options = Options {
            reference,
            checkpoint,
            image,
            image_size,
            tokens: tokens.into(),
            seed,
            runtime,
            library,
        };
        let progress = if json { Progress::Silent } else { Progress::detect(false) };
        let report = verify::verify(&bundle, &options, progress)?;
        let text = if json { serde_json::to_string(&report)? + "\n" } else { report.to_string() };
        super::print(&text)?;
        if !report.passed {
            bail!("{} failed verification", bundle.display());
        }
        Ok(())
    }
}
