//! int8 weights, int8 activations: linear layers as `QuantizedLinear`, and embedding tables in the same
//! numbers, so that a tied one stays one tensor on disk.

use arrcoc_bundle::names::operator::QUANTIZED_LINEAR;
use std::rc::Rc;

use arrcoc_models::graph::ops::linear::quantized_linear;
use arrcoc_models::graph::quantized::{Part, Scheme};
use arrcoc_models::graph::{Dim, Element, Initializer, Node};

use super::rewrite::{Operator, Rewriter};

/// Replaces a `Gemm` of x \[rows, in\] with a weight \[out, in\].
pub(super) fn replace_gemm(g: &mut Rewriter, node: &Node, weight: &Initializer) -> Option<()> {
    let values = g.quantized(weight, Scheme::PerRow, Part::Values)?;
    let scales = g.quantized(weight, Scheme::PerRow, Part::Scales)?;
    let bias = match node.inputs.get(2) {
        Some(bias) => bias.clone(),
        None => no_bias(g, weight.shape[0]),
    };
    let output = node.outputs[0].clone();
    g.define(quantized_linear());
    let operator = Operator::own(QUANTIZED_LINEAR, &g.dims(&output));
    g.add_as(&node.name, operator, &[&node.inputs[0], &values, &scales, &bias], output);
    Some(())
}

/// Replaces a `Gather` of rows of a table \[entries, width\].
pub(super) fn replace_gather(g: &mut Rewriter, node: &Node, table: &Initializer) -> Option<()> {
    let values = g.quantized(table, Scheme::PerRow, Part::Values)?;
    let scales = g.quantized(table, Scheme::PerRow, Part::Scales)?;
    g.reshape(&scales, vec![table.shape[0], 1]);
    let (name, ids, output) = (&node.name, &node.inputs[1], node.outputs[0].clone());
    let dims = g.dims(&output); // [.., width]
    let mut of_scales = dims.clone();
    *of_scales.last_mut()? = Dim::Fixed(1);
    let gathered = g.add(name, Operator::standard("Gather", &dims).of(Element::I8), &[&values, ids]);
    let cast = g.float(name, &gathered);
    let scales = g.add(&format!("{name}/scales"), Operator::standard("Gather", &of_scales), &[&scales, ids]);
    g.add_as(name, Operator::standard("Mul", &dims), &[&cast, &scales], output);
    Some(())
}

fn no_bias(g: &mut Rewriter, outputs: usize) -> Rc<str> {
    g.constant(&format!("/no_bias_{outputs}"), Element::F32, &[outputs], vec![0; 4 * outputs])
}
