//! What the tests of all kernels need.

use crate::table::Table;
use crate::threads::Threads;

// This crate depends on none of ours, so it takes the file.
#[path = "../../tests/src/require.rs"]
#[allow(unreachable_pub, reason = "it is public in the crate that it belongs to")]
mod require;

/// Numbers from -1 to 1 that look random.
pub(crate) fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Whether this CPU runs a kernel of the table. A test without one says that it is skipped, and fails where
/// `ARRCOC_REQUIRE` names one's instructions (`avx512` names all that begin so).
pub(crate) fn can_run<K>(table: &Table<K>) -> bool {
    let supported = table.chosen().is_some();
    for instructions in table.instructions().filter(|_| !supported) {
        has(instructions, false);
    }
    supported
}

/// Whether a test can run that needs such instructions.
pub(crate) fn has(instructions: &str, supported: bool) -> bool {
    require::can_run(instructions, &supported.then_some(()).ok_or("this CPU does not have it"))
}

/// The result of all kernels, which must be the same to the bit.
///
/// # Panics
/// When it is not.
pub(crate) fn one_result(mut results: impl Iterator<Item = Vec<f32>>) -> Vec<f32> {
    let bits = |list: &[f32]| list.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let first = results.next().unwrap_or_default();
    for other in results {
        assert_eq!(bits(&other), bits(&first), "expected one result of all kernels");
    }
    first
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
