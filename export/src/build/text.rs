//! What a bundle takes from a checkpoint besides its weights: tokenizer, chat template, and the few numbers of
//! `generation_config.json` and `preprocessor_config.json` that the runtime needs.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use tokenizers::Tokenizer;

use super::error::TextError;

const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";
const GENERATION_CONFIG: &str = "generation_config.json";
const PREPROCESSOR_CONFIG: &str = "preprocessor_config.json";

/// The checked contents of the text files.
#[derive(Debug)]
pub(super) struct Text {
    /// Files that the bundle carries, by name.
    pub(super) files: BTreeMap<String, Vec<u8>>,
    /// Ids that end a generation.
    pub(super) eos_token_ids: Vec<u32>,
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
        let eos_token_ids = eos_token_ids(dir, config, expected.vocab_size)?;
        let (image_mean, image_std) = preprocessor(dir, expected.native_size)?;
        Ok(Self { files, eos_token_ids, image_mean, image_std })
    }
}

/// Reads a file that may be absent.
fn read(dir: &Path, name: &str) -> Result<Option<Vec<u8>>, TextError> {
    let path = dir.join(name);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TextError::Io { path, source }),
    }
}

fn parse(dir: &Path, name: &str, bytes: &[u8]) -> Result<Value, TextError> {
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

/// `eos_token_id`, a number or a list, of the generation config or else of the text config.
fn eos_token_ids(dir: &Path, config: &Value, vocab_size: usize) -> Result<Vec<u32>, TextError> {
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

/// Mean and standard deviation; and that the file describes the preprocessing that the runtime does.
fn preprocessor(dir: &Path, native_size: usize) -> Result<([f32; 3], [f32; 3]), TextError> {
    let hint =
        "it holds the mean and standard deviation of pixels; save it with transformers' SamImageProcessor";
    let path = dir.join(PREPROCESSOR_CONFIG);
    let bytes =
        read(dir, PREPROCESSOR_CONFIG)?.ok_or_else(|| TextError::Missing { path: path.clone(), hint })?;
    let config = parse(dir, PREPROCESSOR_CONFIG, &bytes)?;
    let expect = |ok: bool, key: &'static str, expected: String| match ok {
        true => Ok(()),
        false => Err(TextError::Value { path: path.clone(), key, expected, found: config[key].to_string() }),
    };
    let factor = config["rescale_factor"].as_f64().unwrap_or(1.0 / 255.0);
    expect((factor * 255.0 - 1.0).abs() < 1e-6, "rescale_factor", "1/255".to_owned())?;
    expect(config["resample"].as_u64().unwrap_or(2) == 2, "resample", "2 (bilinear)".to_owned())?;
    let edge = config["size"]["longest_edge"].as_u64().unwrap_or(native_size as u64);
    let wanted = format!("longest_edge {native_size}, the image_size of vision_config");
    expect(edge == native_size as u64, "size", wanted)?;
    let channels = |key: &'static str, positive: bool| {
        let list: Option<Vec<f32>> = config[key]
            .as_array()
            .and_then(|list| list.iter().map(|x| x.as_f64().map(|x| x as f32)).collect());
        let three = list.and_then(|list| <[f32; 3]>::try_from(list).ok());
        let wanted = if positive { "three numbers above zero" } else { "three numbers" };
        let three = three.filter(|xs| xs.iter().all(|x| x.is_finite() && (!positive || *x > 0.0)));
        expect(three.is_some(), key, wanted.to_owned())?;
        Ok(three.unwrap_or_default())
    };
    Ok((channels("image_mean", false)?, channels("image_std", true)?))
}
