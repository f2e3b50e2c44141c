//! Host tensors that every library reads and writes without copying.
//!
//! A [`Tensor`] is a shape, an element type and shared bytes. The bytes may belong to Rust or to a library
//! (ONNX Runtime keeps the memory of its outputs): [`TensorBytes`] hides which, so that one graph's output is
//! the next graph's input with no copy in between.

use std::ops::Range;
use std::sync::Arc;

use arrcoc_bundle::manifest::CacheElement;

/// Element types that cross the border to a library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ElementType {
    /// 32-bit IEEE float.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// 64-bit signed integer: token ids, positions, indices.
    I64,
    /// 32-bit signed integer: sequence lengths of the fused attention operators.
    I32,
}

impl ElementType {
    /// Bytes per element.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::F16 => 2,
            Self::I64 => 8,
        }
    }
}

impl From<CacheElement> for ElementType {
    fn from(element: CacheElement) -> Self {
        match element {
            CacheElement::Fp32 => Self::F32,
            CacheElement::Fp16 => Self::F16,
        }
    }
}

/// Rust types that a [`Tensor`] can hold.
///
/// # Safety
/// Implementors are plain data: every bit pattern is valid, and `TYPE` names their exact layout.
pub unsafe trait Element: Copy + Send + Sync + 'static {
    /// The matching element type.
    const TYPE: ElementType;
}
// SAFETY: IEEE floats and integers are plain data of the size that `TYPE` states.
unsafe impl Element for f32 {
    const TYPE: ElementType = ElementType::F32;
}
// SAFETY: as above; `half::f16` is a transparent `u16`.
unsafe impl Element for half::f16 {
    const TYPE: ElementType = ElementType::F16;
}
// SAFETY: as above.
unsafe impl Element for i64 {
    const TYPE: ElementType = ElementType::I64;
}
// SAFETY: as above.
unsafe impl Element for i32 {
    const TYPE: ElementType = ElementType::I32;
}

/// Memory that holds a tensor's elements, in row-major order.
///
/// # Safety
/// Every call returns the same memory, and nothing writes to it while `self` lives: tensors keep typed views
/// of it.
pub unsafe trait TensorBytes: Send + Sync {
    /// The bytes.
    fn bytes(&self) -> &[u8];
}

struct VecBytes<T: Element>(Vec<T>);

// SAFETY: the vector is private and never touched again.
unsafe impl<T: Element> TensorBytes for VecBytes<T> {
    fn bytes(&self) -> &[u8] {
        // SAFETY: `T: Element` is plain data, and the slice covers exactly the vector's initialised elements.
        unsafe {
            std::slice::from_raw_parts(self.0.as_ptr().cast(), std::mem::size_of_val(self.0.as_slice()))
        }
    }
}

/// A shaped, typed, immutable and cheaply cloned block of host memory.
#[derive(Clone)]
pub struct Tensor {
    element: ElementType,
    shape: Vec<usize>,
    bytes: Arc<dyn TensorBytes>,
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({:?} {:?})", self.element, self.shape)
    }
}

/// Bytes that a shape takes, unless there are more than memory has.
fn size_in_bytes(element: ElementType, shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(element.size(), |bytes, &length| bytes.checked_mul(length))
}

/// A tensor was read as what it is not.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TensorError {
    /// The element count does not fit the shape.
    #[error("expected {expected} bytes for shape {shape:?}, found {found}")]
    Size {
        /// The shape asked for.
        shape: Vec<usize>,
        /// Bytes that the shape needs.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// The memory does not start where an element may.
    #[error("expected memory aligned to {expected} bytes, found an address that is not")]
    Alignment {
        /// What the element type needs.
        expected: usize,
    },
    /// The system has not so much memory.
    #[error("{bytes} bytes of memory were refused by the system")]
    Memory {
        /// What was asked for.
        bytes: usize,
    },
    /// The element type differs.
    #[error("expected elements of type {expected:?}, found {found:?}")]
    Type {
        /// The type asked for.
        expected: ElementType,
        /// The tensor's type.
        found: ElementType,
    },
}

/// A vector of zeros, or an error where there is no memory for it: for what grows with slots, contexts and
/// pictures. Its pages are the system's zero page until they are written to.
///
/// # Errors
/// [`TensorError::Memory`].
pub fn try_zeroed<T: Element + bytemuck::Zeroable>(length: usize) -> Result<Vec<T>, TensorError> {
    bytemuck::allocation::try_zeroed_vec(length).map_err(|()| no_memory::<T>(length))
}

/// An empty vector with room for `length` elements, or an error where there is no memory for it.
///
/// # Errors
/// [`TensorError::Memory`].
pub fn try_with_capacity<T: Element>(length: usize) -> Result<Vec<T>, TensorError> {
    let mut elements = Vec::new();
    elements.try_reserve_exact(length).map_err(|_| no_memory::<T>(length))?;
    Ok(elements)
}

