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
    if !json.is_object() {
        // Serde would take a list for the values of the keys in their order.
        return Err(ConfigError::Parse { section: name, reason: "expected an object".to_owned() });
    }
    let mut unread = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(json, &mut track);
    let parsed = serde_ignored::deserialize(tracked, |path| unread.push(path.to_string()));
    let parsed = parsed.map_err(|error: serde_json::Error| {
        let (key, reason) = (track.path().to_string(), in_words(&error.to_string()));
        // A dot stands for the section itself.
        let reason = if key == "." { reason } else { format!("{key}: {reason}") };
        ConfigError::Parse { section: name, reason }
    })?;
    match unread.into_iter().find(|key| !neutral.covers(name, key, &json[key.as_str()])) {
        // The path spells an optional object as `?`.
        Some(key) => Err(ConfigError::Unknown { section: name, key: key.replace("?.", "") }),
        None => Ok(parsed),
    }
}

/// What serde says of a value of another type, without the names of Rust's.
pub(crate) fn in_words(reason: &str) -> String {
    let Some((found, expected)) = reason.rsplit_once(", expected ") else { return reason.to_owned() };
    let expected = match expected {
        "usize" | "u32" | "u64" | "i64" => "a whole number, zero or above",
        "f32" | "f64" => "a number",
        expected if expected.starts_with("struct ") => "an object",
        other => other,
    };
    format!("{found}, expected {expected}")
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

    /// Fails unless a value is in 1..=most.
    pub(crate) fn few(&self, key: &'static str, n: usize, most: usize) -> Result<(), ConfigError> {
        self.that((1..=most).contains(&n), key, format!("1 to {most}"), n)
    }

    /// Fails unless a network has 1 to 1,000 layers. More are a corrupt file; a graph with a million would
    /// take minutes before the first missing weight is named.
    pub(crate) fn layers(&self, key: &'static str, layers: usize) -> Result<(), ConfigError> {
        self.that((1..=1_000).contains(&layers), key, "1 to 1,000", layers)
    }

    /// Fails unless what a norm adds to a variance is above zero and at most 1.
    pub(crate) fn epsilon(&self, key: &'static str, epsilon: f32) -> Result<(), ConfigError> {
        self.that(epsilon > 0.0 && epsilon <= 1.0, key, "a number above 0 and at most 1", epsilon)
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
