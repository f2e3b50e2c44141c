//! The gated delta rule (Yang et al. 2024, <https://arxiv.org/abs/2412.06464>), in 32-bit floats: a memory of
//! fixed size by head, which every token changes and reads.
//!
//! A head's matrix S goes from keys to values. A token with key k, value v, decay a and strength b leaves
//! `S' = a S + k (b (v - k (a S)))^T`, and reads `q S'`. Tokens come one after the other, and each number is
//! summed in the order of the keys: so a token's result is the same to the bit in a run of any length, and
//! in any batch. The columns of S know nothing of each other. A task takes some of them, which stay in the
//! first cache for the whole run.

#[cfg(target_arch = "x86_64")]
mod avx512;

use crate::shared::Shared;
use crate::table::Table;
use crate::threads::Threads;

/// The kernels, the fastest first.
pub(crate) static TABLE: Table<Kernel> = Table::new(&[
    #[cfg(target_arch = "x86_64")]
    avx512::ROW,
]);

/// Columns that a task takes.
pub(crate) const COLUMNS: usize = 32;

/// A row of a task's columns.
type Columns = [f32; COLUMNS];

/// Fewest tokens for which some columns are copied to where they lie side by side: rows of a whole matrix
/// share few places of the first cache.
const MANY: usize = 8;

/// What a set of instructions does.
pub(crate) struct Kernel {
    /// Takes all tokens through the first [`COLUMNS`] columns of a matrix, whose rows are `stride` numbers
    /// apart.
    ///
    /// # Safety
    /// The CPU must have the instructions.
    run: unsafe fn(tokens: &[Token<'_>], matrix: &mut [f32], stride: usize, out: &mut [Columns]),
}

/// What some columns take of a token.
pub(crate) struct Token<'a> {
    /// \[key width\], scaled.
    query: &'a [f32],
    /// \[key width\].
    key: &'a [f32],
    value: Columns,
    decay: f32,
    strength: f32,
}

/// Added to the squared length of queries and keys before they are divided by it.
const LENGTH_EPSILON: f32 = 1e-6;

/// Sizes of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaRun {
    /// Sequences.
    pub batch: usize,
    /// New tokens of each sequence.
    pub tokens: usize,
    /// Heads of queries and keys.
    pub key_heads: usize,
    /// Heads of values: whole groups, one after the other, share a key.
    pub value_heads: usize,
    /// Width of a query or key.
    pub key_width: usize,
    /// Width of a value.
    pub value_width: usize,
}

/// The new tokens.
#[derive(Debug, Clone, Copy)]
pub struct DeltaTokens<'a> {
    /// \[batch, tokens, key_heads * key_width\], of any length.
    pub query: &'a [f32],
    /// \[batch, tokens, key_heads * key_width\], of any length.
    pub key: &'a [f32],
    /// \[batch, tokens, value_heads * value_width\].
    pub value: &'a [f32],
    /// \[batch, tokens, value_heads\]; sigmoid of it is the strength.
    pub strength: &'a [f32],
    /// \[batch, tokens, value_heads\]; `exp(rates * softplus(decay + biases))` is the decay.
    pub decay: &'a [f32],
    /// \[value_heads\].
    pub rates: &'a [f32],
    /// \[value_heads\].
    pub biases: &'a [f32],
}

impl DeltaRun {
    fn check(&self, tokens: &DeltaTokens<'_>, past: &[f32], out: &[f32], present: &[f32]) {
        let Self { batch, tokens: count, key_heads, value_heads, key_width, value_width } = *self;
        let whole = key_heads > 0 && value_heads.is_multiple_of(key_heads);
        assert!(whole, "expected whole groups of heads, found {self:?}");
        let product = |factors: &[usize]| factors.iter().try_fold(1usize, |n, &f| n.checked_mul(f));
        let keys = product(&[batch, count, key_heads, key_width]);
        let values = product(&[batch, count, value_heads, value_width]);
        let heads = product(&[batch, count, value_heads]);
        let matrices = product(&[batch, value_heads, key_width, value_width]);
        for (name, found, expected) in [
            ("query", tokens.query.len(), keys),
            ("key", tokens.key.len(), keys),
            ("value", tokens.value.len(), values),
            ("strength", tokens.strength.len(), heads),
            ("decay", tokens.decay.len(), heads),
            ("rates", tokens.rates.len(), Some(value_heads)),
            ("biases", tokens.biases.len(), Some(value_heads)),
            ("past", past.len(), matrices),
            ("present", present.len(), matrices),
            ("out", out.len(), values),
        ] {
            assert_eq!(Some(found), expected, "{name}: expected {self:?}");
        }
    }
}

/// `out` \[batch, tokens, value_heads * value_width\], and from the matrices `past` those behind the tokens,
/// `present` \[batch, value_heads, key_width, value_width\].
///
/// # Panics
/// When the slices do not fit the run, or the CPU has no kernel ([`crate::Operator::GatedDelta`]).
pub fn gated_delta(
    run: DeltaRun,
    tokens: DeltaTokens<'_>,
    past: &[f32],
    out: &mut [f32],
    present: &mut [f32],
    threads: &dyn Threads,
) {
    gated_delta_with(TABLE.kernel(), run, tokens, past, out, present, threads);
}

