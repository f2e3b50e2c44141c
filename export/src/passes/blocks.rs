//! Weights in blocks with a scale each: linear layers as `BlockLinear`, or, with other blocks than it has
//! kernels for, as `MatMulNBits`; embedding tables as `GatherBlockQuantized`, or, in the tiles of
//! `BlockLinear`, as a `Gather` of words.
//!
//! Table and layer read one layout, so that tied embeddings stay one tensor on disk. (In tiles of 4 bits
//! they become two: a byte has two weights there.) What multiplies is quantized by the operator itself, row
//! by row and block by block (`accuracy_level` 4).

use arrcoc_bundle::names::operator::BLOCK_LINEAR;
use std::rc::Rc;

use arrcoc_models::graph::ops::fused::INT8_ACCUMULATION;
use arrcoc_models::graph::ops::linear::{BLOCK_LINEAR_ATTRIBUTES, block_linear};
use arrcoc_models::graph::quantized::{Bits, Blocks, Part, Scheme};
use arrcoc_models::graph::{Attribute, Dim, Element, Initializer, Node};

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

/// Whether a matrix is stored in tiles.
fn is_tiled(blocks: Blocks, [rows, columns]: [usize; 2]) -> bool {
    blocks == Blocks::tiled(blocks.bits)
        && rows.is_multiple_of(Blocks::TILE_ROWS)
        && columns.is_multiple_of(blocks.size)
}

/// Replaces a `Gemm` of x \[rows, in\] with a weight \[out, in\].
pub(super) fn replace_gemm(
    g: &mut Rewriter,
    node: &Node,
    weight: &Initializer,
    blocks: Blocks,
) -> Option<()> {
    let [rows, columns] = weight.shape[..] else { return None };
    if is_tiled(blocks, [rows, columns]) {
        return replace_with_tiles(g, node, weight, blocks.bits, [rows, columns]);
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
    bits: Bits,
    [rows, columns]: [usize; 2],
) -> Option<()> {
    let values = g.quantized(weight, Scheme::Tiles(bits), Part::Values)?;
    let scales = g.quantized(weight, Scheme::Tiles(bits), Part::Scales)?;
    g.define(block_linear());
    let attributes: Vec<_> = BLOCK_LINEAR_ATTRIBUTES.into_iter().zip([columns, rows, bits.count()]).collect();
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
    let [rows, columns] = table.shape[..] else { return None };
    if blocks.bits == Bits::Eight && is_tiled(blocks, [rows, columns]) {
        return gather_from_tiles(g, node, table, [rows, columns]);
    }
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

/// The same with a table in tiles of 8 bits: word by word, since sixteen rows lie side by side.
fn gather_from_tiles(
    g: &mut Rewriter,
    node: &Node,
    table: &Initializer,
    [rows, columns]: [usize; 2],
) -> Option<()> {
    let (words, blocks) = (columns / Blocks::WORD_BYTES, columns / Blocks::TILE_BLOCK);
    let scheme = Scheme::Tiles(Bits::Eight);
    let values = g.quantized(table, scheme, Part::Values)?;
    let scales = g.quantized(table, scheme, Part::Scales)?;
    g.reshape(&values, vec![rows * words, Blocks::WORD_BYTES]);
    g.reshape(&scales, vec![rows * blocks]);

    let (name, output) = (&node.name, node.outputs[0].clone());
    let ids = g.dims(&node.inputs[1]); // such as [batch, seq]
    let with = |more: &[usize]| behind(&ids, more);
    // In a `Reshape`, 0 leaves an axis as it is.
    let shape = |g: &mut Rewriter, more: &[usize]| {
        let shape: Vec<i64> = ids.iter().map(|_| 0).chain(more.iter().map(|&n| n as i64)).collect();
        g.whole_numbers(
            &format!("/shape{}", shape.iter().map(|n| format!("_{n}")).collect::<String>()),
            &shape,
        )
    };
    let at = places(g, node, "values", words); // [.., words]
    let stem = format!("{name}/values");
    let of_words = with(&[words, Blocks::WORD_BYTES]);
    let found = g.add(&stem, Operator::standard("Gather", &of_words).of(Element::U8), &[&values, &at]);
    let by_block = with(&[blocks, Blocks::TILE_BLOCK]);
    let to = shape(g, &[blocks, Blocks::TILE_BLOCK]);
    let found = g.add(&stem, Operator::standard("Reshape", &by_block).of(Element::U8), &[&found, &to]);
    let found = cast(g, &stem, &found);
    let middle = g.constant("/middle_of_bytes", Element::F32, &[], 128f32.to_le_bytes().into());
    let found = g.add(&stem, Operator::standard("Sub", &by_block), &[&found, &middle]);

    let at = places(g, node, "scales", blocks); // [.., blocks]
    let stem = format!("{name}/scales");
    let of_blocks = with(&[blocks]);
    let steps = g.add(&stem, Operator::standard("Gather", &of_blocks).of(Element::F16), &[&scales, &at]);
    let steps = cast(g, &stem, &steps);
    let to = shape(g, &[blocks, 1]);
    let steps = g.add(&stem, Operator::standard("Reshape", &with(&[blocks, 1])), &[&steps, &to]);

    let rows = g.add(name, Operator::standard("Mul", &by_block), &[&found, &steps]);
    let to = shape(g, &[columns]);
    g.add_as(name, Operator::standard("Reshape", &with(&[columns])), &[&rows, &to], output);
    Some(())
}

/// Where the `count` words or scales of each id's row lie, sixteen apart, the first of a row behind those of
/// the tiles before it.
fn places(g: &mut Rewriter, node: &Node, of: &str, count: usize) -> Rc<str> {
    let (stem, rows) = (format!("{}/{of}/places", node.name), Blocks::TILE_ROWS as i64);
    let ids = &node.inputs[1];
    let dims = g.dims(ids);
    let whole = |operator, dims: &[Dim]| Operator::standard(operator, dims).of(Element::I64);
    let height = g.whole_numbers("/tile_rows", &[rows]);
    let tiles = g.add(&stem, whole("Div", &dims), &[ids, &height]);
    let skipped = g.whole_numbers(&format!("/skipped_{count}"), &[rows * (count as i64 - 1)]);
    let skipped = g.add(&stem, whole("Mul", &dims), &[&tiles, &skipped]);
    let first = g.add(&stem, whole("Add", &dims), &[ids, &skipped]);
    let axis = g.whole_numbers("/last_axis", &[-1]);
    let first = g.add(&stem, whole("Unsqueeze", &behind(&dims, &[1])), &[&first, &axis]);
    let apart: Vec<i64> = (0..count as i64).map(|at| at * rows).collect();
    let apart = g.whole_numbers(&format!("/apart_{count}"), &apart);
    g.add(&format!("{stem}/all"), whole("Add", &behind(&dims, &[count])), &[&first, &apart])
}

/// Axes of these lengths behind others.
fn behind(dims: &[Dim], more: &[usize]) -> Vec<Dim> {
    dims.iter().cloned().chain(more.iter().map(|&n| Dim::Fixed(n))).collect()
}

fn cast(g: &mut Rewriter, stem: &str, x: &str) -> Rc<str> {
    let dims = g.dims(x);
    let to_float = vec![("to", Attribute::Int(1))]; // TensorProto.DataType.FLOAT
    g.add(stem, Operator::standard("Cast", &dims).attributed(to_float), &[x])
}
