//! What a model takes of a machine's memory, before anything of it is loaded.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use super::Options;
use super::activations::Shapes;
use super::sizes;
use crate::decoder::{kv_bytes, state_bytes};
use crate::image::decode;
use arrcoc_bundle::names::axis;
use arrcoc_bundle::{MANIFEST, Manifest, Role};

use crate::error::{LoadError, MemoryError, Mib};
use crate::vision;

/// What repacked matrices take besides the weights: the CPU libraries lay out anew what their kernels read in
/// another order, which was never more than a quarter of a bundle's bytes.
pub fn copies_of(weights: u64) -> u64 {
    weights / 4
}

/// What a thread of the inference library takes of the address space: its stack, and an arena of the C
/// library.
const THREAD_SPACE: u64 = (8 << 20) + (64 << 20);

/// Bytes by purpose, at the worst request that the options allow. What is promised counts as if it were
/// touched: a KV cache takes memory only as its positions are used, and then it has to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryNeed {
    /// Weights, as they lie in the bundle.
    pub weights: u64,
    /// What the library makes of them: matrices in the order in which kernels read them.
    pub copies: u64,
    /// Keys and values of every slot, and what recurrent layers remember, where that lies beside them.
    pub kv_cache: u64,
    /// What recurrent layers remember, where it goes through the system's memory at every step: of the
    /// decoders that share one cache.
    pub states: u64,
    /// Intermediate tensors of all graphs together: each keeps its arena between runs, and images are encoded
    /// while answers are decoded.
    pub activations: u64,
    /// The caches of image features and visual tokens.
    pub caches: u64,
    /// Pictures between file and encoder, on the threads that prepare them.
    pub pictures: u64,
    /// Threads that the library starts.
    pub threads: u64,
}

impl MemoryNeed {
    /// What a bundle needs with these options. Nothing of it is loaded; its graphs are read for their shapes.
    ///
    /// # Errors
    /// A file of the bundle that cannot be read, by name.
    pub fn of(manifest: &Manifest, options: &Options) -> Result<Self, MemoryError> {
        let weights = weight_bytes(manifest)?;
        let context = sizes::context_length(manifest.decoder.context_length, options);
        let threads =
            (options.resolved_library().threads as u64).saturating_mul(manifest.graphs.len() as u64);
        let remembered = state_bytes(&manifest.decoder).saturating_mul(2 * options.slots as u64);
        let kept = if manifest.target.shares_cache() { remembered } else { 0 };
        Ok(Self {
            weights,
            copies: copies_of(weights),
            kv_cache: kv_bytes(&manifest.decoder, options.slots, context).saturating_sub(kept),
            // Kept, and stacked for a step.
            states: kept.saturating_add(kept / 2),
            activations: activations(manifest, options, context)?,
            caches: (options.vision.feature_cache_bytes as u64)
                .saturating_add(options.vision.token_cache_bytes as u64),
            pictures: decode::most_bytes(options.vision.limits.max_pixels, sizes::IMAGE_THREADS as u64),
            threads,
        })
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        [self.engine(), self.states, self.caches, self.pictures].into_iter().fold(0, u64::saturating_add)
    }

    /// What lies where the graphs run: on a GPU, where they run on one.
    pub fn engine(&self) -> u64 {
        [self.weights, self.copies, self.kv_cache, self.activations].into_iter().fold(0, u64::saturating_add)
    }

    /// What a model on a GPU takes of the system's memory: weights on their way, what recurrent layers
    /// remember, caches and pictures.
    #[must_use]
    pub fn beside_gpu(&self) -> Self {
        Self { copies: 0, kv_cache: 0, activations: 0, ..*self }
    }

    /// Address space: memory, the weights' files once more as they are mapped, and the threads' stacks and
    /// arenas.
    pub fn address_space(&self) -> u64 {
        self.total().saturating_add(self.weights).saturating_add(self.threads.saturating_mul(THREAD_SPACE))
    }

