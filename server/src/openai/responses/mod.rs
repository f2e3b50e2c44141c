//! The Responses API, OpenAI's newer form: requests are items, answers are items, and a stream is typed
//! events. <https://platform.openai.com/docs/api-reference/responses>

mod events;
mod input;
mod item;
mod request;
mod response;
mod store;
mod writer;

pub use events::Event;
pub use request::ResponseRequest;
pub use response::Response;
pub use store::{Store, Stored};
pub use writer::{Keep, Writer};
