//! Queries, keys and values in the order in which `vdpbf16ps` takes them: words of two 16-bit floats.

use std::arch::x86_64::*;

use super::{QUERIES, padded};
use crate::attention::{Factors, Grid, Head};
use crate::avx512::{LANES, load_floats, transposed};
use crate::shared::Shared;

/// What one head attends with.
pub(super) struct Packed<'a> {
    /// \[queries, head_width / 2\] words, scaled so that products with keys are exponents of two.
    queries: &'a [u32],
    pub(super) keys: Keys<'a>,
    /// \[keys / 2, head_width\] words: the same number of two neighbouring keys to a word.
    values: &'a [u32],
    depth: usize,
}

impl<'a> Packed<'a> {
    /// Words of the queries, the keys and the values.
    fn parts(grid: Grid) -> [usize; 3] {
        let (positions, depth) = (grid.positions(), padded(grid.head_width) / 2);
        let keys = positions.next_multiple_of(LANES) * depth;
        [positions.next_multiple_of(QUERIES) * depth, keys, keys]
    }

    /// Words of a head.
    pub(super) fn words(grid: Grid) -> usize {
        Self::parts(grid).iter().sum()
    }

    pub(super) fn new(words: &'a [u32], grid: Grid) -> Self {
        let [queries, keys, _] = Self::parts(grid);
        let (queries, rest) = words.split_at(queries);
        let (keys, values) = rest.split_at(keys);
        let depth = padded(grid.head_width) / 2;
        Self { queries, keys: Keys { words: keys, depth }, values, depth }
    }

    /// Words of `QUERIES` queries from `first`.
    pub(super) fn queries(&self, first: usize) -> &[u32] {
        &self.queries[first * self.depth..][..QUERIES * self.depth]
    }

    /// Words of `count` keys' values from `first`, both even.
    pub(super) fn values(&self, first: usize, count: usize) -> &[u32] {
        &self.values[first * self.depth..][..count * self.depth]
    }
}

/// Keys as \[panel, head_width / 2, 16\] words: sixteen keys to a panel, two numbers to a word.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    words: &'a [u32],
    depth: usize,
}

/// A table of embeddings, \[distances, head_width\], as [`Keys`] from the largest distance to the most
/// negative: for one query, keys one after the other then have embeddings one after the other. Queries come
/// scaled by the root of the width, which their biases are not to be.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) fn pack_table(table: &[f32], head_width: usize) -> Vec<u32> {
    let (count, depth) = (table.len() / head_width, padded(head_width) / 2);
    let mut words = vec![0; count.next_multiple_of(LANES) * depth];
    for (panel, words) in words.chunks_exact_mut(LANES * depth).enumerate() {
        let row = |lane: usize| {
            let i = count.checked_sub(1 + panel * LANES + lane)?;
            Some(&table[i * head_width..][..head_width])
        };
        pack_keys(row, (head_width as f32).sqrt(), words);
    }
    words
}

impl<'a> Keys<'a> {
    /// A table that [`pack_table`] has packed.
    pub(super) fn of_table(words: &'a [u32], head_width: usize) -> Self {
        Self { words, depth: padded(head_width) / 2 }
    }

    pub(super) fn panels(self) -> usize {
        self.words.len() / (LANES * self.depth)
    }

    /// Words of `count` panels from `first`.
    pub(super) fn panel(self, first: usize, count: usize) -> &'a [u32] {
        &self.words[first * LANES * self.depth..][..count * LANES * self.depth]
    }
}

