//! The operators that an ARR-COC model spends its time in on a CPU, for CPUs that multiply integers or 16-bit
//! floats faster than 32-bit ones: [`linear()`], [`block_linear()`], [`attention()`] and
//! [`grid_attention()`]; and [`cached_attention()`], [`causal_convolution()`] and [`gated_delta()`], in
//! 32-bit floats.
//!
//! Everything here is a plain function of slices. Nothing knows of ONNX, and no thread is started: the caller
//! brings [`Threads`]. A CPU without the instructions has none of it ([`Operator::instructions`]), and runs
//! the same graphs with ONNX Runtime's own operators.
//!
//! # A kernel for other instructions
//!
//! Each operator is a folder. Its `mod.rs` has what the operator promises, the table of its kernels, and the
//! driver, which knows no instruction: it compares the slices and hands out the work. A kernel is a file of
//! that folder (`avx512.rs`, or a folder where it has several) with one constant, its row of the table: what
//! the CPU must have, the functions that `Kernel` describes, and how much work each takes at a time. The
//! table chooses once per process; a task is one call through a pointer, and all loops are inside of it.
//!
//! A kernel for NEON is therefore `linear/neon.rs` with a `ROW` for `Kernel`, and in `linear/mod.rs` two
//! lines for it: its module and its row, both with `#[cfg(target_arch = "aarch64")]`. The order of packed
//! numbers is the kernel's own. Results are not: linear layers give the bits of plain loops, attention strays
//! no further than its tests allow, and a row's result depends on no other row. The tests of the folder run
//! every kernel of the table that the CPU has (those of [`cached_attention()`] the chosen one), so they need
//! nothing new. What kernels of several operators share has a folder of its own, as [`avx512`].
//!
//! An operator's `mod.rs` and the files beside it are one thought: the table names its kernels, and a kernel
//! is written against the contract.
//!
//! Vector instructions read through pointers, and tasks write their own parts of one output: that is what
//! `unsafe` is for here, and every block says which slice bounds it.

// A tile's sums are arrays that stay in registers, read and written by place.
#![allow(clippy::needless_range_loop)]
// Where no operator has a kernel, nobody makes or calls one.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

mod attention;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod block_linear;
mod cached_attention;
mod causal_convolution;
mod gated_delta;
mod linear;
mod quantize;
mod shared;
mod table;
#[cfg(test)]
mod testing;
mod threads;

pub use attention::{Grid, Tables, attention, grid_attention};
pub use block_linear::{BLOCK, BlockedWeight, TILE, WeightBits, block_linear};
pub use cached_attention::{Cache, Heads, Past, Rotary, Tokens, cached_attention};
pub use causal_convolution::{ConvolutionRun, causal_convolution};
pub use gated_delta::{DeltaRun, DeltaTokens, gated_delta};
pub use linear::{MOST_INPUTS, Weight, linear};
pub use threads::Threads;

/// The operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// [`linear()`].
    Linear,
    /// [`block_linear()`].
    BlockLinear,
    /// [`attention()`] and [`grid_attention()`].
    Attention,
    /// [`cached_attention()`].
    CachedAttention,
    /// [`causal_convolution()`].
    CausalConvolution,
    /// [`gated_delta()`].
    GatedDelta,
}

impl Operator {
    /// The instructions of the kernel that this CPU runs, as Rust spells them (`avx512vnni`); `None` where it
    /// runs none.
    pub fn instructions(self) -> Option<&'static str> {
        match self {
            Self::Linear => linear::TABLE.chosen().map(|row| row.instructions),
            Self::BlockLinear => block_linear::TABLE.chosen().map(|row| row.instructions),
            Self::Attention => attention::TABLE.chosen().map(|row| row.instructions),
            Self::CachedAttention => cached_attention::TABLE.chosen().map(|row| row.instructions),
            Self::CausalConvolution => causal_convolution::TABLE.chosen().map(|row| row.instructions),
            Self::GatedDelta => gated_delta::TABLE.chosen().map(|row| row.instructions),
        }
    }

    /// Whether this CPU runs a kernel of it.
    pub fn has_kernel(self) -> bool {
        self.instructions().is_some()
    }
}
