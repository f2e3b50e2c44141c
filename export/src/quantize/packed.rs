//! Blocks of 4-bit weights with 16-bit scales, in the layout of [`super::blocks`]: what ONNX Runtime's
//! `MatMulNBits` reads beside 16-bit activations.

use std::io::Write;

use arrcoc_models::graph::quantized::{Int4, Part, Quantized};
use half::f16;

use super::blocks::{self, Map};
use super::{LEAST, Matrix, RESTORED_AS_F16, each_row_within};
use crate::checkpoint::{Checkpoint, CheckpointError};

/// Writes a part of a matrix, row by row.
pub(super) fn write(
    checkpoint: &Checkpoint,
    quantized: &Quantized,
    blocks: Int4,
    out: &mut dyn Write,
) -> Result<(), CheckpointError> {
    let mut bytes = Vec::new();
    each_row_within(checkpoint, &Matrix::of(quantized), (LEAST, RESTORED_AS_F16), |row| {
        bytes.clear();
        encode(row, blocks, quantized.part, &mut bytes);
        out.write_all(&bytes)
    })
}

/// A block's map with the scale as it is stored, so that integers know its rounding. Of weights whose scale
/// 16 bits do not tell from zero nothing is left.
fn map(block: &[f32], blocks: Int4) -> Map {
    let map = blocks::map(block, blocks.blocks());
    match f16::from_f32(map.scale).to_f32() {
        0.0 => Map { scale: 1.0, ..blocks::map(&[0.0], blocks.blocks()) },
        scale => Map { scale, ..map },
    }
}

/// Appends a part of a row, which blocks divide.
fn encode(row: &[f32], blocks: Int4, part: Part, out: &mut Vec<u8>) {
    let bits = blocks.blocks().bits;
    let of_blocks = row.chunks(blocks.size);
    match part {
        Part::Scales => {
            out.extend(of_blocks.flat_map(|block| f16::from_f32(map(block, blocks).scale).to_le_bytes()));
        }
        Part::ZeroPoints => {
            let points: Vec<u8> = of_blocks.map(|block| map(block, blocks).zero_point).collect();
            blocks::pack(&points, bits, out);
        }
        Part::Values => {
            let value = |block: &[f32]| {
                let map = map(block, blocks);
                block.iter().map(|&x| map.value(x, bits)).collect::<Vec<_>>()
            };
            let values: Vec<u8> = of_blocks.flat_map(value).collect();
            blocks::pack(&values, bits, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::stored::Stored;
    use arrcoc_models::graph::quantized::Scheme;

    const SIZE: usize = 16;
    const COLUMNS: usize = 48;

    fn rows() -> Vec<Vec<f32>> {
        (0..3)
            .map(|row| (0..COLUMNS).map(|i| ((i * 37 + row * 13) % 101) as f32 * 0.01 - 0.4).collect())
            .collect()
    }

    /// What the operator makes of the bytes is within half a step, or at the end of a block a whole one.
    #[test]
    fn rows_come_back_by_the_operators_layout() {
        for symmetric in [true, false] {
            let blocks = Int4 { size: SIZE, symmetric };
            let all = |part| {
                let mut bytes = Vec::new();
                rows().iter().for_each(|row| encode(row, blocks, part, &mut bytes));
                bytes
            };
            let halves = all(Part::Scales);
            let scales: Vec<f32> =
                halves.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
            assert_eq!(scales.len(), 3 * COLUMNS / SIZE);
            let zero_points = if symmetric { Vec::new() } else { all(Part::ZeroPoints) };
            let values = all(Part::Values);
            assert_eq!(values.len(), 3 * COLUMNS / 2);
            let stored = Stored {
                scheme: Scheme::Packed(blocks),
                rows: 3,
                columns: COLUMNS,
                values,
                scales,
                zero_points,
            };
            let mut found = Vec::new();
            for (number, row) in rows().iter().enumerate() {
                stored.row(number, &mut found);
                for (x, found) in row.iter().zip(&found) {
                    let steps = if symmetric { 1.07 } else { 0.51 };
                    assert!((x - found.value).abs() <= found.step * steps, "{x} became {found:?}");
                    assert_eq!(f16::from_f32(found.step).to_f32(), found.step);
                }
            }
        }
    }

    #[test]
    fn next_to_nothing_becomes_nothing() {
        for symmetric in [true, false] {
            let blocks = Int4 { size: SIZE, symmetric };
            let tiny = map(&[1e-9; SIZE], blocks);
            assert_eq!(tiny.scale, 1.0);
            assert_eq!(tiny.value(1e-9, blocks.blocks().bits), tiny.zero_point);
        }
    }
}
