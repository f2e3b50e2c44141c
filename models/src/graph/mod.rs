//! A small ONNX graph builder.
//!
//! [`Builder`] grows a graph one operator at a time; every operator is a method in [`ops`] that checks its inputs, works
//! out the shape of its result and names it, so that each tensor of the finished [`Graph`] has a `value_info`.
//! Shapes may hold dynamic axes ([`Dim`]). The builder's scope is both the prefix of node names and that of
//! the checkpoint's tensor names, so a node is found by the weight it uses.
//!
//! Mistakes in a network (shapes that do not fit) are bugs of this crate, not of its user, and panic with the scope's name.

mod dim;
mod layout;
pub mod ops;
mod proto;

use std::collections::HashMap;
use std::ops::{Deref, DerefMut, Range};
use std::rc::Rc;

pub use dim::Dim;
pub use layout::{DataFile, Layout, Piece};
pub use ops::Attribute;

use crate::Target;

/// Element types that graphs use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Element {
    /// 32-bit float.
    F32,
    /// 64-bit signed integer.
    I64,
    /// 32-bit signed integer.
    I32,
    /// Boolean.
    Bool,
}

impl Element {
    /// Bytes per element.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::I64 => 8,
            Self::Bool => 1,
        }
    }
}

/// A tensor in a graph under construction: a name, an element type and a shape.
#[derive(Debug, Clone)]
pub struct Value {
    pub(crate) name: Rc<str>,
    pub(crate) element: Element,
    pub(crate) dims: Vec<Dim>,
}

impl Value {
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
#[derive(Debug, Clone)]
pub struct Node {
    /// Unique name: the scope, the operator, a number.
    pub name: String,
    /// ONNX operator.
    pub operator: &'static str,
    /// Operator domain: empty for standard operators, `com.microsoft` for ONNX Runtime's.
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
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// A contiguous range of a checkpoint tensor, in the checkpoint's own order.
    Checkpoint {
        /// Tensor name in the checkpoint.
        tensor: String,
        /// Shape of the whole tensor there.
        shape: Vec<usize>,
        /// Elements taken, row-major.
        range: Range<usize>,
    },
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

    /// Whether a node uses an operator outside the ONNX standard.
    pub fn is_standard(&self) -> bool {
        self.nodes
            .iter()
            .all(|node| node.domain.is_empty() && node.operator != "SimplifiedLayerNormalization")
    }
}

/// Grows a [`Graph`].
#[derive(Debug)]
pub struct Builder {
    graph: Graph,
    scope: Vec<String>,
    counters: HashMap<String, usize>,
    constants: HashMap<(Vec<u8>, Vec<usize>, Element), Value>,
    sizes: HashMap<Dim, Value>,
    weights: HashMap<String, Value>,
}

impl Builder {
    /// An empty graph; `scope` is the prefix of the checkpoint tensors that it reads.
    pub fn new(name: &'static str, scope: &str, target: Target) -> Self {
        Self {
            graph: Graph {
                name,
                target,
                inputs: Vec::new(),
                outputs: Vec::new(),
                nodes: Vec::new(),
                initializers: Vec::new(),
                values: Vec::new(),
                parameters: Vec::new(),
            },
            scope: vec![scope.to_owned()],
            counters: HashMap::new(),
            constants: HashMap::new(),
            sizes: HashMap::new(),
            weights: HashMap::new(),
        }
    }

    /// What the graph is written for.
    pub fn target(&self) -> Target {
        self.graph.target
    }

    /// Enters a module of the network; leaves it when the returned guard is dropped.
    pub fn scope(&mut self, name: impl Into<String>) -> Scope<'_> {
        self.scope.push(name.into());
        Scope(self)
    }

    /// The checkpoint name of a tensor in the current scope.
    pub fn path(&self, name: &str) -> String {
        let scope = self.scope.iter().map(String::as_str).filter(|part| !part.is_empty());
        scope.chain((!name.is_empty()).then_some(name)).collect::<Vec<_>>().join(".")
    }

    /// Declares an input of the graph contract.
    pub fn input(&mut self, name: impl Into<Rc<str>>, element: Element, dims: Vec<Dim>) -> Value {
        let value = Value { name: name.into(), element, dims };
        self.graph.inputs.push(value.clone());
        value
    }

    /// Declares an output of the graph contract, under the contract's name and axes.
    pub fn output(&mut self, name: &str, value: &Value, dims: Vec<Dim>) {
        assert_eq!(dims.len(), value.dims.len(), "output `{name}` of graph `{}`", self.graph.name);
        let output = Value { name: name.into(), element: value.element, dims };
        self.push_node("Identity", "", &[Some(value)], vec![output.name.clone()], vec![]);
        self.graph.outputs.push(output);
    }

