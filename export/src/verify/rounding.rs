//! Graphs in 32 bits whose products round their factors as those of a quantized bundle do.
//!
//! Standard operators in front of each `Gemm` whose weight the bundle has in integers: x becomes the nearest
//! multiple of a step, which is 1/127 of the largest magnitude of a row (`QuantizedLinear`), or of a block of
//! it (`BlockLinear`, and `MatMulNBits` at `accuracy_level` 4). Where an attention of the bundle may round
//! its factors to bfloat16, so do the products that stand for it, and no others: what the bundle computes in
//! 32 bits has no rounding that would widen a limit.

use std::collections::{HashMap, HashSet};

use arrcoc_bundle::names::operator;
use arrcoc_models::graph::quantized::{Blocks, Scheme};
use arrcoc_models::onnx::attribute_proto::AttributeType;
use arrcoc_models::onnx::tensor_proto::DataType;
use arrcoc_models::onnx::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto};

use super::pairs::{Form, Pair};
use crate::onnx;

/// Steps of the largest magnitude.
const RANGE: f32 = 127.0;

/// Keeps the step of a row of zeros above zero.
const SMALLEST: f32 = 1e-20;

/// Where the middle between two multiples is, as a share of the step. Each place makes another draw of the
/// same noise: errors are half a step at most in all of them.
pub(super) const DRAWS: [f32; 3] = [0.0, 1.0 / 3.0, -1.0 / 3.0];

/// How the names of what is added begin.
const STEM: &str = "/rounded";

/// Which products of the reference a bundle computes in attentions that may round their factors.
#[derive(Debug, Default)]
pub(super) struct Attentions {
    /// Modules of the network that have such an attention.
    scopes: HashSet<String>,
    /// Products that the bundle has as the reference has them: windows, blends of a table's rows.
    kept: HashSet<String>,
}

impl Attentions {
    /// Those of a bundle's graph.
    pub(super) fn of(graph: &onnx::Graph) -> Self {
        let rounds = [operator::ATTENTION_BF16, operator::GRID_ATTENTION_BF16];
        let named = |is: &dyn Fn(&str) -> bool| -> Vec<&str> {
            graph.nodes.iter().filter(|node| is(&node.operator)).map(|node| node.name.as_str()).collect()
        };
        let attentions = named(&|operator| rounds.contains(&operator));
        let kept = named(&|operator| operator == PRODUCT);
        Self {
            scopes: attentions.into_iter().map(|name| scope(name).to_owned()).collect(),
            kept: kept.into_iter().map(str::to_owned).collect(),
        }
    }

    /// Whether a product of the reference is part of one. Operators are named after the module that they are
    /// in, in both graphs alike.
    fn have(&self, product: &str) -> bool {
        self.scopes.contains(scope(product)) && !self.kept.contains(product)
    }
}

/// A product of two tensors.
const PRODUCT: &str = "MatMul";

/// The module that an operator is in.
fn scope(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(scope, _)| scope)
}

/// Rounds what is multiplied with weights that are integers in the subject of `pairs`, at one of [`DRAWS`],
/// and the factors of its `attentions`.
pub(super) fn round_factors(model: &mut ModelProto, pairs: &[Pair], attentions: &Attentions, draw: f32) {
    let Some(graph) = &mut model.graph else { return };
    let blocks: HashMap<&str, usize> = pairs.iter().filter_map(block).collect();
    let mut rounded = HashSet::new();
    for mut node in std::mem::take(&mut graph.node) {
        let weight = node.input.get(1).and_then(|weight| blocks.get(weight.as_str()));
        if node.op_type() == "Gemm"
            && let (Some(&block), Some(x)) = (weight, node.input.first_mut())
        {
            let made = format!("{STEM}/{}/{block}", x.trim_start_matches('/'));
            if rounded.insert(made.clone()) {
                add_rounding(graph, x, &made, block);
            }
            *x = made;
        } else if node.op_type() == PRODUCT && attentions.have(node.name()) {
            for x in &mut node.input {
                let made = format!("{STEM}/{}/bf16", x.trim_start_matches('/'));
                if rounded.insert(made.clone()) {
                    let [kind, back] =
                        [DataType::Bfloat16, DataType::Float].map(|kind| integer("to", kind as i64));
                    let short = format!("{made}/short");
                    graph
                        .node
                        .extend([one_input("Cast", x, &short, kind), one_input("Cast", &short, &made, back)]);
                }
                *x = made;
            }
        }
        graph.node.push(node);
    }
    if !rounded.is_empty() {
        graph.initializer.extend([
            floats("per_step", &[], &[RANGE.recip()]),
            floats("smallest", &[], &[SMALLEST]),
            floats("draw", &[], &[draw]),
            integers("last_axis", &[-1]),
        ]);
    }
}

/// How many numbers of a row share a step, where a weight is of integers; 0 where all do.
fn block(pair: &Pair) -> Option<(&str, usize)> {
    let Form::Quantized(parts) = &pair.subject else { return None };
    let size = match parts.scheme {
        // What these are multiplied with stays a float.
        Scheme::Fp8 | Scheme::Int4(_) | Scheme::Packed(_) => return None,
        Scheme::PerRow => 0,
        Scheme::Blocks(of) => of.size,
        Scheme::Tiles(_) => Blocks::TILE_BLOCK,
    };
    // A last block that is not full shares a step with the row: coarser, and rare.
    let whole = size > 0 && pair.columns.is_multiple_of(size);
    Some((&pair.name, if whole { size } else { 0 }))
}

