//! Training-free choice: greedy coverage of the question and of the picture itself.
//!
//! MMTok (arXiv 2508.18264) and SCOPE (arXiv 2510.24214) choose patches one after the other, each time the
//! one that adds most to how well every row (a token of the question, a patch of the picture) is covered by
//! its best patch so far. They differ in rows and weights only, so both are given to one kernel.

use arrcoc_runtime::selection::greedy::{Objective, maximise};
use ndarray::{Array2, ArrayView2, Axis, ShapeBuilder};

/// Sharpness of the match between question and patches.
const TEXT_TEMPERATURE: f32 = 0.02;
/// Sharpness of the match among patches.
const VISUAL_TEMPERATURE: f32 = 0.2;
/// What the picture's own rows weigh against the question's.
const VISUAL_WEIGHT: f32 = 0.5;

/// Rows to cover and what each weighs.
#[derive(Debug, Clone)]
pub struct Rows {
    /// `[rows, candidates]`, 0 or more: how well a candidate covers a row.
    pub coverage: Array2<f32>,
    /// One per row.
    pub weights: Vec<f32>,
}

/// The first `k` candidates of greedy coverage, in the order of choice: each time the `i` that maximises
/// `sum over r of weights[r] * max(0, rows[r, i] - best[r])`, where `best[r]` is the most that those before
/// cover of row `r`, at first 0. The lower index wins among equals.
pub fn greedy_coverage(rows: ArrayView2<'_, f32>, weights: &[f32], k: usize) -> Vec<usize> {
    let mut coverage = Coverage { rows, weights, best: vec![0.0; rows.nrows()] };
    maximise(&mut coverage, rows.ncols(), k, None)
}

/// How well those that were chosen cover the rows.
struct Coverage<'a> {
    rows: ArrayView2<'a, f32>,
    weights: &'a [f32],
    /// The most that they cover of each row.
    best: Vec<f32>,
}

impl Objective for Coverage<'_> {
    fn gain(&self, candidate: usize) -> f32 {
        let column = self.rows.column(candidate);
        let parts = column.iter().zip(self.weights).zip(&self.best);
        parts.map(|((covers, weight), best)| weight * (covers - best).max(0.0)).sum()
    }

    fn take(&mut self, candidate: usize) {
        for (best, covers) in self.best.iter_mut().zip(self.rows.column(candidate)) {
            *best = best.max(*covers);
        }
    }
}

/// MMTok's rows: `[P; Q]` with P = softmax over patches of t . x / 0.02, divided by the question's length m,
/// of weight 1, and Q = softmax over patches of v . v / 0.2, divided by the number of patches n, of weight
/// 1/2.
///
/// `text` t is `[m, H]`, the question's token embeddings; `visual` x `[n, H]`, the patches as the decoder
/// sees them; `features` v `[n, C]`, the patches as the encoder sees them. All are normalised here.
pub fn mmtok_rows(
    text: ArrayView2<'_, f32>,
    visual: ArrayView2<'_, f32>,
    features: ArrayView2<'_, f32>,
) -> Rows {
    let (text, visual, features) = (normalised(text), normalised(visual), normalised(features));
    let question = shares(text.dot(&visual.t()), TEXT_TEMPERATURE);
    let picture = shares(features.dot(&features.t()), VISUAL_TEMPERATURE);
    let (m, n) = (question.nrows(), picture.nrows());
    // Column-major: the kernel reads columns.
    let mut coverage = Array2::zeros((m + n, n).f());
    coverage.slice_mut(ndarray::s![..m, ..]).assign(&question);
    coverage.slice_mut(ndarray::s![m.., ..]).assign(&picture);
    let weights = [vec![1.0; m], vec![VISUAL_WEIGHT; n]].concat();
    Rows { coverage, weights }
}

/// Every row divided by its length; a row of zeros stays one.
fn normalised(rows: ArrayView2<'_, f32>) -> Array2<f32> {
    let mut rows = rows.to_owned();
    for mut row in rows.axis_iter_mut(Axis(0)) {
        let length = row.dot(&row).sqrt();
        if length > 0.0 {
            row /= length;
        }
    }
    rows
}

