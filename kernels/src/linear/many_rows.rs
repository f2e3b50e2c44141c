//! Products of many rows: an encoder, or a prompt.
//!
//! A task has a block of outputs and a range of rows. It brings the block's weights into the order in which the instruction takes
//! them (32 outputs, four inputs each), small enough to stay in the second cache, and multiplies all its rows with them, a dozen at once:
//! 24 sums stay in registers from the first input to the last.

use std::arch::x86_64::*;
use std::cell::RefCell;

use super::Weight;
use super::quantize::QuantizedRows;
use crate::Threads;
use crate::shared::Shared;
use crate::transpose::{LANES, transposed};

/// Outputs of a panel: two vectors of sums for each row.
const PANEL: usize = 2 * LANES;
/// Rows that are multiplied at once: with two vectors each, as many as the registers hold.
const TALL: usize = 12;
/// Bytes of weights that a task keeps at hand: a part of the second cache, beside the rows that pass by.
const BLOCK_BYTES: usize = 256 << 10;
/// Rows of a task: so many that ordering the weights costs next to nothing.
const ROWS_PER_TASK: usize = 85 * TALL;
/// Bytes of a vector.
const BYTES: usize = 64;

thread_local! {
    static BLOCK: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn multiply(x: &QuantizedRows<'_>, weight: Weight<'_>, y: &Shared<'_, f32>, threads: &dyn Threads) {
    let (outputs, depth) = (weight.outputs(), x.stride);
    // Blocks of equal size, and at least a few for each thread.
    let largest = (BLOCK_BYTES / depth / PANEL).clamp(1, 16);
    let panels = outputs.div_ceil(PANEL);
    let blocks = panels.div_ceil(largest).max(panels.min(8));
    let per_block = panels.div_ceil(blocks) * PANEL;
    let blocks = outputs.div_ceil(per_block);
    threads.run(blocks * x.rows.div_ceil(ROWS_PER_TASK), &|task| {
        let (chunk, block) = (task / blocks, task % blocks);
        let outputs = block * per_block..outputs.min((block + 1) * per_block);
        let rows = chunk * ROWS_PER_TASK..x.rows.min((chunk + 1) * ROWS_PER_TASK);
        BLOCK.with_borrow_mut(|bytes| {
            let panels = outputs.len().div_ceil(PANEL);
            bytes.resize(bytes.len().max(panels * PANEL * depth), 0);
            for (panel, bytes) in bytes.chunks_exact_mut(PANEL * depth).take(panels).enumerate() {
                let first = outputs.start + panel * PANEL;
                // SAFETY: `linear` asked the CPU.
                unsafe { order_panel(weight, first, depth, bytes) };
            }
            for first in rows.clone().step_by(TALL) {
                for panel in 0..panels {
                    let tile = Tile {
                        rows: first..rows.end.min(first + TALL),
                        first: outputs.start + panel * PANEL,
                        panel: &bytes[panel * PANEL * depth..][..PANEL * depth],
                    };
                    // SAFETY: `linear` asked the CPU; every task has outputs or rows of its own.
                    unsafe { tile.multiply(x, weight, y) };
                }
            }
        });
    });
}

/// Writes the weights of 32 outputs, raised by 128, as \[depth / 4, 32, 4\]; outputs beyond the last and inputs beyond the
/// depth's true end may be anything, since nobody reads the former's sums and the rows are zero at the latter.
#[target_feature(enable = "avx512f,avx512bw")]
fn order_panel(weight: Weight<'_>, first: usize, depth: usize, panel: &mut [u8]) {
    let (outputs, inputs) = (weight.outputs(), weight.inputs());
    let raise = _mm512_set1_epi8(i8::MIN);
    for half in 0..2 {
        for at in (0..depth).step_by(BYTES) {
            let mask = u64::MAX >> BYTES.saturating_sub(inputs - at);
            let rows = std::array::from_fn(|lane| {
                let output = (first + half * LANES + lane).min(outputs - 1);
                let row = &weight.values[output * inputs..][..inputs];
                // SAFETY: the mask keeps the load within the row.
                unsafe { _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, row.as_ptr().add(at)), raise) }
            });
            for (word, column) in transposed(rows).into_iter().enumerate() {
                let place = &mut panel[(at / 4 + word) * PANEL * 4 + half * BYTES..][..BYTES];
                // SAFETY: `place` takes the 64 bytes.
                unsafe { _mm512_storeu_si512(place.as_mut_ptr().cast(), column) };
            }
        }
    }
}

