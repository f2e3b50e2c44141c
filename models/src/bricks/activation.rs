//! Activation functions, by the names that configurations give them.

use crate::config::{Check, ConfigError};
use crate::graph::{Builder, Value};

/// An activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x * sigmoid(x).
    Silu,
    /// Exact GELU.
    Gelu,
    /// GELU with a hyperbolic tangent for the error function.
    GeluTanh,
    /// x * sigmoid(1.702 x): OpenAI's CLIP.
    QuickGelu,
}

impl Activation {
    /// The function of a name of transformers' `ACT2FN`.
    pub(crate) fn read(check: &Check, key: &'static str, name: &str) -> Result<Self, ConfigError> {
        Ok(match name {
            "silu" | "swish" => Self::Silu,
            "gelu" => Self::Gelu,
            "gelu_pytorch_tanh" | "gelu_new" => Self::GeluTanh,
            "quick_gelu" => Self::QuickGelu,
            _ => {
                let expected = "silu, gelu, gelu_pytorch_tanh or quick_gelu".to_owned();
                return Err(ConfigError::Value {
                    section: check.0,
                    key,
                    expected,
                    found: format!("{name:?}"),
                });
            }
        })
    }

    /// The function of every element.
    pub fn apply(self, g: &mut Builder, x: &Value) -> Value {
        match self {
            Self::Silu => silu(g, x),
            Self::Gelu => gelu(g, x),
            Self::GeluTanh => gelu_tanh(g, x),
            Self::QuickGelu => quick_gelu(g, x),
        }
    }
}

/// Exact GELU, x * Φ(x) (<https://arxiv.org/abs/1606.08415>).
pub fn gelu(g: &mut Builder, x: &Value) -> Value {
    match g.target().has_own_operators() {
        true => g.gelu_fused(x),
        false => {
            let scaled = g.scale(x, std::f32::consts::FRAC_1_SQRT_2);
            let erf = g.erf(&scaled);
            let cdf = g.add_scalar(&erf, 1.0);
            let half = g.scale(x, 0.5);
            g.mul(&half, &cdf)
        }
    }
}

/// GELU's approximation x / 2 * (1 + tanh(sqrt(2 / π) (x + 0.044715 x³))), from the same paper.
pub fn gelu_tanh(g: &mut Builder, x: &Value) -> Value {
    const LINEAR: f32 = 0.797_884_6;
    const CUBIC: f32 = 0.797_884_6 * 0.044_715;
    match g.target().has_own_operators() {
        true => g.fast_gelu_fused(x),
        false => {
            let square = g.mul(x, x);
            let factor = g.scale(&square, CUBIC);
            let factor = g.add_scalar(&factor, LINEAR);
            let inner = g.mul(x, &factor);
            let tanh = g.tanh(&inner);
            let cdf = g.add_scalar(&tanh, 1.0);
            let half = g.scale(x, 0.5);
            g.mul(&half, &cdf)
        }
    }
}

/// CLIP's approximation of GELU: x * sigmoid(1.702 x).
pub fn quick_gelu(g: &mut Builder, x: &Value) -> Value {
    sigmoid_gate(g, x, 1.702)
}

/// SiLU: x * sigmoid(x).
pub fn silu(g: &mut Builder, x: &Value) -> Value {
    sigmoid_gate(g, x, 1.0)
}

fn sigmoid_gate(g: &mut Builder, x: &Value, alpha: f32) -> Value {
    match g.target().has_own_operators() {
        true => g.quick_gelu_fused(x, alpha),
        false => {
            let scaled = if alpha == 1.0 { x.clone() } else { g.scale(x, alpha) };
            let gate = g.sigmoid(&scaled);
            g.mul(x, &gate)
        }
    }
}
