//! Magnitudes of a tensor, counted as they pass, and the ranges that are read off them.

use serde::{Deserialize, Serialize};

/// Bins of a histogram: what TensorRT's and Model Optimizer's calibrators take.
const BINS: usize = 2048;

/// Magnitudes that an 8-bit number distinguishes, zero among them.
const LEVELS: usize = 128;

/// How the largest magnitude worth representing is chosen; what is larger saturates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RangeMethod {
    /// The largest that was seen.
    Absmax,
    /// The one that loses least information, by Kullback-Leibler divergence (S. Migacz, "8-bit Inference with
    /// TensorRT", GTC 2017).
    Entropy,
    /// The one that all but one in ten thousand stay below.
    Percentile,
}

/// How many elements have which magnitude. Bins are as wide as a power of two, so that the same elements in
/// another order make the same histogram.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histogram {
    /// Width of a bin; 0 while nothing but zeros were seen.
    width: f32,
    counts: Vec<u64>,
    /// The largest magnitude, exactly.
    largest: f32,
}

impl Histogram {
    /// Puts a stored histogram together again; `None` when it is none.
    pub(super) fn from_parts(width: f32, mut counts: Vec<u64>, largest: f32) -> Option<Self> {
        let sane = largest.is_finite() && width.is_finite() && largest >= 0.0 && width >= 0.0;
        let fits = counts.len() <= BINS && largest <= width * BINS as f32;
        counts.resize(BINS, 0);
        (sane && fits).then_some(Self { width, counts, largest })
    }

    /// Width of a bin.
    pub fn width(&self) -> f32 {
        self.width
    }

    /// Elements per bin, the smallest magnitudes first; bins beyond the last one that holds anything are left
    /// out.
    pub fn counts(&self) -> &[u64] {
        let end = self.counts.iter().rposition(|&count| count > 0).map_or(0, |last| last + 1);
        &self.counts[..end]
    }

    /// The largest magnitude seen.
    pub fn largest(&self) -> f32 {
        self.largest
    }

    /// Counts more elements, all of them finite.
    pub(super) fn add(&mut self, values: &[f32]) {
        let largest = values.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        self.cover(largest);
        self.counts.resize(BINS, 0);
        // A width of zero means that all elements so far are zero.
        let per_width = if self.width > 0.0 { self.width.recip() } else { 0.0 };
        for x in values {
            let bin = (x.abs() * per_width) as usize;
            self.counts[bin.min(BINS - 1)] += 1;
        }
    }

    /// Makes the bins wide enough.
    fn cover(&mut self, largest: f32) {
        self.largest = self.largest.max(largest);
        if largest > 0.0 && self.width == 0.0 {
            self.width = (largest / BINS as f32).max(f32::MIN_POSITIVE).log2().ceil().exp2();
        }
        while largest >= self.width * BINS as f32 && largest > 0.0 {
            self.width *= 2.0;
            let pairs = self.counts.chunks(2).map(|pair| pair.iter().sum()).collect();
            self.counts = pairs;
            self.counts.resize(BINS, 0);
        }
    }

    /// The largest magnitude worth representing.
    pub fn range(&self, method: RangeMethod) -> f32 {
        match method {
            RangeMethod::Absmax => self.largest,
            RangeMethod::Percentile => self.upper_edge(self.percentile_bin(0.9999)),
            RangeMethod::Entropy => self.upper_edge(self.entropy_bin()),
        }
    }

    fn upper_edge(&self, bin: usize) -> f32 {
        (self.width * (bin + 1) as f32).min(self.largest)
    }

    /// The first bin below whose upper edge that share of the elements lies.
    fn percentile_bin(&self, share: f64) -> usize {
        let total: u64 = self.counts.iter().sum();
        let wanted = (share * total as f64).ceil() as u64;
        let mut seen = 0;
        let reached = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        reached.unwrap_or(0)
    }

    /// The last bin that is kept when the divergence of what is kept from what there was is the smallest.
    fn entropy_bin(&self) -> usize {
        let used = self.counts().len();
        let candidates = (LEVELS..=used).step_by(16).chain((used > LEVELS).then_some(used));
        let best = candidates
            .map(|kept| (divergence(&self.counts, kept), kept))
            .min_by(|(a, _), (b, _)| a.total_cmp(b));
        best.map_or(used, |(_, kept)| kept).saturating_sub(1)
    }
}

