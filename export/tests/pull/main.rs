//! `arrcoc-export pull` against a hub on this machine: what arrives, what is refused, and what goes on after
//! a break.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

#[path = "../common/mod.rs"]
mod common;
mod faults;
mod program;
mod server;

use std::path::PathBuf;
use std::time::Duration;

use arrcoc_export::hub::{Hub, HubError, Pulled, Repository, Revision, Settings, Token};
use arrcoc_export::progress::Progress;
use tempfile::TempDir;

use server::{COMMIT, Faults, NAME, Server, tree};

/// A hub with a stock checkpoint, and a cache.
struct Place {
    server: Server,
    dir: TempDir,
    token: Option<&'static str>,
    offline: bool,
    patience: Duration,
}

impl Place {
    fn new() -> Self {
        let server = Server::start(&common::stock("smolvlm"));
        let patience = Duration::from_secs(5);
        Self { server, dir: tempfile::tempdir().unwrap(), token: None, offline: false, patience }
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("hub")
    }

    fn hub(&self) -> Hub {
        Hub::new(Settings {
            endpoint: self.server.endpoint.parse().unwrap(),
            cache: self.cache(),
            token: self.token.and_then(|token| Token::parse(token, "the test").unwrap()),
            offline: self.offline,
            patience: self.patience,
            pause: Duration::from_millis(1),
        })
    }

    fn pull(&self) -> Result<Pulled, HubError> {
        self.pull_revision("main")
    }

    fn pull_revision(&self, revision: &str) -> Result<Pulled, HubError> {
        self.hub().pull(&repository(), &Revision::parse(revision).unwrap(), Progress::Silent)
    }

    /// The error of a pull, with its causes; nothing of it may look complete.
    fn error(&self) -> String {
        let error = common::chain(&self.pull().unwrap_err());
        assert!(self.hub().find(&repository(), &Revision::default()).is_none(), "{error}");
        error
    }

    fn blob(&self, name: &str) -> PathBuf {
        self.cache().join("models--org--tiny-model/blobs").join(name)
    }
}

fn repository() -> Repository {
    Repository::parse(NAME).unwrap()
}

#[test]
fn what_a_build_needs_arrives_and_nothing_else() {
    let place = Place::new();
    let pulled = place.pull().unwrap();
    assert_eq!((pulled.snapshot.commit.as_str(), pulled.fetched_bytes), (COMMIT, pulled.bytes));
    assert_eq!(pulled.snapshot.path, place.cache().join("models--org--tiny-model/snapshots").join(COMMIT));
    let stock = common::contents(&common::stock("smolvlm"));
    assert!(common::contents(&pulled.snapshot.path) == stock);
    assert!(place.server.seen().iter().all(|seen| seen.token.is_none() && !seen.path.contains("pytorch")));
    assert_eq!(pulled.files.last().unwrap().name, "model.safetensors");
    for file in tree(&place.cache()).keys() {
        assert!(!file.ends_with(".incomplete") && !file.ends_with(".tmp"), "{file}");
    }

    // Again: the hub is asked what there is, and gives nothing.
    let again = place.pull().unwrap();
    assert_eq!((again.fetched_bytes, again.bytes), (0, pulled.bytes));
    assert!(
        place
            .server
            .seen()
            .iter()
            .all(|seen| !seen.storage && seen.method != "GET" || seen.path.contains("/api/"))
    );
}

#[test]
fn a_complete_revision_is_found_without_a_network() {
    let mut place = Place::new();
    place.offline = true;
    let error = place.pull().unwrap_err().to_string();
    assert!(error.contains("org/tiny-model at main") && error.contains("HF_HUB_OFFLINE"), "{error}");
    assert!(place.server.seen().is_empty());
    place.offline = false;
    let pulled = place.pull().unwrap();
    place.offline = true;
    place.server.seen();
    for revision in ["main", COMMIT] {
        let offline = place.pull_revision(revision).unwrap();
        assert_eq!(offline.snapshot.path, pulled.snapshot.path);
    }
    assert!(place.pull_revision("v2").is_err());
    assert!(place.server.seen().is_empty());

    // A link to nothing is no file.
    let weights = pulled.files.last().unwrap();
    std::fs::remove_file(place.blob(&weights.hash)).unwrap();
    assert!(place.pull().is_err());
    place.offline = false;
    assert_eq!(place.pull().unwrap().fetched_bytes, weights.bytes);
}

#[test]
fn revisions_are_quoted_and_noted() {
    let place = Place::new();
    place.pull_revision("refs/pr/1").unwrap();
    assert_eq!(place.server.seen()[0].path, "/api/models/org/tiny-model/revision/refs%2Fpr%2F1");
    let refs = place.cache().join("models--org--tiny-model/refs");
    assert_eq!(std::fs::read_to_string(refs.join("refs/pr/1")).unwrap(), COMMIT);
    place.pull_revision(COMMIT).unwrap();
    assert_eq!(tree(&refs).len(), 1, "a commit needs no note");
}

#[test]
fn only_the_shards_that_the_index_names_are_fetched() {
    let place = Place::new();
    {
        let mut inside = place.server.inside();
        let weights = inside.files.remove("model.safetensors").unwrap();
        let map = serde_json::json!({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}});
        inside.files.insert("model.safetensors.index.json".into(), (map.to_string().into_bytes(), false));
        inside.files.insert("model-1.safetensors".into(), weights.clone());
        inside.files.insert("model-2.safetensors".into(), weights.clone());
        inside.files.insert("consolidated.safetensors".into(), (vec![1; 5000], true));
        inside.files.insert("chat_templates/default.jinja".into(), (b"{{ 1 }}".to_vec(), false));
    }
    let pulled = place.pull().unwrap();
    let names: Vec<&str> = pulled.files.iter().map(|file| file.name.as_str()).collect();
    assert!(names.ends_with(&["model-1.safetensors", "model-2.safetensors"]), "{names:?}");
    assert!(!names.contains(&"consolidated.safetensors") && names.contains(&"chat_templates/default.jinja"));
    let template = pulled.snapshot.path.join("chat_templates/default.jinja");
    assert_eq!(std::fs::read(template).unwrap(), b"{{ 1 }}");
    let downloads = place.server.seen().iter().filter(|seen| seen.storage && seen.method == "GET").count();
    let distinct: std::collections::BTreeSet<_> =
        pulled.files.iter().filter(|file| file.hash.len() == 64).map(|file| &file.hash).collect();
    assert_eq!(downloads, distinct.len(), "the same contents came twice");
    assert!(place.hub().find(&repository(), &Revision::default()).is_some());
    std::fs::remove_file(pulled.snapshot.path.join("model-2.safetensors")).unwrap();
    assert!(place.hub().find(&repository(), &Revision::default()).is_none());
}

#[test]
fn of_several_at_once_one_fetches() {
    let place = Place::new();
    place.server.fail(Faults { wait: Duration::from_millis(50), ..Faults::default() });
    std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..4).map(|_| scope.spawn(|| place.pull().unwrap())).collect();
        for pull in pulls {
            let path = pull.join().unwrap().snapshot.path;
            assert!(common::contents(&path) == common::contents(&common::stock("smolvlm")));
        }
    });
    let mut blobs: Vec<_> =
        place.server.seen().into_iter().filter(|seen| seen.storage).map(|seen| seen.path).collect();
    let requests = blobs.len();
    blobs.sort();
    blobs.dedup();
    assert_eq!(requests, blobs.len(), "a file was fetched twice");
}
