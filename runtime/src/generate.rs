//! What goes into the model and what comes out of it: the contract between the server and the runtime.
//!
//! A [`Request`] is submitted to [`crate::model::Model`]; its [`Event`]s arrive on a channel. Dropping the receiver
//! cancels the request at the next iteration.

use std::time::Duration;

use bytes::Bytes;

/// One generation request, already validated for form (the server's affair) but not against the model's limits.
#[derive(Debug, Clone)]
pub struct Request {
    /// What to answer.
    pub prompt: Prompt,
    /// How many tokens an image may have.
    pub budget: Budget,
    /// Return a [`Receipt`] per image.
    pub explain: bool,
    /// How to pick tokens.
    pub sampling: Sampling,
    /// How many independent answers (OpenAI's `n`), at least 1.
    pub choices: usize,
    /// Most tokens per answer.
    pub max_tokens: MaxTokens,
    /// Strings that end an answer and are not part of it; they may span token borders.
    pub stop: Vec<String>,
    /// How many alternatives to report per token; `None` reports no log-probabilities at all.
    pub top_logprobs: Option<usize>,
}

/// The question.
#[derive(Debug, Clone)]
pub enum Prompt {
    /// Chat messages, rendered by the model's own template.
    Chat(Vec<Message>),
    /// Raw text, tokenised as it stands (`/v1/completions`).
    Text(String),
}

/// One chat message.
#[derive(Debug, Clone)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: Role,
    /// Text and images in the order in which they were written.
    pub content: Vec<Part>,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Instructions.
    System,
    /// The person asking.
    User,
    /// The model's earlier answers.
    Assistant,
}

/// A piece of a message.
#[derive(Debug, Clone)]
pub enum Part {
    /// Text.
    Text(String),
    /// An encoded image file (PNG, JPEG, WebP, GIF, BMP), decoded off the async threads. It is dropped when it is encoded: an owner behind
    /// the bytes ([`Bytes::from_owner`]) knows then that its memory is free.
    Image(Bytes),
}

/// How many visual tokens an image gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Budget {
    /// The tier head decides.
    Auto,
    /// Exactly this many; one of the bundle's `token_budgets`.
    Tokens(usize),
    /// Allocation off, on checkpoints that can do without it (not `arr_coc_ovis`).
    Full,
}

/// How long an answer may get, in tokens; at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MaxTokens {
    /// This many; the request is refused where the context has less left after the prompt.
    Exactly(usize),
    /// This many, or what the context has left where that is less.
    AtMost(usize),
}

impl MaxTokens {
    /// Most tokens of an answer that has `room` tokens of the context.
    pub fn within(self, room: usize) -> usize {
        let (Self::Exactly(most) | Self::AtMost(most)) = self;
        most.min(room)
    }
}

/// How the next token is picked. `temperature` 0 is greedy.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 is greedy, 1 the model's own distribution.
    pub temperature: f32,
    /// Nucleus: the smallest set of tokens whose probability reaches this, 0..=1.
    pub top_p: f32,
    /// Keep only this many of the likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep only tokens at least this share of the likeliest one's probability, 0..=1; 0 keeps all.
    pub min_p: f32,
    /// Divides (multiplies, when negative) the logit of every token seen so far; 1 does nothing.
    pub repetition_penalty: f32,
    /// Subtracted once from the logit of every token generated so far.
    pub presence_penalty: f32,
    /// Subtracted from the logit of every generated token, times its count.
    pub frequency_penalty: f32,
    /// Same seed, same request, same answer. `None` draws one.
    pub seed: Option<u64>,
    /// No token that ends an answer is picked before so many others were.
    pub min_tokens: usize,
    /// Go on past the model's own end tokens.
    pub ignore_eos: bool,
    /// Ids that end an answer besides the model's own, and are not part of its text.
    pub stop_token_ids: Vec<u32>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: None,
            min_tokens: 0,
            ignore_eos: false,
            stop_token_ids: Vec::new(),
        }
    }
}

/// What a running request reports, in this order: `Started`, then tokens and finishes of the choices interleaved, then
/// `Done`; or `Failed` at any point, and nothing after it.
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
    /// A token of one choice. Text that might still become a stop string is held back, so `text` can be empty.
    Token {
        /// Index of the choice.
        choice: usize,
        /// Text that is now certain, whole UTF-8 characters.
        text: String,
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

/// Log-probability of a token and of its strongest rivals, from the distribution before temperature and penalties.
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
    /// The model said so, or a stop string came.
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

/// The stages of a request; the label values of `arrcoc_stage_seconds`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Stage {
    DecodeImage,
    Preprocess,
    VisionEncoder,
    Allocator,
    Compressor,
    Refiner,
    QualityAdapter,
    Prefill,
    DecodeStep,
}

/// Which tokens an image got, and why.
#[derive(Debug, Clone)]
pub struct Receipt {
    /// Tier index into the bundle's `token_budgets`, and the budget itself.
    pub tier: usize,
    /// Number of visual tokens.
    pub tokens: usize,
    /// Logits of the tier head, one per tier.
    pub tier_logits: Vec<f32>,
    /// Weights of the propositional, perspectival and participatory scorers; they sum to 1.
    pub tension_weights: [f32; 3],
    /// Width and height of the original image, pixels, after EXIF orientation.
    pub image_size: [u32; 2],
    /// Every visual token, in decoder order.
    pub places: Vec<Place>,
}

/// Where one visual token looks, in original image pixels.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Left, top, right, bottom, clipped to the image.
    pub rect: [f32; 4],
    /// Relevance in 0..1 (the cell's mean, for a gist token).
    pub relevance: f32,
    /// A cell of the gist grid rather than a fine patch.
    pub gist: bool,
    /// The three scorers at this place, 0..1.
    pub knowing: [f32; 3],
}

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
    /// An engine failed.
    #[error("{0}")]
    Engine(String),
}

/// Watches the runtime work; the server turns this into metrics. Every method is called from runtime threads and must
/// not block. None has a default: whoever passes on to another observer would lose a new one unseen.
pub trait Observer: Send + Sync {
    /// A stage ran (`DecodeStep`: one batched step).
    fn stage(&self, stage: Stage, took: Duration);
    /// An image got its tokens.
    fn visual_tokens(&self, tier: usize, tokens: usize);
    /// One of the two caches was asked.
    fn cache(&self, cache: Cache, hit: bool);
    /// The adapter's output for one image.
    fn adapter_output(&self, tier: usize, statistics: crate::bundle::manifest::Statistics);
    /// One scheduler iteration: tokens that went through the decoder, running and waiting requests, share of KV in use.
    fn iteration(&self, tokens: usize, running: usize, waiting: usize, kv_usage: f64);
}

/// The two caches (design 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cache {
    /// `image_features`, keyed by pixels, preprocessor and engine.
    ImageFeatures,
    /// `visual_embeds`, keyed by that plus question, budget and allocator.
    VisualTokens,
}

/// Observes nothing.
#[derive(Debug, Default)]
pub struct NoObserver;
impl Observer for NoObserver {
    fn stage(&self, _: Stage, _: Duration) {}
    fn visual_tokens(&self, _: usize, _: usize) {}
    fn cache(&self, _: Cache, _: bool) {}
    fn adapter_output(&self, _: usize, _: crate::bundle::manifest::Statistics) {}
    fn iteration(&self, _: usize, _: usize, _: usize, _: f64) {}
}
