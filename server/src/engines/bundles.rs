//! Engines from bundles on disk.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arrcoc_bundle::{Bundle, MANIFEST};
use arrcoc_runtime::generate::Observer;
use arrcoc_runtime::library::{LibraryKind, gpu};
use arrcoc_runtime::model::{Footprint, MemoryNeed, Model, Options};

use super::trial::Trial;
use super::{Available, Found, LoadFailure, Source};
use crate::engine::Engine;
use crate::memory;

/// Bundles of one directory, or a single one.
#[derive(Debug)]
pub struct Bundles {
    root: PathBuf,
    options: Options,
    /// How engines are tried out; `None` believes all of them.
    trial: Option<Trial>,
    /// Digests of bundles that were loaded or tried in the life of this process: its options do not change.
    proven: Mutex<HashSet<[u8; 32]>>,
}

/// The bundle on disk is not the one that was tried.
#[derive(Debug, thiserror::Error)]
#[error("`{}` was changed while it was tried out; ask for it again", .0.display())]
struct Changed(PathBuf);

impl Bundles {
    /// Bundles at `root`, or one or two levels below it, as `arrcoc-export build --out ROOT` lays them.
    pub fn new(root: &Path, options: Options) -> Self {
        Self { root: root.to_owned(), options, trial: None, proven: Mutex::default() }
    }

    /// The same, with engines after the first tried out before they are loaded.
    #[must_use]
    pub fn tried_by(self, trial: Trial) -> Self {
        Self { trial: Some(trial), ..self }
    }

    fn proven(&self) -> MutexGuard<'_, HashSet<[u8; 32]>> {
        self.proven.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn describe(&self, dir: &Path) -> Result<Available, LoadFailure> {
        let manifest = Bundle::describe(dir)?;
        self.options.check_target(manifest.target, manifest.precision)?;
        let Footprint { weight_bytes, kv_bytes, context_length } = Footprint::of(&manifest, &self.options)?;
        Ok(Available {
            dir: dir.to_owned(),
            model: manifest.model,
            precision: manifest.precision,
            target: manifest.target,
            on_gpu: self.options.runtime.is_some_and(LibraryKind::is_gpu),
            weight_bytes,
            kv_bytes,
            context_length,
            token_budgets: manifest.vision.token_budgets,
            embeds_target: manifest.vision.embeds_target,
        })
    }
}

impl Source for Bundles {
    fn list(&self) -> Result<Vec<Found>, LoadFailure> {
        let (places, unreadable) = directories(&self.root)?;
        let found = |dir: PathBuf| {
            let engine = self.describe(&dir).map_err(|error| error.to_string());
            Found { dir, engine }
        };
        Ok(places.into_iter().map(found).chain(unreadable).collect())
    }

    fn need(&self, engine: &Available) -> Result<MemoryNeed, LoadFailure> {
        Ok(MemoryNeed::of(&Bundle::describe(&engine.dir)?, &self.options)?)
    }

    fn try_out(&self, engine: &Available, need: &MemoryNeed) -> Result<MemoryNeed, LoadFailure> {
        let digest = Bundle::digest_at(&engine.dir)?;
        let Some(trial) = self.trial.as_ref().filter(|_| !self.proven().contains(&digest)) else {
            return Ok(*need);
        };
        let on_gpu = self.options.runtime.is_some_and(LibraryKind::is_gpu);
        let started = Instant::now();
        // What CUDA maps says nothing about what it takes.
        let limit = (!on_gpu).then(|| memory::trial_limit(need));
        let peak = trial.run(&engine.dir, limit)?;
        let seconds = started.elapsed().as_secs_f64();
        tracing::info!(model = engine.model, precision = %engine.precision, seconds, peak_bytes = peak, "tried out");
        self.proven().insert(digest);
        Ok(if on_gpu { *need } else { need.measured(peak.unwrap_or(0)) })
    }

    fn load(&self, engine: &Available, observer: Arc<dyn Observer>) -> Result<Arc<dyn Engine>, LoadFailure> {
        let bundle = Bundle::open(&engine.dir)?;
        let digest = bundle.digest();
        let known = {
            let proven = self.proven();
            proven.is_empty() || proven.contains(&digest)
        };
        if self.trial.is_some() && !known {
            return Err(Changed(engine.dir.clone()).into());
        }
        let model = Model::load(bundle, &self.options, observer)?;
        self.proven().insert(digest);
        Ok(Arc::new(model))
    }

    fn free_gpu_memory(&self) -> Result<Option<u64>, LoadFailure> {
        match self.options.runtime.is_some_and(LibraryKind::is_gpu) {
            true => Ok(Some(gpu::free_memory(self.options.library.cuda.device)?)),
            false => Ok(None),
        }
    }
}

/// Directories with a manifest at `root`, below it, or one level deeper, by name; and those that cannot be
/// looked into, which are no reason to do without the others.
fn directories(root: &Path) -> std::io::Result<(Vec<PathBuf>, Vec<Found>)> {
    if root.join(MANIFEST).is_file() {
        return Ok((vec![root.to_owned()], Vec::new()));
    }
    let (mut found, mut unreadable) = (Vec::new(), Vec::new());
    for child in below(root)? {
        if child.join(MANIFEST).is_file() {
            found.push(child);
            continue;
        }
        match below(&child) {
            Ok(dirs) => found.extend(dirs.into_iter().filter(|dir| dir.join(MANIFEST).is_file())),
            Err(error) => {
                let engine = Err(format!("the directory cannot be read: {error}"));
                unreadable.push(Found { dir: child, engine });
            }
        }
    }
    Ok((found, unreadable))
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
