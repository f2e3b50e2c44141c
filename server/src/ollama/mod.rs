//! Ollama's wire format, for clients that speak that: `/api/chat`, `/api/generate`, and what they ask before.
//! <https://github.com/ollama/ollama/blob/main/docs/api.md>

mod answer;
mod details;
mod error;
mod options;
mod request;

pub use answer::{Line, Writer};
pub use details::{Shown, Tag, Tags};
pub(crate) use error::in_form;
pub use request::{ChatBody, GenerateBody, OllamaRequest};

/// A model's name without `:latest`, which Ollama's clients add to names without a tag.
pub fn untagged(name: &str) -> &str {
    name.strip_suffix(":latest").unwrap_or(name)
}

/// When something was, as RFC 3339 has it.
pub(crate) fn moment(time: std::time::SystemTime) -> String {
    humantime::format_rfc3339_micros(time).to_string()
}
