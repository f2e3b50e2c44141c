//! Attention of new tokens to a cache of keys and values that they join: causal, with heads in groups
//! (Ainslie et al. 2023, <https://arxiv.org/abs/2305.13245>) and rotary positions (Su et al. 2021,
//! <https://arxiv.org/abs/2104.09864>), in 32-bit floats.
//!
//! `softmax(rotated(q) rotated(k) * scale) v` over the keys up to the query's own, one block of queries and
//! one block of keys at a time, with a running maximum and sum (Dao et al. 2022,
//! <https://arxiv.org/abs/2205.14135>). The heads of a group read their keys and values once, which is what a
//! step of one token spends its time with.
//!
//! Blocks of keys begin at the same positions for every query, and each number is summed in the order of the
//! positions. So a query's result is the same to the bit, alone, in a prompt of any length or in a batch;
//! what is behind it is never multiplied, not even with zero.

mod append;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod rotary;

use std::ops::Range;

use crate::shared::{Shared, part};
use crate::table::Table;
use crate::threads::Threads;
use append::{Append, copy};
pub use rotary::Rotary;

/// The kernels, the fastest first.
pub(crate) static TABLE: Table<Kernel> = Table::new(&[
    #[cfg(target_arch = "x86_64")]
    avx512::ROW,
]);

/// What a set of instructions does.
pub(crate) struct Kernel {
    /// Rotates `x` \[width\] to the position of a token, and multiplies it with `scale`: number i and number
    /// i + width / 2 are a pair.
    ///
    /// # Safety
    /// The CPU must have the instructions.
    rotate: unsafe fn(Rotary<'_>, token: usize, x: &[f32], scale: f32, to: &mut [f32]),
    /// Queries of a task, where a group has not more heads: their numbers and products stay in the second
    /// cache.
    queries: usize,
    attend: Attend,
}

/// Attends with `queries`, whose numbers are those of all tokens and not yet rotated, to `keys` and `values`
/// \[capacity, width\] of their head. Each number is summed in the order of the positions, in blocks that
/// begin at the same positions for every query; what a query does not see is not multiplied.
///
/// # Safety
/// Nobody else may have the results of these queries, and the CPU must have the instructions.
type Attend =
    unsafe fn(&Queries, numbers: &[f32], Rotary<'_>, keys: &[f32], values: &[f32], out: &Shared<'_, f32>);

/// Tokens whose keys and values one task appends.
const APPENDED: usize = 16;

/// What attends to what.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heads {
    /// Sequences, each of which attends to itself.
    pub batch: usize,
    /// New tokens of each sequence.
    pub tokens: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; each belongs to a group of `heads / kv_heads` query heads, one after the other.
    pub kv_heads: usize,
    /// Width of a head, an even number.
    pub width: usize,
    /// Factor on the products.
    pub scale: f32,
}

impl Heads {
    /// Query heads of a group.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
}

/// The new tokens.
#[derive(Debug, Clone, Copy)]
pub struct Tokens<'a> {
    /// \[batch, tokens, heads * width\], not yet rotated.
    pub query: &'a [f32],
    /// \[batch, tokens, kv_heads * width\], not yet rotated.
    pub key: &'a [f32],
    /// \[batch, tokens, kv_heads * width\].
    pub value: &'a [f32],
}

/// The cache.
#[derive(Debug)]
pub struct Cache<'a> {
    /// \[batch, kv_heads, capacity, width\], rotated.
    pub keys: &'a mut [f32],
    /// \[batch, kv_heads, capacity, width\].
    pub values: &'a mut [f32],
    /// Places of a sequence.
    pub capacity: usize,
    /// How many places of each sequence are taken, \[batch\]; the new tokens take the next ones.
    pub held: &'a [usize],
    /// Where the taken places are to be copied from; `None` when they are in `keys` and `values` already.
    pub past: Option<Past<'a>>,
}

/// A cache that is only read.
#[derive(Debug, Clone, Copy)]
pub struct Past<'a> {
    /// \[batch, kv_heads, capacity, width\].
    pub keys: &'a [f32],
    /// \[batch, kv_heads, capacity, width\].
    pub values: &'a [f32],
    /// Places of a sequence, which need not be as many as there will be.
    pub capacity: usize,
}

/// Some tokens of one group of heads. Row i of a block is query head `i % group` of token `i / group`.
struct Queries {
    heads: Heads,
    /// Which sequence.
    sequence: usize,
    /// Which key/value head.
    head: usize,
    /// Which of the new tokens.
    tokens: Range<usize>,
    /// Keys before the new tokens.
    held: usize,
}

impl Queries {
    fn rows(&self) -> usize {
        self.tokens.len() * self.heads.group()
    }

    /// Which of the batch's tokens a row belongs to.
    fn token(&self, row: usize) -> usize {
        self.sequence * self.heads.tokens + self.tokens.start + row / self.heads.group()
    }