    /// A checkpoint tensor of the current scope.
    pub fn param(&mut self, name: &str, shape: &[usize], init: Init) -> Value {
        let whole = 0..shape.iter().product();
        self.param_range(name, shape, init, whole, shape, "")
    }

    /// Row `index` of a checkpoint tensor that stacks one tensor per row (an expert's weights, for example).
    pub fn param_row(&mut self, name: &str, shape: &[usize], init: Init, index: usize) -> Value {
        let row = shape[1..].iter().product::<usize>();
        self.param_range(
            name,
            shape,
            init,
            index * row..(index + 1) * row,
            &shape[1..],
            &format!("[{index}]"),
        )
    }

    /// Rows `rows` of a checkpoint tensor.
    pub fn param_rows(&mut self, name: &str, shape: &[usize], init: Init, rows: Range<usize>) -> Value {
        let row = shape[1..].iter().product::<usize>();
        let view: Vec<usize> = std::iter::once(rows.len()).chain(shape[1..].iter().copied()).collect();
        let suffix = format!("[{}:{}]", rows.start, rows.end);
        self.param_range(name, shape, init, rows.start * row..rows.end * row, &view, &suffix)
    }

    fn param_range(
        &mut self,
        name: &str,
        shape: &[usize],
        init: Init,
        range: Range<usize>,
        view: &[usize],
        suffix: &str,
    ) -> Value {
        let tensor = self.path(name);
        let key = format!("{tensor}{suffix}");
        if let Some(value) = self.weights.get(&key) {
            return value.clone();
        }
        let value = self.initializer(
            key.as_str().into(),
            Element::F32,
            view,
            Source::Checkpoint { tensor: tensor.clone(), shape: shape.to_vec(), range },
        );
        if !self.graph.parameters.iter().any(|parameter| parameter.name == tensor) {
            self.graph.parameters.push(Parameter { name: tensor, shape: shape.to_vec(), init, used: true });
        }
        self.weights.insert(key, value.clone());
        value
    }

    /// Names a checkpoint tensor that the reference implementation carries and this graph does not read.
    pub fn unused_param(&mut self, name: &str, shape: &[usize], init: Init) {
        let parameter = Parameter { name: self.path(name), shape: shape.to_vec(), init, used: false };
        self.graph.parameters.push(parameter);
    }

