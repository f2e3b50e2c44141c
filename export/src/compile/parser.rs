//! Holds a graph against what TensorRT's parser takes ([`super::parser_table`]).

use std::collections::{HashMap, HashSet};
use std::fmt;

use super::parser_table::{self, OPSETS, Restriction, SOURCE, TENSORRT, TOP_K, Type};
use crate::onnx::{Initializer, Model, Node, UINT4, Value, element_name};

/// A node that the parser would refuse, or an operator set.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// The node's name; empty for the graph as a whole.
    pub node: String,
    /// Its operator, with its domain where that is not the standard one.
    pub operator: String,
    /// Why.
    pub reason: Reason,
}

/// Why the parser would refuse a node.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// The operator set.
    #[error("expected opset {} to {}, found {found}", OPSETS.start(), OPSETS.end())]
    Opset {
        /// The graph's.
        found: i64,
    },
    /// The operator.
    #[error("TensorRT {TENSORRT} has no such operator; see {SOURCE}")]
    Operator,
    /// The element type of its data.
    #[error("`{value}` is {found}, expected one of {expected:?}")]
    Type {
        /// The tensor.
        value: String,
        /// Its type.
        found: &'static str,
        /// Types that would do, as the table names them.
        expected: Vec<String>,
    },
    /// Blocks of 4-bit weights with zero points.
    #[error(
        "`{value}` is uint4, weights in blocks with zero points, of which TensorRT has none; build the bundle again with \
         symmetric blocks: the form `int4-blockN` in place of `int4-blockN-asymmetric`"
    )]
    Asymmetric {
        /// The weights.
        value: String,
    },
    /// A tensor without a type: the graph says too little to be checked.
    #[error("`{value}` has no type in the graph; export the checkpoint again")]
    Untyped {
        /// The tensor.
        value: String,
    },
    /// An input that must be a constant.
    #[error("expected input {input} to be a constant, found `{found}`, which is computed")]
    NotConstant {
        /// Index of the input.
        input: usize,
        /// The tensor.
        found: String,
    },
    /// An output that TensorRT does not have.
    #[error("expected no output but the first, found `{found}`")]
    Output {
        /// The tensor.
        found: String,
    },
    /// The number of a `TopK`, or its order.
    #[error("expected `sorted` to be 1 and a constant K below {TOP_K}")]
    TopK,
    /// A zero point that is not zero, or not known.
    #[error("expected no zero point or a constant 0, found `{found}`")]
    ZeroPoint {
        /// The tensor.
        found: String,
    },
    /// The table does not decide.
    #[error("TensorRT takes it under conditions that are not checked here; see {SOURCE}")]
    Undecided,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.node.as_str() {
            "" => self.reason.fmt(f),
            node => write!(f, "{} `{node}`: {}", self.operator, self.reason),
        }
    }
}

/// Everything in a graph that the parser would refuse; empty where it takes the whole.
pub fn check(model: &Model) -> Vec<Finding> {
    let opset = model.opsets.iter().find(|set| is_standard(&set.domain)).map_or(0, |set| set.version);
    let mut findings = Vec::new();
    if !OPSETS.contains(&opset) {
        let reason = Reason::Opset { found: opset };
        findings.push(Finding { node: String::new(), operator: String::new(), reason });
    }
    let Some(graph) = &model.graph else { return findings };
    let known = Known::new(graph);
    for node in &graph.nodes {
        if let Err(reason) = check_node(node, &known) {
            let operator = match node.domain.as_str() {
                domain if is_standard(domain) => node.operator.clone(),
                domain => format!("{domain}.{}", node.operator),
            };
            findings.push(Finding { node: node.name.clone(), operator, reason });
        }
    }
    findings
}

fn is_standard(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}

/// What is known of a graph's tensors by name.
struct Known<'a> {
    types: HashMap<&'a str, i32>,
    constants: HashMap<&'a str, Option<&'a Initializer>>,
    used: HashSet<&'a str>,
}

