//! The image encoder of Segment Anything (<https://arxiv.org/abs/2304.02643>), with the parameter names of
//! Hugging Face's `SamVisionEncoder`.
//!
//! A ViT with decomposed relative positions: most layers attend within windows, a few over the whole grid; a
//! convolutional neck follows. One graph takes any square or oblong input whose sides are multiples of the
//! patch: absolute positions are resampled bicubically and the relative tables of the global layers linearly,
//! as DeepSeek-OCR does with the same encoder (<https://arxiv.org/abs/2510.18234>); at the native size both
//! are exact identities.

use arrcoc_bundle::names::operator::GRID_ATTENTION;
use arrcoc_bundle::names::{axis, tensor};
use serde::Deserialize;

use crate::bricks::{self, interpolate};
use crate::config::{Check, ConfigError, Neutral, check_model_type, section};
use crate::dims;
use crate::graph::{Builder, Dim, Element, Function, Graph, Init, Value};
use arrcoc_bundle::{Meaning, Role, Target};

/// Hyperparameters.
#[derive(Debug, Clone)]
pub struct Config {
    /// Width of the transformer.
    pub hidden_size: usize,
    /// Number of layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Hidden width of the MLPs.
    pub mlp_dim: usize,
    /// Side of a patch, pixels.
    pub patch_size: usize,
    /// Side of the image that the positions were trained for, pixels.
    pub image_size: usize,
    /// Side of an attention window, patches.
    pub window_size: usize,
    /// Layers that attend over the whole grid.
    pub global_layers: Vec<usize>,
    /// Width of the output features.
    pub output_channels: usize,
    /// Epsilon of the norms.
    pub layer_norm_eps: f32,
    /// Whether the attention input projection has a bias.
    pub qkv_bias: bool,
}

#[derive(Deserialize)]
#[serde(default)]
struct RawConfig {
    model_type: Option<String>,
    hidden_size: usize,
    output_channels: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_channels: usize,
    image_size: usize,
    patch_size: usize,
    hidden_act: String,
    layer_norm_eps: f32,
    qkv_bias: bool,
    use_abs_pos: bool,
    use_rel_pos: bool,
    window_size: usize,
    global_attn_indexes: Vec<usize>,
    mlp_dim: Option<usize>,
    mlp_ratio: f64,
}

/// The defaults of transformers' `SamVisionConfig`: SAM-base.
impl Default for RawConfig {
    fn default() -> Self {
        Self {
            model_type: None,
            hidden_size: 768,
            output_channels: 256,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 1024,
            patch_size: 16,
            hidden_act: "gelu".to_owned(),
            layer_norm_eps: 1e-6,
            qkv_bias: true,
            use_abs_pos: true,
            use_rel_pos: true,
            window_size: 14,
            global_attn_indexes: vec![2, 5, 8, 11],
            mlp_dim: None,
            mlp_ratio: 4.0,
        }
    }
}

impl Config {
    pub(crate) fn from_json(json: &serde_json::Value, neutral: Neutral) -> Result<Self, ConfigError> {
        let raw: RawConfig = section(json, "vision_config", neutral)?;
        check_model_type("vision_config", raw.model_type.as_deref(), &["sam_vision_model", "sam"])?;
        let check = Check("vision_config");
        check.sizes(&[
            ("hidden_size", raw.hidden_size),
            ("output_channels", raw.output_channels),
            ("num_attention_heads", raw.num_attention_heads),
            ("image_size", raw.image_size),
            ("patch_size", raw.patch_size),
            ("window_size", raw.window_size),
        ])?;
        check.layers("num_hidden_layers", raw.num_hidden_layers)?;
        check.epsilon("layer_norm_eps", raw.layer_norm_eps)?;
        check.divides("hidden_size", raw.hidden_size, raw.num_attention_heads, "num_attention_heads")?;
        check.divides("image_size", raw.image_size, raw.patch_size, "patch_size")?;
        check.that(raw.num_channels == 3, "num_channels", "3", raw.num_channels)?;
        check.that(raw.hidden_act == "gelu", "hidden_act", "gelu", &raw.hidden_act)?;
        check.that(raw.use_abs_pos, "use_abs_pos", "true", raw.use_abs_pos)?;
        check.that(raw.use_rel_pos, "use_rel_pos", "true", raw.use_rel_pos)?;
        let last = raw.num_hidden_layers - 1;
        let in_range = raw.global_attn_indexes.iter().all(|&index| index <= last);
        check.that(
            in_range,
            "global_attn_indexes",
            format!("indices up to {last}"),
            &raw.global_attn_indexes,
        )?;
        let mlp_dim = raw.mlp_dim.unwrap_or((raw.hidden_size as f64 * raw.mlp_ratio) as usize);
        check.sizes(&[("mlp_dim", mlp_dim)])?;
        Ok(Self {
            hidden_size: raw.hidden_size,
            layers: raw.num_hidden_layers,
            heads: raw.num_attention_heads,
            mlp_dim,
            patch_size: raw.patch_size,
            image_size: raw.image_size,
            window_size: raw.window_size,
            global_layers: raw.global_attn_indexes,
            output_channels: raw.output_channels,
            layer_norm_eps: raw.layer_norm_eps,
            qkv_bias: raw.qkv_bias,
        })
    }

