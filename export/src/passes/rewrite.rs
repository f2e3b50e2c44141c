//! Replacing operators of a finished graph, for passes that put others in their place.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use arrcoc_bundle::names::stored;
use arrcoc_models::graph::quantized::{Part, Quantized, Scheme};
use arrcoc_models::graph::{
    Attribute, DOMAIN, Dim, Element, Function, Graph, Initializer, MICROSOFT, Node, Source, Value,
};

use super::flow::halves;

/// A graph whose operators are replaced one by one.
pub(super) struct Rewriter {
    graph: Graph,
    /// The original operators by what they read; those that were not replaced are taken over.
    pending: Vec<Node>,
    shapes: HashMap<Rc<str>, Vec<Dim>>,
    elements: HashMap<Rc<str>, Element>,
    initializers: HashMap<Rc<str>, usize>,
}

/// An operator to add.
pub(super) struct Operator {
    domain: &'static str,
    name: &'static str,
    attributes: Vec<(&'static str, Attribute)>,
    element: Element,
    dims: Vec<Dim>,
}

impl Operator {
    /// A standard operator without attributes whose result is floats of shape `dims`.
    pub(super) fn standard(name: &'static str, dims: &[Dim]) -> Self {
        Self { domain: "", name, attributes: Vec::new(), element: Element::F32, dims: dims.to_vec() }
    }

    /// One of ONNX Runtime's own.
    pub(super) fn microsoft(name: &'static str, dims: &[Dim]) -> Self {
        Self { domain: MICROSOFT, ..Self::standard(name, dims) }
    }

    /// One of ours, which the graph must define.
    pub(super) fn own(name: &'static str, dims: &[Dim]) -> Self {
        Self { domain: DOMAIN, ..Self::standard(name, dims) }
    }

    /// The same with another type of result.
    pub(super) fn of(self, element: Element) -> Self {
        Self { element, ..self }
    }

