//! What the runtime takes from `generation_config.json`: the ids that end an answer, and how tokens are
//! picked where a request does not say.
//!
//! Every key is followed, known to change nothing, or refused by its name: one that is dropped in silence
//! would make answers differ from those that the checkpoint's author sees. Absent keys are off, as vLLM has
//! it; transformers' own `top_k` of 50 for files that name none is not taken.

use std::path::{Path, PathBuf};

use arrcoc_bundle::GenerationSpec;
use arrcoc_bundle::quote::excerpt;
use serde_json::{Map, Value};

use super::error::TextError;
use super::files::{parse, read};
use arrcoc_bundle::names::checkpoint::{CONFIG, GENERATION_CONFIG};

/// What the file says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Generation {
    /// Ids that end an answer.
    pub(super) eos_token_ids: Vec<u32>,
    /// How tokens are picked.
    pub(super) defaults: GenerationSpec,
}

/// Keys that are followed.
const FOLLOWED: [&str; 8] = [
    "eos_token_id",
    "do_sample",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "max_new_tokens",
];

/// Keys that change no answer here, whatever they hold.
#[rustfmt::skip]
const WITHOUT_EFFECT: [&str; 39] = [
    // Where the file comes from, and what else transformers keeps in it.
    "_from_model_config", "_commit_hash", "_name_or_path", "transformers_version", "trust_remote_code", "chat_format",
    // Ids that the chat template writes, or that only padding and encoder-decoders use.
    "bos_token_id", "pad_token_id", "decoder_start_token_id",
    // The length of prompt and answer together is the server's `engine.context_length`.
    "max_length", "max_window_size", "max_time", "max_matching_ngram_size",
    // How it is computed.
    "use_cache", "cache_implementation", "cache_config", "return_legacy_cache", "prefill_chunk_size", "low_memory",
    "compile_config", "disable_compile", "remove_invalid_values", "renormalize_logits",
    // What is returned besides the answer; the number of answers is the request's.
    "num_return_sequences", "output_attentions", "output_hidden_states", "output_scores", "output_logits",
    "return_dict_in_generate",
    // Drafting by another model, which changes no distribution.
    "is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold",
    "assistant_lookbehind", "target_lookbehind", "prompt_lookup_num_tokens",
    // Beams only, and more than one of them is refused.
    "length_penalty", "early_stopping", "num_beam_groups",
];

/// Numbers that mean "off" for keys that are not supported otherwise.
const OFF: [(&str, f64); 13] = [
    ("num_beams", 1.0),
    ("typical_p", 1.0),
    ("top_h", 1.0),
    ("encoder_repetition_penalty", 1.0),
    ("guidance_scale", 1.0),
    ("penalty_alpha", 0.0),
    ("epsilon_cutoff", 0.0),
    ("eta_cutoff", 0.0),
    ("diversity_penalty", 0.0),
    ("no_repeat_ngram_size", 0.0),
    ("encoder_no_repeat_ngram_size", 0.0),
    ("min_length", 0.0),
    ("min_new_tokens", 0.0),
];

/// Keys that `config.json` may hold too, from before the file existed, and the values that transformers takes
/// for "not set". What `config.json` may not hold is refused with it.
#[rustfmt::skip]
const ALSO_IN_CONFIG: [(&str, Option<f64>); 23] = [
    ("eos_token_id", None), ("do_sample", None), ("early_stopping", None), ("bad_words_ids", None),
    ("suppress_tokens", None), ("begin_suppress_tokens", None), ("forced_bos_token_id", None),
    ("forced_eos_token_id", None), ("exponential_decay_length_penalty", None), ("remove_invalid_values", None),
    ("temperature", Some(1.0)), ("top_p", Some(1.0)), ("top_k", Some(50.0)), ("typical_p", Some(1.0)),
    ("repetition_penalty", Some(1.0)), ("length_penalty", Some(1.0)), ("num_beams", Some(1.0)),
    ("num_beam_groups", Some(1.0)), ("diversity_penalty", Some(0.0)), ("no_repeat_ngram_size", Some(0.0)),
    ("encoder_no_repeat_ngram_size", Some(0.0)), ("min_length", Some(0.0)), ("num_return_sequences", Some(1.0)),
];

