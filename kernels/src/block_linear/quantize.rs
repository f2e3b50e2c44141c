//! Rows of floats to rows of bytes, block by block.

use std::arch::x86_64::*;

use super::{BLOCK, ZERO};
use crate::Threads;
use crate::quantize::{Group, Largest};
use crate::shared::Shared;
use crate::vectors::{LANES, load_floats};

/// Rows of one task.
const ROWS_PER_TASK: usize = 8;

/// A block in words of four numbers each. Eight numbers are two words, first those at even places, then those at odd ones: as
/// weights share bytes.
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
    x: &[f32],
    inputs: usize,
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
                // SAFETY: every task has rows of its own, and `block_linear` asked the CPU.
                unsafe {
                    let words = words.part(row * blocks, blocks);
                    let about = about.part(row * blocks, blocks);
                    let x = x[row * inputs..][..inputs].as_chunks().0;
                    for ((x, words), about) in x.iter().zip(words).zip(about) {
                        *about = quantize_block(x, words);
                    }
                }
            }
        });
    }
    BlockedRows { rows, inputs, words: &scratch[..rows * blocks], about }
}

/// Writes a block. One with NaN or infinity gives NaN outputs.
#[target_feature(enable = "avx512f,avx512bw,ssse3")]
fn quantize_block(x: &[f32; BLOCK], words: &mut Words) -> Group {
    let (low, high) = x.split_at(LANES);
    let (low, high) = (load_floats(low), load_floats(high));
    let Some(step) = Largest::of_none().and(low).and(high).step() else {
        words.fill(0);
        return Group::NOT_FINITE;
    };
    let ((low, low_words), (high, high_words)) = (step.round(low), step.round(high));
    let evens_first = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
    // SAFETY: the block takes two times four words.
    unsafe {
        _mm_storeu_si128(words.as_mut_ptr().cast(), _mm_shuffle_epi8(low, evens_first));
        _mm_storeu_si128(words.as_mut_ptr().add(4).cast(), _mm_shuffle_epi8(high, evens_first));
    }
    let sum = _mm512_reduce_add_epi32(_mm512_add_epi32(low_words, high_words));
    Group { scale: step.back, correction: ZERO * sum }
}
