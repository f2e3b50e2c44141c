//! What a calibration of portable graphs says of another target's graphs of the same networks.
//!
//! Names do not tell: operators are counted as they are added, so that one name may mean two tensors. What
//! tells is how a tensor is made. Two tensors are the same where the same operator made them of the same
//! inputs, and inputs and outputs of the linear layer of one weight are the same in both graphs, whatever
//! made them. Only attention over a cache is written otherwise in graphs for CUDA. What lies inside of it and
//! nowhere in the portable graph has a bound, by what its operator can make of its inputs at the most. A
//! tensor of any other operator stays unknown, and a pass that needs it says so.

use std::collections::HashMap;
use std::rc::Rc;

use arrcoc_bundle::names::operator::{GROUP_QUERY_ATTENTION, ROTARY_EMBEDDING};
use arrcoc_models::graph::{Dim, Element, Graph, Initializer, Node, Source};

use super::flow::MOVING;
use super::fp16::largest_constant;
use crate::calibrate::file::{GraphRanges, structure};

/// The ranges of `graph`, from those of its portable twin.
pub(super) fn ranges(graph: &Graph, twin: &Graph, of_twin: &GraphRanges) -> GraphRanges {
    let own = structure(graph);
    if own == of_twin.structure {
        return of_twin.clone();
    }
    let same = Same::of(graph, twin);
    let mut ranges = GraphRanges { structure: own, ..GraphRanges::default() };
    for (name, twin) in &same.0 {
        if let Some(&magnitude) = of_twin.magnitudes.get(&**twin) {
            ranges.magnitudes.insert(name.to_string(), magnitude);
        }
        if let Some(activation) = of_twin.activations.get(&**twin) {
            ranges.activations.insert(name.to_string(), activation.clone());
            let products = of_twin.products.iter().filter(|(_, x)| **x == **twin);
            ranges.products.extend(products.map(|(weight, _)| (weight.clone(), name.to_string())));
        }
    }
    bound(graph, &mut ranges);
    ranges
}

/// Tensors of a graph, by name, and those of its twin that are the same.
struct Same(HashMap<Rc<str>, Rc<str>>);

/// How a tensor is made: operator, inputs, shape.
type Made<'a> = (&'static str, Vec<Rc<str>>, &'a [Dim]);

impl Same {
    fn of(graph: &Graph, twin: &Graph) -> Self {
        let (shapes, twins) = (shapes(graph), Twins::of(twin));
        let mut same = Self::from_outside(graph, twin);
        for node in &graph.nodes {
            let of_weight = layer(graph, node).and_then(|weight| twins.layers.get(weight));
            if let Some(twin) = of_weight {
                same.0.entry(node.inputs[0].clone()).or_insert_with(|| twins.first(&twin.inputs[0]));
                same.add_outputs(node, twin);
                continue;
            }
            let inputs: Option<Vec<_>> = node.inputs.iter().map(|input| same.get(input)).collect();
            let Some(inputs) = inputs else { continue };
            if let Some(twin) = twins.find(node, inputs, shape(&shapes, node)) {
                same.add_outputs(node, twin);
            }
        }
        same
    }

    /// Inputs by their names, weights by the checkpoint's, constants by their numbers.
    fn from_outside(graph: &Graph, twin: &Graph) -> Self {
        let inputs = graph.inputs.iter().map(|input| Rc::<str>::from(input.name()));
        let known = |name: &Rc<str>| twin.inputs.iter().any(|input| input.name() == &**name);
        let mut same: HashMap<_, _> = inputs.filter(known).map(|name| (name.clone(), name)).collect();
        let of_twin: HashMap<_, _> =
            twin.initializers.iter().map(|constant| (content(constant), constant.name.clone())).collect();
        for constant in &graph.initializers {
            if let Some(twin) = of_twin.get(&content(constant)) {
                same.insert(constant.name.clone(), twin.clone());
            }
        }
        Self(same)
    }

    /// An omitted input is the same as another.
    fn get(&self, name: &Rc<str>) -> Option<Rc<str>> {
        if name.is_empty() { Some(name.clone()) } else { self.0.get(name).cloned() }
    }

    fn add_outputs(&mut self, node: &Node, twin: &Node) {
        self.0.extend(node.outputs.iter().cloned().zip(twin.outputs.iter().cloned()));
    }
}

/// The twin's operators, by how they make what they make.
struct Twins<'a> {
    made: HashMap<Made<'a>, Vec<&'a Node>>,
    /// Tensors that an earlier operator has made already, as the shapes of two tensors of one shape.
    again: HashMap<Rc<str>, Rc<str>>,
    layers: HashMap<&'a Rc<str>, &'a Node>,
}

