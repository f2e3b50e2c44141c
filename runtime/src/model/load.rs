//! Loading a bundle: the inference library, the graphs, a first run, the threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use super::admission::Admission;
use super::memory::{MemoryNeed, on_gpu};
use super::{DEFAULT_CONTEXT_LENGTH, Model, ModelInfo, Options, WarmUp};
use crate::bundle::Bundle;
use crate::bundle::manifest::{DecoderSpec, Statistics, Target};
use crate::decoder::{self, Decoder, Embedder};
use crate::engine::{EngineError, Runtime, RuntimeKind};
use crate::error::LoadError;
use crate::generate::{Budget, Cache, Observer, Stage};
use crate::image::DecodedImage;
use crate::prompt::{FALLBACK_QUESTION, Prompter};
use crate::scheduler::encode::{Encoder, Preparer, image_queue};
use crate::scheduler::job::{Job, Shared};
use crate::scheduler::{Parts, Ready, Scheduler, Settings};
use crate::vision::{Vision, VisionOptions};

/// Threads that decode and preprocess image files: enough to keep the encoder busy, few enough to leave it the cores.
pub(super) const IMAGE_THREADS: usize = 2;

/// How often the files of a loaded bundle are looked at.
const WATCH: Duration = Duration::from_secs(2);

/// Everything that the worker threads work with.
struct Loaded {
    prompter: Arc<Prompter>,
    embedder: Arc<Embedder>,
    decoder: Box<dyn Decoder>,
    vision: Vision,
}

pub(super) fn load(
    bundle: &Bundle,
    options: &Options,
    observer: Arc<dyn Observer>,
) -> Result<Model, LoadError> {
    let sizes = sizes(bundle, options)?;
    let runtime = open_runtime(bundle.manifest().target, options)?;
    let gate = Arc::new(Gate { inner: observer, open: AtomicBool::new(false) });
    let mut loaded = load_graphs(bundle, runtime.as_ref(), options, &sizes, gate.clone())?;
    let lengths = Lengths::of(options, &sizes, &loaded.vision);
    warm_up(&mut loaded, &lengths)?;
    bundle.check_unchanged()?;
    gate.open.store(true, Ordering::SeqCst);

    let info = info(bundle, runtime.as_ref(), options, &sizes, &loaded.vision)?;
    let admission = Admission {
        prompter: Arc::clone(&loaded.prompter),
        context_length: sizes.context_length,
        token_budgets: info.token_budgets.clone(),
        limits: options.limits,
    };
    let (images, jobs) = channel();
    let (ready, inbox) = channel();
    let mut model = Model {
        info,
        admission,
        timeout: options.timeout,
        shared: Arc::new(Shared::new(options.queue_limit, options.slots)),
        images: Some(images),
        ready: Some(ready),
        watched: None,
        threads: Vec::new(),
    };
    let spec = &bundle.manifest().decoder;
    let settings = Settings {
        context_length: sizes.context_length,
        prefill_chunk: sizes.prefill_chunk,
        solo_chunk: sizes.solo_chunk,
        eos_token_ids: spec.eos_token_ids.clone(),
        image_token_id: spec.image_token_id,
    };
    start_threads(&mut model, loaded, settings, gate, jobs, inbox)?;
    watch(&mut model, bundle)?;
    Ok(model)
}

fn load_graphs(
    bundle: &Bundle,
    runtime: &dyn Runtime,
    options: &Options,
    sizes: &Sizes,
    observer: Arc<dyn Observer>,
) -> Result<Loaded, LoadError> {
    let prompter = Arc::new(Prompter::load(bundle)?);
    let embedding = bundle.load_graph(runtime, "embedding")?;
    let vision = VisionOptions {
        image_size: options.image_size,
        limits: options.limits,
        feature_cache_bytes: options.feature_cache_bytes,
        token_cache_bytes: options.token_cache_bytes,
    };
    Ok(Loaded {
        prompter,
        embedder: Arc::new(Embedder::new(embedding, bundle.manifest().decoder.hidden_size)),
        decoder: decoder::load(bundle, runtime, options.slots, sizes.context_length)?,
        vision: Vision::load(bundle, runtime, &vision, observer)?,
    })
}

