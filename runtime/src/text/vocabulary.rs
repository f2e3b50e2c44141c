//! The bytes that every token stands for.

use serde_json::Value;
use tokenizers::Tokenizer;

/// The character that SentencePiece writes for a space.
const META: char = '\u{2581}';

/// The bytes that every token stands for.
#[derive(Debug)]
pub struct Vocabulary {
    tokens: Vec<Entry>,
    leading: Leading,
}

#[derive(Debug, Clone, Default)]
struct Entry {
    bytes: Box<[u8]>,
    /// A control token, which is no part of the text.
    special: bool,
}

/// What a text loses at its beginning: a tokenizer that puts a space before it takes one away again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leading {
    Nothing,
    OneSpace,
    AllSpaces,
}

/// A tokenizer whose tokens cannot be turned back into text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VocabularyError {
    /// Tokens are neither bytes nor SentencePiece's pieces.
    #[error(
        "expected a decoder that is `ByteLevel` (GPT-2, Qwen, Llama 3), `Metaspace`, or a sequence of `Replace` of U+2581, \
         `ByteFallback`, `Fuse` and `Strip` of one space (Llama 2, Gemma), found {found}"
    )]
    Decoder {
        /// The decoder that was found.
        found: String,
    },
    /// A table with a place for every id would not fit any machine.
    #[error("expected token ids of at most {LARGEST_ID}, found {found}")]
    TokenId {
        /// The largest id.
        found: u32,
    },
}

/// Largest id of a token. The largest vocabularies in use have 262,144.
const LARGEST_ID: u32 = 1 << 22;

/// What tokens are made of.
#[derive(Debug, Clone, Copy, Default)]
struct Form {
    byte_level: bool,
    /// U+2581 is a space.
    meta: bool,
    /// `<0x0A>` is a byte.
    byte_fallback: bool,
}

impl Vocabulary {
    /// Reads the vocabulary and the added tokens of a tokenizer.
    ///
    /// # Errors
    /// [`VocabularyError`].
    pub fn new(tokenizer: &Tokenizer) -> Result<Self, VocabularyError> {
        let decoder =
            tokenizer.get_decoder().map(serde_json::to_value).and_then(Result::ok).unwrap_or_default();
        let (form, leading) = form(&decoder)
            .ok_or_else(|| VocabularyError::Decoder { found: shortened(&decoder.to_string()) })?;
        let vocabulary = tokenizer.get_vocab(true);
        let largest = vocabulary.values().copied().max().unwrap_or(0);
        if largest > LARGEST_ID {
            return Err(VocabularyError::TokenId { found: largest });
        }
        let mut tokens = vec![Entry::default(); largest as usize + 1];
        for (token, id) in &vocabulary {
            tokens[*id as usize].bytes = token_bytes(token, form);
        }
        for (id, token) in tokenizer.get_added_tokens_decoder() {
            tokens[id as usize].special = token.special;
        }
        Ok(Self { tokens, leading })
    }

    /// The bytes of a token, control tokens included; empty for an id that stands for nothing (models pad
    /// their vocabulary to a round number).
    pub fn bytes(&self, id: u32) -> &[u8] {
        self.tokens.get(id as usize).map_or(&[], |entry| &entry.bytes)
    }

    /// What a token adds to a text: its bytes, or nothing for a control token. `first`: nothing of the text
    /// is there yet.
    pub(super) fn text_bytes(&self, id: u32, first: bool) -> &[u8] {
        let entry = self.tokens.get(id as usize).filter(|entry| !entry.special);
        let bytes = entry.map_or(&[][..], |entry| &entry.bytes);
        match self.leading {
            Leading::OneSpace if first => bytes.strip_prefix(b" ").unwrap_or(bytes),
            Leading::AllSpaces if first => {
                let spaces = bytes.iter().take_while(|byte| **byte == b' ').count();
                &bytes[spaces..]
            }
            _ => bytes,
        }
    }

    /// Whether a token is part of a text.
    pub(crate) fn is_text(&self, id: u32) -> bool {
        self.tokens.get(id as usize).is_some_and(|entry| !entry.special && !entry.bytes.is_empty())
    }

    /// Ids that a token may have: one more than the largest.
    pub fn ids(&self) -> usize {
        self.tokens.len()
    }

    /// The largest id that is another one than `id`.
    pub fn largest_besides(&self, id: u32) -> usize {
        let ids = (0..self.tokens.len()).rev();
        ids.into_iter().find(|&at| at != id as usize && !self.tokens[at].bytes.is_empty()).unwrap_or(0)
    }

