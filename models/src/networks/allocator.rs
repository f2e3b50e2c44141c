//! The query-aware allocator: how relevant is each patch to the question, and how many tokens does the image
//! deserve?
//!
//! Three scorers look at every patch, after Vervaeke's ways of knowing: *propositional* (how much is there),
//! *perspectival* (what stands out) and *participatory* (what answers the question). Opponent processing
//! reads the question and the scorers' statistics, settles three tensions (compress/particularize,
//! exploit/explore, focus/diversify) and weighs the scorers accordingly; a head picks the tier. Selection
//! itself is another graph ([`super::compressor`]), so that an image is encoded once and reselected for each
//! question.

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
    /// Width of the allocator, d.
    pub hidden_size: usize,
    /// Heads of the attention between patches and question.
    pub heads: usize,
}

#[derive(Deserialize)]
struct RawConfig {
    hidden_size: usize,
    num_attention_heads: usize,
}

impl Config {
    pub(crate) fn from_json(json: &serde_json::Value, neutral: Neutral) -> Result<Self, ConfigError> {
        let raw: RawConfig = section(json, "allocator_config", neutral)?;
        let check = Check("allocator_config");
        check.sizes(&[("hidden_size", raw.hidden_size), ("num_attention_heads", raw.num_attention_heads)])?;
        check.divides("hidden_size", raw.hidden_size, raw.num_attention_heads, "num_attention_heads")?;
        Ok(Self { hidden_size: raw.hidden_size, heads: raw.num_attention_heads })
    }
}

/// What the allocator connects.
#[derive(Debug, Clone, Copy)]
pub struct Widths {
    /// Width of the image features, C.
    pub features: usize,
    /// Width of the decoder's embeddings, H.
    pub decoder: usize,
    /// Number of tiers.
    pub tiers: usize,
}

/// Added to the logits of padding; large enough to vanish in a softmax, small enough for half precision.
const MASKED: f32 = -1e4;

/// Epsilon of the allocator's norms and statistics.
const EPSILON: f32 = 1e-6;

/// The encoded question.
struct Query {
    /// One vector per token, \[B, Q, d\].
    tokens: Value,
    /// The question as a whole, \[B, d\].
    pooled: Value,
    /// 0 for tokens and [`MASKED`] for padding, \[B, Q\].
    bias: Value,
}

/// `image_features` \[batch, patches, C\], `query_embeds` \[batch, query_len, H\] and `query_mask` \[batch,
/// query_len\] to `relevance` \[batch, patches\], `knowing` \[batch, 3, patches\] (both 0..1),
/// `tension_weights` \[batch, 3\] and `tier_logits` \[batch, tiers\].
pub fn graph(config: &Config, widths: Widths, prefix: &str, target: Target) -> Graph {
    let mut builder = Builder::new("allocator", Role::Chooser, prefix, target);
    let g = &mut builder;
    let features =
        g.input(tensor::IMAGE_FEATURES, Element::F32, dims![axis::BATCH, axis::PATCHES, widths.features]);
    let embeds = g.input("query_embeds", Element::F32, dims![axis::BATCH, axis::QUERY_LEN, widths.decoder]);
    let mask = g.input("query_mask", Element::I64, dims![axis::BATCH, axis::QUERY_LEN]);

    let query = encode_query(g, config, &embeds, &mask);
    let normed = bricks::layer_norm(g, "norm", &features, EPSILON); // [B, P, C]
    let propositional = propositional(g, config, widths, &features, &normed); // [B, P]
    let perspectival = perspectival(g, config, &normed); // [B, P]
    let participatory = participatory(g, config, widths, &normed, &query); // [B, P]
    let [a, b, c] = [propositional, perspectival, participatory]
        .map(|x| g.reshape(&x, dims![axis::BATCH, 1, axis::PATCHES]));
    let scores = g.concat(&[&a, &b, &c], 1); // [B, 3, P]
    let knowing = g.sigmoid(&scores);

    let statistics = statistics(g, &knowing); // [B, 9]
    let tensions = tensions(g, config, &query.pooled, &statistics); // [B, 3]
    let weights = bricks::linear(g, "opponent.weights", &tensions, 3);
    let weights = g.softmax(&weights); // [B, 3]
    let relevance = relevance(g, &scores, &weights, &tensions); // [B, P]
    let tier_logits = tier_logits(g, config, widths, [&query.pooled, &statistics, &tensions], &relevance);

    g.output("relevance", Meaning::Network, &relevance, dims![axis::BATCH, axis::PATCHES]);
    g.output("knowing", Meaning::Network, &knowing, dims![axis::BATCH, 3, axis::PATCHES]);
    g.output("tension_weights", Meaning::Network, &weights, dims![axis::BATCH, 3]);
    g.output("tier_logits", Meaning::Network, &tier_logits, dims![axis::BATCH, widths.tiers]);
    builder.finish()
}