    /// Side of the native patch grid.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }
}

/// A grid of positions that one attention covers: the whole image, or one window.
struct Grid {
    /// Images times windows.
    batch: Dim,
    height: Dim,
    width: Dim,
}

impl Grid {
    fn positions(&self) -> Dim {
        self.height.times(&self.width)
    }

    fn rows(&self) -> Dim {
        self.batch.times(self.positions())
    }
}

/// `pixel_values` \[batch, 3, height, width\] to `image_features` \[batch, patches, C\], patches in row-major
/// order.
pub fn graph(config: &Config, prefix: &str, target: Target) -> Graph {
    let mut builder = Builder::new("vision_encoder", Role::Encoder, prefix, target);
    let g = &mut builder;
    let pixels =
        g.input(tensor::PIXEL_VALUES, Element::F32, dims![axis::BATCH, 3, axis::HEIGHT, axis::WIDTH]);
    let (h, w) =
        (Dim::Axis(axis::HEIGHT).over(config.patch_size), Dim::Axis(axis::WIDTH).over(config.patch_size));
    let grid = Grid { batch: Dim::Axis(axis::BATCH), height: h, width: w };

    let x = patch_embedding(g, config, &pixels, &grid); // [B, h, w, hidden]
    let mut x = g.reshape(&x, dims![grid.rows(), config.hidden_size]); // rows
    for index in 0..config.layers {
        x = layer(g, config, index, &x, &grid); // rows
    }
    let x = neck(g, config, &x, &grid); // [B, C, h * w]
    let features = g.transpose(&x, &[0, 2, 1]); // [B, P, C]
    let features = layer_norm_2d(g, "neck.layer_norm2", &features);
    g.output(
        tensor::IMAGE_FEATURES,
        Meaning::Network,
        &features,
        dims![axis::BATCH, axis::PATCHES, config.output_channels],
    );
    builder.finish()
}

fn patch_embedding(g: &mut Builder, config: &Config, pixels: &Value, grid: &Grid) -> Value {
    let (patch, hidden, side) = (config.patch_size, config.hidden_size, config.grid());
    let x = {
        let g = &mut g.scope("patch_embed.projection");
        let weight = g.param("weight", &[hidden, 3, patch, patch], Init::fan_in(3 * patch * patch));
        let bias = g.param("bias", &[hidden], Init::BIAS);
        g.conv(pixels, &weight, Some(&bias), patch, 0) // [B, hidden, h, w]
    };
    let x = g.transpose(&x, &[0, 2, 3, 1]); // [B, h, w, hidden]

    let table = g.param("pos_embed", &[1, side, side, hidden], Init::normal(0.02));
    let vertical = interpolate::bicubic(g, &grid.height, side); // [h, side]
    let horizontal = interpolate::bicubic(g, &grid.width, side); // [w, side]
    let table = g.reshape(&table, dims![side, side * hidden]);
    let rows = g.matmul(&vertical, &table); // [h, side * hidden]
    let rows = g.reshape(&rows, dims![&grid.height, side, hidden]);
    let positions = g.matmul(&horizontal, &rows); // [h, w, hidden]
    g.add(&x, &positions)
}

