//! `arrcoc-export inspect`.

use std::path::PathBuf;

use arrcoc_export::inspect;
use arrcoc_export::progress::Progress;

use super::source::source;

const EXAMPLES: &str = "\
Examples:
  arrcoc-export inspect ./my-checkpoint
  arrcoc-export inspect ./my-checkpoint --tensors
  arrcoc-export inspect engines/my-model/fp32-cpu --json

For a checkpoint it says whether `build` would take it, and the exit status is 1 where it would not;
for a bundle it checks every file's hash first.";

/// Show what is in a checkpoint or a bundle
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Directory of a checkpoint or a bundle, or ORG/NAME on the hub
    path: PathBuf,
    /// List every tensor of a checkpoint
    #[arg(long)]
    tensors: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<()> {
        // The result alone goes to standard output: of JSON, there is one object.
        let progress = if self.json { Progress::Silent } else { Progress::detect(false) };
        let report = inspect::inspect(&source(&self.path, progress)?.dir, self.tensors)?;
        let text = if self.json { serde_json::to_string(&report)? + "\n" } else { report.to_string() };
        super::print(&text)?;
        match report {
            inspect::Report::Checkpoint(inspect::CheckpointReport { problem: Some(problem), .. }) => {
                anyhow::bail!("the checkpoint cannot be built: {problem}")
            }
            _ => Ok(()),
        }
    }
}
