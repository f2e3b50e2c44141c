//! Keys of `config.json` that change nothing of what a model answers, for the families that read it.
//!
//! A key that is neither read nor known to be neutral is refused: it may change the result, and nobody would
//! notice. The lists here hold for every section that transformers writes. What a family's own sections may
//! hold besides is a [`Neutral`] in the family's file. The keys are what transformers 5.23 and 4.57 write for
//! the default configurations (`tests/fixtures/make_config_keys.py`), less what is read.

use serde_json::Value;

/// Keys that transformers writes into every section. They concern training, bookkeeping and generation.
/// Generation has a file of its own. Where that file is missing, the exporter reads these keys itself.
const EVERYWHERE: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attn_implementation",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "id2label",
    "initializer_factor",
    "initializer_range",
    "is_decoder",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "use_bfloat16",
    "use_cache",
];

/// Keys that change nothing while they say no: `false`, `null` or empty.
const UNLESS_SET: &[&str] = &[
    "add_cross_attention",
    "cross_attention_hidden_size",
    "is_encoder_decoder",
    "pruned_heads",
    "quantization_config",
    "tie_encoder_decoder",
];

/// Keys of a family's sections that change nothing: section, and what it may hold besides [`EVERYWHERE`].
#[derive(Debug, Clone, Copy)]
pub struct Neutral(pub &'static [(&'static str, &'static [&'static str])]);

impl Neutral {
    /// Whether `key`, which nothing reads, changes nothing in `section`.
    pub(super) fn covers(self, section: &str, key: &str, value: &Value) -> bool {
        let unset = match value {
            Value::Null | Value::Bool(false) => true,
            Value::Object(map) => map.is_empty(),
            Value::Array(list) => list.is_empty(),
            _ => false,
        };
        let of_family = self.0.iter().any(|(name, keys)| *name == section && keys.contains(&key));
        EVERYWHERE.contains(&key) || of_family || (unset && UNLESS_SET.contains(&key))
    }
}
