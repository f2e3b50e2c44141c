//! Blocks in tiles: sixteen rows side by side, with 16-bit scales.

use std::io::Write;

use arrcoc_models::graph::quantized::{Bits, Blocks, Part, Quantized};
use half::f16;

use super::blocks::{self, Map};
use super::stored::{Restored, Stored, four_bits};
use super::{LEAST, Matrix, each_row_within};
use crate::checkpoint::{Checkpoint, CheckpointError};

/// The largest magnitude whose scale 16 bits hold. A block of 4 bits is tried with 6.5 steps at least, and
/// the scale fitted then is at most half as large again: less than a quarter of the largest weight.
const LIMIT: f32 = 4.0 * 65504.0;

pub(super) fn write(
    checkpoint: &Checkpoint,
    quantized: &Quantized,
    bits: Bits,
    out: &mut dyn Write,
) -> Result<(), CheckpointError> {
    let encode = match quantized.part {
        Part::Scales => scales,
        _ => values,
    };
    let unit = match quantized.part {
        Part::Scales => size_of::<f16>(),
        _ => Blocks::WORD_BYTES,
    };
    let (mut rows, mut number) = (Vec::new(), 0);
    each_row_within(checkpoint, &Matrix::of(quantized), (LEAST, LIMIT), |row| {
        number += 1;
        encode(row, bits, &mut rows);
        match number % Blocks::TILE_ROWS {
            0 => out.write_all(&side_by_side(&std::mem::take(&mut rows), unit)),
            _ => Ok(()),
        }
    })?;
    if rows.is_empty() {
        return Ok(());
    }
    let nothing = vec![0.0; quantized.columns];
    (number..number.next_multiple_of(Blocks::TILE_ROWS)).for_each(|_| encode(&nothing, bits, &mut rows));
    out.write_all(&side_by_side(&rows, unit)).map_err(CheckpointError::Sink)
}

/// What `BlockLinear` reads (`models/src/graph/ops/linear.rs`): of tile, block and word, four bytes of each
/// of sixteen rows.
pub(super) fn restore(stored: &Stored, bits: Bits, row: usize, column: usize) -> Restored {
    let tiled = Blocks::tiled(bits);
    let (tile, row) = (row / Blocks::TILE_ROWS, row % Blocks::TILE_ROWS);
    let (block, within) = (column / tiled.size, column % tiled.size);
    let of_block = tile * tiled.per_row(stored.columns) + block;
    let byte = within * bits.count() / 8;
    let word = of_block * tiled.bytes() / Blocks::WORD_BYTES + byte / Blocks::WORD_BYTES;
    let at = (word * Blocks::TILE_ROWS + row) * Blocks::WORD_BYTES + byte % Blocks::WORD_BYTES;
    let (value, middle) = match bits {
        Bits::Four => (four_bits(&stored.values, 2 * at + within % 2), 8),
        Bits::Eight => (stored.byte(at), 128),
    };
    let scale = stored.scale(of_block * Blocks::TILE_ROWS + row);
    Restored::new(scale, i32::from(value) - middle, -middle, middle - 1)
}

/// A block's map with a scale that 16 bits hold. One too small for them leaves nothing of weights that are
/// next to nothing.
fn map(block: &[f32], bits: Bits) -> Map {
    let map = blocks::map(block, Blocks::tiled(bits));
    Map { scale: f16::from_f32(map.scale).to_f32(), ..map }
}

fn scales(row: &[f32], bits: Bits, out: &mut Vec<u8>) {
    let of_blocks = row.chunks(Blocks::TILE_BLOCK);
    out.extend(of_blocks.flat_map(|block| f16::from_f32(map(block, bits).scale).to_le_bytes()));
}

fn values(row: &[f32], bits: Bits, out: &mut Vec<u8>) {
    for block in row.chunks(Blocks::TILE_BLOCK) {
        let map = map(block, bits);
        let values: Vec<u8> = match map.scale {
            0.0 => vec![map.zero_point; block.len()],
            _ => block.iter().map(|&x| map.value(x, bits)).collect(),
        };
        blocks::pack(&values, bits, out);
    }
}