    /// Place of a row's numbers in queries and results.
    fn place(&self, row: usize) -> usize {
        let head = self.head * self.heads.group() + row % self.heads.group();
        (self.token(row) * self.heads.heads + head) * self.heads.width
    }

    /// How many keys a row sees: all up to its own.
    fn seen(&self, row: usize) -> usize {
        self.held + self.tokens.start + row / self.heads.group() + 1
    }

    /// How many of `keys` a row sees.
    fn seen_of(&self, row: usize, keys: &Range<usize>) -> usize {
        self.seen(row).saturating_sub(keys.start).min(keys.len())
    }
}

/// Appends the tokens to the cache, and writes `out` \[batch, tokens, heads * width\].
///
/// # Panics
/// When the slices do not fit the heads, the cache is too short, a position is not in the tables, or the CPU
/// has no kernel ([`crate::Operator::CachedAttention`]).
pub fn cached_attention(
    heads: Heads,
    tokens: Tokens<'_>,
    rotary: Rotary<'_>,
    cache: Cache<'_>,
    out: &mut [f32],
    threads: &dyn Threads,
) {
    cached_attention_with(TABLE.kernel(), heads, tokens, rotary, cache, out, threads);
}

fn cached_attention_with(
    kernel: &Kernel,
    heads: Heads,
    tokens: Tokens<'_>,
    rotary: Rotary<'_>,
    cache: Cache<'_>,
    out: &mut [f32],
    threads: &dyn Threads,
) {
    assert_fits(&heads, &tokens, &rotary, &cache, out.len());
    let Heads { batch, tokens: count, kv_heads, .. } = heads;
    let Cache { keys, values, capacity, held, past } = cache;
    if let Some(past) = past {
        copy(&heads, past, keys, values, capacity, held);
    }
    if out.is_empty() {
        return;
    }
    let parts = count.div_ceil(APPENDED);
    let (new_keys, new_values) = (Shared::new(keys), Shared::new(values));
    let append = Append { heads, tokens, rotary, capacity, held, keys: new_keys, values: new_values };
    threads.run(batch * parts, &|task| {
        // SAFETY: every task has tokens of its own, and the table asked the CPU.
        unsafe { append.run(kernel, task / parts, part(task % parts, APPENDED, count)) }
    });

    let (keys, values, out) = (&*keys, &*values, Shared::new(out));
    let (pairs, most) = (batch * kv_heads, (kernel.queries / heads.group()).max(1));
    let blocks = count.div_ceil(most);
    threads.run(pairs * blocks, &|task| {
        // The last tokens see the most keys: they begin, so that nobody waits for them at the end.
        let (pair, block) = (task % pairs, blocks - 1 - task / pairs);
        let (sequence, head) = (pair / kv_heads, pair % kv_heads);
        let places = pair * capacity * heads.width..(pair + 1) * capacity * heads.width;
        let queries =
            Queries { heads, sequence, head, tokens: part(block, most, count), held: held[sequence] };
        let (keys, values) = (&keys[places.clone()], &values[places]);
        // SAFETY: every task has tokens of its own in one group of heads, and the table asked the CPU.
        unsafe { (kernel.attend)(&queries, tokens.query, rotary, keys, values, &out) }
    });
}

fn assert_fits(heads: &Heads, tokens: &Tokens<'_>, rotary: &Rotary<'_>, cache: &Cache<'_>, out: usize) {
    let Heads { batch, tokens: count, heads: query_heads, kv_heads, width, .. } = *heads;
    assert!(kv_heads > 0 && query_heads.is_multiple_of(kv_heads), "expected whole groups, found {heads:?}");
    assert!(width > 0 && width.is_multiple_of(2), "expected pairs of numbers to rotate, found {heads:?}");
    let product = |sizes: [usize; 4]| sizes.into_iter().try_fold(1, usize::checked_mul);
    let queries = product([batch, count, query_heads, width]);
    let new = product([batch, count, kv_heads, width]);
    let places = product([batch, kv_heads, cache.capacity, width]);
    assert!(Some(tokens.query.len()) == queries && Some(out) == queries, "queries: expected {heads:?}");
    assert!(Some(tokens.key.len()) == new && Some(tokens.value.len()) == new, "keys: expected {heads:?}");
    assert!(
        Some(cache.keys.len()) == places && Some(cache.values.len()) == places,
        "cache: expected {heads:?}"
    );
    assert_eq!(cache.held.len(), batch, "held: expected {heads:?}");
    let room = |held: &usize| *held <= cache.capacity && count <= cache.capacity - held;
    assert!(
        cache.held.iter().all(room),
        "expected room for {count} tokens in {} places, found {:?} taken",
        cache.capacity,
        cache.held
    );
    if let Some(past) = cache.past {
        let places = product([batch, kv_heads, past.capacity, width]);
        let fits = Some(past.keys.len()) == places && Some(past.values.len()) == places;
        assert!(fits && cache.held.iter().all(|held| *held <= past.capacity), "past: expected {heads:?}");
    }
    rotary.assert_fits(batch * count, width);
}

#[cfg(test)]
mod tests;
