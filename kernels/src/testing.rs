//! What the tests of all kernels need.

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
