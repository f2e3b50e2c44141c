//! What goes into the model and what comes out of it: the contract between the server and the runtime.
//!
//! A [`Request`] is submitted to [`crate::model::Model`]; its [`Event`]s arrive on a channel. Dropping the
//! receiver cancels the request at the next iteration.

use std::borrow::Cow;
use std::time::Duration;

use arrcoc_bundle::Statistics;

use crate::image::ImageError;

mod form;
mod request;
mod selection;
mod tools;

pub use form::{Form, JsonStyle, WhiteSpace};
pub use request::{
    Conversation, Image, MaxTokens, Message, Part, Prompt, PromptReport, Request, Sampling, Sizing, Speaker,
};

pub use tools::{CallPiece, Function, ToolCall, ToolChoice, Tools};

pub use selection::{Budget, Depth, Need, Reason, Selected, Selection, Selector, Share, Tensions};

/// What a running request reports, in this order: `Started`, then tokens and finishes of the choices
/// interleaved, then `Done`; or `Failed` at any point, and nothing after it.
#[derive(Debug, Clone)]
pub enum Event {
    /// Images are encoded, the prompt is known; prefill begins.
    Started {
        /// Prompt length in tokens, visual ones included.
        prompt_tokens: usize,
        /// Visual tokens among them.
        visual_tokens: usize,
        /// One per image, when the request asked to `explain`.
        receipts: Vec<Receipt>,
    },
    /// The prompt is read; where the request wants to be told of it.
    Prompt {
        /// Its tokens.
        tokens: Vec<PromptToken>,
    },
    /// A token of one choice. Text that might still become a stop string is held back, so `text` can be
    /// empty.
    Token {
        /// Index of the choice.
        choice: usize,
        /// Text that is now certain, whole UTF-8 characters.
        text: String,
        /// Calls of tools, or more of them: none of the text.
        calls: Vec<CallPiece>,
        /// Of what the model thinks before it answers, the same; `None` for a token of the answer.
        reasoning: Option<String>,
        /// Log-probabilities, when asked for.
        logprob: Option<TokenLogprob>,
        /// Token id.
        id: u32,
    },
    /// One choice ended.
    Finished {
        /// Index of the choice.
        choice: usize,
        /// Text that was held back and is not part of a stop string.
        text: String,
        /// The same of calls.
        calls: Vec<CallPiece>,
        /// The same of what the model thought, where it did not come to an answer.
        reasoning: Option<String>,
        /// Why.
        reason: FinishReason,
    },
    /// All choices ended.
    Done {
        /// Tokens counted.
        usage: Usage,
        /// Seconds spent.
        timings: Timings,
    },
    /// The request cannot be completed.
    Failed(GenerateError),
}

/// A token of a prompt.
#[derive(Debug, Clone)]
pub struct PromptToken {
    /// Its bytes; of a control token those of its name.
    pub bytes: Vec<u8>,
    /// How likely it was behind those before it, where that is asked for; never of the first.
    pub logprob: Option<TokenLogprob>,
}

/// Log-probability of a token and of its strongest rivals, from the distribution before temperature and
/// penalties.
#[derive(Debug, Clone)]
pub struct TokenLogprob {
    /// The chosen token.
    pub token: Logprob,
    /// The likeliest tokens, most likely first.
    pub top: Vec<Logprob>,
}

/// One token and its log-probability.
#[derive(Debug, Clone)]
pub struct Logprob {
    /// Token id.
    pub id: u32,
    /// The token's bytes (a token may be part of a character).
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// Why a choice ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// The model said so, a stop string came, or the answer has its form and nothing can follow.
    Stop,
    /// `max_tokens` or the context was reached.
    Length,
}

/// Token counts of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Prompt tokens, visual ones included.
    pub prompt_tokens: usize,
    /// Visual tokens among them.
    pub visual_tokens: usize,
    /// Generated tokens, all choices.
    pub completion_tokens: usize,
    /// Those among them that the model thought before it answered.
    pub reasoning_tokens: usize,
}

/// Where the time of a request went.
#[derive(Debug, Clone, Default)]
pub struct Timings {
    /// Waiting for a slot.
    pub queue: Duration,
    /// Every stage that ran, in order; a cached stage is absent.
    pub stages: Vec<(Stage, Duration)>,
    /// From submission to the first token.
    pub first_token: Duration,
    /// From submission to the end.
    pub total: Duration,
}

/// A timed step of an answer; the label values of `arrcoc_stage_seconds`. The graphs of the vision side are
/// stages under their own names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Stage(Cow<'static, str>);

impl Stage {
    /// An image file to pixels.
    pub const DECODE_IMAGE: Self = Self(Cow::Borrowed("decode_image"));
    /// Pixels to what the encoder reads.
    pub const PREPROCESS: Self = Self(Cow::Borrowed("preprocess"));
    /// Some of a picture's tokens, for the question.
    pub const SELECT: Self = Self(Cow::Borrowed("select"));
    /// The prompt through the decoder.
    pub const PREFILL: Self = Self(Cow::Borrowed("prefill"));
    /// The tokens that may come next, for every running answer that is bound to a form: computed during
    /// the step.
    pub const MASKS: Self = Self(Cow::Borrowed("masks"));
    /// One token of every running answer.
    pub const DECODE_STEP: Self = Self(Cow::Borrowed("decode_step"));

