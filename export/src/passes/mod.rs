//! Precision passes: graphs in 32-bit floats in, graphs of another precision out.
//!
//! Every weight takes a form ([`forms`]: the precision's defaults, then the user's rules). A form is one file here, which replaces the
//! operator that reads the weight, and one arm of [`replace`]; the numbers are computed when they are written
//! ([`crate::quantize`]). Passes see every graph of the model before anything is laid out, so they may refuse with a reason.

mod blocks;
mod forms;
mod rewrite;
#[cfg(test)]
mod tests;
mod w8a8;

use arrcoc_models::graph::quantized::{Bits, Blocks};
use arrcoc_models::graph::{Graph, Initializer, Node};
use arrcoc_runtime::bundle::manifest::{Precision, Target, WeightForm, WeightRule};

use forms::Rules;
use rewrite::Rewriter;

/// A model cannot be brought to a precision.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PassError {
    /// There is no such build.
    #[error(
        "{precision} bundles are built for cpu only: they use operators of ONNX Runtime; \
         take `--target cpu`, or `--precision fp32` for a portable bundle"
    )]
    Target {
        /// The precision.
        precision: Precision,
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
        "rule {number} fits no weight; expected a `graph` of {graphs}, a `tensor` as `arrcoc-export inspect` prints it, and an \
         `operator` of Gemm and Gather"
    )]
    Unused {
        /// Place of the rule in the user's list, from 1.
        number: usize,
        /// The model's graphs.
        graphs: String,
    },
}

/// Graphs of one precision, and the rules that made them.
pub(crate) struct Passed {
    pub(crate) graphs: Vec<Graph>,
    pub(crate) rules: Vec<WeightRule>,
}

/// Brings `graphs` to `precision`; `user` has rules that come after the precision's own.
///
/// # Errors
/// [`PassError`].
pub(crate) fn apply(
    precision: Precision,
    target: Target,
    user: &[WeightRule],
    graphs: Vec<Graph>,
) -> Result<Passed, PassError> {
    let mut rules = Rules::new(precision, user)?;
    if rules.quantize() && target != Target::Cpu {
        return Err(PassError::Target { precision });
    }
    let graphs: Vec<Graph> = graphs.into_iter().map(|graph| rewrite(graph, &mut rules)).collect();
    rules.check_used(&graphs)?;
    Ok(Passed { graphs, rules: rules.list() })
}

/// Replaces every operator whose weight has a form of its own.
fn rewrite(graph: Graph, rules: &mut Rules) -> Graph {
    let mut rows = w8a8::Rows::default();
    Rewriter::new(graph).each(|g, node| {
        let place = match node.operator {
            "Gemm" => 1,
            "Gather" => 0,
            _ => return Some(node),
        };
        let Some(weight) = g.initializer(&node.inputs[place]).cloned() else { return Some(node) };
        let form = rules.form(g.graph(), &node, &weight);
        replace(g, &mut rows, &node, &weight, form).is_none().then_some(node)
    })
}

/// Adds what stands for `node` when its weight has `form`; `None` where the operator stays.
fn replace(
    g: &mut Rewriter,
    rows: &mut w8a8::Rows,
    node: &Node,
    weight: &Initializer,
    form: WeightForm,
) -> Option<()> {
    match (node.operator, form) {
        ("Gemm", WeightForm::W8a8) => w8a8::replace(g, rows, node, weight),
        ("Gemm", WeightForm::Blocks { bits, size, symmetric }) => {
            blocks::replace_gemm(g, node, weight, described(bits, size, symmetric))
        }
        ("Gather", WeightForm::Blocks { bits, size, symmetric }) => {
            blocks::replace_gather(g, node, weight, described(bits, size, symmetric))
        }
        _ => None,
    }
}

fn described(bits: u8, size: usize, symmetric: bool) -> Blocks {
    Blocks { bits: if bits == 4 { Bits::Four } else { Bits::Eight }, size, symmetric }
}