/// Packs sixteen places, or the last few, of all heads: rows are read from their beginning to their end.
///
/// # Safety
/// Nobody else may have these places, and the CPU must have AVX-512 BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn pack(
    grid: Grid,
    factors: Factors<'_>,
    batch: usize,
    first: usize,
    packed: &Shared<'_, u32>,
) {
    let [queries, keys, _] = Packed::parts(grid);
    let depth = padded(grid.head_width) / 2;
    let scale = (grid.head_width as f32).sqrt().recip() * std::f32::consts::LOG2_E;
    for index in 0..grid.heads {
        let head = Head { grid, batch, head: index };
        fn part<'a>(
            head: &Head,
            first: usize,
            parts: &'a [f32],
            stride: usize,
        ) -> impl Fn(usize) -> Option<&'a [f32]> {
            move |lane| {
                let position = first + lane;
                (position < head.grid.positions()).then(|| head.part(parts, stride, position))
            }
        }
        let part = |parts| part(&head, first, parts, factors.stride);
        let start = (batch * grid.heads + index) * Packed::words(grid) + first * depth;
        // SAFETY: places from `first` on, in the three parts of this head; the caller has them to itself.
        unsafe {
            pack_queries(part(factors.queries), scale, packed.part(start, LANES * depth));
            pack_keys(part(factors.keys), 1.0, packed.part(start + queries, LANES * depth));
            pack_values(part(factors.values), packed.part(start + queries + keys, LANES * depth));
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn pack_queries<'a>(row: impl Fn(usize) -> Option<&'a [f32]>, scale: f32, words: &mut [u32]) {
    let depth = words.len() / LANES;
    let scale = _mm512_set1_ps(scale);
    for (lane, words) in words.chunks_exact_mut(depth).enumerate() {
        let row = row(lane).unwrap_or_default();
        for (at, words) in words.chunks_exact_mut(LANES / 2).enumerate() {
            store_bf16(_mm512_mul_ps(vector(row, at), scale), words);
        }
    }
}

/// Sixteen keys, multiplied with `scale`, to a panel.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn pack_keys<'a>(row: impl Fn(usize) -> Option<&'a [f32]>, scale: f32, words: &mut [u32]) {
    let depth = words.len() / LANES;
    let scale = _mm512_set1_ps(scale);
    for from in (0..depth).step_by(LANES) {
        let rows = std::array::from_fn(|lane| {
            let row = row(lane).unwrap_or_default();
            // Sixteen words: 32 numbers.
            let [low, high] =
                [2 * from / LANES, 2 * from / LANES + 1].map(|at| _mm512_mul_ps(vector(row, at), scale));
            let halves = _mm512_cvtne2ps_pbh(high, low);
            // SAFETY: both are 512 bits of anything.
            unsafe { std::mem::transmute::<__m512bh, __m512i>(halves) }
        });
        let places = words[from * LANES..].chunks_exact_mut(LANES);
        for (place, column) in places.zip(transposed(rows)) {
            // SAFETY: `place` takes the sixteen words.
            unsafe { _mm512_storeu_si512(place.as_mut_ptr().cast(), column) };
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn pack_values<'a>(row: impl Fn(usize) -> Option<&'a [f32]>, words: &mut [u32]) {
    let width = words.len() / (LANES / 2);
    for (pair, words) in words.chunks_exact_mut(width).enumerate() {
        let [first, second] = [2 * pair, 2 * pair + 1].map(|lane| row(lane).unwrap_or_default());
        for (at, words) in words.chunks_exact_mut(LANES).enumerate() {
            let [low, high] = [first, second].map(|row| widened(vector(row, at)));
            let both = _mm512_or_si512(low, _mm512_slli_epi32::<16>(high));
            // SAFETY: `words` takes sixteen.
            unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), both) };
        }
    }
}

/// Sixteen floats to eight words of two 16-bit floats.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) fn store_bf16(x: __m512, words: &mut [u32]) {
    assert!(words.len() >= LANES / 2);
    // SAFETY: both are 256 bits of anything, and `words` takes them.
    unsafe {
        let halves = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x));
        _mm256_storeu_si256(words.as_mut_ptr().cast(), halves);
    }
}

/// Sixteen floats as 16-bit floats, each in the lower half of a word.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn widened(x: __m512) -> __m512i {
    // SAFETY: both are 256 bits of anything.
    _mm512_cvtepu16_epi32(unsafe { std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x)) })
}

/// The sixteen numbers at 16 * `at`, with zeros behind the row's end.
#[inline]
#[target_feature(enable = "avx512f")]
fn vector(row: &[f32], at: usize) -> __m512 {
    load_floats(row.get(at * LANES..).unwrap_or_default())
}
