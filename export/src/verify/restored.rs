//! The weights of a bundle held against the checkpoint's, and the networks that it computes, in 32 bits.
//!
//! One pass over the weights does both. [`super::fidelity`] says whether what is stored is what its form
//! makes of the checkpoint's. Where any have fewer than 32 bits, all that is stored is read back and written
//! once, as the weights of several bundles whose graphs are the portable ones in 32 bits. The *restored* one
//! has these weights and nothing else in fewer bits. What a precision loses in weights is so on both sides of
//! every comparison, and what is left between them is arithmetic. The *rounded* ones, one for each of
//! [`DRAWS`], have the same weights and round what they are multiplied with as the bundle's own products do
//! ([`super::rounding`]). They say what that costs.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use arrcoc_bundle::manifest::RawManifest;
use arrcoc_bundle::{Bundle, BundleError, MANIFEST, hex, yaml};
use arrcoc_models::graph::quantized::Scheme;
use arrcoc_models::onnx::{ModelProto, StringStringEntryProto, TensorProto};
use prost::Message as _;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::VerifyError;
use super::fidelity::Tally;
use super::pairs::{Form, Pair, Place, pairs, place};
use super::rounding::{Attentions, DRAWS, round_factors};
use super::smoothing::{Changed, multiplied};
use crate::hashed_file::HashedFile;
use crate::onnx;
use crate::progress::{Progress, Step};
use crate::quantize;
use crate::quantize::stored::{Restored, Stored};

/// Weights read at once.
const GROUP: usize = 1 << 18;

/// Tensors begin at such places of a data file.
const ALIGNED: u64 = 64;

/// What a precision makes of the weights of a graph.
#[derive(Debug, Clone, Serialize)]
pub struct WeightLoss {
    /// The graph.
    pub graph: String,
    /// Weights that are stored in fewer than 32 bits.
    pub tensors: usize,
    /// What is lost of them: the root of the sum of squares, over that of the weights.
    pub lost: f64,
}

/// Weights that are not what their form makes of the checkpoint's, or numbers of a constant that are not
/// those of its networks.
#[derive(Debug, Clone, Serialize)]
pub struct Strayed {
    /// Graph that uses them.
    pub graph: String,
    /// Tensor: the checkpoint's name for it, or the graph's for a constant (`constant_...`).
    pub tensor: String,
    /// How many.
    pub count: u64,
    /// Row-major index of the first one.
    pub first: u64,
}

/// What the pass over the weights found.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub(super) losses: Vec<WeightLoss>,
    pub(super) strayed: Vec<Strayed>,
}

/// The restored bundle and the rounded ones. They lie below a directory that is removed with them.
pub(super) struct Twins {
    _dir: tempfile::TempDir,
    /// The bundle's weights, in 32 bits.
    pub(super) restored: Bundle,
    /// The same, and factors rounded as the bundle's products round them: a bundle for each of [`DRAWS`].
    pub(super) rounded: Vec<Bundle>,
}

/// Compares every weight, and writes the twins where any has fewer than 32 bits.
pub(super) fn restore(
    reference: &Bundle,
    subject: &Bundle,
    progress: Progress,
) -> Result<(Comparison, Option<Twins>), VerifyError> {
    let mut weights: BTreeMap<&str, Vec<Pair>> = BTreeMap::new();
    for name in subject.manifest().graphs.keys().filter(|name| reference.graph(name).is_ok()) {
        weights.insert(name, pairs(reference, subject, name)?);
    }
    let all = || weights.values().flatten();
    let mut step = progress.step("comparing weights", all().map(|pair| pair.reference.length()).sum());
    let mut comparison = Comparison::default();
    if all().all(|pair| matches!(pair.subject, Form::Full(_))) {
        for (name, pairs) in &weights {
            let mut pass = Pass::new(name, pairs, &mut step)?;
            pairs.iter().try_for_each(|pair| pass.compare(pair, &mut |_| Ok(())))?;
            pass.finish(&mut comparison);
        }
        step.finish();
        return Ok((comparison, None));
    }
    let dir = tempfile::tempdir().map_err(|source| write_error(&std::env::temp_dir(), source))?;
    let mut writer = Writer::begin(reference, dir.path())?;
    for name in reference.manifest().graphs.keys() {
        let pairs = weights.get(name.as_str()).map_or(&[][..], Vec::as_slice);
        let attentions = match subject.graph(name) {
            Ok(file) => Attentions::of(&onnx::read(&file.path)?),
            Err(_) => Attentions::default(),
        };
        let pass = writer.graph(reference, name, (pairs, &attentions), &mut step)?;
        pass.finish(&mut comparison);
    }
    step.finish();
    let (restored, rounded) = writer.finish()?;
    Ok((comparison, Some(Twins { _dir: dir, restored, rounded })))
}

