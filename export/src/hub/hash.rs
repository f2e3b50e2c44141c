//! Hashes by which the hub names files: SHA-256 of large ones (Git LFS), Git's own of small ones.

use arrcoc_bundle::hex;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// What a file's contents must hash to. Its text is the file's name among the cache's blobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Digest {
    /// SHA-256 of the bytes.
    Sha256(String),
    /// SHA-1 of a Git blob: a header with the length, and the bytes.
    Git(String),
}

impl Digest {
    /// Reads the entity tag of an answer; `None` where it is no hash.
    pub(super) fn from_etag(etag: &str) -> Option<Self> {
        let text = etag.trim().trim_start_matches("W/").trim_matches('"');
        let is_hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        match text.len() {
            64 if is_hex => Some(Self::Sha256(text.to_owned())),
            40 if is_hex => Some(Self::Git(text.to_owned())),
            _ => None,
        }
    }

    /// In hexadecimal digits.
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Sha256(text) | Self::Git(text) => text,
        }
    }

    /// Starts to hash a file of `size` bytes as this one was hashed.
    pub(super) fn hasher(&self, size: u64) -> Hasher {
        match self {
            Self::Sha256(_) => Hasher::Sha256(Sha256::new()),
            Self::Git(_) => Hasher::Git(Sha1::new_with_prefix(format!("blob {size}\0"))),
        }
    }
}

/// A hash under way.
#[derive(Debug, Clone)]
pub(super) enum Hasher {
    Sha256(Sha256),
    Git(Sha1),
}

impl Hasher {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Git(hasher) => hasher.update(bytes),
        }
    }

    /// In hexadecimal digits.
    pub(super) fn finish(self) -> String {
        match self {
            Self::Sha256(hasher) => hex(&hasher.finalize()),
            Self::Git(hasher) => hex(&hasher.finalize()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// `printf hello | git hash-object --stdin`, `printf hello | sha256sum`.
    #[test]
    fn hashes_are_those_of_git_and_of_lfs() {
        let git = "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0";
        let sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        for (etag, expected) in
            [(git, git), (&format!("\"{sha256}\""), sha256), (&format!("W/\"{git}\""), git)]
        {
            let digest = Digest::from_etag(etag).unwrap();
            let mut hasher = digest.hasher(5);
            hasher.update(b"hel");
            hasher.update(b"lo");
            assert_eq!((digest.as_str(), hasher.finish().as_str()), (expected, expected));
        }
    }

    #[test]
    fn other_tags_are_no_hashes() {
        for tag in
            ["", "\"\"", "../../x", "\"d41d8cd98f00b204e9800998ecf8427e\"", &"g".repeat(40), &"A".repeat(64)]
        {
            assert_eq!(Digest::from_etag(tag), None, "{tag}");
        }
    }
}
