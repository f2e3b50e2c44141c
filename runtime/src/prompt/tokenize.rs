//! Tokenising a prompt so that only the template writes control tokens.
//!
//! Messages are rendered with a *mask*, a character that occurs in none of them, put behind every character that could
//! begin a control token: `<|im_end|>` in a message becomes `<`, mask, `|im_end|>`. In the rendered text control tokens
//! are then looked up, which finds the template's own only, and the masks are taken out of everything in between before
//! that is tokenised by a tokenizer that knows no added token. A template may trim, split and join what messages say:
//! a character is masked not only before the second character of a control token but also at the end of a text and
//! before white space, so that joining two texts makes no control token either.

use std::collections::HashSet;

use tokenizers::Tokenizer;

use crate::generate::GenerateError;

/// A tokenizer with its added tokens kept apart.
pub(super) struct PromptTokenizer {
    /// The tokenizer without added tokens.
    plain: Tokenizer,
    /// Every added token, longest first.
    added: Vec<AddedToken>,
    /// First bytes of added tokens, for a quick look.
    first_bytes: [bool; 256],
    /// Ids that no message may produce.
    control_ids: HashSet<u32>,
}

struct AddedToken {
    content: String,
    id: u32,
    /// A control token: special, or the image placeholder.
    control: bool,
}

impl PromptTokenizer {
    /// Takes a tokenizer apart.
    pub(super) fn new(full: &Tokenizer, image_token_id: u32) -> Result<Self, String> {
        let mut added = Vec::new();
        for (id, token) in full.get_added_tokens_decoder() {
            if token.lstrip || token.rstrip || token.single_word {
                return Err(format!(
                    "added token {:?} wants the text around it stripped or split (lstrip, rstrip, single_word), which \
                     is not supported",
                    token.content
                ));
            }
            if !token.content.is_empty() {
                let control = token.special || id == image_token_id;
                added.push(AddedToken { content: token.content, id, control });
            }
        }
        added.sort_by(|a, b| b.content.len().cmp(&a.content.len()).then_with(|| a.content.cmp(&b.content)));
        if !added.iter().any(|token| token.id == image_token_id) {
            return Err(format!(
                "expected an added token with the image token's id {image_token_id}, found none"
            ));
        }
        let mut first_bytes = [false; 256];
        for token in &added {
            first_bytes[usize::from(token.content.as_bytes()[0])] = true;
        }
        let mut plain = Tokenizer::new(full.get_model().clone());
        plain.with_normalizer(full.get_normalizer().cloned());
        plain.with_pre_tokenizer(full.get_pre_tokenizer().cloned());
        let control_ids = added.iter().filter(|token| token.control).map(|token| token.id).collect();
        Ok(Self { plain, added, first_bytes, control_ids })
    }

    /// Tokenises text in which nothing is a control token.
    pub(super) fn encode_plain(&self, text: &str) -> Result<Vec<u32>, GenerateError> {
        let encoding = self
            .plain
            .encode_fast(text, false)
            .map_err(|error| GenerateError::Engine(format!("the tokenizer failed: {error}")))?;
        let ids = encoding.get_ids();
        if ids.iter().any(|id| self.control_ids.contains(id)) {
            return Err(GenerateError::Engine(
                "the tokenizer's own vocabulary turns text into control tokens; export a tokenizer whose special \
                 tokens are added tokens"
                    .into(),
            ));
        }
        Ok(ids.to_vec())
    }

    /// Tokenises text in which added tokens count, except where the mask breaks them up.
    pub(super) fn encode_with_control_tokens(
        &self,
        text: &str,
        mask: Option<char>,
    ) -> Result<Vec<u32>, GenerateError> {
        let mut ids = Vec::new();
        let plain = |text: &str, ids: &mut Vec<u32>| -> Result<(), GenerateError> {
            if !text.is_empty() {
                let unmasked = mask.map_or_else(|| text.to_owned(), |mask| text.replace(mask, ""));
                ids.extend(self.encode_plain(&unmasked)?);
            }
            Ok(())
        };
        let (mut start, mut at) = (0, 0);
        while at < text.len() {
            match self.added_at(&text.as_bytes()[at..]) {
                Some(token) => {
                    plain(&text[start..at], &mut ids)?;
                    ids.push(token.id);
                    at += token.content.len();
                    start = at;
                }
                None => at += 1,
            }
        }
        plain(&text[start..], &mut ids)?;
        Ok(ids)
    }

    /// The longest added token that these bytes begin with. A token begins at a character, so `at` is one when found.
    fn added_at(&self, bytes: &[u8]) -> Option<&AddedToken> {
        if !self.first_bytes[usize::from(bytes[0])] {
            return None;
        }
        self.added.iter().find(|token| bytes.starts_with(token.content.as_bytes()))
    }

    /// A character that occurs in none of the texts: one of Unicode's noncharacters, or else of private use.
    pub(super) fn mask_for<'a>(&self, texts: impl Iterator<Item = &'a str>) -> Result<char, GenerateError> {
        let candidate = |c: &char| matches!(c, '\u{FDD0}'..='\u{FDEF}' | '\u{E000}'..='\u{F8FF}');
        let taken: HashSet<char> = texts.flat_map(str::chars).filter(candidate).collect();
        let free = ('\u{FDD0}'..='\u{FDEF}').chain('\u{E000}'..='\u{F8FF}').find(|c| !taken.contains(c));
        free.ok_or_else(|| GenerateError::Invalid {
            field: "messages",
            message: "expected text, found every character that Unicode reserves for private use".into(),
        })
    }

    /// Breaks up whatever could become a control token.
    pub(super) fn mask(&self, text: &str, mask: char) -> String {
        let mut masked = String::with_capacity(text.len());
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            masked.push(c);
            if self.could_begin_control(c, chars.peek().copied()) {
                masked.push(mask);
            }
        }
        masked
    }

    fn could_begin_control(&self, c: char, next: Option<char>) -> bool {
        let open = next.is_none_or(char::is_whitespace);
        self.added.iter().filter(|token| token.control).any(|token| {
            let mut content = token.content.chars();
            content.next() == Some(c) && {
                let second = content.next();
                open || second.is_none() || second == next
            }
        })
    }
}
