//! Attention as an operator of our own; what it means in ONNX Runtime's operators is its body.

use crate::dims;
use crate::graph::{Attribute, Element, Function};
use arrcoc_bundle::names::operator::ATTENTION_BF16;

/// Its attribute, as `MultiHeadAttention` calls it.
pub const NUM_HEADS: &str = "num_heads";

/// `AttentionBf16`: softmax(q k / sqrt(width)) v of a sequence with itself, all \[batch, seq, heads *
/// width\].
pub fn attention_bf16() -> Function {
    let inputs = ["q", "k", "v"].map(|name| (name, Element::F32, dims!["batch", "seq", "columns"]));
    Function::new(ATTENTION_BF16, &[NUM_HEADS], &inputs, |g, inputs| {
        let attributes = vec![(NUM_HEADS, Attribute::Reference(NUM_HEADS))];
        let outputs = vec![Some((Element::F32, inputs[0].dims.clone()))];
        let inputs: Vec<_> = inputs.iter().map(Some).collect();
        g.emit_in(crate::graph::MICROSOFT, "MultiHeadAttention", &inputs, attributes, outputs).remove(0)
    })
}
