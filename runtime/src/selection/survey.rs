//! One look at all rows of a picture: all that the selectors of our own need of them. The rows of a large
//! picture are more than a cache holds, so they are read once.

use super::matrix::{Matrix, dot, normalise};
use crate::tensor::{TensorError, try_with_capacity, try_zeroed};

/// Rows that are read together: at a decoder's width they fit a core's second cache.
const BLOCK: usize = 64;
/// Rows that make the mean, at most.
const MOST_IN_MEAN: usize = 1024;

/// What one look at a picture's rows finds.
pub(crate) struct Survey {
    /// Cosine of every row to the mean of the rows' directions.
    pub(crate) to_mean: Vec<f32>,
    /// Cosines of the rows to every token of the question: a row per visual row.
    pub(crate) to_question: Matrix,
    /// The centred rows in few dimensions, of length one: their products are near the rows' cosines.
    pub(crate) sketch: Matrix,
}

impl Survey {
    /// `numbers` are rows of a width; `question` has rows of length one. A sketch is at most `narrow` wide.
    ///
    /// # Errors
    /// [`TensorError`] when memory is short.
    pub(crate) fn of(numbers: &[f32], question: &Matrix, narrow: usize) -> Result<Self, TensorError> {
        let width = question.width();
        let count = numbers.len().checked_div(width).unwrap_or(0);
        let mean = mean_direction(numbers, width);
        let mean_length = dot(&mean, &mean).sqrt();
        // The mean is one more thing to look for.
        let mut sought: Vec<f32> = question.iter().flatten().copied().collect();
        sought.extend_from_slice(&mean);
        let sought = Matrix::new(sought, width);
        let (tokens, fold) = (question.rows(), Fold::new(width, narrow));

        let mut found = vec![0.0; BLOCK * sought.rows()];
        let mut to_mean = try_with_capacity(count)?;
        let mut to_question = try_with_capacity(count * tokens)?;
        let mut sketch = try_zeroed(count * fold.narrow)?;
        let mut sketches = sketch.chunks_exact_mut(fold.narrow.max(1));
        let mut shared = vec![0.0; fold.narrow];
        fold.of(&mean, 1.0, &mut shared);
        for block in numbers.chunks(BLOCK * width.max(1)) {
            let rows = block.len() / width;
            let found = &mut found[..rows * sought.rows()];
            sought.products_of(block, found);
            for (row, found) in block.chunks_exact(width).zip(found.chunks_exact(sought.rows())) {
                let scale = inverse(dot(row, row).sqrt());
                let Some(sketch) = sketches.next() else { break };
                if scale == 0.0 {
                    // What has no direction tells nothing: it stands out least, and answers no question.
                    to_mean.push(1.0);
                    to_question.extend((0..tokens).map(|_| 0.0));
                    continue;
                }
                let along = found[tokens] * scale;
                to_question.extend(found[..tokens].iter().map(|product| product * scale));
                to_mean.push(along * inverse(mean_length));
                fold.of(row, scale, sketch);
                sketch.iter_mut().zip(&shared).for_each(|(number, shared)| *number -= shared);
                normalise(sketch);
            }
        }
        let to_question = Matrix::new(to_question, tokens);
        Ok(Self { to_mean, to_question, sketch: Matrix::new(sketch, fold.narrow) })
    }
}

/// One over a length; 0 for what has no direction.
fn inverse(length: f32) -> f32 {
    if length.is_normal() { 1.0 / length } else { 0.0 }
}

/// The mean of the directions of rows that lie evenly spread.
fn mean_direction(numbers: &[f32], width: usize) -> Vec<f32> {
    let count = numbers.len().checked_div(width).unwrap_or(0);
    // Odd, so that it divides no picture's columns by itself.
    let (step, mut mean, mut met) = (count.div_ceil(MOST_IN_MEAN) | 1, vec![0.0; width], 0);
    for row in numbers.chunks_exact(width.max(1)).step_by(step) {
        let scale = inverse(dot(row, row).sqrt());
        if scale > 0.0 {
            mean.iter_mut().zip(row).for_each(|(sum, number)| *sum += number * scale);
        }
        met += 1;
    }
    mean.iter_mut().for_each(|sum| *sum /= met.max(1) as f32);
    mean
}

/// Folds a row to fewer numbers, with signs that look drawn at random: the products of two folded rows are,
/// on average over the signs, those of the rows (a count sketch, Charikar et al. 2002).
struct Fold {
    signs: Vec<f32>,
    narrow: usize,
}

impl Fold {
    fn new(width: usize, narrow: usize) -> Self {
        if width <= narrow {
            return Self { signs: Vec::new(), narrow: width };
        }
        let sign = |at: usize| if mixed(at as u64) & 1 == 0 { 1.0 } else { -1.0 };
        Self { signs: (0..width).map(sign).collect(), narrow }
    }

    fn of(&self, row: &[f32], scale: f32, into: &mut [f32]) {
        if self.signs.is_empty() {
            into.iter_mut().zip(row).for_each(|(into, number)| *into = number * scale);
            return;
        }
        for (row, signs) in row.chunks(self.narrow).zip(self.signs.chunks(self.narrow)) {
            into.iter_mut()
                .zip(row.iter().zip(signs))
                .for_each(|(sum, (number, sign))| *sum += number * sign);
        }
        into.iter_mut().for_each(|sum| *sum *= scale);
    }
}

/// The finaliser of SplitMix64: every bit of the outcome depends on every bit of the number.
pub(crate) fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
