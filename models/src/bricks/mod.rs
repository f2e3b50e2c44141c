//! What the networks share. A brick names its parameters as the reference does and picks the operators of the
//! target, so that a network file says what is computed and never how.
//!
//! Between bricks, tensors are *rows*: \[batch * positions, width\]. Weights then multiply as they lie in the
//! checkpoint (`Gemm` with a transposed right side), and only attention needs the axes apart.

mod activation;
mod attention;
pub mod axial_rope;
pub mod interpolate;
pub mod rotary;
mod shuffle;

pub use activation::{Activation, gelu, gelu_tanh, quick_gelu, silu};
pub use attention::{attention, expand_heads, merge_heads, split_heads};
pub use shuffle::space_to_depth;

use crate::graph::{Builder, Init, Value};

/// `x W^T + b`; parameters `NAME.weight` \[out, in\] and `NAME.bias` \[out\]. x is rows \[n, in\].
pub fn linear(g: &mut Builder, name: &str, x: &Value, out: usize) -> Value {
    let g = &mut g.scope(name);
    let weight = weight(g, x, out);
    let bias = g.param("bias", &[out], Init::BIAS);
    g.gemm(x, &weight, Some(&bias))
}

/// [`linear`] without a bias.
pub fn linear_no_bias(g: &mut Builder, name: &str, x: &Value, out: usize) -> Value {
    let g = &mut g.scope(name);
    let weight = weight(g, x, out);
    g.gemm(x, &weight, None)
}

fn weight(g: &mut Builder, x: &Value, out: usize) -> Value {
    let width = width(x);
    g.param("weight", &[out, width], Init::fan_in(width))
}

/// The known length of the last axis.
///
/// # Panics
/// When it is dynamic: a bug of the calling network.
pub fn width(x: &Value) -> usize {
    x.dim(-1)
        .fixed()
        .unwrap_or_else(|| panic!("the width of a tensor is known at export, found {}", x.dim(-1)))
}

/// LayerNorm over the last axis; parameters `NAME.weight` and `NAME.bias`.
pub fn layer_norm(g: &mut Builder, name: &str, x: &Value, epsilon: f32) -> Value {
    let g = &mut g.scope(name);
    let width = width(x);
    let scale = g.param("weight", &[width], Init::SCALE);
    let bias = g.param("bias", &[width], Init::BIAS);
    g.layer_normalization(x, &scale, &bias, epsilon)
}

/// What a [`rms_norm`] adds to the mean of squares, and what its weights are.
#[derive(Debug, Clone, Copy)]
pub struct RmsNorm {
    /// Added to the mean.
    pub epsilon: f32,
    /// Whether the scale is one more than the weight.
    pub from_one: bool,
}

impl From<f32> for RmsNorm {
    fn from(epsilon: f32) -> Self {
        Self { epsilon, from_one: false }
    }
}

impl RmsNorm {
    /// Parameter `weight` as what is multiplied with.
    fn scale(self, g: &mut Builder, width: usize) -> Value {
        if !self.from_one {
            return g.param("weight", &[width], Init::SCALE);
        }
        let weight = g.param("weight", &[width], Init { mean: 0.0, ..Init::SCALE });
        g.add_scalar(&weight, 1.0)
    }
}

/// `x / rms(x) * scale` over the last axis; parameter `NAME.weight` (<https://arxiv.org/abs/1910.07467>).
pub fn rms_norm(g: &mut Builder, name: &str, x: &Value, norm: impl Into<RmsNorm>) -> Value {
    let g = &mut g.scope(name);
    let norm = norm.into();
    let (scale, epsilon) = (norm.scale(g, width(x)), norm.epsilon);
    match g.target().has_own_operators() {
        true => g.simplified_layer_normalization(x, &scale, epsilon),
        false => {
            let squares = g.mul(x, x);
            let mean = g.reduce_mean(&squares, &[-1]);
            let mean = g.add_scalar(&mean, epsilon);
            let rms = g.sqrt(&mean);
            let normed = g.div(x, &rms);
            g.mul(&normed, &scale)
        }
    }
}

/// Adds a block's output to the residual stream and normalises the sum: (normed, sum).
pub fn add_rms_norm(
    g: &mut Builder,
    name: &str,
    residual: &Value,
    x: &Value,
    norm: impl Into<RmsNorm>,
) -> (Value, Value) {
    let norm = norm.into();
    match g.target().has_own_operators() {
        true => {
            let g = &mut g.scope(name);
            let scale = norm.scale(g, width(x));
            g.skip_simplified_layer_normalization(residual, x, &scale, norm.epsilon)
        }
        false => {
            let sum = g.add(residual, x);
            (rms_norm(g, name, &sum, norm), sum)
        }
    }
}

/// `fc2(gelu(fc1(x)))` of rows \[n, in\]; parameters `NAME.fc1` and `NAME.fc2`.
pub fn perceptron(g: &mut Builder, name: &str, x: &Value, hidden: usize, out: usize) -> Value {
    let g = &mut g.scope(name);
    let h = linear(g, "fc1", x, hidden); // [n, hidden]
    let h = gelu(g, &h);
    linear(g, "fc2", &h, out) // [n, out]
}
