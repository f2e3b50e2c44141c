//! Whose question a row is looked at with, to see what the right question is worth.

use super::data::Row;

/// For every row another one whose question it gets: each row's question goes to one other row, to one about another
/// image where that can be done. `None` where all that is left is the same question. The same rows give the same
/// partners.
pub fn partners(rows: &[Row]) -> Vec<Option<usize>> {
    let count = rows.len();
    // Half way round: questions about one image stand together in most files.
    let mut partner: Vec<usize> = (0..count).map(|row| (row + count / 2) % count).collect();
    let fit = |row: usize, other: usize| fit(&rows[row], &rows[other]);
    for row in 0..count {
        if fit(row, partner[row]) == BEST {
            continue;
        }
        let gain = |other: usize| {
            let now = fit(row, partner[row]) + fit(other, partner[other]);
            (fit(row, partner[other]) + fit(other, partner[row])) - now
        };
        // The first of the best.
        let best = (0..count).fold((0, row), |(most, best), other| match gain(other) {
            more if more > most => (more, other),
            _ => (most, best),
        });
        partner.swap(row, best.1);
    }
    partner.into_iter().enumerate().map(|(row, other)| (fit(row, other) > 0).then_some(other)).collect()
}

const BEST: i32 = 2;

/// 0: the same question; 1: another question about the same image; 2: another about another.
fn fit(row: &Row, other: &Row) -> i32 {
    match (row.query == other.query, row.image == other.image) {
        (true, _) => 0,
        (false, true) => 1,
        (false, false) => BEST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(of: &[(&str, &str)]) -> Vec<Row> {
        let row = |&(image, query): &(&str, &str)| Row {
            image: image.into(),
            path: image.into(),
            query: query.into(),
            answer: String::new(),
            place: None,
            kind: None,
            characters: None,
            first: None,
        };
        of.iter().map(row).collect()
    }

    fn check(of: &[(&str, &str)]) {
        let rows = rows(of);
        let partners = partners(&rows);
        let mut given: Vec<usize> = partners.iter().copied().flatten().collect();
        assert!(given.len() == rows.len(), "{partners:?}");
        given.sort_unstable();
        assert_eq!(given, (0..rows.len()).collect::<Vec<_>>(), "every question goes to one row");
        for (row, other) in rows.iter().zip(partners.iter().flatten().map(|&other| &rows[other])) {
            assert!(row.image != other.image && row.query != other.query);
        }
    }

    #[test]
    fn every_row_gets_another_question_about_another_image() {
        check(&[("a", "1"), ("b", "2")]);
        check(&[("a", "1"), ("b", "2"), ("c", "3")]);
        // Half way round would keep the image, or the question.
        check(&[("a", "1"), ("b", "2"), ("a", "3"), ("c", "4")]);
        check(&[("a", "1"), ("b", "2"), ("c", "1"), ("d", "3"), ("e", "4")]);
        check(&[("a", "1"), ("a", "2"), ("b", "1"), ("b", "2")]);
    }

    #[test]
    fn what_cannot_be_shuffled_is_left_out() {
        assert_eq!(partners(&rows(&[("a", "1")])), [None]);
        assert_eq!(partners(&rows(&[("a", "1"), ("b", "1")])), [None, None]);
        assert_eq!(
            partners(&rows(&[("a", "1"), ("a", "2")])),
            [Some(1), Some(0)],
            "the same image, if need be"
        );
    }
}
