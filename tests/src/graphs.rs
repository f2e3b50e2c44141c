//! For tests that run single graphs: the test bundles, each on a library, which must all compute what the
//! reference computes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use arrcoc_bundle::{Bundle, Role};
use arrcoc_runtime::decoder::Embedder;
use arrcoc_runtime::library::{CpuOptions, Graph, Kernels, Library, LibraryKind, LibraryOptions};
use arrcoc_runtime::tensor::Tensor;

use crate::goldens::Goldens;
use crate::repository;

/// The graphs of a bundle, and the library that runs them.
pub struct Graphs {
    /// The bundle.
    pub bundle: Bundle,
    /// The library.
    pub runtime: Box<dyn Library>,
}

impl Graphs {
    /// Opens the test bundle of `preset` for `target`, which `cargo xtask test` has made.
    ///
    /// # Errors
    /// When either is not to be had.
    pub fn open(preset: &str, target: &str, kind: LibraryKind) -> Result<Self> {
        Self::of(preset, &format!("fp32-{target}"), kind.open(2)?)
    }

    /// Opens the test bundle of `preset` for the CPU in a precision, with our own kernels or without.
    ///
    /// # Errors
    /// When either is not to be had.
    pub fn on_cpu(preset: &str, precision: &str, kernels: Kernels) -> Result<Self> {
        let options = LibraryOptions { threads: 2, cpu: CpuOptions { kernels }, ..LibraryOptions::default() };
        Self::of(preset, &format!("{precision}-cpu"), LibraryKind::Ort.open_with(&options)?)
    }

    /// The same with profiles of every graph under `profiles`, for [`operators_that_ran`].
    ///
    /// # Errors
    /// When either is not to be had.
    pub fn profiled(preset: &str, precision: &str, kernels: Kernels, profiles: &Path) -> Result<Self> {
        let options = LibraryOptions {
            threads: 2,
            cpu: CpuOptions { kernels },
            profile: Some(profiles.to_owned()),
            ..LibraryOptions::default()
        };
        Self::of(preset, &format!("{precision}-cpu"), LibraryKind::Ort.open_with(&options)?)
    }

    fn of(preset: &str, bundle: &str, runtime: Box<dyn Library>) -> Result<Self> {
        let dir: PathBuf = repository("target/test-bundles").join(preset).join(bundle);
        let hint = || format!("no test bundle at {}: run `cargo xtask test`, which makes it", dir.display());
        Ok(Self { bundle: Bundle::open(&dir).with_context(hint)?, runtime })
    }

    /// The embeddings of tokens, \[1, tokens, width\].
    ///
    /// # Errors
    /// When the library fails.
    pub fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        let graph = self.runtime.load_from(&self.bundle, self.bundle.manifest().only(Role::Embedding))?;
        Ok(Embedder::new(graph, self.bundle.manifest().decoder.hidden_size).embed(ids)?)
    }

    /// The embeddings of the goldens' prompt, with the image's placeholder replaced by its tokens.
    ///
    /// # Errors
    /// When there is no prompt, or the library fails.
    pub fn prompt(&self, goldens: &Goldens, visual: &Tensor) -> Result<Tensor> {
        let manifest = self.bundle.manifest();
        let (width, image) = (manifest.decoder.hidden_size, manifest.vision.image_token_id);
        let ids: Vec<u32> = goldens.ints("prompt_ids")?.iter().map(|&id| id as u32).collect();
        let text = self.embed(&ids)?;
        let mut rows: Vec<f32> = Vec::new();
        for (id, row) in ids.iter().zip(text.as_slice::<f32>()?.chunks(width)) {
            rows.extend(if *id == image { visual.as_slice()? } else { row });
        }
        Ok(Tensor::from_vec(&[1, rows.len() / width, width], rows)?)
    }

    /// Loads one graph.
    ///
    /// # Errors
    /// When it does not load.
    pub fn load(&self, name: &str) -> Result<Loaded> {
        Ok(Loaded(self.runtime.load_from(&self.bundle, name)?))
    }
}

/// A loaded graph whose outputs are asked for by name.
pub struct Loaded(Box<dyn Graph>);

impl Loaded {
    /// Runs the graph.
    ///
    /// # Errors
    /// When the library fails.
    pub fn run(&mut self, inputs: &[(&str, Tensor)]) -> Result<Outputs> {
        Ok(Outputs(self.0.run(inputs)?))
    }
}

/// How often each operator ran, by the profiles under `dir`. ONNX Runtime writes a profile when its graph is
/// dropped.
///
/// # Errors
/// When a file is no profile.
pub fn operators_that_ran(dir: &Path) -> Result<BTreeMap<String, usize>> {
    let mut counts = BTreeMap::new();
    for file in fs::read_dir(dir)? {
        let events: Vec<serde_json::Value> = serde_json::from_slice(&fs::read(file?.path())?)?;
        for event in events.iter().filter(|event| event["cat"] == "Node") {
            if let Some(operator) = event["args"]["op_name"].as_str() {
                *counts.entry(operator.to_owned()).or_default() += 1;
            }
        }
    }
    Ok(counts)
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
