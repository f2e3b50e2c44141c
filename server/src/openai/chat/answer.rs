//! What a chat is answered with: the objects of whole answers and of streams.

use arrcoc_runtime::generate::{FinishReason, Receipt, TokenLogprob, Usage};
use serde_json::{Value, json};

use crate::openai::{Head, chat_logprob, explanation, finish_reason, usage as counts};

/// One finished answer.
#[derive(Debug, Clone)]
pub struct Choice {
    /// Its text.
    pub text: String,
    /// Log-probabilities of its tokens, when asked for.
    pub logprobs: Option<Vec<TokenLogprob>>,
    /// Why it ended.
    pub reason: FinishReason,
}

/// The `logprobs` object of a choice or chunk.
fn logprobs(tokens: Option<&[TokenLogprob]>) -> Value {
    tokens.map_or(Value::Null, |tokens| {
        let content: Vec<Value> = tokens
            .iter()
            .map(|token| {
                let mut object = chat_logprob(&token.token);
                object["top_logprobs"] = token.top.iter().map(chat_logprob).collect();
                object
            })
            .collect();
        json!({"content": content, "refusal": null})
    })
}

/// A `chat.completion`.
pub fn completion(head: &Head, choices: &[Choice], usage: Usage, receipts: Option<&[Receipt]>) -> Value {
    let mut object = head.object("chat.completion");
    let choices = choices.iter().enumerate().map(|(index, choice)| {
        json!({
            "index": index,
            "message": {"role": "assistant", "content": choice.text, "refusal": null},
            "logprobs": logprobs(choice.logprobs.as_deref()),
            "finish_reason": finish_reason(choice.reason),
        })
    });
    object["choices"] = choices.collect();
    object["usage"] = counts(usage);
    if let Some(receipts) = receipts {
        object["arrcoc"] = explanation(receipts);
    }
    object
}

/// Builds the `chat.completion.chunk`s of a stream.
#[derive(Debug, Clone)]
pub struct Chunks {
    /// What every chunk repeats.
    pub head: Head,
    /// Whether `usage` is in every chunk: null until the last, as OpenAI does it.
    pub include_usage: bool,
}

impl Chunks {
    fn chunk(&self, choices: Value) -> Value {
        let mut object = self.head.object("chat.completion.chunk");
        object["choices"] = choices;
        if self.include_usage {
            object["usage"] = Value::Null;
        }
        object
    }

    fn delta(&self, index: usize, delta: Value, logprobs: Value, reason: Option<FinishReason>) -> Value {
        self.chunk(json!([{
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": reason.map(finish_reason),
        }]))
    }

    /// The first chunk of a choice. That of the first choice carries the receipts.
    pub fn role(&self, index: usize, receipts: Option<&[Receipt]>) -> Value {
        let mut chunk = self.delta(index, json!({"role": "assistant", "content": ""}), Value::Null, None);
        if let Some(receipts) = receipts {
            chunk["arrcoc"] = explanation(receipts);
        }
        chunk
    }

    /// More text.
    pub fn content(&self, index: usize, text: &str, token: Option<&TokenLogprob>) -> Value {
        self.delta(index, json!({"content": text}), logprobs(token.map(std::slice::from_ref)), None)
    }

    /// The end of a choice.
    pub fn finish(&self, index: usize, reason: FinishReason) -> Value {
        self.delta(index, json!({}), Value::Null, Some(reason))
    }

    /// Token counts, after all choices.
    pub fn usage(&self, usage: Usage) -> Value {
        let mut chunk = self.chunk(json!([]));
        chunk["usage"] = counts(usage);
        chunk
    }
}
