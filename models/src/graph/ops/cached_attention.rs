//! Attention to a cache, in ONNX Runtime's operators, and as an operator of our own whose body these are.

use crate::dims;
use crate::graph::MICROSOFT;
use crate::graph::{Attribute, Builder, Dim, Element, Function, Value};
use arrcoc_bundle::names::operator::{CACHED_ATTENTION, GROUP_QUERY_ATTENTION};

/// Attributes of [`cached_attention`], as `GroupQueryAttention` calls them: query heads, key/value heads, and
/// the factor on the products.
const HEADS: &str = "num_heads";
const KV_HEADS: &str = "kv_num_heads";
const SCALE: &str = "scale";

/// Inputs of [`Builder::cached_attention`] and [`Builder::rotated_attention`].
#[derive(Debug)]
pub struct CachedAttention<'a> {
    /// \[batch, seq, heads * head_dim\], not yet rotated.
    pub query: &'a Value,
    /// \[batch, seq, kv_heads * head_dim\], not yet rotated.
    pub key: &'a Value,
    /// \[batch, seq, kv_heads * head_dim\].
    pub value: &'a Value,
    /// \[batch, kv_heads, past, head_dim\].
    pub past_key: &'a Value,
    /// \[batch, kv_heads, past, head_dim\].
    pub past_value: &'a Value,
    /// Length of each row minus one, \[batch\].
    pub seqlens_k: &'a Value,
    /// Longest length, a scalar.
    pub total_sequence_length: &'a Value,
    /// Cosines and sines, \[positions, head_dim / 2\] each.
    pub rotary: (&'a Value, &'a Value),
    /// Row of each token in those tables, \[batch, seq\].
    pub position_ids: &'a Value,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Factor on the products.
    pub scale: f32,
}

impl CachedAttention<'_> {
    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![
            (HEADS, Attribute::Int(self.heads as i64)),
            (KV_HEADS, Attribute::Int(self.kv_heads as i64)),
            (SCALE, Attribute::Float(self.scale)),
        ]
    }
}

/// `CachedAttention`: causal attention with rotary embedding inside and the cache extended in place. The body
/// is ONNX Runtime's `RotaryEmbedding` of queries and keys, and its `GroupQueryAttention`. The
/// latter could rotate too, but asks for tables as long as the cache.
fn cached_attention() -> Function {
    let past = || dims!["batch", "kv_heads", "past", "head_dim"];
    let table = || dims!["positions", "half"];
    let inputs = [
        ("query", Element::F32, dims!["batch", "seq", "queries"]),
        ("key", Element::F32, dims!["batch", "seq", "keys"]),
        ("value", Element::F32, dims!["batch", "seq", "keys"]),
        ("past_key", Element::F32, past()),
        ("past_value", Element::F32, past()),
        ("seqlens_k", Element::I32, dims!["batch"]),
        ("total_sequence_length", Element::I32, vec![]),
        ("cosines", Element::F32, table()),
        ("sines", Element::F32, table()),
        ("position_ids", Element::I64, dims!["batch", "seq"]),
    ];
    Function::of_several(CACHED_ATTENTION, &[HEADS, KV_HEADS, SCALE], &inputs, |g, inputs| {
        let [query, key, value, past_key, past_value, lengths, total, cosines, sines, positions] = inputs
        else {
            unreachable!("ten inputs were declared")
        };
        let attributes = vec![
            (HEADS, Attribute::Reference(HEADS)),
            (KV_HEADS, Attribute::Reference(KV_HEADS)),
            (SCALE, Attribute::FloatReference(SCALE)),
        ];
        let [query, key] = [query, key].map(|x| g.rotary_embedding(x, positions, cosines, sines));
        let inputs = [&query, &key, value, past_key, past_value, lengths, total];
        let outputs = group_query_attention(g, inputs, attributes, &Dim::Axis("total"));
        ["result", "present_key", "present_value"].into_iter().zip(outputs).collect()
    })
}

/// ONNX Runtime's attention, whose past and present are one buffer.
fn group_query_attention(
    g: &mut Builder,
    inputs: [&Value; 7],
    attributes: Vec<(&'static str, Attribute)>,
    total: &Dim,
) -> [Value; 3] {
    let outputs = outputs(inputs[0], inputs[3], total).map(Some).into();
    let outputs = g.emit_in(MICROSOFT, GROUP_QUERY_ATTENTION, &inputs.map(Some), attributes, outputs);
    outputs.try_into().unwrap_or_else(|_| unreachable!("three outputs were declared"))
}

/// The attention's output, and the present keys and values.
fn outputs(query: &Value, past: &Value, total: &Dim) -> [(Element, Vec<Dim>); 3] {
    let mut present = past.dims.clone();
    present[2] = total.clone();
    [query.dims.clone(), present.clone(), present].map(|dims| (Element::F32, dims))
}

impl Builder {
    /// Attention to a cache that is `total` long afterwards: its output, and the present keys and values (a
    /// graph's outputs). Only where the target [has operators of
    /// ours](arrcoc_bundle::Target::has_own_operators).
    pub fn cached_attention(&mut self, a: &CachedAttention<'_>, total: &Dim) -> [Value; 3] {
        let inputs = [
            a.query,
            a.key,
            a.value,
            a.past_key,
            a.past_value,
            a.seqlens_k,
            a.total_sequence_length,
            a.rotary.0,
            a.rotary.1,
            a.position_ids,
        ];
        let outputs = outputs(a.query, a.past_key, total).into();
        let outputs = self.call_of_several(cached_attention(), &inputs, a.attributes(), outputs);
        outputs.try_into().unwrap_or_else(|_| unreachable!("three outputs were declared"))
    }

    /// The same in ONNX Runtime's operators. Only where the target [shares the
    /// cache](arrcoc_bundle::Target::shares_cache).
    pub fn rotated_attention(&mut self, a: &CachedAttention<'_>, total: &Dim) -> [Value; 3] {
        let (cosines, sines) = a.rotary;
        let [query, key] = [a.query, a.key].map(|x| self.rotary_embedding(x, a.position_ids, cosines, sines));
        let cache = [a.past_key, a.past_value, a.seqlens_k, a.total_sequence_length];
        let [past_key, past_value, lengths, longest] = cache;
        let inputs = [&query, &key, a.value, past_key, past_value, lengths, longest];
        group_query_attention(self, inputs, a.attributes(), total)
    }
}
