//! Against plain loops in 64-bit floats, and against itself: in chunks and in batches.

use super::*;
use crate::testing::{Three, can_run, numbers, shapes};

/// Largest error against 64-bit floats, for sums of a few numbers below nine.
const CLOSE: f64 = 5e-6;

/// Some sequences.
struct Case {
    run: ConvolutionRun,
    x: Vec<f32>,
    past: Vec<f32>,
    weights: Vec<f32>,
}

impl Case {
    fn new([batch, tokens, window, channels]: [usize; 4], seed: u32) -> Self {
        let run = ConvolutionRun { batch, tokens, window, channels };
        let scaled = |count: usize, seed: u32, scale: f32| -> Vec<f32> {
            numbers(count, seed).into_iter().map(|x| scale * x).collect()
        };
        let x = scaled(batch * tokens * channels, seed, 3.0);
        let past = scaled(batch * window * channels, seed + 1, 3.0);
        Self { run, x, past, weights: scaled((window + 1) * channels, seed + 2, 3.0) }
    }

    fn computed(&self, kernel: &Kernel) -> [Vec<f32>; 2] {
        // What is in the results before must not matter.
        let (mut out, mut present) = (vec![f32::NAN; self.x.len()], vec![f32::NAN; self.past.len()]);
        let inputs = (&self.x[..], &self.past[..]);
        convolution_with(kernel, self.run, inputs, &self.weights, &mut out, &mut present, &Three);
        [out, present]
    }

    /// One of its sequences, and of that some tokens, behind what is remembered.
    fn part(&self, sequence: usize, first: usize, count: usize, past: &[f32]) -> Self {
        let ConvolutionRun { tokens, channels, .. } = self.run;
        let x = &self.x[(sequence * tokens + first) * channels..][..count * channels];
        let run = ConvolutionRun { batch: 1, tokens: count, ..self.run };
        Self { run, x: x.to_vec(), past: past.to_vec(), weights: self.weights.clone() }
    }

    /// One of its sequences in chunks of so many tokens.
    fn chunked(&self, kernel: &Kernel, sequence: usize, chunk: usize) -> [Vec<f32>; 2] {
        let ConvolutionRun { tokens, window, channels, .. } = self.run;
        let mut past = self.past[sequence * window * channels..][..window * channels].to_vec();
        let mut all = Vec::new();
        for first in (0..tokens).step_by(chunk) {
            let [out, present] =
                self.part(sequence, first, chunk.min(tokens - first), &past).computed(kernel);
            all.extend(out);
            past = present;
        }
        [all, past]
    }
}

/// Sequences, tokens, tokens before, and channels.
fn cases() -> Vec<Case> {
    let fixed = [[1, 1, 3, 1], [1, 40, 3, 48], [3, 5, 3, 33], [2, 2, 6, 17], [1, 7, 0, 16], [2, 0, 3, 5]];
    let drawn = shapes(12, [(1, 3), (1, 40), (1, 5), (1, 70)]);
    fixed.into_iter().chain(drawn).zip(1..).map(|(shape, seed)| Case::new(shape, 100 * seed)).collect()
}

fn bits(lists: [Vec<f32>; 2]) -> [Vec<u32>; 2] {
    lists.map(|list| list.into_iter().map(f32::to_bits).collect())
}

#[test]
fn every_channel_is_a_weighted_sum_and_its_silu() {
    if !can_run(&TABLE) {
        return;
    }
    for (kernel, case) in
        TABLE.all_here().flat_map(|kernel| cases().into_iter().map(move |case| (kernel, case)))
    {
        let ConvolutionRun { batch, tokens, window, channels } = case.run;
        let [out, present] = case.computed(kernel);
        for sequence in 0..batch {
            let rows =
                |all: &[f32], count: usize| all[sequence * count * channels..][..count * channels].to_vec();
            let joined = [rows(&case.past, window), rows(&case.x, tokens)].concat();
            for place in 0..tokens * channels {
                let tap = |tap: usize| {
                    let weight = case.weights[tap * channels + place % channels];
                    f64::from(joined[place + tap * channels]) * f64::from(weight)
                };
                let sum: f64 = (0..=window).map(tap).sum();
                let (expected, found) =
                    (sum / (1.0 + (-sum).exp()), out[sequence * tokens * channels + place]);
                let error = (f64::from(found) - expected).abs();
                assert!(error <= CLOSE, "{:?}: expected {expected}, found {found}", case.run);
            }
            assert_eq!(rows(&present, window), joined[tokens * channels..], "{:?}", case.run);
        }
    }
}

#[test]
fn chunks_and_batches_give_the_bits_of_one_alone() {
    if !can_run(&TABLE) {
        return;
    }
    for kernel in TABLE.all_here() {
        for case in cases().iter().filter(|case| case.run.tokens > 0) {
            let [out, present] = case.computed(kernel);
            for chunk in [1, 7, case.run.tokens] {
                let alone = (0..case.run.batch).map(|sequence| case.chunked(kernel, sequence, chunk));
                let (outs, presents): (Vec<_>, Vec<_>) = alone.map(|[out, present]| (out, present)).unzip();
                let found = bits([outs.concat(), presents.concat()]);
                assert_eq!(found, bits([out.clone(), present.clone()]), "{:?} by {chunk}", case.run);
            }
        }
    }
}

#[test]
fn extremes_are_what_they_are_in_pytorch() {
    if !can_run(&TABLE) {
        return;
    }
    for kernel in TABLE.all_here() {
        let x = vec![0.0, -0.0, 1e30, -1e30, 88.0, -88.0, -104.0, f32::INFINITY, f32::NAN];
        let run = ConvolutionRun { batch: 1, tokens: 1, window: 0, channels: x.len() };
        let weights = vec![1.0; x.len()];
        let [out, _] = Case { run, x, past: Vec::new(), weights }.computed(kernel);
        assert_eq!(out[..5], [0.0, 0.0, 1e30, 0.0, 88.0]);
        assert!(out[5] < 0.0 && out[5] > -1e-35 && out[6] <= 0.0 && out[6] > -1e-40, "{out:?}");
        assert!(out[7] == f32::INFINITY && out[8].is_nan(), "{out:?}");
    }
}

#[test]
#[should_panic(expected = "weights: expected")]
fn slices_that_do_not_fit_are_refused() {
    let case = Case::new([1, 2, 3, 4], 1);
    case.run.check(&case.x, &case.past, &case.weights[1..], &case.x, &case.past);
}
