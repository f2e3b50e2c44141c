//! Products of many rows: a prompt.
//!
//! As for weights with one scale per output, a task brings a panel of 32 outputs into the order in which the instruction takes them.
//! After every block the integers become floats and are added to sums of their own: half a dozen rows fill the registers.

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use super::quantize::BlockedRows;
use super::{BLOCK, Bits, BlockedWeight};
use crate::Threads;
use crate::panel::{PANEL, store_inputs};
use crate::shared::Shared;
use crate::vectors::{BYTES, LANES, fetch, load_bytes, store_floats};

/// Rows that are multiplied at once.
const TALL: usize = 6;
/// Panels of a task: so many that the threads share the work evenly.
const PANELS_PER_TASK: usize = 4;
/// Rows of a task: so many that ordering the weights costs next to nothing, so few that they stay near.
const ROWS_PER_TASK: usize = 64 * TALL;

/// A panel's weights, and its scales \[blocks, 32\].
#[derive(Default)]
struct Panel {
    weights: Vec<u8>,
    scales: Vec<f32>,
}

thread_local! {
    static MEMORY: RefCell<Panel> = RefCell::new(Panel::default());
}

pub(super) fn multiply(
    x: &BlockedRows<'_>,
    weight: BlockedWeight<'_>,
    y: &Shared<'_, f32>,
    threads: &dyn Threads,
) {
    let per_task = PANELS_PER_TASK * PANEL;
    let groups = weight.outputs().div_ceil(per_task);
    threads.run(groups * x.rows.div_ceil(ROWS_PER_TASK), &|task| {
        let (chunk, group) = (task / groups, task % groups);
        let rows = chunk * ROWS_PER_TASK..x.rows.min((chunk + 1) * ROWS_PER_TASK);
        let outputs = group * per_task..weight.outputs().min((group + 1) * per_task);
        MEMORY.with_borrow_mut(|panel| {
            for first in outputs.step_by(PANEL) {
                // SAFETY: `block_linear` asked the CPU; every task has outputs or rows of its own.
                unsafe {
                    panel.pack(weight, first);
                    panel.multiply(rows.clone(), x, weight, first, y);
                }
            }
        });
    });
}

impl Panel {
    /// Takes the weights of 32 outputs from `first`; those beyond the last may be anything, since nobody reads their sums.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn pack(&mut self, weight: BlockedWeight<'_>, first: usize) {
        let blocks = weight.blocks();
        let output = |lane: usize| (first + lane).min(weight.outputs() - 1);
        self.scales.resize(blocks * PANEL, 0.0);
        for lane in 0..PANEL {
            for (block, scale) in weight.scales_of(output(lane)).iter().enumerate() {
                self.scales[block * PANEL + lane] = *scale;
            }
        }
        // Whole vectors: the last may be half a one.
        self.weights.resize(weight.inputs.next_multiple_of(BYTES) * PANEL, 0);
        let rows: [&[u8]; PANEL] = std::array::from_fn(|lane| weight.row(output(lane)));
        for at in (0..weight.inputs).step_by(BYTES) {
            store_inputs(&mut self.weights, at, |lane| match weight.bits {
                Bits::Eight => load_bytes(&rows[lane][at..]),
                Bits::Four => {
                    let pairs = load_bytes(&rows[lane][at / 2..]);
                    let pairs = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(pairs));
                    // A byte's upper half goes to a byte of its own.
                    let apart = _mm512_or_si512(pairs, _mm512_slli_epi16::<4>(pairs));
                    _mm512_and_si512(apart, _mm512_set1_epi8(0x0f))
                }
            });
        }
    }

    /// # Safety
    /// Only one task may have these outputs of these rows, and the CPU must have AVX-512 VNNI.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn multiply(
        &self,
        rows: Range<usize>,
        x: &BlockedRows<'_>,
        weight: BlockedWeight<'_>,
        first: usize,
        y: &Shared<'_, f32>,
    ) {
        let outputs = weight.outputs();
        let (mut row, tiles) = (rows.start, (rows.len() / TALL).max(1));
        // SAFETY: as the caller's.
        unsafe {
            while row + TALL <= rows.end {
                // The next panel comes from memory meanwhile.
                let tile = (row - rows.start) / TALL;
                for next in tile * PANEL / tiles..(tile + 1) * PANEL / tiles {
                    fetch(weight.row((first + PANEL + next).min(outputs - 1)));
                }
                self.run::<TALL>(row, x, outputs, first, y);
                row += TALL;
            }
            while row + 2 <= rows.end {
                self.run::<2>(row, x, outputs, first, y);
                row += 2;
            }
            if row < rows.end {
                self.run::<1>(row, x, outputs, first, y);
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
        x: &BlockedRows<'_>,
        outputs: usize,
        first: usize,
        y: &Shared<'_, f32>,
    ) {
        let values: [&[u8]; R] = std::array::from_fn(|r| x.values(row + r));
        let about: [_; R] = std::array::from_fn(|r| x.about(row + r));
        let blocks = about[0].len();
        assert!(values.iter().all(|values| values.len() == blocks * BLOCK));
        assert!(self.weights.len() >= blocks * BLOCK * PANEL && self.scales.len() >= blocks * PANEL);
        let mut sums = [[_mm512_setzero_ps(); 2]; R];
        for block in 0..blocks {
            let mut products = [[_mm512_setzero_si512(); 2]; R];
            for r in 0..R {
                products[r] = [_mm512_set1_epi32(-about[r][block].correction); 2];
            }
            for word in 0..BLOCK / 4 {
                // SAFETY: within the panel and the rows, as asserted.
                unsafe {
                    let weights = self.weights.as_ptr().add((block * BLOCK + word * 4) * PANEL);
                    let low = _mm512_loadu_si512(weights.cast());
                    let high = _mm512_loadu_si512(weights.add(BYTES).cast());
                    for r in 0..R {
                        let x = values[r].as_ptr().add(block * BLOCK + word * 4);
                        let x = _mm512_set1_epi32(x.cast::<i32>().read_unaligned());
                        products[r][0] = _mm512_dpbusd_epi32(products[r][0], low, x);
                        products[r][1] = _mm512_dpbusd_epi32(products[r][1], high, x);
                    }
                }
            }
            for half in 0..2 {
                // SAFETY: within the scales, as asserted.
                let scales =
                    unsafe { _mm512_loadu_ps(self.scales.as_ptr().add(block * PANEL + half * LANES)) };
                for r in 0..R {
                    let scale = _mm512_mul_ps(_mm512_set1_ps(about[r][block].scale), scales);
                    let product = _mm512_cvtepi32_ps(products[r][half]);
                    sums[r][half] = _mm512_fmadd_ps(product, scale, sums[r][half]);
                }
            }
        }
        for half in 0..2 {
            let first = first + half * LANES;
            let count = outputs.saturating_sub(first).min(LANES);
            if count == 0 {
                break;
            }
            for r in 0..R {
                // SAFETY: the caller has these outputs of this row to itself.
                store_floats(sums[r][half], unsafe { y.part((row + r) * outputs + first, count) });
            }
        }
    }
}
