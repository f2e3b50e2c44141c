//! What goes into the model: a request, as whoever reads it from a user has checked it.

use arrcoc_bundle::GenerationSpec;
use bytes::Bytes;

use super::form::Form;
use super::tools::{ToolCall, Tools};
use super::{Budget, Selection};

/// One generation request, already validated for form (the server's affair) but not against the model's
/// limits.
#[derive(Debug, Clone)]
pub struct Request {
    /// What to answer.
    pub prompt: Prompt,
    /// How many tokens an image may have.
    pub budget: Budget,
    /// How they are chosen, in models that have no allocator of their own.
    pub selection: Selection,
    /// Return a [`super::Receipt`] per image.
    pub explain: bool,
    /// How to pick tokens.
    pub sampling: Sampling,
    /// How many independent answers (OpenAI's `n`), at least 1.
    pub choices: usize,
    /// Most tokens per answer.
    pub max_tokens: MaxTokens,
    /// Strings that end an answer and are not part of it, none of them empty; they may span token borders.
    pub stop: Vec<String>,
    /// How many alternatives to report per token; `None` reports no log-probabilities at all.
    pub top_logprobs: Option<usize>,
    /// What is told of the prompt.
    pub prompt_report: PromptReport,
    /// What the answers must look like; behind what the model thinks, where it thinks first.
    pub form: Option<Form>,
}

/// What is told of a prompt of text or ids, before any token of an answer ([`super::Event::Prompt`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PromptReport {
    /// Nothing.
    #[default]
    Nothing,
    /// Its tokens.
    Tokens,
    /// And how likely each was, with so many alternatives. The prompt is read token by token for that.
    Logprobs(usize),
}

/// The question.
#[derive(Debug, Clone)]
pub enum Prompt {
    /// A conversation, rendered by the model's own template.
    Chat(Conversation),
    /// Raw text, tokenised as it stands (`/v1/completions`).
    Text(String),
    /// The same as token ids.
    Tokens(Vec<u32>),
}

/// What is put to the model's template.
#[derive(Debug, Clone, Default)]
pub struct Conversation {
    /// The messages, oldest first.
    pub messages: Vec<Message>,
    /// Variables of the template's own, by name, as `enable_thinking`. Strings in them are what a user says:
    /// no control tokens.
    pub variables: serde_json::Map<String, serde_json::Value>,
    /// What the model may call.
    pub tools: Tools,
}

impl From<Vec<Message>> for Prompt {
    fn from(messages: Vec<Message>) -> Self {
        Self::Chat(Conversation { messages, ..Conversation::default() })
    }
}

impl Conversation {
    /// What is asked: the texts of the last user message, one per line; empty where there are none.
    pub fn question(&self) -> String {
        let last = self.messages.iter().rev().find(|message| message.speaker == Speaker::User);
        last.map(|message| message.texts().collect::<Vec<_>>().join("\n")).unwrap_or_default()
    }
}

impl Prompt {
    /// What is asked of a model that chooses tokens by the question.
    pub fn question(&self) -> String {
        match self {
            Self::Chat(conversation) => conversation.question(),
            Self::Text(text) => text.clone(),
            Self::Tokens(_) => String::new(),
        }
    }

    /// The images, in order.
    pub fn images(&self) -> impl Iterator<Item = &Image> {
        let messages = match self {
            Self::Chat(conversation) => conversation.messages.as_slice(),
            Self::Text(_) | Self::Tokens(_) => &[],
        };
        messages.iter().flat_map(|message| &message.content).filter_map(|part| match part {
            Part::Image(image) => Some(image),
            Part::Text(_) => None,
        })
    }
}

/// One chat message.
#[derive(Debug, Clone)]
pub struct Message {
    /// Who says it.
    pub speaker: Speaker,
    /// Text and images in the order in which they were written.
    pub content: Vec<Part>,
    /// What the model thought before it said this: of the assistant's messages. Templates decide whether the
    /// model reads it again.
    pub reasoning: Option<String>,
    /// The tools that it calls: of the assistant's messages.
    pub calls: Vec<ToolCall>,
    /// The call whose result it is: of tools' messages.
    pub call_id: Option<String>,
    /// The function that was called, where a tool's message says so.
    pub name: Option<String>,
}

