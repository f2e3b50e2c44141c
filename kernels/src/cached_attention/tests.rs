//! Against the formula in 64-bit floats, and against itself: alone, in chunks and in batches.

use super::*;
use crate::testing::{Three, can_run, numbers, shapes};

/// Rows of the rotary tables.
const POSITIONS: usize = 700;

/// One conversation: what its tokens are, and what is computed for them.
#[derive(Clone)]
struct Sequence {
    heads: Heads,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
}

/// A cache that is kept between calls, and the tables that all of them use.
struct Kept {
    cosines: Vec<f32>,
    sines: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    capacity: usize,
    held: Vec<usize>,
}

impl Sequence {
    fn new(length: usize, heads: usize, kv_heads: usize, width: usize, seed: u32) -> Self {
        let scale = (width as f32).sqrt().recip();
        let heads = Heads { batch: 1, tokens: length, heads, kv_heads, width, scale };
        let make = |heads: usize, size: f32, seed| {
            numbers(length * heads * width, seed).into_iter().map(|x| size * x).collect()
        };
        Self {
            heads,
            query: make(heads.heads, 3.0, seed),
            key: make(kv_heads, 3.0, seed + 1),
            value: make(kv_heads, 1.0, seed + 2),
        }
    }

    /// Tokens from `first`, as one call takes them.
    fn part(&self, first: usize, count: usize) -> Tokens<'_> {
        let Heads { heads, kv_heads, width, .. } = self.heads;
        let cut = |x, heads| cut(x, first, count, heads * width);
        Tokens {
            query: cut(&self.query, heads),
            key: cut(&self.key, kv_heads),
            value: cut(&self.value, kv_heads),
        }
    }

    /// What is in an unused cache must not matter.
    fn cache(&self, capacity: usize) -> Kept {
        let size = self.heads.kv_heads * capacity * self.heads.width;
        let (cosines, sines) = tables(self.heads.width);
        Kept {
            cosines,
            sines,
            keys: vec![f32::NAN; size],
            values: vec![f32::NAN; size],
            capacity,
            held: vec![0],
        }
    }

    /// All results, of chunks of these lengths.
    fn run(&self, chunks: &[usize], kept: &mut Kept) -> Vec<f32> {
        let mut out = Vec::new();
        for &count in chunks {
            out.extend(step(Heads { tokens: count, ..self.heads }, self.part(kept.held[0], count), kept));
        }
        out
    }

    fn whole(&self) -> Vec<f32> {
        self.run(&[self.heads.tokens], &mut self.cache(self.heads.tokens))
    }

    fn expected(&self) -> Vec<f64> {
        let Heads { tokens, heads, kv_heads, width, scale, .. } = self.heads;
        let rotated = |x: &[f32], row: usize, position: usize| -> Vec<f64> {
            let x = &x[row * width..][..width];
            let half = width / 2;
            let turned = |i: usize| {
                let angle = angle(position, i % half, half);
                let (pair, sign) = if i < half { (i + half, -1.0) } else { (i - half, 1.0) };
                f64::from(x[i]) * angle.cos() + sign * f64::from(x[pair]) * angle.sin()
            };
            (0..width).map(turned).collect()
        };
        let mut out = Vec::new();
        for token in 0..tokens {
            for head in 0..heads {
                let query = rotated(&self.query, token * heads + head, token);
                let group = head / (heads / kv_heads);
                let logit = |past: usize| {
                    let key = rotated(&self.key, past * kv_heads + group, past);
                    query.iter().zip(&key).map(|(a, b)| a * b).sum::<f64>() * f64::from(scale)
                };
                let logits: Vec<f64> = (0..=token).map(logit).collect();
                let largest = logits.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = logits.iter().map(|x| (x - largest).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for i in 0..width {
                    let value = |past: usize| f64::from(self.value[(past * kv_heads + group) * width + i]);
                    let weighted = weights.iter().enumerate().map(|(past, weight)| weight * value(past));
                    out.push(weighted.sum::<f64>() / sum);
                }
            }
        }
        out
    }
}

fn cut(x: &[f32], first: usize, count: usize, row: usize) -> &[f32] {
    &x[first * row..][..count * row]
}

fn angle(position: usize, i: usize, half: usize) -> f64 {
    position as f64 * 1e4f64.powf(-(i as f64) / half as f64)
}

/// Cosines and sines of all positions.
fn tables(width: usize) -> (Vec<f32>, Vec<f32>) {
    let half = width / 2;
    let angles = (0..POSITIONS * half).map(|at| angle(at / half, at % half, half));
    angles.map(|angle| (angle.cos() as f32, angle.sin() as f32)).unzip()
}

