//! A small ONNX graph builder.
//!
//! [`Builder`] grows a graph one operator at a time. Every operator is a method in [`ops`]. It checks its
//! inputs, works out the shape of its result and names it, so that each tensor of the finished [`Graph`] has
//! a `value_info`. Shapes may hold dynamic axes ([`Dim`]). The builder's scope is both the prefix of node
//! names and that of the checkpoint's tensor names, so a node is found by the weight it uses.
//!
//! Mistakes in a network (shapes that do not fit) are bugs of this crate, not of its user, and panic with the
//! scope's name.
//!
//! [`Graph`] here and [`Function`] in its own file are one thought: a graph has functions, and a function's
//! body is a graph.

mod builder;
mod dim;
mod element;
mod factors;
mod function;
mod layout;
pub mod ops;
mod proto;
pub mod quantized;

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

pub use builder::{Builder, Scope};
pub use dim::Dim;
pub use element::Element;
pub use factors::Factors;
pub use function::Function;
pub use layout::{DataFile, Layout, Piece};
pub use ops::Attribute;

/// Domain of our own operators ([`Function`]).
pub use arrcoc_bundle::names::operator::DOMAIN;

use arrcoc_bundle::{AxisRange, Meaning, Role, Target};

/// Domain of ONNX Runtime's own operators
/// (<https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md>).
pub const MICROSOFT: &str = "com.microsoft";

/// A tensor in a graph under construction: a name, an element type and a shape.
#[derive(Debug, Clone)]
pub struct Value {
    pub(crate) name: Rc<str>,
    pub(crate) element: Element,
    pub(crate) dims: Vec<Dim>,
}

impl Value {
    /// A tensor of this name, type and shape. Networks get theirs from the [`Builder`]; this is for those who
    /// rewrite graphs.
    pub fn new(name: impl Into<Rc<str>>, element: Element, dims: Vec<Dim>) -> Self {
        Self { name: name.into(), element, dims }
    }

    /// Name in the graph.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Element type.
    pub fn element(&self) -> Element {
        self.element
    }

    /// Shape, outermost axis first.
    pub fn dims(&self) -> &[Dim] {
        &self.dims
    }

    /// Size of an axis; negative counts from the end.
    pub fn dim(&self, axis: isize) -> &Dim {
        &self.dims[self.axis(axis)]
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    fn axis(&self, axis: isize) -> usize {
        if axis < 0 { (self.dims.len() as isize + axis) as usize } else { axis as usize }
    }
}

/// One operator of a finished graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Unique name: the scope, the operator, a number.
    pub name: String,
    /// ONNX operator.
    pub operator: &'static str,
    /// Operator domain: empty for standard operators, [`MICROSOFT`] for ONNX Runtime's, [`DOMAIN`] for ours.
    pub domain: &'static str,
    /// Names of the inputs; empty for an omitted one.
    pub inputs: Vec<Rc<str>>,
    /// Names of the outputs; empty for an omitted one.
    pub outputs: Vec<Rc<str>>,
    /// Attributes in the order of the specification.
    pub attributes: Vec<(&'static str, Attribute)>,
}

/// A constant tensor of a graph.
#[derive(Debug, Clone)]
pub struct Initializer {
    /// Name in the graph: the checkpoint's own, where it is one.
    pub name: Rc<str>,
    /// Element type in the graph.
    pub element: Element,
    /// Shape in the graph.
    pub shape: Vec<usize>,
    /// Where the numbers come from.
    pub source: Source,
}

/// Where an initializer's numbers come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// A contiguous range of a checkpoint tensor, in the checkpoint's own order.
    Checkpoint {
        /// Tensor name in the checkpoint.
        tensor: String,
        /// Shape of the whole tensor there.
        shape: Vec<usize>,
        /// Elements taken, row-major.
        range: Range<usize>,
        /// What the elements are multiplied with, by their place on the last axis.
        factors: Option<Factors>,
    },
    /// A part of a checkpoint matrix in fewer bits.
    Quantized(quantized::Quantized),
    /// Known at export, little-endian.
    Data(Vec<u8>),
}