/// Adds what makes `made` of `x` \[rows, columns\].
fn add_rounding(graph: &mut GraphProto, x: &str, made: &str, block: usize) {
    let of = |part: &str| format!("{made}/{part}");
    let mut add = |operator: &str, inputs: &[&str], output: &str, attributes: Vec<AttributeProto>| {
        graph.node.push(NodeProto {
            name: Some(output.to_owned()),
            op_type: Some(operator.to_owned()),
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![output.to_owned()],
            attribute: attributes,
            ..NodeProto::default()
        });
    };
    let constant = |name: &str| format!("{STEM}/{name}");
    let (blocks, shape) = (of("blocks"), of("shape"));
    let grouped = if block == 0 {
        x
    } else {
        // The shape that the numbers go back to, and blocks as rows.
        add("Shape", &[x], &shape, vec![]);
        add("Reshape", &[x, &constant(&format!("rows_of_{block}"))], &blocks, vec![]);
        &blocks
    };
    add("Abs", &[grouped], &of("magnitude"), vec![]);
    let reduced = [&*of("magnitude"), &constant("last_axis")];
    add("ReduceMax", &reduced, &of("largest"), vec![integer("keepdims", 1)]);
    add("Max", &[&of("largest"), &constant("smallest")], &of("floored"), vec![]);
    add("Mul", &[&of("floored"), &constant("per_step")], &of("step"), vec![]);
    add("Div", &[grouped, &of("step")], &of("quotient"), vec![]);
    add("Add", &[&of("quotient"), &constant("draw")], &of("moved"), vec![]);
    add("Round", &[&of("moved")], &of("rounded"), vec![]);
    add("Sub", &[&of("rounded"), &constant("draw")], &of("multiple"), vec![]);
    let back = if block == 0 { made.to_owned() } else { of("value") };
    add("Mul", &[&of("multiple"), &of("step")], &back, vec![]);
    if block > 0 {
        add("Reshape", &[&back, &shape], made, vec![]);
        let rows = integers(&format!("rows_of_{block}"), &[-1, block as i64]);
        if !graph.initializer.iter().any(|known| known.name == rows.name) {
            graph.initializer.push(rows);
        }
    }
}

/// An operator of one input and one attribute.
fn one_input(name: &str, input: &str, output: &str, attribute: AttributeProto) -> NodeProto {
    NodeProto {
        name: Some(output.to_owned()),
        op_type: Some(name.to_owned()),
        input: vec![input.to_owned()],
        output: vec![output.to_owned()],
        attribute: vec![attribute],
        ..NodeProto::default()
    }
}

fn integer(name: &str, value: i64) -> AttributeProto {
    let kind = Some(AttributeType::Int as i32);
    AttributeProto { name: Some(name.to_owned()), i: Some(value), r#type: kind, ..AttributeProto::default() }
}

fn floats(name: &str, dims: &[i64], numbers: &[f32]) -> TensorProto {
    TensorProto {
        name: Some(format!("{STEM}/{name}")),
        data_type: Some(DataType::Float as i32),
        dims: dims.to_vec(),
        raw_data: Some(numbers.iter().flat_map(|x| x.to_le_bytes()).collect()),
        ..TensorProto::default()
    }
}

fn integers(name: &str, numbers: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(format!("{STEM}/{name}")),
        data_type: Some(DataType::Int64 as i32),
        dims: vec![numbers.len() as i64],
        raw_data: Some(numbers.iter().flat_map(|x| x.to_le_bytes()).collect()),
        ..TensorProto::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, operator: &str) -> onnx::Node {
        onnx::Node { name: name.to_owned(), operator: operator.to_owned(), ..onnx::Node::default() }
    }

    #[test]
    fn only_what_stands_for_an_attention_in_16_bits_is_rounded() {
        let nodes = vec![
            node("/visual/MatMul", "MatMul"),
            node("/visual/blocks/0/attn/MatMul", "MatMul"),
            node("/visual/blocks/1/attn/MultiHeadAttention", operator::ATTENTION_BF16),
            node("/visual/blocks/2/attn/MultiHeadAttention", "MultiHeadAttention"),
            // Of a table that is stretched before attention.
            node("/visual/blocks/3/attn/MatMul", "MatMul"),
            node("/visual/blocks/3/attn/GridAttention", operator::GRID_ATTENTION_BF16),
        ];
        let graph = onnx::Graph { nodes, ..onnx::Graph::default() };
        let attentions = Attentions::of(&graph);
        let products = ["/visual/MatMul", "/visual/blocks/0/attn/MatMul", "/visual/blocks/1/attn/MatMul"];
        assert_eq!(products.map(|product| attentions.have(product)), [false, false, true]);
        let products = ["2/attn/MatMul", "3/attn/MatMul", "3/attn/MatMul_2"];
        let have = products.map(|product| attentions.have(&format!("/visual/blocks/{product}")));
        assert_eq!(have, [false, false, true]);

        let products = ["/visual/blocks/0/attn/MatMul", "/visual/blocks/1/attn/MatMul"];
        let node = |name: &str| NodeProto {
            name: Some(name.to_owned()),
            op_type: Some(PRODUCT.to_owned()),
            input: ["a", "b"].map(|input| format!("{name}/{input}")).into(),
            ..NodeProto::default()
        };
        let graph = GraphProto { node: products.map(node).into(), ..GraphProto::default() };
        let mut model = ModelProto { graph: Some(graph), ..ModelProto::default() };
        round_factors(&mut model, &[], &attentions, 0.0);
        let nodes = model.graph.unwrap_or_default().node;
        let casts = nodes.iter().filter(|node| node.op_type() == "Cast");
        assert!(casts.clone().all(|cast| cast.output[0].contains("/blocks/1/")));
        // Each of two factors to 16 bits and back.
        assert_eq!(casts.count(), 4);
    }
}
