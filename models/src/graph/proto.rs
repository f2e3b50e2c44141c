//! A finished [`Graph`] as ONNX protobuf.

use prost::Message as _;

use super::{Attribute, DOMAIN, Dim, Element, Function, Graph, Initializer, MICROSOFT, Node, Source, Value};
use crate::onnx::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
    attribute_proto::AttributeType, tensor_proto::DataLocation, tensor_proto::DataType, tensor_shape_proto,
    type_proto,
};

/// The protobuf's code of an element type.
pub(super) fn data_type(element: Element) -> i32 {
    let code = match element {
        Element::F32 => DataType::Float,
        Element::F16 => DataType::Float16,
        Element::F8E4M3 => DataType::Float8e4m3fn,
        Element::I64 => DataType::Int64,
        Element::I32 => DataType::Int32,
        Element::Bool => DataType::Bool,
        Element::I8 => DataType::Int8,
        Element::U8 => DataType::Uint8,
        Element::I4 => DataType::Int4,
        Element::U4 => DataType::Uint4,
    };
    code as i32
}

/// Where an external tensor lies.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Placement {
    pub(super) file: String,
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// Serialises a graph whose external initializers lie where `placements` says (`None`: stored inline).
pub(super) fn serialize(graph: &Graph, placements: &[Option<Placement>]) -> Vec<u8> {
    let initializer =
        graph.initializers.iter().zip(placements).map(|(tensor, place)| initializer(tensor, place));
    let proto = GraphProto {
        name: Some(graph.name.to_owned()),
        node: graph.nodes.iter().map(node).collect(),
        initializer: initializer.collect(),
        input: graph.inputs.iter().map(value_info).collect(),
        output: graph.outputs.iter().map(value_info).collect(),
        value_info: graph.values.iter().map(value_info).collect(),
        ..GraphProto::default()
    };
    let model = ModelProto {
        ir_version: Some(graph.ir_version()),
        opset_import: opset_imports(graph, graph.opset()),
        producer_name: Some("arrcoc".to_owned()),
        producer_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        graph: Some(proto),
        functions: graph.functions.iter().map(|of| function(of, graph.opset())).collect(),
        ..ModelProto::default()
    };
    model.encode_to_vec()
}

/// The standard's operators, and those of every other domain that the graph's nodes come from.
fn opset_imports(graph: &Graph, version: i64) -> Vec<OperatorSetIdProto> {
    let mut imports = vec![opset("", version)];
    for domain in [MICROSOFT, DOMAIN] {
        // What a function's body uses counts too: it may take its call's place.
        let bodies = graph.functions.iter().flat_map(|function| &function.body.nodes);
        if graph.nodes.iter().chain(bodies).any(|node| node.domain == domain) {
            imports.push(opset(domain, 1));
        }
    }
    imports
}

/// A function; its constants become operators, since a function has no initializers.
fn function(function: &Function, version: i64) -> FunctionProto {
    let Graph { name, inputs, outputs, nodes, initializers, .. } = &function.body;
    let names = |values: &[Value]| values.iter().map(|value| value.name.to_string()).collect();
    let constants = initializers.iter().map(|tensor| {
        let value = AttributeProto {
            name: Some("value".to_owned()),
            r#type: Some(AttributeType::Tensor as i32),
            t: Some(initializer(tensor, &None)),
            ..AttributeProto::default()
        };
        NodeProto {
            op_type: Some("Constant".to_owned()),
            output: vec![tensor.name.to_string()],
            attribute: vec![value],
            ..NodeProto::default()
        }
    });
    FunctionProto {
        name: Some((*name).to_owned()),
        domain: Some(DOMAIN.to_owned()),
        input: names(inputs),
        output: names(outputs),
        attribute: function.attributes.iter().map(|&name| name.to_owned()).collect(),
        node: constants.chain(nodes.iter().map(node)).collect(),
        opset_import: opset_imports(&function.body, version),
        ..FunctionProto::default()
    }
}

fn opset(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: Some(domain.to_owned()), version: Some(version) }
}

fn node(node: &Node) -> NodeProto {
    NodeProto {
        name: Some(node.name.clone()),
        op_type: Some(node.operator.to_owned()),
        domain: Some(node.domain.to_owned()),
        input: node.inputs.iter().map(|name| name.to_string()).collect(),
        output: node.outputs.iter().map(|name| name.to_string()).collect(),
        attribute: node.attributes.iter().map(|(name, value)| attribute(name, value)).collect(),
        ..NodeProto::default()
    }
}

fn attribute(name: &str, value: &Attribute) -> AttributeProto {
    let mut proto = AttributeProto { name: Some(name.to_owned()), ..AttributeProto::default() };
    let kind = match value {
        Attribute::Int(i) => {
            proto.i = Some(*i);
            AttributeType::Int
        }
        Attribute::Ints(ints) => {
            proto.ints = ints.clone();
            AttributeType::Ints
        }
        Attribute::Float(f) => {
            proto.f = Some(*f);
            AttributeType::Float
        }
        Attribute::Reference(name) => {
            proto.ref_attr_name = Some((*name).to_owned());
            AttributeType::Int
        }
        Attribute::FloatReference(name) => {
            proto.ref_attr_name = Some((*name).to_owned());
            AttributeType::Float
        }
    };
    proto.r#type = Some(kind as i32);
    proto
}

fn value_info(value: &Value) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension};
    let dim = value.dims.iter().map(|dim| Dimension {
        value: Some(match dim {
            Dim::Fixed(n) => dimension::Value::DimValue(*n as i64),
            dim => dimension::Value::DimParam(dim.to_string()),
        }),
        ..Dimension::default()
    });
    let tensor = type_proto::Tensor {
        elem_type: Some(data_type(value.element)),
        shape: Some(TensorShapeProto { dim: dim.collect() }),
    };
    ValueInfoProto {
        name: Some(value.name.to_string()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}

fn initializer(tensor: &Initializer, placement: &Option<Placement>) -> TensorProto {
    let mut proto = TensorProto {
        name: Some(tensor.name.to_string()),
        data_type: Some(data_type(tensor.element)),
        dims: tensor.shape.iter().map(|&n| n as i64).collect(),
        ..TensorProto::default()
    };
    match (placement, &tensor.source) {
        (Some(place), _) => {
            let entry = |key: &str, value: String| StringStringEntryProto {
                key: Some(key.to_owned()),
                value: Some(value),
            };
            proto.data_location = Some(DataLocation::External as i32);
            proto.external_data = vec![
                entry("location", place.file.clone()),
                entry("offset", place.offset.to_string()),
                entry("length", place.length.to_string()),
            ];
        }
        (None, Source::Data(bytes)) => proto.raw_data = Some(bytes.clone()),
        (None, Source::Checkpoint { .. } | Source::Quantized(_)) => {
            unreachable!("layout places every checkpoint tensor: {}", tensor.name)
        }
    }
    proto
}
