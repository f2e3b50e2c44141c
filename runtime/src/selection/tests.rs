#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use proptest::prelude::*;

use super::greedy::{Objective, maximise};
use super::matrix::{Matrix, dot};
use super::methods::{Seen, order, sketch_width, softmax_columns};
use super::objectives::{Coverage, Determinant, LeastDistance, Worth};
use super::*;
use crate::decoder::Positions;
use crate::generate::{Budget, Need, Reason, Receipt, Selector, Share, Tensions};

/// The kernel without bounds: every gain anew, of equal ones the first.
fn plainly(
    objective: &mut dyn Objective,
    candidates: usize,
    count: usize,
    first: Option<usize>,
) -> Vec<usize> {
    let mut taken: Vec<usize> = first.into_iter().filter(|_| count > 0).collect();
    taken.iter().for_each(|&first| objective.take(first));
    while taken.len() < count.min(candidates) {
        let gain = |candidate: usize| {
            let gain = objective.gain(candidate);
            if gain.is_nan() { f32::NEG_INFINITY } else { gain }
        };
        let left = (0..candidates).filter(|candidate| !taken.contains(candidate));
        let best = left.reduce(|best, other| if gain(other) > gain(best) { other } else { best }).unwrap();
        objective.take(best);
        taken.push(best);
    }
    taken
}

/// Rows with ties, duplicates, zeros, and now and then what is no number.
fn rows(width: usize) -> impl Strategy<Value = Vec<f32>> {
    let number = prop_oneof![
        4 => -1.0f32..1.0,
        2 => Just(0.0f32),
        1 => Just(0.5f32),
        1 => prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(-f32::INFINITY)],
    ];
    prop::collection::vec(prop::collection::vec(number, width), 1..14)
        .prop_map(|rows| rows.iter().chain(&rows[..rows.len() / 2]).flatten().copied().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_kernel_is_brute_force(numbers in rows(3), count in 0usize..20) {
        let matrix = Matrix::new(numbers.clone(), 3);
        let (rows, candidates) = (matrix.clone().normalised(), matrix.rows());
        let worth: Vec<f32> = matrix.iter().map(|row| row[0]).collect();
        let relevance: Vec<f32> = rows.iter().map(|row| row[1].abs()).collect();
        let covers = || Coverage::new(rows.products(&rows).unwrap()).times(relevance.clone()).plus(relevance.clone());
        let determinant = || Determinant::new(&rows, &relevance, count).unwrap();
        let both = |one: &mut dyn Objective, other: &mut dyn Objective| {
            (maximise(one, candidates, count, None), plainly(other, candidates, count, None))
        };
        for (found, expected) in [
            both(&mut Worth(&worth), &mut Worth(&worth)),
            both(&mut covers(), &mut covers()),
            both(&mut determinant(), &mut determinant()),
        ] {
            prop_assert_eq!(found, expected);
        }
        let (mut one, first) = LeastDistance::new(&rows).unwrap();
        let mut other = LeastDistance::new(&rows).unwrap().0;
        let found = maximise(&mut one, candidates, count, first);
        prop_assert_eq!(found, plainly(&mut other, candidates, count, first));
    }

    #[test]
    fn whatever_the_rows_are_each_is_kept_once_and_in_order(
        numbers in rows(4),
        question in rows(4),
        count in 1usize..20,
    ) {
        let visual = picture(&numbers, 4, 2);
        let question = Tensor::from_vec(&[1, question.len() / 4, 4], question).unwrap();
        let all = visual.rows.shape()[1];
        for selector in Selector::ALL {
            let found = choose(&visual, &question, None, &choice(Budget::Tokens(count), Some(selector))).unwrap();
            let kept = found.rows.shape()[1];
            prop_assert_eq!(kept, count.min(all), "{}", selector);
            prop_assert_eq!(found.receipt.places.len() + found.receipt.dropped.len(), all);
            let cells: Vec<u32> = found.receipt.places.iter().map(|place| place.cell[2]).collect();
            prop_assert!(cells.is_sorted() && cells.windows(2).all(|pair| pair[0] < pair[1]), "{}", selector);
            let again = choose(&visual, &question, None, &choice(Budget::Tokens(count), Some(selector))).unwrap();
            prop_assert_eq!(again.rows.bytes(), found.rows.bytes());
        }
    }
}

