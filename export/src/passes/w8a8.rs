//! int8 weights, int8 activations: linear layers as `QuantizedLinear`.

use std::rc::Rc;

use arrcoc_models::graph::ops::linear::{QUANTIZED_LINEAR, quantized_linear};
use arrcoc_models::graph::quantized::{Part, Scheme};
use arrcoc_models::graph::{Element, Initializer, Node};

use super::rewrite::{Operator, Rewriter};

/// Replaces a `Gemm` of x \[rows, in\] with a weight \[out, in\].
pub(super) fn replace(g: &mut Rewriter, node: &Node, weight: &Initializer) -> Option<()> {
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

fn no_bias(g: &mut Rewriter, outputs: usize) -> Rc<str> {
    g.constant(&format!("/no_bias_{outputs}"), Element::F32, &[outputs], vec![0; 4 * outputs])
}
