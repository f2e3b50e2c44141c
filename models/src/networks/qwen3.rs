//! The Qwen3 decoder (<https://arxiv.org/abs/2505.09388>), with the parameter names of Hugging Face's `Qwen3ForCausalLM`.
//!
//! Pre-norm transformer with grouped-query attention, RMS norms on queries and keys, rotary positions and a gated MLP. Two flavours
//! come from this one file: *fused* lets one operator rotate, extend a shared KV buffer in place and attend, *portable* spells the
//! same out in standard operators with past and present tensors. Embedding is a graph of its own, since visual tokens enter as
//! embeddings; tied weights are stored once for both.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::Target;
use crate::bricks::{self, rotary};
use crate::config::{Check, ConfigError, check_model_type, section};
use crate::dims;
use crate::graph::ops::cached_attention::CachedAttention;
use crate::graph::{Builder, Dim, Element, Graph, Init, Value};

/// Hyperparameters.
#[derive(Debug, Clone)]
pub struct Config {
    /// Width of the residual stream, H.
    pub hidden_size: usize,
    /// Hidden width of the MLPs.
    pub intermediate_size: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Size of the vocabulary, V.
    pub vocab_size: usize,
    /// Longest sequence that the model was made for.
    pub max_positions: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Epsilon of the norms.
    pub rms_norm_eps: f32,
    /// Whether the attention projections have biases.
    pub attention_bias: bool,
    /// Whether the output head is the embedding table.
    pub tied: bool,
    /// Ids that end a generation, as the config states them.
    pub eos_token_ids: Vec<u32>,
}

#[derive(Deserialize)]
struct RawConfig {
    model_type: Option<String>,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    head_dim: Option<usize>,
    vocab_size: usize,
    #[serde(default = "default_max_positions")]
    max_position_embeddings: usize,
    rope_theta: Option<f64>,
    /// transformers 5.
    rope_parameters: Option<RawRope>,
    /// Released checkpoints; wins over `rope_parameters`, unless it is empty.
    rope_scaling: Option<RawRope>,
    /// Counts where the rope's own object has none.
    partial_rotary_factor: Option<f64>,
    #[serde(default = "default_epsilon")]
    rms_norm_eps: f32,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default = "default_activation")]
    hidden_act: String,
    #[serde(default)]
    use_sliding_window: bool,
    layer_types: Option<Vec<String>>,
    eos_token_id: Option<OneOrMany>,
}

#[derive(Default, Deserialize)]
struct RawRope {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
    /// The older spelling, which counts where the newer one is missing.
    #[serde(rename = "type")]
    legacy_type: Option<String>,
    partial_rotary_factor: Option<f64>,
    /// What other types of rope need, so that the error names the type.
    #[serde(flatten)]
    others: BTreeMap<String, serde_json::Value>,
}

