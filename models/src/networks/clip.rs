//! CLIP's vision transformer (<https://arxiv.org/abs/2103.00020>) over tokens that something else made, with
//! the parameter names of Hugging Face's `CLIPVisionTransformer`.
//!
//! The tokens no longer form a grid, so the position table is sampled bilinearly at each token's place. As in
//! DeepSeek-OCR, the tokens stand in for the patch embedding and the class token is dropped at the end; the
//! final norm, which the reference applies to the class token only, is never reached.

use arrcoc_bundle::names::axis;
use serde::Deserialize;

use crate::bricks::{self, Activation, interpolate};
use crate::config::{Check, ConfigError, Neutral, check_model_type, section};
use crate::dims;
use crate::graph::{Builder, Dim, Element, Graph, Init, Value};
use arrcoc_bundle::{Meaning, Role, Target};

/// Hyperparameters.
#[derive(Debug, Clone)]
pub struct Config {
    /// Width of the transformer, D.
    pub hidden_size: usize,
    /// Hidden width of the MLPs.
    pub intermediate_size: usize,
    /// Number of layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Side of the position grid.
    pub grid: usize,
    /// Side of a patch of the (unused) patch embedding, pixels.
    pub patch_size: usize,
    /// Activation of the MLPs.
    pub activation: Activation,
    /// Epsilon of the norms.
    pub layer_norm_eps: f32,
}

#[derive(Deserialize)]
#[serde(default)]
struct RawConfig {
    model_type: Option<String>,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_channels: usize,
    image_size: usize,
    patch_size: usize,
    hidden_act: String,
    layer_norm_eps: f32,
}

/// The defaults of transformers' `CLIPVisionConfig`: ViT-B/32.
impl Default for RawConfig {
    fn default() -> Self {
        Self {
            model_type: None,
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 32,
            hidden_act: "quick_gelu".to_owned(),
            layer_norm_eps: 1e-5,
        }
    }
}

impl Config {
    pub(crate) fn from_json(json: &serde_json::Value, neutral: Neutral) -> Result<Self, ConfigError> {
        let raw: RawConfig = section(json, "clip_config", neutral)?;
        check_model_type("clip_config", raw.model_type.as_deref(), &["clip_vision_model", "clip"])?;
        let check = Check("clip_config");
        check.sizes(&[
            ("hidden_size", raw.hidden_size),
            ("intermediate_size", raw.intermediate_size),
            ("num_attention_heads", raw.num_attention_heads),
            ("image_size", raw.image_size),
            ("patch_size", raw.patch_size),
        ])?;
        check.layers("num_hidden_layers", raw.num_hidden_layers)?;
        check.epsilon("layer_norm_eps", raw.layer_norm_eps)?;
        check.divides("hidden_size", raw.hidden_size, raw.num_attention_heads, "num_attention_heads")?;
        check.that(raw.num_channels == 3, "num_channels", "3", raw.num_channels)?;
        check.that(raw.image_size >= raw.patch_size, "image_size", "at least patch_size", raw.image_size)?;
        Ok(Self {
            hidden_size: raw.hidden_size,
            intermediate_size: raw.intermediate_size,
            layers: raw.num_hidden_layers,
            heads: raw.num_attention_heads,
            grid: raw.image_size / raw.patch_size,
            patch_size: raw.patch_size,
            activation: Activation::read(&check, "hidden_act", &raw.hidden_act)?,
            layer_norm_eps: raw.layer_norm_eps,
        })
    }
}

/// `visual_tokens` \[batch, tokens, D\] and `token_positions` \[batch, tokens, 2\] (y, x in 0..1) to
/// `refined_tokens` \[batch, tokens, D\].
pub fn graph(config: &Config, prefix: &str, target: Target) -> Graph {
    let mut builder = Builder::new("refiner", Role::Encoder, prefix, target);
    let g = &mut builder;
    let hidden = config.hidden_size;
    let tokens = g.input("visual_tokens", Element::F32, dims![axis::BATCH, axis::TOKENS, hidden]);
    let places = g.input("token_positions", Element::F32, dims![axis::BATCH, axis::TOKENS, 2]);
    declare_unused(g, config);

    let x = embeddings(g, config, &tokens, &places); // [B, 1 + T, D]
    let (batch, seq) = (x.dim(0).clone(), x.dim(1).clone());
    let x = g.reshape(&x, dims![batch.times(&seq), hidden]); // rows
    let mut x = bricks::layer_norm(g, "pre_layrnorm", &x, config.layer_norm_eps);
    for index in 0..config.layers {
        x = layer(g, config, index, &x, &batch, &seq); // rows
    }
    let x = g.reshape(&x, dims![&batch, &seq, hidden]);
    let refined = g.skip(&x, 1, 1, axis::TOKENS.into()); // [B, T, D], without the class token
    g.output("refined_tokens", Meaning::Network, &refined, dims![axis::BATCH, axis::TOKENS, hidden]);
    builder.finish()
}

