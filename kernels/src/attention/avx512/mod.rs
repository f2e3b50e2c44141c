//! With AVX-512 BF16: two products of 16-bit floats for each 32-bit sum.

mod block;
mod pack;

use std::cell::RefCell;
use std::ops::Range;

use super::{Grid, Head, Kernel};
use crate::avx512::{LANES, wide};
use crate::shared::Shared;
use crate::table::Row;
use block::Block;
use pack::{Keys, Packed, pack, pack_table};

pub(super) const ROW: Row<Kernel> = Row {
    instructions: "avx512bf16",
    here: || wide() && is_x86_feature_detected!("avx512bf16"),
    kernel: Kernel { words: Packed::words, pack_table, places: LANES, pack, queries: QUERIES, attend },
};

/// Queries of a block, all of whose products with some keys stay in the second cache.
const QUERIES: usize = 48;

thread_local! {
    static BLOCK: RefCell<Block> = RefCell::new(Block::default());
}

/// Numbers of a head, padded to whole vectors.
fn padded(head_width: usize) -> usize {
    head_width.next_multiple_of(LANES)
}

/// # Safety
/// As [`super::Attend`] says.
unsafe fn attend(
    head: &Head,
    queries: Range<usize>,
    packed: &[u32],
    tables: Option<&[Vec<u32>; 2]>,
    out: &Shared<'_, f32>,
) {
    let Grid { head_width, .. } = head.grid;
    let packed = Packed::new(packed, head.grid);
    let tables = tables.map(|tables| tables.each_ref().map(|words| Keys::of_table(words, head_width)));
    // SAFETY: as the caller's.
    BLOCK.with_borrow_mut(|block| unsafe { block.run(head, queries, &packed, tables, out) });
}