/// One call, and the cache behind it.
fn step(heads: Heads, tokens: Tokens<'_>, kept: &mut Kept) -> Vec<f32> {
    let positions: Vec<usize> = kept.held.iter().flat_map(|&held| held..held + heads.tokens).collect();
    let rotary = Rotary { cosines: &kept.cosines, sines: &kept.sines, positions: &positions };
    let cache = Cache {
        keys: &mut kept.keys,
        values: &mut kept.values,
        capacity: kept.capacity,
        held: &kept.held,
        past: None,
    };
    let mut out = vec![f32::NAN; tokens.query.len()];
    cached_attention(heads, tokens, rotary, cache, &mut out, &Three);
    kept.held.iter_mut().for_each(|held| *held += heads.tokens);
    out
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// 32-bit sums of up to 600 terms and logits of up to ten, whose rounding an exponential multiplies: some
/// 3e-7 each.
const TOLERANCE: f64 = 3e-6;

#[test]
fn every_shape_follows_the_formula() {
    if !can_run(&TABLE) {
        return;
    }
    for (length, heads, kv_heads, width) in [
        (1, 1, 1, 2),
        (2, 2, 1, 16),
        (17, 4, 2, 32),
        (40, 6, 2, 80),
        (33, 3, 3, 24),
        (300, 4, 2, 128),
        (50, 8, 1, 64),
        (20, 100, 1, 6),
        (600, 2, 1, 32),
    ] {
        check(&Sequence::new(length, heads, kv_heads, width, 1));
    }
}

fn check(sequence: &Sequence) {
    let (found, expected) = (sequence.whole(), sequence.expected());
    let norm = expected.iter().map(|x| x * x).sum::<f64>().sqrt();
    let error = found.iter().zip(&expected).map(|(x, y)| (f64::from(*x) - y).powi(2)).sum::<f64>().sqrt();
    assert!(error / norm < TOLERANCE, "{:?}: relative error {}", sequence.heads, error / norm);
}

#[test]
fn odd_shapes_follow_the_formula() {
    if !can_run(&TABLE) {
        return;
    }
    for [length, kv_heads, group, half] in shapes(80, [(1, 70), (1, 3), (1, 9), (1, 40)]) {
        check(&Sequence::new(length, kv_heads * group, kv_heads, 2 * half, 11));
    }
}

#[test]
fn nothing_to_compute_leaves_the_cache_alone() {
    if !can_run(&TABLE) {
        return;
    }
    let sequence = Sequence::new(3, 4, 2, 6, 1);
    let mut kept = sequence.cache(5);
    sequence.run(&[3], &mut kept);
    let before = bits(&kept.keys);
    let heads = Heads { tokens: 0, ..sequence.heads };
    let none = Tokens { query: &[], key: &[], value: &[] };
    assert!(step(heads, none, &mut kept).is_empty());
    assert_eq!(bits(&kept.keys), before);
}

#[test]
fn what_does_not_fit_is_refused() {
    if !can_run(&TABLE) {
        return;
    }
    let sequence = Sequence::new(3, 4, 2, 6, 1);
    let tokens = sequence.part(0, 3);
    let refused = |heads: Heads, tokens: Tokens<'_>, capacity: usize, held: usize| {
        let mut kept = sequence.cache(capacity);
        kept.held = vec![held];
        let call = std::panic::AssertUnwindSafe(|| step(heads, tokens, &mut kept));
        assert!(std::panic::catch_unwind(call).is_err(), "{heads:?}, {held} of {capacity}");
    };
    refused(sequence.heads, tokens, 2, 0);
    refused(sequence.heads, tokens, 5, 3);
    refused(sequence.heads, tokens, 900, 699);
    refused(Heads { width: 5, ..sequence.heads }, tokens, 5, 0);
    refused(Heads { kv_heads: 3, ..sequence.heads }, tokens, 5, 0);
    refused(Heads { kv_heads: 0, ..sequence.heads }, tokens, 5, 0);
    refused(Heads { batch: 2, ..sequence.heads }, tokens, 5, 0);
    refused(sequence.heads, Tokens { query: &tokens.query[1..], ..tokens }, 5, 0);
    refused(sequence.heads, Tokens { key: &tokens.key[1..], ..tokens }, 5, 0);
    refused(sequence.heads, Tokens { value: &tokens.value[1..], ..tokens }, 5, 0);
}

