//! Tokenising a prompt so that only the template writes control tokens.
//!
//! A rendered prompt comes with the ranges of it that messages say ([`super::jinja::Text`]). Added tokens are
//! looked up as the tokenizers library does it, with what they take of the white space around them, and a
//! *structural* one counts only where no byte of it comes from a message. Whatever else stands there is text,
//! and is tokenised together with the text around it.

use std::collections::HashSet;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use tokenizers::normalizer::Range as Span;
use tokenizers::{
    Encoding, Model as _, NormalizedString, Normalizer as _, OffsetType, PostProcessor as _,
    PreTokenizedString, PreTokenizer as _, Token, Tokenizer,
};

use crate::generate::GenerateError;

/// How often one search for a pattern may go back and try another way. A run of so many spaces can take that
/// many.
const MOST_RETRIES: std::ffi::c_ulong = 1 << 22;

/// Bounds what a search for a pattern of a tokenizer may take, in this process.
pub(super) fn bound_searches() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: each sets one number in Oniguruma, which searches read when they begin. It happens once,
        // before the first tokenizer of this process is read.
        unsafe {
            onig_sys::onig_set_retry_limit_in_match(MOST_RETRIES);
            onig_sys::onig_set_retry_limit_in_search(MOST_RETRIES);
        }
    });
}

/// A tokenizer with its added tokens kept apart.
pub(super) struct PromptTokenizer {
    tokenizer: Tokenizer,
    /// Added tokens that are looked up in the text as it is, and those looked up behind the normaliser.
    verbatim: Lookup,
    normalised: Lookup,
    /// Ids that no message may produce.
    control_ids: HashSet<u32>,
    /// What the tokenizer's post-processor puts around a text.
    before: Vec<u32>,
    after: Vec<u32>,
}

/// Added tokens, longest first.
#[derive(Default)]
struct Lookup {
    tokens: Vec<AddedToken>,
    /// First bytes of added tokens, for a quick look.
    first_bytes: Vec<bool>,
}

struct AddedToken {
    content: String,
    id: u32,
    /// Part of the dialogue's structure: users cannot write it. The others are words or white space.
    structural: bool,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
}

/// What of a text is said by a message.
enum Said<'a> {
    /// Nothing: the caller's own template.
    Nothing,
    /// These bytes.
    Ranges(&'a [Range<usize>]),
    /// Everything.
    All,
}

impl Said<'_> {
    fn touches(&self, range: &Range<usize>) -> bool {
        match self {
            Self::Nothing => false,
            Self::All => true,
            Self::Ranges(ranges) => {
                let first = ranges.partition_point(|said| said.end <= range.start);
                ranges.get(first).is_some_and(|said| said.start < range.end)
            }
        }
    }
}

/// A tokenizer's failure.
fn failed(error: impl std::fmt::Display) -> GenerateError {
    GenerateError::Internal(format!("the tokenizer failed: {error}"))
}

