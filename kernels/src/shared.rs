//! One output, many tasks.

use std::marker::PhantomData;
use std::ops::Range;

/// What task `number` has of `all`, where each takes `size` or what is left.
pub(crate) fn part(number: usize, size: usize, all: usize) -> Range<usize> {
    all.min(number * size)..all.min((number + 1) * size)
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Three;
    use crate::threads::Threads;

    #[test]
    fn parts_of_many_tasks_make_the_whole() {
        let mut numbers = vec![0; 100];
        let shared = Shared::new(&mut numbers);
        Three.run(15, &|task| {
            let (start, end) = (task * 7, 100.min((task + 1) * 7));
            // SAFETY: every task has a part of its own.
            let part = unsafe { shared.part(start, end - start) };
            part.iter_mut().zip(start..).for_each(|(number, place)| *number = place);
        });
        assert!(numbers.into_iter().eq(0..100));
    }

    #[test]
    fn no_part_lies_beyond_the_end() {
        let mut numbers = [0; 5];
        let shared = Shared::new(&mut numbers);
        for (start, len) in [(0, 6), (5, 1), (6, 0), (usize::MAX, 2), (2, usize::MAX)] {
            let part = std::panic::AssertUnwindSafe(|| {
                // SAFETY: nobody else has a part.
                unsafe { shared.part(start, len) }.len()
            });
            assert!(std::panic::catch_unwind(part).is_err(), "{len} from {start}");
        }
        // SAFETY: nobody else has a part.
        assert_eq!(unsafe { shared.part(5, 0) }.len(), 0);
    }
}
