//! Whether an answer is right, for [`crate::run()`]; and the median, for all that reports times.

/// Whether an answer is the reference, but for white space around it.
pub fn exact(answer: &str, reference: &str) -> bool {
    answer.trim() == reference.trim()
}

/// Character error rate: Levenshtein's distance over the reference's length, both without white space around
/// them. May exceed 1. Against an empty reference, any answer is wrong altogether.
pub fn character_error_rate(answer: &str, reference: &str) -> f64 {
    let (answer, reference) = (answer.trim(), reference.trim());
    match reference.chars().count() {
        0 if answer.is_empty() => 0.0,
        0 => 1.0,
        length => strsim::levenshtein(answer, reference) as f64 / length as f64,
    }
}

/// The middle value; of an even number, the mean of the two in the middle. `None` of none.
pub fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[n / 2]),
        n => Some(f64::midpoint(values[n / 2 - 1], values[n / 2])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_white_space_around_is_forgiven() {
        assert!(exact(" 12 \n", "12") && exact("", " "));
        assert!(!exact("1 2", "12") && !exact("A", "a"));
    }

    #[test]
    fn errors_by_hand() {
        for (answer, reference, expected) in [
            ("1234", "1234", 0.0),
            (" 1234\n", "1234", 0.0),
            ("1294", "1234", 0.25),
            ("124", "1234", 0.25),
            ("", "1234", 1.0),
            ("99991234", "1234", 1.0),
            ("kitten", "sitting", 3.0 / 7.0),
            // Characters, not bytes.
            ("Übel", "übel", 0.25),
            ("abcdef", "x", 6.0),
            ("", "", 0.0),
            ("x", "", 1.0),
        ] {
            let found = character_error_rate(answer, reference);
            assert!((found - expected).abs() < 1e-12, "{answer} for {reference}: {found}");
        }
    }

    #[test]
    fn medians() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&mut []), None);
    }
}