/// The class token and the given tokens, each with its position: \[B, 1 + T, D\].
fn embeddings(g: &mut Builder, config: &Config, tokens: &Value, places: &Value) -> Value {
    let g = &mut g.scope("embeddings");
    let (hidden, side) = (config.hidden_size, config.grid);
    let (batch, count) = (tokens.dim(0).clone(), tokens.dim(1).clone());
    let shape = [side * side + 1, hidden];
    let init = Init::normal(0.02);

    let class = g.param("class_embedding", &[hidden], init);
    let first = g.param_rows("position_embedding.weight", &shape, init, 0..1); // [1, D]
    let class = g.add(&class, &first);
    let class = g.reshape(&class, dims![1, 1, hidden]);
    let class = g.expand(&class, dims![&batch, 1, hidden]); // [B, 1, D]

    // A place at y in 0..1 falls at y * side - 1/2 in the table, whose entries are the centres of its cells.
    let places = g.scale(places, side as f32);
    let places = g.add_scalar(&places, -0.5); // [B, T, 2]
    let places = g.split(&places, &[1, 1], -1);
    let rows = interpolate::tent(g, &places[0], side); // [B, T, side]
    let columns = interpolate::tent(g, &places[1], side); // [B, T, side]
    let rows = g.reshape(&rows, dims![&batch, &count, side, 1]);
    let columns = g.reshape(&columns, dims![&batch, &count, 1, side]);
    let weights = g.mul(&rows, &columns); // [B, T, side, side]
    let weights = g.reshape(&weights, dims![&batch, &count, side * side]);
    let table = g.param_rows("position_embedding.weight", &shape, init, 1..side * side + 1);
    let positions = g.matmul(&weights, &table); // [B, T, D]

    let tokens = g.add(tokens, &positions);
    g.concat(&[&class, &tokens], 1)
}

/// One transformer layer over rows.
fn layer(g: &mut Builder, config: &Config, index: usize, x: &Value, batch: &Dim, seq: &Dim) -> Value {
    let g = &mut g.scope(format!("encoder.layers.{index}"));
    let hidden = config.hidden_size;
    let normed = bricks::layer_norm(g, "layer_norm1", x, config.layer_norm_eps);
    let attended = {
        let g = &mut g.scope("self_attn");
        let [q, k, v] = ["q_proj", "k_proj", "v_proj"].map(|name| {
            let x = bricks::linear(g, name, &normed, hidden);
            bricks::split_heads(g, &x, batch, seq, config.heads) // [B, S, heads, width]
        });
        let scale = ((hidden / config.heads) as f32).sqrt().recip();
        let o = bricks::attention(g, &q, &k, &v, Some(scale)); // rows
        bricks::linear(g, "out_proj", &o, hidden)
    };
    let x = g.add(x, &attended);
    let normed = bricks::layer_norm(g, "layer_norm2", &x, config.layer_norm_eps);
    let h = bricks::linear(g, "mlp.fc1", &normed, config.intermediate_size);
    let h = config.activation.apply(g, &h);
    let h = bricks::linear(g, "mlp.fc2", &h, hidden);
    g.add(&x, &h)
}

/// What the reference's state dict carries and this graph has no use for.
fn declare_unused(g: &mut Builder, config: &Config) {
    let (hidden, patch) = (config.hidden_size, config.patch_size);
    let kernel = Init::fan_in(3 * patch * patch);
    g.unused_param("embeddings.patch_embedding.weight", &[hidden, 3, patch, patch], kernel);
    g.unused_param("post_layernorm.weight", &[hidden], Init::SCALE);
    g.unused_param("post_layernorm.bias", &[hidden], Init::BIAS);
}