#[test]
fn chunks_equal_the_whole() {
    if !can_run(&TABLE) {
        return;
    }
    for (heads, kv_heads, width) in [(4, 2, 128), (3, 1, 24), (2, 2, 64)] {
        let sequence = Sequence::new(560, heads, kv_heads, width, 5);
        let whole = bits(&sequence.whole());
        for chunks in [vec![1; 560], vec![13; 43], vec![255, 2, 303], vec![400, 1, 1, 158]] {
            // More room than tokens, whose numbers must not matter.
            let found = sequence.run(&chunks, &mut sequence.cache(600));
            assert!(bits(&found) == whole[..found.len()], "{:?} in {chunks:?}", sequence.heads);
        }
    }
}

#[test]
fn batches_equal_the_single() {
    if !can_run(&TABLE) {
        return;
    }
    // Five tokens behind histories of different lengths.
    let (capacity, count) = (400, 5);
    let histories = [0, 300, 17, 255];
    let sequences: Vec<Sequence> =
        histories.iter().map(|held| Sequence::new(held + count, 4, 2, 32, 7 + *held as u32)).collect();
    let (cosines, sines) = tables(32);
    let (keys, values) = (Vec::new(), Vec::new());
    let mut batch = Kept { cosines, sines, keys, values, capacity, held: histories.to_vec() };
    let (mut lonely, [mut query, mut key, mut value]) = (Vec::new(), [const { Vec::new() }; 3]);
    for (sequence, held) in sequences.iter().zip(histories) {
        let mut kept = sequence.cache(capacity);
        if held > 0 {
            sequence.run(&[held], &mut kept);
        }
        batch.keys.extend(&kept.keys);
        batch.values.extend(&kept.values);
        lonely.extend(sequence.run(&[count], &mut kept));
        let tokens = sequence.part(held, count);
        query.extend(tokens.query);
        key.extend(tokens.key);
        value.extend(tokens.value);
    }
    let heads = Heads { batch: histories.len(), tokens: count, ..sequences[0].heads };
    let found = step(heads, Tokens { query: &query, key: &key, value: &value }, &mut batch);
    assert_eq!(bits(&found), bits(&lonely));
}

#[test]
fn a_cache_elsewhere_is_copied() {
    if !can_run(&TABLE) {
        return;
    }
    let sequence = Sequence::new(60, 4, 2, 32, 3);
    let whole = sequence.whole();
    let mut kept = sequence.cache(50);
    sequence.run(&[50], &mut kept);
    let size = 2 * 64 * 32;
    let (mut keys, mut values) = (vec![f32::NAN; size], vec![f32::NAN; size]);
    let (cosines, sines) = tables(32);
    let positions: Vec<usize> = (50..60).collect();
    let cache = Cache {
        keys: &mut keys,
        values: &mut values,
        capacity: 64,
        held: &[50],
        past: Some(Past { keys: &kept.keys, values: &kept.values, capacity: 50 }),
    };
    let mut out = vec![f32::NAN; 10 * 4 * 32];
    let rotary = Rotary { cosines: &cosines, sines: &sines, positions: &positions };
    let heads = Heads { tokens: 10, ..sequence.heads };
    cached_attention(heads, sequence.part(50, 10), rotary, cache, &mut out, &Three);
    assert_eq!(bits(&out), bits(&whole[50 * 4 * 32..]));
    for head in 0..2 {
        assert_eq!(keys[head * 64 * 32..][..50 * 32], kept.keys[head * 50 * 32..][..50 * 32]);
        assert!(values[head * 64 * 32..][60 * 32..64 * 32].iter().all(|x| *x == 0.0));
    }
}

#[test]
fn what_is_no_number_stays_with_those_who_see_it() {
    if !can_run(&TABLE) {
        return;
    }
    let sequence = Sequence::new(300, 4, 2, 128, 9);
    let whole = sequence.whole();
    let row = 4 * 128;
    for poison in [f32::NAN, f32::INFINITY] {
        // A query: its own token and head only.
        let mut sick = sequence.clone();
        sick.query[7 * row + 2 * 128 + 3] = poison;
        let found = sick.whole();
        let (begin, end) = (7 * row + 2 * 128, 7 * row + 3 * 128);
        assert!(found[begin..end].iter().all(|x| x.is_nan()), "{poison}");
        assert_eq!(bits(&found[..begin]), bits(&whole[..begin]), "{poison}");
        assert_eq!(bits(&found[end..]), bits(&whole[end..]), "{poison}");
        // Keys and values: nobody before them.
        let mut sick = sequence.clone();
        sick.key[271 * 256..272 * 256].fill(poison);
        sick.value[271 * 256..272 * 256].fill(poison);
        let found = sick.whole();
        assert_eq!(bits(&found[..271 * row]), bits(&whole[..271 * row]), "{poison}");
        assert!(found[271 * row..].iter().all(|x| !x.is_finite()), "{poison}");
    }
}
