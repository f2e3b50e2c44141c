//! Blocks of 4-bit weights along a row, transposed: what ONNX's `DequantizeLinear` reads in front of a
//! `MatMul` (<https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html>).
//!
//! TensorRT wants scales greater than zero and no zero points, so a symmetric block's largest weight does not
//! get the -8 where it is positive, as it does in [`super::blocks`]: `MatMulNBits` takes scales of either
//! sign. Half of all blocks would be left with fifteen integers, and the root mean square of the error 7 %
//! larger (simulated: 1500 blocks of 32 normally distributed weights). A choice among a few scales leaves 2 %
//! of that.

use std::io::Write;

use arrcoc_models::graph::quantized::{Int4, Part, Quantized};
use half::f16;

use super::stored::{Restored, Stored, four_bits};
use super::{LEAST, Matrix, RESTORED_AS_F16, each_row_within, nearest};
use crate::checkpoint::{Checkpoint, CheckpointError};

/// A block's affine map: `weight = scale * (value - zero_point)`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Map {
    /// Greater than zero, and as it is stored: what is rounded to integers knows the scale's own rounding.
    scale: f16,
    /// Zero in symmetric blocks.
    zero_point: u8,
    symmetric: bool,
}

impl Map {
    fn new(block: &[f32], symmetric: bool) -> Self {
        let (low, high) = block.iter().fold((0.0f32, 0.0f32), |(low, high), &x| (low.min(x), high.max(x)));
        let scale = match symmetric {
            true => least_lossy(block, high.max(-low)),
            false => f16::from_f32((high - low) / 15.0),
        };
        if scale == f16::ZERO {
            // Nothing in it, or nothing that sixteen bits tell from nothing.
            return Self { scale: f16::ONE, zero_point: 0, symmetric };
        }
        let zero_point = if symmetric { 0.0 } else { (-low / scale.to_f32()).round_ties_even() };
        Self { scale, zero_point: zero_point.min(15.0) as u8, symmetric }
    }

    /// The four bits of a weight.
    fn value(self, x: f32) -> u8 {
        let value = nearest(x / self.scale.to_f32()) + f32::from(self.zero_point);
        let (low, high) = if self.symmetric { LIMITS } else { (0.0, 15.0) };
        value.clamp(low, high) as i8 as u8 & 15
    }
}

/// The integers of a symmetric block.
const LIMITS: (f32, f32) = (-8.0, 7.0);

/// The scale of the least squared error among those that make 7, 7.5, 8, 8.5 or 9 steps of the largest
/// magnitude: more of them are finer for most weights and saturate a few.
fn least_lossy(block: &[f32], largest: f32) -> f16 {
    let mut best = (f32::INFINITY, f16::ZERO);
    for steps in [7.0, 7.5, 8.0, 8.5, 9.0] {
        let scale = f16::from_f32(largest / steps);
        let step = scale.to_f32();
        let lost = block.iter().map(|x| x - step * nearest((x / step).clamp(LIMITS.0, LIMITS.1)));
        let error: f32 = lost.map(|x| x * x).sum();
        if error < best.0 {
            best = (error, scale);
        }
    }
    best.1
}

/// Writes a part of a matrix \[rows, columns\] as \[columns, rows\], or, of scales and zero points, \[columns
/// / block, rows\].
pub(super) fn write(
    checkpoint: &Checkpoint,
    quantized: &Quantized,
    blocks: Int4,
    out: &mut dyn Write,
) -> Result<(), CheckpointError> {
    let mut columns = Columns::new(quantized, blocks);
    each_row_within(checkpoint, &Matrix::of(quantized), (LEAST, RESTORED_AS_F16), |row| {
        columns.push(row);
        Ok(())
    })?;
    out.write_all(&columns.bytes).map_err(CheckpointError::Sink)
}

/// `DequantizeLinear` with `axis` 0 and blocks, of a matrix that is stored transposed.
pub(super) fn restore(stored: &Stored, blocks: Int4, row: usize, column: usize) -> Restored {
    let value = four_bits(&stored.values, column * stored.rows + row);
    let of_block = column / blocks.size * stored.rows + row;
    let scale = stored.scale(of_block);
    if blocks.symmetric {
        // The upper half of the sixteen patterns is negative.
        return Restored::new(scale, i32::from((value << 4) as i8 >> 4), LIMITS.0 as i32, LIMITS.1 as i32);
    }
    let point = i32::from(four_bits(&stored.zero_points, of_block));
    Restored::new(scale, i32::from(value) - point, -point, 15 - point)
}