/// One transformer layer over rows \[B * h * w, hidden\].
fn layer(g: &mut Builder, config: &Config, index: usize, x: &Value, grid: &Grid) -> Value {
    let g = &mut g.scope(format!("layers.{index}"));
    let normed = bricks::layer_norm(g, "layer_norm1", x, config.layer_norm_eps);
    let attended = if config.global_layers.contains(&index) {
        let side = config.grid();
        attention(g, config, &normed, grid, side)
    } else {
        windowed_attention(g, config, &normed, grid)
    };
    let x = g.add(x, &attended);
    let normed = bricks::layer_norm(g, "layer_norm2", &x, config.layer_norm_eps);
    let h = bricks::linear(g, "mlp.lin1", &normed, config.mlp_dim); // rows [.., mlp_dim]
    let h = bricks::gelu(g, &h);
    let h = bricks::linear(g, "mlp.lin2", &h, config.hidden_size); // rows
    g.add(&x, &h)
}

/// Attention within windows. The grid is padded with zeros to whole windows *after* the norm, so that padding
/// takes part in the attention with the projection's bias, as in the reference.
fn windowed_attention(g: &mut Builder, config: &Config, x: &Value, grid: &Grid) -> Value {
    let (size, hidden) = (config.window_size, config.hidden_size);
    let (high, wide) = (grid.height.rounded_up(size), grid.width.rounded_up(size));
    let (down, across) = (high.over(size), wide.over(size));
    let windows =
        Grid { batch: grid.batch.times(&down).times(&across), height: size.into(), width: size.into() };

    let x = g.reshape(x, dims![&grid.batch, &grid.height, &grid.width, hidden]); // [B, h, w, hidden]
    let x = g.pad_to(&x, &[(1, high.clone()), (2, wide.clone())]); // [B, high, wide, hidden]
    // [B * down, size, across, size * hidden]
    let x = g.reshape(&x, dims![grid.batch.times(&down), size, &across, size * hidden]);
    let x = g.transpose(&x, &[0, 2, 1, 3]); // [B * down, across, size, size * hidden]
    let x = g.reshape(&x, dims![windows.rows(), hidden]); // rows of windows

    let x = attention(g, config, &x, &windows, size); // rows of windows

    let x = g.reshape(&x, dims![grid.batch.times(&down), &across, size, size * hidden]);
    let x = g.transpose(&x, &[0, 2, 1, 3]); // [B * down, size, across, size * hidden]
    let x = g.reshape(&x, dims![&grid.batch, &high, &wide, hidden]);
    let x = g.take(&x, &grid.height, 1);
    let x = g.take(&x, &grid.width, 2); // [B, h, w, hidden]
    g.reshape(&x, dims![grid.rows(), hidden])
}

/// Attention over a grid with decomposed relative positions: the product of a query and a key gains
/// `q · R_h[row(q) - row(k)] + q · R_w[column(q) - column(k)]`.
///
/// Both terms depend on the key through its row and column only. So they ride in extra dimensions: the query
/// is extended by its products with every row's and every column's embedding, the key by one-hot codes of its
/// row and column. One plain attention then does it all, without a bias of \[positions, positions\] in
/// memory.
fn attention(g: &mut Builder, config: &Config, x: &Value, grid: &Grid, table_side: usize) -> Value {
    let g = &mut g.scope("attn");
    let (heads, hidden) = (config.heads, config.hidden_size);
    let width = hidden / heads;

    let qkv = match config.qkv_bias {
        true => bricks::linear(g, "qkv", x, 3 * hidden),
        false => bricks::linear_no_bias(g, "qkv", x, 3 * hidden),
    };
    // [B, h, w, 3 * hidden]
    let qkv = g.reshape(&qkv, dims![&grid.batch, &grid.height, &grid.width, 3 * hidden]);
    let vertical = relative_table(g, "rel_pos_h", &grid.height, table_side, width); // [2h - 1, width]
    let horizontal = relative_table(g, "rel_pos_w", &grid.width, table_side, width); // [2w - 1, width]
    let o = match g.target().has_own_operators() {
        false => grid_attention(g, &qkv, &vertical, &horizontal),
        true => {
            let dims = dims![grid.rows(), hidden];
            g.call(grid_attention_function(hidden, width), &[&qkv, &vertical, &horizontal], vec![], dims)
        }
    }; // rows
    bricks::linear(g, "proj", &o, hidden)
}

