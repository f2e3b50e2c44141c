//! One output, many tasks.

use std::marker::PhantomData;

/// A slice of which every task writes parts of its own.
pub(crate) struct Shared<'a, T> {
    data: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: `part` is the only way in, and its caller vouches that no two parts overlap.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { data: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// `len` elements from `start`.
    ///
    /// # Safety
    /// No other part that overlaps this one may be alive.
    #[expect(clippy::mut_from_ref, reason = "the parts are disjoint, which the caller vouches for")]
    pub(crate) unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        let within = start <= self.len && len <= self.len - start;
        assert!(within, "expected a part of {} elements, found {len} from {start}", self.len);
        // SAFETY: within the slice that was borrowed for 'a, and nobody else has this part.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(start), len) }
    }
}
