//! int8 weights, int8 activations: linear layers as `MatMulInteger`.
//!
//! Weights have a scale per output channel, activations one per row (token), found at run time. A scale for the whole tensor would
//! spare a pass over the output, and make a token's result depend on what else is in the batch: then streams, batches and
//! chunked prompts would no longer give the same answers.

use std::collections::HashMap;
use std::rc::Rc;

use arrcoc_models::graph::quantized::{Part, Scheme};
use arrcoc_models::graph::{Dim, Element, Initializer, Node};

use super::rewrite::{Operator, Rewriter};

/// Largest magnitude of a quantized activation: they are stored as `value + 128` in a byte.
const RANGE: f32 = 127.0;
const ZERO_POINT: u8 = 128;

/// Keeps the scale of a row of zeros (padding) above zero; no activation that matters is that small.
const SMALLEST: f32 = 1e-20;

/// Rows that were quantized, by the name of the tensor: the projections of an attention share theirs.
#[derive(Default)]
pub(super) struct Rows(HashMap<Rc<str>, QuantizedRows>);

#[derive(Clone)]
struct QuantizedRows {
    /// \[rows, columns\] bytes.
    values: Rc<str>,
    /// \[rows, 1\].
    scales: Rc<str>,
}

/// Replaces a `Gemm` of x \[rows, in\] with a weight \[out, in\].
pub(super) fn replace(g: &mut Rewriter, rows: &mut Rows, node: &Node, weight: &Initializer) -> Option<()> {
    let values = g.quantized(weight, Scheme::PerRow, Part::Values)?;
    let scales = g.quantized(weight, Scheme::PerRow, Part::Scales)?;
    let x = rows.of(g, &node.inputs[0]);
    let dims = g.dims(&node.outputs[0]); // [rows, out]
    let one = floats(g, "/one", &[1], 1.0);
    let zero_point = g.constant("/zero_point", Element::U8, &[], vec![ZERO_POINT]);
    let inputs = [&*x.values, &values, &one, &scales, &zero_point];
    let multiply = Operator::microsoft("MatMulIntegerToFloat", &dims);
    let product = g.add(&node.name, multiply, &inputs); // [rows, out], in units of the rows' scales
    g.add_biased(node, Operator::standard("Mul", &dims), &[&product, &x.scales]);
    Some(())
}

impl Rows {
    fn of(&mut self, g: &mut Rewriter, x: &Rc<str>) -> QuantizedRows {
        if let Some(known) = self.0.get(x) {
            return known.clone();
        }
        let stem = format!("/quantize/{}", x.trim_start_matches('/'));
        let dims = g.dims(x); // [rows, columns]
        let (column, flat) = ([dims[0].clone(), Dim::Fixed(1)], [dims[0].clone()]);

        let last = ints(g, "/last_axis", &[-1]);
        let largest = g.add(&stem, Operator::standard("ReduceMax", &column), &[x, &last]); // [rows, 1]
        let smallest = g.add(&stem, Operator::standard("ReduceMin", &column), &[x, &last]);
        let negated = g.add(&stem, Operator::standard("Neg", &column), &[&smallest]);
        let floor = floats(g, "/smallest", &[], SMALLEST);
        let magnitude = g.add(&stem, Operator::standard("Max", &column), &[&largest, &negated, &floor]);
        let step = floats(g, "/step", &[], RANGE.recip());
        let scales = g.add(&stem, Operator::standard("Mul", &column), &[&magnitude, &step]);

        let all = ints(g, "/all", &[-1]);
        let scale = g.add(&stem, Operator::standard("Reshape", &flat), &[&scales, &all]); // [rows]
        let shape = Operator::standard("Shape", &[Dim::Fixed(1)]).of(Element::I64);
        let length = g.add(&stem, shape, &[&scale]);
        let zero_point = g.constant("/zero_point", Element::U8, &[], vec![ZERO_POINT]);
        let expand = Operator::standard("Expand", &flat).of(Element::U8);
        let zero_points = g.add(&stem, expand, &[&zero_point, &length]); // [rows]
        let quantize = Operator::standard("QuantizeLinear", &dims).of(Element::U8).with(&[("axis", 0)]);
        let values = g.add(&stem, quantize, &[x, &scale, &zero_points]);

        let quantized = QuantizedRows { values, scales };
        self.0.insert(x.clone(), quantized.clone());
        quantized
    }
}

fn floats(g: &mut Rewriter, name: &str, shape: &[usize], value: f32) -> Rc<str> {
    g.constant(name, Element::F32, shape, value.to_le_bytes().to_vec())
}

fn ints(g: &mut Rewriter, name: &str, values: &[i64]) -> Rc<str> {
    g.constant(name, Element::I64, &[values.len()], values.iter().flat_map(|x| x.to_le_bytes()).collect())
}
