//! Precision passes: graphs in 32-bit floats in, graphs of another precision out.
//!
//! For `build`. Every weight takes a form ([`forms`]: the precision's defaults, then the user's rules).
//! Integers have a file here for each form. It replaces the operator that reads the weight, and [`replace`]
//! has an arm for it. Floats of 16 and 8 bits flow from operator to operator, so they have a pass of their
//! own ([`fp16`], with [`fp8`] and [`flow`]). It also places blocks of 4-bit weights between 16-bit floats
//! ([`int4`]). A calibration is of portable graphs; what it says of others, [`twin`] finds out. The numbers
//! are computed when they are written ([`crate::quantize`]). Passes see every graph of the model before
//! anything is laid out, so they may refuse a model with a reason.

mod attention;
mod blocks;
mod flow;
mod forms;
mod fp16;
mod fp8;
mod int4;
mod rewrite;
mod smooth;
#[cfg(test)]
mod tests;
mod twin;
mod w8a8;

use arrcoc_bundle::manifest::{CacheElement, KeptNode};
use arrcoc_bundle::names::operator::GRID_ATTENTION;
use arrcoc_bundle::{Precision, Target, WeightForm, WeightRule};
use arrcoc_models::graph::quantized::{Bits, Blocks};
use arrcoc_models::graph::{Graph, Initializer, Node};

use crate::calibrate::file::{Calibration, structure};
use crate::calibrate::histogram::RangeMethod;
use forms::Rules;
use rewrite::Rewriter;

/// A model cannot be brought to a precision.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PassError {
    /// The precision is not for that target.
    #[error("{precision} bundles are built for {built_for} only: {reason}; take {instead}")]
    Target {
        /// The precision.
        precision: Precision,
        /// The targets that it is for.
        built_for: &'static str,
        /// Why only those.
        reason: &'static str,
        /// What to choose.
        instead: &'static str,
    },
    /// A form that the precision does not have.
    #[error(
        "rule {number}: the form `{form}` cannot be part of an {precision} bundle for {target}; expected {expected}"
    )]
    Form {
        /// Place of the rule in the user's list, from 1.
        number: usize,
        /// The form.
        form: WeightForm,
        /// The precision.
        precision: Precision,
        /// The target, as `--target` names it.
        target: &'static str,
        /// Forms that can.
        expected: &'static str,
    },
    /// Nobody knows what would overflow.
    #[error(
        "{precision} needs to know how large the tensors get: make a calibration with `arrcoc-export calibrate`, and name it \
         with --calibration"
    )]
    NoCalibration {
        /// The precision.
        precision: Precision,
    },
    /// The calibration is of other graphs.
    #[error(
        "the calibration says nothing of `{tensor}` in graph `{graph}`; make it again with this version's \
         `arrcoc-export calibrate`"
    )]
    NotCalibrated {
        /// The graph.
        graph: &'static str,
        /// The tensor.
        tensor: String,
    },
    /// The calibration is of graphs that an older or newer version made.
    #[error(
        "the calibration is of another graph `{graph}`, of another checkpoint's or another version's; make it again of this \
         checkpoint with this version's `arrcoc-export calibrate`"
    )]
    OtherGraph {
        /// The graph.
        graph: &'static str,
    },
    /// A cached key or value, or what is multiplied with one, does not fit 16 bits.
    #[error(
        "{node}: `{tensor}` reaches {magnitude}, too much for attention over a cache of 16-bit floats, which end at 65504 and are trusted with \
         a quarter of that; this checkpoint needs fp32"
    )]
    CacheOverflow {
        /// The operator.
        node: String,
        /// What it makes.
        tensor: String,
        /// How large it got.
        magnitude: f32,
    },
    /// A rule's pattern does not parse.
    #[error("rule {number}: `tensor` is not a pattern")]
    Glob {
        /// Place of the rule in the user's list, from 1.
        number: usize,
        /// Why.
        source: globset::Error,
    },
    /// A rule fits no weight.
    #[error(
        "rule {number} fits no weight; expected a `graph` of {graphs}, a `role` that one of them has, a `tensor` by the name that the networks use (`arrcoc-export inspect --tensors`), and an \
         `operator` of Gemm and Gather"
    )]
    Unused {
        /// Place of the rule in the user's list, from 1.
        number: usize,
        /// The model's graphs.
        graphs: String,
    },
}

/// What is to be made of the graphs.
pub(crate) struct Request<'a> {
    pub(crate) precision: Precision,
    pub(crate) target: Target,
    /// Rules that come after the precision's own.
    pub(crate) rules: &'a [WeightRule],
    pub(crate) calibration: Option<&'a Calibration>,
    /// The portable graphs of the same networks, where the graphs are others: calibrations are of these.
    pub(crate) portable: &'a [Graph],
    /// How ranges of 8-bit activations are chosen.
    pub(crate) range: RangeMethod,
}

/// Graphs of one precision, and what the manifest says of them.
pub(crate) struct Passed {
    pub(crate) graphs: Vec<Graph>,
    /// The rules that made them.
    pub(crate) rules: Vec<WeightRule>,
    /// Operators that could not go where the rules would have them.
    pub(crate) kept: Vec<KeptNode>,
    pub(crate) cache_element: CacheElement,
}

