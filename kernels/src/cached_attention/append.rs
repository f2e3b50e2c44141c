//! New keys and values on their way into the cache.

use std::ops::Range;

use super::{Heads, Kernel, Past, Rotary, Tokens};
use crate::shared::Shared;

/// The new tokens, and the cache that takes them.
pub(super) struct Append<'a> {
    pub(super) heads: Heads,
    pub(super) tokens: Tokens<'a>,
    pub(super) rotary: Rotary<'a>,
    pub(super) capacity: usize,
    pub(super) held: &'a [usize],
    pub(super) keys: Shared<'a, f32>,
    pub(super) values: Shared<'a, f32>,
}

impl Append<'_> {
    /// Appends some tokens of a sequence, in all heads.
    ///
    /// # Safety
    /// Nobody else may have the places of these tokens, and the CPU must have the kernel's instructions.
    pub(super) unsafe fn run(&self, kernel: &Kernel, row: usize, tokens: Range<usize>) {
        let Heads { kv_heads, width, .. } = self.heads;
        for token in tokens {
            let index = row * self.heads.tokens + token;
            for head in 0..kv_heads {
                let from = (index * kv_heads + head) * width;
                let to = ((row * kv_heads + head) * self.capacity + self.held[row] + token) * width;
                // SAFETY: the caller has these places to itself, and asked the CPU.
                unsafe {
                    let (key, value) = (self.keys.part(to, width), self.values.part(to, width));
                    (kernel.rotate)(self.rotary, index, &self.tokens.key[from..][..width], 1.0, key);
                    value.copy_from_slice(&self.tokens.value[from..][..width]);
                }
            }
        }
    }
}

/// Copies what is held into a cache of another memory; places behind it become zero.
pub(super) fn copy(
    heads: &Heads,
    past: Past<'_>,
    keys: &mut [f32],
    values: &mut [f32],
    capacity: usize,
    held: &[usize],
) {
    for (from, to) in [(past.keys, keys), (past.values, values)] {
        // A cache without places has no chunks either.
        for (pair, to) in to.chunks_exact_mut((capacity * heads.width).max(1)).enumerate() {
            let length = held[pair / heads.kv_heads] * heads.width;
            let (taken, free) = to.split_at_mut(length);
            taken.copy_from_slice(&from[pair * past.capacity * heads.width..][..length]);
            free.fill(0.0);
        }
    }
}