/// Softmax of every row at a temperature, divided by the number of rows.
fn shares(mut rows: Array2<f32>, temperature: f32) -> Array2<f32> {
    let count = rows.nrows() as f32;
    for mut row in rows.axis_iter_mut(Axis(0)) {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        row.mapv_inplace(|x| ((x - largest) / temperature).exp());
        let sum = row.sum() * count;
        row /= sum;
    }
    rows
}

#[cfg(test)]
mod tests {
    use ndarray::array;
    use proptest::prelude::*;

    use super::*;

    /// The definition, word by word.
    fn brute_force(rows: &Array2<f32>, weights: &[f32], k: usize) -> Vec<usize> {
        let mut best = vec![0.0f32; rows.nrows()];
        let mut chosen: Vec<usize> = Vec::new();
        while chosen.len() < k.min(rows.ncols()) {
            let mut winner: Option<(usize, f32)> = None;
            for index in (0..rows.ncols()).filter(|index| !chosen.contains(index)) {
                let gain: f32 =
                    (0..rows.nrows()).map(|r| weights[r] * (rows[[r, index]] - best[r]).max(0.0)).sum();
                if winner.is_none_or(|(_, highest)| gain > highest) {
                    winner = Some((index, gain));
                }
            }
            let Some((index, _)) = winner else { break };
            (0..rows.nrows()).for_each(|r| best[r] = best[r].max(rows[[r, index]]));
            chosen.push(index);
        }
        chosen
    }

    #[test]
    fn by_hand() {
        // Candidate 2 covers most alone; after it, 0 adds 0.5 to the first row, 1 adds 0.4 to the second, 3
        // adds nothing.
        let rows = array![[0.9, 0.0, 0.4, 0.4], [0.0, 0.9, 0.5, 0.1], [0.0, 0.0, 0.3, 0.3]];
        assert_eq!(greedy_coverage(rows.view(), &[1.0; 3], 4), [2, 0, 1, 3]);
        // With the second row alone, its best candidate goes first; then nobody adds, and indices decide.
        assert_eq!(greedy_coverage(rows.view(), &[0.0, 1.0, 0.0], 4), [1, 0, 2, 3]);
        assert!(greedy_coverage(rows.view(), &[1.0; 3], 0).is_empty());
    }

    #[test]
    fn rows_are_softmaxes_that_add_up_to_their_weight() {
        let text = array![[1.0, 0.0], [0.0, 2.0]];
        let visual = array![[3.0, 0.0], [0.0, 1.0], [1.0, 1.0]];
        let features = array![[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]];
        let Rows { coverage, weights } = mmtok_rows(text.view(), visual.view(), features.view());
        assert_eq!(coverage.dim(), (5, 3));
        assert_eq!(weights, [1.0, 1.0, 0.5, 0.5, 0.5]);
        for (row, share) in coverage.rows().into_iter().zip([0.5, 0.5, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0]) {
            assert!((row.sum() - share).abs() < 1e-6);
        }
        // cos 0 against cos 45 degrees at 0.02: e^(-14.6).
        assert!((coverage[[0, 0]] - 0.5).abs() < 1e-6 && coverage[[0, 2]] < 1e-6);
        // The first and third patch are alike, the second is orthogonal: 1 / (2 + e^-5), at 0.2.
        let alike = 1.0 / (2.0 + (-5.0f32).exp()) / 3.0;
        assert!((coverage[[2, 0]] - alike).abs() < 1e-6 && (coverage[[2, 2]] - alike).abs() < 1e-6);
    }

    proptest! {
        #[test]
        fn it_equals_the_definition(
            values in prop::collection::vec(0_u8..6, 5 * 12),
            weights in prop::collection::vec(0_u8..4, 5),
            k in 0_usize..14,
        ) {
            // Few distinct values, so that ties are common; sums of them are exact.
            let rows = Array2::from_shape_vec((5, 12), values.iter().map(|&x| f32::from(x) / 4.0).collect());
            let rows = rows.map_err(|error| TestCaseError::fail(error.to_string()))?;
            let weights: Vec<f32> = weights.iter().map(|&x| f32::from(x)).collect();
            prop_assert_eq!(greedy_coverage(rows.view(), &weights, k), brute_force(&rows, &weights, k));
        }
    }
}
