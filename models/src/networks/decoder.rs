//! The decoder of Llama, Mistral, Qwen2, Qwen3, and of Qwen's models with vision, with the parameter names
//! that their `...ForCausalLM` have in transformers.
//!
//! Pre-norm transformer with grouped-query attention, rotary positions and a gated MLP; Qwen3 also normalises
//! queries and keys. In Qwen3.5 most layers have a gated delta net for their attention ([`delta_net`]), and
//! the attention of the others has a gate behind it. Two flavours come from this one file. *Fused* lets one
//! operator extend a shared KV buffer in place and attend: one of our own that rotates too, or ONNX Runtime's
//! behind its rotation. *Portable* spells the same out in standard operators with past and present tensors.
//! Embedding is a graph of its own, since visual tokens enter as embeddings; tied weights are stored once for
//! both.

mod config;
mod delta_net;
mod rope;
#[cfg(test)]
mod tests;

pub use config::{Config, Kind};
pub use delta_net::DeltaNet;
pub use rope::{Axes, Rope, Scaling};

use rope::rope;

use arrcoc_bundle::names::{axis, cache, tensor};
use arrcoc_bundle::{Meaning, Role, Target};

use crate::bricks::{self, rotary};
use crate::dims;
use crate::graph::ops::cached_attention::CachedAttention;
use crate::graph::ops::gated_delta::{Runs, longest_run};
use crate::graph::{Builder, Dim, Element, Graph, Init, Value};

/// What a checkpoint calls the decoder.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    /// Module of `embed_tokens`, `layers` and `norm`.
    pub body: &'a str,
    /// Module of the output head; no tensor has that name where the weights are tied.
    pub head: &'a str,
}

/// Distribution of random embeddings.
const EMBEDDING: Init = Init::normal(0.02);

/// Added to the logits of keys that a query must not see; vanishes in a softmax and fits half precision.
const MASKED: f32 = -3e4;

/// `input_ids` \[batch, seq\] to `inputs_embeds` \[batch, seq, H\].
pub fn embedding_graph(config: &Config, names: Names<'_>, target: Target) -> Graph {
    let mut builder = Builder::new("embedding", Role::Embedding, names.body, target);
    let g = &mut builder;
    let ids = g.input(tensor::INPUT_IDS, Element::I64, dims![axis::BATCH, axis::SEQ]);
    let table = g.param("embed_tokens.weight", &config.embedding_shape(), EMBEDDING);
    let embeds = g.gather(&table, &ids, 0); // [B, S, H]
    g.output(
        tensor::INPUTS_EMBEDS,
        Meaning::Picked,
        &embeds,
        dims![axis::BATCH, axis::SEQ, config.hidden_size],
    );
    builder.finish()
}

/// What the layers share.
struct Context {
    attention: AttentionContext,
    /// Where there are delta nets whose rule is spelt out.
    runs: Option<Runs>,
}

/// What the layers with attention share, and the only difference between the flavours.
enum AttentionContext {
    /// Cosines and sines by token \[B * S, head / 2\], and each token's row in them \[B, S\].
    Fused { cosines: Value, sines: Value, rows: Value, seqlens_k: Value, total: Value },
    /// Cosines and sines by token \[B, 1, S, rotated / 2\].
    Portable { mask: Value, cosines: Value, sines: Value },
}

/// `inputs_embeds` \[batch, seq, H\], `position_ids` \[3, batch, seq\], `deep_embeds` \[levels, batch, seq,
/// H\] where there are levels, and what the layers remember to `logits` \[batch, 1, V\] of the last position
/// and what the layers then remember. `context_length` is how many positions there are.
pub fn graph(config: &Config, names: Names<'_>, target: Target, context_length: usize) -> Graph {
    let mut builder = Builder::new("decoder", Role::Decoder, "", target);
    let g = &mut builder;
    let (last, present) = {
        let g = &mut g.scope(names.body);
        let embeds =
            g.input(tensor::INPUTS_EMBEDS, Element::F32, dims![axis::BATCH, axis::SEQ, config.hidden_size]);
        let context = context(g, config, context_length);
        let deep = deep_embeds(g, config);
        let past = past(g, config);
        let (normed, present) = layers(g, config, &context, &embeds, &deep, &past);
        let x = g.reshape(&normed, dims![axis::BATCH, axis::SEQ, config.hidden_size]);
        let last = g.skip(&x, -1, 1, 1.into()); // [B, 1, H]
        (g.reshape(&last, dims![axis::BATCH, config.hidden_size]), present)
    };
    let logits = head(g, config, names, &last); // [B, V]
    let logits = g.reshape(&logits, dims![axis::BATCH, 1, config.vocab_size]);
    g.output(tensor::LOGITS, Meaning::Logits, &logits, dims![axis::BATCH, 1, config.vocab_size]);
    for (layer, values) in present.iter().enumerate() {
        let memory = memory(config, target, layer, axis::TOTAL);
        for (Memory { present, dims, .. }, value) in memory.into_iter().zip(values) {
            g.bare_output(&present, value, dims);
        }
    }
    builder.finish()
}

