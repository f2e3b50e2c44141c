//! With AVX-512, in 32-bit floats.

mod block;
mod tile;

use std::arch::x86_64::*;
use std::cell::RefCell;

use super::{Kernel, Queries, Rotary};
use crate::avx512::{LANES, load_floats, store_floats};
use crate::shared::Shared;
use crate::table::Row;
use block::Block;

pub(super) const ROW: Row<Kernel> = Row {
    instructions: "avx512f",
    here: || is_x86_feature_detected!("avx512f"),
    kernel: Kernel { rotate, queries: 96, attend },
};

thread_local! {
    static BLOCK: RefCell<Block> = RefCell::new(Block::default());
}

/// # Safety
/// As [`super::Attend`] says.
unsafe fn attend(
    queries: &Queries,
    numbers: &[f32],
    rotary: Rotary<'_>,
    keys: &[f32],
    values: &[f32],
    out: &Shared<'_, f32>,
) {
    // SAFETY: as the caller's.
    BLOCK.with_borrow_mut(|block| unsafe { block.run(queries, numbers, rotary, keys, values, out) });
}

/// Rotates `x` \[width\] to the position of a token, and multiplies it with `scale`: number i and number i +
/// width / 2 are a pair.
#[inline]
#[target_feature(enable = "avx512f")]
fn rotate(rotary: Rotary<'_>, token: usize, x: &[f32], scale: f32, to: &mut [f32]) {
    let half = x.len() / 2;
    let [cosines, sines] = rotary.angles(token, half);
    let ((first, second), (to_first, to_second)) = (x.split_at(half), to.split_at_mut(half));
    let scale = _mm512_set1_ps(scale);
    for at in (0..half).step_by(LANES) {
        let [a, b, cosine, sine] = [first, second, cosines, sines].map(|x| load_floats(&x[at..]));
        let turned_a = _mm512_fmsub_ps(a, cosine, _mm512_mul_ps(b, sine));
        let turned_b = _mm512_fmadd_ps(b, cosine, _mm512_mul_ps(a, sine));
        store_floats(_mm512_mul_ps(turned_a, scale), &mut to_first[at..]);
        store_floats(_mm512_mul_ps(turned_b, scale), &mut to_second[at..]);
    }
}
