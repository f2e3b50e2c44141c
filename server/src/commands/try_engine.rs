//! `arrcoc-serve try-engine`: loads a bundle for the server that started this process, and says on one line
//! how that went. Not for users.

use std::io::Read;
use std::sync::Arc;

use arrcoc_bundle::Bundle;
use arrcoc_runtime::console;
use arrcoc_runtime::generate::NoObserver;
use arrcoc_runtime::model::{Model, Options, WarmUp};
use arrcoc_server::config::Config;
use arrcoc_server::engines::trial::Answer;
use arrcoc_server::memory;

use super::{Failure, causes, load};

/// Longest configuration that is read, bytes.
const MOST_BYTES: u64 = 1 << 20;

pub(crate) fn run(limit: Option<u64>) -> Result<(), Failure> {
    memory::confine(limit)?;
    let mut text = Vec::new();
    std::io::stdin().take(MOST_BYTES).read_to_end(&mut text)?;
    let config = Config::from_yaml(&text)?;
    load::start_quiet_logging(&config);
    let answer = match try_out(&config) {
        Ok(_model) => Answer::Ready { peak_bytes: memory::peak() },
        Err(error) => Answer::Refused(causes(&error)),
    };
    console::print(&format!("{}\n", serde_json::to_string(&answer)?))?;
    Ok(())
}

/// Loads the bundle and runs it at its longest lengths.
fn try_out(config: &Config) -> anyhow::Result<Model> {
    let bundle = Bundle::open(config.root()?)?;
    let options = Options { warm_up: WarmUp::Longest, ..config.options() };
    Ok(Model::load(bundle, &options, Arc::new(NoObserver))?)
}
