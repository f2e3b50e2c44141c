//! For the arm `shuffled`: which other row's question a picture is looked at with, to see what the right
//! question is worth.

use std::collections::BTreeMap;

use arrcoc_runtime::dataset::Row;

/// For every row the row whose question it gets. Each question goes to one other row. `None` where only the
/// same question is left. The same rows give the same result.
///
/// Best is another question of the same kind about another image: a question of another kind is told apart by
/// its words alone, and then says less about what choosing by the question is worth. Where that cannot be had
/// for all rows, the kind is given up first, then the other image; the other question never.
pub fn mismatched_questions(rows: &[Row]) -> Vec<Option<usize>> {
    let count = rows.len();
    let mut given = half_way_round(rows);
    let fit = |row: usize, other: usize| fit(&rows[row], &rows[other]);
    for row in 0..count {
        if fit(row, given[row]) == BEST {
            continue;
        }
        let gain = |other: usize| {
            let now = fit(row, given[row]) + fit(other, given[other]);
            (fit(row, given[other]) + fit(other, given[row])) - now
        };
        // The first of the best.
        let best = (0..count).fold((0, row), |(most, best), other| match gain(other) {
            more if more > most => (more, other),
            _ => (most, best),
        });
        given.swap(row, best.1);
    }
    given.into_iter().enumerate().map(|(row, other)| (fit(row, other) > 0).then_some(other)).collect()
}

/// Every row gets the question half way round its kind: questions about one image stand together in most
/// files.
fn half_way_round(rows: &[Row]) -> Vec<usize> {
    let mut kinds: BTreeMap<Option<&str>, Vec<usize>> = BTreeMap::new();
    for (index, row) in rows.iter().enumerate() {
        kinds.entry(row.kind.as_deref()).or_default().push(index);
    }
    let mut given = vec![0; rows.len()];
    for members in kinds.values() {
        for (at, &row) in members.iter().enumerate() {
            given[row] = members[(at + members.len() / 2) % members.len()];
        }
    }
    given
}

const BEST: i32 = 13;

/// 0 for the same question. Else 8, 4 more for another image and 1 more for the same kind: no number of rows
/// that keep their kind is worth one that gets its own question, and no two are worth one that keeps its
/// image.
fn fit(row: &Row, other: &Row) -> i32 {
    if row.query == other.query {
        return 0;
    }
    8 + 4 * i32::from(row.image != other.image) + i32::from(row.kind == other.kind)
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
            answer_box: None,
            kind: None,
            characters: None,
            first: None,
        };
        of.iter().map(row).collect()
    }

    fn check(rows: &[Row]) -> Vec<usize> {
        let given: Vec<usize> = mismatched_questions(rows).into_iter().flatten().collect();
        let mut sorted = given.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..rows.len()).collect::<Vec<_>>(), "every question goes to one row");
        for (row, other) in rows.iter().zip(given.iter().map(|&other| &rows[other])) {
            assert!(row.image != other.image && row.query != other.query, "{given:?}");
        }
        given
    }

    #[test]
    fn every_row_gets_another_question_about_another_image() {
        for of in [
            &[("a", "1"), ("b", "2")][..],
            &[("a", "1"), ("b", "2"), ("c", "3")],
            // Half way round would keep the image, or the question.
            &[("a", "1"), ("b", "2"), ("a", "3"), ("c", "4")],
            &[("a", "1"), ("b", "2"), ("c", "1"), ("d", "3"), ("e", "4")],
            &[("a", "1"), ("a", "2"), ("b", "1"), ("b", "2")],
        ] {
            check(&rows(of));
        }
    }

    #[test]
    fn questions_stay_within_their_kind_where_they_can() {
        // Four images with a question of each of three kinds, as they stand in a file.
        let mut all = Vec::new();
        for image in ["a", "b", "c", "d"] {
            for kind in ["cell", "count", "shape"] {
                let mut row = rows(&[(image, "")]).remove(0);
                row.query = format!("{kind} of {image}");
                row.kind = Some(kind.into());
                all.push(row);
            }
        }
        for (row, other) in check(&all).into_iter().enumerate() {
            assert_eq!(all[row].kind, all[other].kind);
        }
        // Another image counts for more than the same kind: the only two of a kind are about one image here.
        let mut all = rows(&[("a", "1"), ("a", "2"), ("b", "3"), ("b", "4")]);
        for (row, kind) in all.iter_mut().zip(["cell", "cell", "count", "shape"]) {
            row.kind = Some(kind.into());
        }
        check(&all);
    }

    #[test]
    fn what_cannot_be_shuffled_is_left_out() {
        assert_eq!(mismatched_questions(&rows(&[("a", "1")])), [None]);
        assert_eq!(mismatched_questions(&rows(&[("a", "1"), ("b", "1")])), [None, None]);
        let same_image = mismatched_questions(&rows(&[("a", "1"), ("a", "2")]));
        assert_eq!(same_image, [Some(1), Some(0)], "the same image, if need be");
    }
}
