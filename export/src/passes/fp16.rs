//! 16-bit floats: products in half precision, and what stands between two of them.
//!
//! A linear layer whose weight has the form `fp16` multiplies in 16 bits; what only rearranges its result,
//! bends it (an activation function) or multiplies it again (attention) stays in 16 bits too. Everything else
//! keeps 32: norms and their statistics, rotary embedding, sums with the residual stream, softmax under a
//! mask, and whatever chooses or places tokens. So the islands of 32 bits that other converters are told of
//! one by one are what is left here by itself.
//!
//! No number may leave the range of 16 bits unseen. A calibration says how large every tensor gets in 32
//! bits; an operator that reads or makes one of [`LIMIT`] or more stays in 32 bits and is listed in the
//! manifest. The cache's keys and values have no such way out, nor has an operator that attends to a cache of
//! 16 bits and makes its products inside: there the build fails.
//!
//! What recurrent layers compute with what they remember keeps 32 bits too: their memory lives as long as the
//! conversation, and so would its rounding.
//!
//! A weight of the form `fp8` makes a product of 8-bit floats instead ([`super::fp8`]), one in blocks of 4
//! bits a product that unpacks it ([`super::int4`]); what goes in and comes out of either has 16 bits.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use arrcoc_bundle::WeightForm;
use arrcoc_bundle::manifest::KeptNode;
use arrcoc_bundle::names::cache;
use arrcoc_bundle::names::operator::GROUP_QUERY_ATTENTION;
use arrcoc_models::graph::quantized::Blocks;
use arrcoc_models::graph::{Attribute, Element, Graph, Node, Source};

use super::flow::{MOVING, Settings};
use super::rewrite::{Operator, Rewriter};
use super::{PassError, described, fp8, int4};
use crate::quantize;

/// The magnitude from which on a tensor is not trusted to 16 bits: a quarter of the largest half (65504),
/// since other images than the calibration's may go further than those did.
const LIMIT: f32 = 65504.0 / 4.0;

/// Operators that stay in 16 bits when all that they read at run time is.
const BENDING: [&str; 12] =
    ["Add", "Sub", "Mul", "Div", "Erf", "Sigmoid", "Tanh", "Relu", "Neg", "Gelu", "QuickGelu", "Softmax"];

/// Brings a graph to 16 bits; also returns what it had to leave in 32.
///
/// # Errors
/// [`PassError::CacheOverflow`], or [`PassError::NotCalibrated`] when the calibration does not know a tensor.
pub(super) fn lower(graph: Graph, settings: &mut Settings<'_>) -> Result<(Graph, Vec<KeptNode>), PassError> {
    let mut kept = Vec::new();
    let mut outcome = Ok(());
    let mut flow = Flow::default();
    let mut rewriter = Rewriter::new(graph);
    for input in rewriter.inputs_with_prefix(cache::PAST) {
        rewriter.set_element(&input, Element::F16);
        flow.after_product.insert(input);
    }
    flow.remembered.extend(rewriter.inputs_with_prefix(cache::PAST_STATE));
    let graph = rewriter.each(|g, node| {
        let mut width = flow.width(g, settings, &node);
        if width != Width::Full && outcome.is_ok() {
            match gate(g, settings, &node) {
                Ok(None) => {}
                Ok(Some(large)) => {
                    width = Width::Full;
                    kept.push(large);
                }
                Err(error) => outcome = Err(error),
            }
        }
        flow.place(g, settings, node, width)
    });
    outcome.map(|()| (graph, kept))
}

/// Why an operator has to stay in 32 bits, if it has to.
fn gate(g: &Rewriter, settings: &Settings<'_>, node: &Node) -> Result<Option<KeptNode>, PassError> {
    let Largest { tensor, magnitude } = largest(g, settings, node)?;
    if magnitude < LIMIT {
        return Ok(None);
    }
    if node.operator == GROUP_QUERY_ATTENTION || node.outputs.iter().any(|output| cache::is_present(output)) {
        let (node, tensor) = (node.name.clone(), tensor.to_string());
        return Err(PassError::CacheOverflow { node, tensor, magnitude });
    }
    let (graph, node) = (g.graph().name.to_owned(), node.name.clone());
    Ok(Some(KeptNode { graph, node, tensor: tensor.to_string(), magnitude }))
}

/// How many bits an operator works in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    /// 32.
    Full,
    /// 16.
    Half,
    /// A product of 8-bit floats; its result has 16.
    Quarter,
    /// 16, with weights in blocks of 4.
    HalfOfBlocks(Blocks),
}

