//! The variable compressor: from a relevance map to exactly as many visual tokens as the caller has slots
//! for.
//!
//! The first tokens are a coarse gist of the whole image, the rest its most relevant patches: where the
//! allocation is wrong the decoder still sees a thumbnail. How many tokens there are is the *length* of
//! `token_slots`; a budget given as a value would become a shape input in TensorRT, and selection by value
//! (`NonZero`) would split its plans.

use arrcoc_bundle::names::{axis, tensor};
use serde::Deserialize;

use crate::bricks;
use crate::config::{Check, ConfigError, Neutral, section};
use crate::dims;
use crate::graph::{Builder, Dim, Element, Graph, Init, Value};
use arrcoc_bundle::{Meaning, Role, Target};

/// Hyperparameters.
#[derive(Debug, Clone)]
pub struct Config {
    /// Hidden width of an expert.
    pub hidden_size: usize,
    /// Side of the gist grid.
    pub gist_grid: usize,
}

#[derive(Deserialize)]
struct RawConfig {
    hidden_size: usize,
    gist_grid: usize,
}

impl Config {
    pub(crate) fn from_json(json: &serde_json::Value, neutral: Neutral) -> Result<Self, ConfigError> {
        let raw: RawConfig = section(json, "compressor_config", neutral)?;
        let check = Check("compressor_config");
        check.sizes(&[("hidden_size", raw.hidden_size)])?;
        check.that((1..=8).contains(&raw.gist_grid), "gist_grid", "1 to 8", raw.gist_grid)?;
        Ok(Self { hidden_size: raw.hidden_size, gist_grid: raw.gist_grid })
    }

    /// Number of gist tokens, G.
    pub fn gist(&self) -> usize {
        self.gist_grid * self.gist_grid
    }
}

/// What the compressor connects.
#[derive(Debug, Clone)]
pub struct Widths {
    /// Width of the image features, C.
    pub features: usize,
    /// Width of the refiner, D.
    pub refiner: usize,
    /// Token budgets, ascending: one expert each, E in all.
    pub budgets: Vec<usize>,
}

/// What can become a token: fine patches 0..P, then the G cells of the gist.
struct Candidates {
    /// \[B, P + G, C\].
    features: Value,
    /// \[B, P + G\], 0 or more.
    relevance: Value,
    /// \[P + G, 2\], y and x of the centre in 0..1.
    places: Value,
}

/// `image_features` \[batch, patches, C\] of a square grid, `relevance` \[batch, patches\] (negative: never
/// take) and `token_slots` \[tokens\] to `visual_tokens` \[batch, tokens, D\], `token_positions` \[batch,
/// tokens, 2\] and `token_indices` \[batch, tokens\]: below P a fine patch, from P on a gist cell.
///
/// The caller asks for at most P + G tokens; beyond that indices repeat gist cells.
pub fn graph(config: &Config, widths: &Widths, prefix: &str, target: Target) -> Graph {
    let mut builder = Builder::new("compressor", Role::Chooser, prefix, target);
    let g = &mut builder;
    let features =
        g.input(tensor::IMAGE_FEATURES, Element::F32, dims![axis::BATCH, axis::PATCHES, widths.features]);
    let relevance = g.input("relevance", Element::F32, dims![axis::BATCH, axis::PATCHES]);
    g.input("token_slots", Element::I64, dims![axis::TOKENS]); // read through the axis alone

    let candidates = candidates(g, config, &features, &relevance);
    let indices = choose(g, config, widths, &relevance); // [B, T]
    let tokens = embed(g, config, widths, &candidates, &indices); // [B, T, D]
    let positions = g.gather(&candidates.places, &indices, 0); // [B, T, 2]

    g.output("visual_tokens", Meaning::Network, &tokens, dims![axis::BATCH, axis::TOKENS, widths.refiner]);
    g.output("token_positions", Meaning::Arithmetic, &positions, dims![axis::BATCH, axis::TOKENS, 2]);
    g.output("token_indices", Meaning::Picked, &indices, dims![axis::BATCH, axis::TOKENS]);
    builder.finish()
}

