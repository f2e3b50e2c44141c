//! Weight files with random contents, written by every core at once.

use arrcoc_bundle::names::checkpoint::WEIGHTS;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use arrcoc_models::graph::Parameter;
use serde_json::{Map, Value, json};

use super::random;
use crate::checkpoint::Dtype;
use crate::progress::Step;

/// Elements that one thread makes and writes at a time.
const BLOCK: usize = 1 << 20;

/// One weight file: its header and the tensors behind it, in order.
pub(super) struct Shard<'a> {
    pub(super) name: String,
    dtype: Dtype,
    parameters: Vec<&'a Parameter>,
    header: Vec<u8>,
}

/// A part of a tensor, and where it goes.
struct Block<'a> {
    parameter: &'a Parameter,
    start: usize,
    count: usize,
    offset: u64,
}

fn elements(parameter: &Parameter) -> usize {
    parameter.shape.iter().product()
}

/// Distributes `parameters`, in order, over files of at most `limit` bytes of data (or of one tensor that is
/// larger).
pub(super) fn plan(parameters: &[Parameter], dtype: Dtype, limit: u64) -> Vec<Shard<'_>> {
    let mut groups: Vec<Vec<&Parameter>> = vec![Vec::new()];
    let mut size = 0;
    for parameter in parameters {
        let bytes = (elements(parameter) * dtype.size()) as u64;
        if size > 0 && size + bytes > limit {
            groups.push(Vec::new());
            size = 0;
        }
        size += bytes;
        if let Some(group) = groups.last_mut() {
            group.push(parameter);
        }
    }
    let count = groups.len();
    let name = |i: usize| match count {
        1 => WEIGHTS.to_owned(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
    };
    let shard = |(i, parameters): (usize, Vec<_>)| {
        let header = header(&parameters, dtype);
        Shard { name: name(i), dtype, parameters, header }
    };
    groups.into_iter().enumerate().map(shard).collect()
}

/// The index of several files.
pub(super) fn index(shards: &[Shard<'_>]) -> Value {
    let total: u64 = shards.iter().map(|shard| shard.length() - shard.header.len() as u64).sum();
    let weight_map: Map<String, Value> = shards
        .iter()
        .flat_map(|shard| {
            shard.parameters.iter().map(|parameter| (parameter.name.clone(), json!(shard.name)))
        })
        .collect();
    json!({ "metadata": { "total_size": total }, "weight_map": weight_map })
}

/// The file's first bytes: the header's length and the header, padded so that the data is aligned.
fn header(parameters: &[&Parameter], dtype: Dtype) -> Vec<u8> {
    let mut entries = Map::new();
    // transformers refuses files that do not say so.
    entries.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut offset = 0;
    for parameter in parameters {
        let end = offset + elements(parameter) * dtype.size();
        let entry = json!({ "dtype": dtype.name(), "shape": parameter.shape, "data_offsets": [offset, end] });
        entries.insert(parameter.name.clone(), entry);
        offset = end;
    }
    let mut json = Value::Object(entries).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    [&(json.len() as u64).to_le_bytes(), json.as_slice()].concat()
}

impl Shard<'_> {
    /// Length of the file, bytes.
    pub(super) fn length(&self) -> u64 {
        let elements: usize = self.parameters.iter().map(|parameter| elements(parameter)).sum();
        (self.header.len() + elements * self.dtype.size()) as u64
    }

    fn blocks(&self) -> Vec<Block<'_>> {
        let mut offset = self.header.len() as u64;
        let mut blocks = Vec::new();
        for &parameter in &self.parameters {
            let total = elements(parameter);
            for start in (0..total).step_by(BLOCK) {
                let count = BLOCK.min(total - start);
                blocks.push(Block { parameter, start, count, offset });
                offset += (count * self.dtype.size()) as u64;
            }
        }
        blocks
    }

    /// Writes the file; each core takes the next block that no other has taken.
    pub(super) fn write(&self, seed: u64, path: &Path, step: &mut Step) -> io::Result<()> {
        let file = File::create(path)?;
        file.set_len(self.length())?;
        file.write_all_at(&self.header, 0)?;
        step.advance(self.header.len() as u64);
        let blocks = self.blocks();
        let next = AtomicUsize::new(0);
        let (done, finished) = mpsc::channel::<io::Result<u64>>();
        let worker = |done: mpsc::Sender<io::Result<u64>>| {
            let mut bytes = Vec::new();
            while let Some(block) = blocks.get(next.fetch_add(1, Ordering::Relaxed)) {
                bytes.clear();
                let Parameter { name, init, .. } = block.parameter;
                random::fill(seed, name, *init, self.dtype, block.start, block.count, &mut bytes);
                let written = file.write_all_at(&bytes, block.offset).map(|()| bytes.len() as u64);
                // The receiver leaves at the first error, and then so do the workers.
                if done.send(written).is_err() {
                    return;
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
                let done = done.clone();
                scope.spawn(|| worker(done));
            }
            drop(done);
            finished.into_iter().try_for_each(|written| written.map(|bytes| step.advance(bytes)))
        })?;
        file.sync_all()
    }
}
