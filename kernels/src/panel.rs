//! Panels: the weights of 32 outputs in the order in which the instruction takes them, \[inputs / 4, 32, 4\] bytes.

use std::arch::x86_64::*;

use crate::vectors::{BYTES, LANES, transposed};

/// Outputs of a panel: two vectors of sums for each row.
pub(crate) const PANEL: usize = 2 * LANES;

/// Writes 64 inputs from `at` on, as `row` gives them of every output.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn store_inputs(panel: &mut [u8], at: usize, row: impl Fn(usize) -> __m512i) {
    for half in 0..2 {
        let rows = std::array::from_fn(|lane| row(half * LANES + lane));
        for (word, column) in transposed(rows).into_iter().enumerate() {
            let place = &mut panel[(at / 4 + word) * PANEL * 4 + half * BYTES..][..BYTES];
            // SAFETY: `place` takes the 64 bytes.
            unsafe { _mm512_storeu_si512(place.as_mut_ptr().cast(), column) };
        }
    }
}