impl<'a> Twins<'a> {
    fn of(twin: &'a Graph) -> Self {
        let (shapes, layers) = (shapes(twin), linear_layers(twin));
        let mut twins = Self { made: HashMap::new(), again: HashMap::new(), layers };
        for node in &twin.nodes {
            let inputs: Vec<_> = node.inputs.iter().map(|input| twins.first(input)).collect();
            let dims = shape(&shapes, node);
            match twins.find(node, inputs.clone(), dims) {
                Some(known) => {
                    twins.again.extend(node.outputs.iter().cloned().zip(known.outputs.iter().cloned()))
                }
                None => twins.made.entry((node.operator, inputs, dims)).or_default().push(node),
            }
        }
        twins
    }

    /// The same tensor where it was made first.
    fn first(&self, name: &Rc<str>) -> Rc<str> {
        self.again.get(name).unwrap_or(name).clone()
    }

    /// The first operator that makes of `inputs` what `node` does.
    fn find(&self, node: &Node, inputs: Vec<Rc<str>>, dims: &'a [Dim]) -> Option<&'a Node> {
        let made = self.made.get(&(node.operator, inputs, dims))?;
        made.iter().find(|twin| twin.attributes == node.attributes).copied()
    }
}

/// What a constant is, whatever its name.
fn content(of: &Initializer) -> (Element, &[usize], &Source) {
    (of.element, &of.shape, &of.source)
}

fn shapes(graph: &Graph) -> HashMap<&str, &[Dim]> {
    graph.values.iter().chain(&graph.outputs).map(|value| (value.name(), value.dims())).collect()
}

fn shape<'a>(shapes: &HashMap<&str, &'a [Dim]>, node: &Node) -> &'a [Dim] {
    node.outputs.first().and_then(|output| shapes.get(&**output)).copied().unwrap_or(&[])
}

/// The weight of a linear layer.
fn layer<'a>(graph: &'a Graph, node: &'a Node) -> Option<&'a Rc<str>> {
    let weight = node.inputs.get(1).filter(|_| node.operator == "Gemm")?;
    let of_checkpoint = |constant: &Initializer| matches!(constant.source, Source::Checkpoint { .. });
    graph.initializers.iter().any(|of| of.name == *weight && of_checkpoint(of)).then_some(weight)
}

/// Linear layers by their weights, of those weights that only one layer has.
fn linear_layers(graph: &Graph) -> HashMap<&Rc<str>, &Node> {
    let mut layers: HashMap<&Rc<str>, Option<&Node>> = HashMap::new();
    for node in &graph.nodes {
        if let Some(weight) = layer(graph, node) {
            layers.entry(weight).and_modify(|known| *known = None).or_insert(Some(node));
        }
    }
    layers.into_iter().filter_map(|(weight, node)| Some((weight, node?))).collect()
}

/// Adds bounds of what is inside of attention.
fn bound(graph: &Graph, ranges: &mut GraphRanges) {
    let constants: HashMap<&str, f32> = graph.initializers.iter().filter_map(largest).collect();
    for node in &graph.nodes {
        let magnitude = |at: usize| {
            let name = &**node.inputs.get(at)?;
            ranges.magnitudes.get(name).or_else(|| constants.get(name)).copied()
        };
        let most = |count: usize| (0..count).map(magnitude).reduce(|a, b| Some(a?.max(b?))).flatten();
        let bounds: Vec<Option<f32>> = match node.operator {
            // Each number becomes the sum of two, times a cosine and a sine.
            ROTARY_EMBEDDING => {
                let of = |x: f32, cosines: f32, sines: f32| x * (cosines + sines);
                vec![magnitude(0).zip(magnitude(2)).zip(magnitude(3)).map(|((x, c), s)| of(x, c, s))]
            }
            // Means of values; keys and values of earlier runs were made in those.
            GROUP_QUERY_ATTENTION => vec![magnitude(2), magnitude(1), magnitude(2)],
            "Concat" => vec![most(node.inputs.len())],
            operator if MOVING.contains(&operator) => vec![magnitude(0); node.outputs.len()],
            _ => continue,
        };
        for (output, bound) in node.outputs.iter().zip(bounds) {
            if let Some(bound) = bound.filter(|_| !ranges.magnitudes.contains_key(&**output)) {
                ranges.magnitudes.insert(output.to_string(), bound);
            }
        }
    }
}

/// The largest number of a constant that the graphs' builder made.
fn largest(constant: &Initializer) -> Option<(&str, f32)> {
    match &constant.source {
        Source::Data(bytes) if constant.element == Element::F32 => {
            Some((&*constant.name, largest_constant(bytes)))
        }
        _ => None,
    }
}
