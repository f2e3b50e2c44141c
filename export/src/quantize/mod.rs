//! Weights in fewer bits: the numbers behind [`arrcoc_models::graph::quantized`].
//!
//! A matrix streams through in groups of rows, once per stored part, so that no more than a group is in memory in 32 bits.

mod blocks;
mod rows;

use std::io::{self, Write};

use arrcoc_models::graph::quantized::{Quantized, Scheme};

use crate::checkpoint::{Checkpoint, CheckpointError};

/// Weights read at once.
const GROUP: usize = 1 << 18;

/// Writes one part of a quantized matrix.
///
/// # Errors
/// [`CheckpointError`]: the tensor cannot be read, holds something that is no number, or `out` fails.
pub(crate) fn write(
    checkpoint: &Checkpoint,
    quantized: &Quantized,
    out: &mut dyn Write,
) -> Result<(), CheckpointError> {
    match quantized.scheme {
        Scheme::PerRow => rows::write(checkpoint, quantized, out),
        Scheme::Blocks(blocks) => {
            let mut bytes = Vec::new();
            each_row(checkpoint, quantized, |row| {
                bytes.clear();
                blocks::encode(row, blocks, quantized.part, &mut bytes);
                out.write_all(&bytes)
            })
        }
    }
}

/// Passes every row of the matrix to `take`.
fn each_row(
    checkpoint: &Checkpoint,
    quantized: &Quantized,
    mut take: impl FnMut(&[f32]) -> io::Result<()>,
) -> Result<(), CheckpointError> {
    let Quantized { tensor, range, columns, .. } = quantized;
    let step = (GROUP / columns).max(1) * columns;
    let (mut bytes, mut floats) = (Vec::new(), Vec::new());
    for start in range.clone().step_by(step) {
        bytes.clear();
        floats.clear();
        checkpoint.read_f32(tensor, start..range.end.min(start + step), &mut bytes)?;
        floats.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        // A NaN would become a plain zero, and nobody would ever know.
        if let Some(first) = floats.iter().position(|x| !x.is_finite()) {
            let index = start - range.start + first;
            return Err(CheckpointError::NotFinite { tensor: tensor.clone(), index });
        }
        for row in floats.chunks_exact(*columns) {
            take(row).map_err(CheckpointError::Sink)?;
        }
    }
    Ok(())
}