    /// The run of a graph.
    pub fn graph(name: &str) -> Self {
        Self(Cow::Owned(name.to_owned()))
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// Which tokens an image got, and why.
#[derive(Debug, Clone)]
pub struct Receipt {
    /// Number of visual tokens.
    pub tokens: usize,
    /// Width and height of the original image, pixels, after EXIF orientation.
    pub image_size: [u32; 2],
    /// What the allocator said, where the family has one.
    pub allocation: Option<Allocation>,
    /// How they were chosen, where the family has no allocator and the request asked for fewer than all.
    pub selected: Option<Selected>,
    /// Every visual token, in decoder order.
    pub places: Vec<Place>,
    /// Those that were not kept, where they were chosen among all.
    pub dropped: Vec<Place>,
}

impl Receipt {
    /// Of a picture whose tokens are all kept: nothing chose.
    pub fn of_all(image_size: [u32; 2], places: Vec<Place>) -> Self {
        let tokens = places.len();
        Self { tokens, image_size, allocation: None, selected: None, places, dropped: Vec::new() }
    }
}

/// What an allocator said about an image and a question.
#[derive(Debug, Clone)]
pub struct Allocation {
    /// Index into the bundle's `token_budgets`.
    pub tier: usize,
    /// Logits of the tier head, one per tier.
    pub tier_logits: Vec<f32>,
    /// Weights of the propositional, perspectival and participatory scorers; they sum to 1.
    pub tension_weights: [f32; 3],
}

/// Where one visual token looks.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Place {
    /// Left, top, right, bottom in original image pixels, clipped to the image.
    pub rect: [f32; 4],
    /// Tile, row and column in the tile's grid of tokens. A cell of the gist grid has the row and column of
    /// that grid.
    pub cell: [u32; 3],
    /// A view of the whole picture rather than a detail: a cell of the gist grid, or a token of the small
    /// global view.
    pub gist: bool,
    /// Why it was taken, where something chose.
    pub score: Option<Score>,
    /// Its rank in the order of selection, from 0, where tokens are taken one by one.
    pub rank: Option<usize>,
    /// How many levels of rows for deeper layers it has, the deepest first, where the family has them and
    /// some were chosen.
    pub layers: Option<usize>,
}

/// What a chooser thought of a place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// Relevance in 0..1 (the cell's mean, for a gist token).
    pub relevance: f32,
    /// The three scorers at this place, 0..1.
    pub knowing: [f32; 3],
}

/// The field of a request that says what the answers must look like, unless another one does.
pub const FORM: &str = "response_format";

/// The field of a request that says what may be called.
pub const TOOLS: &str = "tools";

/// Why a request was refused or broke off. The message says what was expected, found, and what to do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GenerateError {
    /// The user's request is at fault.
    #[error("{message}")]
    Invalid {
        /// The request field at fault (`messages`, `max_tokens`, `arrcoc.budget` ...).
        field: &'static str,
        /// What was expected and found.
        message: String,
    },
    /// The queue is full; decided before any image is decoded.
    #[error("the queue is full: {waiting} requests wait already; try again in {retry_after:?}")]
    QueueFull {
        /// Requests waiting.
        waiting: usize,
        /// When a place is likely.
        retry_after: Duration,
    },
    /// The server is stopping or the engine is being swapped away.
    #[error("the model is draining and takes no new requests")]
    Draining,
    /// The time limit passed.
    #[error("the request did not finish within {0:?}")]
    Timeout(Duration),
    /// The system gave no memory for what the request takes; the same one may succeed later.
    #[error("{0}")]
    Memory(String),
    /// A fault that is not the caller's: a graph, the tokenizer, a thread or a file of the loaded bundle
    /// failed.
    #[error("{0}")]
    Internal(String),
}

/// Watches the runtime work; the server turns notes into metrics. Called from the runtime's threads: it must
/// not block.
pub trait Observer: Send + Sync {
    /// Something happened.
    fn note(&self, note: Note<'_>);
}

/// What happened.
#[derive(Debug, Clone, Copy)]
pub enum Note<'a> {
    /// A stage ran ([`Stage::DECODE_STEP`]: one batched step).
    Stage(&'a Stage, Duration),
    /// An image got its tokens.
    Image {
        /// Index into the bundle's `token_budgets`, where the family has tiers.
        tier: Option<usize>,
        /// How many.
        tokens: usize,
    },
    /// One of the two caches was asked.
    Cache {
        /// Which.
        cache: Cache,
        /// Whether it had the answer.
        hit: bool,
    },
    /// What the visual tokens of one image look like to the decoder, where the family has a target for them.
    Embeds {
        /// The image's tier.
        tier: usize,
        /// Of all rows.
        statistics: Statistics,
    },
    /// One scheduler iteration: tokens that went through the decoder.
    Iteration {
        /// Of prompts and answers together.
        tokens: usize,
    },
}

/// The two caches of the vision side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cache {
    /// What the encoder made of a picture: keyed by the file's bytes, how large it is seen, the processor and
    /// the engine.
    ImageFeatures,
    /// What the decoder gets: keyed by that, the budget and, where it is asked, the question.
    VisualTokens,
}

impl Cache {
    /// Both.
    pub const ALL: [Self; 2] = [Self::ImageFeatures, Self::VisualTokens];

    /// As metrics name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ImageFeatures => "image_features",
            Self::VisualTokens => "visual_tokens",
        }
    }
}

/// Observes nothing.
#[derive(Debug, Default)]
pub struct NoObserver;
impl Observer for NoObserver {
    fn note(&self, _: Note<'_>) {}
}

impl GenerateError {
    /// An image of a request cannot be used; images are counted from 0 here, and from 1 in the message.
    pub(crate) fn image(index: usize, error: &ImageError) -> Self {
        let message = format!("image {}: {error}", index + 1);
        match error {
            // Not the image's fault, nor the user's.
            ImageError::Memory { .. } => Self::Memory(message),
            _ => Self::Invalid { field: "messages", message },
        }
    }
}