fn choice(budget: Budget, selector: Option<Selector>) -> Choice {
    Choice { budget, selection: Selection { selector, ..Selection::default() }, need: None }
}

/// A picture of rows in one line, with levels of rows for deeper layers that say which row and level they
/// are.
fn picture(numbers: &[f32], width: usize, levels: usize) -> Visual {
    let count = numbers.len() / width;
    let place = |at: usize| Place {
        rect: [at as f32, 0.0, at as f32 + 1.0, 1.0],
        cell: [0, 0, at as u32],
        ..Place::default()
    };
    let receipt = Receipt::of_all([count as u32, 1], (0..count).map(place).collect());
    let rows = Tensor::from_vec(&[1, count, width], numbers.to_vec()).unwrap();
    let of = |level: usize| (0..count).flat_map(move |row| vec![(level * 100 + row + 1) as f32; width]);
    let deep = (0..levels).flat_map(of).collect();
    let deep = (levels > 0).then(|| Tensor::from_vec(&[levels, count, width], deep).unwrap());
    #[allow(clippy::single_range_in_vec_init)]
    let runs = vec![0..count];
    Visual { deep, ..Visual::new(rows, runs, receipt) }
}

/// What a selector takes of rows for a question, in its order.
fn taken(selector: Selector, numbers: &[f32], question: &[f32], width: usize, count: usize) -> Vec<usize> {
    let question = Matrix::new(question.to_vec(), width).normalised();
    let visual = picture(numbers, width, 0);
    let survey = Survey::of(numbers, &question, sketch_width(numbers.len() / width)).unwrap();
    let knowing = Knowing::of(&survey, &visual.receipt.places, None);
    let tensions = Tensions::default();
    let (relevance, _) = knowing.relevance(tensions.knowing);
    let seen = Seen {
        numbers,
        question: &question,
        survey: &survey,
        knowing: &knowing,
        relevance: &relevance,
        places: &visual.receipt.places,
    };
    order(selector, &seen, &tensions, count).unwrap()
}

#[test]
fn divprune_takes_what_lies_furthest() {
    // Angles of 0, 10, 80, 90 and 200 degrees. Furthest from its neighbour is 200; furthest from that is 10
    // (cosine -0.98), then 90: 80 degrees from 10 and 110 from 200.
    let rows: Vec<f32> = [0.0f32, 10.0, 80.0, 90.0, 200.0]
        .iter()
        .flat_map(|degrees| [degrees.to_radians().cos() * 3.0, degrees.to_radians().sin() * 3.0])
        .collect();
    assert_eq!(taken(Selector::DivPrune, &rows, &[1.0, 0.0], 2, 3), [4, 1, 3]);
}

#[test]
fn cdpruner_takes_the_largest_volume() {
    // Cosines to the question: 1, 0.9, 0 and -1, so relevances of 1, 0.95, 0.5 and 0. The first is the
    // longest; of the others 0.95 has sin^2 = 0.19 beside it, and 0.5 is at a right angle: 0.25 against
    // 0.171.
    let rows = [1.0, 0.0, 0.9, 0.19f32.sqrt(), 0.0, 1.0, -1.0, 0.0];
    assert_eq!(taken(Selector::CdPruner, &rows, &[1.0, 0.0], 2, 3), [0, 2, 1]);
    let determinant = |rows: &[usize]| {
        // 2 x 2 minors of the kernel, by hand.
        let all = Matrix::new(vec![1.0, 0.0, 0.9, 0.19f32.sqrt(), 0.0, 1.0, -1.0, 0.0], 2);
        let relevance = [1.0f32, 0.95, 0.5, 0.0];
        let kernel = |a: usize, b: usize| relevance[a] * dot(all.row(a), all.row(b)) * relevance[b];
        let [a, b] = [rows[0], rows[1]];
        kernel(a, a) * kernel(b, b) - kernel(a, b) * kernel(b, a)
    };
    assert!(determinant(&[0, 2]) > determinant(&[0, 1]));
}

