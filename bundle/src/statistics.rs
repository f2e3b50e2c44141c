//! Statistics of an embedding matrix, and when they have drifted from their target.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Values below this count as zeros.
const ZERO: f32 = 1e-6;

/// How far the mean may lie from its target, in target standard deviations. A decoder's input norm forgives
/// scale more than an offset.
const MEAN_LIMIT: f32 = 0.25;
/// By what factor the standard deviation may differ, either way.
const STD_LIMIT: f32 = 1.5;
/// How far the share of zeros may lie from its target.
const SPARSITY_LIMIT: f32 = 0.1;

/// Mean, standard deviation and share of exact zeros of an embedding matrix.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Statistics {
    /// Mean over all elements.
    pub mean: f32,
    /// Population standard deviation over all elements.
    pub std: f32,
    /// Share of elements with |x| < 1e-6, 0..1.
    pub sparsity: f32,
}

/// Which statistic lies outside of what the decoder was trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Drift {
    /// The mean, by more than a quarter of the target's standard deviation.
    Mean,
    /// The standard deviation, by more than a factor of 1.5.
    Std,
    /// The share of zeros, by more than 0.1.
    Sparsity,
}

impl Statistics {
    /// Of all elements; zeros for none.
    pub fn of(values: &[f32]) -> Self {
        let count = values.len().max(1) as f64;
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
        let variance = values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count;
        let zeros = values.iter().filter(|x| x.abs() < ZERO).count() as f64;
        Self { mean: mean as f32, std: variance.sqrt() as f32, sparsity: (zeros / count) as f32 }
    }

    /// The first statistic that has left its target; NaN has.
    pub fn drift(&self, target: &Self) -> Option<Drift> {
        let near = |distance: f32, limit: f32| distance.abs() <= limit;
        if !near((self.mean - target.mean) / target.std, MEAN_LIMIT) {
            Some(Drift::Mean)
        } else if !near((self.std / target.std).ln(), STD_LIMIT.ln()) {
            Some(Drift::Std)
        } else if !near(self.sparsity - target.sparsity, SPARSITY_LIMIT) {
            Some(Drift::Sparsity)
        } else {
            None
        }
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mean => "mean",
            Self::Std => "standard deviation",
            Self::Sparsity => "share of zeros",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Statistics = Statistics { mean: 0.01, std: 0.02, sparsity: 0.0 };

    #[test]
    fn statistics_of_four_numbers() {
        let found = Statistics::of(&[0.0, 2.0, 4.0, 2.0]);
        assert_eq!(found, Statistics { mean: 2.0, std: 2.0f32.sqrt(), sparsity: 0.25 });
        assert_eq!(Statistics::of(&[]), Statistics { mean: 0.0, std: 0.0, sparsity: 0.0 });
    }

    #[test]
    fn each_statistic_drifts_alone() {
        assert_eq!(TARGET.drift(&TARGET), None);
        assert_eq!(Statistics { mean: 0.0149, ..TARGET }.drift(&TARGET), None);
        assert_eq!(Statistics { mean: 0.0151, ..TARGET }.drift(&TARGET), Some(Drift::Mean));
        assert_eq!(Statistics { std: 0.0299, ..TARGET }.drift(&TARGET), None);
        assert_eq!(Statistics { std: 0.06, ..TARGET }.drift(&TARGET), Some(Drift::Std));
        assert_eq!(Statistics { std: 0.0, ..TARGET }.drift(&TARGET), Some(Drift::Std));
        assert_eq!(Statistics { sparsity: 0.11, ..TARGET }.drift(&TARGET), Some(Drift::Sparsity));
        assert_eq!(Statistics { mean: f32::NAN, ..TARGET }.drift(&TARGET), Some(Drift::Mean));
    }
}
