//! Rows of floats to rows of bytes.

use std::arch::x86_64::*;

use crate::Threads;
use crate::quantize::{Group, Largest};
use crate::shared::Shared;
use crate::vectors::{BYTES, LANES, load_floats};

/// Rows of one task.
const ROWS_PER_TASK: usize = 16;

/// Rows of x in 8 bits.
pub(super) struct QuantizedRows<'a> {
    pub(super) rows: usize,
    /// Bytes from one row to the next: the inputs, padded with zeros to whole vectors.
    pub(super) stride: usize,
    values: &'a [u8],
    about: Vec<Group>,
}

impl QuantizedRows<'_> {
    /// A row's bytes.
    pub(super) fn values(&self, row: usize) -> &[u8] {
        &self.values[row * self.stride..][..self.stride]
    }

    pub(super) fn about(&self, row: usize) -> Group {
        self.about[row]
    }
}

pub(super) fn quantize<'a>(
    x: &[f32],
    inputs: usize,
    scratch: &'a mut Vec<u8>,
    threads: &dyn Threads,
) -> QuantizedRows<'a> {
    let (rows, stride) = (x.len() / inputs, inputs.next_multiple_of(BYTES));
    if scratch.len() < rows * stride {
        scratch.resize(rows * stride, 0);
    }
    let mut about = vec![Group::default(); rows];
    {
        let (values, about) = (Shared::new(scratch), Shared::new(&mut about));
        threads.run(rows.div_ceil(ROWS_PER_TASK), &|task| {
            for row in task * ROWS_PER_TASK..rows.min((task + 1) * ROWS_PER_TASK) {
                // SAFETY: every task has rows of its own, and `linear` asked the CPU.
                unsafe {
                    let values = values.part(row * stride, stride);
                    about.part(row, 1)[0] = quantize_row(&x[row * inputs..][..inputs], values);
                }
            }
        });
    }
    QuantizedRows { rows, stride, values: &scratch[..rows * stride], about }
}

/// Writes a row, and zeros to the end of `values`. A row with NaN or infinity gives NaN outputs.
#[target_feature(enable = "avx512f,avx512bw")]
fn quantize_row(x: &[f32], values: &mut [u8]) -> Group {
    let mut largest = Largest::of_none();
    for chunk in x.chunks(LANES) {
        largest = largest.and(load_floats(chunk));
    }
    let Some(step) = largest.step() else {
        values.fill(0);
        return Group::NOT_FINITE;
    };
    let mut sum = _mm512_setzero_si512();
    let written = x.len().div_ceil(LANES) * LANES;
    for (chunk, place) in x.chunks(LANES).zip(values.chunks_exact_mut(LANES)) {
        let (bytes, words) = step.round(load_floats(chunk));
        sum = _mm512_add_epi32(sum, words);
        // SAFETY: `place` takes the sixteen.
        unsafe { _mm_storeu_si128(place.as_mut_ptr().cast(), bytes) };
    }
    values[written..].fill(0);
    Group { scale: step.back, correction: 128 * _mm512_reduce_add_epi32(sum) }
}