    /// The same with attributes.
    pub(super) fn attributed(self, attributes: Vec<(&'static str, Attribute)>) -> Self {
        Self { attributes, ..self }
    }

    /// The same with integer attributes.
    pub(super) fn with(self, attributes: &[(&'static str, usize)]) -> Self {
        let ints = attributes.iter().map(|&(name, value)| (name, Attribute::Int(value as i64)));
        Self { attributes: ints.collect(), ..self }
    }
}

impl Rewriter {
    pub(super) fn new(mut graph: Graph) -> Self {
        let pending = std::mem::take(&mut graph.nodes);
        let values = graph.inputs.iter().chain(&graph.values).chain(&graph.outputs);
        let shapes = values.map(|value| (value.name().into(), value.dims().to_vec())).collect();
        let elements = graph.inputs.iter().chain(&graph.values).chain(&graph.outputs);
        let elements = elements.map(|value| (value.name().into(), value.element())).collect();
        let initializers = graph.initializers.iter().enumerate().map(|(i, x)| (x.name.clone(), i)).collect();
        Self { graph, pending, shapes, elements, initializers }
    }

    /// Passes every operator to `replace`, in order; it adds what takes the operator's place, or hands it
    /// back to be kept.
    pub(super) fn each(mut self, mut replace: impl FnMut(&mut Self, Node) -> Option<Node>) -> Graph {
        for node in std::mem::take(&mut self.pending) {
            if let Some(kept) = replace(&mut self, node) {
                self.graph.nodes.push(kept);
            }
        }
        self.finish()
    }

    /// The graph as far as it is rewritten.
    pub(super) fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Shape of a tensor that an operator or the caller makes.
    pub(super) fn dims(&self, name: &str) -> Vec<Dim> {
        self.shapes
            .get(name)
            .cloned()
            .unwrap_or_else(|| panic!("graph `{}` has no `{name}`", self.graph.name))
    }

    /// Element type of a tensor or constant; `None` for a name that stands for none.
    pub(super) fn element(&self, name: &str) -> Option<Element> {
        self.elements.get(name).copied().or_else(|| self.initializer(name).map(|constant| constant.element))
    }

    /// Gives a tensor another element type; who makes it and who reads it must agree.
    pub(super) fn set_element(&mut self, name: &str, element: Element) {
        let graph = &mut self.graph;
        let values = graph.inputs.iter_mut().chain(&mut graph.values).chain(&mut graph.outputs);
        for value in values.filter(|value| value.name() == name) {
            *value = Value::new(name, element, value.dims().to_vec());
        }
        self.elements.insert(name.into(), element);
    }

    /// One of the graph's definitions.
    pub(super) fn function(&self, name: &str) -> Option<&Function> {
        self.graph.functions.iter().find(|function| function.name() == name)
    }

    /// Adds an operator of our own to the graph's definitions.
    pub(super) fn define(&mut self, function: Function) {
        self.graph.define(function);
    }

    /// Names of the graph's inputs that begin so.
    pub(super) fn inputs_with_prefix(&self, prefix: &str) -> Vec<Rc<str>> {
        let names = self.graph.inputs.iter().map(Value::name);
        names.filter(|name| name.starts_with(prefix)).map(Rc::from).collect()
    }

    /// Whether a tensor is an output of the graph.
    pub(super) fn is_output(&self, name: &str) -> bool {
        self.graph.outputs.iter().any(|output| output.name() == name)
    }

    /// A constant in 16-bit floats.
    pub(super) fn half_constant(&mut self, name: &str) -> Option<Rc<str>> {
        let constant = self.initializer(name)?.clone();
        let source = match constant.source {
            Source::Data(bytes) => Source::Data(halves(&bytes)),
            source => source,
        };
        Some(self.store(format!("{name}{}", stored::HALF).into(), Element::F16, constant.shape, source))
    }

    /// The constant of a name.
    pub(super) fn initializer(&self, name: &str) -> Option<&Initializer> {
        self.initializers.get(name).map(|&index| &self.graph.initializers[index])
    }

    /// Adds an operator under `stem`; returns its output.
    pub(super) fn add(&mut self, stem: &str, operator: Operator, inputs: &[&str]) -> Rc<str> {
        let output: Rc<str> = format!("{stem}/{}:0", operator.name).into();
        self.graph.values.push(Value::new(output.clone(), operator.element, operator.dims.clone()));
        self.shapes.insert(output.clone(), operator.dims.clone());
        self.elements.insert(output.clone(), operator.element);
        self.add_as(stem, operator, inputs, output.clone());
        output
    }

    /// Adds an operator whose output is one that the graph knows already.
    pub(super) fn add_as(&mut self, stem: &str, operator: Operator, inputs: &[&str], output: Rc<str>) {
        self.graph.nodes.push(Node {
            name: format!("{stem}/{}", operator.name),
            operator: operator.name,
            domain: operator.domain,
            inputs: inputs.iter().map(|&input| input.into()).collect(),
            outputs: vec![output],
            attributes: operator.attributes,
        });
    }

    /// Adds what stands for a `Gemm`: the operator, and an `Add` of the bias where there is one.
    pub(super) fn add_biased(&mut self, gemm: &Node, operator: Operator, inputs: &[&str]) {
        let output = gemm.outputs[0].clone();
        match gemm.inputs.get(2) {
            None => self.add_as(&gemm.name, operator, inputs, output),
            Some(bias) => {
                let add = Operator::standard("Add", &operator.dims);
                let product = self.add(&gemm.name, operator, inputs);
                self.add_as(&gemm.name, add, &[&product, bias], output);
            }
        }
    }

    /// A constant stored in the file; equal names are stored once.
    pub(super) fn constant(
        &mut self,
        name: &str,
        element: Element,
        shape: &[usize],
        bytes: Vec<u8>,
    ) -> Rc<str> {
        self.store(name.into(), element, shape.to_vec(), Source::Data(bytes))
    }

    /// 64-bit integers, such as a shape, stored in the file. A short list is named after its numbers, a long
    /// one, which is one of equal distances, after its ends.
    pub(super) fn whole_numbers(&mut self, numbers: &[i64]) -> Rc<str> {
        let named = match numbers {
            [first, second, .., last] if numbers.len() > 6 => format!("{first}_{second}_to_{last}"),
            _ => numbers.iter().map(i64::to_string).collect::<Vec<_>>().join("_"),
        };
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.constant(&format!("/numbers_{named}"), Element::I64, &[numbers.len()], bytes)
    }

    /// The same numbers as 32-bit floats.
    pub(super) fn float(&mut self, stem: &str, x: &str) -> Rc<str> {
        let dims = self.dims(x);
        let to_float = vec![("to", Attribute::Int(1))]; // TensorProto.DataType.FLOAT
        self.add(stem, Operator::standard("Cast", &dims).attributed(to_float), &[x])
    }

    /// Part of a checkpoint matrix in fewer bits, under the name of the weight that it stands for.
    pub(super) fn quantized(&mut self, weight: &Initializer, scheme: Scheme, part: Part) -> Option<Rc<str>> {
        let Source::Checkpoint { tensor, range, factors, .. } = &weight.source else { return None };
        let columns = *weight.shape.last()?;
        let (tensor, range, factors) = (tensor.clone(), range.clone(), factors.clone());
        let quantized = Quantized { tensor, range, columns, factors, scheme, part };
        let (element, shape) = quantized.tensor_type();
        let suffix = match part {
            Part::Values => stored::VALUES,
            Part::Scales => stored::SCALES,
            Part::ZeroPoints => stored::ZERO_POINTS,
        };
        Some(self.store(
            format!("{}{suffix}", weight.name).into(),
            element,
            shape,
            Source::Quantized(quantized),
        ))
    }

    /// Gives a constant another shape of as many elements.
    pub(super) fn reshape(&mut self, name: &str, shape: Vec<usize>) {
        if let Some(&index) = self.initializers.get(name) {
            self.graph.initializers[index].shape = shape;
        }
    }

    fn store(&mut self, name: Rc<str>, element: Element, shape: Vec<usize>, source: Source) -> Rc<str> {
        if !self.initializers.contains_key(&name) {
            self.initializers.insert(name.clone(), self.graph.initializers.len());
            self.graph.initializers.push(Initializer { name: name.clone(), element, shape, source });
        }
        name
    }

    /// The rewritten graph, without constants that nothing reads and functions that nothing calls any more.
    fn finish(self) -> Graph {
        let mut graph = self.graph;
        let read: HashSet<Rc<str>> =
            graph.nodes.iter().flat_map(|node| node.inputs.iter().cloned()).collect();
        graph.initializers.retain(|tensor| read.contains(&tensor.name));
        let called =
            |name: &str| graph.nodes.iter().any(|node| node.domain == DOMAIN && node.operator == name);
        graph.functions.retain(|function| called(function.name()));
        graph
    }
}
