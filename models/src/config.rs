//! `config.json` in two stages: raw structures mirror the file, validated ones are what the networks take.
//!
//! The raw structures stay inside the modules that read them. Keys that nothing reads are refused unless they
//! are known to change nothing ([`Neutral`]): configurations of Hugging Face carry many such keys.

use serde::de::DeserializeOwned;

mod neutral;

pub use neutral::Neutral;

/// A `config.json` that cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// The `model_type` is not one that arrcoc knows.
    #[error("model_type `{found}` is not supported; expected one of: {known}")]
    ModelType {
        /// What the file says.
        found: String,
        /// What would do.
        known: String,
    },
    /// A section does not parse.
    #[error("{}: {reason}", place(section))]
    Parse {
        /// Section of the file.
        section: &'static str,
        /// What serde says.
        reason: String,
    },
    /// A key that nothing reads, and that is not known to change nothing.
    #[error(
        "{}.{key}: arrcoc does not follow this key, and it may change what the model answers; remove it \
         if it does not",
        place(section)
    )]
    Unknown {
        /// Section of the file.
        section: &'static str,
        /// Path in the section.
        key: String,
    },
    /// A value is impossible or unsupported.
    #[error("{}.{key}: expected {expected}, found {found}", place(section))]
    Value {
        /// Section of the file.
        section: &'static str,
        /// Key in the section.
        key: &'static str,
        /// What would do.
        expected: String,
        /// What is there.
        found: String,
    },
}

/// How messages name a section: a file by its name, a part of `config.json` with it.
fn place(section: &str) -> String {
    if section.ends_with(".json") { section.to_owned() } else { format!("config.json, {section}") }
}

/// Parses one section of the file. Of what its structure does not read, only keys may be there that `neutral`
/// or every family knows to change nothing.
pub(crate) fn section<T: DeserializeOwned>(
    json: &serde_json::Value,
    name: &'static str,
    neutral: Neutral,
) -> Result<T, ConfigError> {
    let mut unread = Vec::new();
    let parsed = serde_ignored::deserialize(json, |path| unread.push(path.to_string()));
    let parsed = parsed.map_err(|error| ConfigError::Parse { section: name, reason: error.to_string() })?;
    match unread.into_iter().find(|key| !neutral.covers(name, key, &json[key.as_str()])) {
        // The path spells an optional object as `?`.
        Some(key) => Err(ConfigError::Unknown { section: name, key: key.replace("?.", "") }),
        None => Ok(parsed),
    }
}

/// Checks that a section that names a network of transformers names the one that it is read as.
pub(crate) fn check_model_type(
    name: &'static str,
    found: Option<&str>,
    expected: &[&str],
) -> Result<(), ConfigError> {
    let known = found.is_none_or(|found| expected.contains(&found));
    Check(name).that(known, "model_type", expected.join(" or "), found.unwrap_or_default())
}

/// Checks of one section.
#[derive(Clone, Copy)]
pub(crate) struct Check(pub(crate) &'static str);

impl Check {
    /// Fails unless `ok`.
    pub(crate) fn that(
        &self,
        ok: bool,
        key: &'static str,
        expected: impl Into<String>,
        found: impl std::fmt::Debug,
    ) -> Result<(), ConfigError> {
        if ok {
            return Ok(());
        }
        Err(ConfigError::Value {
            section: self.0,
            key,
            expected: expected.into(),
            found: format!("{found:?}"),
        })
    }

    /// Fails unless all values are in 1..=1e6: sizes beyond that are corrupt files, not models.
    pub(crate) fn sizes(&self, sizes: &[(&'static str, usize)]) -> Result<(), ConfigError> {
        sizes
            .iter()
            .try_for_each(|&(key, n)| self.that((1..=1_000_000).contains(&n), key, "1 to 1,000,000", n))
    }

    /// Fails unless `width` splits evenly into `parts`.
    pub(crate) fn divides(
        &self,
        key: &'static str,
        width: usize,
        parts: usize,
        what: &str,
    ) -> Result<(), ConfigError> {
        self.that(
            parts > 0 && width.is_multiple_of(parts),
            key,
            format!("a multiple of {what} ({parts})"),
            width,
        )
    }
}
