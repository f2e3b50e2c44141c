//! The file of a calibration, in two stages: [`RawCalibration`] is what the JSON says, [`Calibration`] what
//! was checked.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use arrcoc_bundle::Statistics;
use arrcoc_bundle::quote::{Brief, excerpt, one_line};
use arrcoc_models::graph::Graph;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::histogram::Histogram;
use super::recorder::Activation;
use crate::checkpoint::hex;

/// The file's format version; a reader refuses any other.
const FORMAT: u32 = 1;

/// Most bytes of a field's path in a message: names of tensors are in it.
const MOST_FIELD: usize = 500;

/// What a run over a user's images and questions said about a checkpoint's graphs in 32-bit floats.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibration {
    /// SHA-256 of the file.
    pub sha256: String,
    /// Digest of the checkpoint.
    pub checkpoint_sha256: String,
    /// What was run.
    pub circumstances: Circumstances,
    /// What visual tokens looked like, per tier, where the family says what they should look like.
    pub adapter: Vec<TierStatistics>,
    /// The portable graphs, by name.
    pub graphs: BTreeMap<String, GraphRanges>,
    /// Largest magnitude of everything that graphs take from the checkpoint: per input channel of a linear
    /// layer's weight, else of the whole.
    pub weights: BTreeMap<String, Vec<f32>>,
}

/// What a calibration was made with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Circumstances {
    /// Name and version of the exporter.
    pub tool: String,
    /// The inference library.
    pub runtime: String,
    /// SHA-256 of the data set's file.
    pub data_sha256: String,
    /// Side of the encoder's input, pixels, for families that have several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_size: Option<usize>,
    /// Images that were run.
    pub images: usize,
    /// Questions that were asked.
    pub questions: usize,
    /// Images that could not be used.
    pub skipped: Vec<Skipped>,
}

/// An image that could not be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skipped {
    /// As the data set names it.
    pub image: String,
    /// Why.
    pub reason: String,
}

/// Visual tokens at one tier, over all questions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TierStatistics {
    /// The tier, by its budget.
    pub tokens: usize,
    /// Means over the questions.
    pub statistics: Statistics,
}

/// What one graph's tensors reached.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GraphRanges {
    /// Digest of the operators and of what they read and make: the names below mean something in such a graph
    /// only.
    pub structure: String,
    /// Largest magnitude per tensor.
    pub magnitudes: BTreeMap<String, f32>,
    /// What linear layers multiply.
    pub activations: BTreeMap<String, Activation>,
    /// From a weight to what it is multiplied with, a key of `activations`.
    pub products: BTreeMap<String, String>,
}

impl GraphRanges {
    /// What the linear layer of a weight multiplies.
    pub fn input_of(&self, weight: &str) -> Option<&Activation> {
        self.activations.get(self.products.get(weight)?)
    }
}

/// A calibration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrationFileError {
    /// The file cannot be read or written.
    #[error("cannot use the calibration {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no calibration.
    #[error(
        "{} is no calibration; make it again with `arrcoc-export calibrate`",
        path.display()
    )]
    Form {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Brief<serde_json::Error>,
    },
    /// A field holds what it cannot.
    #[error(
        "{}: `{field}`: expected {expected}, found {found}; make it again with `arrcoc-export calibrate`",
        path.display()
    )]
    Field {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// What it may hold.
        expected: &'static str,
        /// What it holds.
        found: String,
    },
}

