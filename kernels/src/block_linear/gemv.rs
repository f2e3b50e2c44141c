//! Products of a few rows: a decoder's step. Every weight is read once, in the order of memory, and multiplied with all rows.
//!
//! Integers come first, output by output, so that memory is read from one end to the other. Then four outputs are added up side by side,
//! four blocks at a time: their sixteen products fill one vector, \[block, output\].

use std::arch::x86_64::*;
use std::cell::RefCell;

use super::quantize::BlockedRows;
use super::{BLOCK, Bits, BlockedWeight};
use crate::Threads;
use crate::shared::Shared;
use crate::vectors::{BYTES, LANES, load_bytes, load_floats};

/// Most rows.
pub(super) const MOST: usize = 4;

/// Outputs of one task.
const OUTPUTS_PER_TASK: usize = 32;
/// Outputs that are computed side by side.
const ABREAST: usize = 4;
/// Blocks that are computed at a time.
const BLOCKS: usize = 4;
/// Inputs of those.
const INPUTS: usize = BLOCKS * BLOCK;
/// How far ahead of the products weights are asked for, bytes.
const AHEAD: usize = 2 << 10;

/// A row as the products take it, four blocks to a part.
struct Row {
    parts: Vec<Part>,
}

/// Four blocks of a row; zeros where the row has no more.
#[derive(Clone)]
#[repr(C, align(64))]
struct Part {
    /// For weights of 8 bits as they lie; for those of 4, first all that meet the lower halves of bytes.
    values: [u8; INPUTS],
    /// Each for four outputs.
    scales: [f32; BLOCKS * ABREAST],
    correction: Words,
}

/// A vector of words in memory.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Words([i32; LANES]);