    /// The same, corrected by a measurement: a run at the longest lengths held at most `peak` bytes; what
    /// exceeds weights and copies is activations.
    #[must_use]
    pub fn measured(&self, peak: u64) -> Self {
        let expected = self.weights.saturating_add(self.copies);
        Self { activations: self.activations.max(peak.saturating_sub(expected)), ..*self }
    }

    /// What is needed besides weights, their copies and the KV cache.
    pub fn working(&self) -> u64 {
        [self.activations, self.states, self.caches, self.pictures].into_iter().fold(0, u64::saturating_add)
    }
}

impl fmt::Display for MemoryNeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { weights, copies, kv_cache, states, activations, caches, pictures, threads: _ } = *self;
        let parts = [
            ("weights", weights),
            ("copies of weights", copies),
            ("KV cache", kv_cache),
            ("memory of recurrent layers", states),
            ("activations", activations),
            ("caches", caches),
            ("pictures", pictures),
        ];
        let parts = parts.iter().filter(|(_, bytes)| *bytes > 0);
        let parts: Vec<String> = parts.map(|(name, bytes)| format!("{name} {}", Mib(*bytes))).collect();
        f.write_str(&parts.join(", "))
    }
}

/// Size of everything that the manifest lists; what is listed twice, or linked to one file, lies in memory
/// once.
pub(super) fn weight_bytes(manifest: &Manifest) -> Result<u64, MemoryError> {
    let graphs = manifest.graphs.values().map(|graph| &graph.path);
    let files: BTreeSet<&PathBuf> = graphs.chain(manifest.files.values()).collect();
    let mut bytes = 0_u64;
    for file in files {
        let found = std::fs::metadata(file).map_err(|error| unreadable(file, error.to_string()))?;
        bytes = bytes.saturating_add(found.len());
    }
    Ok(bytes)
}

fn unreadable(file: &Path, reason: String) -> MemoryError {
    MemoryError { file: file.to_owned(), reason }
}

/// Peaks of all graphs: one image at a time, and the decoder at the worse of a chunk at the end of a full
/// context and a step of all slots.
fn activations(manifest: &Manifest, options: &Options, context: usize) -> Result<u64, MemoryError> {
    let unknown = |error: LoadError| unreadable(Path::new(MANIFEST), error.to_string());
    let own = vision::longest_axes(manifest, &options.vision, context).map_err(unknown)?;
    let context = context as u64;
    let query = manifest.graphs.values().find_map(|graph| graph.axes.get(axis::QUERY_LEN));
    let query = query.map_or(context, |range| range.max).min(context);
    let chunk = options.prefill_chunk as u64;
    let longer = manifest.target.has_longer_chunks();
    let chunk = if longer { chunk.saturating_mul(sizes::SOLO_CHUNKS as u64) } else { chunk };
    let recurrent = manifest.decoder.recurrent.as_ref();
    let chunk = recurrent.map_or(chunk, |recurrent| chunk.min(recurrent.longest_run as u64));
    // The portable decoder steps its slots one after the other.
    let rows = if manifest.target.shares_cache() { options.slots as u64 } else { 1 };
    let axes = |batch: u64, seq: u64| {
        let shared = [
            (axis::BATCH, batch),
            (axis::QUERY_LEN, query),
            (axis::SEQ, seq),
            (axis::PAST, context.saturating_sub(seq)),
            (axis::TOTAL, context),
        ];
        own.iter().copied().chain(shared).collect::<Vec<_>>()
    };
    let (prefill, step) = (axes(1, chunk.min(context)), axes(rows, 1));
    let mut sum = 0_u64;
    for graph in manifest.graphs.values() {
        let shapes = Shapes::read(&graph.path).map_err(|reason| unreadable(&graph.path, reason))?;
        let first = shapes.peak(&prefill);
        let peak = if graph.role == Role::Decoder { first.max(shapes.peak(&step)) } else { first };
        sum = sum.saturating_add(peak);
    }
    Ok(sum)
}
