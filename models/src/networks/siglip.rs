//! SigLIP's vision transformer (<https://arxiv.org/abs/2303.15343>), with the parameter names that SmolVLM
//! and Idefics3 have in transformers (`Idefics3VisionTransformer`).
//!
//! A plain ViT over square tiles, with a learned table of positions and no class token. Idefics3 computes the
//! row of that table from a mask, for pictures that fill their tile in part. Its processors make no such
//! tiles: with `do_image_splitting` a picture is resized to whole tiles, without it to one tile, whatever its
//! size, and a mask is zero only in empty tiles that fill up a batch. Those are never sent here, so there is
//! no mask, and the rows are known at export ([`position_rows`]).

use serde::Deserialize;

use crate::bricks::{self, Activation};
use crate::config::{Check, ConfigError, Neutral, check_model_type, section};
use crate::dims;
use crate::graph::{Builder, Dim, Init, Value};

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
    /// Side of a patch, pixels.
    pub patch_size: usize,
    /// Side of the picture that the table of positions was made for, pixels.
    pub image_size: usize,
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

/// The defaults of transformers' `Idefics3VisionConfig` and `SmolVLMVisionConfig`.
impl Default for RawConfig {
    fn default() -> Self {
        Self {
            model_type: None,
            hidden_size: 1152,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 16,
            num_channels: 3,
            image_size: 224,
            patch_size: 32,
            hidden_act: "gelu_pytorch_tanh".to_owned(),
            layer_norm_eps: 1e-6,
        }
    }
}

impl Config {
    /// Reads the `vision_config` of SmolVLM or Idefics3.
    ///
    /// # Errors
    /// [`ConfigError`], naming key, what was expected and what was found.
    pub fn from_json(json: &serde_json::Value, neutral: Neutral) -> Result<Self, ConfigError> {
        const SECTION: &str = "vision_config";
        /// Files of both families name their vision model by its own name or by the family's.
        const MODEL_TYPES: [&str; 4] = ["smolvlm_vision", "smolvlm", "idefics3_vision", "idefics3"];
        let raw: RawConfig = section(json, SECTION, neutral)?;
        check_model_type(SECTION, raw.model_type.as_deref(), &MODEL_TYPES)?;
        let check = Check(SECTION);
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
            patch_size: raw.patch_size,
            image_size: raw.image_size,
            activation: Activation::read(&check, "hidden_act", &raw.hidden_act)?,
            layer_norm_eps: raw.layer_norm_eps,
        })
    }

    /// Patches on a side of a tile of `tile` pixels; what is left over is not seen.
    pub fn grid(&self, tile: usize) -> usize {
        tile / self.patch_size
    }
}

/// Tiles \[tiles, 3, tile, tile\] to rows \[tiles * grid * grid, D\] behind the last norm, patches in
/// row-major order.
pub fn transformer(g: &mut Builder, config: &Config, tile: usize, pixels: &Value) -> Value {
    let grid = config.grid(tile);
    let (tiles, patches) = (pixels.dim(0).clone(), Dim::Fixed(grid * grid));
    let x = embeddings(g, config, grid, pixels); // [tiles, P, D]
    let mut x = g.reshape(&x, dims![tiles.times(&patches), config.hidden_size]); // rows
    for index in 0..config.layers {
        x = layer(g, config, index, &x, &tiles, &patches); // rows
    }
    bricks::layer_norm(g, "post_layernorm", &x, config.layer_norm_eps)
}

/// Patches with their positions, \[tiles, P, D\].
fn embeddings(g: &mut Builder, config: &Config, grid: usize, pixels: &Value) -> Value {
    let g = &mut g.scope("embeddings");
    let (hidden, patch) = (config.hidden_size, config.patch_size);
    let (patches, side) = (grid * grid, config.grid(config.image_size));
    let x = {
        let g = &mut g.scope("patch_embedding");
        let weight = g.param("weight", &[hidden, 3, patch, patch], Init::fan_in(3 * patch * patch));
        let bias = g.param("bias", &[hidden], Init::BIAS);
        g.conv(pixels, &weight, Some(&bias), patch, 0) // [tiles, D, grid, grid]
    };
    let x = g.reshape(&x, dims![pixels.dim(0), hidden, patches]);
    let x = g.transpose(&x, &[0, 2, 1]); // [tiles, P, D]
    let table = g.param("position_embedding.weight", &[side * side, hidden], Init::normal(0.02));
    let rows = position_rows(grid, side);
    let positions = if rows.iter().copied().eq(0..patches as i64) {
        table
    } else {
        let rows = g.ints(&[patches], &rows);
        g.gather(&table, &rows, 0)
    };
    g.add(&x, &positions)
}

/// The row of the table, of `side` by `side`, for every patch of a grid: a patch lies in the bucket of its
/// fraction of the picture.
///
/// transformers compares fractions of 32 bits with `torch.arange(1 / side, 1.0, 1 / side)`, whose roundings
/// put a patch one bucket too low in a few grids (19, 25, 29 or 31 patches a side; 24, 26, 27 and 32, which
/// released models have, are exact). A checkpoint was trained with these rows, so they are followed: `arange`
/// computes in steps of eight lanes up to the last whole sixteen, and one by one behind it.
fn position_rows(grid: usize, side: usize) -> Vec<i64> {
    let step = 1.0 / side as f64;
    let count = ((1.0 - step) / step).ceil() as usize;
    let boundary = |i: usize| {
        if i < count / 16 * 16 {
            let base = (step + step * (i / 8 * 8) as f64) as f32;
            (f64::from(base) + (i % 8) as f64 * step) as f32
        } else {
            (step + step * i as f64) as f32
        }
    };
    let boundaries: Vec<f32> = (0..count).map(boundary).collect();
    let fraction = 1.0 / grid as f32;
    let bucket = |i: usize| {
        let place = (i as f32 * fraction).min((1.0 - 1e-6) as f32);
        boundaries.partition_point(|&boundary| boundary <= place) as i64
    };
    let buckets: Vec<i64> = (0..grid).map(bucket).collect();
    buckets.iter().flat_map(|row| buckets.iter().map(move |column| row * side as i64 + column)).collect()
}

/// One transformer layer over rows.
fn layer(g: &mut Builder, config: &Config, index: usize, x: &Value, tiles: &Dim, patches: &Dim) -> Value {
    let g = &mut g.scope(format!("encoder.layers.{index}"));
    let hidden = config.hidden_size;
    let normed = bricks::layer_norm(g, "layer_norm1", x, config.layer_norm_eps);
    let attended = {
        let g = &mut g.scope("self_attn");
        let [q, k, v] = ["q_proj", "k_proj", "v_proj"].map(|name| {
            let x = bricks::linear(g, name, &normed, hidden);
            bricks::split_heads(g, &x, tiles, patches, config.heads) // [tiles, P, heads, width]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_lie_where_transformers_puts_them() {
        let own = |n: usize| position_rows(n, n) == (0..(n * n) as i64).collect::<Vec<_>>();
        // Computed with PyTorch 2.15: the sides up to 60 where a patch does not have the row of its place.
        let astray = [19, 25, 29, 31, 38, 40, 41, 43, 47, 49, 50, 54, 55, 58, 59];
        for n in 2..60 {
            assert_eq!(own(n), !astray.contains(&n), "{n}");
        }
        assert_eq!(position_rows(2, 4), [0, 2, 8, 10]);
        assert_eq!(position_rows(19, 19)[12], 11);
    }
}
