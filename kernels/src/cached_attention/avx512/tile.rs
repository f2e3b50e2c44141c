//! Which tiles a block is multiplied in, and keys in the order in which they are multiplied.

use std::arch::x86_64::*;

use crate::avx512::tile::{self, Begin, Strides};
use crate::avx512::{LANES, load_floats, transposed};

/// How many keys ahead [`transpose`] asks the memory for: rows are far apart, and no CPU guesses the next.
const AHEAD: usize = 2 * LANES;

/// How many of the remaining rows and vectors the next tile takes. Tiles are as large as they can be while
/// every sum has a register.
///
/// Six rows of four vectors are 24 sums. (Twelve of two are as many, but need more addresses than there are
/// registers for them.) With fewer rows, more vectors keep the multipliers busy while a sum waits for its
/// last product.
#[target_feature(enable = "avx512f")]
pub(super) fn tile_size(rows: usize, vectors: usize) -> [usize; 2] {
    let rows = [6, 4, 2, 1].into_iter().find(|q| *q <= rows).unwrap_or(1);
    let most = if rows >= 4 { 4 } else { 8 };
    [rows, [8, 4, 2, 1].into_iter().find(|n| *n <= vectors.min(most)).unwrap_or(1)]
}

/// Runs the tile of a size that [`tile_size`] found.
#[target_feature(enable = "avx512f")]
pub(super) fn run(
    size: [usize; 2],
    left: &[f32],
    right: &[f32],
    to: &mut [f32],
    steps: usize,
    strides: Strides,
    begin: Begin,
) {
    macro_rules! sizes {
        ($([$q:literal, $n:literal])*) => {
            match size {
                $([$q, $n] => tile::floats::<$q, $n>(left, right, to, steps, strides, begin),)*
                _ => unreachable!("expected a size of `tile_size`, found {size:?}"),
            }
        };
    }
    sizes! {
        [6, 1] [6, 2] [6, 4]
        [4, 1] [4, 2] [4, 4]
        [2, 1] [2, 2] [2, 4] [2, 8]
        [1, 1] [1, 2] [1, 4] [1, 8]
    }
}

/// Sixteen keys \[keys, width\], or the last few, to \[width, 16\]; zeros for those that are not there.
#[target_feature(enable = "avx512f")]
pub(super) fn transpose(keys: &[f32], width: usize, to: &mut [f32]) {
    assert_eq!(to.len(), width * LANES, "expected {width} vectors");
    let whole = keys.len() >= LANES * width;
    for (from, to) in (0..width).step_by(LANES).zip(to.chunks_mut(LANES * LANES)) {
        let rows = if whole && width - from >= LANES {
            std::array::from_fn(|lane| {
                let row = lane * width + from;
                let later = keys.as_ptr().wrapping_add(AHEAD * width + (from + lane) * LANES);
                // SAFETY: sixteen numbers from `from` on, of sixteen rows that are there; of what comes later
                // nothing is read.
                unsafe {
                    _mm_prefetch::<_MM_HINT_T0>(later.cast());
                    _mm512_loadu_si512(keys.as_ptr().add(row).cast())
                }
            })
        } else {
            std::array::from_fn(|lane| {
                let row = keys.get(lane * width + from..).unwrap_or_default();
                _mm512_castps_si512(load_floats(&row[..row.len().min(LANES).min(width - from)]))
            })
        };
        for (to, column) in to.chunks_exact_mut(LANES).zip(transposed(rows)) {
            // SAFETY: `to` takes the sixteen numbers.
            unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), column) };
        }
    }
}