impl PromptTokenizer {
    /// Takes a tokenizer apart.
    pub(super) fn new(full: &Tokenizer, image_token_id: u32) -> Result<Self, String> {
        let added = full.get_added_tokens_decoder();
        if !added.contains_key(&image_token_id) {
            return Err(format!(
                "expected an added token with the image token's id {image_token_id}, found none"
            ));
        }
        let (mut verbatim, mut normalised) = (Lookup::default(), Lookup::default());
        let mut control_ids = HashSet::new();
        for (id, token) in added {
            if token.special || id == image_token_id {
                control_ids.insert(id);
            }
            let structural = token.special || id == image_token_id || !is_words(&token.content);
            let mut content = token.content.clone();
            if let Some(normalizer) = full.get_normalizer().filter(|_| token.normalized) {
                let mut text = NormalizedString::from(content.as_str());
                normalizer.normalize(&mut text).map_err(|error| error.to_string())?;
                content = text.get().to_owned();
            }
            let into = if token.normalized { &mut normalised } else { &mut verbatim };
            let (single_word, lstrip, rstrip) = (token.single_word, token.lstrip, token.rstrip);
            into.tokens.push(AddedToken { content, id, structural, single_word, lstrip, rstrip });
        }
        let mut tokenizer = full.clone();
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| error.to_string())?;
        let (before, after) = surroundings(&tokenizer)?;
        Ok(Self {
            tokenizer,
            verbatim: verbatim.sorted(),
            normalised: normalised.sorted(),
            control_ids,
            before,
            after,
        })
    }

    /// The control token that is written like this.
    pub(super) fn control_token(&self, content: &str) -> Option<u32> {
        let mut added = self.verbatim.tokens.iter().chain(&self.normalised.tokens);
        let token = added.find(|token| token.content == content)?;
        self.control_ids.contains(&token.id).then_some(token.id)
    }

    /// Tokenises text in which nothing is a control token.
    pub(super) fn encode_plain(&self, text: &str) -> Result<Vec<u32>, GenerateError> {
        self.encode(text, &Said::All)
    }

    /// Tokenises a rendered prompt, of which messages say these ranges. `surrounded`: with what the
    /// tokenizer's post-processor puts around a text.
    pub(super) fn encode_rendered(
        &self,
        text: &str,
        said: &[Range<usize>],
        surrounded: bool,
    ) -> Result<Vec<u32>, GenerateError> {
        let ids = self.encode(text, &Said::Ranges(said))?;
        if !surrounded {
            return Ok(ids);
        }
        Ok([self.before.as_slice(), &ids, &self.after].concat())
    }

    /// Tokenises a caller's own prompt, control tokens included, with what the post-processor puts around it;
    /// but what the text begins or ends with already is not put there twice.
    pub(super) fn encode_raw(&self, text: &str) -> Result<Vec<u32>, GenerateError> {
        let mut ids = self.encode(text, &Said::Nothing)?;
        if !ids.starts_with(&self.before) {
            ids.splice(0..0, self.before.iter().copied());
        }
        if !ids.ends_with(&self.after) {
            ids.extend_from_slice(&self.after);
        }
        Ok(ids)
    }

    /// What bounds the time of this: the text is as long as the context allows ([`super::Prompter::layout`]
    /// refuses more), and one search for a pattern of the tokenizer ends within [`MOST_RETRIES`], so that a
    /// pattern that backtracks without end fails. A hostile pattern that stays below that at every character
    /// can still hold its thread for the product of the two: a blocking thread that only this request waits
    /// for, or at load, that `timeouts.load` watches.
    fn encode(&self, text: &str, said: &Said<'_>) -> Result<Vec<u32>, GenerateError> {
        // The library panics where a search does not end in time. Nothing is left half changed: it works on
        // `text` alone.
        let encoded = catch_unwind(AssertUnwindSafe(|| self.encode_unguarded(text, said)));
        let stuck = || failed("its patterns take more work on this text than any text needs");
        encoded.unwrap_or_else(|_| Err(stuck()))
    }

    fn encode_unguarded(&self, text: &str, said: &Said<'_>) -> Result<Vec<u32>, GenerateError> {
        let mut text = PreTokenizedString::from(text);
        text.split(|_, piece| self.verbatim.split(piece, said)).map_err(failed)?;
        if let Some(normalizer) = self.tokenizer.get_normalizer() {
            text.normalize(|piece| normalizer.normalize(piece)).map_err(failed)?;
        }
        text.split(|_, piece| self.normalised.split(piece, said)).map_err(failed)?;
        if let Some(pre_tokenizer) = self.tokenizer.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut text).map_err(failed)?;
        }
        let model = self.tokenizer.get_model();
        let tokenize = |piece: &NormalizedString| {
            let tokens = model.tokenize(piece.get())?;
            if tokens.iter().any(|token| self.control_ids.contains(&token.id)) {
                return Err(
                    "its own vocabulary turns text into control tokens; export a tokenizer whose special \
                            tokens are added tokens"
                        .into(),
                );
            }
            Ok(tokens)
        };
        text.tokenize(tokenize).map_err(failed)?;
        let encoding = text.into_encoding(None, 0, OffsetType::None).map_err(failed)?;
        Ok(encoding.get_ids().to_vec())
    }
}

