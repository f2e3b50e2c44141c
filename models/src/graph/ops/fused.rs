//! Operators of ONNX Runtime and of opsets beyond 18: only for [`crate::Target::Cpu`].

use crate::graph::{Attribute, Builder, Dim, Element, Value};

/// Domain of ONNX Runtime's own operators.
pub(super) const MICROSOFT: &str = "com.microsoft";

/// `accuracy_level` of `MatMulNBits`: it multiplies in int8.
pub const INT8_ACCUMULATION: i64 = 4;

/// Inputs of [`Builder::group_query_attention`].
#[derive(Debug)]
pub struct GroupQueryAttention<'a> {
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
    /// Position of each token, \[batch, seq\].
    pub position_ids: &'a Value,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Factor on the products.
    pub scale: f32,
}

/// ONNX Runtime's fused operators; only for [`crate::Target::Cpu`].
impl Builder {
    /// `com.microsoft.MultiHeadAttention`, without mask: Q and K \[batch, seq, heads * width\], V may have another width.
    pub fn multi_head_attention(
        &mut self,
        q: &Value,
        k: &Value,
        v: &Value,
        heads: usize,
        scale: f32,
    ) -> Value {
        let attributes =
            vec![("num_heads", Attribute::Int(heads as i64)), ("scale", Attribute::Float(scale))];
        let dims = vec![q.dim(0).clone(), q.dim(1).clone(), v.dim(2).clone()];
        let outputs = vec![Some((q.element, dims))];
        let inputs = [Some(q), Some(k), Some(v)];
        self.emit_in(MICROSOFT, "MultiHeadAttention", &inputs, attributes, outputs).remove(0)
    }

    /// `com.microsoft.GroupQueryAttention` with rotary embedding inside and the cache extended in place: the attention's
    /// output, and the present keys and values under `present` (a graph's outputs).
    pub fn group_query_attention(&mut self, a: &GroupQueryAttention<'_>, total: &Dim) -> [Value; 3] {
        let attributes = vec![
            ("num_heads", Attribute::Int(a.heads as i64)),
            ("kv_num_heads", Attribute::Int(a.kv_heads as i64)),
            ("scale", Attribute::Float(a.scale)),
            ("do_rotary", Attribute::Int(1)),
            ("rotary_interleaved", Attribute::Int(0)),
        ];
        let mut present = a.past_key.dims.clone();
        present[2] = total.clone();
        let outputs = vec![
            Some((Element::F32, a.query.dims.clone())),
            Some((Element::F32, present.clone())),
            Some((Element::F32, present)),
        ];
        let inputs = [
            Some(a.query),
            Some(a.key),
            Some(a.value),
            Some(a.past_key),
            Some(a.past_value),
            Some(a.seqlens_k),
            Some(a.total_sequence_length),
            Some(a.rotary.0),
            Some(a.rotary.1),
            Some(a.position_ids),
        ];
        let outputs = self.emit_in(MICROSOFT, "GroupQueryAttention", &inputs, attributes, outputs);
        outputs.try_into().unwrap_or_else(|_| unreachable!("three outputs were declared"))
    }

    /// `SimplifiedLayerNormalization`: x / rms(x) * scale over the last axis.
    pub fn simplified_layer_normalization(&mut self, x: &Value, scale: &Value, epsilon: f32) -> Value {
        let attributes = vec![
            ("axis", Attribute::Int(-1)),
            ("epsilon", Attribute::Float(epsilon)),
            ("stash_type", Attribute::Int(1)),
        ];
        self.emit("SimplifiedLayerNormalization", &[x, scale], attributes, x.element, x.dims.clone())
    }

    /// `com.microsoft.SkipSimplifiedLayerNormalization`: normalises x + skip; returns the norm and the sum.
    pub fn skip_simplified_layer_normalization(
        &mut self,
        x: &Value,
        skip: &Value,
        scale: &Value,
        epsilon: f32,
    ) -> (Value, Value) {
        let attributes = vec![("epsilon", Attribute::Float(epsilon))];
        let output = Some((x.element, x.dims.clone()));
        let inputs = [Some(x), Some(skip), Some(scale)];
        let outputs = vec![output.clone(), None, None, output];
        let mut outputs =
            self.emit_in(MICROSOFT, "SkipSimplifiedLayerNormalization", &inputs, attributes, outputs);
        let sum = outputs.remove(1);
        (outputs.remove(0), sum)
    }

    /// `Gelu` of opset 20, exact.
    pub fn gelu_fused(&mut self, x: &Value) -> Value {
        self.emit("Gelu", &[x], vec![], x.element, x.dims.clone())
    }

    /// `com.microsoft.QuickGelu`: x * sigmoid(alpha * x).
    pub fn quick_gelu_fused(&mut self, x: &Value, alpha: f32) -> Value {
        let outputs = vec![Some((x.element, x.dims.clone()))];
        let attributes = vec![("alpha", Attribute::Float(alpha))];
        self.emit_in(MICROSOFT, "QuickGelu", &[Some(x)], attributes, outputs).remove(0)
    }
}
