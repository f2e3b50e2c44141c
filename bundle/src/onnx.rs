//! Which files a graph reads besides its own.
//!
//! ONNX files name their large tensors' files themselves. Only what leads to such names is declared here,
//! with the field numbers of `onnx.proto`; everything else is skipped, so that reading costs little however
//! large the graph is.

use std::collections::BTreeSet;

use prost::Message;

use crate::quote::quote;

/// The operator that has an inference library load a file of another format. `build` writes none.
const FOREIGN_ENGINE: &str = "EPContext";

/// `ModelProto`.
#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
    #[prost(message, repeated, tag = "20")]
    training: Vec<Training>,
    #[prost(message, repeated, tag = "25")]
    functions: Vec<Function>,
}

/// `TrainingInfoProto`.
#[derive(Clone, PartialEq, Message)]
struct Training {
    #[prost(message, optional, tag = "1")]
    initialization: Option<Graph>,
    #[prost(message, optional, tag = "2")]
    algorithm: Option<Graph>,
}

/// `FunctionProto`.
#[derive(Clone, PartialEq, Message)]
struct Function {
    #[prost(message, repeated, tag = "7")]
    nodes: Vec<Node>,
    #[prost(message, repeated, tag = "11")]
    attributes: Vec<Attribute>,
}

/// `GraphProto`.
#[derive(Clone, PartialEq, Message)]
struct Graph {
    #[prost(message, repeated, tag = "1")]
    nodes: Vec<Node>,
    #[prost(message, repeated, tag = "5")]
    initializers: Vec<Tensor>,
    #[prost(message, repeated, tag = "15")]
    sparse: Vec<SparseTensor>,
}

/// `NodeProto`.
#[derive(Clone, PartialEq, Message)]
struct Node {
    #[prost(string, tag = "4")]
    operator: String,
    #[prost(message, repeated, tag = "5")]
    attributes: Vec<Attribute>,
}

/// `AttributeProto`.
#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(message, optional, tag = "5")]
    tensor: Option<Tensor>,
    #[prost(message, optional, boxed, tag = "6")]
    graph: Option<Box<Graph>>,
    #[prost(message, repeated, tag = "10")]
    tensors: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    graphs: Vec<Graph>,
    #[prost(message, optional, tag = "22")]
    sparse_tensor: Option<SparseTensor>,
    #[prost(message, repeated, tag = "23")]
    sparse_tensors: Vec<SparseTensor>,
}

/// `SparseTensorProto`.
#[derive(Clone, PartialEq, Message)]
struct SparseTensor {
    #[prost(message, optional, tag = "1")]
    values: Option<Tensor>,
    #[prost(message, optional, tag = "2")]
    indices: Option<Tensor>,
}

/// `TensorProto`.
#[derive(Clone, PartialEq, Message)]
struct Tensor {
    #[prost(message, repeated, tag = "13")]
    external: Vec<Entry>,
}

/// `StringStringEntryProto`.
#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// The files that a graph's tensors lie in, as it writes them: relative to its own.
///
/// # Errors
/// It is no ONNX model, or reads files in another way than by its tensors.
pub(super) fn external_files(model: &[u8]) -> Result<BTreeSet<String>, String> {
    let model = Model::decode(model).map_err(|error| format!("it is not an ONNX model: {error}"))?;
    let mut found = Found::default();
    model.graph.iter().for_each(|graph| found.graph(graph));
    for training in &model.training {
        training.initialization.iter().chain(&training.algorithm).for_each(|graph| found.graph(graph));
    }
    for function in &model.functions {
        found.nodes(&function.nodes);
        found.attributes(&function.attributes);
    }
    if found.foreign_engine {
        return Err(format!("it has an operator `{FOREIGN_ENGINE}`, which reads files that nobody checks"));
    }
    // ONNX Runtime reads from the memory at `offset` where the location is `*/_ORT_MEM_ADDR_/*`.
    if let Some(marker) = found.files.iter().find(|file| file.contains('*')) {
        return Err(format!("a tensor lies in {}; expected a file, without `*` in its name", quote(marker)));
    }
    Ok(found.files)
}

#[derive(Default)]
struct Found {
    files: BTreeSet<String>,
    foreign_engine: bool,
}

