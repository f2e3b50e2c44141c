//! Who runs the tasks of a kernel: the caller of this crate brings it.

/// Somebody who runs tasks, in any order, perhaps at once.
///
/// # Safety
/// A call runs every number below `tasks` once at most, and returns when all have ended: each task writes a
/// part of the output that it takes for its own.
pub unsafe trait Threads {
    /// Runs `task(0)` to `task(tasks - 1)`.
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync));
}