/// One of the two tensors that a layer remembers of earlier tokens.
struct Memory {
    past: String,
    present: String,
    dims: Vec<Dim>,
}

/// Keys and values of `length` tokens, or the memory of a delta net.
fn memory(config: &Config, target: Target, layer: usize, length: &'static str) -> [Memory; 2] {
    match config.delta_net(layer) {
        None => cache::PARTS.map(|part| {
            let dims = dims![axis::BATCH, config.kv_heads, length, config.cached_width(target)];
            Memory { past: cache::past(layer, part), present: cache::present(layer, part), dims }
        }),
        Some(net) => {
            let memory = |part, dims| {
                let (past, present) = (cache::past_state(layer, part), cache::present_state(layer, part));
                Memory { past, present, dims }
            };
            let [window, matrix] = cache::STATE_PARTS;
            [memory(window, net.window_dims()), memory(matrix, net.matrix_dims())]
        }
    }
}

/// What the layers remember of earlier tokens.
fn past(g: &mut Builder, config: &Config) -> Vec<[Value; 2]> {
    let mut past = Vec::new();
    for layer in 0..config.layers {
        let memory = memory(config, g.target(), layer, axis::PAST);
        past.push(memory.map(|Memory { past, dims, .. }| g.input(past, Element::F32, dims)));
    }
    past
}

/// What is added to the hidden states behind the first layers, rows of one level each; zeros where a token is
/// no visual one.
fn deep_embeds(g: &mut Builder, config: &Config) -> Vec<Value> {
    let (levels, hidden) = (config.deep_levels, config.hidden_size);
    if levels == 0 {
        return Vec::new();
    }
    let all = g.input(tensor::DEEP_EMBEDS, Element::F32, dims![levels, axis::BATCH, axis::SEQ, hidden]);
    let rows = Dim::Axis(axis::BATCH).times(axis::SEQ);
    let split = g.split(&all, &vec![1; levels], 0); // levels x [1, B, S, H]
    split.iter().map(|level| g.reshape(level, dims![&rows, hidden])).collect()
}

/// All layers and the last norm: rows, and the extended caches.
fn layers(
    g: &mut Builder,
    config: &Config,
    context: &Context,
    embeds: &Value,
    deep: &[Value],
    past: &[[Value; 2]],
) -> (Value, Vec<[Value; 2]>) {
    let rows = embeds.dim(0).times(embeds.dim(1));
    let mut x = g.reshape(embeds, dims![rows, config.hidden_size]);
    let mut normed = bricks::rms_norm(g, "layers.0.input_layernorm", &x, config.norm());
    let mut present = Vec::new();
    for (index, past) in past.iter().enumerate() {
        let mut out = {
            let g = &mut g.scope(format!("layers.{index}"));
            let (attended, cache) = match config.delta_net(index) {
                Some(net) => delta_net::layer(g, config, net, context.runs.as_ref(), &normed, past),
                None => attention(g, config, &context.attention, &normed, past),
            };
            present.push(cache);
            let (norm, sum) =
                bricks::add_rms_norm(g, "post_attention_layernorm", &x, &attended, config.norm());
            x = sum;
            mlp(g, config, &norm)
        };
        if let Some(deep) = deep.get(index) {
            x = g.add(&x, &out);
            out = deep.clone();
        }
        // The next norm belongs to the next layer, or is the last one.
        let next = match index + 1 {
            last if last == config.layers => "norm".to_owned(),
            next => format!("layers.{next}.input_layernorm"),
        };
        (normed, x) = bricks::add_rms_norm(g, &next, &x, &out, config.norm());
    }
    (normed, present)
}

