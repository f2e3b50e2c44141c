//! The vision tower of Qwen3-VL (<https://arxiv.org/abs/2511.21631>), with the parameter names that
//! `Qwen3VLVisionModel` has in transformers. Qwen3.5 has the same tower without taps.
//!
//! A ViT over pictures of any size. Patches come as rows, in the order of the squares that become one visual
//! token. Nothing of a picture's size is in the graph: the runtime says where each patch stands, and which
//! rows of the table of positions, made for one square grid, are blended for it. Besides the rows for the
//! decoder's input, some layers are tapped for rows that are added behind the decoder's first layers
//! (DeepStack, <https://arxiv.org/abs/2406.04334>).

use arrcoc_bundle::names::{axis, tensor};
use arrcoc_bundle::processors::QwenVl;
use arrcoc_bundle::{Meaning, Role, Target};
use serde::Deserialize;

use crate::bricks::{self, Activation, axial_rope, gelu};
use crate::config::{Check, ConfigError, Neutral, check_model_type, section};
use crate::dims;
use crate::graph::{Builder, Element, Graph, Init, Value};
use crate::networks::qwen_tower::{self, NORM_EPSILON, SECTION, Shape};

/// Rows of the table that are blended for a patch: the corners of the cell in which it falls.
const CORNERS: usize = 4;

/// Hyperparameters.
#[derive(Debug, Clone)]
pub struct Config {
    /// Sizes.
    pub shape: Shape,
    /// Side of the square grid that the table of positions was made for, patches.
    pub table_side: usize,
    /// Layers behind which rows for the decoder's first layers are taken, ascending.
    pub taps: Vec<usize>,
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
    out_hidden_size: usize,
    num_position_embeddings: usize,
    deepstack_visual_indexes: Vec<usize>,
    rope_parameters: Option<axial_rope::Parameters>,
}

/// The defaults of transformers' `Qwen3VLVisionConfig`.
impl Default for RawConfig {
    fn default() -> Self {
        Self {
            model_type: None,
            depth: 27,
            hidden_size: 1152,
            hidden_act: "gelu_pytorch_tanh".to_owned(),
            intermediate_size: 4304,
            num_heads: 16,
            in_channels: 3,
            patch_size: 16,
            spatial_merge_size: 2,
            temporal_patch_size: 2,
            out_hidden_size: 3584,
            num_position_embeddings: 2304,
            deepstack_visual_indexes: vec![8, 16, 24],
            rope_parameters: None,
        }
    }
}

/// The models that have such a tower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Qwen3-VL.
    Qwen3Vl,
    /// Qwen3.5: nothing is tapped.
    Qwen3_5,
}

impl Class {
    /// Older files name the tower as they name the whole.
    fn model_types(self) -> [&'static str; 2] {
        match self {
            Self::Qwen3Vl => ["qwen3_vl_vision", "qwen3_vl"],
            Self::Qwen3_5 => ["qwen3_5_vision", "qwen3_5"],
        }
    }
}

impl Config {
    /// Reads the `vision_config` of a class.
    ///
    /// # Errors
    /// [`ConfigError`], naming key, what was expected and what was found.
    pub fn from_json(json: &serde_json::Value, neutral: Neutral, class: Class) -> Result<Self, ConfigError> {
        let mut raw: RawConfig = section(json, SECTION, neutral)?;
        check_model_type(SECTION, raw.model_type.as_deref(), &class.model_types())?;
        if class == Class::Qwen3_5 {
            // The class reads no such key.
            raw.deepstack_visual_indexes.clear();
        }
        raw.check(&Check(SECTION))
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
        check.sizes(&[("num_position_embeddings", self.num_position_embeddings)])?;
        let table_side = self.num_position_embeddings.isqrt();
        let square = table_side * table_side == self.num_position_embeddings;
        let expected = format!("a square number, of at most {}", QwenVl::MOST_TABLE);
        let fitting = square && table_side <= QwenVl::MOST_TABLE;
        check.that(fitting, "num_position_embeddings", expected, self.num_position_embeddings)?;
        let taps = &self.deepstack_visual_indexes;
        let ordered = taps.is_sorted_by(|a, b| a < b) && taps.iter().all(|&tap| tap < self.depth);
        let expected = format!("different layers below depth ({}), ascending", self.depth);
        check.that(ordered, "deepstack_visual_indexes", expected, taps)?;
        Ok(Config { shape, table_side, taps: self.deepstack_visual_indexes })
    }
}

