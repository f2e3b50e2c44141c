//! The short convolution of recurrent layers, spelt out in standard operators, and with the SiLU behind it as
//! an operator of our own whose body that is.

use crate::dims;
use crate::graph::{Builder, Dim, Element, Function, Value};
use arrcoc_bundle::names::axis;
use arrcoc_bundle::names::operator::CAUSAL_CONVOLUTION;

/// Every channel by itself: a weighted sum of the token's number and of those before it. x is \[B, S,
/// channels\], what was before it \[B, taps - 1, channels\], and the weights are \[taps, channels\], the
/// newest token's last. Also returns the memory for the next run.
pub fn spelt_out(g: &mut Builder, x: &Value, past: &Value, weights: &Value) -> [Value; 2] {
    let Dim::Fixed(taps) = *weights.dim(0) else { unreachable!("a convolution has so many taps") };
    let before = taps - 1;
    let joined = g.concat(&[past, x], 1); // [B, taps - 1 + S, channels]
    let window = g.skip(&joined, -(before as i64), 1, before.into());
    let weights = g.split(weights, &vec![1; taps], 0);
    let mut sum = g.mul(x, &weights[before]);
    for (tap, weight) in weights[..before].iter().enumerate() {
        let shifted = g.window(&joined, tap, x.dim(1), 1); // [B, S, channels]
        let product = g.mul(&shifted, weight);
        sum = g.add(&sum, &product);
    }
    [sum, window]
}

/// `CausalConvolution`: of channels and taps that are the same wherever a graph calls it.
fn causal_convolution(taps: usize, channels: usize) -> Function {
    let inputs = [
        ("x", Element::F32, dims![axis::BATCH, axis::SEQ, channels]),
        ("past", Element::F32, dims![axis::BATCH, taps - 1, channels]),
        ("weights", Element::F32, dims![taps, channels]),
    ];
    Function::of_several(CAUSAL_CONVOLUTION, &[], &inputs, |g, inputs| {
        let [x, past, weights] = inputs else { unreachable!("three inputs were declared") };
        let [sum, window] = spelt_out(g, x, past, weights);
        // A SiLU, as the networks of this target have it.
        vec![("result", g.quick_gelu_fused(&sum, 1.0)), ("present", window)]
    })
}

impl Builder {
    /// [`spelt_out`] and the SiLU of its result, as one operator. Only where the target [has operators of
    /// ours](arrcoc_bundle::Target::has_own_operators).
    pub fn causal_convolution(&mut self, x: &Value, past: &Value, weights: &Value) -> [Value; 2] {
        let [Dim::Fixed(taps), Dim::Fixed(channels)] = weights.dims[..] else {
            unreachable!("a convolution has so many taps and channels")
        };
        let outputs = vec![(Element::F32, x.dims.clone()), (Element::F32, past.dims.clone())];
        let function = causal_convolution(taps, channels);
        let outputs = self.call_of_several(function, &[x, past, weights], vec![], outputs);
        outputs.try_into().unwrap_or_else(|_| unreachable!("two outputs were declared"))
    }
}
