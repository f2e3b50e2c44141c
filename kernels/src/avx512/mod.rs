//! What the operators' kernels for AVX-512 share: reading the ends of slices, turning sixteen rows of 32-bit
//! words to sixteen columns; powers of two ([`exp`]), products in registers ([`tile`]), floats to bytes
//! ([`quantize`]). Nothing else reads this.
//!
//! The instructions multiply groups of four bytes, pairs of 16-bit floats or single floats, one for each of
//! sixteen columns. Each is a word.

pub(crate) mod exp;
pub(crate) mod quantize;
pub(crate) mod tile;

use std::arch::x86_64::*;

use half::f16;

/// Words of a vector.
pub(crate) const LANES: usize = 16;
/// Bytes of a vector.
pub(crate) const BYTES: usize = 64;

/// Whether this CPU has the instructions of AVX-512 that all CPUs with 8-bit or 16-bit products have.
pub(crate) fn wide() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("fma")
}

/// The places of a vector that its first `count` floats take, sixteen at most.
#[inline]
pub(crate) fn first_floats(count: usize) -> __mmask16 {
    match count {
        0 => 0,
        n => u16::MAX >> (LANES - n.min(LANES)),
    }
}

/// Up to sixteen floats, zeros behind them.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn load_floats(x: &[f32]) -> __m512 {
    // SAFETY: the mask keeps the load within the slice.
    unsafe { _mm512_maskz_loadu_ps(first_floats(x.len()), x.as_ptr()) }
}

/// Writes a vector, or as much of it as the slice takes.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn store_floats(x: __m512, to: &mut [f32]) {
    // SAFETY: the mask keeps the store within the slice.
    unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), first_floats(to.len()), x) };
}

/// Up to 64 bytes, zeros behind them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) fn load_bytes(bytes: &[u8]) -> __m512i {
    // SAFETY: the slice has as much, or the mask keeps the load within it.
    unsafe {
        match bytes.len() {
            0 => _mm512_setzero_si512(),
            BYTES.. => _mm512_loadu_si512(bytes.as_ptr().cast()),
            n => _mm512_maskz_loadu_epi8(u64::MAX >> (BYTES - n), bytes.as_ptr().cast()),
        }
    }
}

/// Sixteen 16-bit floats.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn load_f16(x: &[f16; LANES]) -> __m512 {
    // SAFETY: the array has the sixteen.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(x.as_ptr().cast()) })
}

/// Asks the CPU to fetch the bytes that lie `ahead` behind these, as many as these are. They need not exist.
#[inline]
pub(crate) fn fetch_soon(bytes: &[u8], ahead: usize) {
    for line in (0..bytes.len()).step_by(BYTES) {
        // SAFETY: a hint, wherever the address leads.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(ahead + line).cast()) };
    }
}

/// Asks for bytes that will be read soon.
#[inline]
pub(crate) fn fetch(bytes: &[u8]) {
    for line in bytes.chunks(BYTES) {
        // SAFETY: a hint, and nothing is read.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
}

/// The transpose of 16 x 16 words.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn transposed(rows: [__m512i; LANES]) -> [__m512i; LANES] {
    // Words of neighbouring rows, then pairs of them: within each quarter of a vector.
    let mut pairs = rows;
    for i in (0..LANES).step_by(2) {
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    let mut fours = pairs;
    for i in (0..LANES).step_by(4) {
        fours[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
        fours[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
        fours[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
        fours[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
    }
    // `fours[4 * g + c]` has, in its quarter q, word 4 * q + c of rows 4 * g to 4 * g + 3. Now the quarters
    // change places.
    let mut turned = fours;
    for c in 0..4 {
        let [a, b, d, e] = [fours[c], fours[4 + c], fours[8 + c], fours[12 + c]];
        let (ab_low, ab_high) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xee>(a, b));
        let (de_low, de_high) = (_mm512_shuffle_i32x4::<0x44>(d, e), _mm512_shuffle_i32x4::<0xee>(d, e));
        turned[c] = _mm512_shuffle_i32x4::<0x88>(ab_low, de_low);
        turned[4 + c] = _mm512_shuffle_i32x4::<0xdd>(ab_low, de_low);
        turned[8 + c] = _mm512_shuffle_i32x4::<0x88>(ab_high, de_high);
        turned[12 + c] = _mm512_shuffle_i32x4::<0xdd>(ab_high, de_high);
    }
    turned
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::has;

    #[test]
    fn rows_become_columns() {
        if !has("avx512f", is_x86_feature_detected!("avx512f")) {
            return;
        }
        let words: Vec<[i32; LANES]> =
            (0..16).map(|row| std::array::from_fn(|column| row * 16 + column as i32)).collect();
        // SAFETY: arrays of 16 words and vectors of 512 bits have one layout, and the CPU was asked.
        let turned: [[i32; LANES]; LANES] = unsafe {
            let rows = std::array::from_fn(|row| _mm512_loadu_si512(words[row].as_ptr().cast()));
            std::mem::transmute(transposed(rows))
        };
        for (row, words) in words.iter().enumerate() {
            for (column, word) in words.iter().enumerate() {
                assert_eq!(turned[column][row], *word);
            }
        }
    }
}
