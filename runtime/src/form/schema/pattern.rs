//! Expressions of schemas, written so that the library keeps them inside of JSON strings.
//!
//! It takes a class of characters that has all control characters for one that has the quote and the
//! backslash too: `[^"]` would let an escaped quote through. A class that lacks one control character it
//! reads to the letter, and no answer has U+0001, which would need an escape that answers do not use.

use regex_syntax::hir::{Class, ClassBytes, ClassBytesRange, ClassUnicode, ClassUnicodeRange};

use crate::form::error::FormError;
use crate::form::expression;

/// The control character that is left out.
const LEFT_OUT: char = '\u{1}';

/// Writes an expression for the library.
///
/// # Errors
/// [`FormError`] for what it cannot keep.
pub(super) fn prepare(pattern: &str, place: &str) -> Result<String, FormError> {
    match expression::parse(pattern) {
        Ok(read) => Ok(expression::map(&read, &without).to_string()),
        Err(reason) => Err(FormError::schema(place, format!("the expression cannot be kept: {reason}"))),
    }
}

/// A class without that character.
fn without(class: Class) -> Class {
    match class {
        Class::Unicode(mut class) => {
            class.difference(&ClassUnicode::new([ClassUnicodeRange::new(LEFT_OUT, LEFT_OUT)]));
            Class::Unicode(class)
        }
        Class::Bytes(mut class) => {
            class.difference(&ClassBytes::new([ClassBytesRange::new(LEFT_OUT as u8, LEFT_OUT as u8)]));
            Class::Bytes(class)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use llguidance::derivre::RegexBuilder;

    use super::*;

    #[test]
    fn expressions_mean_what_they_meant() {
        for (pattern, matching, other) in [
            ("^[^\"]+$", "a\\\n", "a\""),
            (r"^\d(x|yz)*$", "7xyz", "\u{0667}"),
            ("^a|b$", "cab", "cac"),
            (r"^(?<year>\d{4})/\w$", "2026/x", "2026/é"),
            (".", "\"", "\n"),
            (r"\\", "a\\b", "ab"),
            (r"^[^\w]$", "!", "\u{1b6}"),
        ] {
            let mut builder = RegexBuilder::new();
            let expression = builder.mk_regex_for_serach(&prepare(pattern, "#").unwrap()).unwrap();
            let mut expression = builder.to_regex(expression);
            assert!(expression.is_match(matching), "{pattern}: {matching}");
            assert!(!expression.is_match(other), "{pattern}: {other}");
        }
        for pattern in ["(?!a)", r"\bword", r"(a)\1", "(", "a\\"] {
            assert!(prepare(pattern, "#").is_err(), "{pattern}");
        }
    }
}
