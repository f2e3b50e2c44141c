//! Tiles: products of a few rows with a few vectors, whose sums stay in registers from the first step to the
//! last.

use std::arch::x86_64::*;

use super::LANES;

/// Strides, in elements: floats, or words of two bfloat16 on the factors' side.
#[derive(Clone, Copy)]
pub(crate) struct Strides {
    /// Of the left factors, from row to row.
    pub(crate) left: usize,
    /// Of the right ones, from step to step.
    pub(crate) step: usize,
    /// Of the right ones, from vector to vector.
    pub(crate) vector: usize,
    /// Of the sums, from row to row.
    pub(crate) sums: usize,
}

/// Where a product begins.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Begin {
    /// With zeros.
    Anew,
    /// With what is there.
    Sums,
}

/// A tile's function, for factors of one type. (A trait's methods cannot ask for instructions of their own,
/// so a generic function could not.)
macro_rules! tile {
    ($(#[$doc:meta])* $name:ident, $features:literal, $factor:ty, $vector:ident, $broadcast:ident, $multiply_add:expr) => {
        $(#[$doc])*
        #[inline]
        #[target_feature(enable = $features)]
        pub(crate) fn $name<const Q: usize, const N: usize>(
            left: &[$factor],
            right: &[$factor],
            to: &mut [f32],
            steps: usize,
            strides: Strides,
            begin: Begin,
        ) {
            assert!(steps > 0 && left.len() >= (Q - 1) * strides.left + steps);
            assert!(right.len() >= (steps - 1) * strides.step + (N - 1) * strides.vector + LANES);
            assert!(to.len() >= (Q - 1) * strides.sums + N * LANES);
            let mut sums = [[_mm512_setzero_ps(); N]; Q];
            if begin == Begin::Sums {
                for q in 0..Q {
                    for n in 0..N {
                        // SAFETY: within `to`, as asserted.
                        sums[q][n] = unsafe { _mm512_loadu_ps(to.as_ptr().add(q * strides.sums + n * LANES)) };
                    }
                }
            }
            for step in 0..steps {
                // SAFETY: within `left` and `right`, as asserted.
                unsafe {
                    let right: [_; N] = std::array::from_fn(|n| {
                        $vector(right.as_ptr().add(step * strides.step + n * strides.vector))
                    });
                    for q in 0..Q {
                        let left = $broadcast(left.as_ptr().add(q * strides.left + step));
                        for n in 0..N {
                            sums[q][n] = $multiply_add(left, right[n], sums[q][n]);
                        }
                    }
                }
            }
            for q in 0..Q {
                for n in 0..N {
                    // SAFETY: within `to`, as asserted.
                    unsafe { _mm512_storeu_ps(to.as_mut_ptr().add(q * strides.sums + n * LANES), sums[q][n]) };
                }
            }
        }
    };
}

tile! {
    /// `Q` rows of `N` vectors: the products of `steps` numbers of each row with as many vectors, `left` row
    /// by row, `right` step by step. Every sum is made one step after the other.
    floats, "avx512f", f32, _mm512_loadu_ps, broadcast_float, |left, right, sum| _mm512_fmadd_ps(left, right, sum)
}

tile! {
    /// As [`floats`], with words of two 16-bit floats.
    pairs, "avx512f,avx512bf16", u32, load_pairs, broadcast_pair, |left, right, sum| _mm512_dpbf16_ps(sum, left, right)
}

/// One number in all places.
///
/// # Safety
/// `number` must be readable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn broadcast_float(number: *const f32) -> __m512 {
    // SAFETY: as the caller's.
    _mm512_set1_ps(unsafe { *number })
}

/// Sixteen words.
///
/// # Safety
/// `words` must be readable for sixteen.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn load_pairs(words: *const u32) -> __m512bh {
    // SAFETY: as the caller's; both are 512 bits of anything.
    unsafe { std::mem::transmute(_mm512_loadu_si512(words.cast())) }
}

/// One word in all places.
///
/// # Safety
/// `word` must be readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn broadcast_pair(word: *const u32) -> __m512bh {
    // SAFETY: as the caller's; both are 512 bits of anything.
    unsafe { std::mem::transmute(_mm512_set1_epi32(*word as i32)) }
}
