//! How much memory some code takes, counted where it is allocated: the same on a busy machine as on an idle
//! one. And what becomes of it when there is none.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr;

thread_local! {
    /// Bytes that this thread holds, and the most that it held.
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    /// The most that this thread gets at once, bytes.
    static MOST_AT_ONCE: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// The system's allocator, counting. A test makes it its own with `#[global_allocator]`.
#[derive(Debug)]
pub struct Counting;

fn count(bytes: isize) {
    // While a thread ends there is nobody to count for.
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

fn refused(bytes: usize) -> bool {
    MOST_AT_ONCE.try_with(|most| bytes > most.get()).unwrap_or(false)
}

// SAFETY: the system's allocator does the work; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if refused(layout.size()) {
            return ptr::null_mut();
        }
        count(layout.size() as isize);
        // SAFETY: as the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as the caller's.
        unsafe { System.dealloc(pointer, layout) };
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if refused(layout.size()) {
            return ptr::null_mut();
        }
        count(layout.size() as isize);
        // SAFETY: as the caller's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if size > layout.size() && refused(size) {
            return ptr::null_mut();
        }
        count(size as isize - layout.size() as isize);
        // SAFETY: as the caller's.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Runs `work` and says how many bytes more than before this thread held at the worst moment. 0 where
/// [`Counting`] is not the allocator.
pub fn most_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.get();
    PEAK.set(before);
    let result = work();
    (result, usize::try_from(PEAK.get() - before).unwrap_or(0))
}

/// Runs `work` on a thread that gets no more than `most` bytes at once: [`Counting`] refuses what is larger,
/// as a system without memory does. Whoever does not ask whether it got its memory ends the process.
pub fn refusing<T>(most: usize, work: impl FnOnce() -> T) -> T {
    /// A panic of `work` needs memory for its message, and later tests of the thread need theirs.
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            MOST_AT_ONCE.set(usize::MAX);
        }
    }
    let _reset = Reset;
    MOST_AT_ONCE.set(most);
    work()
}