/// Words or white space: what a tokenizer adds to its vocabulary, not to the dialogue.
fn is_words(content: &str) -> bool {
    content.chars().all(|c| c.is_alphanumeric() || c.is_whitespace() || c == '\u{2581}')
}

/// What the post-processor puts before and behind a text.
fn surroundings(tokenizer: &Tokenizer) -> Result<(Vec<u32>, Vec<u32>), String> {
    const INSIDE: u32 = u32::MAX;
    let Some(processor) = tokenizer.get_post_processor() else { return Ok(Default::default()) };
    let token = Token::new(INSIDE, "x".into(), (0, 1));
    let inside = Encoding::from_tokens(vec![token], 0);
    let processed = processor.process(inside, None, true).map_err(|error| error.to_string())?;
    let ids = processed.get_ids();
    let at = ids.iter().position(|id| *id == INSIDE).ok_or("its post-processor drops the text")?;
    Ok((ids[..at].to_vec(), ids[at + 1..].to_vec()))
}

impl Lookup {
    fn sorted(mut self) -> Self {
        self.tokens.retain(|token| !token.content.is_empty());
        self.tokens
            .sort_by(|a, b| b.content.len().cmp(&a.content.len()).then_with(|| a.content.cmp(&b.content)));
        self.first_bytes = vec![false; 256];
        for token in &self.tokens {
            self.first_bytes[usize::from(token.content.as_bytes()[0])] = true;
        }
        self
    }

    /// Cuts a piece of text at the added tokens in it.
    fn split(
        &self,
        piece: NormalizedString,
        said: &Said<'_>,
    ) -> tokenizers::Result<Vec<(NormalizedString, Option<Vec<Token>>)>> {
        if self.tokens.is_empty() {
            return Ok(vec![(piece, None)]);
        }
        let text = piece.get();
        let (mut parts, mut from, mut at) = (Vec::new(), 0, 0);
        let part = |range: Range<usize>, id: Option<u32>| {
            let slice =
                piece.slice(Span::Normalized(range)).ok_or("cannot cut the text at an added token")?;
            let token = id.map(|id| {
                let content = slice.get().to_owned();
                let length = content.len();
                vec![Token::new(id, content, (0, length))]
            });
            Ok::<_, tokenizers::Error>((slice, token))
        };
        while at < text.len() {
            let Some(token) = self.at(&piece, at, said) else {
                at += 1;
                continue;
            };
            let (mut start, mut stop) = (at, at + token.content.len());
            at = stop;
            if token.single_word && (ends_with_word(&text[..start]) || starts_with_word(&text[stop..])) {
                continue;
            }
            if token.lstrip {
                start = text[..start].trim_end().len().max(from);
            }
            if token.rstrip {
                stop = text.len() - text[stop..].trim_start().len();
            }
            if from < start {
                parts.push(part(from..start, None)?);
            }
            parts.push(part(start..stop, Some(token.id))?);
            (from, at) = (stop, stop);
        }
        if from < text.len() {
            parts.push(part(from..text.len(), None)?);
        }
        Ok(parts)
    }

    /// The longest added token that counts at this byte.
    fn at(&self, piece: &NormalizedString, at: usize, said: &Said<'_>) -> Option<&AddedToken> {
        let rest = &piece.get().as_bytes()[at..];
        if !self.first_bytes[usize::from(rest[0])] {
            return None;
        }
        let counts = |token: &&AddedToken| {
            let end = at + token.content.len();
            rest.starts_with(token.content.as_bytes())
                && (!token.structural || {
                    let shift = piece.offsets_original().0;
                    let original = piece.convert_offsets(Span::Normalized(at..end));
                    original.is_some_and(|range| !said.touches(&(range.start + shift..range.end + shift)))
                })
        };
        self.tokens.iter().find(counts)
    }
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

fn ends_with_word(text: &str) -> bool {
    text.chars().next_back().is_some_and(is_word)
}

fn starts_with_word(text: &str) -> bool {
    text.chars().next().is_some_and(is_word)
}
