//! Operators of ONNX Runtime and of opsets beyond 18: not for [portable](arrcoc_bundle::Target::Portable)
//! graphs.

use crate::graph::{Attribute, Builder, MICROSOFT, Value};
use arrcoc_bundle::names::operator::ROTARY_EMBEDDING;

/// `accuracy_level` of `MatMulNBits`: it multiplies in int8.
pub const INT8_ACCUMULATION: i64 = 4;

/// ONNX Runtime's fused operators.
impl Builder {
    /// `com.microsoft.MultiHeadAttention`, without mask: Q and K \[batch, seq, heads * width\], V may have
    /// another width.
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

    /// `com.microsoft.RotaryEmbedding` of x \[batch, seq, heads * width\] in the "rotate half" layout, by
    /// rows of two tables \[positions, width / 2\].
    pub fn rotary_embedding(
        &mut self,
        x: &Value,
        position_ids: &Value,
        cosines: &Value,
        sines: &Value,
    ) -> Value {
        let outputs = vec![Some((x.element, x.dims.clone()))];
        let inputs = [x, position_ids, cosines, sines].map(Some);
        let attributes = vec![("interleaved", Attribute::Int(0))];
        self.emit_in(MICROSOFT, ROTARY_EMBEDDING, &inputs, attributes, outputs).remove(0)
    }

    /// `Gelu` of opset 20, exact.
    pub fn gelu_fused(&mut self, x: &Value) -> Value {
        self.emit("Gelu", &[x], vec![], x.element, x.dims.clone())
    }

    /// `com.microsoft.FastGelu`: the approximation with a hyperbolic tangent.
    pub fn fast_gelu_fused(&mut self, x: &Value) -> Value {
        let outputs = vec![Some((x.element, x.dims.clone()))];
        self.emit_in(MICROSOFT, "FastGelu", &[Some(x)], vec![], outputs).remove(0)
    }

    /// `com.microsoft.QuickGelu`: x * sigmoid(alpha * x).
    pub fn quick_gelu_fused(&mut self, x: &Value, alpha: f32) -> Value {
        let outputs = vec![Some((x.element, x.dims.clone()))];
        let attributes = vec![("alpha", Attribute::Float(alpha))];
        self.emit_in(MICROSOFT, "QuickGelu", &[Some(x)], attributes, outputs).remove(0)
    }
}
