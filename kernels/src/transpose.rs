//! Sixteen rows of 32-bit words to sixteen columns: the layout that every product here reads.
//!
//! The instructions multiply groups of four bytes or pairs of 16-bit floats, one group for each of sixteen columns. A group is a word.

use std::arch::x86_64::*;

/// Words of a vector.
pub(crate) const LANES: usize = 16;

/// The transpose of 16 x 16 words.
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
    // `fours[4 * g + c]` has, in its quarter q, word 4 * q + c of rows 4 * g to 4 * g + 3. Now the quarters change places.
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

    #[test]
    fn rows_become_columns() {
        if !is_x86_feature_detected!("avx512f") {
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
