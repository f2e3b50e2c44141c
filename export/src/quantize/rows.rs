//! int8 with one scale per row.

use std::io::Write;

use arrcoc_models::graph::quantized::{Part, Quantized};

use super::stored::{Restored, Stored};
use super::{Matrix, each_row, nearest};
use crate::checkpoint::{Checkpoint, CheckpointError};

/// Largest value: -128 is left out, so that the range is symmetric.
const RANGE: f32 = 127.0;

pub(super) fn write(
    checkpoint: &Checkpoint,
    quantized: &Quantized,
    out: &mut dyn Write,
) -> Result<(), CheckpointError> {
    if quantized.part == Part::Scales {
        return each_row(checkpoint, &Matrix::of(quantized), |row| out.write_all(&scale(row).to_le_bytes()));
    }
    let mut values = Vec::with_capacity(quantized.columns);
    each_row(checkpoint, &Matrix::of(quantized), |row| {
        values.clear();
        encode(row, &mut values);
        out.write_all(&values)
    })
}

/// The scale of a row; that of a row of zeros is one.
fn scale(row: &[f32]) -> f32 {
    let largest = row.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    if largest == 0.0 { 1.0 } else { largest / RANGE }
}

/// `DequantizeLinear` of int8 with a scale per row and no zero point.
pub(super) fn restore(stored: &Stored, row: usize, column: usize) -> Restored {
    let integer = stored.byte(row * stored.columns + column) as i8;
    Restored::new(stored.scale(row), integer.into(), -(RANGE as i32), RANGE as i32)
}

fn encode(row: &[f32], values: &mut Vec<u8>) {
    let scale = scale(row);
    values.extend(row.iter().map(|x| nearest(x / scale).clamp(-RANGE, RANGE) as i8 as u8));
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrcoc_models::graph::quantized::Scheme;

    #[test]
    fn values_are_within_half_a_step() {
        let row: Vec<f32> = (0..500).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.013).collect();
        let mut values = Vec::new();
        encode(&row, &mut values);
        for (x, value) in row.iter().zip(values) {
            assert!((x - f32::from(value as i8) * scale(&row)).abs() <= scale(&row) * 0.5001);
        }
    }

    #[test]
    fn rows_are_read_back_with_their_own_scales() {
        let rows: Vec<Vec<f32>> =
            (1..4).map(|row| (0..8).map(|i| row as f32 * (i as f32 - 3.5)).collect()).collect();
        let mut values = Vec::new();
        rows.iter().for_each(|row| encode(row, &mut values));
        let (scheme, scales) = (Scheme::PerRow, rows.iter().map(|row| scale(row)).collect());
        let stored = Stored { scheme, rows: 3, columns: 8, values, scales, zero_points: Vec::new() };
        let mut found = Vec::new();
        for (number, row) in rows.iter().enumerate() {
            stored.row(number, &mut found);
            for (x, found) in row.iter().zip(&found) {
                assert!(
                    (x - found.value).abs() <= 0.501 * found.step && found.step == scale(row),
                    "{found:?}"
                );
            }
        }
    }

    #[test]
    fn a_row_of_zeros_stays_zero() {
        let mut values = Vec::new();
        encode(&[0.0; 4], &mut values);
        assert_eq!((values, scale(&[0.0; 4])), (vec![0; 4], 1.0));
    }
}
