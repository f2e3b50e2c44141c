//! The builder: inputs and outputs, parameters, constants, run-time sizes and nodes.

use std::collections::{BTreeMap, HashMap};
use std::ops::{Deref, DerefMut, Range};
use std::rc::Rc;

use super::{Attribute, Dim, Element, Graph, Init, Initializer, Node, Parameter, Source, Value};
use arrcoc_bundle::names::tensor;
use arrcoc_bundle::{Meaning, Role, Target};

/// Grows a [`Graph`].
#[derive(Debug)]
pub struct Builder {
    pub(super) graph: Graph,
    scope: Vec<String>,
    counters: HashMap<String, usize>,
    constants: HashMap<(Vec<u8>, Vec<usize>, Element), Value>,
    sizes: HashMap<Dim, Value>,
    weights: HashMap<String, Value>,
}

impl Builder {
    /// An empty graph; `scope` is the prefix of the checkpoint tensors that it reads.
    pub fn new(name: &'static str, role: Role, scope: &str, target: Target) -> Self {
        Self {
            graph: Graph {
                name,
                role,
                target,
                inputs: Vec::new(),
                outputs: Vec::new(),
                nodes: Vec::new(),
                initializers: Vec::new(),
                values: Vec::new(),
                parameters: Vec::new(),
                functions: Vec::new(),
                meanings: BTreeMap::new(),
                ranges: BTreeMap::new(),
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

    /// Declares an output of the graph contract, under the contract's name and axes, and says what its
    /// numbers mean.
    pub fn output(&mut self, name: &str, meaning: Meaning, value: &Value, dims: Vec<Dim>) {
        self.graph.meanings.insert(name.to_owned(), meaning);
        self.finish_output(name, value, dims);
    }

    /// Declares an output whose numbers nobody compares: a part of the KV cache, the result of a function.
    pub fn bare_output(&mut self, name: &str, value: &Value, dims: Vec<Dim>) {
        self.finish_output(name, value, dims);
    }

    fn finish_output(&mut self, name: &str, value: &Value, dims: Vec<Dim>) {
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

    /// A checkpoint tensor as a matrix: its first axis, and all others as one.
    pub fn param_flat(&mut self, name: &str, shape: &[usize], init: Init) -> Value {
        let numbers = shape.iter().product();
        let view = [shape[0], shape[1..].iter().product()];
        self.param_range(name, shape, init, 0..numbers, &view, "")
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
            Source::Checkpoint { tensor: tensor.clone(), shape: shape.to_vec(), range, factors: None },
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

    /// A constant of bytes.
    pub fn bytes(&mut self, shape: &[usize], data: &[u8]) -> Value {
        self.constant(Element::U8, shape, data.to_vec())
    }

    fn constant(&mut self, element: Element, shape: &[usize], bytes: Vec<u8>) -> Value {
        let key = (bytes, shape.to_vec(), element);
        if let Some(value) = self.constants.get(&key) {
            return value.clone();
        }
        let name = format!("{}{}", tensor::CONSTANT, self.constants.len());
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

    /// The run-time value of a size: an integer tensor of shape \[1\], computed once per graph.
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
