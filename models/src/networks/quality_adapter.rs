//! The quality adapter: brings refined tokens to the statistics of the embeddings that the decoder was
//! trained on.
//!
//! Tokens squeezed to 64 and tokens at ease among 400 are distributed differently, so each tier has a head of
//! its own. The heads are stacked in the checkpoint (first axis: tier) and the wanted one is gathered, which
//! serves a batch of mixed tiers with one graph.

use arrcoc_bundle::names::axis;
use serde::Deserialize;

use crate::bricks;
use crate::config::{Check, ConfigError, Neutral, section};
use crate::dims;
use crate::graph::{Builder, Dim, Element, Graph, Init, Value};
use arrcoc_bundle::{Meaning, Role, Target};

/// Hyperparameters.
#[derive(Debug, Clone)]
pub struct Config {
    /// Width inside the heads.
    pub hidden_size: usize,
    /// Mean of the decoder's input embeddings.
    pub target_mean: f32,
    /// Standard deviation of the decoder's input embeddings.
    pub target_std: f32,
    /// Share of zeros among them, 0..1: reported and watched; the learned thresholds produce it.
    pub target_sparsity: f32,
}

#[derive(Deserialize)]
struct RawConfig {
    hidden_size: usize,
    #[serde(default)]
    target_mean: f32,
    target_std: f32,
    #[serde(default)]
    target_sparsity: f32,
}

impl Config {
    pub(crate) fn from_json(json: &serde_json::Value, neutral: Neutral) -> Result<Self, ConfigError> {
        let raw: RawConfig = section(json, "adapter_config", neutral)?;
        let check = Check("adapter_config");
        check.sizes(&[("hidden_size", raw.hidden_size)])?;
        check.that(raw.target_mean.is_finite(), "target_mean", "a finite number", raw.target_mean)?;
        check.that(
            raw.target_std.is_finite() && raw.target_std > 0.0,
            "target_std",
            "above 0",
            raw.target_std,
        )?;
        let share = (0.0..1.0).contains(&raw.target_sparsity);
        check.that(share, "target_sparsity", "0 to below 1", raw.target_sparsity)?;
        Ok(Self {
            hidden_size: raw.hidden_size,
            target_mean: raw.target_mean,
            target_std: raw.target_std,
            target_sparsity: raw.target_sparsity,
        })
    }
}

/// The widths that the adapter connects.
#[derive(Debug, Clone, Copy)]
pub struct Widths {
    /// Width of the refiner, D.
    pub refiner: usize,
    /// Width of the decoder, H.
    pub decoder: usize,
    /// Number of tiers, E.
    pub tiers: usize,
}

/// `refined_tokens` \[batch, tokens, D\] and `tier` \[batch\] (index into the budgets) to `visual_embeds`
/// \[batch, tokens, H\].
pub fn graph(config: &Config, widths: Widths, prefix: &str, target: Target) -> Graph {
    let mut builder = Builder::new("quality_adapter", Role::Projector, prefix, target);
    let g = &mut builder;
    let Widths { refiner, decoder, tiers } = widths;
    let tokens = g.input("refined_tokens", Element::F32, dims![axis::BATCH, axis::TOKENS, refiner]);
    let tier = g.input("tier", Element::I64, dims![axis::BATCH]);

    let h = head_linear(g, "fc1", &tokens, &tier, tiers, config.hidden_size); // [B, T, hidden]
    let h = head_norm(g, &h, &tier, tiers);
    let h = bricks::gelu(g, &h);
    let y = head_linear(g, "fc2", &h, &tier, tiers, decoder); // [B, T, H]

    // Zero mean and unit variance over all tokens and channels of a sample.
    let mean = g.reduce_mean(&y, &[1, 2]); // [B, 1, 1]
    let centred = g.sub(&y, &mean);
    let squares = g.mul(&centred, &centred);
    let variance = g.reduce_mean(&squares, &[1, 2]);
    let variance = g.add_scalar(&variance, 1e-6);
    let std = g.sqrt(&variance);
    let normal = g.div(&centred, &std); // [B, T, H]

    // Soft threshold: what is small becomes exactly zero, which is how a sparse target is met.
    let threshold = head_scalar(g, "threshold", Init { mean: 0.1, std: 0.02 }, &tier, tiers); // [B, 1, 1]
    let threshold = g.relu(&threshold);
    let size = g.abs(&normal);
    let size = g.sub(&size, &threshold);
    let size = g.relu(&size);
    let sign = g.sign(&normal);
    let sparse = g.mul(&sign, &size);

    let scale = head_scalar(g, "scale", Init::SCALE, &tier, tiers);
    let shift = head_scalar(g, "shift", Init::BIAS, &tier, tiers);
    let scaled = g.mul(&sparse, &scale);
    let shifted = g.add(&scaled, &shift);
    let out = g.scale(&shifted, config.target_std);
    let out = g.add_scalar(&out, config.target_mean); // [B, T, H]
    g.output("visual_embeds", Meaning::Network, &out, dims![axis::BATCH, axis::TOKENS, decoder]);
    builder.finish()
}

/// The tier's own linear layer: x \[B, T, in\] to \[B, T, out\]; parameters \[tiers, out, in\] and \[tiers,
/// out\].
fn head_linear(g: &mut Builder, name: &str, x: &Value, tier: &Value, tiers: usize, out: usize) -> Value {
    let g = &mut g.scope(name);
    let width = bricks::width(x);
    let weights = g.param("weight", &[tiers, out, width], Init::fan_in(width));
    let weight = g.gather(&weights, tier, 0); // [B, out, in]
    // W x^T instead of x W^T: of two gathered-anew operands, the smaller one is turned.
    let columns = g.transpose(x, &[0, 2, 1]); // [B, in, T]
    let y = g.matmul(&weight, &columns); // [B, out, T]
    let y = g.transpose(&y, &[0, 2, 1]); // [B, T, out]
    let biases = g.param("bias", &[tiers, out], Init::BIAS);
    let bias = g.gather(&biases, tier, 0); // [B, out]
    let bias = g.reshape(&bias, dims![axis::BATCH, 1, out]);
    g.add(&y, &bias)
}

/// The tier's own LayerNorm. The operator takes one scale for all rows, so the tier's is applied outside.
fn head_norm(g: &mut Builder, x: &Value, tier: &Value, tiers: usize) -> Value {
    let g = &mut g.scope("norm");
    let width = bricks::width(x);
    let ones = g.floats(&[width], &vec![1.0; width]);
    let zeros = g.floats(&[width], &vec![0.0; width]);
    let normed = g.layer_normalization(x, &ones, &zeros, 1e-6);
    let [scale, bias] = [("weight", Init::SCALE), ("bias", Init::BIAS)].map(|(name, init)| {
        let rows = g.param(name, &[tiers, width], init);
        let row = g.gather(&rows, tier, 0); // [B, width]
        g.reshape(&row, dims![axis::BATCH, 1, width])
    });
    let scaled = g.mul(&normed, &scale);
    g.add(&scaled, &bias)
}

/// The tier's own number, \[B, 1, 1\].
fn head_scalar(g: &mut Builder, name: &str, init: Init, tier: &Value, tiers: usize) -> Value {
    let all = g.param(name, &[tiers], init);
    let one = g.gather(&all, tier, 0); // [B]
    g.reshape(&one, vec![Dim::Axis(axis::BATCH), 1.into(), 1.into()])
}
