//! 8-bit floats, E4M3 without infinities, with one scale for a matrix.

use std::io::Write;

use arrcoc_models::graph::quantized::{Part, Quantized};
use half::f16;

use super::stored::{Restored, Stored};
use super::{Matrix, RESTORED_AS_F16, each_row, each_row_within};
use crate::checkpoint::{Checkpoint, CheckpointError};

/// The largest finite magnitude of the format.
pub(crate) const LARGEST: f32 = 448.0;

pub(super) fn write(
    checkpoint: &Checkpoint,
    quantized: &Quantized,
    out: &mut dyn Write,
) -> Result<(), CheckpointError> {
    let matrix = Matrix::of(quantized);
    let mut largest = 0.0f32;
    each_row_within(checkpoint, &matrix, (0.0, RESTORED_AS_F16), |row| {
        largest = row.iter().fold(largest, |largest, x| largest.max(x.abs()));
        Ok(())
    })?;
    let scale = scale(largest);
    if quantized.part == Part::Scales {
        return out.write_all(&scale.to_le_bytes()).map_err(CheckpointError::Sink);
    }
    let mut bytes = Vec::new();
    each_row(checkpoint, &matrix, |row| {
        bytes.clear();
        bytes.extend(row.iter().map(|x| encode(x / scale.to_f32())));
        out.write_all(&bytes)
    })
}

/// The scale that maps a magnitude to the format's largest, rounded up: rounded down, the largest would
/// saturate. It never falls into the subnormal numbers of 16 bits, which have too few digits to divide by.
pub(crate) fn scale(largest: f32) -> f16 {
    let nearest = f16::from_f32(largest / LARGEST);
    let enough = nearest.to_f32() * LARGEST >= largest;
    // The next number of the same sign is the next pattern of bits.
    let up = if enough { nearest } else { f16::from_bits(nearest.to_bits() + 1) };
    up.max(f16::MIN_POSITIVE)
}

/// The nearest number of the format, ties to the even one; what is too large becomes the largest.
fn encode(x: f32) -> u8 {
    const MANTISSA: i32 = 3;
    const SMALLEST_EXPONENT: i32 = -6;
    const BIAS: i32 = 7;
    let sign = if x.is_sign_negative() { 0x80 } else { 0 };
    let magnitude = x.abs().min(LARGEST);
    if magnitude == 0.0 {
        return sign;
    }
    // Below the smallest exponent the steps stay as they are: subnormal numbers.
    let exponent = (magnitude.to_bits() >> 23) as i32 - 127;
    let exponent = exponent.max(SMALLEST_EXPONENT);
    let steps = (magnitude * ((MANTISSA - exponent) as f32).exp2()).round_ties_even() as i32;
    // A mantissa that was rounded up to the next power of two carries into the exponent by itself.
    let code = (exponent - SMALLEST_EXPONENT) * (1 << MANTISSA) + steps;
    debug_assert_eq!(SMALLEST_EXPONENT, 1 - BIAS);
    sign | u8::try_from(code).unwrap_or(0x7e)
}

/// `DequantizeLinear` of float8e4m3fn with one scale.
pub(super) fn restore(stored: &Stored, row: usize, column: usize) -> Restored {
    let (value, step) = decode(stored.byte(row * stored.columns + column));
    let scale = stored.scale(0);
    let end = if value.abs() >= LARGEST { (value * scale).signum() } else { 0.0 };
    Restored { value: value * scale, step: step * scale.abs(), end }
}

/// A number of the format and how far the next larger one is away, by the definition (Micikevicius et al.
/// 2022, <https://arxiv.org/abs/2209.05433>, table 1): 1 sign bit, 4 exponent bits of bias 7, 3 mantissa
/// bits.
fn decode(code: u8) -> (f32, f32) {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let step = 2f32.powi(exponent.max(1) - 7) / 8.0;
    let magnitude = if exponent == 0 { mantissa * step } else { (8.0 + mantissa) * step };
    (if code & 0x80 == 0 { magnitude } else { -magnitude }, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(code: u8) -> f32 {
        super::decode(code).0
    }

    #[test]
    fn numbers_are_those_of_the_format() {
        // The paper's table 1: the largest, the smallest normal and the smallest subnormal number, and one.
        let known =
            [(0x7e, 448.0), (0x08, 2f32.powi(-6)), (0x01, 2f32.powi(-9)), (0x38, 1.0), (0xb9, -1.125)];
        for (code, number) in known {
            assert_eq!(decode(code), number);
        }
    }

    #[test]
    fn every_number_of_the_format_is_kept() {
        for code in (0..=0x7e).chain(0x80..=0xfe) {
            assert_eq!(encode(decode(code)), code, "{}", decode(code));
        }
        assert_eq!(decode(0x7e), LARGEST);
    }

    #[test]
    fn numbers_between_go_to_the_nearest_and_ties_to_the_even_code() {
        for code in 0..0x7e_u8 {
            let (low, high) = (decode(code), decode(code + 1));
            let middle = f32::midpoint(low, high);
            assert_eq!(encode(middle), code + code % 2, "{middle}");
            assert_eq!(encode(middle.next_down()), code);
            assert_eq!(encode(-middle.next_up()), 0x80 | (code + 1));
        }
    }

    #[test]
    fn the_largest_weight_is_within_the_scale() {
        for largest in [0.0, 1e-9, 0.037, 0.9999, 1.0, 3.1, 447.0, 9000.0] {
            let found = scale(largest).to_f32();
            assert!(
                found * LARGEST >= largest && found <= (largest / LARGEST * 1.001).max(6.2e-5),
                "{largest}"
            );
        }
    }

    #[test]
    fn what_is_too_large_saturates() {
        assert_eq!((encode(1e9), encode(-449.0), encode(f32::MAX)), (0x7e, 0xfe, 0x7e));
    }
}
