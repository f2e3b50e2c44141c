//! Attention over a grid with decomposed relative positions, as in SAM (Li et al. 2021, <https://arxiv.org/abs/2112.01526>,
//! section 3.2), in 16-bit floats with 32-bit sums.
//!
//! `softmax(q k / sqrt(width) + q R_h[row(q) - row(k)] + q R_w[column(q) - column(k)]) v`, one block of queries and one block of keys at
//! a time, with a running maximum and sum (Dao et al. 2022, <https://arxiv.org/abs/2205.14135>): what lies between the two
//! products never leaves the second cache. A bias depends on the key's row or on its column only, so each query's are two short
//! lists, and the sums of a block begin with them.

mod block;
mod exp;
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
    fn positions(&self) -> usize {
        self.height * self.width
    }

    /// Numbers of one position: a query, a key or a value of every head.
    fn row(&self) -> usize {
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
/// When the slices do not fit the grid, or the CPU has no [`crate::Support::grid_attention`].
pub fn grid_attention(
    grid: Grid,
    qkv: &[f32],
    tables: Tables<'_>,
    out: &mut [f32],
    scratch: &mut Vec<u32>,
    threads: &dyn Threads,
) {
    assert!(crate::Support::detect().grid_attention, "expected a CPU with AVX-512 BF16");
    let Grid { batch, height, width, heads, head_width } = grid;
    let positions = grid.positions();
    let all = [height, width, heads, head_width, 3].into_iter().try_fold(batch, usize::checked_mul);
    assert_eq!(Some(qkv.len()), all, "qkv: expected {grid:?}");
    assert_eq!(out.len(), qkv.len() / 3, "out: expected {grid:?}");
    assert_eq!(tables.rows.len(), (2 * height).saturating_sub(1) * head_width, "rows: expected {grid:?}");
    assert_eq!(
        tables.columns.len(),
        (2 * width).saturating_sub(1) * head_width,
        "columns: expected {grid:?}"
    );
    if out.is_empty() || head_width == 0 {
        return;
    }

    let biases = Biases {
        rows: Keys::of_table(tables.rows, head_width),
        columns: Keys::of_table(tables.columns, head_width),
    };
    let words = Packed::words(grid);
    if scratch.len() < batch * heads * words {
        scratch.resize(batch * heads * words, 0);
    }
    {
        let (packed, groups) = (Shared::new(scratch), positions.div_ceil(LANES));
        threads.run(batch * groups, &|task| {
            // SAFETY: every task has sixteen places of its own in every head's part, and the CPU was asked above.
            unsafe { pack(grid, qkv, task / groups, task % groups * LANES, &packed) }
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
            unsafe { block.run(&head, queries, &packed, &biases, &out) }
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
