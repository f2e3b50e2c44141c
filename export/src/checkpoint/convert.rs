//! Weights of any float type to 32-bit floats, as bytes to bytes: loops that the compiler turns into vector
//! code.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::header::Dtype;

/// Converts little-endian elements; the result lies in the second argument or is the first.
pub(super) type ToF32 = for<'a> fn(&'a [u8], &'a mut Vec<u8>) -> &'a [u8];

/// The conversion from `dtype`; `None` for types that weights do not have.
pub(super) fn to_f32(dtype: Dtype) -> Option<ToF32> {
    match dtype {
        Dtype::F32 => Some(|bytes, _| bytes),
        Dtype::Bf16 => Some(from_bf16),
        Dtype::F16 => Some(from_f16),
        _ => None,
    }
}

/// A bfloat16 is the upper half of a float.
fn from_bf16<'a>(bytes: &'a [u8], floats: &'a mut Vec<u8>) -> &'a [u8] {
    floats.resize(bytes.len() * 2, 0);
    for (float, half) in floats.chunks_exact_mut(4).zip(bytes.chunks_exact(2)) {
        float.copy_from_slice(&[0, 0, half[0], half[1]]);
    }
    floats
}

fn from_f16<'a>(bytes: &'a [u8], floats: &'a mut Vec<u8>) -> &'a [u8] {
    // Small enough to stay in the first-level cache between the steps.
    const STEP: usize = 1024;
    let (mut halves, mut singles) = ([f16::ZERO; STEP], [0.0f32; STEP]);
    floats.resize(bytes.len() * 2, 0);
    for (to, from) in floats.chunks_mut(STEP * 4).zip(bytes.chunks(STEP * 2)) {
        let n = from.len() / 2;
        for (half, bytes) in halves.iter_mut().zip(from.chunks_exact(2)) {
            *half = f16::from_le_bytes([bytes[0], bytes[1]]);
        }
        halves[..n].convert_to_f32_slice(&mut singles[..n]);
        for (bytes, single) in to.chunks_exact_mut(4).zip(&singles) {
            bytes.copy_from_slice(&single.to_le_bytes());
        }
    }
    floats
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use half::bf16;

    fn floats(bytes: &[u8]) -> Vec<f32> {
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    #[test]
    fn every_half_converts_exactly() {
        let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let mut buffer = Vec::new();
        let brains = floats(to_f32(Dtype::Bf16).unwrap()(&all, &mut buffer));
        let halves = floats(to_f32(Dtype::F16).unwrap()(&all, &mut buffer));
        for bits in 0..=u16::MAX {
            let (brain, half) = (bf16::from_bits(bits).to_f32(), f16::from_bits(bits).to_f32());
            assert!(brains[bits as usize] == brain || brain.is_nan() && brains[bits as usize].is_nan());
            assert!(halves[bits as usize] == half || half.is_nan() && halves[bits as usize].is_nan());
        }
        assert_eq!(brains.len(), 1 << 16);
    }

    #[test]
    fn integers_are_not_weights() {
        assert!(to_f32(Dtype::I64).is_none());
    }
}