/// Each token sees its neighbours (a key of several tokens is one thing to look for), then attention pools
/// them.
fn encode_query(g: &mut Builder, config: &Config, embeds: &Value, mask: &Value) -> Query {
    let g = &mut g.scope("query_encoder");
    let d = config.hidden_size;
    let (batch, length) = (Dim::Axis(axis::BATCH), Dim::Axis(axis::QUERY_LEN));
    let mask = g.cast(mask, Element::F32); // [B, Q]
    let ones = g.scale(&mask, -1.0);
    let padding = g.add_scalar(&ones, 1.0);
    let bias = g.scale(&padding, MASKED); // [B, Q]
    let keep = g.reshape(&mask, dims![&batch, &length, 1]);

    let x = g.reshape(embeds, dims![batch.times(&length), embeds.dim(-1)]); // rows
    let x = bricks::linear(g, "proj", &x, d);
    let x = bricks::layer_norm(g, "norm", &x, EPSILON);
    let x = g.reshape(&x, dims![&batch, &length, d]);
    let x = g.mul(&x, &keep); // [B, Q, d]

    let channels_first = g.transpose(&x, &[0, 2, 1]); // [B, d, Q]
    let kernel = g.param("context.weight", &[d, d, 3], Init::fan_in(3 * d));
    let kernel_bias = g.param("context.bias", &[d], Init::BIAS);
    let context = g.conv(&channels_first, &kernel, Some(&kernel_bias), 1, 1); // [B, d, Q]
    let context = bricks::gelu(g, &context);
    let context = g.transpose(&context, &[0, 2, 1]);
    let x = g.add(&x, &context);
    let x = g.mul(&x, &keep); // [B, Q, d]

    let direction = g.param("pool.weight", &[1, d], Init::fan_in(1));
    let direction = g.reshape(&direction, dims![d, 1]);
    let logits = g.matmul(&x, &direction); // [B, Q, 1]
    let logits = g.reshape(&logits, dims![&batch, 1, &length]);
    let logits = g.scale(&logits, (d as f32).sqrt().recip());
    let row = g.reshape(&bias, dims![&batch, 1, &length]);
    let logits = g.add(&logits, &row);
    let attention = g.softmax(&logits); // [B, 1, Q]
    let pooled = g.matmul(&attention, &x); // [B, 1, d]
    let pooled = g.reshape(&pooled, dims![&batch, d]);
    Query { tokens: x, pooled, bias }
}

/// How much information a patch holds: a learned score, and the entropy of its channels.
fn propositional(
    g: &mut Builder,
    config: &Config,
    widths: Widths,
    features: &Value,
    normed: &Value,
) -> Value {
    let g = &mut g.scope("propositional");
    let log = g.log_softmax(features); // [B, P, C]
    let probability = g.exp(&log);
    let product = g.mul(&probability, &log);
    let sum = g.reduce_sum(&product, &[-1]); // [B, P, 1]
    let entropy = g.scale(&sum, -(widths.features as f32).ln().recip()); // 0..1
    score(g, config, normed, &entropy, "entropy_gain")
}