#[test]
fn mmtok_covers_question_and_picture() {
    // By its paper's formula, spelt out: every subset of two rows, the first of which is the best alone.
    let rows = [1.0, 0.1, 0.0, 0.9, 0.3, 0.1, 0.1, 1.0, 0.0, -0.2, 0.1, 1.0];
    let question = [1.0, 0.0, 0.0, 0.0, 0.2, 1.0];
    let (all, asked) =
        (Matrix::new(rows.to_vec(), 3).normalised(), Matrix::new(question.to_vec(), 3).normalised());
    let text = softmax_columns(all.products(&asked).unwrap(), 0.02);
    let vision = softmax_columns(all.products(&all).unwrap(), 0.2);
    let worth = |set: &[usize]| {
        let best = |matrix: &Matrix, column: usize| {
            set.iter().map(|&row| matrix.row(row)[column]).fold(0.0f32, f32::max)
        };
        let text: f32 = (0..2).map(|column| best(&text, column) / 2.0).sum();
        let vision: f32 = (0..4).map(|column| best(&vision, column) / 4.0 * 0.5).sum();
        text + vision
    };
    let first = (0..4).max_by(|a, b| worth(&[*a]).total_cmp(&worth(&[*b]))).unwrap();
    let second =
        (0..4).filter(|row| *row != first).max_by(|a, b| worth(&[first, *a]).total_cmp(&worth(&[first, *b])));
    assert_eq!(taken(Selector::MmTok, &rows, &question, 3, 2), [first, second.unwrap()]);
}

#[test]
fn top_k_takes_the_most_relevant_first() {
    // Half of the rows look one way; the question looks another, where two rows are.
    let rows = [1.0, 0.0, 0.0, 1.0, 0.1, 0.0, 0.0, 1.0, 0.0, 0.1, 0.9, 0.1, 1.0, 0.0, 0.1];
    let mut order = taken(Selector::TopK, &rows, &[0.0, 1.0, 0.0], 3, 5);
    order[..2].sort_unstable();
    assert_eq!(order[..2], [2, 3]);
}

#[test]
fn uniform_is_spread_evenly_at_any_count() {
    let side = 16usize;
    let places: Vec<Place> = (0..side * side)
        .map(|at| {
            let [x, y] = [(at % side) as f32, (at / side) as f32];
            Place { rect: [x, y, x + 1.0, y + 1.0], ..Place::default() }
        })
        .collect();
    let numbers = vec![1.0f32; side * side * 2];
    let question = Matrix::new(vec![1.0, 0.0], 2);
    let survey = Survey::of(&numbers, &question, 2).unwrap();
    let knowing = Knowing::of(&survey, &places, None);
    let relevance = vec![0.0; places.len()];
    let seen = Seen {
        numbers: &numbers,
        question: &question,
        survey: &survey,
        knowing: &knowing,
        relevance: &relevance,
        places: &places,
    };
    for count in [4, 16, 64] {
        let kept = order(Selector::Uniform, &seen, &Tensions::default(), count).unwrap();
        // As many in each square of the picture.
        let cells = count.isqrt();
        let mut met = vec![0; count];
        for at in kept {
            met[(at / side * cells / side) * cells + at % side * cells / side] += 1;
        }
        assert_eq!(met, vec![1; count], "{count}");
    }
}

