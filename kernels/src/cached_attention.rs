//! Attention of new tokens to a cache of keys and values that they join: causal, with heads in groups (Ainslie et al. 2023,
//! <https://arxiv.org/abs/2305.13245>) and rotary positions (Su et al. 2021, <https://arxiv.org/abs/2104.09864>), in 32-bit floats.
//!
//! `softmax(rotated(q) rotated(k) * scale) v` over the keys up to the query's own, one block of queries and one block of keys at a time, with a
//! running maximum and sum (Dao et al. 2022, <https://arxiv.org/abs/2205.14135>). The heads of a group read their keys and values
//! once, which is what a step of one token spends its time with.
//!
//! Blocks of keys begin at the same positions for every query, and each number is summed in the order of the positions. So a query's
//! result is the same to the bit, alone, in a prompt of any length or in a batch; what is behind it is never multiplied, not even
//! with zero.

mod append;
mod block;
mod rotary;
mod tile;

use std::cell::RefCell;

use crate::Threads;
use crate::shared::Shared;
use append::{Append, copy};
use block::{Block, Queries, most_tokens};
pub use rotary::Rotary;

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

thread_local! {
    static BLOCK: RefCell<Block> = RefCell::new(Block::default());
}

/// Appends the tokens to the cache, and writes `out` \[batch, tokens, heads * width\].
///
/// # Panics
/// When the slices do not fit the heads, the cache is too short, a position is not in the tables, or the CPU has no
/// [`crate::Support::cached_attention`].
pub fn cached_attention(
    heads: Heads,
    tokens: Tokens<'_>,
    rotary: Rotary<'_>,
    cache: Cache<'_>,
    out: &mut [f32],
    threads: &dyn Threads,
) {
    assert!(crate::Support::detect().cached_attention, "expected a CPU with AVX-512F");
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
        let first = task % parts * APPENDED;
        // SAFETY: every task has tokens of its own, and the CPU was asked above.
        unsafe { append.run(task / parts, first..count.min(first + APPENDED)) }
    });

    let (keys, values, out) = (&*keys, &*values, Shared::new(out));
    let (pairs, most) = (batch * kv_heads, most_tokens(heads.group()));
    let blocks = count.div_ceil(most);
    threads.run(pairs * blocks, &|task| {
        // The last tokens see the most keys: they begin, so that nobody waits for them at the end.
        let (pair, first) = (task % pairs, (blocks - 1 - task / pairs) * most);
        let (sequence, head) = (pair / kv_heads, pair % kv_heads);
        let part = pair * capacity * heads.width..(pair + 1) * capacity * heads.width;
        let queries =
            Queries { heads, sequence, head, tokens: first..count.min(first + most), held: held[sequence] };
        BLOCK.with_borrow_mut(|block| {
            // SAFETY: every task has tokens of its own in one group of heads, and the CPU was asked above.
            unsafe { block.run(&queries, tokens.query, rotary, &keys[part.clone()], &values[part], &out) }
        });
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
