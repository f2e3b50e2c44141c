//! Outliers of activations moved into weights: SmoothQuant (Xiao et al. 2022,
//! <https://arxiv.org/abs/2211.10438>).
//!
//! A few channels behind a norm are often tens of times larger than the rest, for every token alike. In int8
//! they make the step of a token so wide that little is left of its other channels. Dividing such a channel
//! by a factor where the norm scales it, and multiplying the weights that read it with the same, changes
//! nothing but who has to represent it: weights have a scale of their own per output channel and are known in
//! advance. Both factors are folded into stored numbers: nothing is computed at run time.
//!
//! Only linear layers of the form `w8a8` right behind a norm are smoothed. What is quantized in blocks along
//! its channels shuts an outlier into its block.

use std::collections::HashMap;
use std::rc::Rc;

use arrcoc_bundle::WeightForm;
use arrcoc_models::graph::{Attribute, Factors, Graph, Node, Source};

use super::forms::Rules;
use crate::calibrate::file::Calibration;

/// Limits of a factor: a channel that was hardly used says little of what it will be.
const SMALLEST: f32 = 1e-3;
const LARGEST: f32 = 1e3;

/// Folds factors into the norms and weights of a graph.
pub(super) fn smooth(mut graph: Graph, rules: &mut Rules, calibration: &Calibration) -> Graph {
    let readers = readers(&graph);
    let mut folded: Vec<(Rc<str>, Factors)> = Vec::new();
    for norm in graph.nodes.iter() {
        let Some(scales) = scales(norm) else { continue };
        let Some(layers) = layers_behind(&graph, &readers, norm) else { continue };
        let weights: Vec<Rc<str>> = layers.iter().map(|layer| layer.inputs[1].clone()).collect();
        if !layers.iter().all(|layer| is_w8a8(&graph, rules, layer)) {
            continue;
        }
        // A number that something else reads as well cannot be changed for one reader.
        let constants = || scales.iter().chain(&weights);
        if !constants()
            .all(|name| is_plain(&graph, name) && readers.get(name).is_some_and(|by| by.len() == 1))
        {
            continue;
        }
        let Some(factors) = factors(graph.name, &weights, calibration) else { continue };
        let inverse = Factors::new(factors.iter().map(|factor| factor.recip()).collect());
        folded.extend(scales.iter().map(|scale| (scale.clone(), inverse.clone())));
        let factors = Factors::new(factors);
        folded.extend(weights.into_iter().map(|weight| (weight, factors.clone())));
    }
    for (name, by) in folded {
        let constant = graph.initializers.iter_mut().find(|constant| constant.name == name);
        if let Some(Source::Checkpoint { factors, .. }) = constant.map(|constant| &mut constant.source) {
            *factors = Some(by);
        }
    }
    graph
}

/// Operators by what they read.
fn readers(graph: &Graph) -> HashMap<Rc<str>, Vec<usize>> {
    let mut readers: HashMap<Rc<str>, Vec<usize>> = HashMap::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        for input in &node.inputs {
            readers.entry(input.clone()).or_default().push(index);
        }
    }
    readers
}

/// Scale and bias of a norm; `None` for any other operator.
fn scales(node: &Node) -> Option<&[Rc<str>]> {
    match node.operator {
        "LayerNormalization" | "SimplifiedLayerNormalization" => Some(&node.inputs[1..]),
        "SkipSimplifiedLayerNormalization" => Some(&node.inputs[2..3]),
        _ => None,
    }
}

/// The linear layers that read a norm's result, when nothing else does.
fn layers_behind<'a>(
    graph: &'a Graph,
    readers: &HashMap<Rc<str>, Vec<usize>>,
    norm: &Node,
) -> Option<Vec<&'a Node>> {
    let width = |name: &str| {
        let constant = graph.initializers.iter().find(|constant| &*constant.name == name)?;
        constant.shape.last().copied()
    };
    let channels = width(scales(norm)?.first()?)?;
    let mut layers = Vec::new();
    let mut open = vec![norm.outputs[0].clone()];
    while let Some(tensor) = open.pop() {
        if graph.outputs.iter().any(|output| *output.name() == *tensor) {
            return None;
        }
        for &index in readers.get(&tensor)? {
            let node = &graph.nodes[index];
            match node.operator {
                "Gemm" if node.inputs[0] == tensor && width(&node.inputs[1]) == Some(channels) => {
                    layers.push(node)
                }
                _ if keeps_channels(graph, node, channels) => open.push(node.outputs[0].clone()),
                _ => return None,
            }
        }
    }
    (!layers.is_empty()).then_some(layers)
}

/// Whether an operator leaves every element in its channel, when the elements lie in rows of `channels`, or
/// of a multiple of them (a window's rows). A reshape moves nothing.
fn keeps_channels(graph: &Graph, node: &Node, channels: usize) -> bool {
    let whole_rows = |name: &str| {
        let value = graph.values.iter().find(|value| value.name() == name);
        let width = value.and_then(|value| value.dims().last()?.fixed());
        width.is_some_and(|width| width.is_multiple_of(channels))
    };
    let last_stays = || {
        node.attributes.iter().any(|(name, value)| match value {
            Attribute::Ints(order) => *name == "perm" && order.last() == Some(&(order.len() as i64 - 1)),
            _ => false,
        })
    };
    match node.operator {
        "Reshape" => true,
        "Pad" => whole_rows(&node.inputs[0]) && whole_rows(&node.outputs[0]),
        "Transpose" => whole_rows(&node.inputs[0]) && last_stays(),
        _ => false,
    }
}

/// Whether a constant comes from the checkpoint as it is.
fn is_plain(graph: &Graph, name: &str) -> bool {
    let constant = graph.initializers.iter().find(|constant| &*constant.name == name);
    constant.is_some_and(|constant| matches!(constant.source, Source::Checkpoint { factors: None, .. }))
}

fn is_w8a8(graph: &Graph, rules: &mut Rules, layer: &Node) -> bool {
    let weight = graph.initializers.iter().find(|constant| constant.name == layer.inputs[1]);
    weight.is_some_and(|weight| rules.form(graph, layer, weight) == WeightForm::W8a8)
}

/// One factor per channel: the root of how large the activations get over how large the weights are, which
/// leaves both equally hard to represent (the paper's alpha = 0.5).
fn factors(graph: &str, weights: &[Rc<str>], calibration: &Calibration) -> Option<Vec<f32>> {
    let activation = calibration.graphs.get(graph)?.input_of(weights.first()?)?;
    let mut largest = vec![0.0f32; activation.channels.len()];
    for weight in weights {
        let columns = calibration.weights.get(&**weight)?;
        if columns.len() != largest.len() {
            return None;
        }
        largest.iter_mut().zip(columns).for_each(|(largest, x)| *largest = largest.max(*x));
    }
    let factor = |(activation, weight): (&f32, &f32)| match (activation / weight).sqrt() {
        factor if factor.is_finite() && factor > 0.0 => factor.clamp(SMALLEST, LARGEST),
        // A channel, or what reads it, is zero throughout.
        _ => 1.0,
    };
    Some(activation.channels.iter().zip(&largest).map(factor).collect())
}