impl Words {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn get(&self) -> __m512i {
        // SAFETY: sixteen words, aligned.
        unsafe { _mm512_load_si512(self.0.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn set(&mut self, words: __m512i) {
        // SAFETY: as above.
        unsafe { _mm512_store_si512(self.0.as_mut_ptr().cast(), words) }
    }
}

thread_local! {
    static PRODUCTS: RefCell<Vec<Words>> = const { RefCell::new(Vec::new()) };
}

impl Row {
    fn new(x: &BlockedRows<'_>, row: usize, bits: Bits) -> Self {
        let parts = x.values(row).chunks(INPUTS).zip(x.about(row).chunks(BLOCKS)).map(|(values, about)| {
            let mut part = Part { values: [0; INPUTS], scales: [0.0; LANES], correction: Words([0; LANES]) };
            for (i, value) in values.iter().enumerate() {
                let place = match bits {
                    Bits::Eight => i,
                    // Of the two weights of a byte, the second is multiplied in another vector.
                    Bits::Four => i % 2 * BYTES + i / 2,
                };
                part.values[place] = *value;
            }
            for (i, block) in about.iter().enumerate() {
                part.scales[i * ABREAST..][..ABREAST].fill(block.scale);
                part.correction.0[i * ABREAST..][..ABREAST].fill(block.correction);
            }
            part
        });
        Self { parts: parts.collect() }
    }
}

pub(super) fn multiply(
    x: &BlockedRows<'_>,
    weight: BlockedWeight<'_>,
    y: &Shared<'_, f32>,
    threads: &dyn Threads,
) {
    let outputs = weight.outputs();
    let rows: Vec<Row> = (0..x.rows).map(|row| Row::new(x, row, weight.bits)).collect();
    threads.run(outputs.div_ceil(OUTPUTS_PER_TASK), &|task| {
        let end = outputs.min((task + 1) * OUTPUTS_PER_TASK);
        PRODUCTS.with_borrow_mut(|products| {
            for first in (task * OUTPUTS_PER_TASK..end).step_by(ABREAST) {
                // SAFETY: `block_linear` asked the CPU; every task has outputs of its own.
                unsafe {
                    match (rows.as_slice(), weight.bits) {
                        ([a], Bits::Eight) => four_outputs::<1, false>([a], weight, first, products, y),
                        ([a, b], Bits::Eight) => four_outputs::<2, false>([a, b], weight, first, products, y),
                        ([a, b, c], Bits::Eight) => {
                            four_outputs::<3, false>([a, b, c], weight, first, products, y)
                        }
                        ([a, b, c, d], Bits::Eight) => {
                            four_outputs::<4, false>([a, b, c, d], weight, first, products, y)
                        }
                        ([a], Bits::Four) => four_outputs::<1, true>([a], weight, first, products, y),
                        ([a, b], Bits::Four) => four_outputs::<2, true>([a, b], weight, first, products, y),
                        ([a, b, c], Bits::Four) => {
                            four_outputs::<3, true>([a, b, c], weight, first, products, y)
                        }
                        ([a, b, c, d], Bits::Four) => {
                            four_outputs::<4, true>([a, b, c, d], weight, first, products, y)
                        }
                        (rows, _) => unreachable!("{} rows are not few", rows.len()),
                    }
                }
            }
        });
    });
}

/// Four outputs of `R` rows, from output `first`, with weights of 4 bits (`HALVES`) or 8.
///
/// # Safety
/// Only one task may have these outputs, and the CPU must have AVX-512 VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
unsafe fn four_outputs<const R: usize, const HALVES: bool>(
    rows: [&Row; R],
    weight: BlockedWeight<'_>,
    first: usize,
    products: &mut Vec<Words>,
    y: &Shared<'_, f32>,
) {
    let (outputs, blocks) = (weight.outputs(), weight.blocks());
    // Beyond the last output, that one again: nobody reads it.
    let at = |n: usize| (first + n).min(outputs - 1);
    let weights: [&[u8]; ABREAST] = std::array::from_fn(|n| weight.row(at(n)));
    let scales: [&[f32]; ABREAST] = std::array::from_fn(|n| weight.scales_of(at(n)));
    let part_bytes = BLOCKS * weight.bits.bytes();
    let parts = blocks.div_ceil(BLOCKS);
    products.resize(parts * ABREAST * R, Words([0; LANES]));
    for n in 0..ABREAST {
        for part in 0..parts {
            let bytes = &weights[n][part * part_bytes..];
            fetch(bytes, part_bytes);
            let [low, high] = match HALVES {
                true => {
                    let both = load_bytes(bytes);
                    let half = _mm512_set1_epi8(0x0f);
                    [_mm512_and_si512(both, half), _mm512_and_si512(_mm512_srli_epi16::<4>(both), half)]
                }
                false => [load_bytes(bytes), load_bytes(bytes.get(BYTES..).unwrap_or_default())],
            };
            for r in 0..R {
                let values = &rows[r].parts[part].values;
                let (x_low, x_high) = (load_bytes(values), load_bytes(&values[BYTES..]));
                let zero = _mm512_setzero_si512();
                products[(part * R + r) * ABREAST + n].set(match HALVES {
                    // Four words to a block, in each of both.
                    true => _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(zero, low, x_low), high, x_high),
                    // Eight words to a block: two blocks in each.
                    false => {
                        let low = _mm512_dpbusd_epi32(zero, low, x_low);
                        let high = _mm512_dpbusd_epi32(zero, high, x_high);
                        let even = _mm512_shuffle_i32x4::<0x88>(low, high);
                        _mm512_add_epi32(even, _mm512_shuffle_i32x4::<0xdd>(low, high))
                    }
                });
            }
        }
    }
    let mut sums = [_mm_setzero_ps(); R];
    for (part, products) in products.chunks_exact(R * ABREAST).enumerate() {
        let scales = block_scales(&scales, part * BLOCKS);
        for r in 0..R {
            let x = &rows[r].parts[part];
            let four = std::array::from_fn(|n| products[r * ABREAST + n].get());
            let product = _mm512_sub_epi32(added(four), x.correction.get()); // [block, output]
            let product = _mm512_cvtepi32_ps(product);
            let scale = _mm512_mul_ps(load_floats(&x.scales), scales);
            let (products, scales) = (quarters(product), quarters(scale));
            for block in 0..BLOCKS {
                sums[r] = _mm_fmadd_ps(products[block], scales[block], sums[r]);
            }
        }
    }
    let count = ABREAST.min(outputs - first);
    for (r, sums) in sums.into_iter().enumerate() {
        // SAFETY: the caller has these outputs to itself, and the mask keeps the store to them.
        unsafe {
            let y = y.part(r * outputs + first, count);
            _mm_mask_storeu_ps(y.as_mut_ptr(), 0xf >> (ABREAST - count), sums);
        }
    }
}

/// Asks for what lies further on in memory: rows follow each other.
#[inline]
fn fetch(bytes: &[u8], count: usize) {
    for line in (0..count).step_by(BYTES) {
        // SAFETY: a hint, wherever the address leads.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(AHEAD + line).cast()) };
    }
}

/// The four words of every quarter added up, for four vectors: [quarter, vector].
#[inline]
#[target_feature(enable = "avx512f")]
fn added([a, b, c, d]: [__m512i; 4]) -> __m512i {
    let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))
}

#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn quarters(x: __m512) -> [__m128; 4] {
    [
        _mm512_castps512_ps128(x),
        _mm512_extractf32x4_ps::<1>(x),
        _mm512_extractf32x4_ps::<2>(x),
        _mm512_extractf32x4_ps::<3>(x),
    ]
}

/// Scales of four blocks from `from` on of four outputs: [block, output].
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512vl")]
fn block_scales(scales: &[&[f32]; ABREAST], from: usize) -> __m512 {
    let [a, b, c, d] = scales.map(|scales| {
        let scales = &scales[from..];
        let mask = 0xf >> (BLOCKS - scales.len().min(BLOCKS));
        // SAFETY: the mask keeps the load within the slice.
        unsafe { _mm_maskz_loadu_ps(mask, scales.as_ptr()) }
    });
    let (ab_low, ab_high) = (_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
    let (cd_low, cd_high) = (_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
    let low = _mm256_set_m128(_mm_movehl_ps(cd_low, ab_low), _mm_movelh_ps(ab_low, cd_low));
    let high = _mm256_set_m128(_mm_movehl_ps(cd_high, ab_high), _mm_movelh_ps(ab_high, cd_high));
    _mm512_insertf32x8::<1>(_mm512_castps256_ps512(low), high)
}