    /// Length of the longest token, bytes.
    pub fn longest(&self) -> usize {
        self.tokens.iter().map(|entry| entry.bytes.len()).max().unwrap_or(0)
    }
}

/// At most 200 characters.
fn shortened(text: &str) -> String {
    format!("{text:.200}")
}

/// What a decoder's tokens are made of.
fn form(decoder: &Value) -> Option<(Form, Leading)> {
    let steps = match decoder["type"].as_str()? {
        "Sequence" => decoder["decoders"].as_array()?.as_slice(),
        _ => std::slice::from_ref(decoder),
    };
    let (mut form, mut leading, mut fused) = (Form::default(), Leading::Nothing, false);
    for step in steps {
        let kind = step["type"].as_str()?;
        match kind {
            "ByteLevel" if steps.len() == 1 => form.byte_level = true,
            "Metaspace" if step["replacement"] == "\u{2581}" => {
                form.meta = true;
                if step["prepend_scheme"] != "never" {
                    leading = Leading::AllSpaces;
                }
            }
            "Replace" if step["pattern"]["String"] == "\u{2581}" && step["content"] == " " => {
                form.meta = true
            }
            "ByteFallback" => form.byte_fallback = true,
            "Fuse" => fused = true,
            "Strip" if fused && step["content"] == " " && step["stop"] == 0 => {
                match step["start"].as_u64()? {
                    0 => {}
                    1 => leading = Leading::OneSpace,
                    _ => return None,
                }
            }
            _ => return None,
        }
    }
    (form.byte_level || form.meta || form.byte_fallback).then_some((form, leading))
}

/// A token's bytes. Byte-level vocabularies write each byte as one printable character; a token with any
/// other character in it (an added token with a space, say) stands for its own UTF-8 bytes. Same rules as
/// tokenizers' decoders.
fn token_bytes(token: &str, form: Form) -> Box<[u8]> {
    if form.byte_level {
        let bytes: Option<Vec<u8>> = token.chars().map(byte_of).collect();
        return bytes.unwrap_or_else(|| token.as_bytes().to_vec()).into_boxed_slice();
    }
    if let Some(byte) = fallback_byte(token).filter(|_| form.byte_fallback) {
        return [byte].into();
    }
    if form.meta { token.replace(META, " ").into_bytes().into() } else { token.as_bytes().into() }
}

/// The byte that `<0x0A>` stands for.
fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>').filter(|digits| digits.len() == 2)?;
    u8::from_str_radix(digits, 16).ok()
}

/// Inverse of GPT-2's `bytes_to_unicode`: printable Latin-1 characters stand for themselves, and the other 68
/// bytes, in ascending order, for the characters from U+0100 on.
fn byte_of(c: char) -> Option<u8> {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    match u32::from(c) {
        code @ 0..=0xFF => Some(code as u8).filter(|b| printable(*b)),
        code @ 0x100..=0x143 => (0..=u8::MAX).filter(|b| !printable(*b)).nth(code as usize - 0x100),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bytes_map_back() {
        let form = Form { byte_level: true, ..Form::default() };
        assert_eq!(token_bytes("Ġhi", form), b" hi".as_slice().into());
        assert_eq!(token_bytes("Ċ", form), b"\n".as_slice().into());
        assert_eq!(token_bytes("Ã©", form), "é".as_bytes().into());
        assert_eq!(token_bytes("a b", form), b"a b".as_slice().into(), "an added token with a plain space");
        let all: std::collections::BTreeSet<u8> =
            (0..0x200).filter_map(|c| byte_of(char::from_u32(c)?)).collect();
        assert_eq!(all.len(), 256);
    }

    #[test]
    fn decoders_are_read_or_refused() {
        let llama = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]});
        let (form_, leading) = form(&llama).unwrap();
        assert_eq!(leading, Leading::OneSpace);
        assert_eq!(token_bytes("\u{2581}a\u{2581}b", form_), b" a b".as_slice().into());
        assert_eq!(token_bytes("<0xE2>", form_), [0xE2].into());
        let metaspace = json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "first"});
        assert_eq!(form(&metaspace).unwrap().1, Leading::AllSpaces);
        for refused in [
            json!(null),
            json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
            json!({"type": "Sequence", "decoders": []}),
            json!({"type": "Sequence", "decoders": [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]}),
            json!({"type": "Replace", "pattern": {"String": "_"}, "content": " "}),
        ] {
            assert!(form(&refused).is_none(), "{refused}");
        }
    }
}