/// Brings `graphs` to a precision.
///
/// # Errors
/// [`PassError`].
pub(crate) fn apply(request: Request<'_>, graphs: Vec<Graph>) -> Result<Passed, PassError> {
    let Request { precision, target, calibration, .. } = request;
    let mut rules = Rules::new(precision, target, request.rules)?;
    let floats = match precision {
        Precision::Fp16 | Precision::Fp8 => true,
        Precision::Int4 => target.has_small_floats(),
        Precision::Fp32 | Precision::Int8 => false,
    };
    if floats {
        return apply_floats(&request, rules, graphs);
    }
    if rules.quantize() && !target.has_integers() {
        let reason = "they use operators of ONNX Runtime's CPU provider";
        let instead = "`--target cpu`, or `--precision fp16`, `int4` or `fp8` for GPUs";
        return Err(PassError::Target { precision, built_for: "cpu", reason, instead });
    }
    let smoothed = graphs.into_iter().map(|graph| match calibration {
        Some(calibration) => smooth::smooth(graph, &mut rules, calibration),
        None => graph,
    });
    let smoothed: Vec<Graph> = smoothed.collect();
    let graphs: Vec<Graph> = smoothed.into_iter().map(|graph| rewrite(graph, &mut rules)).collect();
    rules.check_used(&graphs)?;
    Ok(Passed { graphs, rules: rules.list(), kept: Vec::new(), cache_element: CacheElement::Fp32 })
}

/// 16-bit and 8-bit floats, and blocks of 4-bit weights between 16-bit floats.
fn apply_floats(request: &Request<'_>, mut rules: Rules, graphs: Vec<Graph>) -> Result<Passed, PassError> {
    let &Request { precision, target, calibration, portable, range, .. } = request;
    if !target.has_small_floats() {
        let reason = "CPUs compute it in 32 bits, and hide what overflows";
        let (built_for, instead) = ("portable and cuda", "one of these targets, or another precision");
        return Err(PassError::Target { precision, built_for, reason, instead });
    }
    let calibration = calibration.ok_or(PassError::NoCalibration { precision })?;
    let (mut lowered, mut kept) = (Vec::new(), Vec::new());
    for graph in graphs {
        let other = PassError::OtherGraph { graph: graph.name };
        let twin = match target.is_standard() {
            true => Some(&graph),
            false => portable.iter().find(|twin| twin.name == graph.name),
        };
        let (Some(twin), Some(ranges)) = (twin, calibration.graphs.get(graph.name)) else {
            return Err(other);
        };
        if ranges.structure != structure(twin) {
            return Err(other);
        }
        let ranges = &twin::ranges(&graph, twin, ranges);
        let weights = &calibration.weights;
        let mut settings = flow::Settings { rules: &mut rules, ranges, weights, range };
        let (graph, left) = fp16::lower(graph, &mut settings)?;
        lowered.push(graph);
        kept.extend(left);
    }
    rules.check_used(&lowered)?;
    Ok(Passed { graphs: lowered, rules: rules.list(), kept, cache_element: CacheElement::Fp16 })
}

/// Replaces every operator whose weight has a form of its own.
fn rewrite(graph: Graph, rules: &mut Rules) -> Graph {
    let mut integers = attention::FromIntegers::default();
    Rewriter::new(graph).each(|g, node| {
        integers.follow(&node);
        let place = match node.operator {
            "Gemm" => 1,
            "Gather" => 0,
            GRID_ATTENTION => return Some(integers.lower_grid(g, node)),
            "MultiHeadAttention" => return Some(integers.lower_plain(g, node)),
            _ => return Some(node),
        };
        let Some(weight) = g.initializer(&node.inputs[place]).cloned() else { return Some(node) };
        let form = rules.form(g.graph(), &node, &weight);
        let replaced = replace(g, &node, &weight, form).is_some();
        if replaced && form == WeightForm::W8a8 {
            integers.insert(&node.outputs[0]);
        }
        (!replaced).then_some(node)
    })
}

/// Adds what stands for `node` when its weight has `form`; `None` where the operator stays.
fn replace(g: &mut Rewriter, node: &Node, weight: &Initializer, form: WeightForm) -> Option<()> {
    match (node.operator, form) {
        ("Gemm", WeightForm::W8a8) => w8a8::replace_gemm(g, node, weight),
        ("Gather", WeightForm::W8a8) => w8a8::replace_gather(g, node, weight),
        ("Gemm", WeightForm::Blocks { bits, size, symmetric }) => {
            blocks::replace_gemm(g, node, weight, described(bits, size, symmetric))
        }
        ("Gather", WeightForm::Blocks { bits, size, symmetric }) => {
            // Rows that no blocks divide have a scale each.
            blocks::replace_gather(g, node, weight, described(bits, size, symmetric))
                .or_else(|| w8a8::replace_gather(g, node, weight))
        }
        _ => None,
    }
}

fn described(bits: u8, size: usize, symmetric: bool) -> Blocks {
    Blocks { bits: if bits == 4 { Bits::Four } else { Bits::Eight }, size, symmetric }
}
