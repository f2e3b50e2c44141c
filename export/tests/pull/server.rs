//! A hub on this machine, and beside it the storage that large files lie on, as a host of its own. It speaks
//! the part of the hub's API that pulling needs, and fails as it is told.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, Response, StatusCode, Uri, header};
use axum::response::IntoResponse;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use arrcoc_bundle::hex;

pub const NAME: &str = "org/tiny-model";
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Part of every address on the storage; as good as a password there.
pub const SIGNATURE: &str = "X-Signature=storage-secret";

/// What goes wrong.
#[derive(Default)]
pub struct Faults {
    /// Answers with this status and `X-Error-Code` where the path begins so.
    pub status: Option<(&'static str, u16, &'static str)>,
    /// How many answers of `status` there are.
    pub times: usize,
    /// Only this token is let in.
    pub token: Option<&'static str>,
    /// The storage ends a connection after so many bytes of a body.
    pub cut: Option<usize>,
    /// There it says no more, instead of ending it.
    pub stall: bool,
    /// The storage knows no ranges.
    pub no_ranges: bool,
    /// The storage sends another byte at this place.
    pub wrong_byte: Option<usize>,
    /// What is added to the size that the hub says of a large file.
    pub size: Option<(&'static str, i64)>,
    /// Another list of files.
    pub list: Option<Vec<String>>,
    /// Another entity tag.
    pub etag: Option<String>,
    /// The hub redirects the list of files to this.
    pub redirect: Option<String>,
    /// The storage waits before it answers.
    pub wait: Duration,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub storage: bool,
    pub method: String,
    pub path: String,
    pub range: Option<String>,
    pub token: Option<String>,
}

#[derive(Default)]
pub struct Inside {
    pub files: BTreeMap<String, (Vec<u8>, bool)>,
    pub faults: Faults,
    pub seen: Vec<Seen>,
    storage: String,
}

/// The server; it ends with this.
pub struct Server {
    pub endpoint: String,
    inside: Arc<Mutex<Inside>>,
    runtime: Option<Runtime>,
}

impl Server {
    /// A hub with the files of a directory; those above a kilobyte lie on the storage.
    pub fn start(dir: &Path) -> Self {
        let mut files = BTreeMap::new();
        for (name, bytes) in crate::common::contents(dir) {
            let large = bytes.len() > 1024;
            files.insert(name, (bytes, large));
        }
        files.insert("README.md".to_owned(), (b"# tiny".to_vec(), false));
        files.insert("pytorch_model.bin".to_owned(), (b"pickle".to_vec(), true));
        files.insert("onnx/model.onnx".to_owned(), (b"onnx".to_vec(), true));
        let runtime = Runtime::new().unwrap();
        let [hub, storage] = [(), ()].map(|()| runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap());
        let address = |of: &TcpListener| format!("http://{}", of.local_addr().unwrap());
        let (endpoint, of_storage) = (address(&hub), address(&storage));
        let inside = Arc::new(Mutex::new(Inside { files, storage: of_storage, ..Inside::default() }));
        for (listener, is_storage) in [(hub, false), (storage, true)] {
            let router = axum::Router::new().fallback(answer).with_state((is_storage, inside.clone()));
            runtime.spawn(async move { axum::serve(listener, router).await });
        }
        Self { endpoint, inside, runtime: Some(runtime) }
    }

    pub fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap()
    }

    pub fn fail(&self, faults: Faults) {
        self.inside().faults = faults;
    }

    /// Requests since the last call.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.inside().seen)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub fn git_hash(bytes: &[u8]) -> String {
    hex(&Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize())
}

pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

type Shared = (bool, Arc<Mutex<Inside>>);

