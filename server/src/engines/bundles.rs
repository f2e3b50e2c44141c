//! Engines from bundles on disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrcoc_runtime::bundle::{Bundle, MANIFEST};
use arrcoc_runtime::engine::{RuntimeKind, gpu};
use arrcoc_runtime::generate::Observer;
use arrcoc_runtime::model::{Footprint, Model, Options};

use super::{Available, Found, LoadFailure, Source};
use crate::engine::Engine;

/// Bundles of one directory, or a single one.
#[derive(Debug)]
pub struct Bundles {
    root: PathBuf,
    options: Options,
}

impl Bundles {
    /// Bundles at `root`, or one or two levels below it, as `arrcoc-export build --out ROOT` lays them.
    pub fn new(root: &Path, options: Options) -> Self {
        Self { root: root.to_owned(), options }
    }

    fn describe(&self, dir: &Path) -> Result<Available, LoadFailure> {
        let manifest = Bundle::describe(dir)?;
        self.options.check_target(manifest.target)?;
        let Footprint { weight_bytes, kv_bytes, context_length } = Footprint::of(&manifest, &self.options)?;
        Ok(Available {
            dir: dir.to_owned(),
            model: manifest.model,
            precision: manifest.precision,
            target: manifest.target,
            weight_bytes,
            kv_bytes,
            context_length,
            token_budgets: manifest.vision.token_budgets,
            adapter_target: manifest.vision.adapter_target,
        })
    }
}

impl Source for Bundles {
    fn list(&self) -> Result<Vec<Found>, LoadFailure> {
        let found = |dir: PathBuf| {
            let engine = self.describe(&dir).map_err(|error| error.to_string());
            Found { dir, engine }
        };
        Ok(directories(&self.root)?.into_iter().map(found).collect())
    }

    fn load(&self, engine: &Available, observer: Arc<dyn Observer>) -> Result<Arc<dyn Engine>, LoadFailure> {
        Ok(Arc::new(Model::load(Bundle::open(&engine.dir)?, &self.options, observer)?))
    }

    fn free_gpu_memory(&self) -> Result<Option<u64>, LoadFailure> {
        match self.options.runtime.is_some_and(RuntimeKind::is_gpu) {
            true => Ok(Some(gpu::free_memory(self.options.cuda.device)?)),
            false => Ok(None),
        }
    }
}

/// Directories with a manifest at `root`, below it, or one level deeper, by name.
fn directories(root: &Path) -> std::io::Result<Vec<PathBuf>> {
    if root.join(MANIFEST).is_file() {
        return Ok(vec![root.to_owned()]);
    }
    let mut found = Vec::new();
    for child in below(root)? {
        if child.join(MANIFEST).is_file() {
            found.push(child);
        } else {
            found.extend(below(&child)?.into_iter().filter(|dir| dir.join(MANIFEST).is_file()));
        }
    }
    Ok(found)
}

/// Directories in a directory, by name. Hidden ones are bundles that are still being written.
fn below(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.path().is_dir() && !entry.file_name().to_string_lossy().starts_with('.') {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}
