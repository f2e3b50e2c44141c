//! With AVX-512.

use std::arch::x86_64::*;

use super::{COLUMNS, Columns, Kernel, Token};
use crate::avx512::{LANES, load_floats, store_floats};
use crate::table::Row;

pub(super) const ROW: Row<Kernel> =
    Row { instructions: "avx512f", here: || is_x86_feature_detected!("avx512f"), kernel: Kernel { run } };

/// Registers of a row.
const PARTS: usize = COLUMNS / LANES;

/// Rows whose products are summed apart: a sum waits four cycles for the one before.
const APART: usize = 4;

#[target_feature(enable = "avx512f")]
fn run(tokens: &[Token<'_>], matrix: &mut [Columns], out: &mut [Columns]) {
    for (token, out) in tokens.iter().zip(out) {
        let decay = _mm512_set1_ps(token.decay);
        let mut known = [[_mm512_setzero_ps(); PARTS]; APART];
        for (i, (row, key)) in matrix.iter().zip(token.key).enumerate() {
            let key = _mm512_set1_ps(*key);
            for part in 0..PARTS {
                let sum = &mut known[i % APART][part];
                *sum = _mm512_fmadd_ps(key, load_floats(&row[part * LANES..]), *sum);
            }
        }
        let strength = _mm512_set1_ps(token.strength);
        let mut news = [_mm512_setzero_ps(); PARTS];
        for part in 0..PARTS {
            let known = summed([0, 1, 2, 3].map(|apart| known[apart][part]));
            let value = load_floats(&token.value[part * LANES..]);
            news[part] = _mm512_mul_ps(_mm512_fnmadd_ps(decay, known, value), strength);
        }
        let mut read = [[_mm512_setzero_ps(); PARTS]; APART];
        for (i, (row, (key, query))) in matrix.iter_mut().zip(token.key.iter().zip(token.query)).enumerate() {
            let (key, query) = (_mm512_set1_ps(*key), _mm512_set1_ps(*query));
            for part in 0..PARTS {
                let kept = _mm512_mul_ps(decay, load_floats(&row[part * LANES..]));
                let now = _mm512_fmadd_ps(key, news[part], kept);
                store_floats(now, &mut row[part * LANES..]);
                let sum = &mut read[i % APART][part];
                *sum = _mm512_fmadd_ps(query, now, *sum);
            }
        }
        for part in 0..PARTS {
            store_floats(summed([0, 1, 2, 3].map(|apart| read[apart][part])), &mut out[part * LANES..]);
        }
    }
}

#[target_feature(enable = "avx512f")]
fn summed([a, b, c, d]: [__m512; APART]) -> __m512 {
    _mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d))
}