/// What is known of the tensors made so far.
#[derive(Default)]
struct Flow {
    /// Made by a product of 16 bits, or from what is.
    after_product: HashSet<Rc<str>>,
    /// Casts and half constants, by what they are of.
    converted: HashMap<(Rc<str>, Element), Rc<str>>,
    /// Made by a linear layer in 8 bits, or from what was without another layer between.
    behind_quarter: HashSet<Rc<str>>,
    /// What recurrent layers remember, and what was made of it without a linear layer between.
    remembered: HashSet<Rc<str>>,
    /// What was rounded to 8 bits.
    rounded: fp8::Rounded,
}

impl Flow {
    /// How many bits an operator is to work in.
    fn width(&self, g: &Rewriter, settings: &mut Settings<'_>, node: &Node) -> Width {
        let inputs: Vec<Rc<str>> = floats(g, &node.inputs);
        let running: Vec<&Rc<str>> = inputs.iter().filter(|name| g.initializer(name).is_none()).collect();
        let is_half = |name: &&Rc<str>| g.element(name) == Some(Element::F16);
        let weight = match node.operator {
            "Gemm" => node.inputs.get(1),
            "Gather" => node.inputs.first(),
            _ => None,
        };
        if let Some(weight) = weight.and_then(|name| g.initializer(name)).cloned() {
            return match settings.rules.form(g.graph(), node, &weight) {
                WeightForm::Fp16 => Width::Half,
                WeightForm::Fp8 if node.operator == "Gemm" => Width::Quarter,
                WeightForm::Blocks { bits, size, symmetric } if node.operator == "Gemm" => {
                    Width::HalfOfBlocks(described(bits, size, symmetric))
                }
                // A table is looked up, not multiplied.
                WeightForm::Fp8 | WeightForm::Blocks { .. } => Width::Half,
                _ => Width::Full,
            };
        }
        if node.inputs.iter().any(|name| self.remembered.contains(name)) {
            return Width::Full;
        }
        let half = match node.operator {
            // Attention: both sides are made of what a linear layer made.
            "MatMul" => running.len() == 2 && inputs.iter().any(|name| self.after_product.contains(name)),
            // CUDA's has no other width. Its kernels sum in 32 bits: no product is stored in 16.
            GROUP_QUERY_ATTENTION => true,
            "Identity" if g.is_output(&node.outputs[0]) => cache::is_present(&node.outputs[0]),
            "Concat" => running.iter().any(is_half),
            // The square of a norm's mean.
            "Mul" if node.inputs[0] == node.inputs[1] => false,
            operator if MOVING.contains(&operator) => inputs.first().is_some_and(|name| is_half(&name)),
            operator if BENDING.contains(&operator) => !running.is_empty() && running.iter().all(is_half),
            _ => false,
        };
        match half {
            true if node.operator == "MatMul"
                && running.iter().all(|name| self.behind_quarter.contains(*name)) =>
            {
                Width::Quarter
            }
            true => Width::Half,
            false => Width::Full,
        }
    }

    /// Gives the operator inputs of its kind, and notes what it makes.
    fn place(
        &mut self,
        g: &mut Rewriter,
        settings: &Settings<'_>,
        mut node: Node,
        width: Width,
    ) -> Option<Node> {
        let element = if width == Width::Full { Element::F32 } else { Element::F16 };
        self.rounded.follow(&node);
        let follows = node.inputs.iter().any(|name| self.after_product.contains(name));
        if node.operator != "Gemm" && node.inputs.iter().any(|name| self.remembered.contains(name)) {
            self.remembered.extend(node.outputs.iter().filter(|name| !name.is_empty()).cloned());
        }
        let behind_quarter = match node.operator {
            "Gemm" => width == Width::Quarter,
            _ => node.inputs.iter().any(|name| self.behind_quarter.contains(name)),
        };
        if width == Width::Quarter {
            let weight = node.inputs.get(1).filter(|_| node.operator == "Gemm").cloned();
            let factors: Vec<Rc<str>> = node.inputs.iter().take(2).cloned().collect();
            for (place, factor) in factors.into_iter().enumerate() {
                let half = self.converted(g, &factor, element);
                node.inputs[place] = match weight.as_ref() == Some(&factor) {
                    true => self.rounded.weight(g, &factor).unwrap_or(half),
                    false => self.rounded.activation(g, settings, &factor, &half),
                };
            }
        }
        let unpacked = g.graph().target.dequantizes_blocks();
        let (unpacks, packed) = match width {
            Width::HalfOfBlocks(blocks) if unpacked => (int4::unpack(g, &mut node, blocks), None),
            Width::HalfOfBlocks(blocks) => (false, int4::pack(g, &node, blocks)),
            _ => (false, None),
        };
        let product = width != Width::Full && matches!(node.operator, "Gemm" | "MatMul");
        for (place, input) in node.inputs.iter_mut().enumerate() {
            if packed.is_some() && place == 1 {
                continue;
            }
            if is_float(g.element(input)) && g.element(input) != Some(element) && node.operator != "Shape" {
                *input = self.converted(g, input, element);
            }
        }
        for output in node.outputs.iter().filter(|name| !name.is_empty()) {
            if is_float(g.element(output)) {
                g.set_element(output, element);
                if product || follows {
                    self.after_product.insert(output.clone());
                }
                if behind_quarter {
                    self.behind_quarter.insert(output.clone());
                }
            }
        }
        match packed {
            Some(weight) => int4::replace_packed(g, &node, &weight),
            None if unpacks => int4::replace_gemm(g, &node),
            None => return Some(node),
        }
        None
    }

