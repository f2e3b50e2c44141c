//! What others wrote, fit to be repeated: short, and on one line. Error messages and log lines take it from
//! here alone.

use std::fmt;

/// Most bytes of somebody else's text that a message repeats.
pub const EXCERPT: usize = 160;

/// The beginning of `text`, in backticks.
pub fn quote(text: &str) -> String {
    format!("`{}`", excerpt(text))
}

/// The beginning of `text`, with an ellipsis where it goes on, and nothing in it that a terminal or a reader
/// of lines would act upon.
pub fn excerpt(text: &str) -> String {
    one_line(text, EXCERPT)
}

/// At most `most` bytes of `text`, as [`excerpt`] has them.
pub fn one_line(text: &str, most: usize) -> String {
    let end = text.floor_char_boundary(most);
    let mut line = String::with_capacity(end + 3);
    for char in text[..end].chars() {
        if acts(char) { line.extend(char.escape_default()) } else { line.push(char) }
    }
    if end < text.len() {
        line.push('…');
    }
    line
}

/// An error from elsewhere, a parser's say, whose text repeats what it found at any length: shown as
/// [`one_line`] has it.
#[derive(Debug)]
pub struct Brief<E>(pub E);

/// Most bytes of such a text.
const BRIEF: usize = 500;

impl<E: fmt::Display> fmt::Display for Brief<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&one_line(&self.0.to_string(), BRIEF))
    }
}

impl<E: std::error::Error> std::error::Error for Brief<E> {}

/// Control characters of both sets, line and paragraph separators, and what turns the direction of writing.
fn acts(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_is_cut_and_what_acts_is_escaped() {
        assert_eq!(quote("gpt-4o"), "`gpt-4o`");
        assert_eq!(excerpt("a\nb\r\u{1b}[31m\u{9b}\u{2028}é"), "a\\nb\\r\\u{1b}[31m\\u{9b}\\u{2028}é");
        let cut = excerpt(&"é".repeat(1000));
        assert_eq!((cut.len(), cut.ends_with('…')), (EXCERPT + 3, true));
    }

    proptest::proptest! {
        #[test]
        fn any_text_becomes_one_short_line(text in "\\PC{0,300}|[\\x00-\\x9f\u{2028}\u{202e}]{0,300}") {
            let line = excerpt(&text);
            proptest::prop_assert!(line.chars().all(|char| !acts(char)));
            // An escape is at most `\u{10ffff}`, and what is escaped has at least one byte.
            proptest::prop_assert!(line.len() <= EXCERPT * 10 + 3);
        }
    }
}
