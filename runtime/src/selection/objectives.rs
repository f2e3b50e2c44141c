//! What the selectors maximise.

use super::greedy::Objective;
use super::matrix::{Matrix, dot, folded};
use crate::tensor::TensorError;

/// Every candidate has a worth of its own, whoever else is taken.
pub(crate) struct Worth<'a>(pub(crate) &'a [f32]);

impl Objective for Worth<'_> {
    fn gain(&self, candidate: usize) -> f32 {
        self.0[candidate]
    }

    fn take(&mut self, _: usize) {}
}

/// How well those that were taken cover a number of targets: the sum, over the targets, of the best cover
/// that one of them gives; on top of that, a worth of each candidate.
pub(crate) struct Coverage {
    /// How well each candidate covers each target, the target's weight in it: a row per candidate.
    covers: Matrix,
    /// The best cover of each target so far.
    covered: Vec<f32>,
    /// What the gain of each candidate is multiplied by; empty for 1.
    factors: Vec<f32>,
    /// What is added to the gain of each candidate; empty for 0.
    worth: Vec<f32>,
}

impl Coverage {
    /// `covers` has a row per candidate, a column per target.
    pub(crate) fn new(covers: Matrix) -> Self {
        let covered = vec![0.0; covers.width()];
        Self { covers, covered, factors: Vec::new(), worth: Vec::new() }
    }

    /// The same where the gain of each candidate counts so many times.
    pub(crate) fn times(self, factors: Vec<f32>) -> Self {
        Self { factors, ..self }
    }

    /// The same where each candidate has a worth of its own.
    pub(crate) fn plus(self, worth: Vec<f32>) -> Self {
        Self { worth, ..self }
    }
}

impl Objective for Coverage {
    fn gain(&self, candidate: usize) -> f32 {
        let gain =
            folded(self.covers.row(candidate), &self.covered, |cover, covered| (cover - covered).max(0.0));
        let factor = self.factors.get(candidate).copied().unwrap_or(1.0);
        gain * factor + self.worth.get(candidate).copied().unwrap_or(0.0)
    }

    fn take(&mut self, candidate: usize) {
        for (covered, cover) in self.covered.iter_mut().zip(self.covers.row(candidate)) {
            *covered = covered.max(*cover);
        }
    }
}

/// A determinantal point process: the logarithm of the determinant of the kernel `r_i S_ij r_j` over those
/// that were taken, `S` the rows' cosines. Fast greedy MAP inference of Chen et al. 2018
/// (<https://arxiv.org/abs/1709.05135>): the gain of a candidate is what of it the others do not span.
pub(crate) struct Determinant<'a> {
    /// Rows of length one.
    rows: &'a Matrix,
    relevance: &'a [f32],
    /// Squared length of what the taken ones do not span, per candidate.
    left: Vec<f32>,
    /// Coordinates of every candidate along each that was taken.
    along: Vec<Vec<f32>>,
}

impl<'a> Determinant<'a> {
    pub(crate) fn new(rows: &'a Matrix, relevance: &'a [f32]) -> Self {
        let length = |(row, relevance): (&[f32], &f32)| dot(row, row) * relevance * relevance;
        let left = rows.iter().zip(relevance).map(length).collect();
        Self { rows, relevance, left, along: Vec::new() }
    }
}

impl Objective for Determinant<'_> {
    fn gain(&self, candidate: usize) -> f32 {
        self.left[candidate]
    }

    fn take(&mut self, taken: usize) {
        let length = self.left[taken].max(0.0).sqrt();
        if length == 0.0 {
            return;
        }
        let (row, relevance) = (self.rows.row(taken), self.relevance[taken]);
        let mut along = Vec::with_capacity(self.left.len());
        for (candidate, other) in self.rows.iter().enumerate() {
            let kernel = dot(row, other) * relevance * self.relevance[candidate];
            let spanned: f32 = self.along.iter().map(|along| along[taken] * along[candidate]).sum();
            along.push((kernel - spanned) / length);
        }
        for (left, along) in self.left.iter_mut().zip(&along) {
            *left -= along * along;
        }
        self.along.push(along);
    }
}

/// The least distance of a candidate to those that were taken.
pub(crate) struct LeastDistance<'a> {
    /// Rows of length one.
    rows: &'a Matrix,
    /// Least distance so far, per candidate.
    least: Vec<f32>,
}

impl<'a> LeastDistance<'a> {
    /// And the candidate that is furthest from its nearest neighbour: it begins.
    ///
    /// # Errors
    /// [`TensorError`] when memory is short.
    pub(crate) fn new(rows: &'a Matrix) -> Result<(Self, Option<usize>), TensorError> {
        let count = rows.rows();
        let products = rows.products(rows)?;
        let nearest = |(row, products): (usize, &[f32])| {
            let others = products.iter().enumerate().filter(|(other, _)| *other != row);
            others.map(|(_, product)| 1.0 - product).fold(f32::INFINITY, f32::min)
        };
        let nearest: Vec<f32> = products.iter().enumerate().map(nearest).collect();
        let first = (0..count).reduce(|best, row| if nearest[row] > nearest[best] { row } else { best });
        Ok((Self { rows, least: vec![f32::INFINITY; count] }, first))
    }
}

impl Objective for LeastDistance<'_> {
    fn gain(&self, candidate: usize) -> f32 {
        self.least[candidate]
    }

    fn take(&mut self, taken: usize) {
        let row = self.rows.row(taken);
        for (least, other) in self.least.iter_mut().zip(self.rows.iter()) {
            *least = least.min(1.0 - dot(row, other));
        }
    }
}
