//! Rows of floats to rows of bytes.

use super::Kernel;
use crate::quantize::Group;
use crate::shared::Shared;
use crate::threads::Threads;

/// Rows of one task.
const ROWS_PER_TASK: usize = 16;
/// Rows are padded to a multiple of this many bytes: the longest vector of any CPU.
const VECTOR: usize = 64;

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
    kernel: &Kernel,
    x: &[f32],
    inputs: usize,
    scratch: &'a mut Vec<u8>,
    threads: &dyn Threads,
) -> QuantizedRows<'a> {
    let (rows, stride) = (x.len() / inputs, inputs.next_multiple_of(VECTOR));
    if scratch.len() < rows * stride {
        scratch.resize(rows * stride, 0);
    }
    let mut about = vec![Group::default(); rows];
    {
        let (values, about) = (Shared::new(scratch), Shared::new(&mut about));
        threads.run(rows.div_ceil(ROWS_PER_TASK), &|task| {
            for row in task * ROWS_PER_TASK..rows.min((task + 1) * ROWS_PER_TASK) {
                // SAFETY: every task has rows of its own, and the table asked the CPU.
                unsafe {
                    let values = values.part(row * stride, stride);
                    about.part(row, 1)[0] = (kernel.quantize)(&x[row * inputs..][..inputs], values);
                }
            }
        });
    }
    QuantizedRows { rows, stride, values: &scratch[..rows * stride], about }
}