impl<'a> Known<'a> {
    fn new(graph: &'a crate::onnx::Graph) -> Self {
        let element = |value: &'a Value| {
            let tensor = value.r#type.as_ref().and_then(|kind| kind.tensor.as_ref());
            tensor.map(|tensor| (value.name.as_str(), tensor.element))
        };
        let values = graph.inputs.iter().chain(&graph.outputs).chain(&graph.values);
        let mut types: HashMap<_, _> = values.filter_map(element).collect();
        types.extend(graph.initializers.iter().map(|tensor| (tensor.name.as_str(), tensor.data_type)));
        let mut constants: HashMap<_, _> =
            graph.initializers.iter().map(|tensor| (tensor.name.as_str(), Some(tensor))).collect();
        let made = graph.nodes.iter().filter(|node| node.operator == "Constant");
        constants.extend(made.flat_map(|node| &node.outputs).map(|name| (name.as_str(), None)));
        let read = graph.nodes.iter().flat_map(|node| &node.inputs).map(String::as_str);
        let used = read.chain(graph.outputs.iter().map(|value| value.name.as_str())).collect();
        Self { types, constants, used }
    }
}

fn check_node(node: &Node, known: &Known<'_>) -> Result<(), Reason> {
    let row = Some(&node.operator).filter(|_| is_standard(&node.domain));
    let row = row.and_then(|operator| parser_table::find(operator)).ok_or(Reason::Operator)?;
    for value in data(node) {
        let code = *known.types.get(value).ok_or_else(|| Reason::Untyped { value: value.to_owned() })?;
        if node.operator == "DequantizeLinear" && code == UINT4 {
            return Err(Reason::Asymmetric { value: value.to_owned() });
        }
        if !Type::from_onnx(code).is_some_and(|found| row.types.contains(&found)) {
            return Err(Reason::Type {
                value: value.to_owned(),
                found: element_name(code),
                expected: row.types.iter().map(|kind| format!("{kind:?}").to_uppercase()).collect(),
            });
        }
    }
    match row.restriction {
        Restriction::None => Ok(()),
        Restriction::Constant(input) => check_constant(node, input, known),
        Restriction::FirstOutputOnly => {
            let extra = node.outputs.iter().skip(1).find(|name| known.used.contains(name.as_str()));
            extra.map_or(Ok(()), |found| Err(Reason::Output { found: found.clone() }))
        }
        Restriction::TopK => check_top_k(node, known),
        Restriction::Symmetric => {
            check_constant(node, 1, known)?;
            check_zero_point(node, known)
        }
        Restriction::Other => Err(Reason::Undecided),
    }
}

/// The tensors of a node to which the table's types apply: the first input, unless that is a condition or a
/// shape. The specification binds the types of the others to it.
fn data(node: &Node) -> impl Iterator<Item = &str> {
    let (input, output) = match node.operator.as_str() {
        "Where" => (Some(1), None),
        "Constant" | "ConstantOfShape" => (None, Some(0)),
        "Cast" | "CastLike" => (Some(0), Some(0)),
        _ => (Some(0), None),
    };
    let input = input.and_then(|at: usize| node.inputs.get(at));
    let output = output.and_then(|at: usize| node.outputs.get(at));
    input.into_iter().chain(output).map(String::as_str)
}

fn check_constant(node: &Node, input: usize, known: &Known<'_>) -> Result<(), Reason> {
    match node.inputs.get(input).filter(|name| !name.is_empty()) {
        Some(name) if !known.constants.contains_key(name.as_str()) => {
            Err(Reason::NotConstant { input, found: name.clone() })
        }
        _ => Ok(()),
    }
}

fn check_zero_point(node: &Node, known: &Known<'_>) -> Result<(), Reason> {
    let Some(name) = node.inputs.get(2).filter(|name| !name.is_empty()) else { return Ok(()) };
    let bytes = known.constants.get(name.as_str()).copied().flatten().map(|tensor| &tensor.raw_data);
    match bytes {
        Some(bytes) if !bytes.is_empty() && bytes.iter().all(|byte| *byte == 0) => Ok(()),
        _ => Err(Reason::ZeroPoint { found: name.clone() }),
    }
}

fn check_top_k(node: &Node, known: &Known<'_>) -> Result<(), Reason> {
    // An attribute that is not there has its default, which is 1.
    let sorted =
        node.attributes.iter().find(|attribute| attribute.name == "sorted").is_none_or(|x| x.int == 1);
    let k = node.inputs.get(1).and_then(|name| known.constants.get(name.as_str()).copied().flatten());
    let k = k.and_then(|tensor| <[u8; 8]>::try_from(tensor.raw_data.as_slice()).ok()).map(i64::from_le_bytes);
    if sorted && k.is_some_and(|k| (1..TOP_K).contains(&k)) { Ok(()) } else { Err(Reason::TopK) }
}
