//! Names of repositories, revisions and files: checked before they become parts of URLs and paths.

use super::error::HubError;

/// The revision that is taken unless another is asked for.
pub const MAIN: &str = "main";

/// Longest name of a repository, as the hub has it.
const NAME_BYTES: usize = 96;
/// Longest revision, and longest part of a file's path.
const PART_BYTES: usize = 255;

/// A repository on the hub: an organisation or a user, and a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    org: String,
    name: String,
}

impl Repository {
    /// Reads `ORG/NAME`.
    ///
    /// # Errors
    /// [`HubError::Name`].
    pub fn parse(text: &str) -> Result<Self, HubError> {
        let refused = || HubError::Name { found: text.to_owned() };
        let (org, name) = text.split_once('/').ok_or_else(refused)?;
        if text.len() > NAME_BYTES || !is_name(org) || !is_name(name) {
            return Err(refused());
        }
        Ok(Self { org: org.to_owned(), name: name.to_owned() })
    }

    /// The organisation or user.
    pub fn org(&self) -> &str {
        &self.org
    }

    /// The name without it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its directory in a cache.
    pub(super) fn folder(&self) -> String {
        format!("models--{}--{}", self.org, self.name)
    }
}

impl std::fmt::Display for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.org, self.name)
    }
}

/// The hub's own rule. `--` would make two repositories share a directory of the cache.
fn is_name(text: &str) -> bool {
    let ends = |end: char| text.starts_with(end) || text.ends_with(end);
    !text.is_empty()
        && text.chars().all(|char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_' | '.'))
        && !ends('-')
        && !ends('.')
        && !text.contains("--")
        && !text.contains("..")
        && !text.ends_with(".git")
}

/// A branch, a tag, a commit, or a pull request's `refs/pr/NUMBER`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision(String);

impl Revision {
    /// Reads a revision.
    ///
    /// # Errors
    /// [`HubError::Revision`], of what could lead out of the cache or mean something in a URL.
    pub fn parse(text: &str) -> Result<Self, HubError> {
        let plain = |char: char| char.is_ascii_alphanumeric() || "-_.+=@#".contains(char);
        let part = |part: &str| {
            !part.is_empty()
                && !part.starts_with(['.', '-'])
                && !part.ends_with('.')
                && !part.ends_with(".lock")
                && !part.contains("..")
                && part.chars().all(plain)
        };
        if text.len() > PART_BYTES || !text.split('/').all(part) {
            return Err(HubError::Revision { found: text.to_owned() });
        }
        Ok(Self(text.to_owned()))
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Revision {
    fn default() -> Self {
        Self(MAIN.to_owned())
    }
}

/// Whether a text is a commit's full hash, and so fit to name a directory.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Checks a file's path as a server lists it.
///
/// # Errors
/// [`HubError::FileName`], where it could lead out of the directory.
pub(super) fn check_file(path: &str) -> Result<(), HubError> {
    let part = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part.len() <= PART_BYTES
            && !part.contains(|char: char| char == '\\' || char.is_control())
    };
    if path.split('/').all(part) { Ok(()) } else { Err(HubError::FileName { file: path.to_owned() }) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_hubs() {
        let repository = Repository::parse("Qwen/Qwen3-VL-2B_x.1").unwrap();
        assert_eq!((repository.org(), repository.name()), ("Qwen", "Qwen3-VL-2B_x.1"));
        assert_eq!(repository.folder(), "models--Qwen--Qwen3-VL-2B_x.1");
        let long = format!("a/{}", "b".repeat(NAME_BYTES));
        for wrong in [
            "",
            "a",
            "a/",
            "/a",
            "a/b/c",
            "../a",
            "a/..",
            "./a",
            "a/b--c",
            "a/-b",
            "a/b.",
            "a/b.git",
            "a/b c",
            "a/ü",
            "a\\b/c",
            "a/b?c",
            "a/b%2f",
            "/etc/passwd",
            &long,
        ] {
            assert!(matches!(Repository::parse(wrong), Err(HubError::Name { .. })), "{wrong}");
        }
    }

    #[test]
    fn revisions_stay_in_their_directory() {
        for right in ["main", "v1.0", "refs/pr/5", "feature/x_y", "1a2b3c", "release+2", "user@x"] {
            assert_eq!(Revision::parse(right).unwrap().as_str(), right);
        }
        let long = "a".repeat(PART_BYTES + 1);
        for wrong in [
            "", ".", "..", "../main", "a/../b", "/main", "main/", "a//b", "-x", ".hidden", "a b", "a\nb",
            "a?b", "a%2e", "a:b", "a\\b", "x.lock", "a..b", "ü", &long,
        ] {
            assert!(matches!(Revision::parse(wrong), Err(HubError::Revision { .. })), "{wrong}");
        }
    }

    #[test]
    fn files_stay_below_the_repository() {
        for right in [
            "config.json",
            "chat_templates/default.jinja",
            "1_Pooling/a b.json",
            "..x",
            "ü.json",
            ".gitattributes",
        ] {
            check_file(right).unwrap();
        }
        for wrong in ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", ".", "a\\..\\b", "a\0", "a\n"] {
            assert!(matches!(check_file(wrong), Err(HubError::FileName { .. })), "{wrong:?}");
        }
    }

    #[test]
    fn commits_are_forty_small_digits() {
        assert!(is_commit(&"0123456789abcdef".repeat(3)[..40]));
        for wrong in
            ["", "main", "../../../../../../../../../../../../../x", &"A".repeat(40), &"a".repeat(41)]
        {
            assert!(!is_commit(wrong), "{wrong}");
        }
    }
}
