//! The text files of a random checkpoint: a byte-level tokenizer without merges, and what goes with it.
//!
//! 256 byte tokens in GPT-2's order and the control tokens of the preset's dialogues: every text has an
//! encoding, and every sequence of byte tokens is a text or a piece of one.

use arrcoc_models::families::Dialogue;
use serde_json::{Value, json};

/// `tokenizer.json`, in the form of the `tokenizers` library.
pub(super) fn tokenizer(dialogue: &Dialogue) -> Value {
    let vocabulary: serde_json::Map<String, Value> = byte_characters()
        .iter()
        .enumerate()
        .map(|(id, character)| (character.to_string(), json!(id)))
        .collect();
    let special = dialogue.control.iter().zip(Dialogue::FIRST_CONTROL..).map(|(content, id)| {
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

/// `tokenizer_config.json`, in the form of transformers. `context` is the longest sequence, tokens.
pub(super) fn tokenizer_config(dialogue: &Dialogue, context: usize) -> Value {
    let (end, padding) = (dialogue.ends.first(), dialogue.ends.last());
    let others: Vec<_> = dialogue.control.iter().filter(|token| Some(*token) != padding).collect();
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": false,
        "bos_token": null,
        "eos_token": end,
        "pad_token": padding,
        "unk_token": null,
        "additional_special_tokens": others,
        "clean_up_tokenization_spaces": false,
        "model_max_length": context,
    })
}

/// `generation_config.json`.
pub(super) fn generation_config(dialogue: &Dialogue) -> Value {
    let ends: Vec<u32> = dialogue.ends.iter().map(|token| dialogue.id(token)).collect();
    json!({ "eos_token_id": ends, "pad_token_id": ends.last(), "do_sample": false })
}

/// GPT-2's printable stand-ins for bytes, by token id: printable bytes stand for themselves and come first,
/// the others follow from U+0100 on (<https://github.com/openai/gpt-2/blob/master/src/encoder.py>,
/// `bytes_to_unicode`).
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
        let dialogue = arrcoc_models::families::preset("arr-coc-ovis-tiny").unwrap().dialogue;
        let tokenizer = tokenizers::Tokenizer::from_bytes(tokenizer(dialogue).to_string()).unwrap();
        assert_eq!(byte_characters().len(), 256);
        assert_eq!(tokenizer.get_vocab_size(true), 262);
        assert_eq!(tokenizer.token_to_id("<|image_pad|>"), Some(261));
        assert_eq!(tokenizer.token_to_id("<|im_end|>"), Some(258));
        let text = "What's on the  left?\n\tÄpfel, 日本語, 🦜";
        let encoding = tokenizer.encode(text, false).unwrap();
        assert_eq!(encoding.len(), text.len());
        assert_eq!(tokenizer.decode(encoding.get_ids(), true).unwrap(), text);
        let encoding = tokenizer.encode("<|vision_start|><|image_pad|><|vision_end|>", false).unwrap();
        assert_eq!(encoding.get_ids(), [259, 261, 260]);
    }
}