/// What transformers makes of a checkpoint without the file (`GenerationConfig.from_model_config`): the keys
/// at the top of `config.json`, and those of `text_config` where the top sets none or says what is the
/// default.
fn of_model_config(config: &Value) -> Value {
    let unset = |value: &Value, default: Option<f64>| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => default.is_some() && number.as_f64() == default,
        _ => false,
    };
    let keys = ALSO_IN_CONFIG.iter().filter_map(|&(key, default)| {
        let places = [&config[key], &config["text_config"][key]];
        let set = places.into_iter().find(|value| !unset(value, default));
        set.or_else(|| places.into_iter().find(|value| !value.is_null()))
            .map(|value| (key.to_owned(), value.clone()))
    });
    Value::Object(keys.collect::<Map<_, _>>())
}

/// Reads the file of a checkpoint; where it is absent, `config.json` is asked for the same keys.
pub(super) fn generation(dir: &Path, config: &Value, vocab_size: usize) -> Result<Generation, TextError> {
    let (name, file) = match read(dir, GENERATION_CONFIG)? {
        Some(bytes) => (GENERATION_CONFIG, parse(dir, GENERATION_CONFIG, &bytes)?),
        None => (CONFIG, of_model_config(config)),
    };
    let keys = Keys { path: dir.join(name), file: &file };
    keys.refuse_unsupported()?;
    Ok(Generation {
        eos_token_ids: keys.eos_token_ids(config, vocab_size)?,
        defaults: keys.defaults(vocab_size)?,
    })
}

struct Keys<'a> {
    path: PathBuf,
    file: &'a Value,
}

impl Keys<'_> {
    fn wrong(&self, key: &str, expected: impl Into<String>, found: &Value) -> TextError {
        let found = excerpt(&found.to_string());
        let (path, key) = (self.path.clone(), excerpt(key));
        TextError::Key { path, key, expected: expected.into(), found }
    }

    fn refuse_unsupported(&self) -> Result<(), TextError> {
        let Some(keys) = self.file.as_object() else {
            return Err(self.wrong("the file", "a JSON object", self.file));
        };
        for (key, value) in keys {
            if FOLLOWED.contains(&key.as_str())
                || WITHOUT_EFFECT.contains(&key.as_str())
                || is_off(key, value)
            {
                continue;
            }
            let off = OFF.iter().find(|(name, _)| name == key).map(|(_, off)| format!("{off} or "));
            let expected = format!(
                "{}no such key, since what it asks for is not supported and would change answers; remove it if they \
                 may differ from transformers'",
                off.unwrap_or_default()
            );
            return Err(self.wrong(key, expected, value));
        }
        Ok(())
    }

    /// `eos_token_id`, a number or a list, of this file or else of the text config.
    fn eos_token_ids(&self, config: &Value, vocab_size: usize) -> Result<Vec<u32>, TextError> {
        let own = &self.file["eos_token_id"];
        let found = if own.is_null() { &config["text_config"]["eos_token_id"] } else { own };
        let id = |value: &Value| value.as_u64().filter(|&id| id < vocab_size as u64).map(|id| id as u32);
        let ids = match found {
            Value::Array(ids) => ids.iter().map(id).collect(),
            one => id(one).map(|id| vec![id]),
        };
        ids.filter(|ids: &Vec<u32>| !ids.is_empty()).ok_or_else(|| {
            self.wrong("eos_token_id", format!("a token id below {vocab_size}, or a list of them"), found)
        })
    }

    fn defaults(&self, vocab_size: usize) -> Result<GenerationSpec, TextError> {
        let off = GenerationSpec::default();
        let do_sample = match &self.file["do_sample"] {
            Value::Null => false,
            Value::Bool(do_sample) => *do_sample,
            other => return Err(self.wrong("do_sample", "true or false", other)),
        };
        let up_to_1 = |x: f64| x > 0.0 && x <= 1.0;
        let top_k = self.count("top_k")?.unwrap_or(off.top_k);
        Ok(GenerationSpec {
            do_sample,
            temperature: self.number(
                "temperature",
                "a number above 0, at most 100",
                off.temperature,
                |x| {
                    // What is not sampled has no temperature; some write 0 there.
                    (x > 0.0 || (x == 0.0 && !do_sample)) && x <= 100.0
                },
            )?,
            top_p: self.number("top_p", "a number above 0, at most 1", off.top_p, up_to_1)?,
            // As many as there are tokens keeps all of them.
            top_k: if top_k >= vocab_size { 0 } else { top_k },
            min_p: self.number("min_p", "a number from 0 to 1", off.min_p, |x| (0.0..=1.0).contains(&x))?,
            repetition_penalty: self.number(
                "repetition_penalty",
                "a number from 0.01 to 100",
                off.repetition_penalty,
                |x| (0.01..=100.0).contains(&x),
            )?,
            max_new_tokens: match self.count("max_new_tokens")? {
                Some(0) => {
                    return Err(self.wrong("max_new_tokens", "at least 1", &self.file["max_new_tokens"]));
                }
                count => count,
            },
        })
    }

    fn number(
        &self,
        key: &'static str,
        expected: &str,
        default: f32,
        sane: impl Fn(f64) -> bool,
    ) -> Result<f32, TextError> {
        match &self.file[key] {
            Value::Null => Ok(default),
            value => match value.as_f64().filter(|&x| sane(x)) {
                // A greedy checkpoint's 0 says no more than `do_sample` does.
                Some(0.0) if key == "temperature" => Ok(default),
                Some(x) => Ok(x as f32),
                None => Err(self.wrong(key, expected, value)),
            },
        }
    }

    fn count(&self, key: &'static str) -> Result<Option<usize>, TextError> {
        match &self.file[key] {
            Value::Null => Ok(None),
            value => match value.as_u64() {
                Some(n) => Ok(Some(n as usize)),
                None => Err(self.wrong(key, "a whole number of at least 0", value)),
            },
        }
    }
}

