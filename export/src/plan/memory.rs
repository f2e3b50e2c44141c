//! What a model needs of a GPU's memory: weights, KV cache, activations, and what the runtime itself takes.

use std::collections::{BTreeMap, HashSet};

use arrcoc_bundle::names::axis;
use arrcoc_bundle::{Role, Target};
use arrcoc_models::families::{Composition, GraphOptions, Picture};
use arrcoc_models::graph::{Element, Graph, Initializer, Source};
use serde::Serialize;

use super::activations::{Peak, peak};
use super::precision::{Precision, WeightKind};

/// What the runtime takes before the first tensor, bytes: the CUDA context with its kernels (300 to 500 MiB),
/// handles and workspaces of cuBLAS and cuDNN, and the slack of the arenas. The round figure is a reserve,
/// not a measurement.
pub const RUNTIME_OVERHEAD: u64 = 1 << 30;

/// Longest question that the allocator is planned for, tokens. Its attention is \[heads, patches, question\].
const QUESTION_TOKENS: usize = 256;

/// Linear layers with fewer inputs or outputs keep 16 bits, as NVIDIA's Model Optimizer has it.
const SMALLEST_QUANTISED: usize = 16;

/// How attention is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Attention {
    /// The scores of all queries and keys lie in memory: standard operators, any GPU
    Materialized,
    /// The same but for the decoder's, which attends to a cache in place: bundles for CUDA
    Cached,
    /// Fused kernels that never hold the scores
    Fused,
}

/// What is asked of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Workload {
    /// Answers generated at the same time; each holds KV cache for a whole context.
    pub slots: usize,
    /// Longest prompt plus answer, tokens.
    pub context: usize,
    /// Side of the encoder's input, pixels.
    pub image_size: usize,
    /// Prompt tokens processed per step.
    pub prefill_chunk: usize,
}

/// Bytes by purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Estimate {
    /// Precision.
    pub precision: Precision,
    /// Weights by graph.
    pub weights: BTreeMap<&'static str, u64>,
    /// KV cache of all slots.
    pub kv_cache: u64,
    /// Activations of all graphs together.
    pub activations: u64,
    /// Where each graph's activations peak.
    pub peaks: Vec<Peak>,
    /// [`RUNTIME_OVERHEAD`].
    pub overhead: u64,
    /// The sum.
    pub total: u64,
}

/// A model as far as its shapes go; no weight is ever read.
#[derive(Debug)]
pub struct Model {
    pub(super) composition: Box<dyn Composition>,
    graphs: Vec<Graph>,
    target: Target,
}

impl Model {
    /// Builds the graphs of a configuration for contexts up to `context` tokens.
    pub fn new(composition: Box<dyn Composition>, attention: Attention, context: usize) -> Self {
        let target = match attention {
            Attention::Materialized => Target::Portable,
            Attention::Cached => Target::Cuda,
            Attention::Fused => Target::Cpu,
        };
        let graphs = composition.graphs(GraphOptions { target, context_length: context });
        Self { composition, graphs, target }
    }

    /// Bytes that the model needs.
    pub fn estimate(&self, precision: Precision, workload: Workload) -> Estimate {
        let weights = self.weights(precision);
        let kv_cache = self.kv_bytes_per_token(precision) * (workload.slots * workload.context) as u64
            + self.state_bytes() * workload.slots as u64;
        let peaks = self.peaks(precision, workload);
        // A session keeps its arena between runs, and encoding goes on while others decode: the stages' peaks
        // add up.
        let activations = peaks.iter().map(|peak| peak.bytes).sum();
        let total = weights.values().sum::<u64>() + kv_cache + activations + RUNTIME_OVERHEAD;
        Estimate { precision, weights, kv_cache, activations, peaks, overhead: RUNTIME_OVERHEAD, total }
    }

    /// KV cache of one token: a key and a value per KV head of a layer with attention.
    pub fn kv_bytes_per_token(&self, precision: Precision) -> u64 {
        let decoder = self.composition.decoder();
        let layers = decoder.layers - decoder.delta_net.as_ref().map_or(0, |net| net.layers.len());
        (2 * layers * decoder.kv_heads * decoder.cached_width(self.target)) as u64 * precision.float_bytes()
    }

    /// What recurrent layers remember of one sequence, now and at the end of its prompt: 32-bit floats.
    pub fn state_bytes(&self) -> u64 {
        let recurrent = self.composition.decoder().delta_net.as_ref().map(|net| net.spec(Target::Portable));
        recurrent.map_or(0, |recurrent| recurrent.numbers() * 2 * size_of::<f32>() as u64)
    }

