//! The vision tower of Qwen2.5-VL (<https://arxiv.org/abs/2502.13923>), with the parameter names that
//! `Qwen2_5_VisionTransformerPretrainedModel` has in transformers.
//!
//! A ViT over pictures of any size, with RMS norms and gated MLPs and without a table of positions. Most
//! layers attend in windows; a few see the whole picture. transformers sorts the patches by window and cuts
//! the sequence. Here patches stay where they are: the runtime says which patch sits in which slot of which
//! window, slots that a window at the border does not fill are masked, and nothing of a picture's size is in
//! the graph.

use arrcoc_bundle::names::{axis, tensor};
use arrcoc_bundle::processors::QwenVl;
use arrcoc_bundle::{Meaning, Role, Target};
use serde::Deserialize;

use crate::bricks::{self, Activation, axial_rope, gelu};
use crate::config::{Check, ConfigError, Neutral, check_model_type, section};
use crate::dims;
use crate::graph::{Builder, Dim, Element, Graph, Value};
use crate::networks::qwen_tower::{self, NORM_EPSILON, SECTION, Shape};

/// Hyperparameters.
#[derive(Debug, Clone)]
pub struct Config {
    /// Sizes.
    pub shape: Shape,
    /// Side of a window, visual tokens.
    pub window: usize,
    /// Layers that see the whole picture.
    pub full: Vec<usize>,
}

#[derive(Deserialize)]
#[serde(default)]
struct RawConfig {
    model_type: Option<String>,
    depth: usize,
    hidden_size: usize,
    hidden_act: String,
    intermediate_size: usize,
    num_heads: usize,
    in_channels: usize,
    patch_size: usize,
    spatial_merge_size: usize,
    temporal_patch_size: usize,
    window_size: usize,
    out_hidden_size: usize,
    fullatt_block_indexes: Vec<usize>,
    rope_parameters: Option<axial_rope::Parameters>,
}

/// The defaults of transformers' `Qwen2_5_VLVisionConfig`.
impl Default for RawConfig {
    fn default() -> Self {
        Self {
            model_type: None,
            depth: 32,
            hidden_size: 3584,
            hidden_act: "silu".to_owned(),
            intermediate_size: 3420,
            num_heads: 16,
            in_channels: 3,
            patch_size: 14,
            spatial_merge_size: 2,
            temporal_patch_size: 2,
            window_size: 112,
            out_hidden_size: 3584,
            fullatt_block_indexes: vec![7, 15, 23, 31],
            rope_parameters: None,
        }
    }
}

impl Config {
    /// Reads the `vision_config` of Qwen2.5-VL.
    ///
    /// # Errors
    /// [`ConfigError`], naming key, what was expected and what was found.
    pub fn from_json(json: &serde_json::Value, neutral: Neutral) -> Result<Self, ConfigError> {
        /// Older files name the tower as they name the whole.
        const MODEL_TYPES: [&str; 2] = ["qwen2_5_vl_vision", "qwen2_5_vl"];
        let raw: RawConfig = section(json, SECTION, neutral)?;
        check_model_type(SECTION, raw.model_type.as_deref(), &MODEL_TYPES)?;
        raw.check(&Check(SECTION))
    }

    /// Slots of a window, patches.
    fn slots(&self) -> usize {
        self.window * self.window * self.shape.merged()
    }
}

impl RawConfig {
    fn check(self, check: &Check) -> Result<Config, ConfigError> {
        let shape = Shape {
            layers: self.depth,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            heads: self.num_heads,
            patch_size: self.patch_size,
            temporal_patch_size: self.temporal_patch_size,
            merge_size: self.spatial_merge_size,
            out_hidden_size: self.out_hidden_size,
            activation: Activation::read(check, "hidden_act", &self.hidden_act)?,
            rope_theta: axial_rope::Parameters::theta(self.rope_parameters, check)?,
        };
        let shape = shape.checked(check, self.in_channels)?;
        // As transformers computes it: one division after the other.
        let window = self.window_size / self.spatial_merge_size / self.patch_size;
        let token = self.spatial_merge_size * self.patch_size;
        let expected = format!("1 to {} visual tokens of {token} pixels", QwenVl::MOST_WINDOW);
        let fitting = (1..=QwenVl::MOST_WINDOW).contains(&window);
        check.that(fitting, "window_size", expected, self.window_size)?;
        let inside = self.fullatt_block_indexes.iter().all(|&layer| layer < self.depth);
        let expected = format!("layers below depth ({})", self.depth);
        check.that(inside, "fullatt_block_indexes", expected, &self.fullatt_block_indexes)?;
        Ok(Config { shape, window, full: self.fullatt_block_indexes })
    }
}

/// Which patches attend to each other.
struct Windows {
    /// The patch in every slot, \[windows * slots\].
    slots: Value,
    /// What is added to the products with every slot, \[windows, 1, 1, slots\]: nothing, or so much that no
    /// patch sees it.
    mask: Value,
    /// The slot of every patch, \[P\].
    places: Value,
}

