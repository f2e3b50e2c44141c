//! Keys of `config.json` that change nothing of what a model answers.
//!
//! A key that is neither read nor listed here is refused: it may change the result, and nobody would notice. The lists are
//! what transformers 5.23 and 4.57 write for the default configurations (`tests/fixtures/make_config_keys.py`), less what
//! is read.

use serde_json::Value;

/// Keys that transformers writes into every section: of training, of bookkeeping, and of generation, which has a file of
/// its own, and without that file is read from here by whoever exports.
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

/// Keys of one section; [`EVERYWHERE`] is not repeated.
fn of_section(section: &str) -> &'static [&'static str] {
    match section {
        // Code of the checkpoint's own is never run. The decoder ties its weights where `text_config` says so.
        "top level" => &["_pad_token_id", "auto_map", "tie_word_embeddings", "vocab_size"],
        // A slower way to the same products, and what earlier code of SmolVLM and Idefics wrote: the decoders of transformers read none of it.
        "text_config" => &[
            "_flash_attn_2_enabled",
            "is_llama_config",
            "neftune_noise_alpha",
            "perceiver_config",
            "pixel_shuffle_factor",
            "pretraining_tp",
            "qk_layer_norms",
            "rope_interleaved",
            "transformers.js_config",
            "use_resampler",
        ],
        // Of the prompt encoder and the projection, which are not part of these networks.
        "vision_config" => {
            &["max_image_size", "num_pos_feats", "scale", "size", "tie_word_embeddings", "use_base_siglip"]
        }
        "clip_config" => &["projection_dim", "tie_word_embeddings"],
        _ => &[],
    }
}

/// Whether `key`, which nothing reads, changes nothing in `section`.
pub(super) fn is_neutral(section: &str, key: &str, value: &Value) -> bool {
    let unset = match value {
        Value::Null | Value::Bool(false) => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    EVERYWHERE.contains(&key) || of_section(section).contains(&key) || (unset && UNLESS_SET.contains(&key))
}