#[test]
fn balanced_takes_the_asked_and_covers_the_rest() {
    // 40 rows of one kind, one of another, one that answers the question.
    let mut rows: Vec<f32> = (0..40).flat_map(|_| [1.0, 0.0, 0.0]).collect();
    rows.extend([0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
    let mut order = taken(Selector::Balanced, &rows, &[0.0, 0.0, 1.0], 3, 3);
    assert_eq!(order[0], 41, "the answer comes first");
    order.sort_unstable();
    assert_eq!(order, [0, 40, 41]);
}

#[test]
fn all_that_there_is_stays_as_it_is() {
    let numbers: Vec<f32> = (0..30).map(|at| (at as f32).sin()).collect();
    let visual = picture(&numbers, 3, 2);
    let question = Tensor::from_vec(&[1, 2, 3], vec![0.3; 6]).unwrap();
    let auto = Choice { need: Some(Need::Reading), ..choice(Budget::Auto, None) };
    for choice in [choice(Budget::Tokens(10), None), choice(Budget::Tokens(1000), None), auto] {
        let found = choose(&visual, &question, None, &choice).unwrap();
        assert_eq!(found.rows.bytes(), visual.rows.bytes());
        assert_eq!(found.deep.as_ref().unwrap().bytes(), visual.deep.as_ref().unwrap().bytes());
        assert_eq!((&found.runs, &found.positions), (&visual.runs, &visual.positions));
        assert!(found.receipt.dropped.is_empty() && found.receipt.selected.is_some());
        assert!(found.receipt.places.iter().all(|place| place.score.is_some()));
    }
}

#[test]
fn what_is_kept_stands_where_it_stood() {
    let numbers: Vec<f32> = (0..12).flat_map(|at| [at as f32 + 1.0, (at * at) as f32]).collect();
    // Three tiles, the second with positions of its own.
    let mut visual = picture(&numbers, 2, 3);
    visual.runs = vec![0..4, 4..8, 8..12];
    let own = |from: usize| Positions { each: (0..4).map(|at| [from, at, at + 1]).collect(), next: 9 };
    let kept = |row, levels| Kept { row, rank: 11 - row, levels };
    let selected =
        Selected { selector: Selector::Balanced, of: 12, reason: Reason::Asked, weights: [0.2, 0.2, 0.6] };
    let rows = [kept(1, 3), kept(3, 1), kept(10, 2)];
    let found = gather(&visual, &rows, visual.receipt.places.clone(), Some(selected)).unwrap();
    assert_eq!(found.rows.as_slice::<f32>().unwrap(), [2.0, 1.0, 4.0, 9.0, 11.0, 100.0]);
    assert_eq!(found.runs, [0..2, 2..2, 2..3]);
    let positions = found.positions.unwrap();
    assert_eq!(positions[0], Positions { each: vec![[1; 3], [3; 3]], next: 4 });
    assert_eq!(positions[1], Positions { each: vec![], next: 4 });
    assert_eq!(positions[2], Positions { each: vec![[2; 3]], next: 4 });
    let deep = found.deep.unwrap();
    let levels: Vec<f32> = deep.as_slice::<f32>().unwrap().iter().step_by(2).copied().collect();
    assert_eq!(
        levels,
        [2.0, 0.0, 0.0, 102.0, 0.0, 111.0, 202.0, 204.0, 211.0],
        "the deepest level comes last"
    );
    let layers: Vec<_> = found.receipt.places.iter().map(|place| (place.rank, place.layers)).collect();
    assert_eq!(layers, [(Some(10), Some(3)), (Some(8), Some(1)), (Some(1), Some(2))]);
    assert_eq!(found.receipt.dropped.len(), 9);

    visual.positions = Some(vec![own(0), own(5), own(7)]);
    let found = gather(&visual, &rows, visual.receipt.places.clone(), Some(selected)).unwrap();
    let positions = found.positions.unwrap();
    assert_eq!(positions[0], Positions { each: vec![[0, 1, 2], [0, 3, 4]], next: 9 });
    assert_eq!(positions[2], Positions { each: vec![[7, 2, 3]], next: 9 });
}

#[test]
fn given_rows_are_kept_whoever_gave_them() {
    let numbers: Vec<f32> = (0..12).map(|at| at as f32).collect();
    let visual = picture(&numbers, 2, 2);
    // What is no row is none, and none is there twice.
    let found = keep(&visual, &[4, 1, 9, 4, 2]).unwrap();
    assert_eq!(found.rows.as_slice::<f32>().unwrap(), [2.0, 3.0, 4.0, 5.0, 8.0, 9.0]);
    let ranks: Vec<_> = found.receipt.places.iter().map(|place| (place.rank, place.layers)).collect();
    assert_eq!(ranks, [(Some(1), Some(2)), (Some(2), Some(2)), (Some(0), Some(2))]);
    assert_eq!((found.receipt.dropped.len(), found.receipt.selected), (3, None));
    let all = keep(&visual, &[0, 1, 2, 3, 4, 5]).unwrap();
    assert_eq!(all.rows.bytes(), visual.rows.bytes());
    assert_eq!(all.deep.unwrap().bytes(), visual.deep.unwrap().bytes());
}

#[test]
fn the_less_relevant_half_gets_the_deepest_level_only() {
    let kept = kept(&[4, 1, 3], &[0.0, 0.9, 0.0, 0.1, 0.5], Depth::Relevant, 3);
    let levels: Vec<_> = kept.iter().map(|kept| (kept.row, kept.rank, kept.levels)).collect();
    assert_eq!(levels, [(1, 1, 3), (3, 2, 1), (4, 0, 3)]);
}

#[test]
fn a_survey_agrees_with_plain_loops() {
    let width = 300;
    let number = |seed: usize| ((seed * 7919 % 1000) as f32 / 500.0 - 1.0) + 0.3;
    let numbers: Vec<f32> = (0..width * 130).map(number).collect();
    let question = Matrix::new((0..width * 3).map(|at| number(at + 17)).collect(), width).normalised();
    let survey = Survey::of(&numbers, &question, 256).unwrap();
    let rows = Matrix::new(numbers, width).normalised();
    let mut mean = vec![0.0; width];
    rows.iter().for_each(|row| mean.iter_mut().zip(row).for_each(|(sum, number)| *sum += number / 130.0));
    let mut worst = 0.0f32;
    for (at, row) in rows.iter().enumerate() {
        for (token, found) in question.iter().zip(survey.to_question.row(at)) {
            worst = worst.max((dot(row, token) - found).abs());
        }
        let to_mean = dot(row, &mean) / dot(&mean, &mean).sqrt();
        worst = worst.max((to_mean - survey.to_mean[at]).abs());
    }
    assert!(worst < 1e-4, "{worst}");
    // Products of sketches are near the cosines of the centred rows.
    let centred = |at: usize| {
        let mut row: Vec<f32> = rows.row(at).iter().zip(&mean).map(|(number, mean)| number - mean).collect();
        super::matrix::normalise(&mut row);
        row
    };
    let mut strays = 0.0;
    for at in 1..130 {
        let product = dot(survey.sketch.row(0), survey.sketch.row(at));
        strays += (product - dot(&centred(0), &centred(at))).powi(2) / 129.0;
    }
    assert!(f32::sqrt(strays) < 0.1, "{strays}");
}

/// What has no direction is worth nothing, whatever stands beside it.
#[test]
fn rows_of_zeros_and_of_what_is_no_number_are_taken_last() {
    let mut rows: Vec<f32> = (0..24).map(|at| 1.0 + (at as f32).sin()).collect();
    rows.extend([0.0, 0.0, 0.0, f32::NAN, 1.0, f32::INFINITY]);
    let order = taken(Selector::TopK, &rows, &[-1.0, 0.2, -0.5], 3, 8);
    assert!(order.iter().all(|row| *row < 8), "{order:?}");
}

/// A question of no tokens asks nothing.
#[test]
fn a_question_of_no_tokens_is_no_fault() {
    let visual = picture(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 9.0], 2, 0);
    let question = Tensor::from_vec::<f32>(&[1, 0, 2], Vec::new()).unwrap();
    for selector in Selector::ALL {
        let found = choose(&visual, &question, None, &choice(Budget::Tokens(2), Some(selector))).unwrap();
        assert_eq!(found.receipt.tokens, 2, "{selector}");
    }
    choose(&visual, &question, None, &choice(Budget::Auto, None)).unwrap();
}

#[test]
fn budgets_of_a_share_and_of_auto_come_to_a_number() {
    let numbers: Vec<f32> = (0..600).map(|at| (at as f32 * 0.7).sin()).collect();
    let visual = picture(&numbers, 3, 0);
    let question = Tensor::from_vec(&[1, 1, 3], vec![0.1, 0.2, 0.9]).unwrap();
    let count = |choice: &Choice| choose(&visual, &question, None, choice).unwrap().receipt.tokens;
    assert_eq!(count(&choice(Budget::Share(Share::new(0.25).unwrap()), None)), 50);
    let counting = Choice { need: Some(Need::Counting), ..choice(Budget::Auto, None) };
    assert_eq!(count(&counting), 200, "the largest tier, or all that there are");
    let found = choose(&visual, &question, None, &choice(Budget::Auto, None)).unwrap();
    assert!(matches!(found.receipt.selected.unwrap().reason, Reason::Concentration(_)));
    assert!(budget::TIERS.contains(&found.receipt.tokens), "{}", found.receipt.tokens);
    assert!(Arc::strong_count(&found.receipt) == 1);
}
