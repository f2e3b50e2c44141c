//! What a model thinks before it answers, told from the answer by the tokens around it.
//!
//! By tokens and not by text: nobody can type them, so an answer that speaks about `</think>` stays whole.

use tokenizers::Tokenizer;

/// The tokens around thoughts: Qwen3, DeepSeek and most others; Magistral.
const PAIRS: [[&str; 2]; 2] = [["<think>", "</think>"], ["[THINK]", "[/THINK]"]];

/// The tokens that begin and end a model's thoughts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Markers {
    begin: u32,
    end: u32,
}

impl Markers {
    /// Those of a tokenizer; `None` where no model of it thinks aloud.
    pub fn of(tokenizer: &Tokenizer) -> Option<Self> {
        PAIRS.iter().find_map(|[begin, end]| {
            Some(Self { begin: tokenizer.token_to_id(begin)?, end: tokenizer.token_to_id(end)? })
        })
    }

    /// These two tokens.
    #[cfg(test)]
    pub(crate) fn from_ids(begin: u32, end: u32) -> Self {
        Self { begin, end }
    }

    /// How an answer to this prompt begins.
    pub fn behind(self, prompt: &[u32]) -> Thoughts {
        let last = prompt.iter().rev().find(|id| [self.begin, self.end].contains(id));
        Thoughts { markers: self, begun: last == Some(&self.begin) }
    }
}

/// How the answers of a model that may think begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thoughts {
    markers: Markers,
    /// The prompt has begun them.
    begun: bool,
}

impl Thoughts {
    /// The token that begins thoughts.
    pub fn begin(self) -> u32 {
        self.markers.begin
    }

    /// The token that ends them.
    pub fn end(self) -> u32 {
        self.markers.end
    }

    /// Whether the prompt has begun them.
    pub fn begun(self) -> bool {
        self.begun
    }
}

/// Where in an answer its next token stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// In white space that the answer begins with: thoughts may follow.
    Before,
    /// In thoughts.
    Within(Lines),
    /// In the answer behind thoughts, whose first line breaks are none of it.
    Behind,
    /// In the answer.
    Answer,
}

/// Text without the line breaks around it. Templates take them away too, when they show a model its thoughts
/// again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Lines {
    begun: bool,
    /// Line breaks that may be the last.
    held: String,
}

impl Lines {
    fn push(&mut self, text: &str) -> String {
        let text = if self.begun { text } else { text.trim_start_matches('\n') };
        self.begun |= !text.is_empty();
        let kept = text.trim_end_matches('\n');
        if kept.is_empty() {
            self.held.push_str(text);
            return String::new();
        }
        let held = std::mem::replace(&mut self.held, text[kept.len()..].to_owned());
        held + kept
    }
}

/// What a token is part of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// Text of thoughts.
    Thought(String),
    /// Text of the answer.
    Answer(String),
}

/// Tells thoughts from the answer.
#[derive(Debug, Clone)]
pub(super) struct Splitter {
    markers: Option<Markers>,
    place: Place,
    /// Where the answer begins behind thoughts, with or without line breaks.
    behind: Place,
}

impl Splitter {
    pub(super) fn new(thoughts: Option<Thoughts>) -> Self {
        let place = match thoughts {
            None => Place::Answer,
            Some(Thoughts { begun: true, .. }) => Place::Within(Lines::default()),
            Some(Thoughts { begun: false, .. }) => Place::Before,
        };
        Self { markers: thoughts.map(|thoughts| thoughts.markers), place, behind: Place::Behind }
    }

    /// The same for an answer whose line breaks are its own.
    pub(super) fn exact(self) -> Self {
        Self { behind: Place::Answer, ..self }
    }

    /// Goes over a marker; false for any other token.
    pub(super) fn mark(&mut self, id: u32) -> bool {
        let Some(Markers { begin, end }) = self.markers else { return false };
        match self.place {
            Place::Before if id == begin => self.place = Place::Within(Lines::default()),
            Place::Within(_) if id == end => self.place = self.behind.clone(),
            _ => return false,
        }
        true
    }

    /// Takes the text of a token that is no marker.
    pub(super) fn push(&mut self, text: String) -> Said {
        match &mut self.place {
            Place::Within(lines) => return Said::Thought(lines.push(&text)),
            Place::Before => {
                if !text.chars().all(char::is_whitespace) {
                    self.place = Place::Answer;
                }
            }
            Place::Behind => {
                let text = text.trim_start_matches('\n');
                if !text.is_empty() {
                    self.place = Place::Answer;
                }
                return Said::Answer(text.to_owned());
            }
            Place::Answer => {}
        }
        Said::Answer(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_breaks_around_thoughts_are_none_of_them() {
        let mut lines = Lines::default();
        let pieces = ["\n", "\n\na", "\n", "\n", "b\n", "\n"].map(|text| lines.push(text));
        assert_eq!(pieces, ["", "a", "", "", "\n\nb", ""]);
    }

    #[test]
    fn the_last_marker_of_the_prompt_says_whether_thoughts_have_begun() {
        let markers = Markers { begin: 1, end: 2 };
        let begun = |prompt: &[u32]| markers.behind(prompt).begun;
        assert!(begun(&[7, 1]) && begun(&[1, 2, 7, 1, 8]));
        assert!(!begun(&[7]) && !begun(&[1, 7, 2]) && !begun(&[]));
    }
}
