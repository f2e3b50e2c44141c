//! Weights in blocks with a scale each: linear layers as `BlockLinear`, or, with other blocks than it has
//! kernels for, as `MatMulNBits`; embedding tables as `GatherBlockQuantized`, or, in the tiles of
//! `BlockLinear`, as a `Gather` of words.
//!
//! Table and layer read one layout, so that tied embeddings stay one tensor on disk. (In tiles of 4 bits
//! they become two: a byte has two weights there.) What multiplies is quantized by the operator itself, row
//! by row and block by block (`accuracy_level` 4).

use std::rc::Rc;

use arrcoc_bundle::names::operator::BLOCK_LINEAR;
use arrcoc_models::graph::ops::fused::INT8_ACCUMULATION;
use arrcoc_models::graph::ops::linear::{BLOCK_LINEAR_ATTRIBUTES, block_linear};
use arrcoc_models::graph::quantized::{Bits, Blocks, Part, Scheme};
use arrcoc_models::graph::{Dim, Element, Initializer, Node};

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

/// Whether a matrix is stored in tiles. Other rows would need blocks of other sizes.
fn is_tiled(blocks: Blocks, columns: usize) -> bool {
    blocks == Blocks::tiled(blocks.bits) && columns.is_multiple_of(blocks.size)
}

