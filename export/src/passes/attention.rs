//! Attention in 16-bit floats, where its queries, keys and values come out of products in 8 bits.
//!
//! Those carry an error of their own, larger than what rounding to 16 bits adds. The operator means the same
//! as before (`GridAttention`'s body, or `MultiHeadAttention`); its name says that a kernel may round.

use arrcoc_bundle::names::operator::{ATTENTION_BF16, GRID_ATTENTION, GRID_ATTENTION_BF16};
use std::collections::HashSet;
use std::rc::Rc;

use arrcoc_models::graph::ops::attention::{NUM_HEADS, attention_bf16};
use arrcoc_models::graph::{Attribute, DOMAIN, Function, Graph, Node};

use super::rewrite::Rewriter;

/// Tensors that integer products made.
#[derive(Default)]
pub(super) struct FromIntegers(HashSet<Rc<str>>);

impl FromIntegers {
    /// `node` is now a product in 8 bits.
    pub(super) fn insert(&mut self, output: &Rc<str>) {
        self.0.insert(output.clone());
    }

    /// Follows what is only seen in another shape, in parts, or turned: a rotation adds nothing to an error.
    pub(super) fn follow(&mut self, node: &Node) {
        let keeps = ["Reshape", "Split", "RotaryEmbedding"].contains(&node.operator);
        if keeps && self.0.contains(&node.inputs[0]) {
            self.0.extend(node.outputs.iter().cloned());
        }
    }

    /// The attention over a grid, in 16 bits where it may be.
    pub(super) fn lower_grid(&self, g: &mut Rewriter, node: Node) -> Node {
        if !self.0.contains(&node.inputs[0]) {
            return node;
        }
        if let Some(function) = g.function(GRID_ATTENTION).cloned() {
            let body = Graph { name: GRID_ATTENTION_BF16, ..function.body };
            g.define(Function { body, ..function });
        }
        Node { operator: GRID_ATTENTION_BF16, ..node }
    }

    /// A `MultiHeadAttention`, in 16 bits where it may be.
    pub(super) fn lower_plain(&self, g: &mut Rewriter, node: Node) -> Node {
        let integers = node.inputs.iter().all(|input| self.0.contains(input));
        match is_plain(g, &node).filter(|_| integers) {
            None => node,
            Some(heads) => {
                g.define(attention_bf16());
                let attributes = vec![(NUM_HEADS, Attribute::Int(heads))];
                Node { operator: ATTENTION_BF16, domain: DOMAIN, attributes, ..node }
            }
        }
    }
}

/// The heads of an attention of a sequence to itself whose products are scaled as usual; `None` for any
/// other.
fn is_plain(g: &Rewriter, node: &Node) -> Option<i64> {
    let [q, k, v] = &node.inputs[..] else { return None };
    let dims = g.dims(q); // [batch, seq, heads * width]
    let alike = g.dims(k) == dims && g.dims(v) == dims;
    let attribute = |name: &str| node.attributes.iter().find(|(key, _)| *key == name).map(|(_, value)| value);
    match (attribute(NUM_HEADS), attribute("scale"), dims.last()?.fixed()) {
        (Some(Attribute::Int(heads)), Some(Attribute::Float(scale)), Some(columns)) => {
            let usual = ((columns / *heads as usize) as f32).sqrt().recip();
            (alike && *scale == usual).then_some(*heads)
        }
        _ => None,
    }
}
