//! How much memory a graph's intermediate tensors need at once: from the shape of every tensor and the order
//! of the operators.
//!
//! The graphs of `arrcoc-models` state the shape of every tensor in terms of the dynamic axes. With numbers
//! for these, an operator's result lives from the operator to its last reader, and the peak is the largest
//! sum over what lives at once. That is what a runtime with a perfect allocator needs that reuses no buffer
//! in place: ONNX Runtime does reuse some, and loses some to fragmentation and convolution workspaces.

use arrcoc_bundle::names::{cache, tensor};
use std::collections::{HashMap, HashSet};

use arrcoc_models::graph::{Element, Graph, Value};
use serde::Serialize;

/// Sizes of dynamic axes.
pub(super) type Axes<'a> = &'a [(&'static str, usize)];

/// Operators whose result is their first input under another shape: runtimes copy nothing.
const VIEWS: &[&str] = &["Reshape", "Squeeze", "Unsqueeze", "Identity", "Flatten"];

/// Logits leave the decoder in 32 bits in every precision.
const ALWAYS_FP32: &str = tensor::LOGITS;

/// The moment at which a graph needs most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Peak {
    /// Graph.
    pub stage: &'static str,
    /// Bytes of all tensors that live at that moment.
    pub bytes: u64,
    /// The operator that runs.
    pub node: String,
    /// The largest tensor of the graph.
    pub largest: Vec<usize>,
    /// Its bytes.
    pub largest_bytes: u64,
}

/// A tensor while the graph runs.
struct Live {
    bytes: u64,
    last_use: usize,
}

/// The peak of a graph with these axes, at `float_bytes` per floating-point element. The KV cache does not
/// count: it outlives the run.
///
/// # Panics
/// When an axis is missing or a tensor has no shape: bugs of this crate and of `arrcoc-models`.
pub(super) fn peak(graph: &Graph, axes: Axes<'_>, float_bytes: u64) -> Peak {
    let shapes = shapes(graph, axes);
    let owner = owners(graph);
    let caches = caches(graph, &owner);
    let logits = owner.get(ALWAYS_FP32);
    let size = |name: &str| -> u64 {
        let (element, dims) =
            shapes.get(name).unwrap_or_else(|| panic!("{}: no shape of {name}", graph.name));
        let elements: usize = dims.iter().product();
        let bytes = match element {
            Element::F32 if logits != Some(&name) => float_bytes * elements as u64,
            other => other.bytes(elements) as u64,
        };
        if caches.contains(name) { 0 } else { bytes }
    };
    let mut live: HashMap<&str, Live> = HashMap::new();
    let mut now = 0;
    // The caller holds inputs and outputs until the end.
    for input in &graph.inputs {
        now += size(input.name());
        live.insert(input.name(), Live { bytes: size(input.name()), last_use: usize::MAX });
    }
    let last_use = last_uses(graph, &owner);
    let mut best =
        Peak { stage: graph.name, bytes: now, node: String::new(), largest: vec![], largest_bytes: 0 };
    for (index, node) in graph.nodes.iter().enumerate() {
        for name in node.outputs.iter().map(|name| &**name).filter(|name| !name.is_empty()) {
            if owner[name] == name {
                let bytes = size(name);
                now += bytes;
                live.insert(name, Live { bytes, last_use: last_use.get(name).copied().unwrap_or(index) });
                if bytes > best.largest_bytes {
                    (best.largest_bytes, best.largest) = (bytes, shapes[name].1.clone());
                }
            }
        }
        if now > best.bytes {
            (best.bytes, best.node) = (now, node.name.clone());
        }
        live.retain(|_, tensor| {
            let stays = tensor.last_use > index;
            now -= if stays { 0 } else { tensor.bytes };
            stays
        });
    }
    best
}

/// Tensors in whose memory the KV cache lies, before and after the run.
fn caches<'a>(graph: &'a Graph, owner: &HashMap<&'a str, &'a str>) -> HashSet<&'a str> {
    let is_cache = |name: &str| cache::is_past(name) || cache::is_present(name);
    let ends = graph.inputs.iter().chain(&graph.outputs).map(Value::name).filter(|name| is_cache(name));
    ends.filter_map(|name| owner.get(name).copied()).collect()
}

fn shapes<'a>(graph: &'a Graph, axes: Axes<'_>) -> HashMap<&'a str, (Element, Vec<usize>)> {
    let axis = |name: &str| axes.iter().find(|(axis, _)| *axis == name).map(|(_, size)| *size);
    let shape = |value: &'a Value| {
        let dims = value.dims().iter().map(|dim| {
            dim.at(&axis).unwrap_or_else(|| panic!("{}: size of {dim} of {}", graph.name, value.name()))
        });
        (value.name(), (value.element(), dims.collect()))
    };
    let all = graph.inputs.iter().chain(&graph.values).chain(&graph.outputs);
    all.map(shape).collect()
}

/// For every tensor that an operator makes, or the caller, the one whose memory it lies in.
fn owners(graph: &Graph) -> HashMap<&str, &str> {
    let mut owner: HashMap<&str, &str> = graph.inputs.iter().map(|x| (x.name(), x.name())).collect();
    for node in &graph.nodes {
        let viewed = node.inputs.first().filter(|_| VIEWS.contains(&node.operator));
        let viewed = viewed.and_then(|name| owner.get(&**name).copied());
        for name in &node.outputs {
            owner.insert(name, viewed.unwrap_or(name));
        }
    }
    owner
}

/// The last operator that reads a tensor, through whatever view.
fn last_uses<'a>(graph: &'a Graph, owner: &HashMap<&'a str, &'a str>) -> HashMap<&'a str, usize> {
    let mut last = HashMap::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        for name in node.inputs.iter().filter_map(|name| owner.get(&**name)) {
            last.insert(*name, index);
        }
    }
    let outputs = graph.outputs.iter().filter_map(|output| owner.get(output.name()));
    last.extend(outputs.map(|name| (*name, usize::MAX)));
    last
}