/// A part under construction, to which every row of the matrix adds a column.
struct Columns {
    blocks: Int4,
    part: Part,
    /// Rows of the matrix: the length of a stored row.
    rows: usize,
    /// How many of them were added.
    added: usize,
    bytes: Vec<u8>,
}

impl Columns {
    fn new(quantized: &Quantized, blocks: Int4) -> Self {
        let (element, shape) = quantized.tensor_type();
        let bytes = vec![0; element.bytes(shape.iter().product())];
        Self { blocks, part: quantized.part, rows: quantized.rows(), added: 0, bytes }
    }

    fn push(&mut self, row: &[f32]) {
        let Int4 { size, symmetric } = self.blocks;
        for (at, block) in row.chunks(size).enumerate() {
            let map = Map::new(block, symmetric);
            match self.part {
                Part::Scales => {
                    let place = 2 * (at * self.rows + self.added);
                    self.bytes[place..place + 2].copy_from_slice(&map.scale.to_le_bytes());
                }
                Part::ZeroPoints => self.put(at, map.zero_point),
                Part::Values => {
                    for (column, &x) in (at * size..).zip(block) {
                        self.put(column, map.value(x));
                    }
                }
            }
        }
        self.added += 1;
    }

    /// Four bits of a stored row. Two of them share a byte, the first in its lower half, across the ends of
    /// rows.
    fn put(&mut self, stored_row: usize, bits: u8) {
        let place = stored_row * self.rows + self.added;
        self.bytes[place / 2] |= bits << (4 * (place % 2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrcoc_models::graph::quantized::Scheme;

    const SIZE: usize = 16;
    const COLUMNS: usize = 48;

    /// Rows of numbers of either sign, each of another width; an odd number of them, so that bytes are shared
    /// across rows.
    fn matrix() -> Vec<Vec<f32>> {
        let number = |row: usize, i: usize| ((i * 37 + row * 11) % 101) as f32 - 40.0 + row as f32;
        (0..3).map(|row| (0..COLUMNS).map(|i| 0.013 * (row + 1) as f32 * number(row, i)).collect()).collect()
    }

    fn part(rows: &[Vec<f32>], symmetric: bool, part: Part) -> Vec<u8> {
        let blocks = Int4 { size: SIZE, symmetric };
        let (tensor, range, columns) = (String::new(), 0..rows.len() * COLUMNS, COLUMNS);
        let quantized =
            Quantized { tensor, range, columns, factors: None, scheme: Scheme::Int4(blocks), part };
        let mut stored = Columns::new(&quantized, blocks);
        rows.iter().for_each(|row| stored.push(row));
        stored.bytes
    }

    fn four_bits(bytes: &[u8], place: usize) -> u8 {
        bytes[place / 2] >> (4 * (place % 2)) & 15
    }

    /// By the definition of `DequantizeLinear`, on axis 0: the weight of a column and a row.
    fn restored(rows: &[Vec<f32>], symmetric: bool) -> (impl Fn(usize, usize) -> f32, Vec<f32>) {
        let [values, scales] = [Part::Values, Part::Scales].map(|name| part(rows, symmetric, name));
        let points = (!symmetric).then(|| part(rows, symmetric, Part::ZeroPoints));
        let halves = scales.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32());
        let scales: Vec<f32> = halves.collect();
        let (count, steps) = (rows.len(), scales.clone());
        let weight = move |column: usize, row: usize| {
            let bits = four_bits(&values, column * count + row);
            let place = column / SIZE * count + row;
            let value = match &points {
                None => f32::from((bits << 4) as i8 >> 4),
                Some(points) => f32::from(bits) - f32::from(four_bits(points, place)),
            };
            scales[place] * value
        };
        (weight, steps)
    }

    #[test]
    fn weights_come_back_transposed_and_only_ends_further_off_than_half_a_step() {
        let rows = matrix();
        for symmetric in [true, false] {
            let (weight, scales) = restored(&rows, symmetric);
            assert!(scales.iter().all(|&scale| scale > 0.0), "{scales:?}");
            for (row, numbers) in rows.iter().enumerate() {
                for (column, &x) in numbers.iter().enumerate() {
                    let step = scales[column / SIZE * rows.len() + row];
                    // An end of nine steps saturates at seven; a zero point is rounded, too.
                    let steps = match x.abs() < 6.5 * step {
                        true if symmetric => 0.51,
                        _ if symmetric => 2.02,
                        _ => 1.01,
                    };
                    let found = weight(column, row);
                    assert!(
                        (found - x).abs() <= steps * step,
                        "{symmetric}: {x} became {found}, step {step}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_reading_of_verify_is_that_of_the_operator() {
        let rows = matrix();
        for symmetric in [true, false] {
            let (weight, scales) = restored(&rows, symmetric);
            let scheme = Scheme::Int4(Int4 { size: SIZE, symmetric });
            let zero_points = if symmetric { Vec::new() } else { part(&rows, symmetric, Part::ZeroPoints) };
            let values = part(&rows, symmetric, Part::Values);
            let stored = Stored { scheme, rows: rows.len(), columns: COLUMNS, values, scales, zero_points };
            let mut found = Vec::new();
            for row in 0..rows.len() {
                stored.row(row, &mut found);
                for (column, found) in found.iter().enumerate() {
                    assert_eq!(found.value, weight(column, row), "{symmetric}, {row}, {column}");
                }
            }
        }
    }

    #[test]
    fn sixteen_integers_come_back_as_they_were_whatever_the_largest_is() {
        let integers = |low: i8, high: i8| (low..=high).map(|i| 0.25 * f32::from(i)).collect::<Vec<_>>();
        for (low, high) in [(-8, 7), (-7, 7), (-3, 7), (-8, 3)] {
            let block = integers(low, high);
            let map = Map::new(&block, true);
            assert_eq!(map.scale.to_f32(), 0.25, "{low} to {high}");
            let found: Vec<i8> = block.iter().map(|&x| (map.value(x) << 4) as i8 >> 4).collect();
            assert_eq!(found, (low..=high).collect::<Vec<_>>());
        }
    }

    #[test]
    fn no_scale_that_reaches_both_ends_loses_less() {
        for row in matrix() {
            for block in row.chunks(SIZE) {
                let (low, high) = block.iter().fold((0.0f32, 0.0f32), |(l, h), &x| (l.min(x), h.max(x)));
                let lost = |scale: f32| -> f32 {
                    let off = |x: f32| x - scale * (x / scale).round_ties_even().clamp(-8.0, 7.0);
                    block.iter().map(|&x| off(x).powi(2)).sum()
                };
                let found = lost(Map::new(block, true).scale.to_f32());
                // What is between them is the rounding of scales to sixteen bits.
                assert!(found <= 1.01 * lost((high / 7.0).max(low / -8.0)), "{block:?}");
            }
        }
    }

    #[test]
    fn the_largest_weights_come_back_as_sixteen_bit_floats() {
        const L: f32 = RESTORED_AS_F16;
        for (low, high) in [(0.0, L), (-L, 0.0), (-L, L), (-0.1 * L, L), (-L, 0.1 * L), (-L, 0.96 * L)] {
            let mut block: Vec<f32> = (0..32).map(|i| low + (high - low) * i as f32 / 31.0).collect();
            block.push(0.0);
            for symmetric in [true, false] {
                let map = Map::new(&block, symmetric);
                let whole = |bits: u8| match symmetric {
                    true => f32::from((bits << 4) as i8 >> 4),
                    false => f32::from(bits) - f32::from(map.zero_point),
                };
                for &x in &block {
                    let restored = map.scale.to_f32() * whole(map.value(x));
                    assert!(f16::from_f32(restored).is_finite(), "{x} of {low} to {high}: {restored}");
                    assert!((restored - x).abs() < 0.3 * L, "{x} of {low} to {high}: {restored}");
                }
            }
        }
    }

    #[test]
    fn rounding_by_addition_is_rounding() {
        for i in -900..=900 {
            let x = i as f32 / 100.0;
            assert_eq!(nearest(x), x.round_ties_even(), "{x}");
        }
    }

    #[test]
    fn what_sixteen_bits_cannot_scale_becomes_zero() {
        for symmetric in [true, false] {
            let map = Map::new(&[0.0, 1e-9, -1e-9], symmetric);
            assert_eq!((map.scale, map.zero_point, map.value(1e-9)), (f16::ONE, 0, 0));
        }
    }
}
