//! The text files of a random checkpoint: a byte-level tokenizer without merges, a chat template, and what goes with
//! them.
//!
//! 256 byte tokens in GPT-2's order and the special tokens of Qwen-VL: every text has an encoding, and every sequence
//! of byte tokens is a text or a piece of one.

use serde_json::{Value, json};

pub(super) const END_OF_TEXT: u32 = 256;
pub(super) const IM_END: u32 = 258;
pub(super) const IMAGE_PAD: u32 = 261;

const SPECIAL: [&str; 6] =
    ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"];

/// Qwen-VL's dialogue format; an image stands for one `<|image_pad|>`, which the runtime expands.
pub(super) const CHAT_TEMPLATE: &str = r#"{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\n' }}
{%- if message.content is string %}
{{- message.content }}
{%- else %}
{%- for part in message.content %}
{%- if part.type == 'image' or part.type == 'image_url' or 'image' in part or 'image_url' in part %}
{{- '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- elif 'text' in part %}
{{- part.text }}
{%- endif %}
{%- endfor %}
{%- endif %}
{{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\n' }}
{%- endif %}
"#;

/// `tokenizer.json`, in the form of the `tokenizers` library.
pub(super) fn tokenizer() -> Value {
    let vocabulary: serde_json::Map<String, Value> = byte_characters()
        .iter()
        .enumerate()
        .map(|(id, character)| (character.to_string(), json!(id)))
        .collect();
    let special = SPECIAL.iter().zip(END_OF_TEXT..).map(|(content, id)| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    });
    let byte_level =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false });
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": special.collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": [],
        },
    })
}

/// `tokenizer_config.json`, in the form of transformers.
pub(super) fn tokenizer_config(context: &Value) -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": false,
        "bos_token": null,
        "eos_token": SPECIAL[2],
        "pad_token": SPECIAL[0],
        "unk_token": null,
        "additional_special_tokens": SPECIAL[1..],
        "clean_up_tokenization_spaces": false,
        "model_max_length": context,
    })
}

/// `generation_config.json`.
pub(super) fn generation_config() -> Value {
    json!({ "eos_token_id": [IM_END, END_OF_TEXT], "pad_token_id": END_OF_TEXT, "do_sample": false })
}

/// `preprocessor_config.json` of transformers' `SamImageProcessor`.
pub(super) fn preprocessor_config(image_size: usize) -> Value {
    json!({
        "image_processor_type": "SamImageProcessor",
        "do_convert_rgb": true,
        "do_resize": true,
        "do_rescale": true,
        "do_normalize": true,
        "do_pad": true,
        "resample": 2,
        "rescale_factor": 1.0 / 255.0,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "size": { "longest_edge": image_size },
        "pad_size": { "height": image_size, "width": image_size },
    })
}

/// GPT-2's printable stand-ins for bytes, by token id: printable bytes stand for themselves and come first, the others
/// follow from U+0100 on (<https://github.com/openai/gpt-2/blob/master/src/encoder.py>, `bytes_to_unicode`).
fn byte_characters() -> Vec<char> {
    let printable = (0x21..=0x7e).chain(0xa1..=0xac).chain(0xae..=0xff).filter_map(char::from_u32);
    printable.chain((0x100..0x144).filter_map(char::from_u32)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_text_survives_the_round_trip() {
        let tokenizer = tokenizers::Tokenizer::from_bytes(tokenizer().to_string()).unwrap();
        assert_eq!(byte_characters().len(), 256);
        assert_eq!(tokenizer.get_vocab_size(true), 262);
        assert_eq!(tokenizer.token_to_id("<|image_pad|>"), Some(IMAGE_PAD));
        assert_eq!(tokenizer.token_to_id("<|im_end|>"), Some(IM_END));
        let text = "What's on the  left?\n\tÄpfel, 日本語, 🦜";
        let encoding = tokenizer.encode(text, false).unwrap();
        assert_eq!(encoding.len(), text.len());
        assert_eq!(tokenizer.decode(encoding.get_ids(), true).unwrap(), text);
        let encoding = tokenizer.encode("<|vision_start|><|image_pad|><|vision_end|>", false).unwrap();
        assert_eq!(encoding.get_ids(), [259, 261, 260]);
    }
}
