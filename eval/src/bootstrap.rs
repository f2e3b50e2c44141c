//! How far a mean can be trusted: percentile bootstrap (Efron 1979) over images.
//!
//! Questions about one image fail or succeed together, so images are drawn, each with all its questions.
//! Where every image has one question, that is the ordinary bootstrap over questions.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};

/// Resamples per interval.
pub const RESAMPLES: usize = 2000;

/// Share of resamples within the interval.
const CONFIDENCE: f64 = 0.95;

/// A mean and its 95% interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Mean over all values.
    pub mean: f64,
    /// 2.5th percentile of the resampled means.
    pub low: f64,
    /// 97.5th percentile.
    pub high: f64,
}

/// The mean of values that belong to clusters (images), with its interval; `None` of no values. The same
/// values in the same clusters and the same seed give the same interval, in whatever order they come.
pub fn interval(values: impl IntoIterator<Item = (usize, f64)>, seed: u64) -> Option<Interval> {
    let mut clusters: BTreeMap<usize, Cluster> = BTreeMap::new();
    for (cluster, value) in values {
        let cluster = clusters.entry(cluster).or_default();
        cluster.sum += value;
        cluster.count += 1.0;
    }
    let clusters: Vec<Cluster> = clusters.into_values().collect();
    if clusters.is_empty() {
        return None;
    }
    let mean = Cluster::total(clusters.iter()).mean();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // Lemire's multiplication instead of a remainder; written out, so that intervals do not change with a
    // library.
    let mut draw = || &clusters[((u64::from(rng.next_u32()) * clusters.len() as u64) >> 32) as usize];
    let mut means: Vec<f64> =
        (0..RESAMPLES).map(|_| Cluster::total((0..clusters.len()).map(|_| draw())).mean()).collect();
    means.sort_by(f64::total_cmp);
    let tail = (1.0 - CONFIDENCE) / 2.0;
    Some(Interval { mean, low: quantile(&means, tail), high: quantile(&means, 1.0 - tail) })
}

/// The values of one image.
#[derive(Debug, Clone, Copy, Default)]
struct Cluster {
    sum: f64,
    count: f64,
}

impl Cluster {
    fn total<'a>(clusters: impl Iterator<Item = &'a Self>) -> Self {
        clusters.fold(Self::default(), |total, cluster| Self {
            sum: total.sum + cluster.sum,
            count: total.count + cluster.count,
        })
    }

    fn mean(self) -> f64 {
        self.sum / self.count
    }
}

/// Linear between neighbours, as numpy's default.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let (below, share) = (at.floor() as usize, at.fract());
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + share * (sorted[above] - sorted[below])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_linear_between_neighbours() {
        let sorted = [0.0, 1.0, 2.0, 10.0];
        assert_eq!(quantile(&sorted, 0.0), 0.0);
        assert_eq!(quantile(&sorted, 0.5), 1.5);
        assert_eq!(quantile(&sorted, 1.0), 10.0);
        assert!((quantile(&sorted, 0.9) - 7.6).abs() < 1e-12);
    }

    #[test]
    fn a_coins_interval_is_the_binomials() {
        // 400 throws, half of them heads: the standard error is 0.025.
        let found = interval((0..400).map(|at| (at, (at % 2) as f64)), 7).unwrap();
        assert_eq!(found.mean, 0.5);
        let (low, high) = (0.5 - 1.96 * 0.025, 0.5 + 1.96 * 0.025);
        assert!((found.low - low).abs() < 0.006 && (found.high - high).abs() < 0.006, "{found:?}");
    }

    #[test]
    fn a_normal_means_interval() {
        // Deviations of evenly spaced values: sqrt((n^2 - 1) / 12) of 1..n.
        let n = 1000;
        let found = interval((0..n).map(|at| (at, at as f64)), 1).unwrap();
        let error = ((n * n - 1) as f64 / 12.0 / n as f64).sqrt();
        let expected = (n - 1) as f64 / 2.0;
        assert_eq!(found.mean, expected);
        assert!(((found.high - found.low) / 2.0 / (1.96 * error) - 1.0).abs() < 0.05, "{found:?}");
    }

    #[test]
    fn questions_about_one_image_count_as_one() {
        // Ten questions each about 40 images that are known or not: as wide as 40 values, not 400.
        let together = interval((0..400).map(|at| (at / 10, (at / 10 % 2) as f64)), 7).unwrap();
        let few = interval((0..40).map(|at| (at, (at % 2) as f64)), 7).unwrap();
        assert_eq!(together, few);
        let apart = interval((0..400).map(|at| (at, (at / 10 % 2) as f64)), 7).unwrap();
        assert!(together.high - together.low > 2.5 * (apart.high - apart.low));
    }

    #[test]
    fn seeds_decide_and_order_does_not() {
        let values: Vec<(usize, f64)> = (0..50).map(|at| (at, (at * 7 % 13) as f64)).collect();
        let reversed = values.iter().rev().copied();
        assert_eq!(interval(values.clone(), 1), interval(reversed, 1));
        assert_ne!(interval(values.clone(), 1), interval(values, 2));
        assert_eq!(interval([], 1), None);
        let one = interval([(3, 0.25)], 1).unwrap();
        assert_eq!((one.mean, one.low, one.high), (0.25, 0.25, 0.25));
    }
}