/// Starts the threads, from the last to the first that a request meets. They end when the model drops its ends of the
/// channels; when one of them cannot be started, that is when the caller drops the half-started model.
fn start_threads(
    model: &mut Model,
    loaded: Loaded,
    settings: Settings,
    observer: Arc<dyn Observer>,
    jobs: Receiver<Job>,
    inbox: Receiver<Ready>,
) -> Result<(), LoadError> {
    let Loaded { prompter, embedder, decoder, vision } = loaded;
    let shared = Arc::clone(&model.shared);
    let preprocessor = vision.preprocessor();
    let (to_encoder, prepared) = sync_channel(1);

    let parts = Parts {
        decoder,
        embedder: Arc::clone(&embedder),
        prompter,
        settings,
        shared: Arc::clone(&shared),
        observer,
        inbox,
    };
    model.threads.push(spawn("arrcoc-decoder", move || Scheduler::new(parts).run())?);
    if let Some(ready) = model.ready.clone() {
        let encoder = Encoder { images: prepared, vision, embedder, ready, shared: Arc::clone(&shared) };
        model.threads.push(spawn("arrcoc-vision", move || encoder.run())?);
    }
    let queue = image_queue(jobs);
    for _ in 0..IMAGE_THREADS {
        let preparer = Preparer {
            queue: Arc::clone(&queue),
            preprocessor: Arc::clone(&preprocessor),
            encoder: to_encoder.clone(),
            shared: Arc::clone(&shared),
        };
        model.threads.push(spawn("arrcoc-images", move || preparer.run())?);
    }
    Ok(())
}

