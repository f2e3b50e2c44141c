//! What a rendering may cost.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::Failure;

/// Most of what one rendering may take. A conversation of 100,000 words takes a few thousandths of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Operations, and characters that are looked at, in units of 64.
    pub(crate) steps: u64,
    /// Bytes of all strings and lists that are made, those included that are dropped again.
    pub(crate) bytes: usize,
    /// Wall-clock time.
    pub(crate) time: Duration,
}

impl Limits {
    /// For messages of so many bytes.
    pub(crate) fn for_input(bytes: usize) -> Self {
        Self {
            steps: 2_000_000 + 4 * bytes as u64,
            bytes: (32 << 20) + 16 * bytes,
            time: Duration::from_secs(5),
        }
    }
}

/// Levels of statements, expressions and calls inside each other while a template runs.
const DEPTH: usize = 300;

/// Bytes that are filled or looked at in one step.
const STEP: usize = 64;

/// What a piece of memory takes besides its content, about: counts of references, sizes, the allocator's own.
pub(super) const ALLOCATION: usize = 64;

/// Bytes of a value's place in a list.
pub(super) const PLACE: usize = 40;

/// Steps between two looks at the clock.
const CLOCK: u64 = 1024;

#[derive(Debug)]
pub(crate) struct Meter {
    steps: Cell<u64>,
    bytes: Cell<usize>,
    /// Bytes whose work is not paid for: fewer than a step's.
    odd_bytes: Cell<usize>,
    depth: Cell<usize>,
    until_clock: Cell<u64>,
    deadline: Option<Instant>,
}

impl Meter {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            steps: Cell::new(limits.steps),
            bytes: Cell::new(limits.bytes),
            odd_bytes: Cell::new(0),
            depth: Cell::new(0),
            until_clock: Cell::new(CLOCK),
            deadline: Instant::now().checked_add(limits.time),
        }
    }

    /// Pays for work.
    pub(super) fn step(&self, steps: u64) -> Result<(), Failure> {
        let left = self.steps.get().checked_sub(steps).ok_or(Failure::exhausted("work"))?;
        self.steps.set(left);
        match self.until_clock.get().checked_sub(steps) {
            Some(left) => self.until_clock.set(left),
            None => {
                self.until_clock.set(CLOCK);
                if self.deadline.is_some_and(|deadline| Instant::now() > deadline) {
                    return Err(Failure::exhausted("time"));
                }
            }
        }
        Ok(())
    }

    /// Pays for memory, and for the work of filling it. To be called before the memory is taken.
    pub(super) fn bytes(&self, bytes: usize) -> Result<(), Failure> {
        let left = self.bytes.get().checked_sub(bytes).ok_or(Failure::exhausted("text"))?;
        self.bytes.set(left);
        let filled = self.odd_bytes.get() + bytes;
        self.odd_bytes.set(filled % STEP);
        self.step((filled / STEP) as u64)
    }

    /// Refuses what could not be paid for.
    pub(super) fn affords(&self, bytes: usize) -> Result<(), Failure> {
        if bytes > self.bytes.get() { Err(Failure::exhausted("text")) } else { Ok(()) }
    }

    /// Pays for a list.
    pub(super) fn items(&self, items: usize) -> Result<(), Failure> {
        self.bytes(items.saturating_mul(PLACE).saturating_add(ALLOCATION))
    }

    /// Pays for one short value that has memory of its own, and for its place in a list. A text's content is
    /// not paid for.
    pub(super) fn part(&self) -> Result<(), Failure> {
        self.bytes(PLACE + ALLOCATION)
    }

    /// Runs `work` one level deeper.
    pub(super) fn deeper<T>(&self, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        let depth = self.depth.get() + 1;
        if depth > DEPTH {
            return Err(Failure::exhausted("depth"));
        }
        self.depth.set(depth);
        let done = work();
        self.depth.set(depth - 1);
        done
    }
}