fn no_memory<T>(length: usize) -> TensorError {
    TensorError::Memory { bytes: length.saturating_mul(size_of::<T>()) }
}

impl Tensor {
    /// Takes a vector in row-major order.
    ///
    /// # Errors
    /// [`TensorError::Size`] when the number of elements is not the product of `shape`.
    pub fn from_vec<T: Element>(shape: &[usize], data: Vec<T>) -> Result<Self, TensorError> {
        Self::from_bytes(T::TYPE, shape, Arc::new(VecBytes(data)))
    }

    /// Takes memory that something else owns, a library's output for example.
    ///
    /// # Errors
    /// [`TensorError::Size`] when the bytes do not fit the shape, [`TensorError::Alignment`] when they start
    /// at an odd place.
    pub fn from_bytes(
        element: ElementType,
        shape: &[usize],
        bytes: Arc<dyn TensorBytes>,
    ) -> Result<Self, TensorError> {
        let memory = bytes.bytes();
        let (expected, found) = (size_in_bytes(element, shape), memory.len());
        if expected != Some(found) {
            let expected = expected.unwrap_or(usize::MAX);
            return Err(TensorError::Size { shape: shape.to_vec(), expected, found });
        }
        if !memory.is_empty() && !memory.as_ptr().addr().is_multiple_of(element.size()) {
            return Err(TensorError::Alignment { expected: element.size() });
        }
        Ok(Self { element, shape: shape.to_vec(), bytes })
    }

    /// The element type.
    pub fn element(&self) -> ElementType {
        self.element
    }

    /// The shape, outermost axis first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The raw bytes.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.bytes()
    }

    /// The same memory under another shape.
    ///
    /// # Errors
    /// [`TensorError::Size`] when the element counts differ.
    pub fn reshaped(&self, shape: &[usize]) -> Result<Self, TensorError> {
        Self::from_bytes(self.element, shape, Arc::clone(&self.bytes))
    }

    /// Entries `range` of the outermost axis: the same memory where that is all of them, a copy else.
    ///
    /// # Errors
    /// [`TensorError::Type`] when the elements are not 32-bit floats, [`TensorError::Memory`] where there is
    /// none for the copy.
    pub fn part(&self, range: Range<usize>) -> Result<Self, TensorError> {
        if self.shape.first() == Some(&range.len()) {
            return Ok(self.clone());
        }
        let entry: usize = self.shape.iter().skip(1).product();
        let mut shape = self.shape.clone();
        shape[0] = range.len();
        let mut copy = try_with_capacity::<f32>(range.len() * entry)?;
        copy.extend_from_slice(&self.as_slice::<f32>()?[range.start * entry..range.end * entry]);
        Self::from_vec(&shape, copy)
    }

    /// The elements, in row-major order.
    ///
    /// # Errors
    /// [`TensorError::Type`] when `T` is not the tensor's element type.
    pub fn as_slice<T: Element>(&self) -> Result<&[T], TensorError> {
        if T::TYPE != self.element {
            return Err(TensorError::Type { expected: T::TYPE, found: self.element });
        }
        let bytes = self.bytes();
        if bytes.is_empty() {
            return Ok(&[]);
        }
        // SAFETY: the constructor checked size and alignment of memory that `TensorBytes` promises not to
        // change, the type was checked above, and `T: Element` is plain data.
        Ok(unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<T>()) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    struct Shifted(Vec<u64>);

    // SAFETY: the vector is never touched.
    unsafe impl TensorBytes for Shifted {
        fn bytes(&self) -> &[u8] {
            // SAFETY: three words hold nine bytes from the second on.
            unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast::<u8>().add(1), 8) }
        }
    }

    #[test]
    fn memory_at_an_odd_address_is_refused() {
        let odd = || Arc::new(Shifted(vec![0; 3]));
        let error = Tensor::from_bytes(ElementType::F32, &[2], odd()).unwrap_err();
        assert_eq!(error, TensorError::Alignment { expected: 4 });
    }

    #[test]
    fn a_shape_beyond_all_memory_is_refused() {
        let error = Tensor::from_vec(&[usize::MAX, 2], vec![0.0f32; 2]).unwrap_err();
        assert!(matches!(error, TensorError::Size { expected: usize::MAX, found: 8, .. }), "{error}");
    }

    #[test]
    fn an_empty_tensor_has_an_empty_slice() {
        let empty = Tensor::from_vec::<f32>(&[1, 0, 4], vec![]).unwrap();
        assert_eq!(empty.as_slice::<f32>().unwrap(), &[] as &[f32]);
    }
}
