//! With AVX-512 VNNI, which multiplies groups of four bytes, unsigned with signed.
//!
//! Few rows: every weight is read once, in the order of memory, and multiplied with all rows.
//!
//! Many rows: a task brings a panel's weights together and takes halves of bytes apart, once for all its
//! rows. After every block the integers become floats and are added to sums of their own: half a dozen rows
//! fill the registers.
//!
//! What depends on the bits of a weight is a function of the bytes of a tile's block, [`FOUR_BITS`] or
//! [`EIGHT_BITS`].

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use super::rows::{BlockedRows, Words};
use super::{BLOCK, BlockedWeight, EIGHT_BITS, FOUR_BITS, Few, Kernel, Many, TILE, WeightBits};
use crate::avx512::quantize::Largest;
use crate::avx512::{BYTES, LANES, fetch, fetch_soon, load_f16, load_floats, store_floats, wide};
use crate::quantize::Group;
use crate::shared::Shared;
use crate::table::Row;

pub(super) const ROW: Row<Kernel> = Row {
    instructions: "avx512vnni",
    here: || wide() && is_x86_feature_detected!("avx512vnni"),
    kernel: Kernel {
        quantize,
        few: Few { rows: FEW, tiles: 2, multiply: few },
        // With this many rows, unpacking the weights costs next to nothing, and the rows still fit the cache.
        // With panels of this size, the threads share the work evenly.
        many: Many { rows: 64 * ROWS, tiles: 4 * TILES, multiply: many },
    },
};

/// An output to each lane.
const _: () = assert!(TILE == LANES);

/// Most rows that are multiplied with the weights as they lie.
const FEW: usize = 4;
/// Rows that are multiplied at once.
const ROWS: usize = 6;
/// Tiles of a panel: two sums for each row.
const TILES: usize = 2;
/// How far ahead of the products of few rows weights are asked for, blocks.
const AHEAD: usize = 8;

/// A row, block by block.
#[target_feature(enable = "avx512f,avx512bw,ssse3")]
fn quantize(x: &[f32], bits: WeightBits, words: &mut [Words], about: &mut [Group]) {
    for ((x, words), about) in x.as_chunks().0.iter().zip(words).zip(about) {
        *about = quantize_block(x, bits, words);
    }
}

/// Writes a block. One with NaN or infinity gives NaN outputs.
#[target_feature(enable = "avx512f,avx512bw,ssse3")]
fn quantize_block(x: &[f32; BLOCK], bits: WeightBits, words: &mut Words) -> Group {
    let (low, high) = x.split_at(LANES);
    let (low, high) = (load_floats(low), load_floats(high));
    let Some(step) = Largest::of_none().and(low).and(high).step() else {
        words.fill(0);
        return Group::NOT_FINITE;
    };
    let ((low, low_words), (high, high_words)) = (step.round(low), step.round(high));
    let order = match bits {
        WeightBits::Four => _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15),
        WeightBits::Eight => _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
    };
    // SAFETY: the block takes two times four words.
    unsafe {
        _mm_storeu_si128(words.as_mut_ptr().cast(), _mm_shuffle_epi8(low, order));
        _mm_storeu_si128(words.as_mut_ptr().add(4).cast(), _mm_shuffle_epi8(high, order));
    }
    let sum = _mm512_reduce_add_epi32(_mm512_add_epi32(low_words, high_words));
    Group { scale: step.back, correction: bits.zero() * sum }
}

/// Eight weights of sixteen outputs, `eight` times eight from the beginning of a block: two words of four
/// bytes each. Of 4 bits, these are the lower halves of a word's bytes, and the upper ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn two_words<const BLOCK_BYTES: usize>(block: &[u8; BLOCK_BYTES], eight: usize) -> [__m512i; 2] {
    let words = block.as_chunks::<BYTES>().0;
    // SAFETY: a chunk has the 64 bytes.
    let load = |words: &[u8; BYTES]| unsafe { _mm512_loadu_si512(words.as_ptr().cast()) };
    if BLOCK_BYTES == EIGHT_BITS {
        return [load(&words[2 * eight]), load(&words[2 * eight + 1])];
    }
    let (both, half) = (load(&words[eight]), _mm512_set1_epi8(0x0f));
    [_mm512_and_si512(both, half), _mm512_and_si512(_mm512_srli_epi16::<4>(both), half)]
}

/// # Safety
/// As [`Few::multiply`] says.
unsafe fn few(x: &BlockedRows<'_>, weight: BlockedWeight<'_>, tiles: Range<usize>, y: &Shared<'_, f32>) {
    for tile in tiles {
        // SAFETY: as the caller's.
        unsafe {
            match weight.bits {
                WeightBits::Four => some_rows::<FOUR_BITS>(x, weight, tile, y),
                WeightBits::Eight => some_rows::<EIGHT_BITS>(x, weight, tile, y),
            }
        }
    }
}

