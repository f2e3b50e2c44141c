//! From token ids back to text, one token at a time.
//!
//! A byte-level token may end in the middle of a character, and a stop string may begin in one token and end
//! three tokens later. [`TextStream`] therefore gives out only what is certain: whole UTF-8 characters that
//! cannot become part of a stop string any more. What it gives out in pieces is, byte for byte, what decoding
//! all tokens at once gives.

mod reasoning;
mod vocabulary;

use reasoning::{Said, Splitter};

pub use reasoning::{Markers, Thoughts};
pub use vocabulary::{Vocabulary, VocabularyError};

use crate::generate::CallPiece;
use crate::tools::{Heard, Reader};

/// Turns bytes that arrive in pieces into whole characters. Bytes that are no UTF-8 become U+FFFD exactly as
/// [`String::from_utf8_lossy`] has it for all of them together.
#[derive(Debug, Clone, Default)]
struct Utf8Stream {
    /// The beginning of a character whose end has not come yet, at most 3 bytes.
    pending: Vec<u8>,
}

impl Utf8Stream {
    fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest: &[u8] = &self.pending;
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    // `None`: a character that more bytes may yet complete.
                    let Some(bad) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[bad..];
                }
            }
        }
        self.pending = rest.to_vec();
        text
    }

    fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

/// Finds stop strings in text that arrives in pieces. How the text is cut into pieces makes no difference:
/// the match that is complete first wins, the longest among those that end together.
#[derive(Debug, Clone)]
struct StopFilter {
    stops: Vec<String>,
    /// Text that may yet be the beginning of a stop string.
    held: String,
}

impl StopFilter {
    /// Adds text; returns what is certain, and whether a stop string came.
    fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        let complete = self.stops.iter().filter_map(|stop| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start))
        });
        if let Some((_, start)) = complete.min() {
            self.held.truncate(start);
            return (std::mem::take(&mut self.held), true);
        }
        let certain = self.certain();
        let held = self.held.split_off(certain);
        (std::mem::replace(&mut self.held, held), false)
    }

    /// Length of the part that no stop string can begin in.
    fn certain(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let first = (self.held.len() + 1).saturating_sub(longest);
        (first..self.held.len())
            .filter(|at| self.held.is_char_boundary(*at))
            .find(|at| self.stops.iter().any(|stop| stop.starts_with(&self.held[*at..])))
            .unwrap_or(self.held.len())
    }
}

/// The text of one answer, token by token.
#[derive(Debug, Clone)]
pub struct TextStream {
    /// A token of the text has come.
    begun: bool,
    utf8: Utf8Stream,
    splitter: Splitter,
    calls: Option<Calls>,
    stop: StopFilter,
}

/// How an answer's calls of tools are read.
#[derive(Debug, Clone, PartialEq)]
pub struct Calls {
    /// Tells them from text.
    pub(crate) reader: Reader,
    /// Control tokens that are markers of calls: their text counts.
    pub(crate) markers: std::sync::Arc<[u32]>,
}

/// What a token added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Piece {
    /// Text that is now certain; may be empty.
    pub text: String,
    /// Calls of tools, or more of them.
    pub calls: Vec<CallPiece>,
    /// Of a token that the model thinks before it answers, its text that is now certain.
    pub reasoning: Option<String>,
    /// The answer ends here: before a stop string, which is complete, or behind the one call that it may
    /// have.
    pub stopped: bool,
}

