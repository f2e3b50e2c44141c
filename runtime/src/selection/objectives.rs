//! What the selectors maximise.

use super::greedy::Objective;
use super::matrix::{Matrix, dot, folded};
use crate::tensor::{TensorError, try_zeroed};

/// Every candidate has a worth of its own, whoever else is taken (a modular function).
pub(crate) struct Worth<'a>(pub(crate) &'a [f32]);

impl Objective for Worth<'_> {
    fn gain(&self, candidate: usize) -> f32 {
        self.0[candidate]
    }

    fn take(&mut self, _: usize) {}
}

/// How well those that were taken cover a number of targets: the sum, over the targets, of the best cover
/// that one of them gives (facility location); on top of that, a worth of each candidate.
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
    /// What is less is rounding.
    least: f32,
    /// Coordinates along those that were taken, a row of `count` per candidate.
    along: Vec<f32>,
    count: usize,
    taken: usize,
}

impl<'a> Determinant<'a> {
    /// For taking at most `count`.
    ///
    /// # Errors
    /// [`TensorError`] when memory is short.
    pub(crate) fn new(rows: &'a Matrix, relevance: &'a [f32], count: usize) -> Result<Self, TensorError> {
        let length = |(row, relevance): (&[f32], &f32)| dot(row, row) * relevance * relevance;
        let left: Vec<f32> = rows.iter().zip(relevance).map(length).collect();
        let least = left.iter().copied().fold(0.0, f32::max) * ROUNDING;
        let along = try_zeroed(rows.rows() * count)?;
        Ok(Self { rows, relevance, left, least, along, count, taken: 0 })
    }
}

/// Of the largest squared length, what arithmetic in 32 bits leaves of nothing.
const ROUNDING: f32 = 1e-6;

impl Objective for Determinant<'_> {
    fn gain(&self, candidate: usize) -> f32 {
        let left = self.left[candidate];
        if left > self.least { left } else { 0.0 }
    }

    fn take(&mut self, taken: usize) {
        let (length, at) = (self.gain(taken).sqrt(), self.taken);
        if length == 0.0 || at == self.count {
            return;
        }
        let (row, relevance) = (self.rows.row(taken), self.relevance[taken]);
        let own: Vec<f32> = self.along[taken * self.count..][..at].to_vec();
        for (candidate, other) in self.rows.iter().enumerate() {
            let along = &mut self.along[candidate * self.count..][..=at];
            let kernel = dot(row, other) * relevance * self.relevance[candidate];
            let coordinate = (kernel - dot(&own, &along[..at])) / length;
            along[at] = coordinate;
            self.left[candidate] -= coordinate * coordinate;
        }
        self.taken += 1;
    }
}

/// The least distance of a candidate to those that were taken (max-min dispersion).
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
