//! Blocks of 4-bit weights that are multiplied with 16-bit floats.
//!
//! For CUDA they are read by ONNX Runtime's `MatMulNBits` itself. In portable graphs standard operators read
//! them: `DequantizeLinear` in front of a `MatMul`.
//!
//! ONNX Runtime makes `MatMulNBits` of the two, and TensorRT a product that unpacks weights as it reads them:
//! for both, the integers are a constant \[in, out\], blocked on axis 0, and the product that reads them is
//! the only one. ONNX Runtime asks besides for blocks of 16 or more, a power of two
//! (`DQMatMulNodeGroupSelector` in its `qdq_selectors.cc`); TensorRT for symmetric ones, with scales greater
//! than zero (`IDequantizeLayer`,
//! <https://docs.nvidia.com/deeplearning/tensorrt/operators/docs/Dequantize.html>).

use std::rc::Rc;

use arrcoc_models::graph::quantized::{Blocks, Int4, Part, Scheme};
use arrcoc_models::graph::{Element, Initializer, Node};

use super::rewrite::{Operator, Rewriter};

/// Gives a `Gemm` weights that are unpacked from blocks of 4 bits, transposed; false where they stay as they
/// are.
pub(super) fn unpack(g: &mut Rewriter, gemm: &mut Node, blocks: Blocks) -> bool {
    let weight = g.initializer(&gemm.inputs[1]).cloned();
    match weight.and_then(|weight| dequantized(g, &weight, blocks)) {
        Some(made) => {
            gemm.inputs[1] = made;
            true
        }
        None => false,
    }
}

/// The weights of a `Gemm`, \[out, in\], in 16 bits and transposed, from blocks of 4; `None` where rows do
/// not divide into blocks, or for what is no weight of the checkpoint.
fn dequantized(g: &mut Rewriter, weight: &Initializer, blocks: Blocks) -> Option<Rc<str>> {
    let [rows, columns] = weight.shape[..] else { return None };
    let Blocks { size, symmetric, .. } = blocks.fitting(columns);
    if !columns.is_multiple_of(size) {
        return None;
    }
    let parts = parts(g, weight, Scheme::Int4(Int4 { size, symmetric }), symmetric)?;
    let inputs: Vec<&str> = parts.iter().map(|name| &**name).collect();
    let operator = Operator::standard("DequantizeLinear", &[columns.into(), rows.into()]);
    let operator = operator.with(&[("axis", 0), ("block_size", size)]).of(Element::F16);
    Some(g.add(&format!("/{}/int4", weight.name), operator, &inputs))
}

/// A weight for `MatMulNBits`.
pub(super) struct Packed {
    columns: usize,
    rows: usize,
    size: usize,
    /// Values, scales and, where blocks have them, zero points.
    parts: Vec<Rc<str>>,
}

/// The weights of a `Gemm` as `MatMulNBits` reads them; `None` where they stay as they are, as in [`unpack`].
pub(super) fn pack(g: &mut Rewriter, gemm: &Node, blocks: Blocks) -> Option<Packed> {
    let weight = g.initializer(&gemm.inputs[1])?.clone();
    let [rows, columns] = weight.shape[..] else { return None };
    let Blocks { size, symmetric, .. } = blocks.fitting(columns);
    if !columns.is_multiple_of(size) {
        return None;
    }
    let parts = parts(g, &weight, Scheme::Packed(Int4 { size, symmetric }), symmetric)?;
    Some(Packed { columns, rows, size, parts })
}

/// Adds the `MatMulNBits` that stands for a `Gemm` whose input is in 16 bits. It computes in these
/// (`accuracy_level` 0).
pub(super) fn replace_packed(g: &mut Rewriter, gemm: &Node, weight: &Packed) {
    let mut inputs: Vec<&str> = vec![&gemm.inputs[0]];
    inputs.extend(weight.parts.iter().map(|name| &**name));
    let product = Operator::microsoft("MatMulNBits", &g.dims(&gemm.outputs[0])).of(Element::F16).with(&[
        ("K", weight.columns),
        ("N", weight.rows),
        ("bits", 4),
        ("block_size", weight.size),
        ("accuracy_level", 0),
    ]);
    g.add_biased(gemm, product, &inputs);
}

/// What is stored of a weight.
fn parts(g: &mut Rewriter, weight: &Initializer, scheme: Scheme, symmetric: bool) -> Option<Vec<Rc<str>>> {
    let parts: &[Part] = match symmetric {
        true => &[Part::Values, Part::Scales],
        false => &[Part::Values, Part::Scales, Part::ZeroPoints],
    };
    parts.iter().map(|&part| g.quantized(weight, scheme, part)).collect()
}

/// Adds the product that stands for a `Gemm` whose inputs are in 16 bits, after [`unpack`].
pub(super) fn replace_gemm(g: &mut Rewriter, gemm: &Node) {
    let inputs: Vec<&str> = gemm.inputs.iter().take(2).map(|name| &**name).collect();
    let product = Operator::standard("MatMul", &g.dims(&gemm.outputs[0])).of(Element::F16);
    g.add_biased(gemm, product, &inputs);
}
