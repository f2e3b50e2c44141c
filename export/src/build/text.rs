//! What a bundle takes from a checkpoint besides its weights: tokenizer and chat template, and what
//! [`generation_config`] and [`preprocessor`] find.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use tokenizers::Tokenizer;

use super::error::TextError;
use super::generation_config::Generation;
use super::{generation_config, preprocessor};

const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";

/// The checked contents of the text files.
#[derive(Debug)]
pub(super) struct Text {
    /// Files that the bundle carries, by name.
    pub(super) files: BTreeMap<String, Vec<u8>>,
    /// Ids that end an answer, and how tokens are picked.
    pub(super) generation: Generation,
    /// Per-channel mean of pixels in 0..1.
    pub(super) image_mean: [f32; 3],
    /// Per-channel standard deviation of pixels in 0..1.
    pub(super) image_std: [f32; 3],
}

/// What the text files must agree with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    /// `image_token_id` of `config.json`.
    pub(super) image_token_id: u32,
    /// Rows of the embedding table.
    pub(super) vocab_size: usize,
    /// Side of the vision encoder's native image.
    pub(super) native_size: usize,
}

impl Text {
    /// Reads and checks the files of a checkpoint.
    pub(super) fn read(dir: &Path, config: &Value, expected: Expected) -> Result<Self, TextError> {
        let mut files = BTreeMap::new();
        let tokenizer = read(dir, TOKENIZER)?.ok_or_else(|| TextError::Missing {
            path: dir.join(TOKENIZER),
            hint: "save the tokenizer in its fast form: `tokenizer.save_pretrained(DIR)` of transformers writes it",
        })?;
        check_tokenizer(&dir.join(TOKENIZER), &tokenizer, expected)?;
        files.insert(TOKENIZER.to_owned(), tokenizer);
        let tokenizer_config = read(dir, TOKENIZER_CONFIG)?;
        let template = chat_template(dir, tokenizer_config.as_deref())?;
        files.insert(CHAT_TEMPLATE.to_owned(), template);
        files.extend(tokenizer_config.map(|bytes| (TOKENIZER_CONFIG.to_owned(), bytes)));
        let generation = generation_config::generation(dir, config, expected.vocab_size)?;
        let (image_mean, image_std) = preprocessor::read(dir, expected.native_size)?;
        Ok(Self { files, generation, image_mean, image_std })
    }
}

/// Reads a file that may be absent.
pub(super) fn read(dir: &Path, name: &str) -> Result<Option<Vec<u8>>, TextError> {
    let path = dir.join(name);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TextError::Io { path, source }),
    }
}

pub(super) fn parse(dir: &Path, name: &str, bytes: &[u8]) -> Result<Value, TextError> {
    serde_json::from_slice(bytes).map_err(|source| TextError::Json { path: dir.join(name), source })
}

fn check_tokenizer(path: &Path, bytes: &[u8], expected: Expected) -> Result<(), TextError> {
    let tokenizer = Tokenizer::from_bytes(bytes)
        .map_err(|error| TextError::Tokenizer { path: path.to_owned(), reason: error.to_string() })?;
    let value = |key, expected: String, found: String| TextError::Value {
        path: path.to_owned(),
        key,
        expected,
        found,
    };
    let largest = tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
    if largest as usize >= expected.vocab_size {
        let limit = format!("token ids below text_config.vocab_size ({})", expected.vocab_size);
        return Err(value("vocab", limit, format!("id {largest}")));
    }
    if tokenizer.id_to_token(expected.image_token_id).is_none() {
        let id = expected.image_token_id;
        return Err(value("added_tokens", format!("a token with image_token_id {id}"), "none".to_owned()));
    }
    Ok(())
}

/// The template's own file, or the older place inside `tokenizer_config.json`.
fn chat_template(dir: &Path, tokenizer_config: Option<&[u8]>) -> Result<Vec<u8>, TextError> {
    if let Some(template) = read(dir, CHAT_TEMPLATE)? {
        return Ok(template);
    }
    if let Some(bytes) = tokenizer_config {
        let config = parse(dir, TOKENIZER_CONFIG, bytes)?;
        let template = match &config["chat_template"] {
            Value::Array(named) => {
                named.iter().find(|entry| entry["name"] == "default").map(|entry| &entry["template"])
            }
            template => Some(template),
        };
        if let Some(template) = template.and_then(Value::as_str) {
            return Ok(template.as_bytes().to_vec());
        }
    }
    let hint =
        "the runtime needs the model's dialogue format, there or as `chat_template` in tokenizer_config.json";
    Err(TextError::Missing { path: dir.join(CHAT_TEMPLATE), hint })
}
