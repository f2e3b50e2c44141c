//! What the tests of all kernels need.

#![allow(clippy::print_stderr, reason = "a test that is skipped says so")]

use crate::Threads;

/// Numbers from -1 to 1 that look random.
pub(crate) fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Whether a test can run here. Where the CPU has no such instructions it says that it is skipped, and fails when `ARRCOC_REQUIRE` names them
/// (`avx512` names all of these).
pub(crate) fn can_run(instructions: &str, supported: bool) -> bool {
    let required = std::env::var("ARRCOC_REQUIRE").unwrap_or_default();
    let required = required.split(',').any(|name| !name.is_empty() && instructions.starts_with(name.trim()));
    assert!(supported || !required, "expected a CPU with {instructions}, as ARRCOC_REQUIRE says");
    if !supported {
        eprintln!("skipped: this CPU has no {instructions}");
    }
    supported
}

/// Shapes that look random: `count` of them, each number within its limits.
pub(crate) fn shapes<const N: usize>(count: usize, limits: [(usize, usize); N]) -> Vec<[usize; N]> {
    let mut state = 1u32;
    let mut next = |(low, high): (usize, usize)| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        low + (state >> 8) as usize % (high - low + 1)
    };
    (0..count).map(|_| limits.map(&mut next)).collect()
}

/// Three threads, each with every third task.
pub(crate) struct Three;

// SAFETY: every number below `tasks` has one remainder.
unsafe impl Threads for Three {
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        std::thread::scope(|scope| {
            for thread in 0..3 {
                scope.spawn(move || (thread..tasks).step_by(3).for_each(task));
            }
        });
    }
}
