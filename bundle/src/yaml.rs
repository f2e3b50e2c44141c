//! YAML that somebody else wrote: manifests, configurations, rules of weights.
//!
//! The parser's time grows with the square of the nesting: 40,000 brackets in one another took six seconds.
//! None of our files nests more than a few levels or is longer than some kilobytes, so both are bounded
//! before the parser sees a byte.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use serde::de::DeserializeOwned;

/// Longest text that is read, bytes.
pub const MOST_BYTES: usize = 1 << 20;

/// Most `[` and `{` in a text. All are counted, in strings too: a scan that knew strings could be deceived
/// about where they end.
const MOST_BRACKETS: usize = 2000;

/// Most `- ` and `? ` in front of a line's first value: levels that take no indentation.
const MOST_ENTRIES: usize = 16;

/// A text is not the YAML that it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum YamlError {
    /// Longer than any real one.
    #[error("expected at most {MOST_BYTES} bytes, found more")]
    TooLong,
    /// More nested than any real one could be.
    #[error("expected at most {MOST_BRACKETS} opening brackets `[` and `{{`, found {found}")]
    Brackets {
        /// How many there are.
        found: usize,
    },
    /// The same without brackets.
    #[error("line {line}: expected at most {MOST_ENTRIES} entries of lists within one another, found more")]
    Entries {
        /// Line, from 1.
        line: usize,
    },
    /// Directives are for tags, which none of our files has; the parser compares each with all before it.
    #[error("line {line}: expected no directive (`%`), found one")]
    Directive {
        /// Line, from 1.
        line: usize,
    },
    /// Where and why it does not parse.
    #[error(transparent)]
    Parse(#[from] serde_yaml::Error),
}

/// Reads a file, but not more of it than [`MOST_BYTES`] and one byte: [`parse`] refuses what is longer.
///
/// # Errors
/// The file cannot be read.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(MOST_BYTES as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}

/// Parses a text after its bounds were checked.
///
/// # Errors
/// [`YamlError`].
pub fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, YamlError> {
    check(text)?;
    Ok(serde_yaml::from_slice(text)?)
}

/// Checks the bounds of a text in one pass over it.
///
/// # Errors
/// [`YamlError`], all but [`YamlError::Parse`].
pub fn check(text: &[u8]) -> Result<(), YamlError> {
    if text.len() > MOST_BYTES {
        return Err(YamlError::TooLong);
    }
    let found = text.iter().filter(|&&byte| matches!(byte, b'[' | b'{')).count();
    if found > MOST_BRACKETS {
        return Err(YamlError::Brackets { found });
    }
    for (number, line) in text.split(|&byte| matches!(byte, b'\n' | b'\r')).enumerate() {
        let line_number = number + 1;
        if line.first() == Some(&b'%') {
            return Err(YamlError::Directive { line: line_number });
        }
        if entries(line) > MOST_ENTRIES {
            return Err(YamlError::Entries { line: line_number });
        }
    }
    Ok(())
}

/// Entries that begin one after the other in front of a line's first value.
fn entries(line: &[u8]) -> usize {
    let words = line.split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty());
    words.take_while(|word| matches!(*word, b"-" | b"?" | b":")).count()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// Texts that are all nesting: refused at once, and by name. (Whole seconds per text without the check.)
    #[test]
    fn nesting_is_refused_before_it_is_parsed() {
        let started = Instant::now();
        let levels = 40_000;
        let texts = [
            "[".repeat(levels),
            "{a: ".repeat(levels),
            format!("a: {}", "[{".repeat(levels)),
            format!("a: \"{}\"", "[".repeat(levels)),
            "- ".repeat(levels),
            "? ".repeat(levels),
            "-\t".repeat(levels),
            format!("a:\n  {}", "- ? ".repeat(levels)),
            (0..levels).map(|n| format!("%TAG !{n}! x\n")).collect(),
            " ".repeat(MOST_BYTES + 1),
        ];
        for text in &texts {
            let error = parse::<serde_yaml::Value>(text.as_bytes()).unwrap_err();
            assert!(!matches!(error, YamlError::Parse(_)), "{error}");
        }
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    }

    /// Nesting that indentation pays for is short of the bounds; the parser has its own.
    #[test]
    fn what_the_bounds_allow_is_parsed_in_no_time() {
        let started = Instant::now();
        let indented: String = (0..1400).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
        let brackets = "[".repeat(MOST_BRACKETS);
        let lines = format!("{}\n", "- ".repeat(MOST_ENTRIES)).repeat(20_000);
        for text in [indented, brackets] {
            assert!(text.len() <= MOST_BYTES);
            assert!(matches!(parse::<serde_yaml::Value>(text.as_bytes()), Err(YamlError::Parse(_))));
        }
        assert_eq!(parse::<Vec<serde_yaml::Value>>(lines.as_bytes()).unwrap().len(), 20_000);
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
        let rules: Vec<u8> = b"- {graph: decoder, form: w8a8}\n".repeat(MOST_BRACKETS);
        assert_eq!(parse::<Vec<serde_yaml::Value>>(&rules).unwrap().len(), MOST_BRACKETS);
    }
}
