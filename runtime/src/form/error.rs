//! What a form cannot be.

use arrcoc_bundle::quote::one_line;

use crate::generate::{FORM, GenerateError, TOOLS};

/// Most bytes of what a library says.
const LONGEST: usize = 300;

/// Why answers cannot be bound to a form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// A part of a schema cannot be kept.
    #[error("at {place}: {reason}")]
    Schema {
        /// JSON pointer of the part, as a fragment: `#/properties/name`.
        place: String,
        /// What was expected and found.
        reason: String,
    },
    /// An expression, a choice or a grammar cannot be kept.
    #[error("{0}")]
    Text(String),
    /// Too much of anything.
    #[error("expected at most {most} {what}, found {found}")]
    Large {
        /// Of what.
        what: &'static str,
        /// The limit.
        most: usize,
        /// What was found, or more.
        found: usize,
    },
    /// The arguments of a function cannot be kept.
    #[error("the arguments of `{name}`: {source}")]
    Tool {
        /// The function.
        name: String,
        /// Why not.
        source: Box<FormError>,
    },
    /// The functions together cannot be kept.
    #[error("{0}")]
    Tools(String),
    /// What follows could not be computed within the limits, or the library is at fault.
    #[error("the form cannot be followed any further: {0}")]
    Broken(String),
}

impl FormError {
    pub(super) fn schema(place: &str, reason: impl Into<String>) -> Self {
        Self::Schema { place: one_line(place, LONGEST), reason: reason.into() }
    }

    /// The same of a schema that is a part of another one.
    pub(super) fn within(self, part: &str) -> Self {
        match self {
            Self::Schema { place, reason } => {
                Self::schema(&format!("{part}{}", place.trim_start_matches('#')), reason)
            }
            other => other,
        }
    }
}

/// Refuses more than there may be.
pub(super) fn limit(what: &'static str, most: usize, found: usize) -> Result<(), FormError> {
    if found > most { Err(FormError::Large { what, most, found }) } else { Ok(()) }
}

/// One line of a library's message: what it calls the error, or the first. The others are excerpts, and
/// states that nobody asked for.
pub(super) fn said(error: impl std::fmt::Display) -> String {
    let text = error.to_string();
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines().find_map(|line| line.strip_prefix("error: ")).or_else(|| lines().next());
    one_line(line.unwrap_or("no reason given"), LONGEST)
}

impl From<FormError> for GenerateError {
    fn from(error: FormError) -> Self {
        let message = match error {
            FormError::Tool { .. } | FormError::Tools(_) => {
                return Self::Invalid {
                    field: TOOLS,
                    message: format!("the calls that are asked for: {error}"),
                };
            }
            error => format!("the form of the answer: {error}"),
        };
        Self::Invalid { field: FORM, message }
    }
}
