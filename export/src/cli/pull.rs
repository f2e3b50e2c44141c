//! `arrcoc-export pull`.

use arrcoc_export::hub::{Hub, MAIN, Pulled, Repository, Revision, Settings};
use arrcoc_export::progress::{Progress, human_bytes};
use serde_json::{Value, json};

use super::{print, report};

const EXAMPLES: &str = "\
Examples:
  arrcoc-export pull HuggingFaceTB/SmolVLM-256M-Instruct
  arrcoc-export pull ORG/NAME --revision v1.0
  arrcoc-export build \"$(arrcoc-export pull ORG/NAME --revision refs/pr/1)\" --name my-model

Fetches what a build needs, and no more: configurations, tokenizer, chat template and
safetensors files; never pickled weights. Prints the checkpoint's directory. It lies in the cache
of Python's huggingface_hub, which shares it; what is there already is not fetched again, and what
was cut off goes on from where it stopped. Every file has the hub's hash. `build` takes ORG/NAME
too, and pulls where the cache has nothing; to bring a branch up to date, pull it.

Variables, as huggingface_hub reads them:
  HF_HOME, HF_HUB_CACHE   where the cache is [default: ~/.cache/huggingface, and hub in it]
  HF_TOKEN                for private and gated repositories; else what `hf auth login` wrote
  HF_ENDPOINT             another hub or a mirror [default: https://huggingface.co]
  HF_HUB_OFFLINE          1 asks the cache alone
  HTTPS_PROXY, NO_PROXY   a proxy";

/// Fetch a checkpoint from the Hugging Face hub
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Repository on the hub
    #[arg(value_name = "ORG/NAME", value_parser = repository)]
    repository: Repository,
    /// Branch, tag, commit, or refs/pr/NUMBER
    #[arg(long, default_value = MAIN, value_parser = revision)]
    revision: Revision,
    /// Report in JSON, one object a line, on standard output
    #[arg(long)]
    json: bool,
}

fn repository(text: &str) -> Result<Repository, String> {
    Repository::parse(text).map_err(|error| error.to_string())
}

fn revision(text: &str) -> Result<Revision, String> {
    Revision::parse(text).map_err(|error| error.to_string())
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let Self { repository, revision, json } = self;
        let progress = Progress::detect(json);
        let pulled = Hub::new(Settings::from_env()?).pull(&repository, &revision, progress)?;
        if !json {
            progress.note(&sentence(&pulled));
            return print(&format!("{}\n", pulled.snapshot.path.display()));
        }
        let mut result = json!({ "event": "result" });
        if let (Some(result), Value::Object(pulled)) =
            (result.as_object_mut(), serde_json::to_value(&pulled)?)
        {
            result.extend(pulled);
        }
        report(progress, &result)
    }
}

/// What a pull did, for people.
pub(super) fn sentence(pulled: &Pulled) -> String {
    let name = &pulled.snapshot.repository;
    let commit = pulled.snapshot.commit.get(..12).unwrap_or(&pulled.snapshot.commit);
    match (pulled.files.len(), pulled.fetched_bytes) {
        // Offline nobody counted.
        (0, _) => format!("{name} at {commit} is in the cache"),
        (files, 0) => {
            format!("{name} at {commit} is in the cache: {files} files, {}", human_bytes(pulled.bytes))
        }
        (files, fetched) => format!(
            "{name} at {commit}: {files} files, {}, {} of them fetched, {:.1} s",
            human_bytes(pulled.bytes),
            human_bytes(fetched),
            pulled.seconds
        ),
    }
}
