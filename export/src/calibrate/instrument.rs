//! Graphs that also tell how large their tensors get.
//!
//! Every float tensor gets two more outputs, its largest and its smallest element, and what a linear layer
//! multiplies is put out whole: its channels and their distribution are looked at one by one.
//! [`super::recorder`] takes these outputs away again, so that who runs the graph sees the contract's only.

use arrcoc_bundle::names::cache;
use std::collections::HashSet;
use std::rc::Rc;

use arrcoc_models::graph::{Attribute, Element, Graph, Node, Source, Value};

/// Behind a tensor's name: its largest element.
pub(super) const LARGEST: &str = "#largest";
/// Its smallest element.
pub(super) const SMALLEST: &str = "#smallest";
/// All of it.
pub(super) const WHOLE: &str = "#whole";

/// Adds the outputs.
pub(super) fn instrument(mut graph: Graph) -> Graph {
    let floats = observed(&graph);
    let multiplied: HashSet<&str> = products(&graph).map(|(_, input)| input).collect();
    let mut added = Vec::new();
    for value in &floats {
        for (suffix, operator) in [(LARGEST, "ReduceMax"), (SMALLEST, "ReduceMin")] {
            added.push((tap(value, suffix, operator, vec![("keepdims", Attribute::Int(0))]), Vec::new()));
        }
        if multiplied.contains(value.name()) {
            added.push((tap(value, WHOLE, "Identity", vec![]), value.dims().to_vec()));
        }
    }
    // ONNX Runtime orders operators backwards, from the last one whose output nobody reads. The first
    // tensors' taps therefore come last: taken the other way round, every tensor of the network would be kept
    // until its end (24 GB for SAM-base at 1024 pixels).
    for (node, dims) in added.into_iter().rev() {
        graph.outputs.push(Value::new(node.outputs[0].clone(), Element::F32, dims));
        graph.nodes.push(node);
    }
    graph
}

/// The linear layers of a graph: the checkpoint tensor of each weight, and the name of what it multiplies.
pub(super) fn products(graph: &Graph) -> impl Iterator<Item = (&str, &str)> {
    graph.nodes.iter().filter(|node| node.operator == "Gemm").filter_map(|node| {
        let weight = graph.initializers.iter().find(|tensor| tensor.name == node.inputs[1])?;
        matches!(weight.source, Source::Checkpoint { .. }).then_some((&*weight.name, &*node.inputs[0]))
    })
}

/// Float tensors that a run computes or is given. The cache's keys and values are the outputs of earlier
/// runs, and empty at first.
fn observed(graph: &Graph) -> Vec<Value> {
    let given = graph.inputs.iter().filter(|input| !cache::is_past(input.name()));
    given.chain(&graph.values).filter(|value| value.element() == Element::F32).cloned().collect()
}

fn tap(
    value: &Value,
    suffix: &str,
    operator: &'static str,
    attributes: Vec<(&'static str, Attribute)>,
) -> Node {
    let output: Rc<str> = format!("{}{suffix}", value.name()).into();
    Node {
        name: format!("/calibrate/{output}"),
        operator,
        domain: "",
        inputs: vec![value.name().into()],
        outputs: vec![output],
        attributes,
    }
}