/// The comparison of a graph's weights.
struct Pass<'a> {
    graph: &'a str,
    step: &'a mut Step,
    tallies: Vec<(String, Tally)>,
    tensors: usize,
    lost: [f64; 2],
    changed: Vec<Changed>,
    /// Which of the changed gave a matrix its factors.
    met: Vec<usize>,
}

impl<'a> Pass<'a> {
    fn new(graph: &'a str, pairs: &[Pair], step: &'a mut Step) -> Result<Self, VerifyError> {
        let is_smoothed = |pair: &Pair| matches!(&pair.subject, Form::Quantized(_));
        let mut changed = Vec::new();
        if pairs.iter().any(is_smoothed) {
            for pair in pairs.iter().filter(|pair| !pair.is_matrix) {
                let Form::Full(found) = &pair.subject else { continue };
                let floats = |place: &Place| Ok::<_, VerifyError>(floats(&place.read_all()?));
                changed.extend(Changed::new(&pair.name, floats(&pair.reference)?, floats(found)?));
            }
        }
        Ok(Self { graph, step, tallies: Vec::new(), tensors: 0, lost: [0.0; 2], changed, met: Vec::new() })
    }

    /// Compares a weight; what is stored goes to `write` as 32-bit floats, in order.
    fn compare(
        &mut self,
        pair: &Pair,
        write: &mut dyn FnMut(&[u8]) -> Result<(), VerifyError>,
    ) -> Result<(), VerifyError> {
        let mut tally = Tally::default();
        let source = Source::open(pair)?;
        let rows = (GROUP / pair.columns).max(1);
        let mut factors: Option<usize> = None;
        for first in (0..pair.rows).step_by(rows) {
            let rows = first..pair.rows.min(first + rows);
            let weights = read_floats(&pair.reference, &rows, pair.columns)?;
            self.step.advance(4 * weights.len() as u64);
            match &source {
                Source::Full(place) => {
                    let found = read_floats(place, &rows, pair.columns)?;
                    if !self.changed.iter().any(|changed| changed.name == pair.name) {
                        tally.full(&weights, &found);
                    }
                    write(&bytes(&found))?;
                }
                Source::Half(place) => {
                    let found = read_halves(place, &rows, pair.columns)?;
                    tally.half(&weights, &found);
                    write(&bytes(&found))?;
                }
                Source::Quantized(stored) => {
                    if first == 0 {
                        factors = self.factors(stored, &weights);
                        tally.multiplied = factors.is_some();
                    }
                    let factors = factors.map(|at| &*self.changed[at].factors);
                    let (mut found, mut values) = (Vec::new(), Vec::new());
                    for (row, weights) in rows.zip(weights.chunks(pair.columns)) {
                        stored.row(row, &mut found);
                        tally.row(stored.scheme, stored.group(), &multiplied(weights, factors), &found);
                        values.extend(found.iter().map(|found| found.value));
                    }
                    write(&bytes(&values))?;
                }
            }
        }
        if let Source::Quantized(stored) = &source
            && stored.scheme == Scheme::Fp8
        {
            tally.scale(stored.scales.first().copied().unwrap_or(0.0));
        }
        self.met.extend(factors);
        if !matches!(source, Source::Full(_)) {
            self.tensors += 1;
            self.lost = [self.lost[0] + tally.lost, self.lost[1] + tally.squares];
        }
        self.tallies.push((pair.name.clone(), tally));
        Ok(())
    }

    /// Which norm's factors a matrix was multiplied with, if any: those that leave the fewest weights
    /// unexplained.
    fn factors(&self, stored: &Stored, weights: &[f32]) -> Option<usize> {
        let tally = |factors: Option<&[f32]>| {
            let mut tally = Tally::default();
            tally.multiplied = factors.is_some();
            let mut found = Vec::<Restored>::new();
            for (row, weights) in weights.chunks(stored.columns).enumerate() {
                stored.row(row, &mut found);
                tally.row(stored.scheme, stored.group(), &multiplied(weights, factors), &found);
            }
            tally.strayed
        };
        let fits = |at: &usize| self.changed[*at].factors.len() == stored.columns;
        let candidates = (0..self.changed.len()).filter(fits);
        let best = candidates.map(|at| (tally(Some(&self.changed[at].factors)), at)).min()?;
        (best.0 < tally(None)).then_some(best.1)
    }

