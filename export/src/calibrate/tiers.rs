//! What visual tokens look like per tier, over many questions.

use std::collections::BTreeMap;

use arrcoc_bundle::Statistics;

use super::TierStatistics;

/// Sums over questions, by budget.
#[derive(Debug, Default)]
pub(super) struct Tiers(BTreeMap<usize, Sums>);

#[derive(Debug, Default)]
struct Sums {
    questions: f64,
    mean: f64,
    /// Of squares: variances of questions with different means cannot be averaged.
    square: f64,
    sparsity: f64,
}

impl Tiers {
    pub(super) fn add(&mut self, tokens: usize, of: Statistics) {
        let Statistics { mean, std, sparsity } = of;
        let (mean, std) = (f64::from(mean), f64::from(std));
        let sums = self.0.entry(tokens).or_default();
        sums.questions += 1.0;
        sums.mean += mean;
        sums.square += std * std + mean * mean;
        sums.sparsity += f64::from(sparsity);
    }

    pub(super) fn statistics(&self) -> Vec<TierStatistics> {
        let tier = |(&tokens, sums): (&usize, &Sums)| {
            let mean = sums.mean / sums.questions;
            let variance = (sums.square / sums.questions - mean * mean).max(0.0);
            let sparsity = (sums.sparsity / sums.questions) as f32;
            let statistics = Statistics { mean: mean as f32, std: variance.sqrt() as f32, sparsity };
            TierStatistics { tokens, statistics }
        };
        self.0.iter().map(tier).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_of_equal_length_are_as_good_as_one() {
        let (a, b) = ([0.0, 1.0, 5.0, 2.0], [3.0, -4.0, 0.0, 0.0]);
        let mut tiers = Tiers::default();
        tiers.add(64, Statistics::of(&a));
        tiers.add(64, Statistics::of(&b));
        let all = Statistics::of(&[a, b].concat());
        let found = tiers.statistics()[0].statistics;
        assert!((found.mean - all.mean).abs() < 1e-6 && (found.std - all.std).abs() < 1e-5, "{found:?}");
        assert_eq!(found.sparsity, all.sparsity);
    }
}