fn context(g: &mut Builder, config: &Config, context_length: usize) -> Context {
    let attention = attention_context(g, config, context_length);
    let spelt_out = config.delta_net.is_some() && !g.target().has_own_operators();
    let runs = spelt_out.then(|| Runs::new(g, longest_run(g.target())));
    Context { attention, runs }
}

fn attention_context(g: &mut Builder, config: &Config, context_length: usize) -> AttentionContext {
    let (batch, seq) = (Dim::Axis(axis::BATCH), Dim::Axis(axis::SEQ));
    let half = config.rope.width / 2;
    match g.target().shares_cache() {
        true => {
            let position_ids = g.input(tensor::POSITION_IDS, Element::I64, dims![3, axis::BATCH, axis::SEQ]);
            let seqlens_k = g.input(tensor::SEQLENS_K, Element::I32, dims![axis::BATCH]);
            let total = g.input(tensor::TOTAL_SEQUENCE_LENGTH, Element::I32, vec![]);
            let (cosines, sines) = rope(g, config, &position_ids, context_length);
            let tokens = batch.times(&seq);
            let [cosines, sines] = [(cosines, 1.0), (sines, 0.0)].map(|(x, still)| {
                let x = g.reshape(&x, dims![&tokens, half]);
                fill(g, &x, config.cached_width(g.target()) / 2, still)
            });
            let rows = g.range(&Dim::Fixed(0), &tokens);
            let rows = g.reshape(&rows, dims![&batch, &seq]);
            AttentionContext::Fused { cosines, sines, rows, seqlens_k, total }
        }
        false => {
            let attention_mask =
                g.input(tensor::ATTENTION_MASK, Element::I64, dims![axis::BATCH, axis::TOTAL]);
            let position_ids = g.input(tensor::POSITION_IDS, Element::I64, dims![3, axis::BATCH, axis::SEQ]);
            let (cosines, sines) = rope(g, config, &position_ids, context_length);
            let [cosines, sines] = [cosines, sines].map(|x| g.reshape(&x, dims![&batch, 1, &seq, half]));
            let mask = causal_mask(g, &attention_mask);
            AttentionContext::Portable { mask, cosines, sines }
        }
    }
}

/// Rows with `number` behind them, until they are `width` wide.
fn fill(g: &mut Builder, rows: &Value, width: usize, number: f32) -> Value {
    let missing = width - bricks::width(rows);
    if missing == 0 {
        return rows.clone();
    }
    let filling = g.floats(&[1, missing], &vec![number; missing]);
    let filling = g.expand(&filling, dims![rows.dim(0), missing]);
    g.concat(&[rows, &filling], -1)
}

/// 0 where query i may see key j (j <= past + i, and not padding), [`MASKED`] elsewhere: \[B, 1, 1, S,
/// total\].
fn causal_mask(g: &mut Builder, attention_mask: &Value) -> Value {
    let (seq, total) = (Dim::Axis(axis::SEQ), Dim::Axis(axis::TOTAL));
    let keys = g.range(&Dim::Fixed(0), &total); // [total]
    let queries = g.range(&Dim::Fixed(0), &seq); // [S]
    let (length, new) = (g.size(&total), g.size(&seq));
    let past = g.sub(&length, &new);
    let queries = g.add(&queries, &past);
    let queries = g.reshape(&queries, dims![&seq, 1]);
    let causal = g.less_or_equal(&keys, &queries); // [S, total]
    let one = g.ints(&[1], &[1]);
    let real = g.equal(attention_mask, &one); // [B, total]
    let real = g.reshape(&real, dims![axis::BATCH, 1, 1, 1, &total]);
    let visible = g.and(&causal, &real); // [B, 1, 1, S, total]
    let (zero, masked) = (g.float(0.0), g.float(MASKED));
    g.select(&visible, &zero, &masked)
}

/// Rows to rows, and the extended cache.
fn attention(
    g: &mut Builder,
    config: &Config,
    context: &AttentionContext,
    x: &Value,
    past: &[Value; 2],
) -> (Value, [Value; 2]) {
    let g = &mut g.scope("self_attn");
    let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let (q, gate) = match config.output_gate {
        true => gated_queries(g, config, x),
        false => (project(g, "q_proj", x, queries, config.qkv_bias), None),
    };
    let k = project(g, "k_proj", x, keys, config.qkv_bias);
    let v = project(g, "v_proj", x, keys, config.qkv_bias);
    let (q, k) = match config.head_norms {
        true => (norm_heads(g, config, "q_norm", &q), norm_heads(g, config, "k_norm", &k)),
        false => (q, k),
    };
    let (attended, cache) = match context {
        AttentionContext::Fused { .. } => fused_attention(g, config, context, [&q, &k, &v], past),
        AttentionContext::Portable { .. } => portable_attention(g, config, context, [&q, &k, &v], past),
    };
    let attended = gate.map_or(attended.clone(), |gate| g.mul(&attended, &gate));
    (project(g, "o_proj", &attended, config.hidden_size, config.output_bias), cache)
}

