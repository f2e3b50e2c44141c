//! A block of queries with all keys, block by block.

use std::arch::x86_64::*;
use std::ops::Range;

use super::pack::{Keys, Packed, store_bf16};
use super::{QUERIES, padded};
use crate::attention::Head;
use crate::avx512::exp::exp2;
use crate::avx512::tile::{self, Begin, Strides};
use crate::avx512::{LANES, load_floats, store_floats};
use crate::shared::Shared;

/// Keys of a block: their products with the queries take 48 KiB, their numbers 64, of the second cache.
const KEYS: usize = 256;
/// Queries whose products or results are computed at once: four vectors of sums for each, 24 registers. (Of
/// twelve queries with two vectors each, not all addresses would fit the registers.)
const TILE_ROWS: usize = 6;
/// Four correct digits of an exponential: more than a bfloat16 keeps.
const TERMS: usize = 5;
/// Stands for minus infinity where there is no key: its exponential is zero, and differences of it are
/// numbers.
const NO_KEY: f32 = -1e30;

/// Memory of one thread.
#[derive(Default)]
pub(super) struct Block {
    /// \[QUERIES, distances\]: products with the tables.
    row_biases: Vec<f32>,
    column_biases: Vec<f32>,
    /// \[QUERIES, KEYS\]: products, and their exponentials as pairs of 16-bit floats.
    products: Vec<f32>,
    weights: Vec<u32>,
    /// \[QUERIES, head_width\]: sums of weighted values.
    results: Vec<f32>,
    /// Largest product so far, and the sum of the exponentials.
    largest: Vec<f32>,
    sums: Vec<f32>,
}

impl Block {
    /// # Safety
    /// Nobody else may have the results of these queries of this head, and the CPU must have AVX-512 BF16.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub(super) unsafe fn run(
        &mut self,
        head: &Head,
        queries: Range<usize>,
        packed: &Packed<'_>,
        biases: Option<[Keys<'_>; 2]>,
        out: &Shared<'_, f32>,
    ) {
        let (positions, depth) = (head.grid.positions(), padded(head.grid.head_width));
        let rows = queries.len().next_multiple_of(TILE_ROWS);
        let words = packed.queries(queries.start);
        self.begin(words, rows, biases, depth);
        for first in (0..positions).step_by(KEYS) {
            let count = KEYS.min(positions - first);
            let panels = count.div_ceil(LANES);
            let begin = match biases {
                None => Begin::Anew,
                Some(biases) => {
                    self.spread_biases(head, queries.clone(), first, count, biases);
                    Begin::Sums
                }
            };
            let keys = packed.keys.panel(first / LANES, panels);
            multiply_keys(words, keys, depth / 2, rows, &mut self.products, KEYS, begin);
            self.forget_products(queries.len(), count..panels * LANES);
            self.softmax(queries.len(), panels, depth);
            let values = packed.values(first, panels * LANES);
            multiply_values(&self.weights, values, depth, rows, &mut self.results);
        }
        for (i, query) in queries.enumerate() {
            // SAFETY: the caller has these results to itself.
            let out = unsafe { out.part(head.place(query), head.grid.head_width) };
            let factor = self.sums[i].recip();
            for (out, sum) in out.iter_mut().zip(&self.results[i * depth..]) {
                *out = sum * factor;
            }
        }
    }

