//! Weights in blocks with a scale each: linear layers as `BlockLinear`, or, with other blocks than it has
//! kernels for, as `MatMulNBits`; embedding tables as `GatherBlockQuantized`.
//!
//! The latter two read one layout, so that tied embeddings in such blocks stay one tensor on disk (with
//! `BlockLinear`'s they become two). What multiplies is quantized by the operator itself, row by row and
//! block by block (`accuracy_level` 4).

use arrcoc_bundle::names::operator::BLOCK_LINEAR;
use std::rc::Rc;

use arrcoc_models::graph::ops::fused::INT8_ACCUMULATION;
use arrcoc_models::graph::ops::linear::{BLOCK_LINEAR_ATTRIBUTES, block_linear};
use arrcoc_models::graph::quantized::{Blocks, Part, Scheme};
use arrcoc_models::graph::{Initializer, Node};

use super::rewrite::{Operator, Rewriter};

/// A matrix in blocks: what its operators are told of it.
struct Packed {
    rows: usize,
    columns: usize,
    blocks: Blocks,
    /// Values, scales and, where blocks have them, zero points.
    parts: Vec<Rc<str>>,
}

impl Packed {
    fn new(g: &mut Rewriter, weight: &Initializer, blocks: Blocks) -> Option<Self> {
        let [rows, columns] = weight.shape[..] else { return None };
        let blocks = blocks.fitting(columns);
        let parts: &[Part] = match blocks.symmetric {
            true => &[Part::Values, Part::Scales],
            false => &[Part::Values, Part::Scales, Part::ZeroPoints],
        };
        let parts = parts.iter().map(|&part| g.quantized(weight, Scheme::Blocks(blocks), part));
        Some(Self { rows, columns, blocks, parts: parts.collect::<Option<_>>()? })
    }
}

/// Replaces a `Gemm` of x \[rows, in\] with a weight \[out, in\].
pub(super) fn replace_gemm(
    g: &mut Rewriter,
    node: &Node,
    weight: &Initializer,
    blocks: Blocks,
) -> Option<()> {
    let [rows, columns] = weight.shape[..] else { return None };
    let tiled = blocks == Blocks::TILED
        && rows.is_multiple_of(Blocks::TILE_ROWS)
        && columns.is_multiple_of(blocks.size);
    if tiled {
        return replace_with_tiles(g, node, weight, [rows, columns]);
    }
    let Packed { rows, columns, blocks, parts } = Packed::new(g, weight, blocks)?;
    let mut inputs: Vec<&str> = vec![&node.inputs[0]];
    inputs.extend(parts.iter().map(|name| &**name));
    let dims = g.dims(&node.outputs[0]); // [rows, out]
    let product = Operator::microsoft("MatMulNBits", &dims).with(&[
        ("K", columns),
        ("N", rows),
        ("bits", blocks.bits.count()),
        ("block_size", blocks.size),
        ("accuracy_level", INT8_ACCUMULATION as usize),
    ]);
    g.add_biased(node, product, &inputs);
    Some(())
}

/// The same with weights in tiles, for which there is a kernel.
fn replace_with_tiles(
    g: &mut Rewriter,
    node: &Node,
    weight: &Initializer,
    [rows, columns]: [usize; 2],
) -> Option<()> {
    let values = g.quantized(weight, Scheme::Tiles, Part::Values)?;
    let scales = g.quantized(weight, Scheme::Tiles, Part::Scales)?;
    g.define(block_linear());
    let attributes: Vec<_> = BLOCK_LINEAR_ATTRIBUTES.into_iter().zip([columns, rows]).collect();
    let product = Operator::own(BLOCK_LINEAR, &g.dims(&node.outputs[0])).with(&attributes);
    g.add_biased(node, product, &[&node.inputs[0], &values, &scales]);
    Some(())
}

/// Replaces a `Gather` of rows of a table \[entries, width\].
pub(super) fn replace_gather(
    g: &mut Rewriter,
    node: &Node,
    table: &Initializer,
    blocks: Blocks,
) -> Option<()> {
    let Packed { rows, columns, blocks, parts } = Packed::new(g, table, blocks)?;
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
