//! What an image costs the decoder, by its budget of visual tokens.

use serde::Serialize;

use super::memory::{Model, Workload};
use super::precision::Precision;

/// One budget.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BudgetCost {
    /// Visual tokens.
    pub tokens: usize,
    /// Whether this is all that the picture has: nothing chooses.
    pub full: bool,
    /// KV cache that one image holds, bytes.
    pub kv_cache: u64,
    /// Part of a context that it takes; above 1 it does not go in.
    pub context_share: f64,
    /// Floating-point operations of its prefill.
    pub prefill_flops: u64,
    /// The same as a part of the full picture's prefill.
    pub prefill_share: f64,
}

impl Model {
    /// The budgets that a request may name, and the full picture.
    pub fn budgets(&self, precision: Precision, workload: Workload) -> Vec<BudgetCost> {
        let picture = self.picture(workload.image_size);
        let all = picture.full;
        let full_flops = self.prefill_flops(all);
        let cost = |tokens: usize, full: bool| {
            let prefill_flops = self.prefill_flops(tokens);
            BudgetCost {
                tokens,
                full,
                kv_cache: self.kv_bytes_per_token(precision) * tokens as u64,
                context_share: tokens as f64 / workload.context as f64,
                prefill_flops,
                prefill_share: prefill_flops as f64 / full_flops as f64,
            }
        };
        picture.budgets.iter().map(|&budget| cost(budget, false)).chain([cost(all, true)]).collect()
    }

    /// Two operations per weight and token, and per layer, head and pair of tokens (each sees itself and
    /// those before it) two per element of the query's product with the key and of the weight's with the
    /// value. The output head runs once per prompt and is left out.
    fn prefill_flops(&self, tokens: usize) -> u64 {
        let decoder = self.composition.decoder();
        let tokens = tokens as u64;
        let pairs = tokens * (tokens + 1) / 2;
        let width = (decoder.layers * decoder.heads * decoder.head_dim) as u64;
        2 * self.decoder_linear_weights() * tokens + 4 * width * pairs
    }
}