/// What stands out: the patch against the image's mean.
fn perspectival(g: &mut Builder, config: &Config, normed: &Value) -> Value {
    let g = &mut g.scope("perspectival");
    let mean = mean_over_patches(g, normed); // [B, 1, C]
    let contrast = g.sub(normed, &mean); // [B, P, C]
    let squares = g.mul(&contrast, &contrast);
    let energy = g.reduce_mean(&squares, &[-1]); // [B, P, 1]
    score(g, config, &contrast, &energy, "contrast_gain")
}

/// The mean over patches of x \[B, P, C\], \[B, 1, C\], as a product: reducing a middle axis is slow where
/// products are fast.
fn mean_over_patches(g: &mut Builder, x: &Value) -> Value {
    let patches = Dim::Axis(axis::PATCHES);
    let count = g.size(&patches);
    let count = g.cast(&count, Element::F32); // [1]
    let one = g.float(1.0);
    let share = g.div(&one, &count);
    let share = g.reshape(&share, dims![1, 1, 1]);
    let shares = g.expand(&share, dims![1, 1, &patches]);
    g.matmul(&shares, x)
}

/// What the question is about: patches attend to the question's tokens.
fn participatory(g: &mut Builder, config: &Config, widths: Widths, normed: &Value, query: &Query) -> Value {
    let g = &mut g.scope("participatory");
    let (d, heads) = (config.hidden_size, config.heads);
    let (batch, patches, length) =
        (Dim::Axis(axis::BATCH), Dim::Axis(axis::PATCHES), Dim::Axis(axis::QUERY_LEN));
    let rows = g.reshape(normed, dims![batch.times(&patches), widths.features]);
    let q = bricks::linear(g, "q_proj", &rows, d); // rows [B * P, d]
    let tokens = g.reshape(&query.tokens, dims![batch.times(&length), d]);
    let k = bricks::linear(g, "k_proj", &tokens, d); // rows [B * Q, d]
    let v = bricks::linear(g, "v_proj", &tokens, d);

    let scaled = g.scale(&q, ((d / heads) as f32).sqrt().recip());
    let scaled = bricks::expand_heads(g, &scaled, &batch, &patches, heads); // [B, n, P, d / n]
    let k = bricks::expand_heads(g, &k, &batch, &length, heads); // [B, n, Q, d / n]
    let v = bricks::expand_heads(g, &v, &batch, &length, heads);
    let k = g.transpose(&k, &[0, 1, 3, 2]);
    let logits = g.matmul(&scaled, &k); // [B, n, P, Q]
    let bias = g.reshape(&query.bias, dims![&batch, 1, 1, &length]);
    let logits = g.add(&logits, &bias);
    let attention = g.softmax(&logits);
    let o = g.matmul(&attention, &v); // [B, n, P, d / n]
    let o = bricks::merge_heads(g, &o); // rows [B * P, d]
    let o = bricks::linear(g, "out_proj", &o, d);

    let best = g.reduce_max(&logits, &[-1]); // [B, n, P, 1]
    let best = g.reduce_mean(&best, &[1]); // [B, 1, P, 1]
    let best = g.reshape(&best, dims![&batch, &patches, 1]);
    let coupled = g.mul(&q, &o);
    let coupled = g.reshape(&coupled, dims![&batch, &patches, d]);
    score(g, config, &coupled, &best, "match_gain")
}

