//! Products of many rows: a prompt.
//!
//! A task takes the halves of a panel's bytes apart, once for all its rows. After every block the integers become floats and are added
//! to sums of their own: half a dozen rows fill the registers.

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use super::quantize::BlockedRows;
use super::{BLOCK, BlockedWeight, TILE, halves};
use crate::Threads;
use crate::shared::Shared;
use crate::vectors::{BYTES, fetch, load_f16, store_floats};

/// Rows that are multiplied at once.
const ROWS: usize = 6;
/// Tiles of a panel: two sums for each row.
const TILES: usize = 2;
/// Panels of a task: so many that the threads share the work evenly.
const PANELS_PER_TASK: usize = 4;
/// Rows of a task: so many that taking the weights apart costs next to nothing, so few that they stay near.
const ROWS_PER_TASK: usize = 64 * ROWS;

/// A block of a panel: words of four weights, a byte each, \[8 words, 2 tiles, 16 outputs\], and the scales.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct PanelBlock {
    words: [[[u8; BYTES]; TILES]; BLOCK / 4],
    scales: [[f32; TILE]; TILES],
}

const EMPTY: PanelBlock =
    PanelBlock { words: [[[0; BYTES]; TILES]; BLOCK / 4], scales: [[0.0; TILE]; TILES] };

thread_local! {
    static PANEL: RefCell<Vec<PanelBlock>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn multiply(
    x: &BlockedRows<'_>,
    weight: BlockedWeight<'_>,
    y: &Shared<'_, f32>,
    threads: &dyn Threads,
) {
    let (tiles, per_task) = (weight.tiles(), PANELS_PER_TASK * TILES);
    let groups = tiles.div_ceil(per_task);
    threads.run(groups * x.rows.div_ceil(ROWS_PER_TASK), &|task| {
        let (chunk, group) = (task / groups, task % groups);
        let rows = chunk * ROWS_PER_TASK..x.rows.min((chunk + 1) * ROWS_PER_TASK);
        PANEL.with_borrow_mut(|panel| {
            panel.resize(weight.blocks(), EMPTY);
            for first in (group * per_task..tiles.min((group + 1) * per_task)).step_by(TILES) {
                // SAFETY: `block_linear` asked the CPU; every task has tiles or rows of its own.
                unsafe {
                    unpack(weight, first, panel);
                    multiply_panel(panel, rows.clone(), x, weight, first, y);
                }
            }
        });
    });
}

/// Takes the tiles from `first`; beyond the last, that one again, since nobody reads its sums.
#[target_feature(enable = "avx512f,avx512bw")]
fn unpack(weight: BlockedWeight<'_>, first: usize, panel: &mut [PanelBlock]) {
    for tile in 0..TILES {
        let (values, scales) = weight.tile((first + tile).min(weight.tiles() - 1));
        for ((values, scales), block) in values.iter().zip(scales).zip(&mut *panel) {
            store_floats(load_f16(scales), &mut block.scales[tile]);
            for (word, weights) in values.as_chunks::<BYTES>().0.iter().enumerate() {
                for (at, half) in halves(weights).into_iter().enumerate() {
                    // SAFETY: the array takes the 64 bytes.
                    unsafe { _mm512_store_si512(block.words[2 * word + at][tile].as_mut_ptr().cast(), half) };
                }
            }
        }
    }
}

/// # Safety
/// Only one task may have these outputs of these rows, and the CPU must have AVX-512 VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn multiply_panel(
    panel: &[PanelBlock],
    rows: Range<usize>,
    x: &BlockedRows<'_>,
    weight: BlockedWeight<'_>,
    first: usize,
    y: &Shared<'_, f32>,
) {
    let next = (first + TILES..first + 2 * TILES).map(|tile| weight.tile(tile.min(weight.tiles() - 1)).0);
    let mut next = next.flatten();
    let per_turn = (TILES * weight.blocks()).div_ceil((rows.len() / ROWS).max(1));
    let mut row = rows.start;
    // SAFETY: as the caller's.
    unsafe {
        while row + ROWS <= rows.end {
            // The next panel comes from memory meanwhile.
            next.by_ref().take(per_turn).for_each(|block| fetch(block));
            run::<ROWS>(panel, row, x, weight, first, y);
            row += ROWS;
        }
        while row + 2 <= rows.end {
            run::<2>(panel, row, x, weight, first, y);
            row += 2;
        }
        if row < rows.end {
            run::<1>(panel, row, x, weight, first, y);
        }
    }
}

/// `R` rows from `row`.
///
/// # Safety
/// As [`multiply_panel`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn run<const R: usize>(
    panel: &[PanelBlock],
    row: usize,
    x: &BlockedRows<'_>,
    weight: BlockedWeight<'_>,
    first: usize,
    y: &Shared<'_, f32>,
) {
    let rows: [_; R] = std::array::from_fn(|r| (x.blocks(row + r), x.about(row + r)));
    assert!(rows.iter().all(|(blocks, about)| blocks.len() == panel.len() && about.len() == panel.len()));
    let mut sums = [[_mm512_setzero_ps(); TILES]; R];
    for (at, block) in panel.iter().enumerate() {
        let mut products = [[_mm512_setzero_si512(); TILES]; R];
        for r in 0..R {
            products[r] = [_mm512_set1_epi32(-rows[r].1[at].correction); TILES];
        }
        for (word, weights) in block.words.iter().enumerate() {
            // SAFETY: both arrays have the 64 bytes.
            let weights = weights.each_ref().map(|tile| unsafe { _mm512_load_si512(tile.as_ptr().cast()) });
            for r in 0..R {
                let x = _mm512_set1_epi32(rows[r].0[at][word]);
                for tile in 0..TILES {
                    products[r][tile] = _mm512_dpbusd_epi32(products[r][tile], weights[tile], x);
                }
            }
        }
        for tile in 0..TILES {
            // SAFETY: the array has sixteen floats.
            let scales = unsafe { _mm512_load_ps(block.scales[tile].as_ptr()) };
            for r in 0..R {
                let scale = _mm512_mul_ps(_mm512_set1_ps(rows[r].1[at].scale), scales);
                let product = _mm512_cvtepi32_ps(products[r][tile]);
                sums[r][tile] = _mm512_fmadd_ps(product, scale, sums[r][tile]);
            }
        }
    }
    for tile in 0..TILES.min(weight.tiles() - first) {
        for r in 0..R {
            let start = (row + r) * weight.outputs() + (first + tile) * TILE;
            // SAFETY: the caller has these outputs of this row to itself.
            store_floats(sums[r][tile], unsafe { y.part(start, TILE) });
        }
    }
}