    /// Weights that multiply every prompt token: the decoder's linear layers without the output head.
    pub(super) fn decoder_linear_weights(&self) -> u64 {
        let decoder = self.graphs.iter().filter(|graph| graph.role == Role::Decoder);
        let mut sum = 0;
        for graph in decoder {
            let linear = linear_weights(graph);
            let kept =
                graph.initializers.iter().filter(|x| kind(graph, x, &linear) == WeightKind::DecoderLinear);
            sum += kept.map(|x| x.shape.iter().product::<usize>() as u64).sum::<u64>();
        }
        sum
    }

    /// What a picture takes.
    ///
    /// # Panics
    /// When the encoder has no such size: workloads are checked before a model is asked about them.
    pub(super) fn picture(&self, image_size: usize) -> Picture {
        self.composition.picture(Some(image_size)).expect("a size that was checked")
    }

    /// Bytes by graph. What two graphs share counts where it first appears: a tied embedding table with the
    /// decoder.
    fn weights(&self, precision: Precision) -> BTreeMap<&'static str, u64> {
        let mut seen = HashSet::new();
        let mut weights = BTreeMap::new();
        for graph in &self.graphs {
            let linear = linear_weights(graph);
            let bytes: u64 = graph
                .initializers
                .iter()
                .filter(|tensor| match &tensor.source {
                    Source::Checkpoint { tensor, range, .. } => seen.insert((tensor, range.start, range.end)),
                    // Models are planned from their 32-bit graphs.
                    Source::Quantized(_) | Source::Data(_) => true,
                })
                .map(|tensor| bytes(precision, kind(graph, tensor, &linear), tensor))
                .sum();
            weights.insert(graph.name, bytes);
        }
        weights
    }

    /// Where each graph's activations peak: one image at a time, as the runtime encodes them; the decoder at
    /// the worse of a prefill chunk at the end of a full context and a step of all slots.
    fn peaks(&self, precision: Precision, workload: Workload) -> Vec<Peak> {
        let Workload { slots, context, image_size, prefill_chunk } = workload;
        let picture = self.picture(image_size);
        let question = QUESTION_TOKENS.min(context);
        let chunk = prefill_chunk.min(context);
        let axes = |batch: usize, seq: usize| {
            let common = [
                (axis::BATCH, batch),
                (axis::QUERY_LEN, question),
                (axis::SEQ, seq),
                (axis::PAST, context.saturating_sub(seq)),
                (axis::TOTAL, context),
            ];
            picture.axes.iter().copied().chain(common).collect::<Vec<_>>()
        };
        let (prefill, step) = (axes(1, chunk), axes(slots, 1));
        let float_bytes = precision.float_bytes();
        let worst = |graph: &Graph| {
            let first = peak(graph, &prefill, float_bytes);
            if !matches!(graph.role, Role::Decoder | Role::Embedding) {
                return first;
            }
            let second = peak(graph, &step, float_bytes);
            if second.bytes > first.bytes { second } else { first }
        };
        self.graphs.iter().map(worst).collect()
    }
}

/// Names of the weights that a `Gemm` multiplies with as they are: those that quantisation takes.
fn linear_weights(graph: &Graph) -> HashSet<&str> {
    let products = graph.nodes.iter().filter(|node| node.operator == "Gemm");
    products.filter_map(|node| node.inputs.get(1)).map(|name| &**name).collect()
}

fn kind(graph: &Graph, tensor: &Initializer, linear: &HashSet<&str>) -> WeightKind {
    let Source::Checkpoint { tensor: name, .. } = &tensor.source else { return WeightKind::Vector };
    // The output head decides between words and is left alone; tied, it is the embedding table.
    let head = name.ends_with("embed_tokens.weight") || name.ends_with("lm_head.weight");
    let wide = tensor.shape.iter().all(|&n| n >= SMALLEST_QUANTISED);
    match (tensor.shape.len() > 1, linear.contains(&*tensor.name) && wide && !head) {
        (false, _) => WeightKind::Vector,
        (true, false) => WeightKind::Table,
        (true, true) if graph.role == Role::Decoder => WeightKind::DecoderLinear,
        (true, true) => WeightKind::Linear,
    }
}

fn bytes(precision: Precision, kind: WeightKind, tensor: &Initializer) -> u64 {
    let elements = tensor.shape.iter().product::<usize>();
    if tensor.element != Element::F32 {
        return tensor.element.bytes(elements) as u64;
    }
    let columns = tensor.shape.last().copied().unwrap_or(1).max(1);
    precision.weight_bytes(kind, (elements / columns) as u64, columns as u64)
}
