//! Blocks that runs extend in place, in a GPU's memory.
//!
//! They are one allocation of the session's own allocator. A run binds views of it: nothing is copied. Block
//! is copied to block on the device too, by the session with an `Identity` that the crate `ort` keeps for
//! copies: input and output are views of the same allocation. Either run waits until the GPU is done
//! (`disable_synchronize_execution_providers` is not set), so that they never overlap.

use std::any::Any;

use ::ort::memory::{Allocator, MemoryInfo};
use ::ort::session::Session;
use ::ort::value::{DynTensor, DynTensorValueType, Value};

use super::values::{failed, to_ort, view};
use crate::library::LibraryError;
use crate::library::blocks::LibraryBlocks;
use crate::tensor::ElementType;

/// Blocks of one shape in the memory where a provider computes.
pub(super) struct OrtBlocks {
    all: DynTensor,
    allocator: Allocator,
    memory: MemoryInfo<'static>,
    element: ElementType,
    count: usize,
    /// Of one block.
    shape: Vec<usize>,
}

impl OrtBlocks {
    /// `count` blocks of `shape`, all zeros: attention multiplies what lies behind a row's end with nothing,
    /// and of what memory held before nothing times it may be no number.
    pub(super) fn new(
        session: &Session,
        memory: &MemoryInfo,
        element: ElementType,
        (count, shape): (usize, &[usize]),
    ) -> Result<Self, ::ort::Error> {
        let allocator = Allocator::new(session, memory.to_owned())?;
        let lengths: Vec<usize> = std::iter::once(count).chain(shape.iter().copied()).collect();
        let all = DynTensor::new(&allocator, to_ort(element), lengths)?;
        let memory = memory.to_owned();
        let mut blocks = Self { all, allocator, memory, element, count, shape: shape.to_vec() };
        // On the host, one block at a time.
        let mut zeros = DynTensor::new(&Allocator::default(), to_ort(element), shape.to_vec())?;
        let bytes = shape.iter().product::<usize>() * element.size();
        // SAFETY: the tensor has so many bytes, and nobody else has it yet.
        unsafe { zeros.data_ptr_mut().cast::<u8>().write_bytes(0, bytes) };
        for block in 0..count {
            zeros.copy_into(&mut blocks.block(block)?)?;
        }
        Ok(blocks)
    }

    /// The memory of blocks from `first` on that have `shape` together, and its kind.
    pub(super) fn part(
        &mut self,
        first: usize,
        element: ElementType,
        shape: &[usize],
    ) -> Result<(*mut u8, &MemoryInfo<'static>), ::ort::Error> {
        let fits = shape.split_first().is_some_and(|(&count, block)| {
            block == self.shape && first.checked_add(count).is_some_and(|end| end <= self.count)
        });
        if !fits || element != self.element {
            return Err(::ort::Error::new(format!(
                "expected part of {} blocks of shape {:?} and type {:?}, found {shape:?} of {element:?} from {first} on",
                self.count, self.shape, self.element
            )));
        }
        let block = self.shape.iter().product::<usize>() * self.element.size();
        // SAFETY: the blocks up to the end of the part are inside of the allocation, as was just compared.
        let data = unsafe { self.all.data_ptr_mut().cast::<u8>().add(first * block) };
        Ok((data, &self.memory))
    }

    /// A view of one block.
    fn block(&mut self, at: usize) -> Result<Value<DynTensorValueType>, ::ort::Error> {
        let shape: Vec<usize> = std::iter::once(1).chain(self.shape.iter().copied()).collect();
        let (data, memory) = self.part(at, self.element, &shape)?;
        let memory = memory.to_owned();
        // SAFETY: `part` compared the size; the callers drop the view before the allocation, and hold this
        // value mutably while it lives.
        let view = unsafe { view(data, self.element, &self.shape, &memory, &self.allocator) }?;
        view.downcast()
    }
}

