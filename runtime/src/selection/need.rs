//! What a question asks of a picture, told from its words, so that `auto` does not save tokens that it needs.
//!
//! The rules are words, on purpose: whoever reads a receipt can see why it says `counting`. A question in
//! another language, or in other words, is not recognised and gets what its relevance asks for.

use crate::generate::Need;

/// Phrases of whole words, lower case, and what they ask for.
const PHRASES: &[(&str, Need)] = &[
    ("transcribe", Need::Reading),
    ("transcription", Need::Reading),
    ("ocr", Need::Reading),
    ("read all", Need::Reading),
    ("read everything", Need::Reading),
    ("read the text", Need::Reading),
    ("read the whole", Need::Reading),
    ("all the text", Need::Reading),
    ("all text", Need::Reading),
    ("full text", Need::Reading),
    ("extract the text", Need::Reading),
    ("list all", Need::Reading),
    ("list every", Need::Reading),
    ("list everything", Need::Reading),
    ("to markdown", Need::Reading),
    ("to html", Need::Reading),
    ("how many", Need::Counting),
    ("count", Need::Counting),
    ("in total", Need::Counting),
    ("bounding box", Need::Grounding),
    ("bounding boxes", Need::Grounding),
    ("bbox", Need::Grounding),
    ("coordinates", Need::Grounding),
    ("locate", Need::Grounding),
    ("point to", Need::Grounding),
    ("point at", Need::Grounding),
];

/// Bytes of a question that are looked at, the last ones.
const MOST: usize = 4096;

/// What a question needs, where its words say so: of the phrases that it holds, the first of the list
/// decides.
pub fn need(question: &str) -> Option<Need> {
    let mut start = question.len().saturating_sub(MOST);
    while !question.is_char_boundary(start) {
        start += 1;
    }
    let question = &question[start..];
    let words: Vec<String> = question
        .split(|character: char| !character.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    let holds = |phrase: &str| {
        let phrase: Vec<&str> = phrase.split(' ').collect();
        words.windows(phrase.len()).any(|window| window == phrase.as_slice())
    };
    PHRASES.iter().find(|(phrase, _)| holds(phrase)).map(|(_, need)| *need)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_tell_what_a_question_needs() {
        for (question, expected) in [
            ("How many dogs are there?", Some(Need::Counting)),
            ("COUNT the  chairs", Some(Need::Counting)),
            ("Transcribe the page, please.", Some(Need::Reading)),
            ("Read\nall of it", Some(Need::Reading)),
            ("Convert this page to Markdown", Some(Need::Reading)),
            ("Give me the bounding-box of the cup", Some(Need::Grounding)),
            ("Where is the country on this map?", None),
            ("What is the value of GHT?", None),
            ("discount", None),
            ("", None),
        ] {
            assert_eq!(need(question), expected, "{question}");
        }
    }
}
