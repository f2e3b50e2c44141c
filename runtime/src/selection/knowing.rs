//! Three ways of knowing what a visual token is worth: how much there is to read in its place, how far it
//! stands out, how near it is to the question.

use super::evidence::Evidence;
use super::matrix::Matrix;
use super::survey::Survey;
use crate::generate::Place;

/// What is known of every visual token of a picture.
pub(crate) struct Knowing {
    /// Of each token: propositional, perspectival, participatory, each 0..=1.
    pub(crate) scores: Vec<[f32; 3]>,
    /// How much of the question's attention each of its tokens spends on each visual token; all of it sums to
    /// 1, a row per visual token.
    pub(crate) attention: Matrix,
    /// How much of the question's attention each visual token gets; it sums to 1.
    pub(crate) coupling: Vec<f32>,
}

impl Knowing {
    /// What a survey, the places and the pixels say.
    pub(crate) fn of(survey: &Survey, places: &[Place], evidence: Option<&Evidence>) -> Self {
        let attention = attention(survey.to_question.clone());
        let coupling: Vec<f32> = attention.iter().map(|row| row.iter().sum()).collect();
        let salience = spread(survey.to_mean.iter().map(|cosine| 1.0 - cosine).collect());
        let participatory = spread(coupling.clone());
        let information = |at: usize| match (evidence, places.get(at)) {
            (Some(evidence), Some(place)) => evidence.information(place.rect),
            _ => 0.0,
        };
        let scores =
            (0..salience.len()).map(|at| [information(at), salience[at], participatory[at]]).collect();
        Self { scores, attention, coupling }
    }

    /// The weighted mean of the scores, 0..=1, and the weights, which sum to 1.
    pub(crate) fn relevance(&self, weights: [f32; 3]) -> (Vec<f32>, [f32; 3]) {
        let sum: f32 = weights.iter().sum();
        let weights = if sum > 0.0 { weights.map(|weight| weight / sum) } else { [1.0 / 3.0; 3] };
        let mean = |scores: &[f32; 3]| scores.iter().zip(weights).map(|(score, weight)| score * weight).sum();
        (self.scores.iter().map(mean).collect(), weights)
    }
}

/// The question's attention, from cosines: their squares, where they are above 0. Words that every question
/// has are like nothing in the picture, and so count little beside those that it shows.
fn attention(mut cosines: Matrix) -> Matrix {
    let square = |cosine: &f32| cosine.max(0.0).powi(2);
    let sum: f32 = cosines.iter().flatten().map(square).sum();
    // Like nothing at all: all are as near.
    let (even, scale) = if sum > 0.0 { (0.0, 1.0 / sum) } else { (1.0, 1.0) };
    let even = even / (cosines.rows() * cosines.width()).max(1) as f32;
    for row in cosines.iter_mut() {
        row.iter_mut().for_each(|cosine| *cosine = square(cosine) * scale + even);
    }
    cosines
}

/// Brings numbers to 0..=1, the least to 0 and the largest to 1; all to 0 where they are equal.
pub(crate) fn spread(mut numbers: Vec<f32>) -> Vec<f32> {
    let least = numbers.iter().copied().fold(f32::INFINITY, f32::min);
    let range = numbers.iter().copied().fold(f32::NEG_INFINITY, f32::max) - least;
    for number in &mut numbers {
        *number = if range > 0.0 { (*number - least) / range } else { 0.0 };
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_the_picture_does_not_show_count_little() {
        // Three tokens of a question: one is shown by the first rows, two are like nothing.
        let cosines =
            Matrix::new(vec![0.4, -0.1, 0.02, 0.3, 0.05, -0.2, -0.1, 0.05, 0.04, 0.0, 0.04, 0.05], 3);
        let attention = attention(cosines);
        let of = |column: usize| attention.iter().map(|row| row[column]).sum::<f32>();
        assert!((of(0) + of(1) + of(2) - 1.0).abs() < 1e-6);
        assert!(of(0) > 0.9 && attention.row(0)[0] > attention.row(1)[0], "{attention:?}");
        assert_eq!((attention.row(2)[0], attention.row(1)[2]), (0.0, 0.0), "what is unlike is not near");
    }

    #[test]
    fn a_question_like_nothing_is_as_near_to_all() {
        let attention = attention(Matrix::new(vec![-0.4, 0.0, -0.1, 0.0], 2));
        assert!(attention.iter().flatten().all(|share| *share == 0.25), "{attention:?}");
    }
}
