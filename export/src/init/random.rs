//! Random numbers that are the same on every machine, whatever the number of threads.

use half::{bf16, f16};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use sha2::{Digest, Sha256};

use arrcoc_models::graph::Init;

use crate::checkpoint::Dtype;

/// Appends elements `start..start + count` of a random tensor, little-endian, to `bytes`.
///
/// The stream of a tensor depends on the seed and its name alone, and any part of it can be had directly.
pub(super) fn fill(
    seed: u64,
    name: &str,
    init: Init,
    dtype: Dtype,
    start: usize,
    count: usize,
    bytes: &mut Vec<u8>,
) {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update(name);
    let mut rng = ChaCha8Rng::from_seed(hash.finalize().into());
    // One element takes 64 bits of the stream: two of its words.
    rng.set_word_pos(start as u128 * 2);
    bytes.reserve(count * dtype.size());
    for _ in 0..count {
        let x = init.mean + init.std * normal(rng.next_u64());
        match dtype {
            Dtype::Bf16 => bytes.extend_from_slice(&bf16::from_f32(x).to_le_bytes()),
            Dtype::F16 => bytes.extend_from_slice(&f16::from_f32(x).to_le_bytes()),
            _ => bytes.extend_from_slice(&x.to_le_bytes()),
        }
    }
}

/// Four uniform 16-bit numbers to one that is nearly normal (Irwin-Hall): mean 0, variance 1, within 3.465.
///
/// Integer sums and one product give the same bits everywhere, which the logarithms and cosines of the
/// textbook methods do not; and weights without outliers are what truncated initialisation gives, too.
fn normal(bits: u64) -> f32 {
    const MEAN: i32 = 2 * 0xffff;
    // The variance of one summand is (2^32 - 1) / 12.
    const SCALE: f32 = 1.0 / 37_837.227;
    let sum = (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
    (sum as i32 - MEAN) as f32 * SCALE
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn parts_equal_the_whole_and_names_differ() {
        let part = |name, start, count| {
            let mut bytes = Vec::new();
            fill(7, name, Init::normal(1.0), Dtype::Bf16, start, count, &mut bytes);
            bytes
        };
        assert_eq!([part("a", 0, 99), part("a", 99, 157)].concat(), part("a", 0, 256));
        assert_ne!(part("a", 0, 99), part("b", 0, 99));
    }

    #[test]
    fn moments_are_those_asked_for() {
        const N: usize = 1 << 18;
        let mut bytes = Vec::new();
        fill(1, "w", Init { mean: 1.0, std: 0.1 }, Dtype::F32, 0, N, &mut bytes);
        let xs: Vec<f64> =
            bytes.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect();
        let mean = xs.iter().sum::<f64>() / N as f64;
        let std = (xs.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / N as f64).sqrt();
        // Four standard errors: 0.1 / sqrt(N) of the mean, and less than that of the deviation.
        assert!((mean - 1.0).abs() < 4.0 * 0.1 / (N as f64).sqrt(), "mean {mean}");
        assert!((std - 0.1).abs() < 4.0 * 0.1 / (N as f64).sqrt(), "std {std}");
    }
}
