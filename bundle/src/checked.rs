//! The manifest after all checks, for those who use a bundle.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::de::DeserializeOwned;

use crate::error::BundleError;
use crate::generation::GenerationSpec;
use crate::graph::{AxisRange, Meaning, Role};
use crate::manifest::{DecoderSpec, Precision, Target, VisionSpec};
use crate::quote::excerpt;
use crate::tool_calls::ToolSyntax;
use crate::weight_rule::WeightRule;

/// A manifest that passed every check. Its paths are absolute and inside the bundle. A file there may be a
/// symbolic link.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// Model name.
    pub model: String,
    /// The family of checkpoints, `model_type` of their `config.json`.
    pub family: String,
    /// Numeric precision.
    pub precision: Precision,
    /// What the graphs are written for.
    pub target: Target,
    /// Which weights are stored in which form: the precision's rules, and behind them the user's.
    pub weights: Vec<WeightRule>,
    /// Name and version of the exporter.
    pub tool: String,
    /// Digest of the checkpoint, hex.
    pub checkpoint_sha256: String,
    /// Graphs by name.
    pub graphs: BTreeMap<String, GraphFile>,
    /// The other files: path in the bundle to absolute path.
    pub files: BTreeMap<String, PathBuf>,
    /// The vision side.
    pub vision: VisionSpec,
    /// The family's own section; see [`Manifest::processor`].
    pub(crate) processor: serde_yaml::Value,
    /// The decoder.
    pub decoder: DecoderSpec,
    /// How tokens are picked where a request does not say.
    pub generation: GenerationSpec,
    /// How the model calls tools, where its chat template has a place for them.
    pub tool_calls: Option<ToolSyntax>,
}

impl Manifest {
    /// The first thing, by its name, in which another bundle of the same checkpoint would make other tensors
    /// of pictures, or pick or end answers otherwise, whatever its graphs compute.
    pub fn differs_from(&self, other: &Self) -> Option<&'static str> {
        let decoder =
            |of: &Self| (of.decoder.layers, of.decoder.vocab_size, of.decoder.eos_token_ids.clone());
        [
            ("family", self.family == other.family),
            ("vision", self.vision == other.vision),
            ("processor", self.processor == other.processor),
            ("decoder", decoder(self) == decoder(other)),
            ("generation", self.generation == other.generation),
        ]
        .into_iter()
        .find(|(_, same)| !same)
        .map(|(name, _)| name)
    }

    /// The family's own section, as a struct of [`crate::processors`].
    ///
    /// # Errors
    /// [`BundleError::Field`] where the section is of another form.
    pub fn processor<T: DeserializeOwned>(&self) -> Result<T, BundleError> {
        serde_yaml::from_value(self.processor.clone()).map_err(|error| BundleError::Field {
            field: "processor".to_owned(),
            expected: format!("what the family {} needs", self.family),
            found: excerpt(&error.to_string()),
        })
    }

    /// The name of the one graph with a role that only one has: [`Role::Embedding`], [`Role::Decoder`].
    pub fn only(&self, role: Role) -> &str {
        let named = self.graphs.iter().find(|(_, graph)| graph.role == role);
        named.map_or(role.name(), |(name, _)| name.as_str())
    }
}

/// One graph of a checked manifest.
#[derive(Debug, Clone)]
pub struct GraphFile {
    /// What it is for.
    pub role: Role,
    /// The `.onnx` file.
    pub path: PathBuf,
    /// SHA-256 of that file, hex.
    pub sha256: String,
    /// ONNX opset of the default domain.
    pub opset: i64,
    /// Dynamic axes and their ranges.
    pub axes: BTreeMap<String, AxisRange>,
    /// The outputs, and what their numbers mean; the KV cache is not among them.
    pub outputs: BTreeMap<String, Meaning>,
    /// The files that its large tensors lie in: as the graph writes them, and their absolute paths. Known
    /// once the graph has been read.
    pub external: BTreeMap<String, PathBuf>,
}