/// Some rows with the outputs of one panel.
struct Tile<'a> {
    rows: std::ops::Range<usize>,
    /// First output.
    first: usize,
    panel: &'a [u8],
}

impl Tile<'_> {
    /// # Safety
    /// Only one task may have these outputs of these rows, and the CPU must have AVX-512 VNNI.
    unsafe fn multiply(&self, x: &QuantizedRows<'_>, weight: Weight<'_>, y: &Shared<'_, f32>) {
        // SAFETY: as the caller's.
        unsafe {
            match self.rows.len() {
                TALL => self.run::<TALL>(self.rows.start, x, weight, y),
                rest => {
                    let mut row = self.rows.start;
                    for _ in 0..rest / 4 {
                        self.run::<4>(row, x, weight, y);
                        row += 4;
                    }
                    for row in row..self.rows.end {
                        self.run::<1>(row, x, weight, y);
                    }
                }
            }
        }
    }

    /// `R` rows from `row`.
    ///
    /// # Safety
    /// As [`Self::multiply`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn run<const R: usize>(
        &self,
        row: usize,
        x: &QuantizedRows<'_>,
        weight: Weight<'_>,
        y: &Shared<'_, f32>,
    ) {
        let depth = x.stride;
        let rows: [*const u8; R] = std::array::from_fn(|r| x.values(row + r).as_ptr());
        assert_eq!(self.panel.len(), depth * PANEL);
        let mut sums = [[_mm512_setzero_si512(); 2]; R];
        for at in (0..depth).step_by(4) {
            // SAFETY: `at` is below the depth, which rows and panel have.
            unsafe {
                let weights = self.panel.as_ptr().add(at * PANEL);
                let low = _mm512_loadu_si512(weights.cast());
                let high = _mm512_loadu_si512(weights.add(BYTES).cast());
                for r in 0..R {
                    let x = _mm512_set1_epi32(rows[r].add(at).cast::<i32>().read_unaligned());
                    sums[r][0] = _mm512_dpbusd_epi32(sums[r][0], low, x);
                    sums[r][1] = _mm512_dpbusd_epi32(sums[r][1], high, x);
                }
            }
        }
        let outputs = weight.outputs();
        for half in 0..2 {
            let first = self.first + half * LANES;
            let count = outputs.saturating_sub(first).min(LANES);
            if count == 0 {
                break;
            }
            let mask = u16::MAX >> (LANES - count);
            // SAFETY: the mask keeps loads and stores to the `count` outputs from `first`, which the caller has to itself.
            unsafe {
                let scales = _mm512_maskz_loadu_ps(mask, weight.scales[first..].as_ptr());
                let bias = _mm512_maskz_loadu_ps(mask, weight.bias[first..].as_ptr());
                for r in 0..R {
                    let about = x.about(row + r);
                    let product = _mm512_sub_epi32(sums[r][half], _mm512_set1_epi32(about.raised));
                    let scale = _mm512_mul_ps(_mm512_set1_ps(about.scale), scales);
                    let result = _mm512_fmadd_ps(_mm512_cvtepi32_ps(product), scale, bias);
                    let y = y.part((row + r) * outputs + first, count);
                    _mm512_mask_storeu_ps(y.as_mut_ptr(), mask, result);
                }
            }
        }
    }
}
