//! Anthropic's wire format: `POST /v1/messages`. <https://docs.anthropic.com/en/api/messages>

mod answer;
mod content;
mod error;
mod request;
mod writer;

pub use answer::Message;
pub(crate) use error::in_form;
pub use request::MessagesRequest;
pub use writer::{Event, Writer};
