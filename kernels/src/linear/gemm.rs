//! Products of many rows: an encoder, or a prompt.
//!
//! A task has a few panels of 32 outputs and a range of rows. It brings a panel's weights into the order in which the instruction takes
//! them (32 outputs, four inputs each), small enough to stay in the second cache, and multiplies all its rows with them, a dozen at once:
//! 24 sums stay in registers from the first input to the last. Meanwhile the next panel's weights come from memory.

use std::arch::x86_64::*;
use std::cell::RefCell;

use super::quantize::QuantizedRows;
use super::{Weight, scaled_back};
use crate::Threads;
use crate::shared::Shared;
use crate::vectors::{BYTES, LANES, fetch, load_bytes, load_floats, store_floats, transposed};

/// Outputs of a panel, in the order in which the instruction takes their weights, \[inputs / 4, 32, 4\] bytes: two vectors of sums for each row.
const PANEL: usize = 2 * LANES;
/// Rows that are multiplied at once: with two vectors each, as many as the registers hold.
const TILE_ROWS: usize = 12;
/// Panels of a task.
const PANELS_PER_TASK: usize = 4;
/// Rows of a task: so many that ordering the weights costs next to nothing.
const ROWS_PER_TASK: usize = 85 * TILE_ROWS;

thread_local! {
    static WEIGHTS: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn multiply(
    x: &QuantizedRows<'_>,
    weight: Weight<'_>,
    y: &Shared<'_, f32>,
    threads: &dyn Threads,
) {
    let (outputs, depth) = (weight.outputs(), x.stride);
    let groups = outputs.div_ceil(PANELS_PER_TASK * PANEL);
    threads.run(groups * x.rows.div_ceil(ROWS_PER_TASK), &|task| {
        let (chunk, group) = (task / groups, task % groups);
        let first = group * PANELS_PER_TASK * PANEL;
        let rows = chunk * ROWS_PER_TASK..x.rows.min((chunk + 1) * ROWS_PER_TASK);
        WEIGHTS.with_borrow_mut(|panel| {
            panel.resize(PANEL * depth, 0);
            for first in (first..outputs.min(first + PANELS_PER_TASK * PANEL)).step_by(PANEL) {
                // SAFETY: `linear` asked the CPU.
                unsafe { pack_panel(weight, first, depth, panel) };
                let tiles = rows.len().div_ceil(TILE_ROWS);
                for (i, row) in rows.clone().step_by(TILE_ROWS).enumerate() {
                    for next in i * PANEL / tiles..(i + 1) * PANEL / tiles {
                        fetch(weight.row((first + PANEL + next).min(outputs - 1)));
                    }
                    let tile = Tile { rows: row..rows.end.min(row + TILE_ROWS), first, panel };
                    // SAFETY: `linear` asked the CPU; every task has outputs or rows of its own.
                    unsafe { tile.multiply(x, weight, y) };
                }
            }
        });
    });
}

/// Writes the weights of 32 outputs, raised by 128; outputs beyond the last and inputs beyond the
/// depth's true end may be anything, since nobody reads the former's sums and the rows are zero at the latter.
#[target_feature(enable = "avx512f,avx512bw")]
fn pack_panel(weight: Weight<'_>, first: usize, depth: usize, panel: &mut [u8]) {
    let last = weight.outputs() - 1;
    let raise = _mm512_set1_epi8(i8::MIN);
    for at in (0..depth).step_by(BYTES) {
        store_inputs(panel, at, |lane| {
            _mm512_xor_si512(load_bytes(&weight.row((first + lane).min(last))[at..]), raise)
        });
    }
}

/// Writes 64 inputs from `at` on, as `row` gives them of every output.
#[inline]
#[target_feature(enable = "avx512f")]
fn store_inputs(panel: &mut [u8], at: usize, row: impl Fn(usize) -> __m512i) {
    for half in 0..2 {
        let rows = std::array::from_fn(|lane| row(half * LANES + lane));
        for (word, column) in transposed(rows).into_iter().enumerate() {
            let place = &mut panel[(at / 4 + word) * PANEL * 4 + half * BYTES..][..BYTES];
            // SAFETY: `place` takes the 64 bytes.
            unsafe { _mm512_storeu_si512(place.as_mut_ptr().cast(), column) };
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
                TILE_ROWS => self.run::<TILE_ROWS>(self.rows.start, x, weight, y),
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
            let [scales, bias] = [weight.scales, weight.bias].map(|all| load_floats(&all[first..]));
            for r in 0..R {
                let result = scaled_back(sums[r][half], x.about(row + r), scales, bias);
                // SAFETY: the caller has these outputs of this row to itself.
                store_floats(result, unsafe { y.part((row + r) * outputs + first, count) });
            }
        }
    }
}
