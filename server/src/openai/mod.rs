//! OpenAI's wire format: what requests may say, and what answers look like.

use std::time::{SystemTime, UNIX_EPOCH};

use arrcoc_runtime::generate::{FinishReason, Logprob, Place, Receipt, Usage};
use arrcoc_runtime::model::ModelInfo;
use serde_json::{Value, json};

use crate::error::ApiError;

pub mod chat;
pub mod completion;
mod extension;
pub(crate) mod names;
pub mod sampling;

/// Seconds since 1970.
pub fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

/// What every chunk of an answer repeats.
#[derive(Debug, Clone)]
pub struct Head {
    /// `chatcmpl-...` or `cmpl-...`.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// Name of the model in the API.
    pub model: String,
    /// Names weights and precision: answers with the same seed are comparable only where this is equal.
    pub fingerprint: String,
}

impl Head {
    /// A new identity for an answer.
    pub fn new(prefix: &str, model: &str, info: &ModelInfo) -> Self {
        let (precision, target) = engine_labels(info);
        let digest: String = info.checkpoint_sha256.chars().take(12).collect();
        Self {
            id: format!("{prefix}-{}", uuid::Uuid::new_v4().simple()),
            created: unix_seconds(SystemTime::now()),
            model: model.to_owned(),
            fingerprint: format!("{digest}-{precision}-{target}"),
        }
    }

    fn object(&self, object: &str) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        })
    }
}

/// 400: a prompt with more text than the server takes.
fn text_too_long(param: &str, limit: usize, at_least: usize) -> ApiError {
    let message =
        format!("`{param}`: expected at most {limit} bytes of text, found {at_least} or more (limits.text)");
    ApiError::invalid(param, message)
}

/// Precision and target as the manifest spells them.
pub(crate) fn engine_labels(info: &ModelInfo) -> (String, String) {
    let text = |value: Result<Value, serde_json::Error>| match value {
        Ok(Value::String(text)) => text,
        _ => "unknown".into(),
    };
    (text(serde_json::to_value(info.precision)), text(serde_json::to_value(info.target)))
}

fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}

/// `usage`, with the visual tokens among the prompt's.
pub fn usage(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {
            "cached_tokens": 0,
            // Other servers' name for the same tokens.
            "image_tokens": usage.visual_tokens,
            "visual_tokens": usage.visual_tokens,
        },
    })
}

/// A token as text: OpenAI writes `bytes:\xe2\x82` for one that is part of a character.
fn token_text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => {
            let escaped: String = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
            format!("bytes:{escaped}")
        }
    }
}

/// JSON has no infinity; OpenAI writes -9999 for "never".
fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { -9999.0 }
}

fn chat_logprob(logprob: &Logprob) -> Value {
    json!({
        "token": token_text(&logprob.bytes),
        "logprob": finite(logprob.logprob),
        "bytes": logprob.bytes,
    })
}

/// The `arrcoc` object of an answer that explains itself.
pub fn explanation(receipts: &[Receipt]) -> Value {
    json!({"images": receipts.iter().map(receipt).collect::<Vec<_>>()})
}

fn receipt(receipt: &Receipt) -> Value {
    let [propositional, perspectival, participatory] = receipt.tension_weights;
    json!({
        "tier": receipt.tier,
        "tokens": receipt.tokens,
        "tier_logits": receipt.tier_logits,
        "tension_weights": {
            "propositional": propositional,
            "perspectival": perspectival,
            "participatory": participatory,
        },
        "image_size": receipt.image_size,
        "places": receipt.places.iter().map(place).collect::<Vec<_>>(),
    })
}

fn place(place: &Place) -> Value {
    json!({
        "rect": place.rect,
        "relevance": place.relevance,
        "gist": place.gist,
        "knowing": place.knowing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_is_part_of_a_character_is_written_as_bytes() {
        assert_eq!(token_text("é".as_bytes()), "é");
        assert_eq!(token_text(&[0xe2, 0x82]), "bytes:\\xe2\\x82");
        assert_eq!(finite(f32::NEG_INFINITY), -9999.0);
    }
}
