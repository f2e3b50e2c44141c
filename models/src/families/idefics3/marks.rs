//! The texts around the rows of tiles, for the family's description of its processor.
//!
//! transformers 5.23 has two processors. `Idefics3Processor` always writes the same texts. `SmolVLMProcessor`
//! asks the tokenizer for `fake_image_token` and `global_image_token`, and falls back to the same texts. The
//! picture's own token is the one with the configuration's `image_token_id`.

use arrcoc_bundle::names::file::TOKENIZER_CONFIG;
use serde_json::Value;

use crate::config::{Check, ConfigError};
use crate::families::contract::Files;

/// Before and behind the rows of a tile, where the tokenizer does not say.
const FRAME: &str = "<fake_token_around_image>";
/// Before the rows of the view of the whole, where the tokenizer does not say.
const WHOLE: &str = "<global-img>";

/// Longest text, bytes.
const MOST: usize = 200;

/// Texts of the placeholders in a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marks {
    /// Before and behind the rows of a tile.
    pub(super) frame: String,
    /// Before the rows of the view of the whole.
    pub(super) whole: String,
}

impl Marks {
    /// The texts that the checkpoint's processor would write.
    ///
    /// # Errors
    /// [`ConfigError::Value`] where a token is no text, or too long for one.
    pub(super) fn read(files: &Files<'_>) -> Result<Self, ConfigError> {
        if !asks_the_tokenizer(files) {
            return Ok(Self { frame: FRAME.to_owned(), whole: WHOLE.to_owned() });
        }
        Ok(Self {
            frame: token(files.tokenizer, "fake_image_token", FRAME)?,
            whole: token(files.tokenizer, "global_image_token", WHOLE)?,
        })
    }
}

/// Whether the processor is SmolVLM's: the class that a file names, in the order of transformers'
/// `AutoProcessor`, or the one that belongs to the model.
fn asks_the_tokenizer(files: &Files<'_>) -> bool {
    let named = [files.processor, files.image_processor, files.tokenizer]
        .into_iter()
        .find_map(|file| file["processor_class"].as_str());
    match named {
        Some(class) => class == "SmolVLMProcessor",
        None => files.config["model_type"] == "smolvlm",
    }
}

/// An attribute of the tokenizer. transformers takes it from `extra_special_tokens`, where that has names,
/// else from the top level. There it is a text, or an object with the text as its `content`.
fn token(tokenizer: &Value, key: &'static str, default: &str) -> Result<String, ConfigError> {
    let places = [&tokenizer["extra_special_tokens"], &tokenizer["model_specific_special_tokens"], tokenizer];
    let Some(found) = places.into_iter().map(|place| &place[key]).find(|value| !value.is_null()) else {
        return Ok(default.to_owned());
    };
    let text = found.as_str().or_else(|| found["content"].as_str());
    let text = text.filter(|text| (1..=MOST).contains(&text.len()));
    Check(TOKENIZER_CONFIG).that(text.is_some(), key, format!("a text of 1 to {MOST} bytes"), found)?;
    Ok(text.unwrap_or(default).to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn marks(model_type: &str, processor: Value, tokenizer: Value) -> Result<[String; 2], ConfigError> {
        let config = json!({ "model_type": model_type });
        let files =
            Files { processor: &processor, tokenizer: &tokenizer, ..Files::of_preset(&config, &Value::Null) };
        Marks::read(&files).map(|Marks { frame, whole }| [frame, whole])
    }

    #[test]
    fn smolvlm_asks_the_tokenizer_and_idefics3_does_not() {
        let extra =
            json!({"extra_special_tokens": {"fake_image_token": "<edge>", "global_image_token": "<all>"}});
        let [own, default] = [["<edge>", "<all>"], [FRAME, WHOLE]];
        let read = |model_type, processor: Value| marks(model_type, processor, extra.clone()).unwrap();
        assert_eq!(read("smolvlm", Value::Null), own);
        assert_eq!(read("idefics3", Value::Null), default);
        // The class that is named counts, whatever the model is.
        assert_eq!(read("idefics3", json!({"processor_class": "SmolVLMProcessor"})), own);
        assert_eq!(read("smolvlm", json!({"processor_class": "Idefics3Processor"})), default);
        let named = json!({"processor_class": "Idefics3Processor", "fake_image_token": "<edge>"});
        assert_eq!(marks("smolvlm", Value::Null, named).unwrap(), default);
    }

    #[test]
    fn tokens_lie_in_several_places() {
        let smolvlm = |tokenizer| marks("smolvlm", Value::Null, tokenizer);
        let token = json!({"__type": "AddedToken", "content": "<edge>", "special": true});
        for tokenizer in [
            json!({"fake_image_token": "<edge>"}),
            json!({"fake_image_token": token}),
            json!({"extra_special_tokens": {"fake_image_token": token}, "fake_image_token": "<other>"}),
            json!({"model_specific_special_tokens": {"fake_image_token": "<edge>"}}),
        ] {
            assert_eq!(smolvlm(tokenizer.clone()).unwrap(), ["<edge>", WHOLE], "{tokenizer}");
        }
        // A list has no names.
        for tokenizer in
            [Value::Null, json!({"extra_special_tokens": ["<edge>"]}), json!({"global_image_token": null})]
        {
            assert_eq!(smolvlm(tokenizer.clone()).unwrap(), [FRAME, WHOLE], "{tokenizer}");
        }
        for wrong in [json!(7), json!(""), json!("x".repeat(201)), json!({"text": "<edge>"})] {
            let error = smolvlm(json!({"extra_special_tokens": {"global_image_token": wrong}})).unwrap_err();
            let text = error.to_string();
            assert!(text.starts_with("tokenizer_config.json.global_image_token: expected a text"), "{text}");
        }
    }
}
