//! A bundle's manifest and graphs.

use arrcoc_bundle::names::cache;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use arrcoc_bundle::manifest::{DecoderSpec, VisionSpec};
use arrcoc_bundle::{AxisRange, Bundle, GraphFile, Precision, Role, Target};
use serde::Serialize;

use super::InspectError;
use crate::onnx::{self, Initializer, Value};
use crate::progress::human_bytes;
use crate::table::{Table, grouped};

/// What is in a bundle.
#[derive(Debug, Serialize)]
pub struct BundleReport {
    /// The directory.
    pub path: PathBuf,
    /// Model name.
    pub model: String,
    /// The family of checkpoints.
    pub family: String,
    /// Numeric precision.
    pub precision: Precision,
    /// What the graphs are written for.
    pub target: Target,
    /// Name and version of the exporter.
    pub tool: String,
    /// Digest of the checkpoint.
    pub checkpoint_sha256: String,
    /// Images, as far as prompts and metrics go.
    pub vision: VisionSpec,
    /// The family's own section.
    pub processor: serde_yaml::Value,
    /// The decoder.
    pub decoder: DecoderSpec,
    /// Graphs by name.
    pub graphs: BTreeMap<String, GraphReport>,
}

/// One graph of a bundle.
#[derive(Debug, Serialize)]
pub struct GraphReport {
    /// What it is for.
    pub role: Role,
    /// ONNX opset of the default domain.
    pub opset: i64,
    /// Operators.
    pub nodes: usize,
    /// Elements of its constants; shared ones count in every graph.
    pub parameters: u64,
    /// Bytes of constants, inline and external; likewise.
    pub bytes: u64,
    /// Inputs: name, then element type and shape.
    pub inputs: Vec<(String, String)>,
    /// Outputs, likewise.
    pub outputs: Vec<(String, String)>,
    /// Dynamic axes and their ranges.
    pub axes: BTreeMap<String, AxisRange>,
}

impl BundleReport {
    pub(super) fn read(dir: &Path) -> Result<Self, InspectError> {
        let bundle = Bundle::open(dir)?;
        let manifest = bundle.manifest();
        let mut graphs = BTreeMap::new();
        for (name, file) in &manifest.graphs {
            graphs.insert(name.clone(), graph(file)?);
        }
        Ok(Self {
            path: dir.to_owned(),
            model: manifest.model.clone(),
            family: manifest.family.clone(),
            precision: manifest.precision,
            target: manifest.target,
            tool: manifest.tool.clone(),
            checkpoint_sha256: manifest.checkpoint_sha256.clone(),
            vision: manifest.vision.clone(),
            processor: manifest.processor()?,
            decoder: manifest.decoder.clone(),
            graphs,
        })
    }
}

fn graph(file: &GraphFile) -> Result<GraphReport, InspectError> {
    let GraphFile { role, path, opset, axes, .. } = file;
    let graph = onnx::read(path)?;
    let mut bytes = 0;
    for tensor in &graph.initializers {
        bytes += tensor.location(path)?.map_or(tensor.raw_data.len() as u64, |place| place.length);
    }
    let elements = |tensor: &Initializer| tensor.dims.iter().product::<i64>().unsigned_abs();
    let describe =
        |values: &[Value]| values.iter().map(|value| (value.name.clone(), value.describe())).collect();
    Ok(GraphReport {
        role: *role,
        opset: *opset,
        nodes: graph.nodes.len(),
        parameters: graph.initializers.iter().map(elements).sum(),
        bytes,
        inputs: describe(&graph.inputs),
        outputs: describe(&graph.outputs),
        axes: axes.clone(),
    })
}

impl fmt::Display for BundleReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, family, tool, checkpoint_sha256, .. } = self;
        let kind = format!("{family}, {} for {}", self.precision, self.target);
        writeln!(f, "{}: bundle of {model}, {kind}; every file matches its hash", self.path.display())?;
        writeln!(f, "built by {tool} from checkpoint {checkpoint_sha256}")?;
        let (vision, decoder) = (&self.vision, &self.decoder);
        if !vision.token_budgets.is_empty() {
            writeln!(f, "budgets of {:?} visual tokens", vision.token_budgets)?;
        }
        let (context, vocabulary) =
            (grouped(decoder.context_length as u64), grouped(decoder.vocab_size as u64));
        writeln!(f, "context of {context} tokens, vocabulary of {vocabulary}\n")?;
        let mut table = Table::new(&["graph", "role", ">opset", ">nodes", ">parameters", ">size"]);
        for (name, graph) in &self.graphs {
            let (parameters, size) = (grouped(graph.parameters), human_bytes(graph.bytes));
            let role = graph.role.name().to_owned();
            table.row([
                name.clone(),
                role,
                graph.opset.to_string(),
                graph.nodes.to_string(),
                parameters,
                size,
            ]);
        }
        writeln!(f, "{table}")?;
        for (name, graph) in &self.graphs {
            writeln!(f, "{name}")?;
            write!(f, "{}", interface(graph))?;
            let axes = graph.axes.iter().map(|(axis, range)| format!("{axis} {}..{}", range.min, range.max));
            writeln!(f, "  axes  {}\n", axes.collect::<Vec<_>>().join(", "))?;
        }
        Ok(())
    }
}

/// Inputs and outputs; of the many equal ones of a KV cache, the first layer's stand for all.
fn interface(graph: &GraphReport) -> Table {
    let mut table = Table::new(&["", "", ""]);
    for (direction, values) in [("in", &graph.inputs), ("out", &graph.outputs)] {
        let is_cache = |name: &str| cache::is_past(name) || cache::is_present(name);
        let later_layer = |name: &str| is_cache(name) && !name.contains(".0.");
        let hidden = values.iter().filter(|(name, _)| later_layer(name)).count();
        for (name, kind) in values.iter().filter(|(name, _)| !later_layer(name)) {
            table.row([direction.to_owned(), name.clone(), kind.clone()]);
        }
        if hidden > 0 {
            table.row([direction.to_owned(), format!("({hidden} more of the KV cache)"), String::new()]);
        }
    }
    table
}