/// # Safety
/// As [`one_tile`].
unsafe fn some_rows<const BLOCK_BYTES: usize>(
    x: &BlockedRows<'_>,
    weight: BlockedWeight<'_>,
    tile: usize,
    y: &Shared<'_, f32>,
) {
    // SAFETY: as the caller's.
    unsafe {
        match x.rows {
            1 => one_tile::<BLOCK_BYTES, 1>(x, weight, tile, y),
            2 => one_tile::<BLOCK_BYTES, 2>(x, weight, tile, y),
            3 => one_tile::<BLOCK_BYTES, 3>(x, weight, tile, y),
            FEW => one_tile::<BLOCK_BYTES, FEW>(x, weight, tile, y),
            rows => unreachable!("the driver gives {FEW} rows at most, and gave {rows}"),
        }
    }
}

/// The outputs of a tile for `R` rows.
///
/// # Safety
/// Only one task may have this tile, and the CPU must have AVX-512 VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn one_tile<const BLOCK_BYTES: usize, const R: usize>(
    x: &BlockedRows<'_>,
    weight: BlockedWeight<'_>,
    tile: usize,
    y: &Shared<'_, f32>,
) {
    let (values, scales) = weight.tile::<BLOCK_BYTES>(tile);
    let rows: [_; R] = std::array::from_fn(|r| (x.blocks(r), x.about(r)));
    assert!(rows.iter().all(|(blocks, about)| blocks.len() == values.len() && about.len() == values.len()));
    let mut sums = [_mm512_setzero_ps(); R];
    for (block, (values, scales)) in values.iter().zip(scales).enumerate() {
        fetch_soon(values, AHEAD * BLOCK_BYTES);
        let mut low = [_mm512_setzero_si512(); R];
        let mut high = [_mm512_setzero_si512(); R];
        for r in 0..R {
            low[r] = _mm512_set1_epi32(-rows[r].1[block].correction);
        }
        for eight in 0..BLOCK / 8 {
            let [first, second] = two_words(values, eight);
            for r in 0..R {
                let x: &[i32; BLOCK / 4] = &rows[r].0[block];
                low[r] = _mm512_dpbusd_epi32(low[r], first, _mm512_set1_epi32(x[2 * eight]));
                high[r] = _mm512_dpbusd_epi32(high[r], second, _mm512_set1_epi32(x[2 * eight + 1]));
            }
        }
        let scales = load_f16(scales);
        for r in 0..R {
            let product = _mm512_cvtepi32_ps(_mm512_add_epi32(low[r], high[r]));
            let scale = _mm512_mul_ps(_mm512_set1_ps(rows[r].1[block].scale), scales);
            sums[r] = _mm512_fmadd_ps(product, scale, sums[r]);
        }
    }
    for r in 0..R {
        // SAFETY: the caller has this tile to itself.
        store_floats(sums[r], unsafe { y.part(r * weight.outputs() + tile * TILE, TILE) });
    }
}

/// A block of a panel: words of four weights, a byte each, \[8 words, 2 tiles, 16 outputs\], and the scales.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct PanelBlock {
    words: [[[u8; BYTES]; TILES]; BLOCK / 4],
    scales: [[f32; TILE]; TILES],
}

const EMPTY: PanelBlock =
    PanelBlock { words: [[[0; BYTES]; TILES]; BLOCK / 4], scales: [[0.0; TILE]; TILES] };

thread_local! {
    static PANEL: RefCell<Vec<PanelBlock>> = const { RefCell::new(Vec::new()) };
}

/// # Safety
/// As [`Many::multiply`] says.
unsafe fn many(
    x: &BlockedRows<'_>,
    weight: BlockedWeight<'_>,
    rows: Range<usize>,
    tiles: Range<usize>,
    y: &Shared<'_, f32>,
) {
    PANEL.with_borrow_mut(|panel| {
        panel.resize(weight.blocks(), EMPTY);
        for first in tiles.step_by(TILES) {
            // SAFETY: as the caller's.
            unsafe {
                match weight.bits {
                    WeightBits::Four => one_panel::<FOUR_BITS>(panel, rows.clone(), x, weight, first, y),
                    WeightBits::Eight => one_panel::<EIGHT_BITS>(panel, rows.clone(), x, weight, first, y),
                }
            }
        }
    });
}

