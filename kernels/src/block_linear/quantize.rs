//! Rows of floats to rows of bytes, block by block.

use std::arch::x86_64::*;

use super::BLOCK;
use crate::Threads;
use crate::quantize::{Group, Largest};
use crate::shared::Shared;
use crate::vectors::{LANES, load_floats};

/// Rows of one task.
const ROWS_PER_TASK: usize = 8;

/// Rows of x in 8 bits.
pub(super) struct BlockedRows<'a> {
    pub(super) rows: usize,
    inputs: usize,
    values: &'a [u8],
    about: Vec<Group>,
}

impl BlockedRows<'_> {
    /// A row's bytes.
    pub(super) fn values(&self, row: usize) -> &[u8] {
        &self.values[row * self.inputs..][..self.inputs]
    }

    /// A row's blocks.
    pub(super) fn about(&self, row: usize) -> &[Group] {
        let blocks = self.inputs / BLOCK;
        &self.about[row * blocks..][..blocks]
    }
}

pub(super) fn quantize<'a>(
    x: &[f32],
    inputs: usize,
    zero: i32,
    scratch: &'a mut Vec<u8>,
    threads: &dyn Threads,
) -> BlockedRows<'a> {
    let (rows, blocks) = (x.len() / inputs, inputs / BLOCK);
    if scratch.len() < x.len() {
        scratch.resize(x.len(), 0);
    }
    let mut about = vec![Group::default(); rows * blocks];
    {
        let (values, about) = (Shared::new(scratch), Shared::new(&mut about));
        threads.run(rows.div_ceil(ROWS_PER_TASK), &|task| {
            for row in task * ROWS_PER_TASK..rows.min((task + 1) * ROWS_PER_TASK) {
                // SAFETY: every task has rows of its own, and `block_linear` asked the CPU.
                unsafe {
                    let values = values.part(row * inputs, inputs).as_chunks_mut().0;
                    let about = about.part(row * blocks, blocks);
                    let x = x[row * inputs..][..inputs].as_chunks().0;
                    for ((x, values), about) in x.iter().zip(values).zip(about) {
                        *about = quantize_block(x, values, zero);
                    }
                }
            }
        });
    }
    BlockedRows { rows, inputs, values: &scratch[..x.len()], about }
}

/// Writes a block. One that is not all finite becomes one that is no number, as its product would be.
#[target_feature(enable = "avx512f,avx512bw")]
fn quantize_block(x: &[f32; BLOCK], values: &mut [u8; BLOCK], zero: i32) -> Group {
    let (low, high) = x.split_at(LANES);
    let (low, high) = (load_floats(low), load_floats(high));
    let Some(step) = Largest::of_none().and(low).and(high).step() else {
        values.fill(0);
        return Group::NOT_FINITE;
    };
    let ((low, low_words), (high, high_words)) = (step.round(low), step.round(high));
    // SAFETY: the block takes two times sixteen bytes.
    unsafe {
        _mm_storeu_si128(values.as_mut_ptr().cast(), low);
        _mm_storeu_si128(values.as_mut_ptr().add(LANES).cast(), high);
    }
    let sum = _mm512_reduce_add_epi32(_mm512_add_epi32(low_words, high_words));
    Group { scale: step.back, correction: zero * sum }
}
