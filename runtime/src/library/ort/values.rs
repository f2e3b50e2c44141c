//! Tensors as ONNX Runtime's values, and back.

use std::ptr::NonNull;
use std::sync::Arc;

use ::ort::AsPointer as _;
use ::ort::memory::{Allocator, MemoryInfo};
use ::ort::session::{IoBinding, Session};
use ::ort::value::{DynTensorValueType, DynValue, Outlet, TensorElementType, Value, ValueType};

use crate::library::LibraryError;
use crate::library::port::{Axis, Port};
use crate::tensor::{ElementType, Tensor, TensorBytes};

/// A value over memory of the kind `memory` that stays the caller's. (`ort`'s own borrowed tensors are copied
/// when they are bound.)
///
/// # Safety
/// `data` must hold a tensor of that type and shape, outlive the value and every binding that it is put into,
/// and be writable wherever the value is bound as an output.
pub(super) unsafe fn view(
    data: *const u8,
    element: ElementType,
    shape: &[usize],
    memory: &MemoryInfo,
    allocator: &Allocator,
) -> Result<DynValue, ::ort::Error> {
    let bytes = shape.iter().product::<usize>() * element.size();
    // Lengths of memory that exists fit an `i64`.
    let shape: Vec<i64> = shape.iter().map(|&length| length as i64).collect();
    let mut value = std::ptr::null_mut();
    // SAFETY: all pointers are valid for the call; the caller vouches for `data`.
    unsafe {
        let status = (::ort::api().CreateTensorWithDataAsOrtValue)(
            memory.ptr(),
            data.cast_mut().cast(),
            bytes,
            shape.as_ptr(),
            shape.len(),
            to_ort(element).into(),
            &raw mut value,
        );
        ::ort::Error::result_from_status(status)?;
    }
    let value = NonNull::new(value).ok_or_else(|| ::ort::Error::new("no value was created"))?;
    // SAFETY: the value was just created and is owned by nobody else.
    Ok(unsafe { Value::from_ptr(value, Some(allocator)) })
}

/// A value over an input's memory.
///
/// # Safety
/// As [`view`]; it must not be bound as an output.
pub(super) unsafe fn view_of(tensor: &Tensor, session: &Session) -> Result<DynValue, ::ort::Error> {
    let (memory, data) = (MemoryInfo::default(), tensor.bytes().as_ptr());
    // SAFETY: a tensor's bytes are as many as its shape says; the rest is the caller's.
    unsafe { view(data, tensor.element(), tensor.shape(), &memory, session.allocator()) }
}

/// Binds inputs where they lie.
///
/// # Safety
/// The tensors must outlive the binding.
pub(super) unsafe fn bind_inputs(
    binding: &mut IoBinding,
    session: &Session,
    inputs: &[(&str, Tensor)],
) -> Result<(), ::ort::Error> {
    for (name, tensor) in inputs {
        // SAFETY: the caller's tensors outlive the binding, and ONNX Runtime only reads inputs.
        binding.bind_input(*name, &unsafe { view_of(tensor, session) }?)?;
    }
    Ok(())
}

/// Takes over an output: the tensor keeps ONNX Runtime's memory alive.
pub(super) fn adopt(value: DynValue) -> Result<Tensor, ::ort::Error> {
    let value = value.downcast::<DynTensorValueType>()?;
    if !value.memory_info().is_cpu_accessible() {
        return Err(::ort::Error::new("an output was left in the GPU's memory"));
    }
    let (element, shape) = shape_of(&value)?;
    let len = shape.iter().product::<usize>() * element.size();
    Tensor::from_bytes(element, &shape, Arc::new(OrtBytes { value, len })).map_err(::ort::Error::wrap)
}

pub(super) fn shape_of(value: &Value<DynTensorValueType>) -> Result<(ElementType, Vec<usize>), ::ort::Error> {
    let element = from_ort(*value.data_type())
        .ok_or_else(|| ::ort::Error::new(format!("an output has elements of type {}", value.data_type())))?;
    Ok((element, value.shape().iter().map(|&length| length.unsigned_abs() as usize).collect()))
}

/// Memory that ONNX Runtime allocated for an output.
struct OrtBytes {
    value: Value<DynTensorValueType>,
    len: usize,
}

// SAFETY: the value is private, and ONNX Runtime does not write to an output after the run that made it.
unsafe impl TensorBytes for OrtBytes {
    fn bytes(&self) -> &[u8] {
        if self.len == 0 {
            // ONNX Runtime may give no memory at all for an empty tensor.
            return &[];
        }
        // SAFETY: the value is on the CPU, holds `len` bytes, is never written again and lives as long as
        // `self`.
        unsafe { std::slice::from_raw_parts(self.value.data_ptr().cast(), self.len) }
    }
}

/// What an input asks for.
pub(super) fn port(outlet: &Outlet) -> Result<Port, String> {
    let name = outlet.name().to_owned();
    let ValueType::Tensor { ty, shape, dimension_symbols } = outlet.dtype() else {
        return Err(format!("input `{name}`: expected a tensor, found {}", outlet.dtype()));
    };
    let element = from_ort(*ty).ok_or_else(|| format!("input `{name}` has elements of type {ty}"))?;
    let axis = |(&length, symbol): (&i64, &String)| match usize::try_from(length) {
        Ok(length) => Axis::Fixed(length),
        Err(_) => Axis::Named(symbol.clone()),
    };
    let shape = shape.iter().zip(dimension_symbols.iter()).map(axis).collect();
    Ok(Port { name, element, shape })
}

pub(super) fn to_ort(element: ElementType) -> TensorElementType {
    match element {
        ElementType::F32 => TensorElementType::Float32,
        ElementType::F16 => TensorElementType::Float16,
        ElementType::I64 => TensorElementType::Int64,
        ElementType::I32 => TensorElementType::Int32,
    }
}

fn from_ort(element: TensorElementType) -> Option<ElementType> {
    match element {
        TensorElementType::Float32 => Some(ElementType::F32),
        TensorElementType::Float16 => Some(ElementType::F16),
        TensorElementType::Int64 => Some(ElementType::I64),
        TensorElementType::Int32 => Some(ElementType::I32),
        _ => None,
    }
}

/// A run failed.
pub(super) fn failed(graph: &str, reason: impl ToString) -> LibraryError {
    LibraryError::Run { graph: graph.to_owned(), reason: reason.to_string() }
}