    /// Adds what was found.
    fn finish(mut self, comparison: &mut Comparison) {
        for changed in &self.changed {
            let explained = |&at: &usize| changed.is_divided_by(&self.changed[at].factors);
            if !self.met.iter().any(explained) {
                self.tallies.push((changed.name.clone(), changed.tally()));
            }
        }
        if self.tensors > 0 {
            let lost = (self.lost[0] / self.lost[1].max(f64::MIN_POSITIVE)).sqrt();
            comparison.losses.push(WeightLoss { graph: self.graph.to_owned(), tensors: self.tensors, lost });
        }
        let strayed = self.tallies.into_iter().filter_map(|(tensor, tally)| {
            let (graph, count) = (self.graph.to_owned(), tally.strayed);
            Some(Strayed { graph, tensor, count, first: tally.first? })
        });
        comparison.strayed.extend(strayed);
    }
}

/// What stands for a weight, open.
enum Source<'a> {
    Full(&'a Place),
    Half(&'a Place),
    Quantized(Stored),
}

impl<'a> Source<'a> {
    fn open(pair: &'a Pair) -> Result<Self, VerifyError> {
        Ok(match &pair.subject {
            Form::Full(place) => Self::Full(place),
            Form::Half(place) => Self::Half(place),
            Form::Quantized(parts) => Self::Quantized(parts.read(pair.rows, pair.columns)?),
        })
    }
}

/// The twins under construction.
struct Writer {
    /// The restored one's; the hashes of its graphs are not those of the others.
    manifest: RawManifest,
    restored: PathBuf,
    /// Rounded ones, and the hashes of their graphs.
    rounded: Vec<(PathBuf, BTreeMap<String, String>)>,
}

impl Writer {
    fn begin(reference: &Bundle, below: &Path) -> Result<Self, VerifyError> {
        let path = reference.dir().join(MANIFEST);
        let failed = |source| VerifyError::Read { path: path.clone(), source };
        let text = yaml::read(&path).map_err(failed)?;
        let manifest = yaml::parse::<RawManifest>(&text);
        let mut manifest = manifest
            .map_err(|source| BundleError::Yaml { path: path.clone(), source })
            .map_err(VerifyError::File)?;
        let restored = below.join("restored");
        let rounded: Vec<_> =
            (0..DRAWS.len()).map(|draw| (below.join(format!("rounded{draw}")), BTreeMap::new())).collect();
        let dirs = || rounded.iter().map(|(dir, _)| dir).chain([&restored]);
        for dir in dirs() {
            std::fs::create_dir_all(dir).map_err(|source| write_error(dir, source))?;
        }
        // Graphs get data files of their own; the rest stays where it is.
        manifest.files.retain(|name, _| !name.ends_with(DATA));
        for (name, path) in reference.manifest().files.iter().filter(|(name, _)| !name.ends_with(DATA)) {
            for dir in dirs() {
                link(path, &dir.join(name))?;
            }
        }
        Ok(Self { manifest, restored, rounded })
    }

    /// Writes a graph of all of them, with the weights that stand for the reference's.
    fn graph<'b>(
        &mut self,
        reference: &Bundle,
        name: &'b str,
        (pairs, attentions): (&[Pair], &Attentions),
        step: &'b mut Step,
    ) -> Result<Pass<'b>, VerifyError> {
        let mut pass = Pass::new(name, pairs, step)?;
        let path = &reference.graph(name)?.path;
        let mut model = read_model(path)?;
        let data = format!("{name}.onnx{DATA}");
        let data_path = self.restored.join(&data);
        let failed = |source| write_error(&data_path, source);
        let mut file = HashedFile::create(&data_path).map_err(failed)?;
        let initializers = onnx::read(path)?.initializers;
        let tensors = model.graph.iter_mut().flat_map(|graph| &mut graph.initializer);
        for (constant, tensor) in initializers.iter().zip(tensors) {
            let Some(place) = place(reference, path, constant)? else { continue };
            file.pad_to(file.length().next_multiple_of(ALIGNED)).map_err(failed)?;
            let offset = file.length();
            let mut write = |bytes: &[u8]| file.write_all(bytes).map_err(failed);
            match pairs.iter().find(|pair| pair.name == constant.name) {
                Some(pair) => pass.compare(pair, &mut write)?,
                None => write(&place.read_all()?)?,
            }
            relocate(tensor, &data, offset, place.length());
        }
        let length = file.length();
        let sha256 = file.finish().map_err(failed)?;
        if length > 0 {
            self.rounded.iter().try_for_each(|(dir, _)| link(&data_path, &dir.join(&data)))?;
            self.manifest.files.insert(data, sha256);
        }
        let hash = write_model(&model, &self.restored.join(format!("{name}.onnx")))?;
        for ((dir, hashes), draw) in self.rounded.iter_mut().zip(DRAWS) {
            let mut model = model.clone();
            round_factors(&mut model, pairs, attentions, draw);
            hashes.insert(name.to_owned(), write_model(&model, &dir.join(format!("{name}.onnx")))?);
        }
        if let Some(graph) = self.manifest.graphs.get_mut(name) {
            (graph.file, graph.sha256) = (format!("{name}.onnx"), hash);
        }
        Ok(pass)
    }

    fn finish(mut self) -> Result<(Bundle, Vec<Bundle>), VerifyError> {
        let open = |dir: &Path, manifest: &RawManifest| {
            let path = dir.join(MANIFEST);
            let text = serde_yaml::to_string(manifest).map_err(std::io::Error::other);
            let written = text.and_then(|text| std::fs::write(&path, text));
            written.map_err(|source| write_error(&path, source))?;
            super::open(dir)
        };
        let restored = open(&self.restored, &self.manifest)?;
        let mut rounded = Vec::new();
        for (dir, hashes) in self.rounded {
            for (name, sha256) in hashes {
                if let Some(graph) = self.manifest.graphs.get_mut(&name) {
                    graph.sha256 = sha256;
                }
            }
            rounded.push(open(&dir, &self.manifest)?);
        }
        Ok((restored, rounded))
    }
}

