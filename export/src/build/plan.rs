//! Everything about a bundle that is known before its weights are read: graphs, file layout, and the manifest up to the
//! hashes of the data files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use arrcoc_models::config::ModelConfig;
use arrcoc_models::graph::{DataFile, Graph, Layout};
use arrcoc_runtime::bundle::manifest::{self, DecoderSpec, RawGraph, RawManifest};
use arrcoc_runtime::quote::Brief;
use sha2::{Digest, Sha256};

use super::Options;
use super::describe::{self, Described};
use super::error::BuildError;
use super::text::Text;
use crate::checkpoint::{CONFIG, Checkpoint, hex};
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
}

impl Plan {
    /// Checks the checkpoint against its configuration and lays the bundle out; `prepare` may change the finished graphs.
    pub(super) fn new(
        checkpoint: &Checkpoint,
        options: &Options,
        prepare: impl FnMut(Graph) -> Graph,
    ) -> Result<Self, BuildError> {
        let config = ModelConfig::from_json(checkpoint.config()).map_err(|source| BuildError::Config {
            path: checkpoint.dir().join(CONFIG),
            source: Brief(source),
        })?;
        checkpoint.expect(&describe::parameters(&config))?;
        let model = model_name(checkpoint, options)?;
        let described = describe::describe(&config, checkpoint, options.max_context)?;
        let graphs = described.graphs(&config, options.target);
        let request = passes::Request {
            precision: options.precision,
            target: options.target,
            rules: &options.weight_rules,
            calibration: options.calibration.as_ref(),
            range: options.range,
        };
        let Passed { graphs, rules, kept, cache_element } = passes::apply(request, graphs)?;
        let graphs: Vec<Graph> = graphs.into_iter().map(prepare).collect();
        let Layout { models, data } = Layout::new(&graphs);
        let precision = enum_name(options.precision)?;
        let target = enum_name(options.target)?;
        let destination = options.out.join(&model).join(format!("{precision}-{target}"));
        let raw_graphs = graphs.iter().zip(&models).map(|(graph, (file, bytes))| {
            let axes = graph.axes().into_iter().map(|axis| (axis.to_owned(), described.axis(axis))).collect();
            let (file, opset) = (file.clone(), graph.opset());
            (graph.name.to_owned(), RawGraph { file, sha256: hash(bytes), opset, axes })
        });
        let graphs = raw_graphs.collect();
        let Described { pipeline, vision, decoder, text } = described;
        let hashes = text.files.iter().map(|(name, bytes)| (name.clone(), hash(bytes)));
        let unknown = data.iter().map(|file| (file.name.clone(), String::new()));
        let manifest = RawManifest {
            format: manifest::FORMAT,
            model,
            pipeline,
            precision: options.precision,
            target: options.target,
            weights: rules,
            calibration_sha256: options.calibration.as_ref().map(|calibration| calibration.sha256.clone()),
            kept_fp32: kept,
            tool: format!("arrcoc-export {}", env!("CARGO_PKG_VERSION")),
            checkpoint_sha256: String::new(),
            graphs,
            files: hashes.chain(unknown).collect(),
            vision,
            decoder: DecoderSpec { cache_element, ..decoder },
            generation: Some(text.generation.defaults.clone()),
        };
        let Text { files: mut small, .. } = text;
        small.extend(models);
        Ok(Self { destination, small, data, manifest })
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