async fn answer(
    State((is_storage, inside)): State<Shared>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response<Body> {
    let text = |name: header::HeaderName| Some(headers.get(name)?.to_str().ok()?.to_owned());
    let (token, range) = (text(header::AUTHORIZATION), text(header::RANGE));
    let wait = {
        let mut inside = inside.lock().unwrap();
        let (method, path) = (method.to_string(), uri.path().to_owned());
        inside.seen.push(Seen {
            storage: is_storage,
            method,
            path,
            range: range.clone(),
            token: token.clone(),
        });
        inside.faults.wait
    };
    if is_storage {
        tokio::time::sleep(wait).await;
        return from_storage(&inside.lock().unwrap(), &uri, range.as_deref());
    }
    from_hub(&mut inside.lock().unwrap(), uri.path(), range.as_deref(), token.as_deref())
}

fn refuse(status: u16, code: &str) -> Response<Body> {
    let headers = [("x-error-code", code), ("x-error-message", "said by the hub")];
    (StatusCode::from_u16(status).unwrap(), headers).into_response()
}

fn from_hub(inside: &mut Inside, path: &str, range: Option<&str>, token: Option<&str>) -> Response<Body> {
    if inside.faults.token.is_some_and(|wanted| token != Some(&format!("Bearer {wanted}"))) {
        return refuse(401, "RepoNotFound");
    }
    if let Some((prefix, status, code)) = inside.faults.status
        && inside.faults.times > 0
        && path.starts_with(prefix)
    {
        inside.faults.times -= 1;
        return refuse(status, code);
    }
    if let Some(revision) = path.strip_prefix(&format!("/api/models/{NAME}/revision/")) {
        if let Some(to) = &inside.faults.redirect {
            return (StatusCode::TEMPORARY_REDIRECT, [("location", to.as_str())]).into_response();
        }
        let known = [COMMIT, "main", "refs%2Fpr%2F1"].contains(&revision);
        return if known { list(inside).into_response() } else { refuse(404, "RevisionNotFound") };
    }
    let Some(file) = path.strip_prefix(&format!("/{NAME}/resolve/")) else {
        return refuse(404, "RepoNotFound");
    };
    let Some((bytes, large)) = file.split_once('/').and_then(|(_, file)| inside.files.get(file)) else {
        return refuse(404, "EntryNotFound");
    };
    let more = inside.faults.size.filter(|(name, _)| file.ends_with(name)).map_or(0, |(_, more)| more);
    let size = (bytes.len() as i64 + more).to_string();
    let hash = if *large { sha256(bytes) } else { git_hash(bytes) };
    let etag = format!("\"{}\"", inside.faults.etag.as_ref().unwrap_or(&hash));
    if *large {
        let location = format!("{}/blob/{hash}?{SIGNATURE}", inside.storage);
        let headers = [
            ("location", location.as_str()),
            ("x-repo-commit", COMMIT),
            ("x-linked-etag", &etag),
            ("x-linked-size", &size),
            ("etag", "\"of-the-redirect\""),
        ];
        return (StatusCode::FOUND, headers).into_response();
    }
    let mut response = ranged(bytes, range);
    let headers = response.headers_mut();
    headers.insert("etag", etag.parse().unwrap());
    headers.insert("x-repo-commit", COMMIT.parse().unwrap());
    response
}

fn list(inside: &Inside) -> String {
    let names = inside.faults.list.clone().unwrap_or_else(|| inside.files.keys().cloned().collect());
    let siblings: Vec<_> = names.iter().map(|name| serde_json::json!({ "rfilename": name })).collect();
    serde_json::json!({ "id": NAME, "sha": COMMIT, "siblings": siblings, "gated": false }).to_string()
}

fn from_storage(inside: &Inside, uri: &Uri, range: Option<&str>) -> Response<Body> {
    let hash = uri.path().strip_prefix("/blob/").unwrap_or_default();
    let Some((bytes, _)) = inside.files.values().find(|(bytes, large)| *large && sha256(bytes) == hash)
    else {
        return StatusCode::FORBIDDEN.into_response();
    };
    if uri.query() != Some(SIGNATURE) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let mut bytes = bytes.clone();
    if let Some(at) = inside.faults.wrong_byte {
        bytes[at] ^= 1;
    }
    let response = ranged(&bytes, range.filter(|_| !inside.faults.no_ranges));
    let Some(cut) = inside.faults.cut else { return response };
    let (parts, _) = response.into_parts();
    let from = start(range.filter(|_| !inside.faults.no_ranges));
    let some = bytes[from..bytes.len().min(from + cut)].to_vec();
    let end: Option<std::io::Result<Vec<u8>>> =
        (from + cut < bytes.len()).then(|| Err(std::io::Error::other("cut off")));
    let pieces = std::iter::once(Ok(some)).chain(end);
    // The first piece is on its way before the connection ends.
    let pause = if inside.faults.stall { Duration::from_secs(600) } else { Duration::from_millis(20) };
    let pieces = futures::stream::unfold(pieces, move |mut pieces| async move {
        let piece = pieces.next()?;
        if piece.is_err() {
            tokio::time::sleep(pause).await;
        }
        Some((piece, pieces))
    });
    Response::from_parts(parts, Body::from_stream(pieces))
}

fn start(range: Option<&str>) -> usize {
    let from = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    from.unwrap_or(0)
}

fn ranged(bytes: &[u8], range: Option<&str>) -> Response<Body> {
    let (from, total) = (start(range), bytes.len());
    if range.is_none() {
        return ([("content-length", total.to_string())], bytes.to_vec()).into_response();
    }
    if from >= total {
        return StatusCode::RANGE_NOT_SATISFIABLE.into_response();
    }
    let headers = [
        ("content-length", (total - from).to_string()),
        ("content-range", format!("bytes {from}-{}/{total}", total - 1)),
    ];
    (StatusCode::PARTIAL_CONTENT, headers, bytes[from..].to_vec()).into_response()
}

/// Every file and link below a directory: its path, and what is in it or where it leads.
pub fn tree(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
            let kind = path.symlink_metadata().unwrap().file_type();
            if kind.is_dir() {
                open.push(path);
            } else if kind.is_symlink() {
                let target = fs::read_link(&path).unwrap();
                found.insert(name, format!("-> {}", target.display()).into_bytes());
            } else {
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    found
}
