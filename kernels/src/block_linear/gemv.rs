//! Products of a few rows: a decoder's step. Every weight is read once, in the order of memory, and multiplied with all rows.

use std::arch::x86_64::*;

use super::quantize::BlockedRows;
use super::{BLOCK, BlockedWeight, TILE, TILE_BYTES, halves};
use crate::Threads;
use crate::shared::Shared;
use crate::vectors::{BYTES, fetch_soon, load_f16, store_floats};

/// Most rows.
pub(super) const MOST: usize = 4;

/// Tiles of one task.
const TILES_PER_TASK: usize = 2;
/// How far ahead of the products weights are asked for, blocks.
const AHEAD: usize = 8;

pub(super) fn multiply(
    x: &BlockedRows<'_>,
    weight: BlockedWeight<'_>,
    y: &Shared<'_, f32>,
    threads: &dyn Threads,
) {
    let tiles = weight.tiles();
    threads.run(tiles.div_ceil(TILES_PER_TASK), &|task| {
        for tile in task * TILES_PER_TASK..tiles.min((task + 1) * TILES_PER_TASK) {
            // SAFETY: `block_linear` asked the CPU; every task has tiles of its own.
            unsafe {
                match x.rows {
                    1 => one_tile::<1>(x, weight, tile, y),
                    2 => one_tile::<2>(x, weight, tile, y),
                    3 => one_tile::<3>(x, weight, tile, y),
                    _ => one_tile::<4>(x, weight, tile, y),
                }
            }
        }
    });
}

/// The outputs of a tile for `R` rows.
///
/// # Safety
/// Only one task may have this tile, and the CPU must have AVX-512 VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn one_tile<const R: usize>(
    x: &BlockedRows<'_>,
    weight: BlockedWeight<'_>,
    tile: usize,
    y: &Shared<'_, f32>,
) {
    let (values, scales) = weight.tile(tile);
    let rows: [_; R] = std::array::from_fn(|r| (x.blocks(r), x.about(r)));
    assert!(rows.iter().all(|(blocks, about)| blocks.len() == values.len() && about.len() == values.len()));
    let mut sums = [_mm512_setzero_ps(); R];
    for (block, (values, scales)) in values.iter().zip(scales).enumerate() {
        fetch_soon(values, AHEAD * TILE_BYTES);
        let mut low = [_mm512_setzero_si512(); R];
        let mut high = [_mm512_setzero_si512(); R];
        for r in 0..R {
            low[r] = _mm512_set1_epi32(-rows[r].1[block].correction);
        }
        for (word, weights) in values.as_chunks::<BYTES>().0.iter().enumerate() {
            let [lower, upper] = halves(weights);
            for r in 0..R {
                let x: &[i32; BLOCK / 4] = &rows[r].0[block];
                low[r] = _mm512_dpbusd_epi32(low[r], lower, _mm512_set1_epi32(x[2 * word]));
                high[r] = _mm512_dpbusd_epi32(high[r], upper, _mm512_set1_epi32(x[2 * word + 1]));
            }
        }
        let scales = load_f16(scales);
        for r in 0..R {
            let product = _mm512_cvtepi32_ps(_mm512_add_epi32(low[r], high[r]));
            let scale = _mm512_mul_ps(_mm512_set1_ps(rows[r].1[block].scale), scales);
            sums[r] = _mm512_fmadd_ps(product, scale, sums[r]);
        }
    }
    for r in 0..R {
        // SAFETY: the caller has this tile to itself.
        store_floats(sums[r], unsafe { y.part(r * weight.outputs() + tile * TILE, TILE) });
    }
}
