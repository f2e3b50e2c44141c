//! What can go wrong between a name on the hub and its files in the cache.

use std::io;
use std::path::PathBuf;

use arrcoc_bundle::quote::{Brief, excerpt, quote};

use crate::checkpoint::CheckpointError;
use crate::staging::StagingError;

/// A checkpoint cannot be had from the hub. URLs are without what follows a `?`: that can be a signature.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// Not a repository's name.
    #[error(
        "expected a repository's name, ORG/NAME in letters, digits, `-`, `_` and `.`, found {}",
        quote(found)
    )]
    Name {
        /// What was given.
        found: String,
    },
    /// Not a revision's name.
    #[error("expected a branch, a tag, a commit or refs/pr/NUMBER for a revision, found {}", quote(found))]
    Revision {
        /// What was given.
        found: String,
    },
    /// `HF_ENDPOINT` is no address.
    #[error("HF_ENDPOINT: expected an address like https://huggingface.co, found {}", quote(found))]
    Endpoint {
        /// What was given.
        found: String,
    },
    /// A token that no header can hold.
    #[error("the token in {origin} is none: expected visible ASCII characters on one line")]
    Token {
        /// The variable or the file.
        origin: String,
    },
    /// There is no place for a cache.
    #[error("there is no home directory for a cache; set HF_HOME or HF_HUB_CACHE")]
    NoHome,
    /// The network is forbidden, and the cache has not all.
    #[error(
        "{name} at {revision} is not complete in {}, and HF_HUB_OFFLINE forbids to fetch it; unset that, or copy the \
         cache from a machine that has it", cache.display()
    )]
    Offline {
        /// The repository.
        name: String,
        /// The revision.
        revision: String,
        /// The cache.
        cache: PathBuf,
    },
    /// The hub does not tell who asks without a right from who misspells.
    #[error(
        "the hub does not show {url} to {}: check the spelling; for a private repository, or one with a licence to \
         accept, {}", asker(*token), advice(*token)
    )]
    Unauthorized {
        /// What was asked for.
        url: String,
        /// Whether a token was sent.
        token: bool,
    },
    /// The licence has not been accepted, or access not been granted.
    #[error(
        "the hub keeps the files of {page} for those who have accepted its conditions ({}): open that page, accept \
         them, wait where access is granted by hand, and {}", excerpt(said), advice(*token)
    )]
    Gated {
        /// The repository's page.
        page: String,
        /// Whether a token was sent.
        token: bool,
        /// What the hub said.
        said: String,
    },
    /// There is no such thing.
    #[error("the hub has no {url} ({}): check the spelling of name and --revision", excerpt(said))]
    NotFound {
        /// What was asked for.
        url: String,
        /// What the hub said.
        said: String,
    },
    /// Any other status.
    #[error(
        "{url} answered with status {status} ({}); try again later, or ask who runs that server",
        excerpt(said)
    )]
    Status {
        /// What was asked for.
        url: String,
        /// Status of HTTP.
        status: u16,
        /// What the server said.
        said: String,
    },
    /// A ring, or a chain without end.
    #[error("{url} was redirected too often")]
    Redirects {
        /// What was asked for.
        url: String,
    },
    /// A redirect to nowhere, or out of encryption.
    #[error("{url} is redirected to {}: expected an https address", quote(location))]
    Location {
        /// Who redirects.
        url: String,
        /// Where to.
        location: String,
    },
    /// The network.
    #[error("cannot reach {url}; check the network, and HTTPS_PROXY where there is a proxy")]
    Transport {
        /// What was asked for.
        url: String,
        /// Why.
        source: Box<Brief<ureq::Error>>,
    },
    /// The answer is not a hub's.
    #[error("{url} is not answered as a hub does: {reason}; check HF_ENDPOINT")]
    NotAHub {
        /// What was asked for.
        url: String,
        /// Expected and found.
        reason: String,
    },
    /// A list of files beyond reason.
    #[error("the list of files of {url} is longer than {limit} bytes: such a repository is no checkpoint")]
    ListTooLong {
        /// What was asked for.
        url: String,
        /// Bytes at most.
        limit: u64,
    },
    /// A name that leads out of the directory.
    #[error("the hub lists a file {}: expected a path without `..`, below the repository", quote(file))]
    FileName {
        /// The name.
        file: String,
    },
    /// Not a checkpoint.
    #[error("{name} has no config.json, found {found}: expected a checkpoint as transformers saves it")]
    NoConfig {
        /// The repository.
        name: String,
        /// What is there.
        found: String,
    },
    /// Weights of other forms only.
    #[error(
        "{name} has no weights in model.safetensors or model.safetensors.index.json, found {found}; pickled weights \
         can run code and are never fetched, GGUF and ONNX files are not read here: look for the original \
         repository, or for a revision with safetensors (refs/pr/NUMBER)"
    )]
    NoSafetensors {
        /// The repository.
        name: String,
        /// What is there.
        found: String,
    },
    /// The index of shards cannot be used.
    #[error("the index of {name} cannot be used")]
    Index {
        /// The repository.
        name: String,
        /// Why.
        source: Box<CheckpointError>,
    },
    /// The index names what is no weight file of the repository.
    #[error(
        "the index of {name} names {}: expected a .safetensors file that the repository has",
        quote(shard)
    )]
    Shard {
        /// The repository.
        name: String,
        /// The file that it names.
        shard: String,
    },
    /// A configuration as large as weights.
    #[error("{file} has {size} bytes: expected {limit} at most of such a file")]
    TooLarge {
        /// The file.
        file: String,
        /// Its size, bytes.
        size: u64,
        /// Bytes at most.
        limit: u64,
    },
    /// The server's idea of a file's size is not the hub's.
    #[error(
        "{file} was to have {expected} bytes, and the server sends {found}; try again, or another revision"
    )]
    Size {
        /// The file.
        file: String,
        /// Bytes that the hub says.
        expected: u64,
        /// Bytes that come.
        found: u64,
    },
    /// What came is not what the hub has.
    #[error(
        "{file} came with the hash {found}, and the hub says {expected}: it was changed on its way, and is not \
         kept; try again, without a proxy or mirror if there is one"
    )]
    Hash {
        /// The file.
        file: String,
        /// The hub's hash.
        expected: String,
        /// Of what came.
        found: String,
    },
    /// The connection ends again and again.
    #[error(
        "{file} was cut off at {at} of {size} bytes, again and again; what has come is kept: run the same command \
         again to go on from there"
    )]
    CutOff {
        /// The file.
        file: String,
        /// Bytes that have come.
        at: u64,
        /// Bytes that there are.
        size: u64,
        /// The last reason, where there is one.
        source: Option<Box<HubError>>,
    },
    /// The body of an answer ended early.
    #[error("the connection to {url} broke")]
    Broken {
        /// What was asked for.
        url: String,
        /// Why.
        source: io::Error,
    },
    /// The disk.
    #[error("no space is left for {}; make some and run the same command again: it goes on where it stopped", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Not enough room for all that is to come.
    #[error(transparent)]
    Space(#[from] StagingError),
    /// The cache cannot be read or written.
    #[error("cannot use {} in the cache", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl HubError {
    /// A failure of the file system at `path`.
    pub(super) fn io(path: &std::path::Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            // A limit on files (`ulimit -f`) or a quota ends a download as a full disk does.
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::Full { path, source }
            }
            _ => Self::Io { path, source },
        }
    }

    /// Whether the same request may succeed a moment later.
    pub(super) fn passes(&self) -> bool {
        match self {
            Self::Transport { .. } | Self::Broken { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500..=599),
            _ => false,
        }
    }
}

fn asker(token: bool) -> &'static str {
    if token { "the owner of this token" } else { "somebody without a token" }
}

fn advice(token: bool) -> &'static str {
    if token {
        "take a token of an account that has access, with the right to read that repository (HF_TOKEN, or `hf auth login`)"
    } else {
        "set HF_TOKEN to a token of an account that has access, or run `hf auth login`"
    }
}
