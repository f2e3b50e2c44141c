//! Hugging Face checkpoint directories: `config.json` and safetensors files, read without ever mapping or
//! loading them whole, so that exporting a model needs a few megabytes whatever its size.

mod convert;
mod digest;
mod error;
mod expect;
mod header;
mod names;

use arrcoc_bundle::names::checkpoint::{CONFIG, INDEX, WEIGHTS};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use arrcoc_bundle::MANIFEST;
use arrcoc_bundle::quote::Brief;
use arrcoc_bundle::small;
use arrcoc_models::config::ConfigError;
use arrcoc_models::families;
use serde_json::Value;

pub(crate) use digest::hex;
pub use error::CheckpointError;
pub use expect::{LeftOut, Mismatch};
pub use header::{Dtype, HeaderError, MAX_HEADER_BYTES, TensorEntry, read_header};

/// Source bytes converted at a time: with the result, they fit the second-level cache.
const CHUNK_BYTES: usize = 256 << 10;

/// A checkpoint whose structure has been checked: every tensor that it claims lies inside its file.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    config: Value,
    config_bytes: Vec<u8>,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, Tensor>,
    /// From the names that networks use to those in the files, where the two differ.
    renamed: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    file: File,
}

/// One tensor of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Element type.
    pub dtype: Dtype,
    /// Shape, outermost axis first.
    pub shape: Vec<usize>,
    shard: usize,
    bytes: Range<u64>,
}

impl Tensor {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Size in the file, bytes.
    pub fn size(&self) -> u64 {
        self.bytes.end - self.bytes.start
    }
}