/// Whether a value asks for nothing.
fn is_off(key: &str, value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(keys) => keys.is_empty(),
        Value::Number(number) => OFF.iter().any(|&(name, off)| name == key && number.as_f64() == Some(off)),
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(file: &Value) -> Result<Generation, TextError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(GENERATION_CONFIG), file.to_string()).unwrap();
        generation(dir.path(), &json!({"text_config": {"eos_token_id": 3}}), 100)
    }

    #[test]
    fn sampling_is_what_the_file_says() {
        let file = json!({
            "do_sample": true, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_p": 0.05,
            "repetition_penalty": 1.05, "max_new_tokens": 2048, "eos_token_id": [1, 2],
        });
        let Generation { eos_token_ids, defaults } = of(&file).unwrap();
        assert_eq!(eos_token_ids, [1, 2]);
        let expected = GenerationSpec {
            do_sample: true,
            temperature: 0.7,
            top_p: 0.8,
            top_k: 20,
            min_p: 0.05,
            repetition_penalty: 1.05,
            max_new_tokens: Some(2048),
        };
        assert_eq!(defaults, expected);
    }

    #[test]
    fn what_does_not_say_do_sample_is_greedy() {
        for file in [json!({}), json!({"do_sample": false, "temperature": 0.0}), json!({"temperature": 0.6})]
        {
            let Generation { eos_token_ids, defaults } = of(&file).unwrap();
            assert_eq!(
                (arrcoc_runtime::generate::Sampling::of(&defaults).temperature, eos_token_ids.as_slice()),
                (0.0, [3].as_slice()),
                "{file}"
            );
        }
        let empty = tempfile::tempdir().unwrap();
        let absent = generation(empty.path(), &json!({"text_config": {"eos_token_id": 3}}), 100).unwrap();
        assert_eq!(absent, of(&json!({})).unwrap());
    }

    #[test]
    fn without_the_file_config_json_is_asked() {
        let empty = tempfile::tempdir().unwrap();
        let of = |config: Value| generation(empty.path(), &config, 100);
        let found = of(json!({
            "do_sample": true, "temperature": 1.0, "top_p": 0.8, "eos_token_id": 5,
            "text_config": {"eos_token_id": 3, "temperature": 0.7, "top_p": 0.1, "top_k": 20, "repetition_penalty": 1.05},
        }));
        let Generation { eos_token_ids, defaults } = found.unwrap();
        let expected = GenerationSpec {
            do_sample: true,
            temperature: 0.7,
            top_p: 0.8,
            top_k: 20,
            repetition_penalty: 1.05,
            ..GenerationSpec::default()
        };
        assert_eq!((eos_token_ids, defaults), (vec![5], expected));
        for (key, value) in
            [("num_beams", json!(4)), ("suppress_tokens", json!([1])), ("forced_eos_token_id", json!(2))]
        {
            for config in [
                json!({key: value, "text_config": {"eos_token_id": 3}}),
                json!({"text_config": {"eos_token_id": 3, key: value}}),
            ] {
                let error = of(config).unwrap_err().to_string();
                assert!(error.contains("/config.json") && error.contains(key), "{error}");
            }
        }
        // The file, where there is one, is all that counts.
        std::fs::write(empty.path().join(GENERATION_CONFIG), "{}").unwrap();
        let with_file = of(json!({"do_sample": true, "num_beams": 4, "text_config": {"eos_token_id": 3}}));
        assert!(!with_file.unwrap().defaults.do_sample);
    }

    #[test]
    fn what_would_change_answers_is_refused_by_name() {
        for (key, value) in [
            ("num_beams", json!(4)),
            ("no_repeat_ngram_size", json!(3)),
            ("bad_words_ids", json!([[1]])),
            ("suppress_tokens", json!([1, 2])),
            ("begin_suppress_tokens", json!([1])),
            ("forced_bos_token_id", json!(0)),
            ("forced_eos_token_id", json!(2)),
            ("sequence_bias", json!([[[1], 2.0]])),
            ("exponential_decay_length_penalty", json!([5, 1.1])),
            ("penalty_alpha", json!(0.6)),
            ("typical_p", json!(0.9)),
            ("epsilon_cutoff", json!(3e-4)),
            ("eta_cutoff", json!(3e-4)),
            ("encoder_repetition_penalty", json!(1.2)),
            ("guidance_scale", json!(1.5)),
            ("min_new_tokens", json!(8)),
            ("min_length", json!(8)),
            ("stop_strings", json!(["END"])),
            ("watermarking_config", json!({"bias": 2.0})),
            ("dola_layers", json!("high")),
            ("token_healing", json!(true)),
            ("constraints", json!([1])),
            ("a_key_of_tomorrow", json!(1)),
        ] {
            let error = of(&json!({key: value})).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains("not supported"), "{error}");
        }
        for (key, value) in [
            ("temperature", json!("hot")),
            ("top_p", json!(0)),
            ("top_k", json!(-1)),
            ("min_p", json!(2)),
            ("repetition_penalty", json!(0)),
            ("do_sample", json!("yes")),
            ("max_new_tokens", json!(0)),
            ("eos_token_id", json!(100)),
        ] {
            let error = of(&json!({"do_sample": true, key: value})).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains("expected"), "{error}");
        }
    }

    /// What transformers itself writes, whole: everything off.
    #[test]
    fn what_asks_for_nothing_is_let_through() {
        of(&json!({
            "_from_model_config": true, "transformers_version": "4.57.1", "bos_token_id": 1, "pad_token_id": 0,
            "use_cache": true, "cache_implementation": "hybrid", "max_length": 20, "num_beams": 1, "num_beam_groups": 1,
            "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "no_repeat_ngram_size": 0,
            "bad_words_ids": null, "suppress_tokens": null, "begin_suppress_tokens": [], "forced_eos_token_id": null,
            "length_penalty": 1.0, "early_stopping": false, "guidance_scale": null, "penalty_alpha": null,
            "min_length": 0, "encoder_repetition_penalty": 1.0, "top_k": 100, "output_scores": false,
            "diversity_penalty": 0.0, "return_dict_in_generate": false, "remove_invalid_values": false,
        }))
        .unwrap();
    }
}
