//! What users give for a checkpoint: a directory, or a name on the hub.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use arrcoc_export::hub::{Hub, Repository, Revision, Settings};
use arrcoc_export::progress::Progress;

use super::pull::sentence;

/// A checkpoint on this machine.
pub(super) struct Source {
    /// Its directory.
    pub(super) dir: PathBuf,
    /// What a model of it is called where its directory does not say.
    pub(super) name: Option<String>,
}

/// A path that exists is taken as it is. ORG/NAME is looked for in the cache, and fetched where it is not
/// complete there. Anything else stays a path, for the error of whoever opens it.
pub(super) fn source(given: &Path, progress: Progress) -> anyhow::Result<Source> {
    let repository = given.to_str().and_then(|text| Repository::parse(text).ok());
    let Some(repository) = repository.filter(|_| given.symlink_metadata().is_err()) else {
        return Ok(Source { dir: given.to_owned(), name: None });
    };
    let hub = Hub::new(Settings::from_env()?);
    let revision = Revision::default();
    let dir = match hub.find(&repository, &revision) {
        Some(snapshot) => {
            let commit = snapshot.commit.get(..12).unwrap_or(&snapshot.commit);
            progress.note(&format!("{repository} at {commit}, from the cache (`pull` brings it up to date)"));
            snapshot.path
        }
        None => {
            progress.note(&format!("{repository} is no directory here; asking {}", hub.endpoint()));
            let pulled = hub.pull(&repository, &revision, progress).with_context(|| {
                format!("there is no directory {repository}, and the hub does not give one")
            })?;
            progress.note(&sentence(&pulled));
            pulled.snapshot.path
        }
    };
    Ok(Source { dir, name: Some(repository.name().to_owned()) })
}
