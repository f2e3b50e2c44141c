//! Attention in 16-bit floats with 32-bit sums: plain, and over a grid with decomposed relative positions, as in SAM (Li et al. 2021,
//! <https://arxiv.org/abs/2112.01526>, section 3.2).
//!
//! `softmax(q k / sqrt(width) + q R_h[row(q) - row(k)] + q R_w[column(q) - column(k)]) v`, one block of queries and one block of keys at
//! a time, with a running maximum and sum (Dao et al. 2022, <https://arxiv.org/abs/2205.14135>): what lies between the two
//! products never leaves the second cache. A bias depends on the key's row or on its column only, so each query's are two short
//! lists, and the sums of a block begin with them.

mod block;
mod pack;

use std::cell::RefCell;

use crate::Threads;
use crate::shared::Shared;
use crate::vectors::LANES;
use block::{Block, QUERIES};
use pack::{Head, Keys, Packed, pack};

/// What attends to what.
#[derive(Debug, Clone, Copy)]
pub struct Grid {
    /// Grids, each of which attends to itself.
    pub batch: usize,
    /// Rows of a grid.
    pub height: usize,
    /// Columns of a grid.
    pub width: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of a head.
    pub head_width: usize,
}

impl Grid {
    /// # Panics
    /// When an output of `len` numbers is not of this grid, or the CPU has no kernel.
    fn check(&self, len: usize) {
        assert!(crate::Support::detect().attention, "expected a CPU with AVX-512 BF16");
        let Grid { batch, height, width, heads, head_width } = *self;
        let all = [height, width, heads, head_width].into_iter().try_fold(batch, usize::checked_mul);
        assert_eq!(Some(len), all, "out: expected {self:?}");
    }

    fn positions(&self) -> usize {
        self.height * self.width
    }

    /// Numbers of one position: a query, a key or a value of every head.
    fn row_width(&self) -> usize {
        self.heads * self.head_width
    }
}

/// Embeddings of relative positions, from the most negative distance (query minus key) to the largest.
#[derive(Debug, Clone, Copy)]
pub struct Tables<'a> {
    /// \[2 * height - 1, head_width\].
    pub rows: &'a [f32],
    /// \[2 * width - 1, head_width\].
    pub columns: &'a [f32],
}

thread_local! {
    static BLOCK: RefCell<Block> = RefCell::new(Block::default());
}

/// `out` \[batch, height * width, heads * head_width\] from `qkv` \[batch, height * width, 3, heads * head_width\]. `scratch` keeps
/// memory between calls.
///
/// # Panics
/// When the slices do not fit the grid, or the CPU has no [`crate::Support::attention`].
pub fn grid_attention(
    grid: Grid,
    qkv: &[f32],
    tables: Tables<'_>,
    out: &mut [f32],
    scratch: &mut Vec<u32>,
    threads: &dyn Threads,
) {
    grid.check(out.len());
    let Grid { height, width, head_width, .. } = grid;
    assert_eq!(Some(qkv.len()), out.len().checked_mul(3), "qkv: expected {grid:?}");
    for (name, table, side) in [("rows", tables.rows, height), ("columns", tables.columns, width)] {
        let expected = (2 * side).saturating_sub(1) * head_width;
        assert_eq!(table.len(), expected, "{name}: expected {grid:?}");
    }
    if out.is_empty() {
        return;
    }
    let biases = Biases {
        rows: Keys::of_table(tables.rows, head_width),
        columns: Keys::of_table(tables.columns, head_width),
    };
    let [queries, keys, values] = [0, 1, 2].map(|part| &qkv[part * grid.row_width()..]);
    let factors = Factors { queries, keys, values, stride: 3 * grid.row_width() };
    attend(grid, factors, Some(&biases), out, scratch, threads);
}

/// Attention without positions: `out` \[batch, positions, heads * head_width\] from queries, keys and values of that shape, as many
/// positions as `grid` has.
///
/// # Panics
/// As [`grid_attention()`].
pub fn attention(
    grid: Grid,
    [queries, keys, values]: [&[f32]; 3],
    out: &mut [f32],
    scratch: &mut Vec<u32>,
    threads: &dyn Threads,
) {
    grid.check(out.len());
    for (name, part) in [("queries", queries), ("keys", keys), ("values", values)] {
        assert_eq!(part.len(), out.len(), "{name}: expected {grid:?}");
    }
    attend(grid, Factors { queries, keys, values, stride: grid.row_width() }, None, out, scratch, threads);
}

/// Where queries, keys and values lie: `stride` numbers from one position to the next.
#[derive(Clone, Copy)]
struct Factors<'a> {
    queries: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    stride: usize,
}

fn attend(
    grid: Grid,
    factors: Factors<'_>,
    biases: Option<&Biases>,
    out: &mut [f32],
    scratch: &mut Vec<u32>,
    threads: &dyn Threads,
) {
    let (batch, heads, positions) = (grid.batch, grid.heads, grid.positions());
    if out.is_empty() {
        return;
    }
    let words = Packed::words(grid);
    if scratch.len() < batch * heads * words {
        scratch.resize(batch * heads * words, 0);
    }
    {
        let (packed, groups) = (Shared::new(scratch), positions.div_ceil(LANES));
        threads.run(batch * groups, &|task| {
            // SAFETY: every task has sixteen places of its own in every head's part, and the CPU was asked above.
            unsafe { pack(grid, factors, task / groups, task % groups * LANES, &packed) }
        });
    }
    let (packed, out) = (&*scratch, Shared::new(out));
    let blocks = positions.div_ceil(QUERIES);
    threads.run(batch * heads * blocks, &|task| {
        let (pair, block) = (task / blocks, task % blocks);
        let head = Head { grid, batch: pair / heads, head: pair % heads };
        let packed = Packed::new(&packed[pair * words..][..words], grid);
        let queries = block * QUERIES..positions.min((block + 1) * QUERIES);
        BLOCK.with_borrow_mut(|block| {
            // SAFETY: every task has queries of its own in one head, and the CPU was asked above.
            unsafe { block.run(&head, queries, &packed, biases, &out) }
        });
    });
}

/// The tables, ready to be multiplied with queries. They lie from the largest distance to the most negative: for one query, keys
/// one after the other then have embeddings one after the other.
struct Biases {
    rows: Keys<'static>,
    columns: Keys<'static>,
}

/// Numbers of a head, padded to whole vectors.
fn padded(head_width: usize) -> usize {
    head_width.next_multiple_of(LANES)
}

#[cfg(test)]
mod tests;