/// [`grid_attention`] as an operator of its own.
fn grid_attention_function(hidden: usize, width: usize) -> Function {
    let (h, w) = (Dim::Axis(axis::HEIGHT), Dim::Axis(axis::WIDTH));
    let inputs = [
        ("qkv", Element::F32, dims![axis::BATCH, &h, &w, 3 * hidden]),
        ("vertical", Element::F32, dims![h.relative(), width]),
        ("horizontal", Element::F32, dims![w.relative(), width]),
    ];
    Function::new(GRID_ATTENTION, &[], &inputs, |g, inputs| {
        grid_attention(g, &inputs[0], &inputs[1], &inputs[2]) // rows
    })
}

/// Attention of every place of a grid to all others, with decomposed relative positions: qkv \[B, h, w, 3 *
/// hidden\] and the tables \[2h - 1, width\] and \[2w - 1, width\] to rows \[B * h * w, hidden\].
fn grid_attention(g: &mut Builder, qkv: &Value, vertical: &Value, horizontal: &Value) -> Value {
    let [batch, h, w] = [0, 1, 2].map(|axis| qkv.dim(axis).clone());
    let (hidden, width) = (bricks::width(qkv) / 3, bricks::width(vertical));
    let heads = hidden / width;
    let grid = &Grid { batch: batch.clone(), height: h, width: w };
    let positions = grid.positions();

    let qkv = g.split(qkv, &[hidden, hidden, hidden], -1); // 3 x [B, h, w, hidden]
    let [q, k, v] =
        [&qkv[0], &qkv[1], &qkv[2]].map(|x| g.reshape(x, dims![&batch, &positions, heads, width]));

    let (q_rows, q_columns) = position_products(g, &q, grid, heads, width, vertical, horizontal);
    let scaled = g.scale(&q, (width as f32).sqrt().recip());
    let query = g.concat(&[&scaled, &q_rows, &q_columns], -1); // [B, P, heads, width + h + w]

    let codes = one_hot_places(g, grid); // [1, P, 1, h + w]
    let codes = g.expand(&codes, dims![&batch, &positions, heads, codes.dim(-1)]);
    let key = g.concat(&[&k, &codes], -1); // [B, P, heads, width + h + w]
    bricks::attention(g, &query, &key, &v, None) // rows
}

/// Products of each query with the embedding of every row and of every column relative to its own:
/// \[B, P, heads, h\] and \[B, P, heads, w\] from q \[B, P, heads, width\].
fn position_products(
    g: &mut Builder,
    q: &Value,
    grid: &Grid,
    heads: usize,
    width: usize,
    vertical: &Value,
    horizontal: &Value,
) -> (Value, Value) {
    let (batch, h, w) = (&grid.batch, &grid.height, &grid.width);
    let positions = grid.positions();

    let vertical = relative_embeddings(g, vertical, h); // [h, width, h]
    let rows = g.reshape(q, dims![batch, h, w.times(heads), width]); // [B, h, w * heads, width]
    let rows = g.matmul(&rows, &vertical); // [B, h, w * heads, h]
    let rows = g.reshape(&rows, dims![batch, &positions, heads, h]);

    let horizontal = relative_embeddings(g, horizontal, w); // [w, width, w]
    let columns = g.reshape(q, dims![batch, h, w, heads * width]);
    let columns = g.transpose(&columns, &[0, 2, 1, 3]); // [B, w, h, heads * width]
    let columns = g.reshape(&columns, dims![batch, w, h.times(heads), width]);
    let columns = g.matmul(&columns, &horizontal); // [B, w, h * heads, w]
    let columns = g.reshape(&columns, dims![batch, w, h, w.times(heads)]);
    let columns = g.transpose(&columns, &[0, 2, 1, 3]); // [B, h, w, heads * w]
    let columns = g.reshape(&columns, dims![batch, &positions, heads, w]);
    (rows, columns)
}

