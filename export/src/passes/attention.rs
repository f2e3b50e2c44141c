//! Attention over a grid in 16-bit floats, where its queries, keys and values come out of a product in 8 bits.
//!
//! Those carry an error of their own, larger than what rounding to 16 bits adds. The operator means the same as before
//! (`GridAttention`'s body); its name says that a kernel may round.

use std::collections::HashSet;
use std::rc::Rc;

use arrcoc_models::graph::{Function, Graph, Node};
use arrcoc_models::networks::sam::GRID_ATTENTION;

use super::rewrite::Rewriter;

/// `GridAttention` whose factors may be rounded to bfloat16.
const GRID_ATTENTION_BF16: &str = "GridAttentionBf16";

/// Tensors that integer products made.
#[derive(Default)]
pub(super) struct FromIntegers(HashSet<Rc<str>>);

impl FromIntegers {
    /// `node` is now a product in 8 bits.
    pub(super) fn insert(&mut self, output: &Rc<str>) {
        self.0.insert(output.clone());
    }

    /// Follows what is only seen in another shape.
    pub(super) fn follow(&mut self, node: &Node) {
        if node.operator == "Reshape" && self.0.contains(&node.inputs[0]) {
            self.0.insert(node.outputs[0].clone());
        }
    }

    /// The attention, in 16 bits where it may be.
    pub(super) fn lower(&self, g: &mut Rewriter, node: Node) -> Node {
        if !self.0.contains(&node.inputs[0]) {
            return node;
        }
        if let Some(function) = g.function(GRID_ATTENTION).cloned() {
            let body = Graph { name: GRID_ATTENTION_BF16, ..function.body };
            g.define(Function { body, ..function });
        }
        Node { operator: GRID_ATTENTION_BF16, ..node }
    }
}
