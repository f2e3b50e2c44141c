//! The combinations of bundle and library that must all compute what the reference computes.

use std::path::PathBuf;

use anyhow::{Context, Result};
use arrcoc_runtime::bundle::Bundle;
use arrcoc_runtime::engine::{Graph, Runtime, RuntimeKind};
use arrcoc_runtime::tensor::Tensor;

use crate::repository;

/// A bundle and the library that runs it.
pub struct Engine {
    /// The bundle.
    pub bundle: Bundle,
    /// The library.
    pub runtime: Box<dyn Runtime>,
}

impl Engine {
    /// Opens the test bundle of `preset` for `target`, which `cargo xtask test` has made.
    ///
    /// # Errors
    /// When either is not to be had.
    pub fn open(preset: &str, target: &str, kind: RuntimeKind) -> Result<Self> {
        let dir: PathBuf = repository("target/test-bundles").join(preset).join(format!("fp32-{target}"));
        let hint = || format!("no test bundle at {}: run `cargo xtask test`, which makes it", dir.display());
        let bundle = Bundle::open(&dir).with_context(hint)?;
        Ok(Self { bundle, runtime: kind.open(2)? })
    }

    /// Loads one graph.
    ///
    /// # Errors
    /// When it does not load.
    pub fn graph(&self, name: &str) -> Result<Stage> {
        Ok(Stage(self.bundle.load_graph(self.runtime.as_ref(), name)?))
    }
}

/// A loaded graph whose outputs are asked for by name.
pub struct Stage(Box<dyn Graph>);

impl Stage {
    /// Runs the graph.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn run(&mut self, inputs: &[(&str, Tensor)]) -> Result<Outputs> {
        Ok(Outputs(self.0.run(inputs)?))
    }
}

/// What a graph returned.
pub struct Outputs(Vec<(String, Tensor)>);

impl Outputs {
    /// One output.
    ///
    /// # Errors
    /// When the graph has none of that name.
    pub fn tensor(&self, name: &str) -> Result<&Tensor> {
        let found = self.0.iter().find(|(candidate, _)| candidate == name);
        found.map(|(_, tensor)| tensor).with_context(|| format!("no output `{name}`"))
    }

    /// The floats of one output.
    ///
    /// # Errors
    /// When there is none, or it holds other elements.
    pub fn floats(&self, name: &str) -> Result<&[f32]> {
        Ok(self.tensor(name)?.as_slice::<f32>()?)
    }
}
