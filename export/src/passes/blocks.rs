//! Weights in blocks with a scale each: linear layers as `MatMulNBits`, embedding tables as `GatherBlockQuantized`.
//!
//! Both operators read one layout, so that tied embeddings stay one tensor on disk. What multiplies is quantized by the operator
//! itself, row by row and block by block (`accuracy_level` 4).

use std::rc::Rc;

use arrcoc_models::graph::quantized::{Blocks, Part, Scheme};
use arrcoc_models::graph::{Dim, Initializer, Node};

use super::rewrite::{Operator, Rewriter};

/// The operator multiplies in int8 (ONNX Runtime's `ContribOperators.md`, MatMulNBits).
const INT8_ACCUMULATION: usize = 4;

/// Replaces a `Gemm` of x \[rows, in\] with a weight \[out, in\].
pub(super) fn replace_gemm(
    g: &mut Rewriter,
    node: &Node,
    weight: &Initializer,
    blocks: Blocks,
) -> Option<()> {
    let [rows, columns] = weight.shape[..] else { return None };
    let blocks = blocks.fitting(columns);
    let parts = parts(g, weight, blocks)?;
    let mut inputs: Vec<&str> = vec![&node.inputs[0]];
    inputs.extend(parts.iter().map(|name| &**name));
    let product = |dims: &[Dim]| {
        Operator::microsoft("MatMulNBits", dims).with(&[
            ("K", columns),
            ("N", rows),
            ("bits", blocks.bits.count()),
            ("block_size", blocks.size),
            ("accuracy_level", INT8_ACCUMULATION),
        ])
    };
    let output = node.outputs[0].clone();
    let dims = g.dims(&output); // [rows, out]
    match node.inputs.get(2) {
        None => g.add_as(&node.name, product(&dims), &inputs, output),
        Some(bias) => {
            let product = g.add(&node.name, product(&dims), &inputs);
            g.add_as(&node.name, Operator::standard("Add", &dims), &[&product, bias], output);
        }
    }
    Some(())
}

/// Replaces a `Gather` of rows of a table \[entries, width\].
pub(super) fn replace_gather(
    g: &mut Rewriter,
    node: &Node,
    table: &Initializer,
    blocks: Blocks,
) -> Option<()> {
    let [rows, columns] = table.shape[..] else { return None };
    let blocks = blocks.fitting(columns);
    let parts = parts(g, table, blocks)?;
    let values = blocks.per_row(columns) * blocks.bytes();
    if values * 8 != columns * blocks.bits.count() {
        return None; // The operator takes the width from the stored bytes: it cannot tell padding from weights.
    }
    g.reshape(&parts[0], vec![rows, values]);
    let mut inputs: Vec<&str> = vec![&parts[0], &node.inputs[1]];
    inputs.extend(parts[1..].iter().map(|name| &**name));
    let output = node.outputs[0].clone();
    let gather = Operator::microsoft("GatherBlockQuantized", &g.dims(&output)).with(&[
        ("gather_axis", 0),
        ("quantize_axis", 1),
        ("bits", blocks.bits.count()),
        ("block_size", blocks.size),
    ]);
    g.add_as(&node.name, gather, &inputs, output);
    Some(())
}

/// Values, scales and, where blocks have them, zero points.
fn parts(g: &mut Rewriter, weight: &Initializer, blocks: Blocks) -> Option<Vec<Rc<str>>> {
    let parts: &[Part] = match blocks.symmetric {
        true => &[Part::Values, Part::Scales],
        false => &[Part::Values, Part::Scales, Part::ZeroPoints],
    };
    parts.iter().map(|&part| g.quantized(weight, Scheme::Blocks(blocks), part)).collect()
}