/// Looks at the bundle's files for as long as the model lives. What was loaded may be mapped from them: where they have changed, its answers have too.
fn watch(model: &mut Model, bundle: &Bundle) -> Result<(), LoadError> {
    let (files, shared) = (bundle.hashed_files(), Arc::clone(&model.shared));
    let (watched, end) = channel::<()>();
    model.watched = Some(watched);
    files.hold_off_writers();
    let watch = move || {
        loop {
            if let Err(error) = files.check_contents() {
                let reason = format!("a file of the loaded bundle has changed: {error}");
                tracing::error!("{reason}; no request is answered any more: restart the server");
                shared.fail(reason);
                // A writer is held off for as long as the files are open, and what runs still reads them.
                let _ = end.recv();
                return;
            }
            if end.recv_timeout(WATCH) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    };
    model.threads.push(spawn("arrcoc-files", watch)?);
    Ok(())
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, LoadError> {
    Ok(Builder::new().name(name.into()).spawn(run)?)
}

/// Options resolved against the bundle.
pub(crate) struct Sizes {
    pub(crate) context_length: usize,
    pub(crate) prefill_chunk: usize,
    /// The same while nobody waits for a step.
    pub(crate) solo_chunk: usize,
}

/// Most KV slots: each has an entry in tables whatever the context is.
const MOST_SLOTS: usize = 1 << 16;
/// Most threads of the inference library; every graph starts as many.
const MOST_THREADS: usize = 1 << 10;

/// While nobody waits for a step, so many chunks of a prompt go through the decoder at once: every run reads all weights. More would only
/// make those wait longer who come meanwhile.
pub(super) const SOLO_CHUNKS: usize = 2;

pub(crate) fn sizes(bundle: &Bundle, options: &Options) -> Result<Sizes, LoadError> {
    let at_least_1 = [
        ("slots", options.slots),
        ("prefill_chunk", options.prefill_chunk),
        ("queue_limit", options.queue_limit),
    ];
    for (what, value) in at_least_1 {
        if value == 0 {
            return Err(LoadError::Options { what, expected: "at least 1".into(), found: "0".into() });
        }
    }
    for (what, value, most) in
        [("slots", options.slots, MOST_SLOTS), ("threads", options.threads, MOST_THREADS)]
    {
        if value > most {
            return Err(LoadError::Options {
                what,
                expected: format!("at most {most}"),
                found: value.to_string(),
            });
        }
    }
    let most = |axis| bundle.axis("decoder", axis).map_or(usize::MAX, |range| range.max as usize);
    if bundle.manifest().target == Target::Cpu && options.slots > most("batch") {
        let expected = format!("at most {}, the largest batch of the bundle's decoder", most("batch"));
        return Err(LoadError::Options { what: "slots", expected, found: options.slots.to_string() });
    }
    let longest = bundle.manifest().decoder.context_length;
    let context_length = context_length(longest, options);
    if !(2..=longest).contains(&context_length) {
        let expected = format!("2 to {longest} tokens, which the bundle's decoder covers");
        return Err(LoadError::Options {
            what: "context_length",
            expected,
            found: context_length.to_string(),
        });
    }
    let prefill_chunk = options.prefill_chunk.min(most("seq"));
    let solo_chunk = match bundle.manifest().target {
        Target::Cpu => prefill_chunk.saturating_mul(SOLO_CHUNKS).min(most("seq")),
        // A GPU's kernels and engines were readied for lengths up to the chunk's.
        Target::Portable => prefill_chunk,
    };
    Ok(Sizes { context_length, prefill_chunk, solo_chunk })
}

/// The context that the options ask for, or as much of the default one as the model covers.
pub(super) fn context_length(longest: usize, options: &Options) -> usize {
    options.context_length.unwrap_or(DEFAULT_CONTEXT_LENGTH.min(longest))
}

/// Opens the inference library that was asked for, or the best one to be had.
pub(crate) fn open_runtime(target: Target, options: &Options) -> Result<Box<dyn Runtime>, LoadError> {
    options.check_target(target)?;
    let library = options.runtime_options();
    match (options.runtime, target) {
        (Some(kind), _) => Ok(kind.open_with(&library)?),
        (None, Target::Cpu) => Ok(RuntimeKind::Ort.open_with(&library)?),
        (None, Target::Portable) => match RuntimeKind::Ort.open_with(&library) {
            Err(error @ EngineError::Unavailable { .. }) => {
                tracing::warn!("{error}; running on tract, which gives the same answers more slowly");
                Ok(RuntimeKind::Tract.open_with(&library)?)
            }
            opened => Ok(opened?),
        },
    }
}

fn info(
    bundle: &Bundle,
    runtime: &dyn Runtime,
    options: &Options,
    sizes: &Sizes,
    vision: &Vision,
) -> Result<ModelInfo, LoadError> {
    let manifest = bundle.manifest();
    let need = MemoryNeed::of(manifest, options)?;
    Ok(ModelInfo {
        name: manifest.model.clone(),
        precision: manifest.precision,
        target: manifest.target,
        runtime: runtime.describe(),
        checkpoint_sha256: manifest.checkpoint_sha256.clone(),
        context_length: sizes.context_length,
        token_budgets: vision.budgets(),
        max_images: options.limits.max_images,
        images_first: manifest.vision.images_first,
        generation: manifest.generation.clone(),
        kv_slots: options.slots,
        weight_bytes: need.weights,
        kv_bytes: need.kv_cache,
        // On a GPU pictures and caches lie elsewhere.
        working_bytes: if on_gpu(options) { need.activations } else { need.working() },
    })
}

/// Keys and values of every layer. A manifest and a configuration may ask for more than numbers hold.
pub(crate) fn kv_bytes(spec: &DecoderSpec, slots: usize, capacity: usize) -> u64 {
    let element = spec.cache_element.element_type().size();
    let factors = [spec.layers, spec.kv_heads, spec.head_dim, element, slots, capacity];
    factors.into_iter().fold(2, |bytes: u64, factor| bytes.saturating_mul(factor as u64))
}

/// How far a warm-up goes.
struct Lengths {
    /// Budgets to run the vision side with.
    budgets: Vec<Budget>,
    /// Tokens of the prompt.
    prompt: usize,
}

impl Lengths {
    /// One length of everything on the CPU. A GPU allocates and picks kernels at the first run of a shape, so there it is the
    /// smallest and the largest: what fails for want of memory fails now, and no request waits for it.
    fn of(options: &Options, sizes: &Sizes, vision: &Vision) -> Self {
        if !on_gpu(options) && options.warm_up == WarmUp::Short {
            // One token only: the shortest context that the options allow has room for no more.
            return Self { budgets: vec![Budget::Auto], prompt: 1 };
        }
        let budgets = vision.budgets();
        let ends = budgets.first().into_iter().chain(budgets.last()).map(|&tokens| Budget::Tokens(tokens));
        Self {
            budgets: [Budget::Auto].into_iter().chain(ends).collect(),
            // The solo chunk is the longest, and no longer than the other on a GPU.
            prompt: sizes.solo_chunk.min(sizes.context_length - 1),
        }
    }
}

/// Runs every graph on a grey image and a short question, so that the first request meets warm memory and a broken bundle
/// never goes into service.
fn warm_up(loaded: &mut Loaded, lengths: &Lengths) -> Result<(), LoadError> {
    let Loaded { prompter, embedder, decoder, vision } = loaded;
    let failed = |error: &dyn std::fmt::Display| LoadError::WarmUp(error.to_string());
    let grey = ::image::RgbImage::from_pixel(64, 64, ::image::Rgb([128; 3]));
    let image = DecodedImage { pixels: Arc::new(grey), sha256: [0; 32] };
    let pixels = vision.preprocessor().preprocess(&image);
    let question = prompter.tokenize(FALLBACK_QUESTION).map_err(|error| failed(&error))?;
    let embeds = embedder.embed(&question).map_err(|error| failed(&error))?;
    for budget in &lengths.budgets {
        vision.embed(&pixels, &embeds, &question, *budget, false).map_err(|error| failed(&error))?;
    }

    let slot = decoder.slots_mut().allocate().ok_or_else(|| failed(&"the decoder has no KV slot"))?;
    let prompt: Vec<u32> = question.iter().copied().cycle().take(lengths.prompt).collect();
    let prompt = embedder.embed(&prompt).map_err(|error| failed(&error))?;
    let logits = decoder.prefill(slot, &prompt).map_err(|error| failed(&error))?;
    decoder.free(slot);
    match logits.values().iter().position(|logit| !logit.is_finite()) {
        Some(id) => {
            Err(failed(&format!("the logit of token {id} is not finite; run `arrcoc-export verify`")))
        }
        None => Ok(()),
    }
}

/// Keeps the warm-up run out of the metrics.
struct Gate {
    inner: Arc<dyn Observer>,
    open: AtomicBool,
}

impl Gate {
    fn observer(&self) -> Option<&dyn Observer> {
        self.open.load(Ordering::SeqCst).then_some(self.inner.as_ref())
    }
}

impl Observer for Gate {
    fn stage(&self, stage: Stage, took: Duration) {
        self.observer().inspect(|observer| observer.stage(stage, took));
    }

    fn visual_tokens(&self, tier: usize, tokens: usize) {
        self.observer().inspect(|observer| observer.visual_tokens(tier, tokens));
    }

    fn cache(&self, cache: Cache, hit: bool) {
        self.observer().inspect(|observer| observer.cache(cache, hit));
    }

    fn adapter_output(&self, tier: usize, statistics: Statistics) {
        self.observer().inspect(|observer| observer.adapter_output(tier, statistics));
    }

    fn iteration(&self, tokens: usize, running: usize, waiting: usize, kv_usage: f64) {
        self.observer().inspect(|observer| observer.iteration(tokens, running, waiting, kv_usage));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A runtime for portable bundles is refused for any other before a library is looked for.
    #[test]
    fn gpu_runtimes_take_portable_bundles_only() {
        for kind in [RuntimeKind::Cuda, RuntimeKind::TensorRt, RuntimeKind::Tract] {
            let options = Options { runtime: Some(kind), ..Options::default() };
            let text = options.check_target(Target::Cpu).unwrap_err().to_string();
            assert!(text.contains("`portable`") && text.contains(kind.name()), "{text}");
            options.check_target(Target::Portable).unwrap();
        }
        Options::default().check_target(Target::Cpu).unwrap();
    }
}
