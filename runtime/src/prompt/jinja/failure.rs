//! How templates fail, for all files of the interpreter and whoever renders.

/// A template that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub(crate) struct SyntaxError {
    pub(crate) line: u32,
    pub(crate) message: String,
}

/// Why a rendering ended early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The template refuses the conversation, with this message.
    Raised(String),
    /// Something that Python does not do either, or that is not supported.
    Failed(String),
    /// A limit was reached.
    Exhausted(&'static str),
}

impl Failure {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }

    pub(super) fn exhausted(what: &'static str) -> Self {
        Self::Exhausted(what)
    }
}

/// A rendering that failed, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RenderError {
    pub(crate) line: u32,
    pub(crate) failure: Failure,
}

impl std::fmt::Display for RenderError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let line = self.line;
        match &self.failure {
            Failure::Raised(message) => write!(f, "line {line}: it raised {message:?}"),
            Failure::Failed(message) => write!(f, "line {line}: {message}"),
            Failure::Exhausted(what) => {
                write!(f, "line {line}: it takes more {what} than any conversation needs")
            }
        }
    }
}