/// Queries and, behind each head's, gates between 0 and 1: rows \[B * S, heads * width\] both.
fn gated_queries(g: &mut Builder, config: &Config, x: &Value) -> (Value, Option<Value>) {
    let (heads, width, rows) = (config.heads, config.head_dim, x.dim(0).clone());
    let both = project(g, "q_proj", x, 2 * heads * width, config.qkv_bias);
    let both = g.reshape(&both, dims![&rows, heads, 2 * width]);
    let parts = g.split(&both, &[width, width], -1);
    let [queries, gates] = [0, 1].map(|part| g.reshape(&parts[part], dims![&rows, heads * width]));
    (queries, Some(g.sigmoid(&gates)))
}

fn project(g: &mut Builder, name: &str, x: &Value, out: usize, bias: bool) -> Value {
    match bias {
        true => bricks::linear(g, name, x, out),
        false => bricks::linear_no_bias(g, name, x, out),
    }
}

/// RMS norm of every head by itself: rows \[B * S, heads * width\] to the same.
fn norm_heads(g: &mut Builder, config: &Config, name: &str, x: &Value) -> Value {
    let (rows, columns) = (x.dim(0).clone(), bricks::width(x));
    let heads = columns / config.head_dim;
    let x = g.reshape(x, dims![rows.times(heads), config.head_dim]);
    let x = bricks::rms_norm(g, name, &x, config.norm());
    g.reshape(&x, dims![&rows, columns])
}

/// Where only the first numbers of a head are rotated: each head in an order in which a rotation of whole
/// heads pairs the same numbers, those that stay with each other. Where heads are wider in the cache, zeros
/// stay with zeros. Products of queries and keys do not change.
fn pairs_apart(g: &mut Builder, config: &Config, x: &Value) -> Value {
    let (half, rest) = (config.rope.width / 2, (config.head_dim - config.rope.width) / 2);
    let zeros = (config.cached_width(g.target()) - config.head_dim) / 2;
    if rest == 0 && zeros == 0 {
        return x.clone();
    }
    let (rows, heads) = (x.dim(0).clone(), bricks::width(x) / config.head_dim);
    let x = g.reshape(x, dims![&rows, heads, config.head_dim]);
    let lengths = [half, half, rest, rest];
    let parts = g.split(&x, &lengths[..if rest == 0 { 2 } else { 4 }], -1);
    let zeros = (zeros > 0).then(|| nothing(g, &rows, heads, zeros));
    let halves = [0, 1].map(|side| parts.iter().skip(side).step_by(2).chain(&zeros));
    let x = g.concat(&halves.into_iter().flatten().collect::<Vec<_>>(), -1);
    g.reshape(&x, dims![&rows, heads * config.cached_width(g.target())])
}

/// Heads of values as wide as in the cache.
fn widened(g: &mut Builder, config: &Config, x: &Value) -> Value {
    let width = config.cached_width(g.target());
    if width == config.head_dim {
        return x.clone();
    }
    let (rows, heads) = (x.dim(0).clone(), bricks::width(x) / config.head_dim);
    let zeros = nothing(g, &rows, heads, width - config.head_dim);
    let x = g.reshape(x, dims![&rows, heads, config.head_dim]);
    let x = g.concat(&[&x, &zeros], -1);
    g.reshape(&x, dims![&rows, heads * width])
}

/// Zeros \[rows, heads, width\].
fn nothing(g: &mut Builder, rows: &Dim, heads: usize, width: usize) -> Value {
    let zero = g.floats(&[1, 1, 1], &[0.0]);
    g.expand(&zero, dims![rows, heads, width])
}

/// The other way: rows of heads \[B * S, heads * width\] without what was filled up.
fn narrowed(g: &mut Builder, config: &Config, x: &Value) -> Value {
    let (rows, heads, width) = (x.dim(0).clone(), config.heads, config.cached_width(g.target()));
    if width == config.head_dim {
        return x.clone();
    }
    let x = g.reshape(x, dims![&rows, heads, width]);
    let x = g.split(&x, &[config.head_dim, width - config.head_dim], -1).remove(0);
    g.reshape(&x, dims![&rows, heads * config.head_dim])
}

