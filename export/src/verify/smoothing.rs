//! Factors that were moved from norms into the weights behind them, found again.
//!
//! A calibrated int8 bundle has norms divided by factors and weights multiplied with the same
//! (`passes/smooth.rs`). Nothing in the bundle says which. But 1-dimensional weights that differ from the
//! checkpoint's name the factors, one per channel, and a matrix is held against the checkpoint's times one of
//! them. In the end each changed norm must have met a matrix: else it is a fault.

use super::fidelity::Tally;

/// What the factors of two neighbouring roundings in 32 bits may be off by.
const ROUNDED: f32 = 1e-6;

/// A 1-dimensional weight that differs from the checkpoint's.
#[derive(Debug)]
pub(super) struct Changed {
    pub(super) name: String,
    reference: Vec<f32>,
    found: Vec<f32>,
    /// `reference / found`; 1 where the found one is zero.
    pub(super) factors: Vec<f32>,
}

impl Changed {
    /// `None` where nothing differs.
    pub(super) fn new(name: &str, reference: Vec<f32>, found: Vec<f32>) -> Option<Self> {
        if reference == found || reference.len() != found.len() {
            return None;
        }
        let factor = |(x, y): (&f32, &f32)| if *y == 0.0 { 1.0 } else { x / y };
        let factors = reference.iter().zip(&found).map(factor).collect();
        Some(Self { name: name.to_owned(), reference, found, factors })
    }

    /// Whether it is what `factors` leave of the checkpoint's.
    pub(super) fn is_divided_by(&self, factors: &[f32]) -> bool {
        let near = |((x, y), factor): ((&f32, &f32), &f32)| (y * factor - x).abs() <= ROUNDED * x.abs();
        factors.len() == self.found.len() && self.reference.iter().zip(&self.found).zip(factors).all(near)
    }

    /// What differs, where no factors explain it.
    pub(super) fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        tally.full(&self.reference, &self.found);
        tally
    }
}

/// A row of weights, times factors.
pub(super) fn multiplied(row: &[f32], factors: Option<&[f32]>) -> Vec<f32> {
    match factors {
        Some(factors) => row.iter().zip(factors).map(|(x, factor)| x * factor).collect(),
        None => row.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_norm_and_its_bias_have_the_same_factors() {
        let (scale, bias, factors) = ([1.5f32, -0.3, 0.9], [0.1f32, 0.0, -7.0], [3.0f32, 0.7, 1.1]);
        let divided = |x: &[f32]| x.iter().zip(factors).map(|(x, by)| x * by.recip()).collect();
        let scale = Changed::new("scale", scale.to_vec(), divided(&scale)).unwrap();
        let bias = Changed::new("bias", bias.to_vec(), divided(&bias)).unwrap();
        assert!(scale.is_divided_by(&scale.factors) && bias.is_divided_by(&scale.factors));
        let other = Changed::new("bias", vec![0.1, 0.0, -7.0], vec![0.1 / 3.0, 0.0, -7.0]).unwrap();
        assert!(!other.is_divided_by(&scale.factors));
        assert_eq!((other.tally().strayed, other.tally().first), (1, Some(0)));
        assert!(Changed::new("same", vec![1.0], vec![1.0]).is_none());
    }
}