impl Checkpoint {
    /// Opens a directory: reads `config.json` and the header of every weight file.
    ///
    /// # Errors
    /// [`CheckpointError`], naming the file and what is wrong with it. Whether the tensors are the ones that
    /// a network wants is [`Checkpoint::expect`]'s question.
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        if let Some(file) = gguf(dir).filter(|_| !dir.join(CONFIG).is_file()) {
            return Err(CheckpointError::Gguf { file });
        }
        if !dir.is_dir() {
            return Err(CheckpointError::NotADirectory { path: dir.to_owned() });
        }
        if !dir.join(CONFIG).exists() {
            return Err(CheckpointError::NoConfig { path: dir.to_owned(), instead: instead(dir) });
        }
        let (config_bytes, config) = read_json(&dir.join(CONFIG))?;
        let mut checkpoint = Self {
            dir: dir.to_owned(),
            config,
            config_bytes,
            shards: Vec::new(),
            tensors: BTreeMap::new(),
            renamed: BTreeMap::new(),
        };
        if dir.join(WEIGHTS).is_file() {
            checkpoint.add_shard(WEIGHTS)?;
        } else if dir.join(INDEX).is_file() {
            checkpoint.add_indexed_shards()?;
        } else {
            return Err(no_weights(dir, &checkpoint.config));
        }
        Ok(checkpoint)
    }

    fn add_shard(&mut self, name: &str) -> Result<(), CheckpointError> {
        let path = self.dir.join(name);
        let io = |source| CheckpointError::Io { path: path.clone(), source };
        let file = File::open(&path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let header = read_header(&mut BufReader::new(&file), length)
            .map_err(|source| CheckpointError::Header { path: path.clone(), source })?;
        let shard = self.shards.len();
        for TensorEntry { name, dtype, shape, bytes } in header {
            let tensor = Tensor { dtype, shape, shard, bytes };
            if let Some(other) = self.tensors.insert(name.clone(), tensor) {
                let first = self.shards[other.shard].path.clone();
                return Err(CheckpointError::DuplicateTensor { tensor: name, first, second: path });
            }
        }
        self.shards.push(Shard { path, file });
        Ok(())
    }

    fn add_indexed_shards(&mut self) -> Result<(), CheckpointError> {
        let index = self.dir.join(INDEX);
        let weight_map = self::weight_map(&index)?;
        let mut names: Vec<&str> = weight_map.values().map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        for name in &names {
            if !self.dir.join(name).is_file() {
                let tensors = weight_map.values().filter(|shard| shard == name).count();
                return Err(CheckpointError::MissingShard { index, shard: (*name).to_owned(), tensors });
            }
            self.add_shard(name)?;
        }
        for (tensor, shard) in &weight_map {
            let path = self.dir.join(shard);
            if self.tensors.get(tensor).is_none_or(|found| self.shards[found.shard].path != path) {
                return Err(CheckpointError::NotInShard {
                    index,
                    tensor: tensor.clone(),
                    shard: shard.clone(),
                });
            }
        }
        if let Some((tensor, found)) = self.tensors.iter().find(|(name, _)| !weight_map.contains_key(*name)) {
            let shard = self.shards[found.shard].path.clone();
            return Err(CheckpointError::NotInIndex { index, tensor: tensor.clone(), shard });
        }
        Ok(())
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The parsed `config.json`.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// Tensors by their names in the files.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// The weight files.
    pub fn shards(&self) -> impl Iterator<Item = &Path> {
        self.shards.iter().map(|shard| shard.path.as_path())
    }

    /// Writes elements `range` (row-major) of a tensor to `sink` as little-endian 32-bit floats.
    ///
    /// # Errors
    /// The tensor is unknown, not of a float type, or shorter than the range; the file cannot be read; or
    /// `sink` fails.
    pub fn read_f32(
        &self,
        name: &str,
        range: Range<usize>,
        sink: &mut dyn Write,
    ) -> Result<(), CheckpointError> {
        let tensor =
            self.tensor(name).ok_or_else(|| CheckpointError::NoSuchTensor { tensor: name.to_owned() })?;
        if range.start > range.end || range.end > tensor.elements() {
            let found = tensor.elements();
            return Err(CheckpointError::Range { tensor: name.to_owned(), range, found });
        }
        let convert = convert::to_f32(tensor.dtype)
            .ok_or_else(|| CheckpointError::NotFloat { tensor: name.to_owned(), dtype: tensor.dtype })?;
        let shard = &self.shards[tensor.shard];
        let size = tensor.dtype.size();
        let mut raw = vec![0; CHUNK_BYTES.min(range.len() * size)];
        let mut floats = Vec::with_capacity(raw.len() / size * 4);
        let mut at = tensor.bytes.start + (range.start * size) as u64;
        let end = tensor.bytes.start + (range.end * size) as u64;
        while at < end {
            let chunk = &mut raw[..CHUNK_BYTES.min((end - at) as usize)];
            shard
                .file
                .read_exact_at(chunk, at)
                .map_err(|source| CheckpointError::Io { path: shard.path.clone(), source })?;
            sink.write_all(convert(chunk, &mut floats)).map_err(CheckpointError::Sink)?;
            at += chunk.len() as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
impl Checkpoint {
    /// Tensors of one element each, without files.
    fn of_tensors(names: &[&str]) -> Self {
        let tensor = |name: &&str| {
            let tensor = Tensor { dtype: Dtype::F32, shape: vec![1], shard: 0, bytes: 0..4 };
            ((*name).to_owned(), tensor)
        };
        Self {
            dir: PathBuf::from("checkpoint"),
            config: Value::Null,
            config_bytes: Vec::new(),
            shards: Vec::new(),
            tensors: names.iter().map(tensor).collect(),
            renamed: BTreeMap::new(),
        }
    }
}

/// What a directory without a configuration is, as far as it can be told.
fn instead(dir: &Path) -> String {
    if dir.join(MANIFEST).is_file() {
        return "a bundle, which `build` made already".to_owned();
    }
    let inner = fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let mut inner: Vec<PathBuf> = inner.filter(|path| path.join(CONFIG).is_file()).collect();
    inner.sort();
    match inner.first() {
        Some(checkpoint) => format!("none, and one in `{}`: give that", checkpoint.display()),
        None => "none".to_owned(),
    }
}

/// Reads a JSON file; returns its bytes too.
fn read_json(path: &Path) -> Result<(Vec<u8>, Value), CheckpointError> {
    let io = |source| CheckpointError::Io { path: path.to_owned(), source };
    let length = fs::metadata(path).map_err(io)?.len();
    if length > MAX_HEADER_BYTES {
        return Err(CheckpointError::TooLarge { path: path.to_owned(), length });
    }
    let bytes = small::read(path, MAX_HEADER_BYTES).map_err(io)?;
    if small::is_lfs_pointer(&bytes) {
        return Err(CheckpointError::Pointer { path: path.to_owned() });
    }
    let value = serde_json::from_slice(&bytes)
        .map_err(|source| CheckpointError::Json { path: path.to_owned(), source: Brief(source) })?;
    Ok((bytes, value))
}

/// Reads an index's table from tensor to file name.
pub(crate) fn weight_map(index: &Path) -> Result<BTreeMap<String, String>, CheckpointError> {
    let (_, value) = read_json(index)?;
    let malformed = |reason: String| CheckpointError::Index { path: index.to_owned(), reason };
    let Some(Value::Object(map)) = value.get("weight_map") else {
        return Err(malformed("expected an object `weight_map` from tensor names to file names".to_owned()));
    };
    map.iter()
        .map(|(tensor, shard)| match shard.as_str() {
            // A file name and nothing else: an index cannot point out of its directory.
            Some(name) if Path::new(name).file_name() == Some(name.as_ref()) => {
                Ok((tensor.clone(), name.to_owned()))
            }
            _ => Err(malformed(format!("tensor `{tensor}`: expected a plain file name, found {shard}"))),
        })
        .collect()
}

/// A file of llama.cpp's format: the path itself, or the first one in the directory.
fn gguf(path: &Path) -> Option<PathBuf> {
    let is_gguf =
        |path: &PathBuf| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    let below = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    below.chain([path.to_owned()]).filter(is_gguf).min()
}

/// The error for a directory without safetensors files. Where the model could not be used with them either,
/// that comes first.
fn no_weights(dir: &Path, config: &Value) -> CheckpointError {
    let known = families::model_types();
    if let Some(found) = config["model_type"].as_str().filter(|found| !known.contains(found)) {
        let source = ConfigError::ModelType { found: found.to_owned(), known: known.join(", ") };
        return CheckpointError::Config { path: dir.join(CONFIG), source: Brief(source) };
    }
    let is_pickle = |name: &str| name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth");
    let pickle = fs::read_dir(dir).ok().and_then(|entries| {
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| is_pickle(name)).min()
    });
    match pickle {
        Some(file) => CheckpointError::Pickle { dir: dir.to_owned(), file },
        None => CheckpointError::NoWeights { dir: dir.to_owned() },
    }
}
