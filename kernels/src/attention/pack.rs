//! Queries, keys and values in the order in which `vdpbf16ps` takes them: words of two 16-bit floats.

use std::arch::x86_64::*;
use std::borrow::Cow;

use super::{Grid, padded};
use crate::transpose::{LANES, transposed};

/// One head of one grid.
pub(super) struct Head {
    pub(super) grid: Grid,
    pub(super) batch: usize,
    pub(super) head: usize,
}

/// Which of the three a position's row begins with.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Query,
    Key,
    Value,
}

impl Head {
    /// A query, key or value.
    pub(super) fn part<'a>(&self, qkv: &'a [f32], position: usize, part: Part) -> &'a [f32] {
        let Grid { head_width, .. } = self.grid;
        let row = (self.batch * self.grid.positions() + position) * 3 + part as usize;
        &qkv[row * self.grid.row() + self.head * head_width..][..head_width]
    }

    /// Place of a query's result in the output.
    pub(super) fn place(&self, position: usize) -> usize {
        let row = self.batch * self.grid.positions() + position;
        row * self.grid.row() + self.head * self.grid.head_width
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub(super) fn pack(&self, qkv: &[f32], keys: &mut [u32], values: &mut [u32]) {
        let positions = self.grid.positions();
        pack_keys(positions, self.grid.head_width, |i| self.part(qkv, i, Part::Key), keys);
        pack_values(positions, self.grid.head_width, |i| self.part(qkv, i, Part::Value), values);
    }
}

/// Keys as \[panel, head_width / 2, 16\] words: sixteen keys to a panel, two numbers to a word.
pub(super) struct Keys<'a> {
    words: Cow<'a, [u32]>,
    panel: usize,
}

impl<'a> Keys<'a> {
    pub(super) fn words(keys: usize, head_width: usize) -> usize {
        keys.next_multiple_of(LANES) * padded(head_width) / 2
    }

    pub(super) fn new(words: &'a [u32], head_width: usize) -> Self {
        Self { words: Cow::Borrowed(words), panel: LANES * padded(head_width) / 2 }
    }

    /// A table of embeddings, the last one first.
    pub(super) fn of_table(table: &[f32], head_width: usize) -> Keys<'static> {
        let count = table.len() / head_width;
        let mut words = vec![0; Self::words(count, head_width)];
        // SAFETY: `grid_attention` asked the CPU.
        unsafe {
            pack_keys(count, head_width, |i| &table[(count - 1 - i) * head_width..][..head_width], &mut words);
        }
        Keys { words: Cow::Owned(words), panel: LANES * padded(head_width) / 2 }
    }

    pub(super) fn panels(&self) -> usize {
        self.words.len() / self.panel
    }

    /// Words of `count` panels from `first`.
    pub(super) fn panel(&self, first: usize, count: usize) -> &[u32] {
        &self.words[first * self.panel..][..count * self.panel]
    }
}

/// Values as \[keys / 2, head_width\] words: the same number of two neighbouring keys to a word.
pub(super) struct Values<'a> {
    words: &'a [u32],
    width: usize,
}

impl<'a> Values<'a> {
    pub(super) fn words(keys: usize, head_width: usize) -> usize {
        keys.next_multiple_of(LANES) / 2 * padded(head_width)
    }

    pub(super) fn new(words: &'a [u32], head_width: usize) -> Self {
        Self { words, width: padded(head_width) }
    }

    /// Words of `count` keys from `first`, both even.
    pub(super) fn keys(&self, first: usize, count: usize) -> &[u32] {
        &self.words[first / 2 * self.width..][..count / 2 * self.width]
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn pack_keys<'a>(count: usize, head_width: usize, key: impl Fn(usize) -> &'a [f32], words: &mut [u32]) {
    let depth = padded(head_width) / 2;
    let panels = words.chunks_exact_mut(LANES * depth);
    for (panel, words) in panels.enumerate() {
        for from in (0..depth).step_by(LANES) {
            let rows = std::array::from_fn(|lane| {
                let i = panel * LANES + lane;
                if i >= count {
                    return _mm512_setzero_si512();
                }
                let key = key(i);
                let vector = |from: usize| load(key.get(from..).unwrap_or_default());
                // Sixteen words: 32 numbers.
                let halves = _mm512_cvtne2ps_pbh(vector(2 * from + LANES), vector(2 * from));
                // SAFETY: both are 512 bits of anything.
                unsafe { std::mem::transmute::<__m512bh, __m512i>(halves) }
            });
            for (word, column) in transposed(rows).into_iter().enumerate().take(depth - from) {
                let place = &mut words[(from + word) * LANES..][..LANES];
                // SAFETY: `place` takes the sixteen words.
                unsafe { _mm512_storeu_si512(place.as_mut_ptr().cast(), column) };
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn pack_values<'a>(count: usize, head_width: usize, value: impl Fn(usize) -> &'a [f32], words: &mut [u32]) {
    let width = padded(head_width);
    let empty: &[f32] = &[];
    for (pair, words) in words.chunks_exact_mut(width).enumerate() {
        let of = |key: usize| if key < count { value(key) } else { empty };
        let (first, second) = (of(2 * pair), of(2 * pair + 1));
        for (vector, words) in words.chunks_exact_mut(LANES).enumerate() {
            let word = |x: &[f32]| widened(load(x.get(vector * LANES..).unwrap_or_default()));
            let both = _mm512_or_si512(word(first), _mm512_slli_epi32::<16>(word(second)));
            // SAFETY: `words` takes sixteen.
            unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), both) };
        }
    }
}

/// Sixteen floats as 16-bit floats, each in the lower half of a word.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn widened(x: __m512) -> __m512i {
    // SAFETY: both are 256 bits of anything.
    _mm512_cvtepu16_epi32(unsafe { std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x)) })
}

/// Up to sixteen numbers, zeros behind them.
#[target_feature(enable = "avx512f")]
pub(super) fn load(x: &[f32]) -> __m512 {
    let mask = match x.len() {
        0 => 0,
        n => u16::MAX >> (LANES - n.min(LANES)),
    };
    // SAFETY: the mask keeps the load within the slice.
    unsafe { _mm512_maskz_loadu_ps(mask, x.as_ptr()) }
}