/// # Safety
/// As [`multiply_panel`].
unsafe fn one_panel<const BLOCK_BYTES: usize>(
    panel: &mut [PanelBlock],
    rows: Range<usize>,
    x: &BlockedRows<'_>,
    weight: BlockedWeight<'_>,
    first: usize,
    y: &Shared<'_, f32>,
) {
    // SAFETY: as the caller's.
    unsafe {
        unpack::<BLOCK_BYTES>(weight, first, panel);
        multiply_panel::<BLOCK_BYTES>(panel, rows, x, weight, first, y);
    }
}

/// Unpacks the tiles from `first` on. Behind the last tile it unpacks the last one again: nobody reads the
/// sums.
#[target_feature(enable = "avx512f,avx512bw")]
fn unpack<const BLOCK_BYTES: usize>(weight: BlockedWeight<'_>, first: usize, panel: &mut [PanelBlock]) {
    for tile in 0..TILES {
        let (values, scales) = weight.tile::<BLOCK_BYTES>((first + tile).min(weight.tiles() - 1));
        for ((values, scales), block) in values.iter().zip(scales).zip(&mut *panel) {
            store_floats(load_f16(scales), &mut block.scales[tile]);
            for eight in 0..BLOCK / 8 {
                for (at, word) in two_words(values, eight).into_iter().enumerate() {
                    // SAFETY: the array takes the 64 bytes.
                    unsafe {
                        _mm512_store_si512(block.words[2 * eight + at][tile].as_mut_ptr().cast(), word)
                    };
                }
            }
        }
    }
}

/// # Safety
/// Only one task may have these outputs of these rows, and the CPU must have AVX-512 VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn multiply_panel<const BLOCK_BYTES: usize>(
    panel: &[PanelBlock],
    rows: Range<usize>,
    x: &BlockedRows<'_>,
    weight: BlockedWeight<'_>,
    first: usize,
    y: &Shared<'_, f32>,
) {
    let next = (first + TILES..first + 2 * TILES)
        .map(|tile| weight.tile::<BLOCK_BYTES>(tile.min(weight.tiles() - 1)).0);
    let mut next = next.flatten();
    let per_turn = (TILES * weight.blocks()).div_ceil((rows.len() / ROWS).max(1));
    let mut row = rows.start;
    // SAFETY: as the caller's.
    unsafe {
        while row + ROWS <= rows.end {
            // The next panel comes from memory meanwhile.
            next.by_ref().take(per_turn).for_each(|block| fetch(block));
            run::<ROWS>(panel, row, x, weight, first, y);
            row += ROWS;
        }
        while row + 2 <= rows.end {
            run::<2>(panel, row, x, weight, first, y);
            row += 2;
        }
        if row < rows.end {
            run::<1>(panel, row, x, weight, first, y);
        }
    }
}

/// `R` rows from `row`.
///
/// # Safety
/// As [`multiply_panel`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn run<const R: usize>(
    panel: &[PanelBlock],
    row: usize,
    x: &BlockedRows<'_>,
    weight: BlockedWeight<'_>,
    first: usize,
    y: &Shared<'_, f32>,
) {
    let rows: [_; R] = std::array::from_fn(|r| (x.blocks(row + r), x.about(row + r)));
    assert!(rows.iter().all(|(blocks, about)| blocks.len() == panel.len() && about.len() == panel.len()));
    let mut sums = [[_mm512_setzero_ps(); TILES]; R];
    for (at, block) in panel.iter().enumerate() {
        let mut products = [[_mm512_setzero_si512(); TILES]; R];
        for r in 0..R {
            products[r] = [_mm512_set1_epi32(-rows[r].1[at].correction); TILES];
        }
        for (word, weights) in block.words.iter().enumerate() {
            // SAFETY: both arrays have the 64 bytes.
            let weights = weights.each_ref().map(|tile| unsafe { _mm512_load_si512(tile.as_ptr().cast()) });
            for r in 0..R {
                let x = _mm512_set1_epi32(rows[r].0[at][word]);
                for tile in 0..TILES {
                    products[r][tile] = _mm512_dpbusd_epi32(products[r][tile], weights[tile], x);
                }
            }
        }
        for tile in 0..TILES {
            // SAFETY: the array has sixteen floats.
            let scales = unsafe { _mm512_load_ps(block.scales[tile].as_ptr()) };
            for r in 0..R {
                let scale = _mm512_mul_ps(_mm512_set1_ps(rows[r].1[at].scale), scales);
                let product = _mm512_cvtepi32_ps(products[r][tile]);
                sums[r][tile] = _mm512_fmadd_ps(product, scale, sums[r][tile]);
            }
        }
    }
    for tile in 0..TILES.min(weight.tiles() - first) {
        for r in 0..R {
            let start = (row + r) * weight.outputs() + (first + tile) * TILE;
            // SAFETY: the caller has these outputs of this row to itself.
            store_floats(sums[r][tile], unsafe { y.part(start, TILE) });
        }
    }
}