/// How the names of data files end, behind that of their graph.
const DATA: &str = ".data";

fn write_error(path: &Path, source: std::io::Error) -> VerifyError {
    VerifyError::Write { path: path.to_owned(), source }
}

fn link(from: &Path, to: &Path) -> Result<(), VerifyError> {
    let made = to.parent().map_or(Ok(()), std::fs::create_dir_all);
    made.and_then(|()| symlink(from, to)).map_err(|source| write_error(to, source))
}

fn read_model(path: &PathBuf) -> Result<ModelProto, VerifyError> {
    let bytes = std::fs::read(path).map_err(|source| VerifyError::Read { path: path.clone(), source })?;
    let model = ModelProto::decode(bytes.as_slice());
    model.map_err(|source| onnx::OnnxError::Decode { path: path.clone(), source }.into())
}

/// Writes a graph; returns its hash.
fn write_model(model: &ModelProto, path: &Path) -> Result<String, VerifyError> {
    let bytes = model.encode_to_vec();
    std::fs::write(path, &bytes).map_err(|source| write_error(path, source))?;
    Ok(hex(&Sha256::digest(&bytes)))
}

fn relocate(tensor: &mut TensorProto, file: &str, offset: u64, length: u64) {
    let entry =
        |key: &str, value: String| StringStringEntryProto { key: Some(key.to_owned()), value: Some(value) };
    tensor.external_data = vec![
        entry("location", file.to_owned()),
        entry("offset", offset.to_string()),
        entry("length", length.to_string()),
    ];
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    quantize::floats(bytes).collect()
}

fn bytes(floats: &[f32]) -> Vec<u8> {
    floats.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// Rows of 32-bit floats.
fn read_floats(
    place: &Place,
    rows: &std::ops::Range<usize>,
    columns: usize,
) -> Result<Vec<f32>, VerifyError> {
    let [at, count] = [rows.start, rows.len()].map(|rows| (4 * rows * columns) as u64);
    Ok(floats(&place.read(at, count)?))
}

/// Rows of 16-bit floats.
fn read_halves(
    place: &Place,
    rows: &std::ops::Range<usize>,
    columns: usize,
) -> Result<Vec<f32>, VerifyError> {
    let [at, count] = [rows.start, rows.len()].map(|rows| (2 * rows * columns) as u64);
    let bytes = place.read(at, count)?;
    Ok(bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect())
}
