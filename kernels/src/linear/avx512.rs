//! With AVX-512 VNNI, which multiplies groups of four bytes, unsigned with signed.
//!
//! Few rows: every weight is read once, in the order of memory, and multiplied with all rows.
//!
//! Many rows: a task brings a panel's weights into the order in which the instruction takes them (64 outputs,
//! four inputs each), small enough to stay in the second cache, and multiplies all its rows with them, six
//! at once: 24 sums stay in registers from the first input to the last. (Twelve rows with 32 outputs are as
//! many sums, but need a pointer to each row: more than the registers for addresses, and a third slower on
//! Zen 4.) Meanwhile the next panel's weights come from memory.

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use super::rows::QuantizedRows;
use super::{Few, Kernel, Many, Weight};
use crate::avx512::quantize::Largest;
use crate::avx512::{
    BYTES, LANES, fetch, fetch_soon, load_bytes, load_floats, store_floats, transposed, wide,
};
use crate::quantize::Group;
use crate::shared::Shared;
use crate::table::Row;

pub(super) const ROW: Row<Kernel> = Row {
    instructions: "avx512vnni",
    here: || wide() && is_x86_feature_detected!("avx512vnni"),
    kernel: Kernel {
        quantize,
        few: Few { rows: 4, outputs: 4 * LANES, multiply: few },
        many: Many { rows: 170 * TILE_ROWS, outputs: 2 * PANEL, multiply: many },
    },
};

/// Vectors of sums of each row.
const VECTORS: usize = 4;
/// Outputs of a panel, in the order in which the instruction takes their weights, \[inputs / 4, 64, 4\]
/// bytes.
const PANEL: usize = VECTORS * LANES;
/// Rows that are multiplied at once: with their vectors, as many as the registers hold.
const TILE_ROWS: usize = 6;
/// How far ahead of the products of few rows weights are asked for, bytes.
const AHEAD: usize = 2 << 10;

thread_local! {
    static WEIGHTS: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Writes a row, and zeros to the end of `values`. A row with NaN or infinity gives NaN outputs.
#[target_feature(enable = "avx512f,avx512bw")]
fn quantize(x: &[f32], values: &mut [u8]) -> Group {
    let mut largest = Largest::of_none();
    for chunk in x.chunks(LANES) {
        largest = largest.and(load_floats(chunk));
    }
    let Some(step) = largest.step() else {
        values.fill(0);
        return Group::NOT_FINITE;
    };
    let mut sum = _mm512_setzero_si512();
    let written = x.len().div_ceil(LANES) * LANES;
    for (chunk, place) in x.chunks(LANES).zip(values.chunks_exact_mut(LANES)) {
        let (bytes, words) = step.round(load_floats(chunk));
        sum = _mm512_add_epi32(sum, words);
        // SAFETY: `place` takes the sixteen.
        unsafe { _mm_storeu_si128(place.as_mut_ptr().cast(), bytes) };
    }
    values[written..].fill(0);
    Group { scale: step.back, correction: 128 * _mm512_reduce_add_epi32(sum) }
}

/// Sums of products with raised weights to numbers, for sixteen outputs of a row.
#[inline]
#[target_feature(enable = "avx512f")]
fn scaled_back(sums: __m512i, about: Group, scales: __m512, bias: __m512) -> __m512 {
    let product = _mm512_sub_epi32(sums, _mm512_set1_epi32(about.correction));
    let scale = _mm512_mul_ps(_mm512_set1_ps(about.scale), scales);
    _mm512_fmadd_ps(_mm512_cvtepi32_ps(product), scale, bias)
}

/// # Safety
/// As [`Few::multiply`] says.
unsafe fn few(x: &QuantizedRows<'_>, weight: Weight<'_>, outputs: Range<usize>, y: &Shared<'_, f32>) {
    for first in outputs.clone().step_by(LANES) {
        let count = LANES.min(outputs.end - first);
        // SAFETY: as the caller's.
        unsafe {
            match x.rows {
                1 => some_outputs::<1>(x, weight, first, count, y),
                2 => some_outputs::<2>(x, weight, first, count, y),
                3 => some_outputs::<3>(x, weight, first, count, y),
                _ => some_outputs::<4>(x, weight, first, count, y),
            }
        }
    }
}

/// Sixteen outputs or fewer of `R` rows, from output `first`.
///
/// # Safety
/// Only one task may have these outputs, and the CPU must have AVX-512 VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn some_outputs<const R: usize>(
    x: &QuantizedRows<'_>,
    weight: Weight<'_>,
    first: usize,
    count: usize,
    y: &Shared<'_, f32>,
) {
    let rows: [&[u8]; R] = std::array::from_fn(|row| x.values(row));
    let mut sums = [[_mm512_setzero_si512(); LANES]; R];
    for lane in 0..count {
        let products = multiply_output(rows, weight.row(first + lane));
        for r in 0..R {
            sums[r][lane] = products[r];
        }
    }
    let [scales, bias] = [weight.scales, weight.bias].map(|all| load_floats(&all[first..][..count]));
    for (r, sums) in sums.into_iter().enumerate() {
        let [first_word, words @ ..] = transposed(sums);
        let product = words.into_iter().fold(first_word, |sum, word| _mm512_add_epi32(sum, word));
        let result = scaled_back(product, x.about(r), scales, bias);
        // SAFETY: the caller has these outputs to itself.
        store_floats(result, unsafe { y.part(r * weight.outputs() + first, count) });
    }
}

