//! 8-bit floats: products whose two factors were rounded to E4M3.
//!
//! Written as NVIDIA's Model Optimizer does, which is what TensorRT fuses: activations pass through
//! QuantizeLinear and DequantizeLinear, weights are stored in 8 bits and pass through the latter alone,
//! scales are scalars in the type that is computed in, attention's factor stands on the query and its
//! transposition on the key before they are rounded, and the softmax, which never exceeds one, has the scale
//! 1/448. ONNX Runtime computes such a graph on any processor: products of rounded numbers, in 16 or 32 bits.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use arrcoc_models::graph::quantized::{Part, Scheme};
use arrcoc_models::graph::{Element, Node};

use super::flow::{MOVING, Settings};
use super::rewrite::{Operator, Rewriter};
use crate::quantize::fp8::scale;

/// What was rounded, and what needs no calibration to be.
#[derive(Default)]
pub(super) struct Rounded {
    /// By the tensor that was rounded.
    made: HashMap<Rc<str>, Rc<str>>,
    /// Results of a softmax, and what only rearranges them.
    shares: HashSet<Rc<str>>,
}

impl Rounded {
    /// Looks at an operator on its way into the graph.
    pub(super) fn follow(&mut self, node: &Node) {
        let moved = MOVING.contains(&node.operator) && self.shares.contains(&node.inputs[0]);
        if moved || node.operator == "Softmax" {
            self.shares.extend(node.outputs.iter().cloned());
        }
    }

    /// `half`, the 16-bit form of a tensor, rounded to 8 bits and back.
    pub(super) fn activation(
        &mut self,
        g: &mut Rewriter,
        settings: &Settings<'_>,
        tensor: &Rc<str>,
        half: &Rc<str>,
    ) -> Rc<str> {
        if let Some(known) = self.made.get(tensor) {
            return known.clone();
        }
        let largest = if self.shares.contains(tensor) { 1.0 } else { range(settings, tensor) };
        if largest == 0.0 {
            // Nothing is known of it: any scale would saturate what it turns out to hold.
            return half.clone();
        }
        let step = scale(largest);
        let name = format!("/fp8/{step}");
        let step = g.constant(&name, Element::F16, &[], step.to_le_bytes().to_vec());
        let zero = g.constant("/fp8/zero", Element::F8E4M3, &[], vec![0]);
        let (stem, dims) = (format!("/{}/fp8", tensor.trim_start_matches('/')), g.dims(tensor));
        let quantize = Operator::standard("QuantizeLinear", &dims).of(Element::F8E4M3);
        let rounded = g.add(&stem, quantize, &[half, &step, &zero]);
        let back = Operator::standard("DequantizeLinear", &dims).of(Element::F16);
        let made = g.add(&stem, back, &[&rounded, &step, &zero]);
        self.made.insert(tensor.clone(), made.clone());
        made
    }

    /// A weight, stored in 8 bits, in 16; `None` for what is no weight of the checkpoint.
    pub(super) fn weight(&mut self, g: &mut Rewriter, name: &Rc<str>) -> Option<Rc<str>> {
        if let Some(known) = self.made.get(name) {
            return Some(known.clone());
        }
        let weight = g.initializer(name)?.clone();
        let values = g.quantized(&weight, Scheme::Fp8, Part::Values)?;
        let step = g.quantized(&weight, Scheme::Fp8, Part::Scales)?;
        let dims: Vec<_> = weight.shape.iter().map(|&length| length.into()).collect();
        let back = Operator::standard("DequantizeLinear", &dims).of(Element::F16);
        let made = g.add(&format!("/{name}/fp8"), back, &[&values, &step]);
        self.made.insert(name.clone(), made.clone());
        Some(made)
    }
}

/// How large a tensor gets, as far as it is to be told apart.
fn range(settings: &Settings<'_>, tensor: &str) -> f32 {
    match settings.ranges.activations.get(tensor) {
        Some(activation) => activation.histogram.range(settings.range),
        None => settings.ranges.magnitudes.get(tensor).copied().unwrap_or(0.0),
    }
}