impl Found {
    fn graph(&mut self, graph: &Graph) {
        self.nodes(&graph.nodes);
        graph.initializers.iter().for_each(|tensor| self.tensor(tensor));
        graph.sparse.iter().for_each(|tensor| self.sparse(tensor));
    }

    fn nodes(&mut self, nodes: &[Node]) {
        for node in nodes {
            self.foreign_engine |= node.operator == FOREIGN_ENGINE;
            self.attributes(&node.attributes);
        }
    }

    fn attributes(&mut self, attributes: &[Attribute]) {
        for attribute in attributes {
            attribute.tensor.iter().chain(&attribute.tensors).for_each(|tensor| self.tensor(tensor));
            attribute.graph.iter().for_each(|graph| self.graph(graph));
            attribute.graphs.iter().for_each(|graph| self.graph(graph));
            let sparse = attribute.sparse_tensor.iter().chain(&attribute.sparse_tensors);
            sparse.for_each(|tensor| self.sparse(tensor));
        }
    }

    fn sparse(&mut self, tensor: &SparseTensor) {
        tensor.values.iter().chain(&tensor.indices).for_each(|tensor| self.tensor(tensor));
    }

    fn tensor(&mut self, tensor: &Tensor) {
        let locations = tensor.external.iter().filter(|entry| entry.key == "location");
        self.files.extend(locations.map(|entry| entry.value.clone()));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn tensor(file: &str) -> Tensor {
        let entry = |key: &str, value: &str| Entry { key: key.into(), value: value.into() };
        Tensor { external: vec![entry("offset", "64"), entry("location", file)] }
    }

    #[test]
    fn files_are_found_wherever_a_tensor_can_be() {
        let sparse =
            |values, indices| SparseTensor { values: Some(tensor(values)), indices: Some(tensor(indices)) };
        let inner = Graph { initializers: vec![tensor("a")], ..Graph::default() };
        let attribute = Attribute {
            tensor: Some(tensor("b")),
            graph: Some(Box::new(inner.clone())),
            tensors: vec![tensor("c")],
            graphs: vec![Graph { sparse: vec![sparse("d", "e")], ..Graph::default() }],
            sparse_tensor: Some(sparse("f", "g")),
            sparse_tensors: vec![sparse("h", "i")],
        };
        let node = |attribute| Node { operator: "Constant".into(), attributes: vec![attribute] };
        let model = Model {
            graph: Some(Graph { nodes: vec![node(attribute)], ..Graph::default() }),
            training: vec![Training {
                initialization: Some(Graph { initializers: vec![tensor("j")], ..Graph::default() }),
                algorithm: Some(Graph { initializers: vec![tensor("k")], ..Graph::default() }),
            }],
            functions: vec![Function {
                nodes: vec![node(Attribute { tensor: Some(tensor("l")), ..Attribute::default() })],
                attributes: vec![Attribute { tensor: Some(tensor("m")), ..Attribute::default() }],
            }],
        };
        let found = external_files(&model.encode_to_vec()).unwrap();
        assert_eq!(found, ('a'..='m').map(String::from).collect());
    }

    #[test]
    fn places_in_memory_are_refused() {
        for location in ["*/_ORT_MEM_ADDR_/*", "./*/_ORT_MEM_ADDR_/*", "decoder*.bin"] {
            let graph = Graph { initializers: vec![tensor(location)], ..Graph::default() };
            let model = Model { graph: Some(graph), ..Model::default() };
            let refused = external_files(&model.encode_to_vec()).unwrap_err();
            assert!(refused.contains(location) && refused.contains("without `*`"), "{refused}");
        }
    }

    #[test]
    fn what_is_no_graph_or_loads_engines_is_refused() {
        assert!(external_files(b"not a protobuf").unwrap_err().contains("not an ONNX model"));
        let node = Node { operator: FOREIGN_ENGINE.into(), attributes: Vec::new() };
        let graph = Graph { nodes: vec![node], ..Graph::default() };
        let model = Model { graph: Some(graph), ..Model::default() };
        assert!(external_files(&model.encode_to_vec()).unwrap_err().contains("EPContext"));
    }
}
