//! Slips in the names of fields and settings: which known name was meant.

/// The known name that another is a slip of: the same letters written otherwise, or a quarter of them wrong
/// at most.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // No name of ours is longer, and distances take the product of both lengths.
    if name.len() > 64 {
        return None;
    }
    let letters = |name: &str| name.replace(['_', '-', '.'], "").to_lowercase();
    let most = (name.chars().count() / 4).max(1);
    let distance = |known: &str| match letters(known) == letters(name) {
        true => 0,
        false => strsim::osa_distance(known, name),
    };
    let nearest = known.map(|known| (distance(known), known)).min()?;
    (nearest.0 <= most).then_some(nearest.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_told_from_other_words() {
        let known = ["temperature", "top_p", "max_tokens", "stop", "budget", "explain", "seed"];
        let of = |name| nearest(name, known.into_iter());
        for (slip, meant) in [
            ("temprature", "temperature"),
            ("Temperature", "temperature"),
            ("topP", "top_p"),
            ("maxTokens", "max_tokens"),
            ("max_token", "max_tokens"),
            ("bugdet", "budget"),
            ("stops", "stop"),
        ] {
            assert_eq!(of(slip), Some(meant), "{slip}");
        }
        for other in ["something_new", "x", "store", "provider", "", &"temperature".repeat(10)] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