impl Message {
    /// A message of nothing but its content.
    pub fn new(speaker: Speaker, content: Vec<Part>) -> Self {
        Self { speaker, content, reasoning: None, calls: Vec::new(), call_id: None, name: None }
    }

    /// The texts of its content, in order.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.content.iter().filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            Part::Image(_) => None,
        })
    }
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaker {
    /// Instructions.
    System,
    /// The person asking.
    User,
    /// The model's earlier answers.
    Assistant,
    /// The result of a call.
    Tool,
}

/// A piece of a message.
#[derive(Debug, Clone)]
pub enum Part {
    /// Text.
    Text(String),
    /// An image.
    Image(Image),
}

/// An image of a message.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// An encoded file (PNG, JPEG, WebP, GIF, BMP), decoded off the async threads. It is dropped when it is
    /// encoded: an owner behind the bytes ([`Bytes::from_owner`]) knows then that its memory is free.
    pub file: Bytes,
    /// How large the model sees it.
    pub sizing: Sizing,
}

impl From<Vec<u8>> for Image {
    fn from(file: Vec<u8>) -> Self {
        Bytes::from(file).into()
    }
}

impl From<Bytes> for Image {
    fn from(file: Bytes) -> Self {
        Self { file, sizing: Sizing::default() }
    }
}

/// How large the model sees a picture, where that is not the checkpoint's own way: the arguments that
/// transformers' image processors take. Which of them mean something is the family's affair.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Sizing {
    /// Least pixels, by area.
    pub min_pixels: Option<u64>,
    /// Most pixels, by area.
    pub max_pixels: Option<u64>,
    /// `size.shortest_edge`; an area for Qwen's models.
    pub shortest_edge: Option<u64>,
    /// `size.longest_edge`; an area for Qwen's models, pixels on a side for others.
    pub longest_edge: Option<u64>,
    /// Whether a large picture is cut into tiles.
    pub do_image_splitting: Option<bool>,
    /// A coarse look is enough (OpenAI's `detail: low`); each family has its own, and what else is said
    /// outranks it.
    pub coarse: bool,
    /// Parts that hold nothing are not encoded.
    pub skip_blank: bool,
}

impl Sizing {
    /// The first argument of an image processor that is set, by its name.
    pub fn set(&self) -> Option<&'static str> {
        let Self { min_pixels, max_pixels, shortest_edge, longest_edge, do_image_splitting, .. } = *self;
        let numbers = [
            ("min_pixels", min_pixels),
            ("max_pixels", max_pixels),
            ("size.shortest_edge", shortest_edge),
            ("size.longest_edge", longest_edge),
            ("do_image_splitting", do_image_splitting.map(u64::from)),
        ];
        numbers.into_iter().find(|(_, number)| number.is_some()).map(|(name, _)| name)
    }
}

/// How long an answer may get, in tokens; with 0 the prompt is read and nothing answered.
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

    /// The length of an answer whose request left it open, under a checkpoint's own limit.
    #[must_use]
    pub fn limited_by(self, defaults: &GenerationSpec) -> Self {
        match (self, defaults.max_new_tokens) {
            (Self::AtMost(most), Some(own)) => Self::AtMost(most.min(own)),
            (length, _) => length,
        }
    }
}

/// How the next token is picked. `temperature` 0 is greedy. Whoever reads these numbers from a user holds
/// them to their ranges; the runtime takes them as they are.
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
    /// No token that ends an answer is picked before this many others were.
    pub min_tokens: usize,
    /// Go on past the model's own end tokens.
    pub ignore_eos: bool,
    /// Ids that end an answer besides the model's own, and are not part of its text.
    pub stop_token_ids: Vec<u32>,
    /// What is added to the logits of these ids, before penalties.
    pub logit_bias: Vec<(u32, f32)>,
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
            logit_bias: Vec::new(),
        }
    }
}

impl Sampling {
    /// What a request gets that says nothing about sampling.
    pub fn of(defaults: &GenerationSpec) -> Self {
        Self {
            temperature: if defaults.do_sample { defaults.temperature } else { 0.0 },
            top_p: defaults.top_p,
            top_k: defaults.top_k,
            min_p: defaults.min_p,
            repetition_penalty: defaults.repetition_penalty,
            ..Self::default()
        }
    }
}
