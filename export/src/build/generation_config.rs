//! What the runtime needs of `generation_config.json`.

use std::path::Path;

use serde_json::Value;

use super::error::TextError;
use super::text::{parse, read};

const GENERATION_CONFIG: &str = "generation_config.json";

/// `eos_token_id`, a number or a list, of the generation config or else of the text config.
pub(super) fn eos_token_ids(dir: &Path, config: &Value, vocab_size: usize) -> Result<Vec<u32>, TextError> {
    let generation = match read(dir, GENERATION_CONFIG)? {
        Some(bytes) => parse(dir, GENERATION_CONFIG, &bytes)?,
        None => Value::Null,
    };
    let own = &generation["eos_token_id"];
    let found = if own.is_null() { &config["text_config"]["eos_token_id"] } else { own };
    let id = |value: &Value| value.as_u64().filter(|&id| id < vocab_size as u64).map(|id| id as u32);
    let ids = match found {
        Value::Array(ids) => ids.iter().map(id).collect(),
        one => id(one).map(|id| vec![id]),
    };
    ids.filter(|ids: &Vec<u32>| !ids.is_empty()).ok_or_else(|| TextError::Value {
        path: dir.join(GENERATION_CONFIG),
        key: "eos_token_id",
        expected: format!("a token id below {vocab_size}, or a list of them"),
        found: found.to_string(),
    })
}
