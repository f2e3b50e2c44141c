//! What a bundle takes from a checkpoint besides its weights: tokenizer and chat template, and what
//! [`generation_config`] finds. Template and tokens lie in several places in checkpoints; a bundle has
//! one for each, found as transformers finds them.

use std::collections::BTreeMap;
use std::path::Path;

use arrcoc_bundle::ToolSyntax;
use arrcoc_bundle::names::checkpoint::{
    DEFAULT_TEMPLATE, LEGACY_CHAT_TEMPLATE, PROCESSOR_CONFIG, SPECIAL_TOKENS_MAP,
};
use arrcoc_bundle::names::file::{CHAT_TEMPLATE, TOKENIZER, TOKENIZER_CONFIG};
use arrcoc_runtime::error::LoadError;
use arrcoc_runtime::prompt::{Prompter, default_template, read_tokenizer};
use serde_json::Value;

use super::error::TextError;
use super::files::{parse, read};
use super::generation_config;
use super::generation_config::Generation;

/// The checked contents of the text files.
#[derive(Debug)]
pub(crate) struct Text {
    /// Files that the bundle carries, by name.
    pub(super) files: BTreeMap<String, Vec<u8>>,
    /// Ids that end an answer, and how tokens are picked.
    pub(super) generation: Generation,
    /// How the model calls tools, as its template shows it.
    pub(super) tool_calls: Option<ToolSyntax>,
}

/// What the text files must agree with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    /// The placeholder of an image. No row of the table is read for it, so it may lie beyond the vocabulary.
    pub(super) image_token_id: u32,
    /// Rows of the embedding table.
    pub(super) vocab_size: usize,
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
        let tokenizer_config = tokenizer_config(dir)?;
        let (origin, template) = chat_template(dir, tokenizer_config.as_deref())?;
        let tool_calls =
            check_prompts(dir, origin, &tokenizer, tokenizer_config.as_deref(), &template, expected)?;
        files.insert(TOKENIZER.to_owned(), tokenizer);
        files.insert(CHAT_TEMPLATE.to_owned(), template.into_bytes());
        files.extend(tokenizer_config.map(|bytes| (TOKENIZER_CONFIG.to_owned(), bytes)));
        let generation = generation_config::generation(dir, config, expected.vocab_size)?;
        Ok(Self { files, generation, tool_calls })
    }
}

fn check_tokenizer(path: &Path, bytes: &[u8], expected: Expected) -> Result<(), TextError> {
    let tokenizer =
        read_tokenizer(bytes).map_err(|reason| TextError::Tokenizer { path: path.to_owned(), reason })?;
    let value = |key, expected: String, found: String| TextError::Value {
        path: path.to_owned(),
        key,
        expected,
        found,
    };
    let read = tokenizer.get_vocab(true).into_values().filter(|id| *id != expected.image_token_id);
    let largest = read.max().unwrap_or(0);
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

/// The tokenizer's configuration, with the tokens of `special_tokens_map.json` where transformers still reads
/// that: beside a configuration that does not list the added tokens itself.
fn tokenizer_config(dir: &Path) -> Result<Option<Vec<u8>>, TextError> {
    let own = read(dir, TOKENIZER_CONFIG)?;
    let Some(map) = read(dir, SPECIAL_TOKENS_MAP)? else { return Ok(own) };
    let mut config = match &own {
        Some(bytes) => parse(dir, TOKENIZER_CONFIG, bytes)?,
        None => Value::Object(Default::default()),
    };
    let (Value::Object(entries), Value::Object(map)) = (&mut config, parse(dir, SPECIAL_TOKENS_MAP, &map)?)
    else {
        return Err(TextError::Value {
            path: dir.join(SPECIAL_TOKENS_MAP),
            key: "the whole file",
            expected: "a JSON object, beside a tokenizer_config.json that is one".to_owned(),
            found: "something else".to_owned(),
        });
    };
    if entries.contains_key("added_tokens_decoder") {
        return Ok(own);
    }
    entries.extend(map);
    Ok(Some(config.to_string().into_bytes()))
}

/// The same parsed; `null` where there is none.
pub(super) fn tokenizer_attributes(dir: &Path) -> Result<Value, TextError> {
    tokenizer_config(dir)?.map_or(Ok(Value::Null), |bytes| parse(dir, TOKENIZER_CONFIG, &bytes))
}

/// The model's template and the file that it stands in, in the order in which transformers' processors look.
fn chat_template(dir: &Path, tokenizer_config: Option<&[u8]>) -> Result<(&'static str, String), TextError> {
    for name in [PROCESSOR_CONFIG, LEGACY_CHAT_TEMPLATE] {
        if let Some(bytes) = read(dir, name)?
            && let Some(template) = default_template(&parse(dir, name, &bytes)?["chat_template"])
        {
            return Ok((name, template));
        }
    }
    for name in [CHAT_TEMPLATE, DEFAULT_TEMPLATE] {
        if let Some(bytes) = read(dir, name)? {
            let template = String::from_utf8(bytes).map_err(|error| TextError::Template {
                path: dir.join(name),
                reason: format!("expected text in UTF-8, found {error}"),
            })?;
            return Ok((name, template));
        }
    }
    if let Some(bytes) = tokenizer_config
        && let Some(template) = default_template(&parse(dir, TOKENIZER_CONFIG, bytes)?["chat_template"])
    {
        return Ok((TOKENIZER_CONFIG, template));
    }
    let hint = "the runtime needs the model's dialogue format: this file, chat_templates/default.jinja, or \
                `chat_template` in processor_config.json, chat_template.json or tokenizer_config.json";
    Err(TextError::Missing { path: dir.join(CHAT_TEMPLATE), hint })
}

/// Loads tokenizer and template as the runtime does, which puts a few conversations to them; returns how the
/// template shows calls of tools.
fn check_prompts(
    dir: &Path,
    origin: &str,
    tokenizer: &[u8],
    tokenizer_config: Option<&[u8]>,
    template: &str,
    expected: Expected,
) -> Result<Option<ToolSyntax>, TextError> {
    let tokenizer = String::from_utf8_lossy(tokenizer);
    let config = tokenizer_config.map_or("{}".into(), String::from_utf8_lossy);
    match Prompter::new(&tokenizer, &config, Some(template.to_owned()), expected.image_token_id) {
        Ok(prompter) => Ok(prompter.tool_syntax()),
        Err(LoadError::Text { file: CHAT_TEMPLATE, reason }) => {
            Err(TextError::Template { path: dir.join(origin), reason })
        }
        Err(LoadError::Text { file: TOKENIZER, reason }) => {
            Err(TextError::Tokenizer { path: dir.join(TOKENIZER), reason })
        }
        Err(error) => {
            Err(TextError::Template { path: dir.join(TOKENIZER_CONFIG), reason: error.to_string() })
        }
    }
}