fn gated_delta_with(
    kernel: &Kernel,
    run: DeltaRun,
    tokens: DeltaTokens<'_>,
    past: &[f32],
    out: &mut [f32],
    present: &mut [f32],
    threads: &dyn Threads,
) {
    run.check(&tokens, past, out, present);
    if present.is_empty() {
        return;
    }
    let (out, present) = (Shared::new(out), Shared::new(present));
    let matrix = run.key_width * run.value_width;
    threads.run(run.batch * run.value_heads, &|task| {
        let head = Head { run, batch: task / run.value_heads, head: task % run.value_heads };
        let unit = head.unit_vectors(&tokens);
        let factors = head.factors(&tokens);
        // SAFETY: no other task has this head of this sequence.
        let present = unsafe { present.part(task * matrix, matrix) };
        present.copy_from_slice(&past[task * matrix..][..matrix]);
        for first in (0..run.value_width).step_by(COLUMNS) {
            head.columns(kernel, first, (&unit, &factors), tokens.value, present, &out);
        }
    });
}

/// Sum of the squares, in an order that vector instructions of any width can follow.
fn square(vector: &[f32]) -> f32 {
    let mut sums = [0.0; 16];
    for part in vector.chunks(sums.len()) {
        sums.iter_mut().zip(part).for_each(|(sum, x)| *sum += x * x);
    }
    sums.iter().sum()
}

/// One head of one sequence.
struct Head {
    run: DeltaRun,
    batch: usize,
    head: usize,
}

impl Head {
    /// Queries, scaled, and keys of length one: \[2, tokens, key_width\].
    fn unit_vectors(&self, tokens: &DeltaTokens<'_>) -> Vec<f32> {
        let DeltaRun { tokens: count, key_heads, value_heads, key_width, .. } = self.run;
        let key_head = self.head / (value_heads / key_heads);
        let scale = (key_width as f32).sqrt().recip();
        let mut unit = Vec::with_capacity(2 * count * key_width);
        for (all, scale) in [(tokens.query, scale), (tokens.key, 1.0)] {
            for token in 0..count {
                let row = (self.batch * count + token) * key_heads + key_head;
                let vector = &all[row * key_width..][..key_width];
                let factor = scale / (square(vector) + LENGTH_EPSILON).sqrt();
                unit.extend(vector.iter().map(|x| x * factor));
            }
        }
        unit
    }

    /// Decay and strength of every token.
    fn factors(&self, tokens: &DeltaTokens<'_>) -> Vec<[f32; 2]> {
        let DeltaRun { tokens: count, value_heads, .. } = self.run;
        let (rate, bias) = (tokens.rates[self.head], tokens.biases[self.head]);
        let rows = (0..count).map(|token| (self.batch * count + token) * value_heads + self.head);
        let factors = rows.map(|row| {
            let x = tokens.decay[row] + bias;
            let softplus = x.max(0.0) + (-x.abs()).exp().ln_1p();
            [(rate * softplus).exp(), (1.0 + (-tokens.strength[row]).exp()).recip()]
        });
        factors.collect()
    }

    /// Takes all tokens through the columns from `first` on of the head's matrix.
    fn columns(
        &self,
        kernel: &Kernel,
        first: usize,
        (unit, factors): (&[f32], &[[f32; 2]]),
        values: &[f32],
        matrix: &mut [f32],
        out: &Shared<'_, f32>,
    ) {
        let DeltaRun { tokens: count, value_heads, key_width, value_width, .. } = self.run;
        let width = COLUMNS.min(value_width - first);
        let place = |token| ((self.batch * count + token) * value_heads + self.head) * value_width + first;
        let (queries, keys) = unit.split_at(count * key_width);
        let tokens: Vec<_> = (0..count)
            .map(|token| Token {
                query: &queries[token * key_width..][..key_width],
                key: &keys[token * key_width..][..key_width],
                value: padded(&values[place(token)..][..width]),
                decay: factors[token][0],
                strength: factors[token][1],
            })
            .collect();
        let mut read = vec![[0.0; COLUMNS]; count];
        if count < MANY && width == COLUMNS {
            // SAFETY: the table asked the CPU.
            unsafe { (kernel.run)(&tokens, &mut matrix[first..], value_width, &mut read) };
        } else {
            let rows = matrix.chunks_exact(value_width).map(|row| &row[first..][..width]);
            let mut beside: Vec<Columns> = rows.map(padded).collect();
            // SAFETY: as above.
            unsafe { (kernel.run)(&tokens, beside.as_flattened_mut(), COLUMNS, &mut read) };
            for (row, numbers) in matrix.chunks_exact_mut(value_width).zip(&beside) {
                row[first..][..width].copy_from_slice(&numbers[..width]);
            }
        }
        for (token, read) in read.iter().enumerate() {
            // SAFETY: no other task has this head of this sequence.
            unsafe { out.part(place(token), width) }.copy_from_slice(&read[..width]);
        }
    }
}

/// Up to so many numbers, zeros behind them.
fn padded(numbers: &[f32]) -> Columns {
    let mut columns = [0.0; COLUMNS];
    columns[..numbers.len()].copy_from_slice(numbers);
    columns
}

#[cfg(test)]
mod tests;
