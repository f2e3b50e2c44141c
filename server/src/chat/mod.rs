//! A conversation to be answered, whichever API it came by. Each API reads its bodies into a [`Chat`] and
//! writes what comes of it in objects of its own; what lies between is here, once.

use arrcoc_runtime::generate::{Budget, Form, MaxTokens, Selection, Sizing, Speaker, ToolCall, Tools};
use serde_json::{Map, Value};

mod answer;
mod calls;
mod counter;
mod sampling;
mod start;

pub use answer::{Answer, Called, collect};
pub(crate) use answer::{arguments, object};
pub(crate) use counter::Counter;
pub use sampling::SamplingFields;
pub(crate) use sampling::{seed, top_k};
pub(crate) use start::{Asked, prompt_ids, start};

/// Most tools, as with OpenAI, and most calls of an earlier answer.
pub(crate) const MOST_TOOLS: usize = 128;
pub(crate) const MOST_CALLS: usize = 128;
/// Longest tool, and longest arguments, bytes of JSON.
pub(crate) const MOST_TOOL_BYTES: usize = 256 << 10;

/// A checked request; its images are not loaded yet.
#[derive(Debug, Clone)]
pub struct Chat {
    /// Name of the model.
    pub model: Option<String>,
    /// The conversation.
    pub messages: Vec<Message>,
    /// What the model may call.
    pub tools: Tools,
    /// Most tokens per answer.
    pub max_tokens: MaxTokens,
    /// Answers.
    pub choices: usize,
    /// How to pick tokens.
    pub sampling: SamplingFields,
    /// Strings that end an answer.
    pub stop: Vec<String>,
    /// Alternatives per token, when log-probabilities are asked for.
    pub top_logprobs: Option<usize>,
    /// Visual tokens per image, where the request says so.
    pub budget: Option<Budget>,
    /// How they are chosen.
    pub selection: Selection,
    /// How large the model sees the images.
    pub sizing: Sizing,
    /// Return receipts.
    pub explain: bool,
    /// What the answers must look like.
    pub form: Option<Form>,
    /// Variables of the model's template.
    pub variables: Map<String, Value>,
    /// The request's own names of fields that the runtime may refuse.
    pub names: Names,
}

/// How a request calls what the runtime may refuse.
#[derive(Debug, Clone, Copy)]
pub struct Names {
    /// `max_tokens`.
    pub max_tokens: &'static str,
    /// `response_format`.
    pub form: &'static str,
    /// `messages`.
    pub messages: &'static str,
    /// `tools`.
    pub tools: &'static str,
}

/// One message.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Who speaks.
    pub role: Speaker,
    /// What, in order.
    pub content: Vec<Piece>,
    /// What the model thought before it said that.
    pub reasoning: Option<String>,
    /// What it called.
    pub calls: Vec<ToolCall>,
    /// The call whose result it is.
    pub call_id: Option<String>,
    /// The function that was called.
    pub name: Option<String>,
}

impl Message {
    /// A message of nothing but its content.
    pub fn new(role: Speaker, content: Vec<Piece>) -> Self {
        Self { role, content, reasoning: None, calls: Vec::new(), call_id: None, name: None }
    }
}

/// A piece of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text.
    Text(String),
    /// An image, not loaded yet.
    Image {
        /// Its URL.
        url: String,
        /// Where in the request the URL stood.
        param: String,
        /// Whether the request asks for a coarse look (`detail: low`).
        coarse: bool,
    },
}

impl Chat {
    /// Visual tokens per image of a model with these budgets. `detail: low` on every image is the smallest of
    /// them, unless the request names one; `default` is what images get whose request says nothing.
    pub fn budget(&self, budgets: &[usize], default: Budget) -> Budget {
        let images = || self.messages.iter().flat_map(|message| &message.content);
        let coarse = |piece: &Piece| !matches!(piece, Piece::Image { coarse: false, .. });
        match (self.budget, budgets.first()) {
            (Some(budget), _) => budget,
            (None, Some(&least)) if images().any(is_image) && images().all(coarse) => Budget::Tokens(least),
            (None, _) => self.selection.budget(default),
        }
    }

    /// How large the model sees an image. A coarse look is the budget's to give, where the request has one.
    pub fn sizing_of(&self, coarse: bool) -> Sizing {
        Sizing { coarse: coarse && self.budget.is_none(), ..self.sizing }
    }
}

fn is_image(piece: &Piece) -> bool {
    matches!(piece, Piece::Image { .. })
}
