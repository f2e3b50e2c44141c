//! What a chat is answered with: the objects of whole answers and of streams.

use arrcoc_runtime::generate::{self, Logprob, Receipt, TokenLogprob};
use schemars::JsonSchema;
use serde::Serialize;

use crate::openai::explanation::Explanation;
use crate::openai::{FinishReason, Head, Speaker, Usage, finite, token_text};

/// A `chat.completion`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ChatCompletion<'h> {
    id: &'h str,
    object: CompletionObject,
    /// Seconds since 1970
    created: u64,
    model: &'h str,
    /// Checkpoint, precision and target
    system_fingerprint: &'h str,
    choices: Vec<Choice>,
    usage: Usage,
    #[serde(skip_serializing_if = "Option::is_none")]
    arrcoc: Option<Explanation>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
enum CompletionObject {
    #[serde(rename = "chat.completion")]
    ChatCompletion,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
struct Choice {
    index: usize,
    message: Message,
    logprobs: Option<ChatLogprobs>,
    finish_reason: FinishReason,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
struct Message {
    role: Speaker,
    content: String,
    /// What the model thought before it answered, where it did and the request wants it
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    /// Always null
    refusal: (),
}

/// One finished answer.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Its text.
    pub text: String,
    /// What the model thought before.
    pub reasoning: Option<String>,
    /// Log-probabilities of its tokens, when asked for.
    pub logprobs: Option<Vec<TokenLogprob>>,
    /// Why it ended.
    pub reason: generate::FinishReason,
}

impl Finished {
    /// Adds what a token brought.
    pub fn add(&mut self, text: &str, reasoning: Option<String>) {
        self.text.push_str(text);
        if let Some(more) = reasoning {
            self.reasoning.get_or_insert_default().push_str(&more);
        }
    }
}

impl<'h> ChatCompletion<'h> {
    /// The whole answer to a request.
    pub fn new(
        head: &'h Head,
        answers: Vec<Finished>,
        usage: generate::Usage,
        receipts: Option<&[Receipt]>,
    ) -> Self {
        let choices = answers.into_iter().enumerate().map(|(index, answer)| Choice {
            index,
            logprobs: answer.logprobs.as_deref().map(ChatLogprobs::from),
            message: Message {
                role: Speaker::Assistant,
                content: answer.text,
                reasoning_content: answer.reasoning,
                refusal: (),
            },
            finish_reason: answer.reason.into(),
        });
        Self {
            id: &head.id,
            object: CompletionObject::ChatCompletion,
            created: head.created,
            model: &head.model,
            system_fingerprint: &head.fingerprint,
            choices: choices.collect(),
            usage: usage.into(),
            arrcoc: receipts.map(Explanation::from),
        }
    }
}

/// Log-probabilities of an answer's tokens.
#[derive(Debug, Serialize, JsonSchema)]
struct ChatLogprobs {
    content: Vec<ChosenToken>,
    /// Always null
    refusal: (),
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
struct ChosenToken {
    #[serde(flatten)]
    token: LikelyToken,
    top_logprobs: Vec<LikelyToken>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
struct LikelyToken {
    token: String,
    logprob: f64,
    bytes: Vec<u8>,
}

impl From<&Logprob> for LikelyToken {
    fn from(logprob: &Logprob) -> Self {
        Self { token: token_text(&logprob.bytes), logprob: finite(logprob), bytes: logprob.bytes.clone() }
    }
}

impl From<&[TokenLogprob]> for ChatLogprobs {
    fn from(tokens: &[TokenLogprob]) -> Self {
        let chosen = |token: &TokenLogprob| ChosenToken {
            token: LikelyToken::from(&token.token),
            top_logprobs: token.top.iter().map(LikelyToken::from).collect(),
        };
        Self { content: tokens.iter().map(chosen).collect(), refusal: () }
    }
}

/// A `chat.completion.chunk`.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ChatCompletionChunk")]
pub struct Chunk<'h> {
    id: &'h str,
    object: ChunkObject,
    /// Seconds since 1970
    created: u64,
    model: &'h str,
    /// Checkpoint, precision and target
    system_fingerprint: &'h str,
    choices: Vec<ChunkChoice>,
    /// With `stream_options.include_usage`: null until the last chunk
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arrcoc: Option<Explanation>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
enum ChunkObject {
    #[serde(rename = "chat.completion.chunk")]
    Chunk,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
struct ChunkChoice {
    index: usize,
    delta: Delta,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<FinishReason>,
}

#[derive(Debug, Default, Serialize, JsonSchema)]
#[schemars(inline)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<Speaker>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    /// What the model thinks before it answers
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
}

/// Builds the chunks of a stream.
#[derive(Debug, Clone)]
pub struct Chunks {
    /// What every chunk repeats.
    pub head: Head,
    /// Whether `usage` is in every chunk: null until the last, as OpenAI does it.
    pub include_usage: bool,
    /// Whether thoughts are sent.
    pub include_reasoning: bool,
}

impl Chunks {
    fn chunk(&self, choices: Vec<ChunkChoice>) -> Chunk<'_> {
        Chunk {
            id: &self.head.id,
            object: ChunkObject::Chunk,
            created: self.head.created,
            model: &self.head.model,
            system_fingerprint: &self.head.fingerprint,
            choices,
            usage: self.include_usage.then_some(None),
            arrcoc: None,
        }
    }

    fn of_choice(index: usize, delta: Delta) -> ChunkChoice {
        ChunkChoice { index, delta, logprobs: None, finish_reason: None }
    }

    /// The first chunk of a choice. That of the first choice carries the receipts.
    pub fn role(&self, index: usize, receipts: Option<&[Receipt]>) -> Chunk<'_> {
        let delta =
            Delta { role: Some(Speaker::Assistant), content: Some(String::new()), ..Delta::default() };
        let chunk = self.chunk(vec![Self::of_choice(index, delta)]);
        Chunk { arrcoc: receipts.map(Explanation::from), ..chunk }
    }

    /// More text of the answer, or of the thoughts before it.
    pub fn content(
        &self,
        index: usize,
        text: String,
        reasoning: Option<String>,
        token: Option<&TokenLogprob>,
    ) -> Chunk<'_> {
        let hidden = reasoning.is_some() && !self.include_reasoning;
        let reasoning_content = reasoning.filter(|_| !hidden);
        let content = reasoning_content.is_none().then_some(text);
        let choice = Self::of_choice(index, Delta { role: None, content, reasoning_content });
        let token = token.filter(|_| !hidden);
        let logprobs = token.map(|token| ChatLogprobs::from(std::slice::from_ref(token)));
        self.chunk(vec![ChunkChoice { logprobs, ..choice }])
    }

    /// The end of a choice.
    pub fn finish(&self, index: usize, reason: generate::FinishReason) -> Chunk<'_> {
        let choice = Self::of_choice(index, Delta::default());
        self.chunk(vec![ChunkChoice { finish_reason: Some(reason.into()), ..choice }])
    }

    /// Token counts, after all choices.
    pub fn usage(&self, usage: generate::Usage) -> Chunk<'_> {
        Chunk { usage: Some(Some(usage.into())), ..self.chunk(Vec::new()) }
    }
}
