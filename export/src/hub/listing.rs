//! What the hub says of a repository: its files at a revision, and each file's size and hash.

use std::io::Read as _;

use arrcoc_bundle::quote::quote;
use serde::Deserialize;

use super::client::{Ask, Client, Reply, shown};
use super::error::HubError;
use super::hash::Digest;
use super::names::{Repository, Revision, check_file, is_commit};

/// Longest list of files: some hundred thousand names.
const LIST_BYTES: u64 = 16 << 20;

/// The files of a repository at a revision.
#[derive(Debug)]
pub(super) struct Listing {
    /// The commit, 40 hexadecimal digits.
    pub(super) commit: String,
    /// Paths below the repository, with `/`.
    pub(super) files: Vec<String>,
}

/// What the hub says of a file.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) path: String,
    pub(super) digest: Digest,
    /// Bytes.
    pub(super) size: u64,
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// Asks which files there are.
pub(super) fn list(
    client: &Client,
    repository: &Repository,
    revision: &Revision,
) -> Result<Listing, HubError> {
    let (org, name) = (repository.org(), repository.name());
    let url = client.url(["api", "models", org, name, "revision", revision.as_str()]);
    let reply = client.ask(Ask::Get(0), &url)?;
    let mut bytes = Vec::new();
    let broken = |source| HubError::Broken { url: shown(&url), source };
    reply.body.into_reader().take(LIST_BYTES + 1).read_to_end(&mut bytes).map_err(broken)?;
    if bytes.len() as u64 > LIST_BYTES {
        return Err(HubError::ListTooLong { url: shown(&url), limit: LIST_BYTES });
    }
    let not_a_hub = |reason: String| HubError::NotAHub { url: shown(&url), reason };
    let info: Info = serde_json::from_slice(&bytes).map_err(|error| {
        let error = arrcoc_bundle::quote::excerpt(&error.to_string());
        not_a_hub(format!("expected JSON with `sha` and `siblings`, found {error}"))
    })?;
    if !is_commit(&info.sha) {
        return Err(not_a_hub(format!("expected a commit for `sha`, found {}", quote(&info.sha))));
    }
    let files: Vec<String> = info.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
    files.iter().try_for_each(|file| check_file(file))?;
    Ok(Listing { commit: info.sha, files })
}

/// The address of a file.
pub(super) fn address(client: &Client, repository: &Repository, commit: &str, path: &str) -> url::Url {
    client.url([repository.org(), repository.name(), "resolve", commit].into_iter().chain(path.split('/')))
}

/// Asks for a file's size and hash.
pub(super) fn facts(
    client: &Client,
    repository: &Repository,
    commit: &str,
    path: &str,
) -> Result<Facts, HubError> {
    let url = address(client, repository, commit, path);
    let reply = client.ask(Ask::Head, &url)?;
    let not_a_hub = |reason: String| HubError::NotAHub { url: shown(&url), reason };
    let found = reply.text("x-repo-commit").unwrap_or_default();
    if found != commit {
        return Err(not_a_hub(format!(
            "expected the header X-Repo-Commit: {commit}, found {}",
            quote(found)
        )));
    }
    let etag = reply.text("x-linked-etag").or_else(|| reply.text("etag")).unwrap_or_default();
    let digest = Digest::from_etag(etag).ok_or_else(|| {
        not_a_hub(format!("expected a SHA-1 or SHA-256 for an ETag, found {}", quote(etag)))
    })?;
    let size = size(&reply)
        .ok_or_else(|| not_a_hub("expected X-Linked-Size or Content-Length, found neither".into()))?;
    Ok(Facts { path: path.to_owned(), digest, size })
}

/// The file's size; the length of a redirect's body is not meant.
fn size(reply: &Reply) -> Option<u64> {
    let own = reply.text("content-length").filter(|_| reply.status.is_success());
    reply.text("x-linked-size").or(own)?.trim().parse().ok()
}
