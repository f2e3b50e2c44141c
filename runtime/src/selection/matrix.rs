//! Rows of numbers of one length, and products of them.

use crate::tensor::{TensorError, try_with_capacity, try_zeroed};
use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2};

/// Rows, one behind the other.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Matrix {
    numbers: Vec<f32>,
    width: usize,
}

impl Matrix {
    /// `numbers` are whole rows; a width of 0 has none.
    pub(crate) fn new(numbers: Vec<f32>, width: usize) -> Self {
        debug_assert!(width == 0 || numbers.len().is_multiple_of(width), "rows are whole");
        Self { numbers, width }
    }

    /// A copy of rows of a width.
    ///
    /// # Errors
    /// [`TensorError`] when memory is short.
    pub(crate) fn copied(numbers: &[f32], width: usize) -> Result<Self, TensorError> {
        let mut copy = try_with_capacity(numbers.len())?;
        copy.extend_from_slice(numbers);
        Ok(Self::new(copy, width))
    }

    pub(crate) fn width(&self) -> usize {
        self.width
    }

    pub(crate) fn rows(&self) -> usize {
        self.numbers.len().checked_div(self.width).unwrap_or(0)
    }

    pub(crate) fn row(&self, row: usize) -> &[f32] {
        &self.numbers[row * self.width..(row + 1) * self.width]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.numbers.chunks_exact(self.width.max(1))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut [f32]> {
        self.numbers.chunks_exact_mut(self.width.max(1))
    }

    /// Every row of length one; zeros and what is not finite become zeros.
    pub(crate) fn normalised(mut self) -> Self {
        self.iter_mut().for_each(normalise);
        self
    }

    /// Products of every row with every row of the other: as many rows as `self` has, as wide as the other
    /// has rows.
    ///
    /// # Errors
    /// [`TensorError`] when memory is short.
    pub(crate) fn products(&self, other: &Self) -> Result<Self, TensorError> {
        let mut numbers = try_zeroed(self.rows() * other.rows())?;
        other.products_of(&self.numbers, &mut numbers);
        Ok(Self::new(numbers, other.rows()))
    }

    /// Products of rows of the same width with every row.
    pub(crate) fn products_of(&self, rows: &[f32], into: &mut [f32]) {
        if into.is_empty() {
            return;
        }
        let (count, width) = (rows.len() / self.width, self.width);
        // Shapes are those of the slices: nothing here comes from a user.
        let (Ok(left), Ok(right), Ok(mut into)) = (
            ArrayView2::from_shape((count, width), rows),
            ArrayView2::from_shape((self.rows(), width), &self.numbers),
            ArrayViewMut2::from_shape((count, self.rows()), into),
        ) else {
            unreachable!("products have the shapes of their factors")
        };
        general_mat_mul(1.0, &left, &right.t(), 0.0, &mut into);
    }
}

/// Brings a row to length one; zeros and what is not finite become zeros.
pub(crate) fn normalise(row: &mut [f32]) {
    let length = dot(row, row).sqrt();
    let scale = if length.is_normal() { 1.0 / length } else { 0.0 };
    for number in row.iter_mut() {
        *number = if scale > 0.0 { *number * scale } else { 0.0 };
    }
}

/// Sums in as many lanes as registers have, so that the compiler may keep them there.
const LANES: usize = 16;

/// The product of two rows.
pub(crate) fn dot(one: &[f32], other: &[f32]) -> f32 {
    folded(one, other, |one, other| one * other)
}

/// The sum of a function of two rows' numbers.
pub(crate) fn folded(one: &[f32], other: &[f32], of: impl Fn(f32, f32) -> f32) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (ones, others) = (one.chunks_exact(LANES), other.chunks_exact(LANES));
    let rest: f32 =
        ones.remainder().iter().zip(others.remainder()).map(|(one, other)| of(*one, *other)).sum();
    for (one, other) in ones.zip(others) {
        for lane in 0..LANES {
            sums[lane] += of(one[lane], other[lane]);
        }
    }
    sums.iter().sum::<f32>() + rest
}
