//! Log-probabilities as chats and responses have them.

use arrcoc_runtime::generate::{Logprob, TokenLogprob};
use schemars::JsonSchema;
use serde::Serialize;

use super::{finite, token_text};

/// A token of an answer, and what else was likely.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(inline)]
pub struct ChosenToken {
    #[serde(flatten)]
    token: LikelyToken,
    top_logprobs: Vec<LikelyToken>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
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

impl From<&TokenLogprob> for ChosenToken {
    fn from(token: &TokenLogprob) -> Self {
        Self {
            token: LikelyToken::from(&token.token),
            top_logprobs: token.top.iter().map(LikelyToken::from).collect(),
        }
    }
}
