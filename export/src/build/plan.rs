//! Everything about a bundle that is known before its weights are read: graphs, file layout, and the manifest
//! up to the hashes of the data files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use arrcoc_bundle::Target;
use arrcoc_bundle::manifest::{self, DecoderSpec, RawGraph, RawManifest};
use arrcoc_models::families::GraphOptions;
use arrcoc_models::graph::{DataFile, Graph, Layout};
use sha2::{Digest, Sha256};

use super::Options;
use super::describe::Described;
use super::error::BuildError;
use super::text::Text;
use crate::checkpoint::{Checkpoint, LeftOut, hex};
use crate::passes::{self, Passed};

/// What will be written.
#[derive(Debug)]
pub(super) struct Plan {
    /// `engines/<model>/<precision>-<target>`.
    pub(super) destination: PathBuf,
    /// Small files by name: graphs, tokenizer, template.
    pub(super) small: BTreeMap<String, Vec<u8>>,
    /// External data.
    pub(super) data: Vec<DataFile>,
    /// The manifest; the checkpoint's digest and the hashes of the data files are still empty.
    pub(super) manifest: RawManifest,
    /// Tensors of the checkpoint that no network reads, and why.
    pub(super) left_out: Vec<LeftOut>,
}

impl Plan {
    /// Checks the checkpoint against its configuration and lays the bundle out; `prepare` may change the
    /// finished graphs.
    pub(super) fn new(
        checkpoint: &mut Checkpoint,
        options: &Options,
        prepare: impl FnMut(Graph) -> Graph,
    ) -> Result<Self, BuildError> {
        let described = Described::read(checkpoint)?;
        let model = model_name(checkpoint, options)?;
        let text = described.text(checkpoint)?;
        let decoder = described.decoder(checkpoint, &text, options.max_context, options.target)?;
        let Described { composition, left_out } = described;
        let context_length = decoder.context_length;
        let graphs = composition.ranged_graphs(GraphOptions { target: options.target, context_length });
        let portable = GraphOptions { target: Target::Portable, context_length };
        let wanted = options.calibration.is_some() && !options.target.is_standard();
        let portable = wanted.then(|| composition.ranged_graphs(portable));
        let request = passes::Request {
            precision: options.precision,
            target: options.target,
            rules: &options.weight_rules,
            calibration: options.calibration.as_ref(),
            portable: portable.as_deref().unwrap_or_default(),
            range: options.range,
        };
        let Passed { graphs, rules, kept, cache_element } = passes::apply(request, graphs)?;
        let graphs: Vec<Graph> = graphs.into_iter().map(prepare).collect();
        let Layout { models, data } = Layout::new(&graphs);
        let precision = enum_name(options.precision)?;
        let target = enum_name(options.target)?;
        let destination = options.out.join(&model).join(format!("{precision}-{target}"));
        let raw_graphs = graphs.iter().zip(&models).map(|(graph, (file, bytes))| {
            let axes = graph.ranges.iter().map(|(axis, range)| ((*axis).to_owned(), *range)).collect();
            let (role, file, opset) = (graph.role, file.clone(), graph.opset());
            let outputs = graph.meanings.clone();
            (graph.name.to_owned(), RawGraph { role, file, sha256: hash(bytes), opset, axes, outputs })
        });
        let graphs = raw_graphs.collect();
        let hashes = text.files.iter().map(|(name, bytes)| (name.clone(), hash(bytes)));
        let unknown = data.iter().map(|file| (file.name.clone(), String::new()));
        let manifest = RawManifest {
            format: manifest::FORMAT,
            model,
            family: family(checkpoint),
            precision: options.precision,
            target: options.target,
            weights: rules,
            calibration_sha256: options.calibration.as_ref().map(|calibration| calibration.sha256.clone()),
            kept_fp32: kept,
            tool: format!("arrcoc-export {}", env!("CARGO_PKG_VERSION")),
            checkpoint_sha256: String::new(),
            graphs,
            files: hashes.chain(unknown).collect(),
            vision: composition.vision(),
            processor: composition.processor(),
            decoder: DecoderSpec { cache_element, ..decoder },
            generation: text.generation.defaults.clone(),
            tool_calls: text.tool_calls,
        };
        let Text { files: mut small, .. } = text;
        small.extend(models);
        Ok(Self { destination, small, data, manifest, left_out })
    }

    /// Bytes of all files but the manifest.
    pub(super) fn bytes(&self) -> u64 {
        let small: u64 = self.small.values().map(|bytes| bytes.len() as u64).sum();
        small + self.data.iter().map(DataFile::length).sum::<u64>()
    }

    /// Whether `other` describes a bundle like this one, as far as that is known before the weights are read.
    pub(super) fn agrees_with(&self, other: &RawManifest) -> bool {
        let mut other = other.clone();
        other.checkpoint_sha256.clear();
        for file in &self.data {
            other.files.entry(file.name.clone()).and_modify(String::clear);
        }
        other == self.manifest
    }
}

/// `model_type`, which some family reads: the configuration has been understood.
fn family(checkpoint: &Checkpoint) -> String {
    checkpoint.config()["model_type"].as_str().unwrap_or_default().to_owned()
}

/// `--name`, or the name of the checkpoint's directory; it becomes a directory and part of URLs.
fn model_name(checkpoint: &Checkpoint, options: &Options) -> Result<String, BuildError> {
    let directory = || {
        let path = checkpoint.dir().canonicalize().ok()?;
        path.file_name().map(|name| name.to_string_lossy().into_owned())
    };
    let name = options.name.clone().or_else(directory).unwrap_or_default();
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    if name.is_empty() || name.starts_with('.') || !plain {
        return Err(BuildError::Name { name });
    }
    Ok(name)
}

/// The name that a manifest uses for an enum's value.
fn enum_name(value: impl serde::Serialize) -> Result<String, BuildError> {
    Ok(serde_yaml::to_string(&value)?.trim().to_owned())
}

fn hash(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}
