//! Linear layers in 8 bits: weights with a scale for each output, activations with a scale for each row,
//! found on the way.
//!
//! Sums of products are integers and therefore exact, and what follows is done to each number alone: a row's
//! result depends neither on the rows beside it, nor on which kernel ran. Batches, chunks and streams give
//! the same bits.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod rows;

use std::ops::Range;

use crate::quantize::Group;
use crate::shared::{Shared, part};
use crate::table::Table;
use crate::threads::Threads;
use rows::{QuantizedRows, quantize};

/// The kernels, the fastest first.
pub(crate) static TABLE: Table<Kernel> = Table::new(&[
    #[cfg(target_arch = "x86_64")]
    avx512::ROW,
]);

/// What a set of instructions does.
pub(crate) struct Kernel {
    /// Writes a row in 8 bits, and zeros to the end of `values`, which is the row's length and the padding. A
    /// row with NaN or infinity becomes [`Group::NOT_FINITE`]; the correction of others is 128 times the sum
    /// of their bytes.
    ///
    /// # Safety
    /// The CPU must have the instructions.
    quantize: unsafe fn(x: &[f32], values: &mut [u8]) -> Group,
    few: Few,
    many: Many,
}

/// A decoder's step: weights are read once, and multiplied as they lie.
struct Few {
    /// Most rows.
    rows: usize,
    /// Outputs of a task.
    outputs: usize,
    /// Multiplies all rows with some outputs.
    ///
    /// # Safety
    /// Only one task may have these outputs, and the CPU must have the instructions.
    multiply: unsafe fn(&QuantizedRows<'_>, Weight<'_>, outputs: Range<usize>, y: &Shared<'_, f32>),
}

/// An encoder, or a prompt: it pays to bring the weights into another order first.
struct Many {
    /// Rows of a task: with this many, ordering the weights costs next to nothing.
    rows: usize,
    /// Outputs of a task.
    outputs: usize,
    /// Multiplies some rows with some outputs.
    ///
    /// # Safety
    /// Only one task may have these outputs of these rows, and the CPU must have the instructions.
    multiply: unsafe fn(
        &QuantizedRows<'_>,
        Weight<'_>,
        rows: Range<usize>,
        outputs: Range<usize>,
        y: &Shared<'_, f32>,
    ),
}

/// Most inputs of a [`linear()`] layer. The sum of this many products of signed bytes fits 32 bits, and so
/// does the correction. Kernels first sum products with raised weights. This sum may be too large for 32
/// bits: it wraps, and subtracting the correction wraps back.
pub const MOST_INPUTS: usize = 1 << 17;

/// A weight in 8 bits, as checkpoints order it: `y = x * weight^T * scale + bias`.
#[derive(Debug, Clone, Copy)]
pub struct Weight<'a> {
    /// \[outputs, inputs\], from -127 to 127.
    pub values: &'a [i8],
    /// \[outputs\].
    pub scales: &'a [f32],
    /// \[outputs\].
    pub bias: &'a [f32],
}

impl Weight<'_> {
    fn outputs(&self) -> usize {
        self.scales.len()
    }

    fn inputs(&self) -> usize {
        self.values.len() / self.outputs().max(1)
    }

    /// An output's bytes, signed.
    fn row(&self, output: usize) -> &[u8] {
        let inputs = self.inputs();
        let row = &self.values[output * inputs..][..inputs];
        // SAFETY: bytes are bytes, signed or not.
        unsafe { std::slice::from_raw_parts(row.as_ptr().cast(), row.len()) }
    }
}

/// `y` \[rows, outputs\] from `x` \[rows, inputs\]. Each row of x is scaled so that its largest magnitude
/// becomes 127, rounded to the nearest integer, multiplied, and scaled back. `scratch` keeps memory between
/// calls.
///
/// # Panics
/// When the slices do not fit each other, or the CPU has no kernel ([`crate::Operator::Linear`]).
pub fn linear(x: &[f32], weight: Weight<'_>, y: &mut [f32], scratch: &mut Vec<u8>, threads: &dyn Threads) {
    linear_with(TABLE.kernel(), x, weight, y, scratch, threads);
}

fn linear_with(
    kernel: &Kernel,
    x: &[f32],
    weight: Weight<'_>,
    y: &mut [f32],
    scratch: &mut Vec<u8>,
    threads: &dyn Threads,
) {
    let (outputs, inputs) = (weight.outputs(), weight.inputs());
    if y.is_empty() {
        return;
    }
    assert!((1..=MOST_INPUTS).contains(&inputs), "expected 1 to {MOST_INPUTS} inputs, found {inputs}");
    let rows = x.len() / inputs;
    assert_eq!(x.len(), rows * inputs, "x: expected whole rows of {inputs}");
    assert_eq!(weight.values.len(), outputs * inputs, "weight: expected [{outputs}, {inputs}]");
    assert_eq!(weight.bias.len(), outputs, "bias: expected one number for each output");
    assert_eq!(y.len(), rows * outputs, "y: expected [{rows}, {outputs}]");

    let x = quantize(kernel, x, inputs, scratch, threads);
    let y = Shared::new(y);
    let (few, many) = (&kernel.few, &kernel.many);
    if rows <= few.rows {
        threads.run(outputs.div_ceil(few.outputs), &|task| {
            let part = part(task, few.outputs, outputs);
            // SAFETY: every task has outputs of its own, and the table asked the CPU.
            unsafe { (few.multiply)(&x, weight, part, &y) }
        });
    } else {
        let groups = outputs.div_ceil(many.outputs);
        threads.run(groups * rows.div_ceil(many.rows), &|task| {
            let (rows, outputs) =
                (part(task / groups, many.rows, rows), part(task % groups, many.outputs, outputs));
            // SAFETY: every task has outputs or rows of its own, and the table asked the CPU.
            unsafe { (many.multiply)(&x, weight, rows, outputs, &y) }
        });
    }
}

#[cfg(test)]
mod tests;