/// The JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCalibration {
    format: u32,
    checkpoint_sha256: String,
    circumstances: Circumstances,
    adapter: Vec<TierStatistics>,
    graphs: BTreeMap<String, RawRanges>,
    weights: BTreeMap<String, Vec<f32>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRanges {
    structure: String,
    magnitudes: BTreeMap<String, f32>,
    activations: BTreeMap<String, RawActivation>,
    products: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawActivation {
    channels: Vec<f32>,
    largest: f32,
    bin_width: f32,
    bins: Vec<u64>,
}

impl Calibration {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`CalibrationFileError`].
    pub fn read(path: &Path) -> Result<Self, CalibrationFileError> {
        let bytes = std::fs::read(path)
            .map_err(|source| CalibrationFileError::Io { path: path.to_owned(), source })?;
        let raw: RawCalibration = serde_json::from_slice(&bytes)
            .map_err(|source| CalibrationFileError::Form { path: path.to_owned(), source: Brief(source) })?;
        let checked = check(raw, hex(&Sha256::digest(&bytes)));
        checked.map_err(|Wrong { field, expected, found }| CalibrationFileError::Field {
            path: path.to_owned(),
            field: one_line(&field, MOST_FIELD),
            expected,
            found: excerpt(&found),
        })
    }

    /// Writes the file; it appears complete or not at all.
    ///
    /// # Errors
    /// [`CalibrationFileError::Io`].
    pub(super) fn write(&mut self, path: &Path) -> Result<(), CalibrationFileError> {
        let io = |source| CalibrationFileError::Io { path: path.to_owned(), source };
        let json = serde_json::to_vec(&self.raw()).map_err(|error| io(error.into()))?;
        self.sha256 = hex(&Sha256::digest(&json));
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let written = write_new(Path::new(&partial), &json).and_then(|()| std::fs::rename(&partial, path));
        written.map_err(|error| {
            // Of no use, and the reason matters more than that it stays.
            let _ = std::fs::remove_file(&partial);
            io(error)
        })
    }

    fn raw(&self) -> RawCalibration {
        let activation = |of: &Activation| RawActivation {
            channels: of.channels.clone(),
            largest: of.histogram.largest(),
            bin_width: of.histogram.width(),
            bins: of.histogram.counts().to_vec(),
        };
        let ranges = |of: &GraphRanges| RawRanges {
            structure: of.structure.clone(),
            magnitudes: of.magnitudes.clone(),
            activations: of.activations.iter().map(|(name, of)| (name.clone(), activation(of))).collect(),
            products: of.products.clone(),
        };
        RawCalibration {
            format: FORMAT,
            checkpoint_sha256: self.checkpoint_sha256.clone(),
            circumstances: self.circumstances.clone(),
            adapter: self.adapter.clone(),
            graphs: self.graphs.iter().map(|(name, of)| (name.clone(), ranges(of))).collect(),
            weights: self.weights.clone(),
        }
    }
}

/// Writes a file in the place of what a killed run left there; if that is a link, the link goes, and not what
/// it leads to.
fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// What is wrong, and where.
struct Wrong {
    field: String,
    expected: &'static str,
    found: String,
}

fn check(raw: RawCalibration, sha256: String) -> Result<Calibration, Wrong> {
    if raw.format != FORMAT {
        let (field, found) = ("format".to_owned(), raw.format.to_string());
        return Err(Wrong { field, expected: "1, which this version reads", found });
    }
    for (name, columns) in &raw.weights {
        check_magnitudes(&format!("weights.{name}"), columns)?;
    }
    let graphs = raw.graphs.into_iter().map(|(name, raw)| Ok((name.clone(), check_ranges(&name, raw)?)));
    Ok(Calibration {
        sha256,
        checkpoint_sha256: raw.checkpoint_sha256,
        circumstances: raw.circumstances,
        adapter: raw.adapter,
        graphs: graphs.collect::<Result<_, _>>()?,
        weights: raw.weights,
    })
}

fn check_ranges(graph: &str, raw: RawRanges) -> Result<GraphRanges, Wrong> {
    for (tensor, &magnitude) in &raw.magnitudes {
        check_magnitudes(&format!("graphs.{graph}.magnitudes.{tensor}"), &[magnitude])?;
    }
    let mut activations = BTreeMap::new();
    for (tensor, raw) in raw.activations {
        let field = format!("graphs.{graph}.activations.{tensor}");
        check_magnitudes(&field, &raw.channels)?;
        let found = format!("{} of width {}", raw.bins.len(), raw.bin_width);
        let histogram = Histogram::from_parts(raw.bin_width, raw.bins, raw.largest);
        let expected = "up to 2048 bins that reach the largest magnitude";
        let histogram = histogram.ok_or(Wrong { field, expected, found })?;
        activations.insert(tensor, Activation { channels: raw.channels, histogram });
    }
    for (weight, input) in &raw.products {
        if !activations.contains_key(input) {
            let field = format!("graphs.{graph}.products.{weight}");
            return Err(Wrong { field, expected: "the name of an activation", found: input.clone() });
        }
    }
    Ok(GraphRanges {
        structure: raw.structure,
        magnitudes: raw.magnitudes,
        activations,
        products: raw.products,
    })
}

fn check_magnitudes(field: &str, values: &[f32]) -> Result<(), Wrong> {
    match values.iter().find(|&&x| !(x.is_finite() && x >= 0.0)) {
        None => Ok(()),
        Some(x) => {
            Err(Wrong { field: field.to_owned(), expected: "finite numbers from 0 on", found: x.to_string() })
        }
    }
}

/// A digest of a graph's operators and of what they read and make: names of tensors mean the same only where
/// it is the same.
pub(crate) fn structure(graph: &Graph) -> String {
    let mut hash = Sha256::new();
    for node in &graph.nodes {
        hash.update(node.operator);
        for name in node.inputs.iter().chain(&node.outputs) {
            hash.update([0]);
            hash.update(&**name);
        }
        hash.update([1]);
    }
    hex(&hash.finalize())
}