impl RawRope {
    fn is_empty(&self) -> bool {
        let Self { rope_theta, rope_type, legacy_type, partial_rotary_factor, others } = self;
        let named = rope_type.is_some() || legacy_type.is_some();
        !named && rope_theta.is_none() && partial_rotary_factor.is_none() && others.is_empty()
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

fn default_max_positions() -> usize {
    32_768
}

fn default_epsilon() -> f32 {
    1e-6
}

fn default_activation() -> String {
    "silu".to_owned()
}

impl Config {
    pub(crate) fn from_json(json: &serde_json::Value) -> Result<Self, ConfigError> {
        let raw: RawConfig = section(json, "text_config")?;
        check_model_type("text_config", raw.model_type.as_deref(), &["qwen3"])?;
        let check = Check("text_config");
        let head_dim = raw.head_dim.unwrap_or(raw.hidden_size / raw.num_attention_heads.max(1));
        check.sizes(&[
            ("hidden_size", raw.hidden_size),
            ("intermediate_size", raw.intermediate_size),
            ("num_hidden_layers", raw.num_hidden_layers),
            ("num_attention_heads", raw.num_attention_heads),
            ("num_key_value_heads", raw.num_key_value_heads),
            ("head_dim", head_dim),
            ("vocab_size", raw.vocab_size),
            ("max_position_embeddings", raw.max_position_embeddings),
        ])?;
        check.divides(
            "num_attention_heads",
            raw.num_attention_heads,
            raw.num_key_value_heads,
            "num_key_value_heads",
        )?;
        check.divides("head_dim", head_dim, 2, "two")?;
        check.that(raw.hidden_act == "silu", "hidden_act", "silu", &raw.hidden_act)?;
        check.that(!raw.use_sliding_window, "use_sliding_window", "false", raw.use_sliding_window)?;
        let types = raw.layer_types.as_deref().unwrap_or_default();
        let full = types.iter().all(|kind| kind == "full_attention");
        check.that(full, "layer_types", "full_attention in every layer", types)?;
        let rope_theta = rope_theta(&check, &raw)?;
        Ok(Self {
            hidden_size: raw.hidden_size,
            intermediate_size: raw.intermediate_size,
            layers: raw.num_hidden_layers,
            heads: raw.num_attention_heads,
            kv_heads: raw.num_key_value_heads,
            head_dim,
            vocab_size: raw.vocab_size,
            max_positions: raw.max_position_embeddings,
            rope_theta,
            rms_norm_eps: raw.rms_norm_eps,
            attention_bias: raw.attention_bias,
            tied: raw.tie_word_embeddings,
            eos_token_ids: match raw.eos_token_id {
                None => Vec::new(),
                Some(OneOrMany::One(id)) => vec![id],
                Some(OneOrMany::Many(ids)) => ids,
            },
        })
    }

    fn embedding_shape(&self) -> [usize; 2] {
        [self.vocab_size, self.hidden_size]
    }
}

/// Base of the rotary frequencies, from where transformers takes it: the object that wins, then the key beside it, then the
/// default.
fn rope_theta(check: &Check, raw: &RawConfig) -> Result<f64, ConfigError> {
    let scaling = raw.rope_scaling.as_ref().filter(|rope| !rope.is_empty());
    let none = RawRope::default();
    let (key, rope) = match (scaling, &raw.rope_parameters) {
        (Some(rope), _) => ("rope_scaling", rope),
        (None, Some(rope)) => ("rope_parameters", rope),
        (None, None) => ("rope_parameters", &none),
    };
    let kind = rope.rope_type.as_deref().or(rope.legacy_type.as_deref()).unwrap_or("default");
    check.that(kind == "default", key, "rope_type default", kind)?;
    let partial = rope.partial_rotary_factor.or(raw.partial_rotary_factor).unwrap_or(1.0);
    check.that(partial == 1.0, "partial_rotary_factor", "1, or none", partial)?;
    if let Some(other) = rope.others.keys().next() {
        return Err(ConfigError::Unknown { section: check.0, key: format!("{key}.{other}") });
    }
    let theta = rope.rope_theta.or(raw.rope_theta).unwrap_or(10_000.0);
    check.that(theta.is_finite() && theta > 1.0, "rope_theta", "above 1", theta)?;
    Ok(theta)
}

/// Distribution of random embeddings.
const EMBEDDING: Init = Init::normal(0.02);

/// Added to the logits of keys that a query must not see; vanishes in a softmax and fits half precision.
const MASKED: f32 = -3e4;

/// `input_ids` \[batch, seq\] to `inputs_embeds` \[batch, seq, H\].
pub fn embedding_graph(config: &Config, prefix: &str, target: Target) -> Graph {
    let mut builder = Builder::new("embedding", prefix, target);
    let g = &mut builder;
    let ids = g.input("input_ids", Element::I64, dims!["batch", "seq"]);
    let table = g.param("model.embed_tokens.weight", &config.embedding_shape(), EMBEDDING);
    let embeds = g.gather(&table, &ids, 0); // [B, S, H]
    g.output("inputs_embeds", &embeds, dims!["batch", "seq", config.hidden_size]);
    builder.finish()
}

/// What the layers share, and the only difference between the flavours.
enum Context {
    Fused { position_ids: Value, seqlens_k: Value, total: Value, cosines: Value, sines: Value },
    Portable { mask: Value, cosines: Value, sines: Value },
}

/// `inputs_embeds` \[batch, seq, H\], positions and KV cache to `logits` \[batch, 1, V\] of the last position and the cache.
/// `context_length` is the length of the rotary tables.
pub fn decoder_graph(config: &Config, prefix: &str, target: Target, context_length: usize) -> Graph {
    let mut builder = Builder::new("decoder", prefix, target);
    let g = &mut builder;
    let embeds = g.input("inputs_embeds", Element::F32, dims!["batch", "seq", config.hidden_size]);
    let context = context(g, config, context_length);
    let past: Vec<[Value; 2]> = (0..config.layers)
        .map(|layer| {
            ["key", "value"].map(|part| {
                let name = format!("past_key_values.{layer}.{part}");
                g.input(name, Element::F32, dims!["batch", config.kv_heads, "past", config.head_dim])
            })
        })
        .collect();

    let (batch, seq) = (Dim::Axis("batch"), Dim::Axis("seq"));
    let mut x = g.reshape(&embeds, dims![batch.times(&seq), config.hidden_size]); // rows
    let mut normed = {
        let g = &mut g.scope("model.layers.0");
        bricks::rms_norm(g, "input_layernorm", &x, config.rms_norm_eps)
    };
    let mut present = Vec::new();
    for (index, past) in past.iter().enumerate() {
        let (out, cache) = {
            let g = &mut g.scope(format!("model.layers.{index}"));
            let (attended, cache) = attention(g, config, &context, &normed, past);
            let (norm, sum) =
                bricks::add_rms_norm(g, "post_attention_layernorm", &x, &attended, config.rms_norm_eps);
            x = sum;
            (mlp(g, config, &norm), cache)
        };
        present.push(cache);
        // The next norm belongs to the next layer, or is the last one.
        let next = match index + 1 {
            last if last == config.layers => "model.norm".to_owned(),
            next => format!("model.layers.{next}.input_layernorm"),
        };
        (normed, x) = bricks::add_rms_norm(g, &next, &x, &out, config.rms_norm_eps);
    }

    let logits = head(g, config, &normed); // [B, V]
    let logits = g.reshape(&logits, dims!["batch", 1, config.vocab_size]);
    g.output("logits", &logits, dims!["batch", 1, config.vocab_size]);
    for (layer, cache) in present.iter().enumerate() {
        for (part, value) in ["key", "value"].into_iter().zip(cache) {
            let dims = dims!["batch", config.kv_heads, "total", config.head_dim];
            g.output(&format!("present.{layer}.{part}"), value, dims);
        }
    }
    builder.finish()
}

fn context(g: &mut Builder, config: &Config, context_length: usize) -> Context {
    match g.target() {
        Target::Cpu => {
            let position_ids = g.input("position_ids", Element::I64, dims!["batch", "seq"]);
            let seqlens_k = g.input("seqlens_k", Element::I32, dims!["batch"]);
            let total = g.input("total_sequence_length", Element::I32, vec![]);
            let (cosines, sines) = rotary::tables(g, context_length, config.head_dim, config.rope_theta);
            Context::Fused { position_ids, seqlens_k, total, cosines, sines }
        }
        Target::Portable => {
            let attention_mask = g.input("attention_mask", Element::I64, dims!["batch", "total"]);
            let position_ids = g.input("position_ids", Element::I64, dims!["batch", "seq"]);
            let (cosines, sines) = rotary::tables(g, context_length, config.head_dim, config.rope_theta);
            let cosines = rotary::look_up(g, &cosines, &position_ids); // [B, 1, S, width / 2]
            let sines = rotary::look_up(g, &sines, &position_ids);
            let mask = causal_mask(g, &attention_mask);
            Context::Portable { mask, cosines, sines }
        }
    }
}

/// 0 where query i may see key j (j <= past + i, and not padding), [`MASKED`] elsewhere: \[B, 1, 1, S, total\].
fn causal_mask(g: &mut Builder, attention_mask: &Value) -> Value {
    let (seq, total) = (Dim::Axis("seq"), Dim::Axis("total"));
    let keys = g.range(&Dim::Fixed(0), &total); // [total]
    let queries = g.range(&Dim::Fixed(0), &seq); // [S]
    let (length, new) = (g.size(&total), g.size(&seq));
    let past = g.sub(&length, &new);
    let queries = g.add(&queries, &past);
    let queries = g.reshape(&queries, dims![&seq, 1]);
    let causal = g.less_or_equal(&keys, &queries); // [S, total]
    let one = g.ints(&[1], &[1]);
    let real = g.equal(attention_mask, &one); // [B, total]
    let real = g.reshape(&real, dims!["batch", 1, 1, 1, &total]);
    let visible = g.and(&causal, &real); // [B, 1, 1, S, total]
    let (zero, masked) = (g.float(0.0), g.float(MASKED));
    g.select(&visible, &zero, &masked)
}

/// Rows to rows, and the extended cache.
fn attention(
    g: &mut Builder,
    config: &Config,
    context: &Context,
    x: &Value,
    past: &[Value; 2],
) -> (Value, [Value; 2]) {
    let g = &mut g.scope("self_attn");
    let (heads, kv_heads) = (config.heads, config.kv_heads);
    let q = project(g, config, "q_proj", x, heads);
    let k = project(g, config, "k_proj", x, kv_heads);
    let v = project(g, config, "v_proj", x, kv_heads);
    let q = norm_heads(g, config, "q_norm", &q);
    let k = norm_heads(g, config, "k_norm", &k);
    let (attended, cache) = match context {
        Context::Fused { .. } => fused_attention(g, config, context, [&q, &k, &v], past),
        Context::Portable { .. } => portable_attention(g, config, context, [&q, &k, &v], past),
    };
    let attended = match config.attention_bias {
        true => bricks::linear(g, "o_proj", &attended, config.hidden_size),
        false => bricks::linear_no_bias(g, "o_proj", &attended, config.hidden_size),
    };
    (attended, cache)
}

fn project(g: &mut Builder, config: &Config, name: &str, x: &Value, heads: usize) -> Value {
    match config.attention_bias {
        true => bricks::linear(g, name, x, heads * config.head_dim),
        false => bricks::linear_no_bias(g, name, x, heads * config.head_dim),
    }
}

/// RMS norm of every head by itself: rows \[B * S, heads * width\] to the same.
fn norm_heads(g: &mut Builder, config: &Config, name: &str, x: &Value) -> Value {
    let (rows, columns) = (x.dim(0).clone(), bricks::width(x));
    let heads = columns / config.head_dim;
    let x = g.reshape(x, dims![rows.times(heads), config.head_dim]);
    let x = bricks::rms_norm(g, name, &x, config.rms_norm_eps);
    g.reshape(&x, dims![&rows, columns])
}

fn fused_attention(
    g: &mut Builder,
    config: &Config,
    context: &Context,
    qkv: [&Value; 3],
    past: &[Value; 2],
) -> (Value, [Value; 2]) {
    let Context::Fused { position_ids, seqlens_k, total, cosines, sines } = context else {
        unreachable!("the caller matched the flavour");
    };
    let (batch, seq) = (Dim::Axis("batch"), Dim::Axis("seq"));
    let [q, k, v] = qkv.map(|x| g.reshape(x, dims![&batch, &seq, bricks::width(x)]));
    let inputs = CachedAttention {
        query: &q,
        key: &k,
        value: &v,
        past_key: &past[0],
        past_value: &past[1],
        seqlens_k,
        total_sequence_length: total,
        rotary: (cosines, sines),
        position_ids,
        heads: config.heads,
        kv_heads: config.kv_heads,
        scale: (config.head_dim as f32).sqrt().recip(),
    };
    let [o, key, value] = g.cached_attention(&inputs, &Dim::Axis("total")); // [B, S, heads * width]
    let o = g.reshape(&o, dims![batch.times(&seq), config.heads * config.head_dim]);
    (o, [key, value])
}

fn portable_attention(
    g: &mut Builder,
    config: &Config,
    context: &Context,
    [q, k, v]: [&Value; 3],
    past: &[Value; 2],
) -> (Value, [Value; 2]) {
    let Context::Portable { mask, cosines, sines } = context else {
        unreachable!("the caller matched the flavour");
    };
    let (batch, seq, total) = (Dim::Axis("batch"), Dim::Axis("seq"), Dim::Axis("total"));
    let (heads, kv_heads, width) = (config.heads, config.kv_heads, config.head_dim);
    let group = heads / kv_heads;

    let q = bricks::expand_heads(g, q, &batch, &seq, heads); // [B, heads, S, width]
    let k = bricks::expand_heads(g, k, &batch, &seq, kv_heads);
    let v = bricks::expand_heads(g, v, &batch, &seq, kv_heads);
    let q = rotary::rotate(g, &q, cosines, sines);
    let q = g.scale(&q, (width as f32).sqrt().recip());
    let k = rotary::rotate(g, &k, cosines, sines);
    let key = extend(g, &past[0], &k, &total); // [B, kv_heads, total, width]
    let value = extend(g, &past[1], &v, &total);

    // The heads of a group lie side by side: they become more queries of one key/value head, and nothing is repeated.
    let queries = seq.times(group);
    let q = g.reshape(&q, dims![&batch, kv_heads, &queries, width]);
    let transposed = g.transpose(&key, &[0, 1, 3, 2]);
    let p = g.matmul(&q, &transposed); // [B, kv_heads, group * S, total]
    let p = g.reshape(&p, dims![&batch, kv_heads, group, &seq, &total]);
    let p = g.add(&p, mask);
    let p = g.softmax(&p);
    let p = g.reshape(&p, dims![&batch, kv_heads, &queries, &total]);
    let o = g.matmul(&p, &value); // [B, kv_heads, group * S, width]
    let o = g.reshape(&o, dims![&batch, heads, &seq, width]);
    (bricks::merge_heads(g, &o), [key, value])
}

/// Appends along the sequence axis; the result's length is the contract's `total`.
fn extend(g: &mut Builder, past: &Value, new: &Value, total: &Dim) -> Value {
    let mut joined = g.concat(&[past, new], 2);
    joined.dims[2] = total.clone();
    joined
}

/// Gated MLP: rows to rows.
fn mlp(g: &mut Builder, config: &Config, x: &Value) -> Value {
    let g = &mut g.scope("mlp");
    let gate = bricks::linear_no_bias(g, "gate_proj", x, config.intermediate_size);
    let up = bricks::linear_no_bias(g, "up_proj", x, config.intermediate_size);
    let gate = bricks::silu(g, &gate);
    let h = g.mul(&gate, &up);
    bricks::linear_no_bias(g, "down_proj", &h, config.hidden_size)
}

/// Logits \[B, V\] of the last position.
fn head(g: &mut Builder, config: &Config, normed: &Value) -> Value {
    let x = g.reshape(normed, dims!["batch", "seq", config.hidden_size]);
    let last = g.skip(&x, -1, 1, 1.into()); // [B, 1, H]
    let last = g.reshape(&last, dims!["batch", config.hidden_size]);
    let name = if config.tied { "model.embed_tokens.weight" } else { "lm_head.weight" };
    let weight = g.param(name, &config.embedding_shape(), EMBEDDING);
    g.gemm(&last, &weight, None)
}
