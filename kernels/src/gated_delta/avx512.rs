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

/// A row's columns.
type Vectors = [__m512; PARTS];

/// A group of rows is spelt out with places that the compiler knows, so that sums stay in registers.
#[target_feature(enable = "avx512f")]
fn run(tokens: &[Token<'_>], matrix: &mut [f32], stride: usize, out: &mut [Columns]) {
    for (token, out) in tokens.iter().zip(out) {
        let known = known(token.key, matrix, stride);
        let (decay, strength) = (_mm512_set1_ps(token.decay), _mm512_set1_ps(token.strength));
        let mut news = [_mm512_setzero_ps(); PARTS];
        for part in 0..PARTS {
            let value = load_floats(&token.value[part * LANES..]);
            news[part] = _mm512_mul_ps(_mm512_fnmadd_ps(decay, known[part], value), strength);
        }
        let read = write_and_read(token, decay, news, matrix, stride);
        for part in 0..PARTS {
            store_floats(read[part], &mut out[part * LANES..]);
        }
    }
}

/// What the matrix has for a key.
#[inline]
#[target_feature(enable = "avx512f")]
fn known(key: &[f32], matrix: &[f32], stride: usize) -> Vectors {
    let mut sums = [[_mm512_setzero_ps(); PARTS]; APART];
    for (group, key) in key.chunks(APART).enumerate() {
        let rows = &matrix[group * APART * stride..];
        for apart in 0..APART {
            let Some(key) = key.get(apart) else { break };
            let (row, key) = (&rows[apart * stride..][..COLUMNS], _mm512_set1_ps(*key));
            for part in 0..PARTS {
                let row = load_floats(&row[part * LANES..][..LANES]);
                sums[apart][part] = _mm512_fmadd_ps(key, row, sums[apart][part]);
            }
        }
    }
    summed(sums)
}

/// Lets the matrix decay, writes what is new, and reads it.
#[inline]
#[target_feature(enable = "avx512f")]
fn write_and_read(
    token: &Token<'_>,
    decay: __m512,
    news: Vectors,
    matrix: &mut [f32],
    stride: usize,
) -> Vectors {
    let mut sums = [[_mm512_setzero_ps(); PARTS]; APART];
    let groups = token.key.chunks(APART).zip(token.query.chunks(APART));
    for (group, (key, query)) in groups.enumerate() {
        let rows = &mut matrix[group * APART * stride..];
        for apart in 0..APART {
            let (Some(key), Some(query)) = (key.get(apart), query.get(apart)) else { break };
            let (key, query) = (_mm512_set1_ps(*key), _mm512_set1_ps(*query));
            let row = &mut rows[apart * stride..][..COLUMNS];
            for part in 0..PARTS {
                let kept = _mm512_mul_ps(decay, load_floats(&row[part * LANES..][..LANES]));
                let now = _mm512_fmadd_ps(key, news[part], kept);
                store_floats(now, &mut row[part * LANES..][..LANES]);
                sums[apart][part] = _mm512_fmadd_ps(query, now, sums[apart][part]);
            }
        }
    }
    summed(sums)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn summed(sums: [Vectors; APART]) -> Vectors {
    let mut all = sums[0];
    for part in 0..PARTS {
        let [a, b, c, d] = [0, 1, 2, 3].map(|apart| sums[apart][part]);
        all[part] = _mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d));
    }
    all
}