/// An output's products with `R` rows, in sixteen sums each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn multiply_output<const R: usize>(rows: [&[u8]; R], weights: &[u8]) -> [__m512i; R] {
    let (pairs, rest) = weights.as_chunks::<{ 2 * BYTES }>();
    let done = 2 * BYTES * pairs.len();
    assert!(rows.iter().all(|row| row.len() >= weights.len()));
    // Two chains of additions, since one would wait for itself.
    let mut sums = [[_mm512_setzero_si512(); 2]; R];
    for (pair, bytes) in pairs.iter().enumerate() {
        fetch_soon(bytes, AHEAD);
        for half in 0..2 {
            let weights = raised(load_bytes(&bytes[half * BYTES..]));
            for r in 0..R {
                // SAFETY: the row is as long as the weights, of which these 64 are a part.
                let x = unsafe { rows[r].as_ptr().add((2 * pair + half) * BYTES) };
                // SAFETY: as above.
                let x = unsafe { _mm512_loadu_si512(x.cast()) };
                sums[r][half] = _mm512_dpbusd_epi32(sums[r][half], weights, x);
            }
        }
    }
    for (at, bytes) in rest.chunks(BYTES).enumerate() {
        let weights = raised(load_bytes(bytes));
        for r in 0..R {
            let x = load_bytes(&rows[r][done + at * BYTES..]);
            sums[r][at] = _mm512_dpbusd_epi32(sums[r][at], weights, x);
        }
    }
    sums.map(|[even, odd]| _mm512_add_epi32(even, odd))
}

/// Raised by 128, since the instruction multiplies unsigned with signed bytes.
#[inline]
#[target_feature(enable = "avx512f")]
fn raised(weights: __m512i) -> __m512i {
    _mm512_xor_si512(weights, _mm512_set1_epi8(i8::MIN))
}

/// # Safety
/// As [`Many::multiply`] says.
unsafe fn many(
    x: &QuantizedRows<'_>,
    weight: Weight<'_>,
    rows: Range<usize>,
    outputs: Range<usize>,
    y: &Shared<'_, f32>,
) {
    let (depth, last) = (x.stride, weight.outputs() - 1);
    WEIGHTS.with_borrow_mut(|panel| {
        panel.resize(PANEL * depth, 0);
        for first in outputs.step_by(PANEL) {
            // SAFETY: as the caller's.
            unsafe { pack_panel(weight, first, depth, panel) };
            let tiles = rows.len().div_ceil(TILE_ROWS);
            for (i, row) in rows.clone().step_by(TILE_ROWS).enumerate() {
                for next in i * PANEL / tiles..(i + 1) * PANEL / tiles {
                    fetch(weight.row((first + PANEL + next).min(last)));
                }
                let tile = Tile { rows: row..rows.end.min(row + TILE_ROWS), first, panel };
                // SAFETY: as the caller's.
                unsafe { tile.multiply(x, weight, y) };
            }
        }
    });
}