/// The embeddings of all distances on an axis of length `n`, \[2n - 1, width\]. The checkpoint has those of
/// an axis of `table_side`, which are resampled when the axis is not the trained one.
fn relative_table(g: &mut Builder, name: &str, n: &Dim, table_side: usize, width: usize) -> Value {
    let distances = 2 * table_side - 1;
    let table = g.param(name, &[distances, width], Init::normal(0.1));
    match n.fixed() {
        Some(fixed) if fixed == table_side => table,
        _ => {
            let weights = interpolate::linear(g, &n.relative(), distances); // [2n - 1, distances]
            g.matmul(&weights, &table) // [2n - 1, width]
        }
    }
}

/// The embedding of key place k as seen from query place q, \[q, width, k\], of an axis of length `n`.
fn relative_embeddings(g: &mut Builder, table: &Value, n: &Dim) -> Value {
    let places = g.range(&Dim::Fixed(0), n); // [n]
    let queries = g.reshape(&places, dims![n, 1]);
    let keys = g.reshape(&places, dims![1, n]);
    let distance = g.sub(&queries, &keys); // [q, k]
    // Row n - 1 of the table is distance zero.
    let (length, one) = (g.size(n), g.ints(&[1], &[1]));
    let zero = g.sub(&length, &one);
    let index = g.add(&distance, &zero);
    let embeddings = g.gather(table, &index, 0); // [q, k, width]
    g.transpose(&embeddings, &[0, 2, 1])
}

/// One-hot codes of each place's row and column, \[1, P, 1, h + w\].
fn one_hot_places(g: &mut Builder, grid: &Grid) -> Value {
    let (h, w) = (&grid.height, &grid.width);
    let rows = identity(g, h); // [h, h]
    let rows = g.reshape(&rows, dims![h, 1, h]);
    let rows = g.expand(&rows, dims![h, w, h]);
    let columns = identity(g, w); // [w, w]
    let columns = g.reshape(&columns, dims![1, w, w]);
    let columns = g.expand(&columns, dims![h, w, w]);
    let codes = g.concat(&[&rows, &columns], -1); // [h, w, h + w]
    let both = codes.dim(-1).clone();
    g.reshape(&codes, dims![1, grid.positions(), 1, both])
}

/// The identity matrix \[n, n\].
fn identity(g: &mut Builder, n: &Dim) -> Value {
    let places = g.range(&Dim::Fixed(0), n);
    let down = g.reshape(&places, dims![n, 1]);
    let across = g.reshape(&places, dims![1, n]);
    let diagonal = g.equal(&down, &across);
    g.cast(&diagonal, Element::F32)
}

/// The neck's two convolutions and the first of its norms: rows to \[B, C, h * w\].
fn neck(g: &mut Builder, config: &Config, x: &Value, grid: &Grid) -> Value {
    let (hidden, channels) = (config.hidden_size, config.output_channels);
    // A 1 x 1 convolution without bias is a product of rows.
    let kernel = g.param("neck.conv1.weight", &[channels, hidden, 1, 1], Init::fan_in(hidden));
    let kernel = g.reshape(&kernel, dims![channels, hidden]);
    let x = g.gemm(x, &kernel, None); // rows [.., C]
    let x = layer_norm_2d(g, "neck.layer_norm1", &x);
    let x = g.reshape(&x, dims![&grid.batch, &grid.height, &grid.width, channels]);
    let x = g.transpose(&x, &[0, 3, 1, 2]); // [B, C, h, w]
    let kernel = g.param("neck.conv2.weight", &[channels, channels, 3, 3], Init::fan_in(9 * channels));
    let x = g.conv(&x, &kernel, None, 1, 1); // [B, C, h, w]
    g.reshape(&x, dims![&grid.batch, channels, grid.positions()])
}

/// The reference normalises over channels at each place; with channels last that is an ordinary LayerNorm.
/// Its epsilon is the constant 1e-6, whatever the config says.
fn layer_norm_2d(g: &mut Builder, name: &str, x: &Value) -> Value {
    bricks::layer_norm(g, name, x, 1e-6)
}
