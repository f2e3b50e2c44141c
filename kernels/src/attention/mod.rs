//! Attention in 16-bit floats with 32-bit sums: plain, and over a grid with decomposed relative positions, as
//! in SAM (Li et al. 2021, <https://arxiv.org/abs/2112.01526>, section 3.2).
//!
//! `softmax(q k / sqrt(width) + q R_h[row(q) - row(k)] + q R_w[column(q) - column(k)]) v`, one block of
//! queries and one block of keys at a time, with a running maximum and sum (Dao et al. 2022,
//! <https://arxiv.org/abs/2205.14135>): what lies between the two products never leaves the second cache. A
//! bias depends on the key's row or on its column only, so each query's are two short lists, and the sums of
//! a block begin with them.

#[cfg(target_arch = "x86_64")]
mod avx512;

use std::ops::Range;

use crate::shared::{Shared, part};
use crate::table::Table;
use crate::threads::Threads;

/// The kernels, the fastest first.
pub(crate) static TABLE: Table<Kernel> = Table::new(&[
    #[cfg(target_arch = "x86_64")]
    avx512::ROW,
]);

/// What a set of instructions does. Packed numbers are words in whatever order the kernel multiplies them.
pub(crate) struct Kernel {
    /// Words that one head of one grid takes when it is packed.
    words: fn(Grid) -> usize,
    /// Packs a table of relative positions, \[distances, head_width\].
    ///
    /// # Safety
    /// The CPU must have the instructions.
    pack_table: unsafe fn(table: &[f32], head_width: usize) -> Vec<u32>,
    /// Places that are packed at once.
    places: usize,
    /// Packs queries, keys and values of `places` places from `first` on, or of the last ones, of all heads
    /// of a grid. `packed` is \[batch, heads, words\].
    ///
    /// # Safety
    /// Nobody else may have these places, and the CPU must have the instructions.
    pack: unsafe fn(Grid, Factors<'_>, batch: usize, first: usize, packed: &Shared<'_, u32>),
    /// Queries of a task.
    queries: usize,
    attend: Attend,
}

/// Attends with some queries of a head to all its keys; `packed` is the head's, `tables` are those of rows
/// and columns.
///
/// # Safety
/// Nobody else may have the results of these queries of this head, and the CPU must have the instructions.
type Attend = unsafe fn(
    &Head,
    queries: Range<usize>,
    packed: &[u32],
    tables: Option<&[Vec<u32>; 2]>,
    out: &Shared<'_, f32>,
);

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
    /// When an output of `len` numbers is not of this grid.
    fn check(&self, len: usize) {
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

/// `out` \[batch, height * width, heads * head_width\] from `qkv` \[batch, height * width, 3, heads *
/// head_width\]. `scratch` keeps memory between calls.
///
/// # Panics
/// When the slices do not fit the grid, or the CPU has no kernel ([`crate::Operator::Attention`]).
pub fn grid_attention(
    grid: Grid,
    qkv: &[f32],
    tables: Tables<'_>,
    out: &mut [f32],
    scratch: &mut Vec<u32>,
    threads: &dyn Threads,
) {
    grid_attention_with(TABLE.kernel(), grid, qkv, tables, out, scratch, threads);
}

fn grid_attention_with(
    kernel: &Kernel,
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
    // SAFETY: the table of kernels asked the CPU.
    let tables = [tables.rows, tables.columns].map(|table| unsafe { (kernel.pack_table)(table, head_width) });
    let [queries, keys, values] = [0, 1, 2].map(|part| &qkv[part * grid.row_width()..]);
    let factors = Factors { queries, keys, values, stride: 3 * grid.row_width() };
    attend(kernel, grid, factors, Some(&tables), out, scratch, threads);
}

/// Attention without positions: `out` \[batch, positions, heads * head_width\] from queries, keys and values
/// of that shape, as many positions as `grid` has.
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
    attention_with(TABLE.kernel(), grid, [queries, keys, values], out, scratch, threads);
}

fn attention_with(
    kernel: &Kernel,
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
    let factors = Factors { queries, keys, values, stride: grid.row_width() };
    attend(kernel, grid, factors, None, out, scratch, threads);
}

/// Where queries, keys and values lie: `stride` numbers from one position to the next.
#[derive(Clone, Copy)]
struct Factors<'a> {
    queries: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    stride: usize,
}

/// One head of one grid.
struct Head {
    grid: Grid,
    batch: usize,
    head: usize,
}

impl Head {
    /// A query, key or value.
    fn part<'a>(&self, parts: &'a [f32], stride: usize, position: usize) -> &'a [f32] {
        let Grid { head_width, .. } = self.grid;
        let row = self.batch * self.grid.positions() + position;
        &parts[row * stride + self.head * head_width..][..head_width]
    }

    /// Place of a query's result in the output.
    fn place(&self, position: usize) -> usize {
        let row = self.batch * self.grid.positions() + position;
        row * self.grid.row_width() + self.head * self.grid.head_width
    }
}

fn attend(
    kernel: &Kernel,
    grid: Grid,
    factors: Factors<'_>,
    tables: Option<&[Vec<u32>; 2]>,
    out: &mut [f32],
    scratch: &mut Vec<u32>,
    threads: &dyn Threads,
) {
    let (batch, heads, positions) = (grid.batch, grid.heads, grid.positions());
    if out.is_empty() {
        return;
    }
    let words = (kernel.words)(grid);
    if scratch.len() < batch * heads * words {
        scratch.resize(batch * heads * words, 0);
    }
    {
        let (packed, groups) = (Shared::new(scratch), positions.div_ceil(kernel.places));
        threads.run(batch * groups, &|task| {
            // SAFETY: every task has places of its own in every head's part, and the table asked the CPU.
            unsafe { (kernel.pack)(grid, factors, task / groups, task % groups * kernel.places, &packed) }
        });
    }
    let (packed, out) = (&*scratch, Shared::new(out));
    let blocks = positions.div_ceil(kernel.queries);
    threads.run(batch * heads * blocks, &|task| {
        let (pair, block) = (task / blocks, task % blocks);
        let head = Head { grid, batch: pair / heads, head: pair % heads };
        let (packed, queries) = (&packed[pair * words..][..words], part(block, kernel.queries, positions));
        // SAFETY: every task has queries of its own in one head, and the table asked the CPU.
        unsafe { (kernel.attend)(&head, queries, packed, tables, &out) }
    });
}

#[cfg(test)]
mod tests;
