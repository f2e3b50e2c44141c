//! The identity of a checkpoint: what a bundle's manifest remembers of where it came from.

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use sha2::{Digest, Sha256};

use super::{Checkpoint, CheckpointError, Tensor};

const BUFFER_BYTES: usize = 1 << 20;

impl Checkpoint {
    /// SHA-256 over the bytes of `config.json` and, in order of their names, every tensor's name, dtype,
    /// shape and the SHA-256 of its bytes; in hexadecimal. The same tensors in other shards have the same
    /// digest.
    ///
    /// Tensors are hashed on `threads` threads.
    ///
    /// # Errors
    /// [`CheckpointError::Io`] when a file cannot be read.
    pub fn digest(&self, threads: usize) -> Result<String, CheckpointError> {
        let tensors: Vec<&Tensor> = self.tensors.values().collect();
        let next = AtomicUsize::new(0);
        let worker = || {
            let mut hashes = Vec::new();
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let Some(tensor) = tensors.get(i) else { return Ok::<_, CheckpointError>(hashes) };
                hashes.push((i, self.hash_tensor(tensor)?));
            }
        };
        let mut hashes = vec![[0; 32]; tensors.len()];
        thread::scope(|scope| {
            let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(worker)).collect();
            for worker in workers {
                for (i, hash) in worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))? {
                    hashes[i] = hash;
                }
            }
            Ok::<_, CheckpointError>(())
        })?;
        let mut digest = Sha256::new();
        digest.update(Sha256::digest(&self.config_bytes));
        for ((name, tensor), hash) in self.tensors.iter().zip(hashes) {
            digest.update(format!("\n{name} {} {:?} ", tensor.dtype, tensor.shape));
            digest.update(hash);
        }
        Ok(hex(&digest.finalize()))
    }

    fn hash_tensor(&self, tensor: &Tensor) -> Result<[u8; 32], CheckpointError> {
        let shard = &self.shards[tensor.shard];
        let mut digest = Sha256::new();
        let mut buffer = vec![0; BUFFER_BYTES.min(tensor.size() as usize)];
        let mut at = tensor.bytes.start;
        while at < tensor.bytes.end {
            let chunk = &mut buffer[..BUFFER_BYTES.min((tensor.bytes.end - at) as usize)];
            shard
                .file
                .read_exact_at(chunk, at)
                .map_err(|source| CheckpointError::Io { path: shard.path.clone(), source })?;
            digest.update(&*chunk);
            at += chunk.len() as u64;
        }
        Ok(digest.finalize().into())
    }
}

pub(crate) use arrcoc_bundle::hex;
