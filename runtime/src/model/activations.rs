//! How much memory a graph's intermediate tensors need at once: from the shape of every tensor and the order
//! of the operators.
//!
//! Every tensor of a bundle's graphs has a shape in `value_info`, in terms of the dynamic axes. With numbers
//! for these, an operator's result lives from the operator to its last reader, and the peak is the largest
//! sum over what lives at once. A graph whose shapes say nothing, or lie, is no danger to who reads them
//! here: what it really takes shows when it runs.

use arrcoc_bundle::names::cache;
use std::collections::HashMap;
use std::path::Path;

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::dimension::Value as Size;
use tract_onnx::pb::type_proto::Value as Kind;
use tract_onnx::pb::{GraphProto, ValueInfoProto};
use tract_onnx::prelude::Framework as _;

/// Largest graph file that is looked into, bytes: weights lie beside it, and what is left has some megabytes
/// at most.
const MOST_BYTES: u64 = 256 << 20;

/// Operators whose result is their first input under another shape: nothing is copied.
const VIEWS: [&str; 5] = ["Reshape", "Squeeze", "Unsqueeze", "Identity", "Flatten"];

/// Nested brackets in the size of an axis.
const MOST_LEVELS: usize = 32;

/// A graph as far as its shapes go.
pub(super) struct Shapes {
    graph: GraphProto,
}

impl Shapes {
    /// Reads a graph file; its weights are not read.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(super) fn read(file: &Path) -> Result<Self, String> {
        let bytes = std::fs::metadata(file).map_err(|error| error.to_string())?.len();
        if bytes > MOST_BYTES {
            return Err(format!("expected at most {MOST_BYTES} bytes of graph, found {bytes}"));
        }
        let model = tract_onnx::onnx().proto_model_for_path(file).map_err(|error| error.to_string())?;
        Ok(Self { graph: model.graph.unwrap_or_default() })
    }

    /// Bytes of all tensors that live at the worst moment, for these lengths of the dynamic axes. The KV
    /// cache does not count, since it outlives the run, and neither does a tensor whose shape is not told.
    pub(super) fn peak(&self, axes: &[(&str, u64)]) -> u64 {
        let graph = &self.graph;
        let values = graph.input.iter().chain(&graph.value_info).chain(&graph.output);
        let bytes: HashMap<&str, u64> =
            values.map(|value| (value.name.as_str(), size(value, axes).unwrap_or(0))).collect();
        let owner = owners(graph);
        let size_of = |name: &str| if is_cache(name) { 0 } else { bytes.get(name).copied().unwrap_or(0) };
        let last = last_uses(graph, &owner);

        // The caller holds inputs until the end.
        let mut now = graph.input.iter().fold(0_u64, |sum, input| sum.saturating_add(size_of(&input.name)));
        let mut worst = now;
        let mut ends: HashMap<usize, u64> = HashMap::new();
        for (index, node) in graph.node.iter().enumerate() {
            for name in node.output.iter().filter(|name| owner.get(name.as_str()) == Some(&name.as_str())) {
                let bytes = size_of(name);
                now = now.saturating_add(bytes);
                let end = last.get(name.as_str()).copied().unwrap_or(index);
                let ending = ends.entry(end).or_default();
                *ending = ending.saturating_add(bytes);
            }
            worst = worst.max(now);
            now = now.saturating_sub(ends.remove(&index).unwrap_or(0));
        }
        worst
    }
}

fn is_cache(name: &str) -> bool {
    cache::is_past(name) || cache::is_present(name)
}

/// For every tensor the one whose memory it lies in.
fn owners(graph: &GraphProto) -> HashMap<&str, &str> {
    let mut owner: HashMap<&str, &str> = graph.input.iter().map(|x| (&*x.name, &*x.name)).collect();
    for node in &graph.node {
        let viewed = node.input.first().filter(|_| VIEWS.contains(&&*node.op_type));
        let viewed = viewed.and_then(|name| owner.get(name.as_str()).copied());
        for name in node.output.iter().filter(|name| !name.is_empty()) {
            owner.insert(name, viewed.unwrap_or(name));
        }
    }
    owner
}

/// The last operator that reads a tensor, through whatever view; outputs of the graph have no last one.
fn last_uses<'a>(graph: &'a GraphProto, owner: &HashMap<&'a str, &'a str>) -> HashMap<&'a str, usize> {
    let mut last = HashMap::new();
    for (index, node) in graph.node.iter().enumerate() {
        for name in node.input.iter().filter_map(|name| owner.get(name.as_str())) {
            last.insert(*name, index);
        }
    }
    let outputs = graph.output.iter().filter_map(|output| owner.get(output.name.as_str()));
    last.extend(outputs.map(|name| (*name, usize::MAX)));
    last
}

