//! Against the rule in 64-bit floats, and against itself: in chunks and in batches.

use super::*;
use crate::testing::{Three, can_run, numbers, shapes};

/// Largest error against 64-bit floats, for values of about one.
const CLOSE: f64 = 1e-5;

/// One sequence.
struct Sequence {
    run: DeltaRun,
    parts: [Vec<f32>; 5],
    rates: Vec<f32>,
    biases: Vec<f32>,
    past: Vec<f32>,
}

impl Sequence {
    fn new([tokens, key_heads, group, key_width, value_width]: [usize; 5], seed: u32) -> Self {
        let value_heads = key_heads * group;
        let run = DeltaRun { batch: 1, tokens, key_heads, value_heads, key_width, value_width };
        let keys = tokens * key_heads * key_width;
        let sizes =
            [keys, keys, tokens * value_heads * value_width, tokens * value_heads, tokens * value_heads];
        let mut at = seed;
        let parts = sizes.map(|size| {
            at += 1;
            numbers(size, at).into_iter().map(|x| 2.0 * x).collect()
        });
        let rates = numbers(value_heads, seed + 10).into_iter().map(|x| -x.abs()).collect();
        let biases = numbers(value_heads, seed + 11);
        let past = numbers(value_heads * key_width * value_width, seed + 12);
        Self { run, parts, rates, biases, past }
    }

    /// Some of its tokens.
    fn part(&self, first: usize, count: usize) -> (DeltaRun, DeltaTokens<'_>) {
        let [query, key, value, strength, decay] = self.parts.each_ref().map(|part| {
            let width = part.len() / self.run.tokens;
            &part[first * width..(first + count) * width]
        });
        let (rates, biases) = (&self.rates[..], &self.biases[..]);
        let tokens = DeltaTokens { query, key, value, strength, decay, rates, biases };
        (DeltaRun { tokens: count, ..self.run }, tokens)
    }

    /// Results and matrices, in chunks of so many tokens.
    fn chunked(&self, kernel: &Kernel, chunk: usize) -> (Vec<f32>, Vec<f32>) {
        let (mut all, mut past) = (Vec::new(), self.past.clone());
        for first in (0..self.run.tokens).step_by(chunk) {
            let (run, tokens) = self.part(first, chunk.min(self.run.tokens - first));
            let (out, present) = computed(kernel, run, tokens, &past);
            all.extend(out);
            past = present;
        }
        (all, past)
    }

    /// The rule, number by number.
    fn expected(&self) -> (Vec<f64>, Vec<f64>) {
        let DeltaRun { tokens, key_heads, value_heads, key_width, value_width, .. } = self.run;
        let [query, key, value, strength, decay] = &self.parts;
        let mut out = vec![0.0; tokens * value_heads * value_width];
        let mut matrices: Vec<f64> = self.past.iter().map(|&x| f64::from(x)).collect();
        for (head, matrix) in matrices.chunks_exact_mut(key_width * value_width).enumerate() {
            for token in 0..tokens {
                let row = token * key_heads + head / (value_heads / key_heads);
                let unit = |all: &[f32]| {
                    let vector = &all[row * key_width..][..key_width];
                    let square: f64 = vector.iter().map(|&x| f64::from(x).powi(2)).sum();
                    vector.iter().map(|&x| f64::from(x) / (square + 1e-6).sqrt()).collect::<Vec<_>>()
                };
                let (q, k) = (unit(query), unit(key));
                let place = token * value_heads + head;
                let softplus = (1.0 + f64::from(decay[place] + self.biases[head]).exp()).ln();
                let left = (f64::from(self.rates[head]) * softplus).exp();
                let strength = 1.0 / (1.0 + f64::from(-strength[place]).exp());
                for column in 0..value_width {
                    let cell = |i: usize| i * value_width + column;
                    let known: f64 = (0..key_width).map(|i| k[i] * left * matrix[cell(i)]).sum();
                    let place = place * value_width + column;
                    let news = strength * (f64::from(value[place]) - known);
                    for i in 0..key_width {
                        matrix[cell(i)] = left * matrix[cell(i)] + k[i] * news;
                        out[place] += q[i] * matrix[cell(i)] / (key_width as f64).sqrt();
                    }
                }
            }
        }
        (out, matrices)
    }
}

