//! Linear layers with weights in blocks of 32 along each row, of 4 or 8 bits and with a scale each: a
//! decoder's.
//!
//! Activations are quantized block by block, too. A block's product is an integer and therefore exact; blocks
//! are added in their order, in all kernels with the same roundings. So a row's result depends neither on the
//! rows beside it nor on which kernel ran: prompts in chunks and answers in batches give the same bits.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod rows;

use std::ops::Range;

use half::f16;

use crate::quantize::Group;
use crate::shared::{Shared, part};
use crate::table::Table;
use crate::threads::Threads;
use rows::{BlockedRows, Words, quantize};

/// The kernels, the fastest first.
pub(crate) static TABLE: Table<Kernel> = Table::new(&[
    #[cfg(target_arch = "x86_64")]
    avx512::ROW,
]);

/// What a set of instructions does.
pub(crate) struct Kernel {
    /// Writes a row of whole blocks in 8 bits, and what brings each block back. One with NaN or infinity
    /// becomes [`Group::NOT_FINITE`]; the correction of others is [`WeightBits::zero`] times the sum of their
    /// bytes. The order within a block is that of weights of so many bits.
    ///
    /// # Safety
    /// The CPU must have the instructions.
    quantize: unsafe fn(x: &[f32], bits: WeightBits, words: &mut [Words], about: &mut [Group]),
    few: Few,
    many: Many,
}

/// A decoder's step: weights are read once, and multiplied as they lie.
struct Few {
    /// Most rows.
    rows: usize,
    /// Tiles of a task.
    tiles: usize,
    /// Multiplies all rows with some tiles.
    ///
    /// # Safety
    /// Only one task may have these tiles, and the CPU must have the instructions.
    multiply: unsafe fn(&BlockedRows<'_>, BlockedWeight<'_>, tiles: Range<usize>, y: &Shared<'_, f32>),
}

/// A prompt: it pays to bring a panel's weights together first, and to take halves of bytes apart.
struct Many {
    /// Rows of a task.
    rows: usize,
    /// Tiles of a task.
    tiles: usize,
    /// Multiplies some rows with some tiles.
    ///
    /// # Safety
    /// Only one task may have these tiles of these rows, and the CPU must have the instructions.
    multiply: unsafe fn(
        &BlockedRows<'_>,
        BlockedWeight<'_>,
        rows: Range<usize>,
        tiles: Range<usize>,
        y: &Shared<'_, f32>,
    ),
}

/// Weights of a block.
pub const BLOCK: usize = 32;
/// Outputs of a tile.
pub const TILE: usize = 16;

/// Bytes of a block of a tile's weights of 4 bits.
const FOUR_BITS: usize = TILE * BLOCK / 2;
/// The same of 8 bits.
const EIGHT_BITS: usize = TILE * BLOCK;

/// Bits of a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightBits {
    /// Two weights to a byte, the first in the lower half.
    Four,
    /// A byte each.
    Eight,
}

impl WeightBits {
    /// What stands for zero in a weight.
    const fn zero(self) -> i32 {
        match self {
            Self::Four => 8,
            Self::Eight => 128,
        }
    }

    /// Words of a block of an output's weights.
    pub const fn words(self) -> usize {
        match self {
            Self::Four => BLOCK / 8,
            Self::Eight => BLOCK / 4,
        }
    }
}

/// A weight in the order in which the instruction takes it: `y = x * weight^T`.
///
/// Four bytes of an output's weights are a word; a tile's sixteen outputs have their words side by side. The
/// middle of a weight's range stands for zero.
#[derive(Debug, Clone, Copy)]
pub struct BlockedWeight<'a> {
    /// Bits of each.
    pub bits: WeightBits,
    /// Inputs: a whole number of blocks.
    pub inputs: usize,
    /// \[outputs / 16, blocks, words, 16 outputs, 4 bytes\].
    pub values: &'a [u8],
    /// \[outputs / 16, blocks, 16 outputs\].
    pub scales: &'a [f16],
}

impl BlockedWeight<'_> {
    fn blocks(&self) -> usize {
        self.inputs / BLOCK
    }

    fn tiles(&self) -> usize {
        self.scales.len() / (self.blocks() * TILE)
    }

    fn outputs(&self) -> usize {
        self.tiles() * TILE
    }

    /// A tile's blocks of `BLOCK_BYTES` bytes, and their scales.
    fn tile<const BLOCK_BYTES: usize>(&self, tile: usize) -> (&[[u8; BLOCK_BYTES]], &[[f16; TILE]]) {
        let (blocks, at) = (self.blocks(), tile * self.blocks());
        (&self.values.as_chunks().0[at..][..blocks], &self.scales.as_chunks().0[at..][..blocks])
    }
}

/// `y` \[rows, outputs\] from `x` \[rows, inputs\]. Each block of x is scaled so that its largest magnitude
/// becomes 127, rounded to the nearest integer, multiplied, and scaled back. `scratch` keeps memory between
/// calls.
///
/// # Panics
/// When the slices do not fit each other, or the CPU has no kernel ([`crate::Operator::BlockLinear`]).
pub fn block_linear(
    x: &[f32],
    weight: BlockedWeight<'_>,
    y: &mut [f32],
    scratch: &mut Vec<[i32; BLOCK / 4]>,
    threads: &dyn Threads,
) {
    block_linear_with(TABLE.kernel(), x, weight, y, scratch, threads);
}

fn block_linear_with(
    kernel: &Kernel,
    x: &[f32],
    weight: BlockedWeight<'_>,
    y: &mut [f32],
    scratch: &mut Vec<Words>,
    threads: &dyn Threads,
) {
    let inputs = weight.inputs;
    assert!(inputs > 0 && inputs.is_multiple_of(BLOCK), "inputs: expected whole blocks, found {inputs}");
    let (rows, outputs) = (x.len() / inputs, weight.outputs());
    if y.is_empty() {
        return;
    }
    assert_eq!(x.len(), rows * inputs, "x: expected whole rows of {inputs}");
    assert_eq!(weight.scales.len(), outputs * weight.blocks(), "scales: expected whole tiles");
    let bytes = weight.scales.len() * weight.bits.words() * 4;
    assert_eq!(weight.values.len(), bytes, "values: expected whole blocks");
    assert_eq!(y.len(), rows * outputs, "y: expected [{rows}, {outputs}]");

    let x = quantize(kernel, x, inputs, weight.bits, scratch, threads);
    let (y, tiles) = (Shared::new(y), weight.tiles());
    let (few, many) = (&kernel.few, &kernel.many);
    if rows <= few.rows {
        threads.run(tiles.div_ceil(few.tiles), &|task| {
            let part = part(task, few.tiles, tiles);
            // SAFETY: every task has tiles of its own, and the table asked the CPU.
            unsafe { (few.multiply)(&x, weight, part, &y) }
        });
    } else {
        let groups = tiles.div_ceil(many.tiles);
        threads.run(groups * rows.div_ceil(many.rows), &|task| {
            let (rows, tiles) =
                (part(task / groups, many.rows, rows), part(task % groups, many.tiles, tiles));
            // SAFETY: every task has tiles or rows of its own, and the table asked the CPU.
            unsafe { (many.multiply)(&x, weight, rows, tiles, &y) }
        });
    }
}

#[cfg(test)]
mod tests;