/// Bytes of a tensor; `None` where its shape or type is not told.
fn size(value: &ValueInfoProto, axes: &[(&str, u64)]) -> Option<u64> {
    let Kind::TensorType(tensor) = value.r#type.as_ref()?.value.as_ref()?;
    let element = match DataType::try_from(tensor.elem_type).ok()? {
        DataType::Double | DataType::Int64 | DataType::Uint64 | DataType::Complex64 => 8,
        DataType::Float | DataType::Int32 | DataType::Uint32 => 4,
        DataType::Float16 | DataType::Bfloat16 | DataType::Int16 | DataType::Uint16 => 2,
        DataType::Complex128 => 16,
        _ => 1,
    };
    let dims = tensor.shape.as_ref()?.dim.iter().map(|dim| match dim.value.as_ref()? {
        Size::DimValue(size) => u64::try_from(*size).ok(),
        Size::DimParam(text) => evaluate(text, axes),
    });
    dims.into_iter().try_fold(element, |bytes: u64, dim| Some(bytes.saturating_mul(dim?)))
}

/// The number that an axis has: `seq`, `batch*seq`, `(past+seq)`, `patches/4`, `ceil(height,16)` or
/// `(2*width-1)`.
fn evaluate(text: &str, axes: &[(&str, u64)]) -> Option<u64> {
    let mut reader = Reader { rest: text, axes, levels: 0 };
    let value = reader.sum()?;
    reader.rest.is_empty().then_some(value)
}

/// Reads an expression from left to right.
struct Reader<'a> {
    rest: &'a str,
    axes: &'a [(&'a str, u64)],
    levels: usize,
}

impl Reader<'_> {
    fn take(&mut self, sign: char) -> Option<()> {
        self.rest = self.rest.strip_prefix(sign)?;
        Some(())
    }

    fn sum(&mut self) -> Option<u64> {
        let mut value = self.product()?;
        loop {
            if self.take('+').is_some() {
                value = value.checked_add(self.product()?)?;
            } else if self.take('-').is_some() {
                value = value.checked_sub(self.product()?)?;
            } else {
                return Some(value);
            }
        }
    }

    fn product(&mut self) -> Option<u64> {
        let mut value = self.factor()?;
        loop {
            if self.take('*').is_some() {
                value = value.checked_mul(self.factor()?)?;
            } else if self.take('/').is_some() {
                value = value.checked_div(self.factor()?)?;
            } else {
                return Some(value);
            }
        }
    }

    fn factor(&mut self) -> Option<u64> {
        self.levels += 1;
        if self.levels > MOST_LEVELS {
            return None;
        }
        let value = self.one();
        self.levels -= 1;
        value
    }

    fn one(&mut self) -> Option<u64> {
        if self.take('(').is_some() {
            let value = self.sum()?;
            return self.take(')').map(|()| value);
        }
        if let Some(rest) = self.rest.strip_prefix("ceil(") {
            self.rest = rest;
            let value = self.sum()?;
            self.take(',')?;
            let step = self.sum()?;
            self.take(')')?;
            return value.checked_next_multiple_of(step);
        }
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = self.rest.find(|c| !word(c)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        let axis = self.axes.iter().find(|(axis, _)| *axis == name).map(|(_, size)| *size);
        axis.or_else(|| name.parse().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AXES: &[(&str, u64)] = &[("batch", 2), ("seq", 5), ("past", 7), ("height", 100)];

    #[test]
    fn sizes_of_axes_are_read_as_the_exporter_writes_them() {
        let cases = [
            ("seq", Some(5)),
            ("12", Some(12)),
            ("batch*seq*3", Some(30)),
            ("(past+seq)*batch", Some(24)),
            ("height/16", Some(6)),
            ("ceil(height/16,4)*2", Some(16)),
            ("(2*height/16-1)", Some(11)),
            ("nothing", None),
            ("seq/0", None),
            ("seq-past", None),
            ("", None),
            ("seq*", None),
            ("ceil(seq,0)", None),
            ("seq)", None),
            ("99999999999999999999", None),
            ("height*9999999999999999999", None),
        ];
        for (text, expected) in cases {
            assert_eq!(evaluate(text, AXES), expected, "{text}");
        }
        assert_eq!(evaluate(&"(".repeat(100_000), AXES), None);
    }
}
