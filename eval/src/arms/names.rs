//! Names on the command line, and what to say of those that are none.

/// A name that is none of an arm or of a kind of positions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected one of {expected}, found `{found}`")]
pub struct UnknownName {
    /// The names that there are.
    pub expected: String,
    /// What was given.
    pub found: String,
}

/// The value whose name is `text`.
pub(super) fn named<T: Copy>(all: &[T], name: fn(T) -> &'static str, text: &str) -> Result<T, UnknownName> {
    all.iter().copied().find(|value| name(*value) == text).ok_or_else(|| UnknownName {
        expected: all.iter().map(|value| name(*value)).collect::<Vec<_>>().join(", "),
        found: text.to_owned(),
    })
}