/// A tensor that a checkpoint must have.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Name in the checkpoint.
    pub name: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// Distribution that `init` draws from.
    pub init: Init,
    /// False for tensors that the reference implementation carries and no graph reads.
    pub used: bool,
}

/// A normal distribution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Init {
    /// Mean.
    pub mean: f32,
    /// Standard deviation.
    pub std: f32,
}

impl Init {
    /// Scales of norms: near one, but none equal to it, so that a forgotten scale shows.
    pub const SCALE: Init = Init { mean: 1.0, std: 0.1 };
    /// Biases: small, and not zero for the same reason.
    pub const BIAS: Init = Init { mean: 0.0, std: 0.02 };

    /// Weights that keep the variance of `fan_in` inputs.
    pub fn fan_in(fan_in: usize) -> Init {
        Init { mean: 0.0, std: (fan_in as f32).sqrt().recip() }
    }

    /// A normal distribution around zero.
    pub const fn normal(std: f32) -> Init {
        Init { mean: 0.0, std }
    }
}

/// A finished graph.
#[derive(Debug, Clone)]
pub struct Graph {
    /// Name in the bundle.
    pub name: &'static str,
    /// What it is for.
    pub role: Role,
    /// What it is written for.
    pub target: Target,
    /// Inputs, in contract order.
    pub inputs: Vec<Value>,
    /// Outputs, in contract order.
    pub outputs: Vec<Value>,
    /// Operators, each after the ones it depends on.
    pub nodes: Vec<Node>,
    /// Constant tensors.
    pub initializers: Vec<Initializer>,
    /// Every other tensor, for `value_info`.
    pub values: Vec<Value>,
    /// Checkpoint tensors that the graph reads.
    pub parameters: Vec<Parameter>,
    /// Operators of our own that nodes call.
    pub functions: Vec<Function>,
    /// What the numbers of each output mean; the KV cache has no entry.
    pub meanings: BTreeMap<String, Meaning>,
    /// Ranges of the dynamic axes, as far as the family has set them.
    pub ranges: BTreeMap<&'static str, AxisRange>,
}

impl Graph {
    /// Names of the dynamic axes that the inputs carry, in order of appearance.
    pub fn axes(&self) -> Vec<&'static str> {
        let mut axes = Vec::new();
        for dim in self.inputs.iter().flat_map(|input| &input.dims) {
            if let Dim::Axis(name) = dim
                && !axes.contains(name)
            {
                axes.push(*name);
            }
        }
        axes
    }

    /// Opset of the default ONNX domain: the target's, or, where there are 8-bit floats, the first in which
    /// every operator that moves tensors moves those too. (19 has the floats; ONNX Runtime then pulls
    /// QuantizeLinear in front of a Transpose that refuses them.) It is also the first with 4-bit integers,
    /// and with blocks in DequantizeLinear.
    pub fn opset(&self) -> i64 {
        self.target.opset().max(if self.has_newer_elements() { 21 } else { 0 })
    }

    /// The ONNX IR version that goes with [`Self::opset`].
    pub(crate) fn ir_version(&self) -> i64 {
        self.target.ir_version().max(if self.has_newer_elements() { 10 } else { 0 })
    }

    /// Whether a constant is of a type that portable graphs of opset 18 do not have.
    fn has_newer_elements(&self) -> bool {
        let newer = [Element::F8E4M3, Element::I4, Element::U4];
        self.initializers.iter().any(|tensor| newer.contains(&tensor.element))
    }

    /// Whether a node uses an operator outside the ONNX standard.
    pub fn is_standard(&self) -> bool {
        self.nodes
            .iter()
            .all(|node| node.domain.is_empty() && node.operator != "SimplifiedLayerNormalization")
    }
}