/// Rows of equal length, one behind the other, to pieces of `unit` bytes of each row in turn.
fn side_by_side(rows: &[u8], unit: usize) -> Vec<u8> {
    let length = rows.len() / Blocks::TILE_ROWS;
    let pieces = (0..length).step_by(unit);
    let piece = |at: usize, row: usize| &rows[row * length + at..][..unit];
    pieces.flat_map(|at| (0..Blocks::TILE_ROWS).flat_map(move |row| piece(at, row)).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrcoc_models::graph::quantized::Scheme;

    #[test]
    fn words_of_sixteen_rows_lie_side_by_side() {
        let row = |row: u8| (0..8).map(move |at| 10 * row + at);
        let rows: Vec<u8> = (0..16).flat_map(row).collect();
        let tile = side_by_side(&rows, 4);
        let expected: Vec<u8> = [0, 4]
            .iter()
            .flat_map(|at| (0..16).flat_map(move |r| (0..4).map(move |i| 10 * r + at + i)))
            .collect();
        assert_eq!(tile, expected);
    }

    /// Seventeen rows of three blocks, which fill a second tile with one.
    #[test]
    fn what_is_read_back_is_what_was_written_wherever_it_lies() {
        let weight = |row: usize, column: usize| ((row * 131 + column * 37) % 211) as f32 * 0.01 - 1.0;
        let (rows, columns) = (17, 96);
        for bits in BOTH {
            let mut stored = Stored {
                scheme: Scheme::Tiles(bits),
                rows,
                columns,
                values: vec![],
                scales: vec![],
                zero_points: vec![],
            };
            for tile in 0..2 {
                let (mut bytes, mut halves) = (Vec::new(), Vec::new());
                for row in 16 * tile..16 * (tile + 1) {
                    let of = |column| if row < rows { weight(row, column) } else { 0.0 };
                    let row: Vec<f32> = (0..columns).map(of).collect();
                    values(&row, bits, &mut bytes);
                    scales(&row, bits, &mut halves);
                }
                stored.values.extend(side_by_side(&bytes, Blocks::WORD_BYTES));
                let halves = side_by_side(&halves, size_of::<f16>());
                stored.scales.extend(halves.chunks(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()));
            }
            let mut found = Vec::new();
            for row in 0..rows {
                stored.row(row, &mut found);
                for (column, found) in found.iter().enumerate() {
                    let lost = (found.value - weight(row, column)).abs();
                    let steps = if found.end == 0.0 { 0.51 } else { 2.0 };
                    assert!(lost <= steps * found.step, "{bits:?}, {row}, {column}: {found:?}");
                }
            }
        }
    }

    const BOTH: [Bits; 2] = [Bits::Four, Bits::Eight];

    #[test]
    fn weights_come_back_within_a_step() {
        let row: Vec<f32> = (0..64).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.0123).collect();
        for bits in BOTH {
            let (mut bytes, mut halves) = (Vec::new(), Vec::new());
            values(&row, bits, &mut bytes);
            scales(&row, bits, &mut halves);
            let stored: Vec<i32> = match bits {
                Bits::Four => {
                    bytes.iter().flat_map(|byte| [byte & 15, byte >> 4]).map(|x| i32::from(x) - 8).collect()
                }
                Bits::Eight => bytes.iter().map(|&x| i32::from(x) - 128).collect(),
            };
            let scales = halves.chunks(2).map(|half| f16::from_le_bytes([half[0], half[1]]).to_f32());
            for ((block, stored), scale) in row.chunks(32).zip(stored.chunks(32)).zip(scales) {
                for (x, &value) in block.iter().zip(stored) {
                    // The extreme of the other sign may be a whole step off.
                    assert!((x - scale * value as f32).abs() <= scale.abs() * 1.01, "{bits:?}: {x}");
                }
            }
        }
    }

    #[test]
    fn scales_of_sixteen_bits_reach_the_limit_and_vanish_below_their_smallest() {
        for largest in [LIMIT, -LIMIT] {
            // One beside which most others get the smallest share of a step, and one alone.
            let mut mixed = [largest * 1.49 / 6.5; 32];
            mixed[7] = largest;
            for (block, bits) in
                [[largest; 32], mixed].into_iter().flat_map(|block| BOTH.map(|bits| (block, bits)))
            {
                let scale = map(&block, bits).scale;
                assert!(scale.is_finite() && scale != 0.0, "{scale} of {largest} in {bits:?}");
            }
        }
        for (bits, zeros) in [(Bits::Four, vec![0x88; 16]), (Bits::Eight, vec![0x80; 32])] {
            let mut bytes = Vec::new();
            values(&[1e-9; 32], bits, &mut bytes);
            assert_eq!(bytes, zeros);
        }
    }
}
