//! A block of tokens, all heads of one group, with all keys that they see, block by block.

use std::arch::x86_64::*;
use std::f32::consts::LOG2_E;
use std::ops::Range;

use super::rotate;
use super::tile::{self, tile_size, transpose};
use crate::avx512::exp::exp2;
use crate::avx512::tile::{Begin, Strides};
use crate::avx512::{LANES, first_floats, load_floats, store_floats};
use crate::cached_attention::{Queries, Rotary};
use crate::shared::Shared;

/// Keys of a block, which begins at a multiple: the maximum and what depends on it change once a block.
const KEYS: usize = 256;
/// Keys that are transposed at once: at a head width of 128 they take 16 KiB of the first cache.
const TRANSPOSED: usize = 2 * LANES;
/// Keys whose values are multiplied with all queries of a block before the next ones are: 32 KiB.
const VALUES: usize = 64;

/// Memory of one thread.
#[derive(Default)]
pub(super) struct Block {
    /// \[rows, width\]: rotated, and scaled so that products with keys are exponents of two.
    queries: Vec<f32>,
    /// \[2, width, 16\]: two vectors of keys.
    transposed: Vec<f32>,
    /// \[rows, KEYS\]: products, then their exponentials.
    weights: Vec<f32>,
    /// \[VALUES, depth\]: values, where their width is no whole number of vectors.
    values: Vec<f32>,
    /// \[rows, depth\]: sums of weighted values, with the width rounded up to whole vectors.
    results: Vec<f32>,
    /// \[rows\]: largest product so far.
    largest: Vec<f32>,
    /// \[rows, 16\]: sums of the exponentials, by the key's position modulo 16.
    sums: Vec<f32>,
}

impl Block {
    /// Attends with `queries` to `keys` and `values` \[capacity, width\] of their head.
    ///
    /// # Safety
    /// Nobody else may have the results of these queries, and the CPU must have AVX-512F.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn run(
        &mut self,
        queries: &Queries,
        numbers: &[f32],
        rotary: Rotary<'_>,
        keys: &[f32],
        values: &[f32],
        out: &Shared<'_, f32>,
    ) {
        let width = queries.heads.width;
        self.begin(queries, numbers, rotary);
        let end = queries.seen(queries.rows() - 1);
        for first in (0..end).step_by(KEYS) {
            let block = first..end.min(first + KEYS);
            self.multiply_keys(queries, keys, &block);
            for row in 0..queries.rows() {
                self.softmax(row, queries.seen_of(row, &block), width.next_multiple_of(LANES));
            }
            self.multiply_values(queries, values, &block);
        }
        let depth = width.next_multiple_of(LANES);
        for row in 0..queries.rows() {
            // SAFETY: the caller has these results to itself.
            let out = unsafe { out.part(queries.place(row), width) };
            let sum = _mm512_reduce_add_ps(load_floats(&self.sums[row * LANES..][..LANES]));
            let factor = _mm512_set1_ps(sum.recip());
            let results = self.results[row * depth..][..depth].chunks_exact(LANES);
            for (out, result) in out.chunks_mut(LANES).zip(results) {
                store_floats(_mm512_mul_ps(load_floats(result), factor), out);
            }
        }
    }

    /// Rotates the queries, and forgets what was before.
    #[target_feature(enable = "avx512f")]
    fn begin(&mut self, queries: &Queries, numbers: &[f32], rotary: Rotary<'_>) {
        let (rows, width) = (queries.rows(), queries.heads.width);
        let depth = width.next_multiple_of(LANES);
        let scale = queries.heads.scale * LOG2_E;
        for (list, length) in [
            (&mut self.queries, rows * width),
            (&mut self.transposed, TRANSPOSED * width),
            (&mut self.weights, rows * KEYS),
        ] {
            if list.len() < length {
                list.resize(length, 0.0);
            }
        }
        for (list, length, value) in [
            (&mut self.results, rows * depth, 0.0),
            (&mut self.largest, rows, f32::NEG_INFINITY),
            (&mut self.sums, rows * LANES, 0.0),
        ] {
            list.clear();
            list.resize(length, value);
        }
        for (row, query) in self.queries.chunks_exact_mut(width).take(rows).enumerate() {
            rotate(rotary, queries.token(row), &numbers[queries.place(row)..][..width], scale, query);
        }
    }

    /// Products of all queries with the keys of a block. Those that a query must not see may be missing.
    #[target_feature(enable = "avx512f")]
    fn multiply_keys(&mut self, queries: &Queries, keys: &[f32], block: &Range<usize>) {
        let (rows, width) = (queries.rows(), queries.heads.width);
        let strides = Strides { left: width, step: LANES, vector: width * LANES, sums: KEYS };
        for first in block.clone().step_by(TRANSPOSED) {
            let part = first..block.end.min(first + TRANSPOSED);
            for (start, to) in
                part.clone().step_by(LANES).zip(self.transposed.chunks_exact_mut(width * LANES))
            {
                transpose(&keys[start * width..part.end.min(start + LANES) * width], width, to);
            }
            let mut row = 0;
            while row < rows {
                let [tile_rows, _] = tile_size(rows - row, 1);
                let vectors = queries.seen_of(row + tile_rows - 1, &part).div_ceil(LANES);
                let (left, mut vector) = (&self.queries[row * width..], 0);
                while vector < vectors {
                    let size = tile_size(tile_rows, vectors - vector);
                    let right = &self.transposed[vector * strides.vector..];
                    let to = &mut self.weights[row * KEYS + first - block.start + vector * LANES..];
                    tile::run(size, left, right, to, width, strides, Begin::Anew);
                    vector += size[1];
                }
                row += tile_rows;
            }
        }
    }

    /// The first `seen` products of a row to weights relative to the largest product so far; what was summed
    /// before is brought to the same scale.
    #[target_feature(enable = "avx512f")]
    fn softmax(&mut self, row: usize, seen: usize, depth: usize) {
        let weights = &mut self.weights[row * KEYS..][..seen];
        let before = self.largest[row];
        let mut most = _mm512_set1_ps(before);
        let (whole, rest) = weights.as_chunks::<LANES>();
        for products in whole {
            most = _mm512_max_ps(most, load_floats(products));
        }
        most = _mm512_mask_max_ps(most, first_floats(rest.len()), most, load_floats(rest));
        let most = _mm512_reduce_max_ps(most);
        let sums = &mut self.sums[row * LANES..][..LANES];
        let mut sum = load_floats(sums);
        if most > before {
            let factor = weight_of(_mm512_set1_ps(before - most));
            sum = _mm512_mul_ps(sum, factor);
            for result in self.results[row * depth..][..depth].chunks_exact_mut(LANES) {
                store_floats(_mm512_mul_ps(load_floats(result), factor), result);
            }
            self.largest[row] = most;
        }
        let shift = _mm512_set1_ps(most);
        let (whole, rest) = weights.as_chunks_mut::<LANES>();
        for products in whole {
            let weight = weight_of(_mm512_sub_ps(load_floats(products), shift));
            sum = _mm512_add_ps(sum, weight);
            store_floats(weight, products);
        }
        let weight = weight_of(_mm512_sub_ps(load_floats(rest), shift));
        sum = _mm512_mask_add_ps(sum, first_floats(rest.len()), sum, weight);
        store_floats(weight, rest);
        store_floats(sum, sums);
    }

    /// Adds the block's values to the results, weighted. What a query must not see is not multiplied: zero
    /// times infinity is no number.
    #[target_feature(enable = "avx512f")]
    fn multiply_values(&mut self, queries: &Queries, values: &[f32], block: &Range<usize>) {
        let (rows, width) = (queries.rows(), queries.heads.width);
        for first in block.clone().step_by(VALUES) {
            let part = first..block.end.min(first + VALUES);
            let place = first - block.start;
            let mut row = 0;
            let numbers = &values[part.start * width..part.end * width];
            let values = in_vectors(numbers, width, &mut self.values);
            while row < rows {
                let [tile_rows, _] = tile_size(rows - row, 1);
                // All rows of the tile see the keys that the first one sees.
                let shared = queries.seen_of(row, &part);
                let mut add = |row: usize, tile_rows: usize, keys: Range<usize>| {
                    let weights = &self.weights[row * KEYS + place..];
                    add_weighted(weights, values, &mut self.results, row, tile_rows, keys, width);
                };
                add(row, tile_rows, 0..shared);
                for row in row..row + tile_rows {
                    add(row, 1, shared..queries.seen_of(row, &part));
                }
                row += tile_rows;
            }
        }
    }
}