/// Writes the weights of a panel's outputs, raised by 128; outputs beyond the last and inputs beyond the
/// depth's true end may be anything, since nobody reads the former's sums and the rows are zero at the
/// latter.
#[target_feature(enable = "avx512f,avx512bw")]
fn pack_panel(weight: Weight<'_>, first: usize, depth: usize, panel: &mut [u8]) {
    let last = weight.outputs() - 1;
    let raise = _mm512_set1_epi8(i8::MIN);
    for at in (0..depth).step_by(BYTES) {
        store_inputs(panel, at, |lane| {
            _mm512_xor_si512(load_bytes(&weight.row((first + lane).min(last))[at..]), raise)
        });
    }
}

/// Writes 64 inputs from `at` on, as `row` gives them of every output.
#[inline]
#[target_feature(enable = "avx512f")]
fn store_inputs(panel: &mut [u8], at: usize, row: impl Fn(usize) -> __m512i) {
    for vector in 0..VECTORS {
        let rows = std::array::from_fn(|lane| row(vector * LANES + lane));
        for (word, column) in transposed(rows).into_iter().enumerate() {
            let place = &mut panel[(at / 4 + word) * PANEL * 4 + vector * BYTES..][..BYTES];
            // SAFETY: `place` takes the 64 bytes.
            unsafe { _mm512_storeu_si512(place.as_mut_ptr().cast(), column) };
        }
    }
}

/// Some rows with the outputs of one panel.
struct Tile<'a> {
    rows: Range<usize>,
    /// First output.
    first: usize,
    panel: &'a [u8],
}

impl Tile<'_> {
    /// # Safety
    /// Only one task may have these outputs of these rows, and the CPU must have AVX-512 VNNI.
    unsafe fn multiply(&self, x: &QuantizedRows<'_>, weight: Weight<'_>, y: &Shared<'_, f32>) {
        // SAFETY: as the caller's.
        unsafe {
            match self.rows.len() {
                1 => self.run::<1>(x, weight, y),
                2 => self.run::<2>(x, weight, y),
                3 => self.run::<3>(x, weight, y),
                4 => self.run::<4>(x, weight, y),
                5 => self.run::<5>(x, weight, y),
                _ => self.run::<TILE_ROWS>(x, weight, y),
            }
        }
    }

    /// All `R` rows.
    ///
    /// # Safety
    /// As [`Self::multiply`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn run<const R: usize>(&self, x: &QuantizedRows<'_>, weight: Weight<'_>, y: &Shared<'_, f32>) {
        let (row, depth) = (self.rows.start, x.stride);
        let rows: [*const u8; R] = std::array::from_fn(|r| x.values(row + r).as_ptr());
        assert_eq!(self.panel.len(), depth * PANEL);
        let mut sums = [[_mm512_setzero_si512(); VECTORS]; R];
        for at in (0..depth).step_by(4) {
            // SAFETY: `at` is below the depth, which rows and panel have.
            unsafe {
                let weights = self.panel.as_ptr().add(at * PANEL);
                let weights: [__m512i; VECTORS] =
                    std::array::from_fn(|vector| _mm512_loadu_si512(weights.add(vector * BYTES).cast()));
                for r in 0..R {
                    let x = _mm512_set1_epi32(rows[r].add(at).cast::<i32>().read_unaligned());
                    for vector in 0..VECTORS {
                        sums[r][vector] = _mm512_dpbusd_epi32(sums[r][vector], weights[vector], x);
                    }
                }
            }
        }
        let outputs = weight.outputs();
        for vector in 0..VECTORS {
            let first = self.first + vector * LANES;
            let count = outputs.saturating_sub(first).min(LANES);
            if count == 0 {
                break;
            }
            let [scales, bias] = [weight.scales, weight.bias].map(|all| load_floats(&all[first..]));
            for r in 0..R {
                let result = scaled_back(sums[r][vector], x.about(row + r), scales, bias);
                // SAFETY: the caller has these outputs of this row to itself.
                store_floats(result, unsafe { y.part((row + r) * outputs + first, count) });
            }
        }
    }
}
