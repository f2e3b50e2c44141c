//! The operators that an ARR-COC model spends its time in on a CPU, for CPUs that multiply integers or 16-bit floats faster than
//! 32-bit ones: [`linear()`], [`block_linear()`], [`attention()`] and [`grid_attention()`]; and [`cached_attention()`], in 32-bit floats.
//!
//! Everything here is a plain function of slices. Nothing knows of ONNX, and no thread is started: the caller brings [`Threads`].
//! A CPU without the instructions has none of it ([`Support`]), and runs the same graphs with ONNX Runtime's own operators.
//!
//! Vector instructions read through pointers, and tasks write their own parts of one output: that is what `unsafe` is for here,
//! and every block says which slice bounds it.

// A tile's sums are arrays that stay in registers, read and written by place.
#![allow(clippy::needless_range_loop)]

#[cfg(target_arch = "x86_64")]
mod attention;
#[cfg(target_arch = "x86_64")]
mod block_linear;
#[cfg(target_arch = "x86_64")]
mod cached_attention;
#[cfg(target_arch = "x86_64")]
mod exp;
#[cfg(target_arch = "x86_64")]
mod linear;
#[cfg(target_arch = "x86_64")]
mod quantize;
#[cfg(target_arch = "x86_64")]
mod shared;
#[cfg(all(test, target_arch = "x86_64"))]
mod testing;
#[cfg(target_arch = "x86_64")]
mod tile;
#[cfg(target_arch = "x86_64")]
mod vectors;

#[cfg(target_arch = "x86_64")]
pub use attention::{Grid, Tables, attention, grid_attention};
#[cfg(target_arch = "x86_64")]
pub use block_linear::{BLOCK, BlockedWeight, TILE, block_linear};
#[cfg(target_arch = "x86_64")]
pub use cached_attention::{Cache, Heads, Past, Rotary, Tokens, cached_attention};
#[cfg(target_arch = "x86_64")]
pub use linear::{MOST_INPUTS, Weight, linear};

/// What this CPU can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Support {
    /// [`linear()`] and [`block_linear()`]: AVX-512 with VNNI (Intel since Cascade Lake, AMD since Zen 4).
    pub linear: bool,
    /// [`attention()`] and [`grid_attention()`]: AVX-512 with BF16 (Intel's Cooper Lake and, since Sapphire Rapids, its servers; AMD since Zen 4).
    pub attention: bool,
    /// [`cached_attention()`]: AVX-512F (Intel since Skylake, AMD since Zen 4).
    pub cached_attention: bool,
}

impl Support {
    /// Whether there is a kernel at all.
    pub fn any(self) -> bool {
        self.linear || self.attention || self.cached_attention
    }

    /// Asks the CPU.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let wide = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("fma");
            Self {
                linear: wide && is_x86_feature_detected!("avx512vnni"),
                attention: wide && is_x86_feature_detected!("avx512bf16"),
                cached_attention: is_x86_feature_detected!("avx512f"),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        Self { linear: false, attention: false, cached_attention: false }
    }
}

/// Somebody who runs tasks, in any order, perhaps at once.
///
/// # Safety
/// A call runs every number below `tasks` once at most, and returns when all have ended: each task writes a part of the output that it takes
/// for its own.
pub unsafe trait Threads {
    /// Runs `task(0)` to `task(tasks - 1)`.
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync));
}