/// `2^x` to the last digits, for x of at most zero, minus infinity among them. NaN stays NaN.
#[inline]
#[target_feature(enable = "avx512f")]
fn weight_of(x: __m512) -> __m512 {
    /// Below, a power is no normal number: it counts as zero. Others have a sum of at least one beside it.
    const LEAST: f32 = -126.0;
    let counts = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, _mm512_set1_ps(LEAST));
    _mm512_maskz_mov_ps(counts, exp2::<8>(x))
}

/// Values \[keys, width\] in rows of whole vectors.
fn in_vectors<'a>(values: &'a [f32], width: usize, room: &'a mut Vec<f32>) -> &'a [f32] {
    let depth = width.next_multiple_of(LANES);
    if depth == width {
        return values;
    }
    room.resize(VALUES * depth, 0.0);
    for (from, to) in values.chunks_exact(width).zip(room.chunks_exact_mut(depth)) {
        to[..width].copy_from_slice(from);
    }
    &room[..values.len() / width * depth]
}

/// Adds the values of `keys`, weighted, to the results of `tile_rows` rows from `row`.
#[target_feature(enable = "avx512f")]
fn add_weighted(
    weights: &[f32],
    values: &[f32],
    results: &mut [f32],
    row: usize,
    tile_rows: usize,
    keys: Range<usize>,
    width: usize,
) {
    if keys.is_empty() {
        return;
    }
    let depth = width.next_multiple_of(LANES);
    let strides = Strides { left: KEYS, step: depth, vector: LANES, sums: depth };
    let (weights, mut vector) = (&weights[keys.start..], 0);
    while vector < depth / LANES {
        let size = tile_size(tile_rows, depth / LANES - vector);
        let values = &values[keys.start * depth + vector * LANES..];
        let results = &mut results[row * depth + vector * LANES..];
        tile::run(size, weights, values, results, keys.len(), strides, Begin::Sums);
        vector += size[1];
    }
}