/// Kullback-Leibler divergence, in nats, of the first `kept` bins (the rest saturated into the last of them)
/// from the same in [`LEVELS`] steps.
fn divergence(counts: &[u64], kept: usize) -> f64 {
    let saturated: u64 = counts[kept..].iter().sum();
    let last = kept - 1;
    let reference = |bin: usize| counts[bin] + if bin == last { saturated } else { 0 };
    let total: u64 = counts.iter().sum();
    let inside: u64 = counts[..kept].iter().sum();
    let mut sum = 0.0;
    for level in 0..LEVELS {
        let (start, end) = (level * kept / LEVELS, (level + 1) * kept / LEVELS);
        let filled = (start..end).filter(|&bin| counts[bin] > 0).count();
        let level_total: u64 = counts[start..end].iter().sum();
        for bin in (start..end).filter(|&bin| reference(bin) > 0) {
            let p = reference(bin) as f64 / total as f64;
            // What one level holds is spread evenly over those of its bins that hold anything. The last bin
            // may hold saturated elements only: nothing of the other side stands there, and it is told as one
            // element.
            let spread = level_total as f64 / filled.max(1) as f64;
            let q = spread.max(1.0) / inside.max(1) as f64;
            sum += p * (p / q).ln();
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(values: &[f32]) -> Histogram {
        let mut histogram = Histogram::default();
        histogram.add(values);
        histogram
    }

    /// Sums of twelve uniform numbers: nearly normal, the same every time.
    fn bell(count: usize) -> Vec<f32> {
        let mut state = 1u32;
        let mut uniform = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32
        };
        (0..count).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
    }

    #[test]
    fn order_does_not_matter() {
        let values = bell(5000);
        let (small, large) = values.split_at(100);
        let mut other = histogram(large);
        other.add(small);
        let mut piecewise = histogram(&[]);
        values.chunks(7).for_each(|chunk| piecewise.add(chunk));
        assert_eq!(histogram(&values), other);
        assert_eq!(histogram(&values), piecewise);
        // The border between two widths.
        let mut grown = histogram(&[1.0]);
        grown.add(&[1.5]);
        assert_eq!(grown, histogram(&[1.5, 1.0]));
        assert_eq!(other.counts().iter().sum::<u64>(), 5000);
    }

    #[test]
    fn growing_by_a_thousand_loses_nothing() {
        let mut grown = histogram(&[0.001, 0.0005]);
        grown.add(&[1.0, -3.0]);
        assert_eq!((grown.largest(), grown.counts().iter().sum::<u64>()), (3.0, 4));
        assert_eq!(grown.range(RangeMethod::Absmax), 3.0);
    }

    #[test]
    fn a_single_outlier_is_saturated_by_all_but_absmax() {
        let mut values = bell(100_000);
        let plain = histogram(&values).range(RangeMethod::Absmax);
        values[50] = 60.0;
        let outlier = histogram(&values);
        assert_eq!(outlier.range(RangeMethod::Absmax), 60.0);
        for method in [RangeMethod::Percentile, RangeMethod::Entropy] {
            let range = outlier.range(method);
            assert!(range > 0.5 * plain && range < 1.5 * plain, "{method:?}: {range} of {plain}");
        }
    }

    #[test]
    fn zeros_and_nothing_have_the_range_zero() {
        for values in [&[][..], &[0.0; 3]] {
            for method in [RangeMethod::Absmax, RangeMethod::Entropy, RangeMethod::Percentile] {
                assert_eq!(histogram(values).range(method), 0.0);
            }
        }
    }

    #[test]
    fn what_is_stored_must_be_a_histogram() {
        let of = histogram(&bell(100));
        let again = Histogram::from_parts(of.width(), of.counts().to_vec(), of.largest());
        assert_eq!(again.map(|h| h.range(RangeMethod::Percentile)), Some(of.range(RangeMethod::Percentile)));
        assert_eq!(Histogram::from_parts(1.0, vec![1; BINS + 1], 1.0), None);
        assert_eq!(Histogram::from_parts(1.0, vec![1], f32::NAN), None);
        assert_eq!(Histogram::from_parts(0.1, vec![1], 1e9), None);
    }
}