/// Replaces a `Gemm` of x \[rows, in\] with a weight \[out, in\].
pub(super) fn replace_gemm(
    g: &mut Rewriter,
    node: &Node,
    weight: &Initializer,
    blocks: Blocks,
) -> Option<()> {
    let [rows, columns] = weight.shape[..] else { return None };
    if is_tiled(blocks, columns) {
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
    let stored = rows.next_multiple_of(Blocks::TILE_ROWS);
    let attributes: Vec<_> =
        BLOCK_LINEAR_ATTRIBUTES.into_iter().zip([columns, stored, bits.count()]).collect();
    let inputs = [&*node.inputs[0], &values, &scales];
    let mut dims = g.dims(&node.outputs[0]); // [rows, out]
    if stored == rows {
        g.add_biased(node, Operator::own(BLOCK_LINEAR, &dims).with(&attributes), &inputs);
        return Some(());
    }
    // The last tile was filled up.
    let cut = Operator::standard("Slice", &dims);
    *dims.last_mut()? = Dim::Fixed(stored);
    let product = g.add(&node.name, Operator::own(BLOCK_LINEAR, &dims).with(&attributes), &inputs);
    let [from, to, axis] = [0, rows as i64, -1].map(|number| g.whole_numbers(&[number]));
    g.add_biased(node, cut, &[&product, &from, &to, &axis]);
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
    if blocks.bits == Bits::Eight && is_tiled(blocks, columns) {
        return gather_from_tiles(g, node, table, [rows, columns]);
    }
    let fitting = blocks.fitting(columns);
    let values = fitting.per_row(columns) * fitting.bytes();
    if values * 8 != columns * fitting.bits.count() {
        return None; // The operator takes the width from the stored bytes: it cannot tell padding from weights.
    }
    let Packed { blocks, parts, .. } = Packed::new(g, table, fitting)?;
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
    let rows = rows.next_multiple_of(Blocks::TILE_ROWS);
    let values = g.quantized(table, Scheme::Tiles(Bits::Eight), Part::Values)?;
    g.reshape(&values, vec![rows * columns / Blocks::WORD_BYTES, Blocks::WORD_BYTES]);
    let scales = g.quantized(table, Scheme::Tiles(Bits::Eight), Part::Scales)?;
    g.reshape(&scales, vec![rows * columns / Blocks::TILE_BLOCK]);

    let ids = g.dims(&node.inputs[1]); // such as [batch, seq]
    let blocks = columns / Blocks::TILE_BLOCK;
    let integers = gathered_integers(g, node, &values, blocks); // [.., blocks, 32]
    let scales = gathered_scales(g, node, &scales, blocks); // [.., blocks, 1]
    let by_block = behind(&ids, &[blocks, Blocks::TILE_BLOCK]);
    let product = g.add(&node.name, Operator::standard("Mul", &by_block), &[&integers, &scales]);
    let shape = ending(g, &ids, &[columns]);
    let row = Operator::standard("Reshape", &behind(&ids, &[columns]));
    g.add_as(&node.name, row, &[&product, &shape], node.outputs[0].clone());
    Some(())
}

/// The integers of each id's row, from zero up and down, as floats.
fn gathered_integers(g: &mut Rewriter, node: &Node, values: &str, blocks: usize) -> Rc<str> {
    let (stem, ids) = (format!("{}/values", node.name), g.dims(&node.inputs[1]));
    let words = blocks * Blocks::TILE_BLOCK / Blocks::WORD_BYTES;
    let at = places(g, node, "values", words); // [.., words]
    let of_words = behind(&ids, &[words, Blocks::WORD_BYTES]);
    let bytes = g.add(&stem, Operator::standard("Gather", &of_words).of(Element::U8), &[values, &at]);
    let by_block = behind(&ids, &[blocks, Blocks::TILE_BLOCK]);
    let shape = ending(g, &ids, &[blocks, Blocks::TILE_BLOCK]);
    let bytes = g.add(&stem, Operator::standard("Reshape", &by_block).of(Element::U8), &[&bytes, &shape]);
    let raised = g.float(&stem, &bytes);
    let zero = g.constant("/zero_of_bytes", Element::F32, &[], 128f32.to_le_bytes().into());
    g.add(&stem, Operator::standard("Sub", &by_block), &[&raised, &zero])
}

/// The scales of each id's row.
fn gathered_scales(g: &mut Rewriter, node: &Node, scales: &str, blocks: usize) -> Rc<str> {
    let (stem, ids) = (format!("{}/scales", node.name), g.dims(&node.inputs[1]));
    let at = places(g, node, "scales", blocks); // [.., blocks]
    let of_blocks = behind(&ids, &[blocks]);
    let halves = g.add(&stem, Operator::standard("Gather", &of_blocks).of(Element::F16), &[scales, &at]);
    let floats = g.float(&stem, &halves);
    let shape = ending(g, &ids, &[blocks, 1]);
    g.add(&stem, Operator::standard("Reshape", &behind(&ids, &[blocks, 1])), &[&floats, &shape])
}

/// Where the `count` words or scales of each id's row lie. A tile has those of sixteen rows, the first of
/// each row side by side, then the second of each: number k of row `id` is number `id % 16 + 16 * k` of tile
/// `id / 16`, and so `id + id / 16 * 16 * (count - 1) + 16 * k` of all.
fn places(g: &mut Rewriter, node: &Node, of: &str, count: usize) -> Rc<str> {
    let (stem, rows) = (format!("{}/{of}/places", node.name), Blocks::TILE_ROWS as i64);
    let ids = &node.inputs[1];
    let dims = g.dims(ids);
    let whole = |operator, dims: &[Dim]| Operator::standard(operator, dims).of(Element::I64);
    let tile_rows = g.whole_numbers(&[rows]);
    let tiles = g.add(&stem, whole("Div", &dims), &[ids, &tile_rows]);
    let skipped = g.whole_numbers(&[rows * (count as i64 - 1)]);
    let skipped = g.add(&stem, whole("Mul", &dims), &[&tiles, &skipped]);
    let first = g.add(&stem, whole("Add", &dims), &[ids, &skipped]);
    let last_axis = g.whole_numbers(&[-1]);
    let first = g.add(&stem, whole("Unsqueeze", &behind(&dims, &[1])), &[&first, &last_axis]);
    let apart: Vec<i64> = (0..count as i64).map(|k| k * rows).collect();
    let apart = g.whole_numbers(&apart);
    g.add(&format!("{stem}/all"), whole("Add", &behind(&dims, &[count])), &[&first, &apart])
}

/// Axes of these lengths behind others.
fn behind(dims: &[Dim], more: &[usize]) -> Vec<Dim> {
    dims.iter().cloned().chain(more.iter().map(|&n| Dim::Fixed(n))).collect()
}

/// The shape of [`behind`] for a `Reshape`, in which 0 leaves an axis as it is.
fn ending(g: &mut Rewriter, dims: &[Dim], more: &[usize]) -> Rc<str> {
    let shape: Vec<i64> = dims.iter().map(|_| 0).chain(more.iter().map(|&n| n as i64)).collect();
    g.whole_numbers(&shape)
}