/// Rotates the first numbers of each head of x \[batch, heads, seq, width\].
fn rotate(g: &mut Builder, config: &Config, x: &Value, cosines: &Value, sines: &Value) -> Value {
    let rest = config.head_dim - config.rope.width;
    if rest == 0 {
        return rotary::rotate(g, x, cosines, sines);
    }
    let parts = g.split(x, &[config.rope.width, rest], -1);
    let rotated = rotary::rotate(g, &parts[0], cosines, sines);
    g.concat(&[&rotated, &parts[1]], -1)
}

fn fused_attention(
    g: &mut Builder,
    config: &Config,
    context: &AttentionContext,
    [q, k, v]: [&Value; 3],
    past: &[Value; 2],
) -> (Value, [Value; 2]) {
    let AttentionContext::Fused { cosines, sines, rows, seqlens_k, total } = context else {
        unreachable!("the caller matched the flavour");
    };
    let (batch, seq) = (Dim::Axis(axis::BATCH), Dim::Axis(axis::SEQ));
    let (q, k, v) = (pairs_apart(g, config, q), pairs_apart(g, config, k), widened(g, config, v));
    let [q, k, v] = [&q, &k, &v].map(|x| g.reshape(x, dims![&batch, &seq, bricks::width(x)]));
    let inputs = CachedAttention {
        query: &q,
        key: &k,
        value: &v,
        past_key: &past[0],
        past_value: &past[1],
        seqlens_k,
        total_sequence_length: total,
        rotary: (cosines, sines),
        position_ids: rows,
        heads: config.heads,
        kv_heads: config.kv_heads,
        scale: (config.head_dim as f32).sqrt().recip(),
    };
    let total = Dim::Axis(axis::TOTAL);
    let [o, key, value] = match g.target().has_own_operators() {
        true => g.cached_attention(&inputs, &total),
        false => g.rotated_attention(&inputs, &total),
    }; // [B, S, heads * width]
    let o = g.reshape(&o, dims![batch.times(&seq), bricks::width(&q)]);
    (narrowed(g, config, &o), [key, value])
}

fn portable_attention(
    g: &mut Builder,
    config: &Config,
    context: &AttentionContext,
    [q, k, v]: [&Value; 3],
    past: &[Value; 2],
) -> (Value, [Value; 2]) {
    let AttentionContext::Portable { mask, cosines, sines } = context else {
        unreachable!("the caller matched the flavour");
    };
    let (batch, seq, total) = (Dim::Axis(axis::BATCH), Dim::Axis(axis::SEQ), Dim::Axis(axis::TOTAL));
    let (heads, kv_heads, width) = (config.heads, config.kv_heads, config.head_dim);
    let group = heads / kv_heads;

    let q = bricks::expand_heads(g, q, &batch, &seq, heads); // [B, heads, S, width]
    let k = bricks::expand_heads(g, k, &batch, &seq, kv_heads);
    let v = bricks::expand_heads(g, v, &batch, &seq, kv_heads);
    let q = rotate(g, config, &q, cosines, sines);
    let q = g.scale(&q, (width as f32).sqrt().recip());
    let k = rotate(g, config, &k, cosines, sines);
    let key = extend(g, &past[0], &k, &total); // [B, kv_heads, total, width]
    let value = extend(g, &past[1], &v, &total);

    // The heads of a group lie side by side: they become more queries of one key/value head, and nothing is
    // repeated.
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
    let gate = project(g, "gate_proj", x, config.intermediate_size, config.mlp_bias);
    let up = project(g, "up_proj", x, config.intermediate_size, config.mlp_bias);
    let gate = config.activation.apply(g, &gate);
    let h = g.mul(&gate, &up);
    project(g, "down_proj", &h, config.hidden_size, config.mlp_bias)
}

/// Logits \[B, V\] of hidden states \[B, H\].
fn head(g: &mut Builder, config: &Config, names: Names<'_>, x: &Value) -> Value {
    let module = match config.tied {
        true => format!("{}.embed_tokens", names.body),
        false => names.head.to_owned(),
    };
    let g = &mut g.scope(module);
    let weight = g.param("weight", &config.embedding_shape(), EMBEDDING);
    g.gemm(x, &weight, None)
}
