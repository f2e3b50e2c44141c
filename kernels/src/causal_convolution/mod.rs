//! The short convolution of recurrent layers, in 32-bit floats: every channel by itself, a weighted sum of a
//! token's number and of those before it, and the SiLU of that.
//!
//! A token's taps are summed in one order wherever they come from, the run or the memory of earlier ones: so
//! its result is the same to the bit in a run of any length, and in any batch.

#[cfg(target_arch = "x86_64")]
mod avx512;

use crate::shared::{Shared, part};
use crate::table::Table;
use crate::threads::Threads;

/// The kernels, the fastest first.
pub(crate) static TABLE: Table<Kernel> = Table::new(&[
    #[cfg(target_arch = "x86_64")]
    avx512::ROW,
]);

/// Tokens of a task.
const TOKENS: usize = 16;

/// What a set of instructions does.
pub(crate) struct Kernel {
    /// One token of all channels: the rows are its own inputs, behind those of the tokens before it. The
    /// weights \[rows, channels\] have the rows' order.
    ///
    /// # Safety
    /// The CPU must have the instructions.
    run: unsafe fn(rows: &[&[f32]], weights: &[f32], out: &mut [f32]),
}

/// Sizes of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvolutionRun {
    /// Sequences.
    pub batch: usize,
    /// New tokens of each sequence.
    pub tokens: usize,
    /// Tokens that one sees before itself.
    pub window: usize,
    /// Channels.
    pub channels: usize,
}

impl ConvolutionRun {
    fn check(&self, x: &[f32], past: &[f32], weights: &[f32], out: &[f32], present: &[f32]) {
        let Self { batch, tokens, window, channels } = *self;
        let product = |factors: &[usize]| factors.iter().try_fold(1usize, |n, &f| n.checked_mul(f));
        let all = product(&[batch, tokens, channels]);
        let memory = product(&[batch, window, channels]);
        let taps = window.checked_add(1).and_then(|taps| taps.checked_mul(channels));
        for (name, found, expected) in [
            ("x", x.len(), all),
            ("past", past.len(), memory),
            ("weights", weights.len(), taps),
            ("out", out.len(), all),
            ("present", present.len(), memory),
        ] {
            assert_eq!(Some(found), expected, "{name}: expected {self:?}");
        }
    }
}

/// From new tokens x \[batch, tokens, channels\] and the inputs before them, `past` \[batch, window,
/// channels\]: `out` \[batch, tokens, channels\], and the last inputs of all, `present` \[batch, window,
/// channels\]. `weights` is \[window + 1, channels\], the newest token's last.
///
/// # Panics
/// When the slices do not fit the run, or the CPU has no kernel ([`crate::Operator::CausalConvolution`]).
pub fn causal_convolution(
    run: ConvolutionRun,
    x: &[f32],
    past: &[f32],
    weights: &[f32],
    out: &mut [f32],
    present: &mut [f32],
    threads: &dyn Threads,
) {
    convolution_with(TABLE.kernel(), run, (x, past), weights, out, present, threads);
}

fn convolution_with(
    kernel: &Kernel,
    run: ConvolutionRun,
    (x, past): (&[f32], &[f32]),
    weights: &[f32],
    out: &mut [f32],
    present: &mut [f32],
    threads: &dyn Threads,
) {
    run.check(x, past, weights, out, present);
    let ConvolutionRun { batch, tokens, window, channels } = run;
    // Inputs of a sequence, the remembered ones first.
    let input = |sequence: usize, place: usize| match place.checked_sub(window) {
        None => &past[(sequence * window + place) * channels..][..channels],
        Some(token) => &x[(sequence * tokens + token) * channels..][..channels],
    };
    let parts = tokens.div_ceil(TOKENS);
    let out = Shared::new(out);
    threads.run(batch * parts, &|task| {
        let sequence = task / parts;
        let mut rows = Vec::with_capacity(window + 1);
        for token in part(task % parts, TOKENS, tokens) {
            rows.clear();
            rows.extend((token..=token + window).map(|place| input(sequence, place)));
            // SAFETY: no other task has this token.
            let out = unsafe { out.part((sequence * tokens + token) * channels, channels) };
            // SAFETY: the table asked the CPU.
            unsafe { (kernel.run)(&rows, weights, out) };
        }
    });
    for (row, present) in present.chunks_exact_mut(channels.max(1)).enumerate() {
        present.copy_from_slice(input(row / window, tokens + row % window));
    }
}

#[cfg(test)]
mod tests;