impl LibraryBlocks for OrtBlocks {
    fn copy(&mut self, from: usize, to: usize) -> Result<(), LibraryError> {
        let copied = self.block(from).and_then(|source| source.copy_into(&mut self.block(to)?));
        copied.map_err(|reason| failed("(a copy of a slot on the device)", reason))
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// On the host's memory, where the same calls bind, fill and copy as on a GPU's.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use arrcoc_tests::require::can_run;

    use super::super::graph::OrtGraph;
    use super::super::linked::Mapped;
    use super::super::{OrtLibrary, Provider, tensorrt};
    use super::*;
    use crate::library::{Blocks, CpuOptions, Graph as _};
    use crate::tensor::Tensor;

    const CAPACITY: usize = 6;
    const SHAPE: [usize; 3] = [1, CAPACITY, 8];

    fn wave(length: usize, seed: usize) -> Vec<f32> {
        (0..length).map(|i| ((seed * 31 + i) as f32 * 0.37).sin()).collect()
    }

    /// A step of `slots`, each of which holds `lengths` tokens before.
    fn step(graph: &mut OrtGraph, [keys, values]: &mut [Blocks; 2], first: usize, before: &[i32]) -> Tensor {
        let batch = before.len();
        let of = |width: usize, seed: usize| {
            Tensor::from_vec(&[batch, 1, width], wave(batch * width, seed)).unwrap()
        };
        let longest = before.iter().max().unwrap() + 1;
        let inputs = [
            ("q", of(16, 1)),
            ("k", of(8, 2)),
            ("v", of(8, 3)),
            ("seqlens_k", Tensor::from_vec(&[batch], before.to_vec()).unwrap()),
            ("total_sequence_length", Tensor::from_vec(&[], vec![longest]).unwrap()),
        ];
        let shape = [batch, SHAPE[0], SHAPE[1], SHAPE[2]];
        let range = first..first + batch;
        let mut in_place = [
            keys.in_place(("past_key", "present_key"), &range, &shape),
            values.in_place(("past_value", "present_value"), &range, &shape),
        ];
        graph.run_in_place(&inputs, &mut in_place).unwrap().remove(0).1
    }

    #[test]
    fn blocks_of_the_librarys_are_as_blocks_of_the_hosts() {
        let provider = Provider::Cpu(CpuOptions::default());
        let runtime = OrtLibrary::open(1, provider.clone());
        if !can_run("ort", &runtime) {
            return;
        }
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/onnx/inplace.onnx");
        let session = runtime.unwrap().session(false).unwrap().commit_from_file(model).unwrap();
        let memory = MemoryInfo::default();
        let own = || OrtBlocks::new(&session, &memory, ElementType::F32, (3, &SHAPE)).unwrap();
        let own = || Blocks::library(ElementType::F32, &SHAPE, Box::new(own()));
        let host = || Blocks::host(ElementType::F32, 3, &SHAPE).unwrap();
        let mut sides = [[own(), own()], [host(), host()]];
        let mut loose = OrtBlocks::new(&session, &memory, ElementType::F32, (3, &SHAPE)).unwrap();
        let ranges = tensorrt::Ranges::new();
        let mut graph = OrtGraph::new("inplace", session, Mapped::default(), ranges, &provider).unwrap();
        let answers = sides.each_mut().map(|side| {
            let mut answers = vec![step(&mut graph, side, 1, &[0]), step(&mut graph, side, 0, &[0, 1, 0])];
            answers.push(step(&mut graph, side, 2, &[2]));
            side.iter_mut().for_each(|blocks| blocks.copy(1, 2, 2).unwrap());
            answers.extend([2, 1].map(|slot| step(&mut graph, side, slot, &[2])));
            answers.iter().map(|answer| answer.as_slice::<f32>().unwrap().to_vec()).collect::<Vec<_>>()
        });
        assert_eq!(answers[0], answers[1]);
        let [_, _, other, copy, source] = &answers[0][..] else { panic!("five steps") };
        assert_eq!(copy, source);
        assert_ne!(other, copy);

        let of = |count| [count, SHAPE[0], SHAPE[1], SHAPE[2]];
        assert!(loose.part(1, ElementType::F32, &of(2)).is_ok());
        assert!(loose.part(1, ElementType::F32, &of(3)).is_err(), "beyond the end");
        assert!(loose.part(0, ElementType::F16, &of(3)).is_err(), "of another type");
        assert!(loose.part(0, ElementType::F32, &[3, 1, CAPACITY + 1, 8]).is_err(), "of another shape");
    }
}