    /// The same numbers in another width, made once.
    fn converted(&mut self, g: &mut Rewriter, name: &Rc<str>, element: Element) -> Rc<str> {
        if g.element(name) == Some(element) {
            return name.clone();
        }
        if let Some(known) = self.converted.get(&(name.clone(), element)) {
            return known.clone();
        }
        let constant = if element == Element::F16 { g.half_constant(name) } else { None };
        let made = constant.unwrap_or_else(|| {
            let (code, suffix) = if element == Element::F16 { (10, "fp16") } else { (1, "fp32") }; // TensorProto.DataType
            let cast = Operator::standard("Cast", &g.dims(name)).of(element);
            let stem = format!("/{}/{suffix}", name.trim_start_matches('/'));
            g.add(&stem, cast.attributed(vec![("to", Attribute::Int(code))]), &[name])
        });
        for known in [&mut self.after_product, &mut self.behind_quarter] {
            if known.contains(name) {
                known.insert(made.clone());
            }
        }
        self.converted.insert((name.clone(), element), made.clone());
        made
    }
}

fn is_float(element: Option<Element>) -> bool {
    matches!(element, Some(Element::F32 | Element::F16))
}

fn floats(g: &Rewriter, names: &[Rc<str>]) -> Vec<Rc<str>> {
    names.iter().filter(|name| is_float(g.element(name))).cloned().collect()
}

/// The largest of what an operator reads and makes.
struct Largest {
    tensor: Rc<str>,
    magnitude: f32,
}

fn largest(g: &Rewriter, settings: &Settings<'_>, node: &Node) -> Result<Largest, PassError> {
    let mut most = Largest { tensor: "".into(), magnitude: 0.0 };
    for tensor in floats(g, &node.inputs).into_iter().chain(floats(g, &node.outputs)) {
        let magnitude = match g.initializer(&tensor).map(|constant| &constant.source) {
            Some(Source::Data(bytes)) => largest_constant(bytes),
            Some(_) => {
                let columns = settings.weights.get(&*tensor).ok_or_else(|| unknown(g, &tensor))?;
                columns.iter().copied().fold(0.0, f32::max)
            }
            None => calibrated(g, settings, &tensor)?,
        };
        if magnitude > most.magnitude {
            most = Largest { tensor, magnitude };
        }
    }
    Ok(most)
}

/// What a tensor reached. The graph's outputs are other tensors by another name, and the cache is the outputs
/// of earlier runs.
fn calibrated(g: &Rewriter, settings: &Settings<'_>, tensor: &str) -> Result<f32, PassError> {
    match settings.ranges.magnitudes.get(tensor) {
        Some(&magnitude) => Ok(magnitude),
        None if g.is_output(tensor) || cache::is_past(tensor) => Ok(0.0),
        None => Err(unknown(g, tensor)),
    }
}

fn unknown(g: &Rewriter, tensor: &str) -> PassError {
    PassError::NotCalibrated { graph: g.graph().name, tensor: tensor.to_owned() }
}

pub(super) fn largest_constant(bytes: &[u8]) -> f32 {
    quantize::floats(bytes).fold(0.0, |most, x| most.max(x.abs()))
}