    /// A constant of 32-bit floats; equal constants are stored once.
    pub fn floats(&mut self, shape: &[usize], data: &[f32]) -> Value {
        self.constant(Element::F32, shape, data.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    /// A scalar float.
    pub fn float(&mut self, x: f32) -> Value {
        self.floats(&[], &[x])
    }

    /// A constant of 64-bit integers.
    pub fn ints(&mut self, shape: &[usize], data: &[i64]) -> Value {
        self.constant(Element::I64, shape, data.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    fn constant(&mut self, element: Element, shape: &[usize], bytes: Vec<u8>) -> Value {
        let key = (bytes, shape.to_vec(), element);
        if let Some(value) = self.constants.get(&key) {
            return value.clone();
        }
        let name = format!("constant_{}", self.constants.len());
        let value = self.initializer(name.into(), element, shape, Source::Data(key.0.clone()));
        self.constants.insert(key, value.clone());
        value
    }

    fn initializer(&mut self, name: Rc<str>, element: Element, shape: &[usize], source: Source) -> Value {
        self.graph.initializers.push(Initializer {
            name: name.clone(),
            element,
            shape: shape.to_vec(),
            source,
        });
        Value { name, element, dims: shape.iter().map(|&n| Dim::Fixed(n)).collect() }
    }

    /// The run-time value of a size: an integer tensor of shape [1], computed once per graph.
    pub fn size(&mut self, dim: &Dim) -> Value {
        if let Dim::Fixed(n) = dim {
            return self.ints(&[1], &[*n as i64]);
        }
        if let Some(value) = self.sizes.get(dim) {
            return value.clone();
        }
        let value = match dim {
            Dim::Fixed(_) => unreachable!("handled above"),
            Dim::Axis(name) => self.measure(name),
            Dim::Mul(a, b) => {
                let (a, b) = (self.size(a), self.size(b));
                self.mul(&a, &b)
            }
            Dim::Add(a, b) => {
                let (a, b) = (self.size(a), self.size(b));
                self.add(&a, &b)
            }
            Dim::Div(a, n) => {
                let (a, n) = (self.size(a), self.ints(&[1], &[*n as i64]));
                self.div(&a, &n)
            }
            Dim::RoundUp(a, n) => {
                let a = self.size(a);
                let (step, rest) = (self.ints(&[1], &[*n as i64]), self.ints(&[1], &[*n as i64 - 1]));
                let blocks = self.add(&a, &rest);
                let blocks = self.div(&blocks, &step);
                self.mul(&blocks, &step)
            }
            Dim::Relative(a) => {
                let a = self.size(a);
                let (two, one) = (self.ints(&[1], &[2]), self.ints(&[1], &[1]));
                let twice = self.mul(&a, &two);
                self.sub(&twice, &one)
            }
        };
        self.sizes.insert(dim.clone(), value.clone());
        value
    }

    fn measure(&mut self, axis: &'static str) -> Value {
        let carrier = self.graph.inputs.iter().find_map(|input| {
            input
                .dims
                .iter()
                .position(|dim| *dim == Dim::Axis(axis))
                .map(|position| (input.clone(), position))
        });
        let (input, position) = carrier
            .unwrap_or_else(|| panic!("no input of graph `{}` carries axis `{axis}`", self.graph.name));
        self.shape_of_axis(&input, position)
    }

    /// Adds a node with one output and returns that output.
    pub(crate) fn emit(
        &mut self,
        operator: &'static str,
        inputs: &[&Value],
        attributes: Vec<(&'static str, Attribute)>,
        element: Element,
        dims: Vec<Dim>,
    ) -> Value {
        let inputs: Vec<_> = inputs.iter().map(|&value| Some(value)).collect();
        self.emit_in("", operator, &inputs, attributes, vec![Some((element, dims))]).remove(0)
    }

    /// Adds a node of any domain; `None` stands for an omitted input or output. Returns the present outputs.
    pub(crate) fn emit_in(
        &mut self,
        domain: &'static str,
        operator: &'static str,
        inputs: &[Option<&Value>],
        attributes: Vec<(&'static str, Attribute)>,
        outputs: Vec<Option<(Element, Vec<Dim>)>>,
    ) -> Vec<Value> {
        let stem = self.unique(format!("/{}/{operator}", self.path("").replace('.', "/")));
        let mut names = Vec::new();
        let mut present = Vec::new();
        for (position, output) in outputs.into_iter().enumerate() {
            let Some((element, dims)) = output else {
                names.push("".into());
                continue;
            };
            let name: Rc<str> = format!("{stem}:{position}").into();
            let value = Value { name: name.clone(), element, dims };
            self.graph.values.push(value.clone());
            names.push(name);
            present.push(value);
        }
        self.push_node_named(stem, operator, domain, inputs, names, attributes);
        present
    }

    fn unique(&mut self, stem: String) -> String {
        let count = self.counters.entry(stem.clone()).or_default();
        *count += 1;
        if *count == 1 { stem } else { format!("{stem}_{count}") }
    }

    fn push_node(
        &mut self,
        operator: &'static str,
        domain: &'static str,
        inputs: &[Option<&Value>],
        outputs: Vec<Rc<str>>,
        attributes: Vec<(&'static str, Attribute)>,
    ) {
        let name = format!("/{}", outputs[0]);
        self.push_node_named(name, operator, domain, inputs, outputs, attributes);
    }

    fn push_node_named(
        &mut self,
        name: String,
        operator: &'static str,
        domain: &'static str,
        inputs: &[Option<&Value>],
        outputs: Vec<Rc<str>>,
        attributes: Vec<(&'static str, Attribute)>,
    ) {
        let inputs =
            inputs.iter().map(|input| input.map_or_else(|| "".into(), |value| value.name.clone())).collect();
        self.graph.nodes.push(Node { name, operator, domain, inputs, outputs, attributes });
    }

    /// The finished graph.
    pub fn finish(self) -> Graph {
        self.graph
    }
}

/// A module of the network being built; see [`Builder::scope`].
#[derive(Debug)]
pub struct Scope<'a>(&'a mut Builder);

impl Deref for Scope<'_> {
    type Target = Builder;
    fn deref(&self) -> &Builder {
        self.0
    }
}

impl DerefMut for Scope<'_> {
    fn deref_mut(&mut self) -> &mut Builder {
        self.0
    }
}

impl Drop for Scope<'_> {
    fn drop(&mut self) {
        self.0.scope.pop();
    }
}