fn computed(kernel: &Kernel, run: DeltaRun, tokens: DeltaTokens<'_>, past: &[f32]) -> (Vec<f32>, Vec<f32>) {
    // What is in the results before must not matter.
    let mut out = vec![f32::NAN; tokens.value.len()];
    let mut present = vec![f32::NAN; past.len()];
    gated_delta_with(kernel, run, tokens, past, &mut out, &mut present, &Three);
    (out, present)
}

/// Tokens, key heads, values of a key, and widths.
fn sequences() -> Vec<Sequence> {
    let fixed = [[1, 1, 1, 1, 1], [5, 2, 2, 128, 128], [130, 1, 3, 24, 40]];
    let drawn = shapes(12, [(1, 40), (1, 3), (1, 3), (1, 70), (1, 70)]);
    fixed.into_iter().chain(drawn).zip(1..).map(|(shape, seed)| Sequence::new(shape, 100 * seed)).collect()
}

#[test]
fn the_rule_is_followed() {
    if !can_run(&TABLE) {
        return;
    }
    for kernel in TABLE.all_here() {
        for sequence in sequences() {
            let (out, present) = sequence.chunked(kernel, sequence.run.tokens);
            let (expected_out, expected_present) = sequence.expected();
            let pairs = out.iter().zip(&expected_out).chain(present.iter().zip(&expected_present));
            for (&found, expected) in pairs {
                let error = (f64::from(found) - expected).abs();
                assert!(error <= CLOSE, "{:?}: expected {expected}, found {found}", sequence.run);
            }
        }
    }
}

#[test]
fn chunks_give_the_bits_of_the_whole() {
    if !can_run(&TABLE) {
        return;
    }
    let bits = |(out, present): (Vec<f32>, Vec<f32>)| {
        out.into_iter().chain(present).map(f32::to_bits).collect::<Vec<_>>()
    };
    for kernel in TABLE.all_here() {
        for sequence in sequences() {
            let whole = bits(sequence.chunked(kernel, sequence.run.tokens));
            for chunk in [1, 7] {
                assert_eq!(bits(sequence.chunked(kernel, chunk)), whole, "{:?} by {chunk}", sequence.run);
            }
        }
    }
}

#[test]
fn rows_of_a_batch_know_nothing_of_each_other() {
    if !can_run(&TABLE) {
        return;
    }
    for kernel in TABLE.all_here() {
        let rows = [1, 2, 3].map(|seed| Sequence::new([4, 2, 2, 16, 24], seed * 100));
        let joined = |part: usize| rows.iter().flat_map(|row| row.parts[part].clone()).collect::<Vec<_>>();
        let [query, key, value, strength, decay] = [0, 1, 2, 3, 4].map(joined);
        let (rates, biases) = (&rows[0].rates, &rows[0].biases);
        let past: Vec<f32> = rows.iter().flat_map(|row| row.past.clone()).collect();
        let tokens = DeltaTokens {
            query: &query,
            key: &key,
            value: &value,
            strength: &strength,
            decay: &decay,
            rates,
            biases,
        };
        let (out, present) = computed(kernel, DeltaRun { batch: 3, ..rows[0].run }, tokens, &past);
        for (at, row) in rows.iter().enumerate() {
            let tokens = DeltaTokens { rates, biases, ..row.part(0, 4).1 };
            let (own, own_present) = computed(kernel, row.run, tokens, &row.past);
            assert_eq!(out[at * own.len()..][..own.len()], own);
            assert_eq!(present[at * own_present.len()..][..own_present.len()], own_present);
        }
    }
}

#[test]
#[should_panic(expected = "value: expected")]
fn slices_that_do_not_fit_are_refused() {
    let sequence = Sequence::new([2, 1, 1, 4, 4], 1);
    let (run, tokens) = sequence.part(0, 2);
    let (mut out, mut present) = ([0.0; 8], [0.0; 16]);
    let tokens = DeltaTokens { value: &tokens.value[1..], ..tokens };
    run.check(&tokens, &sequence.past, &out, &present);
    out.fill(0.0);
    present.fill(0.0);
}