/// Patches of one picture to visual rows, square by square.
///
/// | input | | |
/// |---|---|---|
/// | `pixel_values` | \[patches, numbers of a patch\] | |
/// | `coordinates` | \[2, patches\] | row and column in the grid of patches |
/// | `table_rows` | \[patches, 4\] | the rows of the table of positions that are blended |
/// | `table_weights` | \[patches, 4\] | how much of each |
///
/// The outputs are `visual_rows` \[rows, H\] and, where there are taps, `deep_rows` \[taps, rows, H\].
pub fn graph(config: &Config, prefix: &str, target: Target) -> Graph {
    let mut builder = Builder::new("vision_encoder", Role::Encoder, prefix, target);
    let g = &mut builder;
    let shape = &config.shape;
    let mut x = embeddings(g, config); // [P, D]
    let rope = qwen_tower::rope(g, shape);
    let mut deep = Vec::new();
    for index in 0..shape.layers {
        x = layer(g, shape, index, &x, &rope); // [P, D]
        if config.taps.contains(&index) {
            let name = format!("deepstack_merger_list.{}", deep.len());
            deep.push(deep_merger(g, shape, &name, &x)); // [rows, H]
        }
    }
    let rows = merger(g, shape, &x); // [rows, H]
    g.output(tensor::VISUAL_ROWS, Meaning::Network, &rows, dims![axis::ROWS, shape.out_hidden_size]);
    if !deep.is_empty() {
        let levels: Vec<Value> = deep.iter().map(|level| stacked(g, level)).collect();
        let deep = g.concat(&levels.iter().collect::<Vec<_>>(), 0);
        let dims = dims![config.taps.len(), axis::ROWS, shape.out_hidden_size];
        g.output(tensor::DEEP_ROWS, Meaning::Network, &deep, dims);
    }
    builder.finish()
}

/// \[rows, H\] to \[1, rows, H\].
fn stacked(g: &mut Builder, level: &Value) -> Value {
    let dims = dims![1, level.dim(0), level.dim(1)];
    g.reshape(level, dims)
}

/// Patches with their positions, \[P, D\].
fn embeddings(g: &mut Builder, config: &Config) -> Value {
    let hidden = config.shape.hidden_size;
    let x = qwen_tower::patches(g, &config.shape, true);
    let rows = g.input(tensor::TABLE_ROWS, Element::I64, dims![axis::PATCHES, CORNERS]);
    let weights = g.input(tensor::TABLE_WEIGHTS, Element::F32, dims![axis::PATCHES, CORNERS]);
    let table = g.param("pos_embed.weight", &[config.table_side.pow(2), hidden], Init::normal(0.1));
    let corners = g.gather(&table, &rows, 0); // [P, 4, D]
    let weights = g.reshape(&weights, dims![axis::PATCHES, 1, CORNERS]);
    let positions = g.matmul(&weights, &corners); // [P, 1, D]
    let positions = g.reshape(&positions, dims![axis::PATCHES, hidden]);
    g.add(&x, &positions)
}

/// One transformer layer over the rows of one picture, \[P, D\].
fn layer(g: &mut Builder, shape: &Shape, index: usize, x: &Value, rope: &axial_rope::Tables) -> Value {
    let g = &mut g.scope(format!("blocks.{index}"));
    let hidden = shape.hidden_size;
    let normed = bricks::layer_norm(g, "norm1", x, NORM_EPSILON);
    let attended = {
        let g = &mut g.scope("attn");
        let [q, k, v] = qwen_tower::queries_keys_values(g, shape, &normed, rope);
        let o = bricks::attention(g, &q, &k, &v, Some(shape.scale())); // [P, D]
        bricks::linear(g, "proj", &o, hidden)
    };
    let x = g.add(x, &attended);
    let normed = bricks::layer_norm(g, "norm2", &x, NORM_EPSILON);
    let h = bricks::linear(g, "mlp.linear_fc1", &normed, shape.intermediate_size);
    let h = shape.activation.apply(g, &h);
    let h = bricks::linear(g, "mlp.linear_fc2", &h, hidden);
    g.add(&x, &h)
}

/// Patches \[P, D\] to rows for the decoder's input \[rows, H\]: normed one by one, then joined.
fn merger(g: &mut Builder, shape: &Shape, x: &Value) -> Value {
    let normed = bricks::layer_norm(g, "merger.norm", x, NORM_EPSILON);
    let joined = qwen_tower::join(g, shape, &normed);
    perceptron(g, shape, "merger", &joined)
}

/// Patches \[P, D\] to rows for a deeper layer of the decoder \[rows, H\]: joined, then normed.
fn deep_merger(g: &mut Builder, shape: &Shape, name: &str, x: &Value) -> Value {
    let joined = qwen_tower::join(g, shape, x);
    let normed = bricks::layer_norm(g, &format!("{name}.norm"), &joined, NORM_EPSILON);
    perceptron(g, shape, name, &normed)
}

fn perceptron(g: &mut Builder, shape: &Shape, name: &str, x: &Value) -> Value {
    let g = &mut g.scope(name);
    let h = bricks::linear(g, "linear_fc1", x, shape.merged_width());
    let h = gelu(g, &h);
    bricks::linear(g, "linear_fc2", &h, shape.out_hidden_size)
}
