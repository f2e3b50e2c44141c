//! Gated delta-net layers of Qwen3.5 (<https://arxiv.org/abs/2412.06464>), with the parameter names that
//! `Qwen3_5GatedDeltaNet` has in transformers.
//!
//! Such a layer sees earlier tokens through a memory of fixed size: the last inputs of a short convolution,
//! and a matrix by head ([`gated_delta`]).

use arrcoc_bundle::Target;
use arrcoc_bundle::manifest::RecurrentSpec;
use arrcoc_bundle::names::axis;

use super::Config;
use crate::bricks::{self, Activation, silu};
use crate::dims;
use crate::graph::ops::causal_convolution;
use crate::graph::ops::gated_delta::{self, DeltaHeads, GatedDelta, Runs, longest_run};
use crate::graph::{Builder, Dim, Init, Value};

/// Logarithms of what makes decays: a memory of some ten tokens, as some heads of trained models have it.
const LOG_DECAYS: Init = Init { mean: -2.0, std: 1.0 };
/// The convolution. Large enough that queries and keys lie mostly on one side of the activation, and so are
/// alike, as trained ones are: products of random ones would be nearly zero, and the norm behind them would
/// make noise of every rounding.
const CONVOLUTION: Init = Init::normal(1.0);
/// Biases of what becomes a decay.
const DECAY_BIASES: Init = Init { mean: 1.0, std: 0.1 };

/// Which layers are gated delta nets, and their sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeltaNet {
    /// The layers, ascending.
    pub layers: Vec<usize>,
    /// Heads and their widths.
    pub heads: DeltaHeads,
    /// Tokens that the convolution sees, the newest included; two at least.
    pub kernel: usize,
}

impl DeltaNet {
    /// What a runtime must know.
    pub fn spec(&self, target: Target) -> RecurrentSpec {
        RecurrentSpec {
            layers: self.layers.clone(),
            window: self.kernel - 1,
            channels: self.channels(),
            heads: self.heads.value_heads,
            key_width: self.heads.key_width,
            value_width: self.heads.value_width,
            longest_run: longest_run(target),
        }
    }

    /// Numbers of a token that pass through the convolution: query, key and value of all heads.
    pub fn channels(&self) -> usize {
        2 * self.heads.keys() + self.heads.values()
    }

    /// Shape of the convolution's memory: inputs of the last tokens.
    pub fn window_dims(&self) -> Vec<Dim> {
        dims![axis::BATCH, self.kernel - 1, self.channels()]
    }

    /// Shape of the matrices from keys to values.
    pub fn matrix_dims(&self) -> Vec<Dim> {
        self.heads.matrix_dims()
    }
}

/// Rows \[B * S, H\] to the same; also returns what the layer remembers. `past` is the convolution's memory
/// \[B, kernel - 1, channels\], and the matrices \[B, value heads, key width, value width\]. `runs` is what
/// the rule needs where it is spelt out.
pub(super) fn layer(
    g: &mut Builder,
    config: &Config,
    net: &DeltaNet,
    runs: Option<&Runs>,
    x: &Value,
    past: &[Value; 2],
) -> (Value, [Value; 2]) {
    let g = &mut g.scope("linear_attn");
    let (heads, tokens) = (net.heads, Dim::Axis(axis::BATCH).times(axis::SEQ));
    let mixed = in_projection(g, "in_proj_qkv", x, net.channels()); // [B, S, channels]
    let gate = bricks::linear_no_bias(g, "in_proj_z", x, heads.values());
    let strength = in_projection(g, "in_proj_b", x, heads.value_heads);
    let decay = in_projection(g, "in_proj_a", x, heads.value_heads);
    let rates = g.param("A_log", &[heads.value_heads], LOG_DECAYS);
    let rates = g.exp(&rates);
    let rates = g.neg(&rates);
    let biases = g.param("dt_bias", &[heads.value_heads], DECAY_BIASES);

    let [mixed, window] = convolution(g, config, net, &mixed, &past[0]);
    let parts = g.split(&mixed, &[heads.keys(), heads.keys(), heads.values()], -1);
    let inputs = GatedDelta {
        query: &parts[0],
        key: &parts[1],
        value: &parts[2],
        strength: &strength,
        decay: &decay,
        rates: &rates,
        biases: &biases,
        matrix: &past[1],
    };
    let [out, matrix] = match runs {
        Some(runs) => gated_delta::spelt_out(&mut g.scope("delta_rule"), heads, runs, &inputs),
        None => g.gated_delta(heads, &inputs),
    };

    let rows = tokens.times(heads.value_heads);
    let [out, gate] = [out, gate].map(|x| g.reshape(&x, dims![&rows, heads.value_width]));
    let out = bricks::rms_norm(g, "norm", &out, config.rms_norm_eps);
    let gate = silu(g, &gate);
    let out = g.mul(&out, &gate);
    let out = g.reshape(&out, dims![&tokens, heads.values()]);
    (bricks::linear_no_bias(g, "out_proj", &out, config.hidden_size), [window, matrix])
}

/// Rows \[B * S, H\] to \[B, S, out\].
fn in_projection(g: &mut Builder, name: &str, x: &Value, out: usize) -> Value {
    let x = bricks::linear_no_bias(g, name, x, out);
    g.reshape(&x, dims![axis::BATCH, axis::SEQ, out])
}

/// The short convolution and its activation, x \[B, S, channels\] to the same; also returns its memory for
/// the next run.
fn convolution(g: &mut Builder, config: &Config, net: &DeltaNet, x: &Value, past: &Value) -> [Value; 2] {
    let weights = {
        let g = &mut g.scope("conv1d");
        g.param_flat("weight", &[net.channels(), 1, net.kernel], CONVOLUTION)
    };
    let weights = g.transpose(&weights, &[1, 0]); // [kernel, channels]
    match (g.target().has_own_operators(), config.activation) {
        (true, Activation::Silu) => g.causal_convolution(x, past, &weights),
        _ => {
            let [sum, window] = causal_convolution::spelt_out(g, x, past, &weights);
            [config.activation.apply(g, &sum), window]
        }
    }
}
