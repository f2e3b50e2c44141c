//! Memory that runs of a graph read and extend in place, as attention does a KV cache.

use std::any::Any;
use std::ops::Range;

use super::{InPlace, LibraryError};
use crate::tensor::{ElementType, TensorError, try_zeroed};

/// Blocks of one shape, one behind the other, zeros at first. They lie where the library computes.
pub struct Blocks {
    element: ElementType,
    /// Of one block.
    shape: Vec<usize>,
    memory: Memory,
}

enum Memory {
    /// Whole words, so that every element type is aligned.
    Host(Vec<i64>),
    Library(Box<dyn LibraryBlocks>),
}

/// Blocks that a library holds, perhaps in a GPU's memory.
pub(super) trait LibraryBlocks: Any + Send {
    /// Writes block `from` over block `to`.
    ///
    /// # Errors
    /// [`LibraryError::Run`] when the library fails.
    fn copy(&mut self, from: usize, to: usize) -> Result<(), LibraryError>;

    /// For the library that made them.
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

/// Where the memory of an [`InPlace`] lies.
pub enum InPlaceMemory<'a> {
    /// In the host's.
    Host(&'a mut [u8]),
    /// In the library's own.
    Library(InLibrary<'a>),
}

/// Blocks of the library's own, for the library itself.
pub struct InLibrary<'a> {
    pub(super) blocks: &'a mut dyn LibraryBlocks,
    /// The first one.
    pub(super) first: usize,
}

impl Blocks {
    /// `count` blocks of `shape` in the host's memory. Zeros come as zeroed pages: memory is used as places
    /// are, not before.
    ///
    /// # Errors
    /// [`TensorError::Memory`] where the system has not as much.
    pub fn host(element: ElementType, count: usize, shape: &[usize]) -> Result<Self, TensorError> {
        let words = try_zeroed(Self::bytes(element, count, shape).div_ceil(size_of::<i64>()))?;
        Ok(Self { element, shape: shape.to_vec(), memory: Memory::Host(words) })
    }

    pub(super) fn library(element: ElementType, shape: &[usize], blocks: Box<dyn LibraryBlocks>) -> Self {
        Self { element, shape: shape.to_vec(), memory: Memory::Library(blocks) }
    }

    /// Bytes of `count` blocks of `shape`; the largest number where no number is as large.
    pub(super) fn bytes(element: ElementType, count: usize, shape: &[usize]) -> usize {
        let sizes = [count, element.size()].into_iter().chain(shape.iter().copied());
        sizes.fold(1, usize::saturating_mul)
    }

    /// Bytes of one block.
    fn block(&self) -> usize {
        Self::bytes(self.element, 1, &self.shape)
    }

    /// Blocks `range` for a run: `shape` is theirs, with their number in front.
    pub fn in_place<'a>(
        &'a mut self,
        names: (&'a str, &'a str),
        range: &Range<usize>,
        shape: &'a [usize],
    ) -> InPlace<'a> {
        let ((input, output), element, block) = (names, self.element, self.block());
        let memory = match &mut self.memory {
            Memory::Host(words) => {
                let bytes = bytemuck::cast_slice_mut(words);
                InPlaceMemory::Host(&mut bytes[range.start * block..range.end * block])
            }
            Memory::Library(blocks) => {
                InPlaceMemory::Library(InLibrary { blocks: &mut **blocks, first: range.start })
            }
        };
        InPlace { input, output, shape, element, memory }
    }

    /// Writes the beginning of block `from` over that of block `to`: of every entry of its outermost axis
    /// `length` entries of the next. Of a library's blocks it is all.
    ///
    /// # Errors
    /// [`LibraryError::Run`] when the library fails.
    pub fn copy(&mut self, from: usize, to: usize, length: usize) -> Result<(), LibraryError> {
        let block = self.block();
        match &mut self.memory {
            Memory::Library(blocks) => blocks.copy(from, to),
            Memory::Host(words) => {
                let bytes: &mut [u8] = bytemuck::cast_slice_mut(words);
                let entry = block / self.shape.first().copied().unwrap_or(1).max(1);
                let part = length * entry / self.shape.get(1).copied().unwrap_or(1).max(1);
                for start in (0..block).step_by(entry.max(1)) {
                    let source = from * block + start;
                    bytes.copy_within(source..source + part, to * block + start);
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Blocks of `[2, 5, 3]` halves, whose bytes are no whole words.
    const SHAPE: [usize; 3] = [2, 5, 3];
    const BLOCK: usize = 2 * 5 * 3 * 2;

    fn bytes(blocks: &mut Blocks, range: &Range<usize>) -> Vec<u8> {
        let shape = [range.len(), SHAPE[0], SHAPE[1], SHAPE[2]];
        match blocks.in_place(("in", "out"), range, &shape).memory {
            InPlaceMemory::Host(bytes) => bytes.to_vec(),
            InPlaceMemory::Library(_) => panic!("these are the host's"),
        }
    }

    #[test]
    fn ranges_are_bound_and_the_beginning_of_a_block_is_copied() {
        let mut blocks = Blocks::host(ElementType::F16, 3, &SHAPE).unwrap();
        assert_eq!(bytes(&mut blocks, &(0..3)), [0; 3 * BLOCK]);
        let shape = [1, SHAPE[0], SHAPE[1], SHAPE[2]];
        let bound = blocks.in_place(("in", "out"), &(1..2), &shape);
        assert_eq!((bound.element, bound.shape), (ElementType::F16, &shape[..]));
        let InPlaceMemory::Host(memory) = bound.memory else { panic!("these are the host's") };
        (1u8..).zip(memory.iter_mut()).for_each(|(number, byte)| *byte = number);
        let source: Vec<u8> = (1..=BLOCK as u8).collect();
        assert_eq!(bytes(&mut blocks, &(0..3)), [vec![0; BLOCK], source.clone(), vec![0; BLOCK]].concat());

        blocks.copy(1, 2, 3).unwrap();
        // Three entries of three halves of each of two heads; what was behind them stays.
        let head = |at: usize| [&source[at..at + 18], &[0; 12]].concat();
        assert_eq!(bytes(&mut blocks, &(2..3)), [head(0), head(30)].concat());
        assert_eq!(bytes(&mut blocks, &(1..2)), source);
    }

    #[test]
    fn more_than_all_memory_is_an_error() {
        let error = Blocks::host(ElementType::F16, usize::MAX, &SHAPE).err().unwrap();
        assert!(matches!(error, TensorError::Memory { .. }), "{error}");
    }
}