/// Adds the gist, the mean of each cell of a coarse grid, to the patches.
fn candidates(g: &mut Builder, config: &Config, features: &Value, relevance: &Value) -> Candidates {
    let (grid, gist) = (config.gist_grid, config.gist());
    let patches = Dim::Axis(axis::PATCHES);
    let count = g.size(&patches);
    let count = g.cast(&count, Element::F32);
    let side = g.sqrt(&count); // [1]; the grid is square
    let index = g.range(&Dim::Fixed(0), &patches);
    let index = g.cast(&index, Element::F32); // [P]
    let row = g.div(&index, &side);
    let row = g.floor(&row);
    let before = g.mul(&row, &side);
    let column = g.sub(&index, &before);

    let cell = |g: &mut Builder, x: &Value| {
        let x = g.scale(x, grid as f32);
        let x = g.div(&x, &side);
        g.floor(&x)
    };
    let (cell_row, cell_column) = (cell(g, &row), cell(g, &column));
    let cell_row = g.scale(&cell_row, grid as f32);
    let cell = g.add(&cell_row, &cell_column); // [P]
    let cells: Vec<f32> = (0..gist).map(|cell| cell as f32).collect();
    let cells = g.floats(&[gist, 1], &cells);
    let member = g.equal(&cells, &cell);
    let member = g.cast(&member, Element::F32); // [G, P]
    let sizes = g.reduce_sum(&member, &[-1]);
    let mean = g.div(&member, &sizes); // [G, P]: a product with it averages over cells

    let gist_features = g.matmul(&mean, features); // [B, G, C]
    let positive = g.relu(relevance); // [B, P]
    let column_vector = g.reshape(&positive, dims![axis::BATCH, &patches, 1]);
    let gist_relevance = g.matmul(&mean, &column_vector); // [B, G, 1]
    let gist_relevance = g.reshape(&gist_relevance, dims![axis::BATCH, gist]);

    let place = |g: &mut Builder, x: &Value| {
        let x = g.add_scalar(x, 0.5);
        let x = g.div(&x, &side);
        g.reshape(&x, dims![&patches, 1])
    };
    let (y, x) = (place(g, &row), place(g, &column));
    let places = g.concat(&[&y, &x], -1); // [P, 2]
    let centre = |i: usize| (i as f32 + 0.5) / grid as f32;
    let centres: Vec<f32> = (0..gist).flat_map(|cell| [centre(cell / grid), centre(cell % grid)]).collect();
    let centres = g.floats(&[gist, 2], &centres);
    Candidates {
        features: g.concat(&[features, &gist_features], 1),
        relevance: g.concat(&[&positive, &gist_relevance], 1),
        places: g.concat(&[&places, &centres], 0),
    }
}

/// Indices of the chosen candidates, \[B, T\]: all gist cells, then patches by falling relevance.
fn choose(g: &mut Builder, config: &Config, widths: &Widths, relevance: &Value) -> Value {
    let most = widths.budgets.last().copied().unwrap_or_default();
    let batch = Dim::Axis(axis::BATCH);
    // A small image has fewer patches than the largest budget; the constant tail keeps TopK's k valid, and
    // sorts last.
    let tail = g.floats(&[1, 1], &[-2.0]);
    let tail = g.expand(&tail, dims![&batch, most]);
    let padded = g.concat(&[relevance, &tail], 1); // [B, P + most]
    let (_, fine) = g.top_k(&padded, most); // [B, most]

    let gist: Vec<i64> = (0..config.gist() as i64).collect();
    let gist = g.ints(&[1, config.gist()], &gist);
    let patches = g.size(&Dim::Axis(axis::PATCHES));
    let gist = g.add(&gist, &patches);
    let gist = g.expand(&gist, dims![&batch, config.gist()]); // [B, G]
    let order = g.concat(&[&gist, &fine], 1); // [B, G + most]
    g.take(&order, &Dim::Axis(axis::TOKENS), 1)
}