impl TextStream {
    /// A stream that ends at any of `stops`, which are looked for in the answer and not in thoughts; empty
    /// ones are ignored. With `thoughts`, what the model thinks is told from the answer.
    pub fn new(stops: &[String], thoughts: Option<Thoughts>) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        Self {
            begun: false,
            utf8: Utf8Stream::default(),
            splitter: Splitter::new(thoughts),
            calls: None,
            stop: StopFilter { stops, held: String::new() },
        }
    }

    /// The same for an answer whose text is that of its tokens to the letter, white space at its beginning
    /// too: it has a form.
    #[must_use]
    pub fn exact(self) -> Self {
        let calls = self.calls.map(|calls| Calls { reader: calls.reader.bound(), ..calls });
        Self { begun: true, splitter: self.splitter.exact(), calls, ..self }
    }

    /// The same for an answer that may call tools. Stop strings are looked for in its text alone.
    #[must_use]
    pub fn calling(self, calls: Option<Calls>) -> Self {
        Self { calls, ..self }
    }

    /// Adds a token.
    pub fn push(&mut self, vocabulary: &Vocabulary, id: u32) -> Piece {
        if self.splitter.mark(id) {
            // Of a character that was not completed.
            let tail = self.utf8.finish();
            return Piece { reasoning: Some(tail), ..Piece::default() };
        }
        let marks = self.calls.as_ref().is_some_and(|calls| calls.markers.contains(&id));
        let text = match marks {
            true => self.utf8.push(vocabulary.bytes(id)),
            false => self.utf8.push(vocabulary.text_bytes(id, !self.begun)),
        };
        self.begun |= vocabulary.is_text(id);
        self.say(text)
    }

    fn say(&mut self, text: String) -> Piece {
        match self.splitter.push(text) {
            Said::Thought(text) => Piece { reasoning: Some(text), ..Piece::default() },
            Said::Answer(text) => match &mut self.calls {
                Some(calls) => {
                    let heard = calls.reader.push(&text);
                    self.answer(heard)
                }
                None => self.answer(Heard { text, ..Heard::default() }),
            },
        }
    }

    fn answer(&mut self, heard: Heard) -> Piece {
        let (mut text, stopped) = self.stop.push(&heard.text);
        // A call stands behind all text before it.
        if (heard.complete || !heard.calls.is_empty()) && !stopped {
            text.push_str(&std::mem::take(&mut self.stop.held));
        }
        Piece { text, calls: heard.calls, reasoning: None, stopped: stopped || heard.complete }
    }

    /// Ends the answer; returns the text that was held back.
    pub fn finish(&mut self) -> Piece {
        let tail = self.utf8.finish();
        let mut piece = self.say(tail);
        if let Some(calls) = self.calls.as_mut().filter(|_| !piece.stopped) {
            let heard = calls.reader.finish();
            let rest = self.answer(heard);
            piece.text.push_str(&rest.text);
            piece.calls.extend(rest.calls);
            piece.stopped = rest.stopped;
        }
        if !piece.stopped {
            piece.text.push_str(&std::mem::take(&mut self.stop.held));
        }
        piece
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::toy;

    fn stream(vocabulary: &Vocabulary, ids: &[u32], stops: &[String]) -> (String, bool) {
        let mut stream = TextStream::new(stops, None);
        let mut all = String::new();
        for id in ids {
            let piece = stream.push(vocabulary, *id);
            all.push_str(&piece.text);
            if piece.stopped {
                return (all, true);
            }
        }
        all.push_str(&stream.finish().text);
        (all, false)
    }

    #[test]
    fn other_tokenizers_are_refused() {
        let mut tokenizer = toy::tokenizer();
        tokenizer.with_decoder(None::<tokenizers::DecoderWrapper>);
        assert!(Vocabulary::new(&tokenizer).is_err());
    }

    #[test]
    fn characters_wait_for_their_last_byte() {
        let vocabulary = Vocabulary::new(&toy::tokenizer()).unwrap();
        let mut stream = TextStream::new(&[], None);
        let pieces: Vec<String> =
            "é€".bytes().map(|b| stream.push(&vocabulary, toy::byte_id(b)).text).collect();
        assert_eq!(pieces, ["", "é", "", "", "€"]);
        assert_eq!(stream.push(&vocabulary, toy::byte_id(0xE2)).text, "");
        assert_eq!(stream.finish().text, "\u{FFFD}");
    }

    /// The toys' tokenizer for a model that thinks: the ids of its two markers too.
    fn thinking() -> (Vocabulary, Markers, [u32; 2]) {
        let mut tokenizer = toy::tokenizer();
        let markers = ["<think>", "</think>"];
        let added = markers.map(|marker| tokenizers::AddedToken::from(marker, false));
        tokenizer.add_tokens(&added);
        let ids = markers.map(|marker| tokenizer.token_to_id(marker).unwrap());
        (Vocabulary::new(&tokenizer).unwrap(), Markers::of(&tokenizer).unwrap(), ids)
    }

    /// Thoughts and answer of tokens behind a prompt, and how many were thought.
    fn apart(prompt: &[u32], ids: &[u32], stops: &[&str]) -> (String, String, usize) {
        let (vocabulary, markers, _) = thinking();
        let stops: Vec<String> = stops.iter().map(ToString::to_string).collect();
        let mut stream = TextStream::new(&stops, Some(markers.behind(prompt)));
        let (mut thoughts, mut answer, mut thought) = (String::new(), String::new(), 0);
        let mut add = |piece: Piece| {
            answer += &piece.text;
            thought += usize::from(piece.reasoning.is_some());
            thoughts += piece.reasoning.as_deref().unwrap_or_default();
            piece.stopped
        };
        if !ids.iter().any(|id| add(stream.push(&vocabulary, *id))) {
            add(stream.finish());
        }
        (thoughts, answer, thought)
    }

    #[test]
    fn thoughts_are_told_from_the_answer() {
        let (_, _, [begin, end]) = thinking();
        let bytes = toy::byte_ids;
        let whole = [vec![begin], bytes("\nHm\n\nso\n"), vec![end], bytes("\n\nYes\n")].concat();
        assert_eq!(apart(&[], &whole, &[]), ("Hm\n\nso".into(), "Yes\n".into(), 10));
        // Begun by the prompt, or white space before.
        assert_eq!(apart(&[begin], &whole[1..], &[]), ("Hm\n\nso".into(), "Yes\n".into(), 9));
        let spaced = [bytes(" \n"), whole.clone()].concat();
        assert_eq!(apart(&[], &spaced, &[]), ("Hm\n\nso".into(), " \nYes\n".into(), 10));
        // Closed by the prompt, and a model that answers at once; one that only says white space.
        let plain = bytes(" Yes");
        assert_eq!(apart(&[begin, end], &plain, &[]), (String::new(), " Yes".into(), 0));
        assert_eq!(apart(&[], &bytes(" \n"), &[]), (String::new(), " \n".into(), 0));
        // Broken off in thoughts, within a character.
        let broken = [vec![begin], bytes("Hm\n"), vec![toy::byte_id(0xe2)]].concat();
        assert_eq!(apart(&[], &broken, &[]), ("Hm\n\u{FFFD}".into(), String::new(), 6));
        // Later markers, and markers that are typed, are text.
        let later = [bytes("a"), vec![begin], bytes("</think>"), vec![end]].concat();
        assert_eq!(apart(&[], &later, &[]).1, "a<think></think></think>");
    }

    #[test]
    fn stop_strings_end_answers_and_no_thoughts() {
        let (_, _, [begin, end]) = thinking();
        let ids = [vec![begin], toy::byte_ids("aSTOPb"), vec![end], toy::byte_ids("cSTOPd")].concat();
        assert_eq!(apart(&[], &ids, &["STOP"]), ("aSTOPb".into(), "c".into(), 8));
        // Before any thought, too: a model that knows the markers need not think.
        assert_eq!(apart(&[], &toy::byte_ids(" \nYes"), &["\n"]), (String::new(), " ".into(), 0));
    }

    #[test]
    fn control_tokens_are_no_text() {
        let vocabulary = Vocabulary::new(&toy::tokenizer()).unwrap();
        let mut stream = TextStream::new(&[], None);
        assert_eq!(stream.push(&vocabulary, toy::IM_END).text, "");
        assert_eq!(vocabulary.bytes(toy::IM_END), b"<|im_end|>");
        assert_eq!(vocabulary.bytes(1_000_000), b"");
    }

    #[test]
    fn only_a_possible_stop_is_held_back() {
        let vocabulary = Vocabulary::new(&toy::tokenizer()).unwrap();
        let mut stream = TextStream::new(&["STOP".into()], None);
        let pieces: Vec<(String, bool)> = "aSTxSTOPz"
            .bytes()
            .map(|b| stream.push(&vocabulary, toy::byte_id(b)))
            .take_while(|piece| !piece.stopped)
            .map(|piece| (piece.text, piece.stopped))
            .collect();
        let texts: Vec<&str> = pieces.iter().map(|p| p.0.as_str()).collect();
        assert_eq!(texts, ["a", "", "", "STx", "", "", ""]);
    }

    #[test]
    fn the_first_complete_stop_wins() {
        let vocabulary = Vocabulary::new(&toy::tokenizer()).unwrap();
        let ids = toy::byte_ids("xabcdy");
        let stops = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(stream(&vocabulary, &ids, &stops(&["abcd", "bc"])), ("xa".into(), true));
        assert_eq!(stream(&vocabulary, &ids, &stops(&["c", "abc"])), ("x".into(), true));
        assert_eq!(stream(&vocabulary, &ids, &stops(&["", "q"])), ("xabcdy".into(), false));
    }

    proptest! {
        #[test]
        fn a_stream_equals_the_whole(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let tokenizer = toy::tokenizer();
            let vocabulary = Vocabulary::new(&tokenizer).unwrap();
            let ids: Vec<u32> = bytes.iter().map(|b| toy::byte_id(*b)).collect();
            let whole = tokenizer.decode(&ids, true).unwrap();
            prop_assert_eq!(stream(&vocabulary, &ids, &[]), (whole, false));
        }

        #[test]
        fn text_in_any_script_equals_the_whole(text in "\\PC{0,40}", stop in "[^a]{3,5}") {
            let tokenizer = toy::tokenizer();
            let vocabulary = Vocabulary::new(&tokenizer).unwrap();
            prop_assume!(!text.contains(&stop));
            let ids = tokenizer.encode(text.as_str(), false).unwrap().get_ids().to_vec();
            prop_assert_eq!(stream(&vocabulary, &ids, &[stop]), (text, false));
        }

        /// Small alphabet, so that stop strings come often and overlap.
        #[test]
        fn stop_strings_never_leak(
            text in "[ab€]{0,40}",
            stops in prop::collection::vec("[ab€]{1,4}", 1..4),
            cuts in prop::collection::vec(1usize..6, 1..8),
        ) {
            let mut whole = StopFilter { stops: stops.clone(), held: String::new() };
            let mut expected = (String::new(), false);
            for c in text.chars() {
                let (piece, stopped) = whole.push(c.encode_utf8(&mut [0; 4]));
                expected.0.push_str(&piece);
                if stopped {
                    expected.1 = true;
                    break;
                }
            }
            if !expected.1 {
                expected.0.push_str(&whole.held);
            }
            prop_assert!(stops.iter().all(|stop| !expected.0.contains(stop.as_str())));
            prop_assert_eq!(expected.1, stops.iter().any(|stop| text.contains(stop.as_str())));
            prop_assert!(text.starts_with(&expected.0));

            let mut filter = StopFilter { stops, held: String::new() };
            let (mut rest, mut found) = (text.as_str(), (String::new(), false));
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    found.0.push_str(&filter.held);
                    break;
                }
                let at = rest.char_indices().nth(*cut).map_or(rest.len(), |(at, _)| at);
                let (piece, stopped) = filter.push(&rest[..at]);
                found.0.push_str(&piece);
                rest = &rest[at..];
                if stopped {
                    found.1 = true;
                    break;
                }
            }
            prop_assert_eq!(found, expected);
        }
    }
}