    /// Multiplies the queries with the tables, and forgets what was before.
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn begin(&mut self, queries: &[u32], rows: usize, biases: Option<[Keys<'_>; 2]>, depth: usize) {
        let tables = biases.into_iter().flatten();
        for (table, products) in tables.zip([&mut self.row_biases, &mut self.column_biases]) {
            let distances = table.panels() * LANES;
            products.resize(QUERIES * distances, 0.0);
            let panels = table.panel(0, table.panels());
            multiply_keys(queries, panels, depth / 2, rows, products, distances, Begin::Anew);
        }
        self.products.resize(QUERIES * KEYS, 0.0);
        self.weights.resize(QUERIES * KEYS / 2, 0);
        for (list, length, value) in [
            (&mut self.largest, QUERIES, NO_KEY),
            (&mut self.sums, QUERIES, 0.0),
            (&mut self.results, QUERIES * depth, 0.0),
        ] {
            list.clear();
            list.resize(length, value);
        }
    }

    /// Marks places of a panel that have no key.
    fn forget_products(&mut self, queries: usize, places: Range<usize>) {
        if !places.is_empty() {
            self.products.chunks_exact_mut(KEYS).take(queries).for_each(|products| {
                products[places.clone()].fill(NO_KEY);
            });
        }
    }

    /// Begins the products of `count` keys from `first` with their biases.
    #[target_feature(enable = "avx512f")]
    fn spread_biases(
        &mut self,
        head: &Head,
        queries: Range<usize>,
        first: usize,
        count: usize,
        [rows, columns]: [Keys<'_>; 2],
    ) {
        let (height, width) = (head.grid.height, head.grid.width);
        let (row_distances, column_distances) = (rows.panels() * LANES, columns.panels() * LANES);
        for (i, query) in queries.enumerate() {
            // Key k lies in these lists at n - 1 - q + k.
            let rows = &self.row_biases[i * row_distances + height - 1 - query / width..][..height];
            let columns = &self.column_biases[i * column_distances + width - 1 - query % width..][..width];
            let products = &mut self.products[i * KEYS..][..KEYS];
            let mut done = 0;
            while done < count {
                let (row, column) = ((first + done) / width, (first + done) % width);
                let run = (width - column).min(count - done);
                let bias = _mm512_set1_ps(rows[row]);
                let columns = columns[column..][..run].chunks(LANES);
                for (columns, products) in columns.zip(products[done..][..run].chunks_mut(LANES)) {
                    store_floats(_mm512_add_ps(load_floats(columns), bias), products);
                }
                done += run;
            }
        }
    }

    /// Products to weights relative to the largest product so far; what was summed before is brought to the
    /// same scale.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    fn softmax(&mut self, queries: usize, panels: usize, depth: usize) {
        for i in 0..queries {
            let products = &self.products[i * KEYS..][..panels * LANES];
            let mut largest = _mm512_set1_ps(self.largest[i]);
            let (products, _) = products.as_chunks();
            for products in products {
                largest = _mm512_max_ps(largest, whole(products));
            }
            let largest = _mm512_reduce_max_ps(largest);
            let shift = _mm512_set1_ps(largest);
            let mut sum = _mm512_setzero_ps();
            let (weights, _) =
                self.weights[i * KEYS / 2..][..panels * LANES / 2].as_chunks_mut::<{ LANES / 2 }>();
            for (products, weights) in products.iter().zip(weights) {
                let weight = exp2::<TERMS>(_mm512_sub_ps(whole(products), shift));
                sum = _mm512_add_ps(sum, weight);
                store_bf16(weight, weights);
            }
            let sum = _mm512_reduce_add_ps(sum);
            let before = self.largest[i];
            if largest > before {
                let factor = (before - largest).exp2();
                self.sums[i] *= factor;
                for result in &mut self.results[i * depth..][..depth] {
                    *result *= factor;
                }
                self.largest[i] = largest;
            }
            self.sums[i] += sum;
        }
    }
}

/// Sixteen floats.
#[inline]
#[target_feature(enable = "avx512f")]
fn whole(x: &[f32; LANES]) -> __m512 {
    // SAFETY: the array has the sixteen.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}

/// Products \[rows, stride\] of `queries` \[rows, depth\] words with panels of keys; `rows` are whole tiles.
#[target_feature(enable = "avx512f,avx512bf16")]
fn multiply_keys(
    queries: &[u32],
    keys: &[u32],
    depth: usize,
    rows: usize,
    products: &mut [f32],
    stride: usize,
    begin: Begin,
) {
    let panels = keys.len() / (depth * LANES);
    let strides = Strides { left: depth, step: LANES, vector: depth * LANES, sums: stride };
    for panel in (0..panels).step_by(4) {
        for first in (0..rows).step_by(TILE_ROWS) {
            let queries = &queries[first * depth..][..TILE_ROWS * depth];
            let products = &mut products[first * stride + panel * LANES..];
            let keys = &keys[panel * depth * LANES..];
            match panels - panel {
                1 => tile::pairs::<TILE_ROWS, 1>(queries, keys, products, depth, strides, begin),
                2 => tile::pairs::<TILE_ROWS, 2>(queries, keys, products, depth, strides, begin),
                3 => tile::pairs::<TILE_ROWS, 3>(queries, keys, products, depth, strides, begin),
                _ => tile::pairs::<TILE_ROWS, 4>(queries, keys, products, depth, strides, begin),
            }
        }
    }
}

/// Adds to `results` \[rows, width\] the values \[keys / 2, width\] words, weighted by `weights` \[rows, KEYS
/// / 2\] words.
#[target_feature(enable = "avx512f,avx512bf16")]
fn multiply_values(weights: &[u32], values: &[u32], width: usize, rows: usize, results: &mut [f32]) {
    let pairs = values.len() / width;
    assert!(pairs <= KEYS / 2, "expected at most {KEYS} keys, found {}", 2 * pairs);
    let strides = Strides { left: KEYS / 2, step: width, vector: LANES, sums: width };
    for column in (0..width).step_by(4 * LANES) {
        for first in (0..rows).step_by(TILE_ROWS) {
            let weights = &weights[first * KEYS / 2..];
            let (values, results) = (&values[column..], &mut results[first * width + column..]);
            match ((width - column) / LANES).min(4) {
                1 => tile::pairs::<TILE_ROWS, 1>(weights, values, results, pairs, strides, Begin::Sums),
                2 => tile::pairs::<TILE_ROWS, 2>(weights, values, results, pairs, strides, Begin::Sums),
                3 => tile::pairs::<TILE_ROWS, 3>(weights, values, results, pairs, strides, Begin::Sums),
                _ => tile::pairs::<TILE_ROWS, 4>(weights, values, results, pairs, strides, Begin::Sums),
            }
        }
    }
}