/// Tokens \[B, T, D\] from the chosen candidates: one expert per tier, mixed softly by content and by
/// closeness of the budget.
fn embed(
    g: &mut Builder,
    config: &Config,
    widths: &Widths,
    candidates: &Candidates,
    indices: &Value,
) -> Value {
    let (batch, tokens) = (Dim::Axis(axis::BATCH), Dim::Axis(axis::TOKENS));
    let (channels, out, experts) = (widths.features, widths.refiner, widths.budgets.len());

    let index = g.reshape(indices, dims![&batch, &tokens, 1]);
    let index = g.expand(&index, dims![&batch, &tokens, channels]);
    let x = g.gather_elements(&candidates.features, &index, 1); // [B, T, C]
    let x = bricks::layer_norm(g, "norm", &x, 1e-6);
    let x = g.reshape(&x, dims![batch.times(&tokens), channels]); // rows

    let gates = gates(g, widths, &x); // rows [.., E]
    let gates = g.split(&gates, &vec![1; experts], -1);
    let mut mixed: Option<Value> = None;
    for (expert, gate) in gates.iter().enumerate() {
        let y = run_expert(g, config, widths, &x, expert); // rows [.., D]
        let y = g.mul(&y, gate);
        mixed = Some(mixed.map_or(y.clone(), |sum| g.add(&sum, &y)));
    }
    let mixed = mixed.unwrap_or_else(|| panic!("a validated config has budgets"));
    let mixed = g.reshape(&mixed, dims![&batch, &tokens, out]); // [B, T, D]

    let relevance = g.gather_elements(&candidates.relevance, indices, 1); // [B, T]
    let relevance = g.reshape(&relevance, dims![&batch, &tokens, 1]);
    let direction = g.param("relevance_embed.weight", &[out], Init::normal(0.1));
    let stressed = g.mul(&relevance, &direction); // [B, T, D]
    let kinds = kinds(g, config, widths, &tokens, out); // [T, D]
    let x = g.add(&mixed, &stressed);
    g.add(&x, &kinds)
}

/// Mixing weights of the experts, rows \[.., E\]: the router's opinion, less the distance of the budget from
/// each tier's.
fn gates(g: &mut Builder, widths: &Widths, x: &Value) -> Value {
    let experts = widths.budgets.len();
    let logits = bricks::linear(g, "router", x, experts);
    let count = g.size(&Dim::Axis(axis::TOKENS));
    let count = g.cast(&count, Element::F32);
    let log = g.log(&count); // [1]
    let logs: Vec<f32> = widths.budgets.iter().map(|&budget| (budget as f32).ln()).collect();
    let logs = g.floats(&[experts], &logs);
    let distance = g.sub(&log, &logs); // [E]
    let squared = g.mul(&distance, &distance);
    let sharpness = g.param("prior_sharpness", &[1], Init { mean: 4.0, std: 0.1 });
    let sharpness = g.relu(&sharpness);
    let prior = g.mul(&squared, &sharpness);
    let logits = g.sub(&logits, &prior);
    g.softmax(&logits)
}

/// One expert: rows \[.., C\] to rows \[.., D\]; parameters stacked by expert.
fn run_expert(g: &mut Builder, config: &Config, widths: &Widths, x: &Value, expert: usize) -> Value {
    let (channels, hidden, out) = (widths.features, config.hidden_size, widths.refiner);
    let experts = widths.budgets.len();
    let weight = g.param_row("fc1.weight", &[experts, hidden, channels], Init::fan_in(channels), expert);
    let bias = g.param_row("fc1.bias", &[experts, hidden], Init::BIAS, expert);
    let h = g.gemm(x, &weight, Some(&bias));
    let h = bricks::gelu(g, &h);
    let weight = g.param_row("fc2.weight", &[experts, out, hidden], Init::fan_in(hidden), expert);
    let bias = g.param_row("fc2.bias", &[experts, out], Init::BIAS, expert);
    g.gemm(&h, &weight, Some(&bias))
}

/// An embedding that tells gist tokens from fine ones, \[T, D\].
fn kinds(g: &mut Builder, config: &Config, widths: &Widths, tokens: &Dim, out: usize) -> Value {
    let gist = config.gist();
    let most = gist + widths.budgets.last().copied().unwrap_or_default();
    let kinds: Vec<i64> = (0..most).map(|slot| i64::from(slot >= gist)).collect();
    let kinds = g.ints(&[most], &kinds);
    let kinds = g.take(&kinds, tokens, 0); // [T]
    let table = g.param("kind_embed.weight", &[2, out], Init::normal(0.1));
    g.gather(&table, &kinds, 0)
}
