//! What a body costs to read, known before anything is built from it: one pass over its bytes, without an
//! allocation.
//!
//! JSON can be made of millions of tiny values, and each becomes dozens of bytes once it is a value in
//! memory. Images and long texts are single strings and cost what they are long. So strings are measured
//! apart from all else.

/// A string value of this many bytes or more counts as text or as an image, and not as structure.
const LONG: usize = 1024;

/// Deepest nesting of lists and objects: serde's own limit, for those parts too that are only skipped.
pub(super) const DEEPEST: usize = 128;

/// The size of a body, apart from its long strings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Measure {
    /// Bytes outside of long string values.
    pub(super) structure: usize,
    /// Deepest nesting.
    pub(super) depth: usize,
}

/// Measures a body. One that is no JSON has a measure too; what is wrong with it is the parser's to say.
pub(super) fn measure(bytes: &[u8]) -> Measure {
    let (mut long, mut depth, mut deepest, mut at) = (0, 0_usize, 0, 0);
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'"' => {
                let length = string_length(&bytes[at..]);
                at += length + 1;
                // A key is kept while its value is read, however long it is.
                if length >= LONG && !is_key(bytes.get(at..).unwrap_or_default()) {
                    long += length;
                }
            }
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Measure { structure: bytes.len() - long, depth: deepest }
}

/// Bytes up to the quote that ends a string, or to the end.
fn string_length(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(found) = bytes[at..].iter().position(|byte| matches!(byte, b'"' | b'\\')) {
        at += found;
        if bytes[at] == b'"' {
            return at;
        }
        // What follows a backslash ends nothing.
        at = (at + 2).min(bytes.len());
    }
    bytes.len()
}

fn is_key(rest: &[u8]) -> bool {
    rest.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_are_no_structure_and_all_else_is() {
        let long = "x".repeat(5000);
        let of = |text: &str| measure(text.as_bytes());
        assert_eq!(of("{}"), Measure { structure: 2, depth: 1 });
        assert_eq!(of(&format!("{{\"a\":\"{long}\"}}")), Measure { structure: 8, depth: 1 });
        assert_eq!(of(&format!("{{\"{long}\" : 1}}")).structure, 5000 + 8);
        assert_eq!(of(&format!("[\"{}\"]", "x".repeat(LONG - 1))).structure, LONG + 3);
        assert_eq!(of("[[{\"a\":[]}],[]]").depth, 4);
        // Brackets and escaped quotes inside of strings are text.
        assert_eq!(of(r#"["\"[[[[", "\\"]"#), Measure { structure: 16, depth: 1 });
        let escaped = format!("[\"{}\"]", "\\\"".repeat(1000));
        assert_eq!(of(&escaped), Measure { structure: 4, depth: 1 });
    }

    #[test]
    fn what_is_no_json_is_measured_too() {
        for (text, structure) in [("", 0), ("\"", 1), ("\"\\", 2), ("]]}}", 4), ("\"abc", 4)] {
            assert_eq!(measure(text.as_bytes()).structure, structure, "{text}");
        }
    }

    proptest::proptest! {
        /// Against the parser: the depth is that of the value, and structure is what is left without long
        /// strings.
        #[test]
        fn any_bytes_have_a_measure(bytes in proptest::collection::vec(0_u8.., 0..400)) {
            let Measure { structure, depth } = measure(&bytes);
            proptest::prop_assert!(structure <= bytes.len() && depth <= bytes.len());
        }
    }
}