/// A scorer's perceptron over x \[B, P, in\], plus a learned share of a measured quantity \[B, P, 1\]: \[B,
/// P\].
fn score(g: &mut Builder, config: &Config, x: &Value, measured: &Value, gain: &str) -> Value {
    let (batch, patches) = (Dim::Axis(axis::BATCH), Dim::Axis(axis::PATCHES));
    let rows = g.reshape(x, dims![batch.times(&patches), x.dim(-1)]);
    let h = bricks::linear(g, "fc1", &rows, config.hidden_size);
    let h = bricks::gelu(g, &h);
    let learned = verdict(g, &h); // [B * P, 1]
    let learned = g.reshape(&learned, dims![&batch, &patches]);
    let gain = g.param(gain, &[1], Init::normal(0.5));
    let measured = g.reshape(measured, dims![&batch, &patches]);
    let measured = g.mul(&measured, &gain);
    g.add(&learned, &measured)
}

/// The scorer's last layer, `fc2`. A random one spreads its scores three times as wide as a usual layer
/// would: the order of relevances decides which patches become tokens, and it must not hang on rounding.
fn verdict(g: &mut Builder, h: &Value) -> Value {
    let g = &mut g.scope("fc2");
    let width = bricks::width(h);
    let weight = g.param("weight", &[1, width], Init::normal(3.0 * Init::fan_in(width).std));
    let bias = g.param("bias", &[1], Init::BIAS);
    g.gemm(h, &weight, Some(&bias))
}

/// Mean, standard deviation and maximum over patches of x \[B, n, P\]: \[B, 3 n\].
fn statistics(g: &mut Builder, x: &Value) -> Value {
    let rows = x.dim(1).fixed().unwrap_or(1);
    let mean = g.reduce_mean(x, &[-1]); // [B, n, 1]
    let centred = g.sub(x, &mean);
    let squares = g.mul(&centred, &centred);
    let variance = g.reduce_mean(&squares, &[-1]);
    let variance = g.add_scalar(&variance, EPSILON);
    let std = g.sqrt(&variance);
    let max = g.reduce_max(x, &[-1]);
    let [mean, std, max] = [mean, std, max].map(|x| g.reshape(&x, dims![axis::BATCH, rows]));
    g.concat(&[&mean, &std, &max], -1)
}

/// Opponent processing: three tensions in -1..1, \[B, 3\].
fn tensions(g: &mut Builder, config: &Config, pooled: &Value, statistics: &Value) -> Value {
    let context = g.concat(&[pooled, statistics], -1); // [B, d + 9]
    let t = bricks::perceptron(g, "opponent", &context, config.hidden_size, 3);
    g.tanh(&t)
}

/// The weighed scores, sharpened by exploit/explore and held against their mean by focus/diversify: \[B, P\].
fn relevance(g: &mut Builder, scores: &Value, weights: &Value, tensions: &Value) -> Value {
    let weights = g.reshape(weights, dims![axis::BATCH, 1, 3]);
    let mixed = g.matmul(&weights, scores); // [B, 1, P]
    let mixed = g.reshape(&mixed, dims![axis::BATCH, axis::PATCHES]);
    let tensions = g.split(tensions, &[1, 1, 1], -1);
    let (exploit, focus) = (&tensions[1], &tensions[2]); // [B, 1]
    let mean = g.reduce_mean(&mixed, &[-1]); // [B, 1]
    let bar = g.mul(focus, &mean);
    let above = g.sub(&mixed, &bar);
    let sharpness = g.exp(exploit);
    let logits = g.mul(&above, &sharpness);
    g.sigmoid(&logits)
}

/// One logit per tier from the question, the scorers' statistics, the tensions, and the relevance map's own
/// statistics.
fn tier_logits(
    g: &mut Builder,
    config: &Config,
    widths: Widths,
    [pooled, scorers, tensions]: [&Value; 3],
    relevance: &Value,
) -> Value {
    let map = g.reshape(relevance, dims![axis::BATCH, 1, axis::PATCHES]);
    let map = statistics(g, &map); // [B, 3]
    let context = g.concat(&[pooled, scorers, &map, tensions], -1); // [B, d + 15]
    bricks::perceptron(g, "tier_head", &context, config.hidden_size, widths.tiers)
}
