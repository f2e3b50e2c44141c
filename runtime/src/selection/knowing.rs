//! Three ways of knowing what a visual token is worth: how much there is to read in its place, how far it
//! stands out, how near it is to the question.

use super::evidence::Evidence;
use super::matrix::{Matrix, dot};
use super::survey::Survey;
use crate::generate::Place;

/// Temperature of the softmax from cosines to the question's attention, as MMTok has it.
pub(crate) const QUESTION_TEMPERATURE: f32 = 0.02;

/// What is known of every visual token of a picture.
pub(crate) struct Knowing {
    /// Of each token: propositional, perspectival, participatory, each 0..=1.
    pub(crate) scores: Vec<[f32; 3]>,
    /// How each token of the question spreads its attention over the picture; each column sums to 1, a row
    /// per visual token.
    pub(crate) attention: Matrix,
    /// The mean of `attention` over the question, where tokens count the less the wider they spread it: words
    /// that every question has point nowhere.
    pub(crate) coupling: Vec<f32>,
}

impl Knowing {
    /// What a survey, the places and the pixels say.
    pub(crate) fn of(survey: &Survey, places: &[Place], evidence: Option<&Evidence>) -> Self {
        let attention = softmax_columns(survey.to_question.clone(), QUESTION_TEMPERATURE);
        let coupling = mixed(&attention);
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

/// The mean of the columns, each weighed by one over the number of rows that it lies on; it sums to 1.
fn mixed(attention: &Matrix) -> Vec<f32> {
    let mut entropies = vec![0.0f32; attention.width()];
    for row in attention.iter() {
        let terms = row.iter().map(|share| if *share > 0.0 { -share * share.ln() } else { 0.0 });
        entropies.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
    }
    let weights: Vec<f32> = entropies.iter().map(|entropy| (-entropy).exp()).collect();
    let sum: f32 = weights.iter().sum();
    attention.iter().map(|row| dot(row, &weights) / sum).collect()
}

/// Softmax down the columns.
pub(crate) fn softmax_columns(mut cosines: Matrix, temperature: f32) -> Matrix {
    let width = cosines.width();
    let (mut largest, mut sums) = (vec![f32::NEG_INFINITY; width], vec![0.0f32; width]);
    for row in cosines.iter() {
        largest.iter_mut().zip(row).for_each(|(largest, cosine)| *largest = largest.max(*cosine));
    }
    for row in cosines.iter_mut() {
        for ((cosine, largest), sum) in row.iter_mut().zip(&largest).zip(&mut sums) {
            *cosine = ((*cosine - largest) / temperature).exp();
            *sum += *cosine;
        }
    }
    for row in cosines.iter_mut() {
        row.iter_mut().zip(&sums).for_each(|(share, sum)| *share /= sum);
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