/// Patches of one picture to visual rows, square by square.
///
/// | input | | |
/// |---|---|---|
/// | `pixel_values` | \[patches, numbers of a patch\] | |
/// | `coordinates` | \[2, patches\] | row and column in the grid of patches |
/// | `window_slots` | \[windows, slots\] | the patch in each slot of each window |
/// | `window_mask` | \[windows, slots\] | zero, or a number that hides an empty slot |
/// | `window_places` | \[patches\] | the slot of each patch, counted through all windows |
///
/// The output is `visual_rows` \[rows, H\].
pub fn graph(config: &Config, prefix: &str, target: Target) -> Graph {
    let mut builder = Builder::new("vision_encoder", Role::Encoder, prefix, target);
    let g = &mut builder;
    let shape = &config.shape;
    let mut x = qwen_tower::patches(g, shape, false); // [P, D]
    let rope = qwen_tower::rope(g, shape);
    let windows = windows(g, config);
    for index in 0..shape.layers {
        let windows = (!config.full.contains(&index)).then_some(&windows);
        x = layer(g, config, index, &x, &rope, windows); // [P, D]
    }
    let rows = merger(g, shape, &x); // [rows, H]
    g.output(tensor::VISUAL_ROWS, Meaning::Network, &rows, dims![axis::ROWS, shape.out_hidden_size]);
    builder.finish()
}

fn windows(g: &mut Builder, config: &Config) -> Windows {
    let (count, slots) = (Dim::Axis(axis::WINDOWS), config.slots());
    let of_slots = g.input(tensor::WINDOW_SLOTS, Element::I64, dims![axis::WINDOWS, slots]);
    let mask = g.input(tensor::WINDOW_MASK, Element::F32, dims![axis::WINDOWS, slots]);
    let places = g.input(tensor::WINDOW_PLACES, Element::I64, dims![axis::PATCHES]);
    Windows {
        slots: g.reshape(&of_slots, dims![count.times(slots)]),
        mask: g.reshape(&mask, dims![&count, 1, 1, slots]),
        places,
    }
}

/// One transformer layer over the rows of one picture, \[P, D\].
fn layer(
    g: &mut Builder,
    config: &Config,
    index: usize,
    x: &Value,
    rope: &axial_rope::Tables,
    windows: Option<&Windows>,
) -> Value {
    let g = &mut g.scope(format!("blocks.{index}"));
    let normed = bricks::rms_norm(g, "norm1", x, NORM_EPSILON);
    let attended = attention(g, config, &normed, rope, windows);
    let x = g.add(x, &attended);
    let normed = bricks::rms_norm(g, "norm2", &x, NORM_EPSILON);
    let h = mlp(g, &config.shape, &normed);
    g.add(&x, &h)
}

/// Rows to rows, \[P, D\]: in windows, or over the whole picture.
fn attention(
    g: &mut Builder,
    config: &Config,
    x: &Value,
    rope: &axial_rope::Tables,
    windows: Option<&Windows>,
) -> Value {
    let g = &mut g.scope("attn");
    let shape = &config.shape;
    let [q, k, v] = qwen_tower::queries_keys_values(g, shape, x, rope);
    let o = match windows {
        None => bricks::attention(g, &q, &k, &v, Some(shape.scale())), // [P, D]
        Some(windows) => {
            let q = g.scale(&q, shape.scale());
            window_attention(g, config, windows, [&q, &k, &v])
        }
    };
    bricks::linear(g, "proj", &o, shape.hidden_size)
}

/// Queries, keys and values \[1, P, heads, width\] to rows \[P, D\].
fn window_attention(g: &mut Builder, config: &Config, windows: &Windows, qkv: [&Value; 3]) -> Value {
    let (hidden, patches) = (config.shape.hidden_size, Dim::Axis(axis::PATCHES));
    let (count, slots) = (Dim::Axis(axis::WINDOWS), Dim::Fixed(config.slots()));
    let [q, k, v] = qkv.map(|x| {
        let rows = g.reshape(x, dims![&patches, hidden]);
        let rows = g.gather(&rows, &windows.slots, 0); // [windows * slots, D]
        bricks::expand_heads(g, &rows, &count, &slots, config.shape.heads) // [windows, heads, slots, width]
    });
    let k = g.transpose(&k, &[0, 1, 3, 2]);
    let p = g.matmul(&q, &k); // [windows, heads, slots, slots]
    let p = g.add(&p, &windows.mask);
    let p = g.softmax(&p);
    let o = g.matmul(&p, &v); // [windows, heads, slots, width]
    let rows = bricks::merge_heads(g, &o); // [windows * slots, D]
    g.gather(&rows, &windows.places, 0) // [P, D]
}

/// Gated MLP: rows to rows.
fn mlp(g: &mut Builder, shape: &Shape, x: &Value) -> Value {
    let g = &mut g.scope("mlp");
    let gate = bricks::linear(g, "gate_proj", x, shape.intermediate_size);
    let up = bricks::linear(g, "up_proj", x, shape.intermediate_size);
    let gate = shape.activation.apply(g, &gate);
    let h = g.mul(&gate, &up);
    bricks::linear(g, "down_proj", &h, shape.hidden_size)
}

/// Patches \[P, D\] to visual rows \[rows, H\]: normed one by one, then the patches of a square joined.
fn merger(g: &mut Builder, shape: &Shape, x: &Value) -> Value {
    let g = &mut g.scope("merger");
    let normed = bricks::rms_norm(g, "ln_q", x, NORM_EPSILON);
    let joined = qwen_tower::join(g, shape, &normed);
    let h = bricks::linear(g, "mlp.0", &joined, shape.merged_width());
    let h = gelu(g, &h);
    bricks::linear(g, "mlp.2", &h, shape.out_hidden_size)
}
