//! What a chat is answered with: the objects of whole answers and of streams.

use arrcoc_runtime::generate::{self, CallPiece, Receipt, TokenLogprob};
use schemars::JsonSchema;
use serde::Serialize;

use crate::chat::{Answer, Called};
use crate::openai::explanation::Explanation;
use crate::openai::{ChosenToken, FinishReason, Head, Speaker, Usage};

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
    /// Null where the answer is calls alone
    content: Option<String>,
    /// What the model thought before it answered, where it did and the request wants it
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    /// What it calls
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
    /// The same, where the request had `functions`
    #[serde(skip_serializing_if = "Option::is_none")]
    function_call: Option<FunctionCall>,
    /// Always null
    refusal: (),
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
struct ToolCall {
    id: String,
    r#type: ToolType,
    function: FunctionCall,
}

#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum ToolType {
    Function,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
struct FunctionCall {
    name: String,
    /// JSON, as the model wrote it
    arguments: String,
}

impl From<Called> for ToolCall {
    fn from(Called { id, name, arguments }: Called) -> Self {
        Self { id, r#type: ToolType::Function, function: FunctionCall { name, arguments } }
    }
}

impl Choice {
    fn new(index: usize, answer: Answer, as_functions: bool) -> Self {
        let finish_reason = finish_reason(answer.reason, !answer.calls.is_empty(), as_functions);
        let silent = answer.text.is_empty() && !answer.calls.is_empty();
        let mut calls = answer.calls.into_iter().map(ToolCall::from);
        let function_call = if as_functions { calls.next().map(|call| call.function) } else { None };
        let message = Message {
            role: Speaker::Assistant,
            content: Some(answer.text).filter(|_| !silent),
            reasoning_content: answer.reasoning,
            tool_calls: calls.collect(),
            function_call,
            refusal: (),
        };
        Self { index, message, logprobs: answer.logprobs.as_deref().map(ChatLogprobs::from), finish_reason }
    }
}

/// Why an answer ended, in the words of chats.
fn finish_reason(reason: generate::FinishReason, called: bool, as_functions: bool) -> FinishReason {
    match (reason, called, as_functions) {
        (generate::FinishReason::Stop, true, false) => FinishReason::ToolCalls,
        (generate::FinishReason::Stop, true, true) => FinishReason::FunctionCall,
        (reason, ..) => reason.into(),
    }
}

impl<'h> ChatCompletion<'h> {
    /// The whole answer to a request; `as_functions`: which offered tools in the older form.
    pub fn new(
        head: &'h Head,
        answers: Vec<Answer>,
        as_functions: bool,
        usage: generate::Usage,
        receipts: Option<&[Receipt]>,
    ) -> Self {
        let choices =
            answers.into_iter().enumerate().map(|(index, answer)| Choice::new(index, answer, as_functions));
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

impl From<&[TokenLogprob]> for ChatLogprobs {
    fn from(tokens: &[TokenLogprob]) -> Self {
        Self { content: tokens.iter().map(ChosenToken::from).collect(), refusal: () }
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
    /// Calls, or more of their arguments
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<CallDelta>,
    /// The same, where the request had `functions`
    #[serde(skip_serializing_if = "Option::is_none")]
    function_call: Option<FunctionDelta>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
struct CallDelta {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<ToolType>,
    function: FunctionDelta,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
struct FunctionDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    arguments: String,
}

impl From<CallPiece> for CallDelta {
    fn from(CallPiece { index, name, arguments }: CallPiece) -> Self {
        let first = name.is_some();
        Self {
            index,
            id: first.then(Called::new_id),
            r#type: first.then_some(ToolType::Function),
            function: FunctionDelta { name, arguments },
        }
    }
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
    /// Whether calls are sent in the older form.
    pub as_functions: bool,
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

    /// More of an answer: of its text, of the thoughts before it, or of its calls.
    pub fn content(
        &self,
        index: usize,
        text: String,
        calls: Vec<CallPiece>,
        reasoning: Option<String>,
        token: Option<&TokenLogprob>,
    ) -> Chunk<'_> {
        let hidden = reasoning.is_some() && !self.include_reasoning;
        let reasoning_content = reasoning.filter(|_| !hidden);
        let silent = reasoning_content.is_some() || text.is_empty() && !calls.is_empty();
        let content = (!silent).then_some(text);
        let mut tool_calls: Vec<CallDelta> = calls.into_iter().map(CallDelta::from).collect();
        let function_call =
            if self.as_functions { tool_calls.drain(..).next().map(|call| call.function) } else { None };
        let delta = Delta { role: None, content, reasoning_content, tool_calls, function_call };
        let choice = Self::of_choice(index, delta);
        let token = token.filter(|_| !hidden);
        let logprobs = token.map(|token| ChatLogprobs::from(std::slice::from_ref(token)));
        self.chunk(vec![ChunkChoice { logprobs, ..choice }])
    }

    /// The end of a choice, which has `called` something, or not.
    pub fn finish(&self, index: usize, reason: generate::FinishReason, called: bool) -> Chunk<'_> {
        let choice = Self::of_choice(index, Delta::default());
        let reason = finish_reason(reason, called, self.as_functions);
        self.chunk(vec![ChunkChoice { finish_reason: Some(reason), ..choice }])
    }

    /// Token counts, after all choices.
    pub fn usage(&self, usage: generate::Usage) -> Chunk<'_> {
        Chunk { usage: Some(Some(usage.into())), ..self.chunk(Vec::new()) }
    }
}
