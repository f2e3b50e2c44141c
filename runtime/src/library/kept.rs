//! Outputs that a caller does not look at: they stay where the library computes.

use std::any::Any;
use std::sync::Arc;

use super::LibraryError;
use crate::tensor::{ElementType, Tensor};

/// An output of a run that is to be an input of a later run of the same graph, as a KV cache is. Cheap to
/// clone, never written again.
#[derive(Clone)]
pub struct Kept {
    element: ElementType,
    shape: Vec<usize>,
    memory: Memory,
}

#[derive(Clone)]
enum Memory {
    Host(Tensor),
    Library(Arc<dyn LibraryMemory>),
}

/// What [`Graph::run_keeping`](super::Graph::run_keeping) made.
pub struct RunOutputs {
    /// Outputs for the host, by name.
    pub returned: Vec<(String, Tensor)>,
    /// Those that were to be kept, in the order in which they were asked for.
    pub kept: Vec<Kept>,
}

/// Memory that a library holds, perhaps a GPU's.
pub(super) trait LibraryMemory: Any + Send + Sync {
    /// A copy that the CPU can read.
    ///
    /// # Errors
    /// [`LibraryError::Run`] when the library fails.
    fn to_host(&self) -> Result<Tensor, LibraryError>;

    /// For the library that made it.
    fn as_any(&self) -> &dyn Any;
}

impl Kept {
    /// Takes over a tensor of the host's.
    pub fn host(tensor: Tensor) -> Self {
        Self { element: tensor.element(), shape: tensor.shape().to_vec(), memory: Memory::Host(tensor) }
    }

    pub(super) fn library(element: ElementType, shape: &[usize], memory: Arc<dyn LibraryMemory>) -> Self {
        Self { element, shape: shape.to_vec(), memory: Memory::Library(memory) }
    }

    /// The element type.
    pub fn element(&self) -> ElementType {
        self.element
    }

    /// The shape, outermost axis first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The numbers, where the CPU can read them: a copy, unless they are there already.
    ///
    /// # Errors
    /// [`LibraryError::Run`] when the library fails.
    pub fn to_host(&self) -> Result<Tensor, LibraryError> {
        match &self.memory {
            Memory::Host(tensor) => Ok(tensor.clone()),
            Memory::Library(memory) => memory.to_host(),
        }
    }

    /// What a library keeps, for the library itself.
    pub(super) fn of_library<T: Any>(&self) -> Option<&T> {
        match &self.memory {
            Memory::Host(_) => None,
            Memory::Library(memory) => memory.as_any().downcast_ref(),
        }
    }
}
