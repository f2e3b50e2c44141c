//! Rows of floats to rows of bytes, block by block.

use super::{BLOCK, Kernel, WeightBits};
use crate::quantize::Group;
use crate::shared::Shared;
use crate::threads::Threads;

/// Rows of one task.
const ROWS_PER_TASK: usize = 8;

/// A block in words of four numbers each. Beside weights of 8 bits they are in their order. Beside weights of
/// 4 bits eight numbers are two words, first those at even places, then those at odd ones: as the weights
/// share bytes.
pub(super) type Words = [i32; BLOCK / 4];

/// Rows of x in 8 bits.
pub(super) struct BlockedRows<'a> {
    pub(super) rows: usize,
    inputs: usize,
    words: &'a [Words],
    about: Vec<Group>,
}

impl BlockedRows<'_> {
    /// A row's blocks.
    pub(super) fn blocks(&self, row: usize) -> &[Words] {
        let blocks = self.inputs / BLOCK;
        &self.words[row * blocks..][..blocks]
    }

    /// What brings them back.
    pub(super) fn about(&self, row: usize) -> &[Group] {
        let blocks = self.inputs / BLOCK;
        &self.about[row * blocks..][..blocks]
    }
}

pub(super) fn quantize<'a>(
    kernel: &Kernel,
    x: &[f32],
    inputs: usize,
    bits: WeightBits,
    scratch: &'a mut Vec<Words>,
    threads: &dyn Threads,
) -> BlockedRows<'a> {
    let (rows, blocks) = (x.len() / inputs, inputs / BLOCK);
    if scratch.len() < rows * blocks {
        scratch.resize(rows * blocks, Words::default());
    }
    let mut about = vec![Group::default(); rows * blocks];
    {
        let (words, about) = (Shared::new(scratch), Shared::new(&mut about));
        threads.run(rows.div_ceil(ROWS_PER_TASK), &|task| {
            for row in task * ROWS_PER_TASK..rows.min((task + 1) * ROWS_PER_TASK) {
                // SAFETY: every task has rows of its own, and the table asked the CPU.
                unsafe {
                    let words = words.part(row * blocks, blocks);
                    let about = about.part(row * blocks, blocks);
                    (kernel.quantize)(&x[row * inputs..][..inputs], bits, words, about);
                }
            }
        });
    }
    BlockedRows { rows, inputs, words: &scratch[..rows * blocks], about }
}
