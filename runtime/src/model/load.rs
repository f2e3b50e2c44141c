//! Loading a bundle: the inference library, the graphs, a first run, the threads.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use super::admission::Admission;
use super::memory::MemoryNeed;
use super::sizes::IMAGE_THREADS;
use super::{Model, ModelInfo, Options, WarmUp};
use crate::decoder::{self, Decoder, DecoderError, Embedder, Positions, Rows};
use crate::error::LoadError;
use crate::form::Forms;
use crate::generate::{Budget, NoObserver, Observer, Selection};
use crate::image::DecodedImage;
use crate::library::{Library, LibraryError, LibraryKind};
use crate::prompt::{FALLBACK_QUESTION, Prompter};
use crate::scheduler::encode::{Encoder, Preparer, image_queue};
use crate::scheduler::job::{Job, Status};
use crate::scheduler::{Parts, Ready, Scheduler, Settings};
use crate::vision::{Pictures, Vision};
use arrcoc_bundle::{Bundle, Manifest, Role};

pub use super::sizes::{Sizes, sizes};

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
    library: &dyn Library,
    options: &Options,
    observer: Arc<dyn Observer>,
) -> Result<Model, LoadError> {
    let sizes = sizes(bundle, options)?;
    let mut loaded = load_graphs(bundle, library, options, &sizes)?;
    let pictures = loaded.vision.pictures();
    let lengths = Lengths::of(options, &sizes, &pictures);
    warm_up(&mut loaded, &lengths)?;
    bundle.check_unchanged()?;

    let mut info = info(bundle, library, options, &sizes, &pictures)?;
    info.named_tokens = loaded.prompter.named_tokens().to_vec();
    let admission = Admission {
        prompter: Arc::clone(&loaded.prompter),
        context_length: sizes.context_length,
        pictures,
        forms: Forms::new(bundle.manifest().decoder.eos_token_ids.clone()),
    };
    let (images, jobs) = channel();
    let (ready, inbox) = channel();
    let mut model = Model {
        info,
        admission,
        image_token_id: bundle.manifest().vision.image_token_id,
        timeout: options.timeout,
        shared: Arc::new(Status::new(options.queue_limit, options.slots)),
        images: Some(images),
        ready: Some(ready),
        watched: None,
        threads: Vec::new(),
    };
    let manifest = bundle.manifest();
    let settings = Settings {
        context_length: sizes.context_length,
        prefill_chunk: sizes.prefill_chunk,
        solo_chunk: sizes.solo_chunk,
        eos_token_ids: manifest.decoder.eos_token_ids.clone(),
        image_token_id: manifest.vision.image_token_id,
    };
    start_threads(&mut model, loaded, settings, observer, jobs, inbox)?;
    watch(&mut model, bundle)?;
    Ok(model)
}

fn load_graphs(
    bundle: &Bundle,
    library: &dyn Library,
    options: &Options,
    sizes: &Sizes,
) -> Result<Loaded, LoadError> {
    let prompter = Arc::new(Prompter::load(bundle)?);
    let embedding = library.load_from(bundle, bundle.manifest().only(Role::Embedding))?;
    Ok(Loaded {
        prompter,
        embedder: Arc::new(Embedder::new(embedding, bundle.manifest().decoder.hidden_size)),
        decoder: decoder::load(bundle, library, options.slots, sizes.context_length)?,
        vision: Vision::load(bundle, library, &options.vision)?,
    })
}

/// Starts the threads, from the last to the first that a request meets. They end when the model drops its
/// ends of the channels; when one of them cannot be started, that is when the caller drops the half-started
/// model.
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
    let pictures = vision.pictures();
    let (to_encoder, prepared) = sync_channel(1);

    let parts = Parts {
        decoder,
        embedder: Arc::clone(&embedder),
        prompter,
        settings,
        shared: Arc::clone(&shared),
        observer: Arc::clone(&observer),
        inbox,
    };
    model.threads.push(spawn("arrcoc-decoder", move || Scheduler::new(parts).run())?);
    if let Some(ready) = model.ready.clone() {
        let (shared, observer) = (Arc::clone(&shared), Arc::clone(&observer));
        let encoder = Encoder { images: prepared, vision, embedder, observer, ready, shared };
        model.threads.push(spawn("arrcoc-vision", move || encoder.run())?);
    }
    let queue = image_queue(jobs);
    for _ in 0..IMAGE_THREADS {
        let preparer = Preparer {
            queue: Arc::clone(&queue),
            pictures: Arc::clone(&pictures),
            observer: Arc::clone(&observer),
            encoder: to_encoder.clone(),
            shared: Arc::clone(&shared),
        };
        model.threads.push(spawn("arrcoc-images", move || preparer.run())?);
    }
    Ok(())
}

/// Looks at the bundle's files for as long as the model lives. What was loaded may be mapped from them: where
/// they have changed, its answers have too.
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

/// Opens the inference library that was asked for, or the best one to be had.
///
/// # Errors
/// [`LoadError`] when it is not to be had, or does not run bundles of the target.
pub fn open_library(manifest: &Manifest, options: &Options) -> Result<Box<dyn Library>, LoadError> {
    options.check_target(manifest.target, manifest.precision)?;
    let library = options.resolved_library();
    match (options.runtime, manifest.target.is_standard()) {
        (Some(kind), _) => Ok(kind.open_with(&library)?),
        (None, false) => {
            if !manifest.target.has_own_operators() {
                tracing::warn!(
                    "a bundle of target `{}` runs on the CPU, where one of target `cpu` is faster; set engine.runtime to `cuda`",
                    manifest.target
                );
            }
            Ok(LibraryKind::Ort.open_with(&library)?)
        }
        (None, true) => match LibraryKind::Ort.open_with(&library) {
            Err(error @ LibraryError::Unavailable { .. }) => {
                tracing::warn!("{error}; running on tract, which gives the same answers more slowly");
                Ok(LibraryKind::Tract.open_with(&library)?)
            }
            opened => Ok(opened?),
        },
    }
}

fn info(
    bundle: &Bundle,
    library: &dyn Library,
    options: &Options,
    sizes: &Sizes,
    pictures: &Pictures,
) -> Result<ModelInfo, LoadError> {
    let manifest = bundle.manifest();
    let need = MemoryNeed::of(manifest, options)?;
    let default_budget = options.vision.budget.unwrap_or_else(|| pictures.default_budget());
    pictures.grant(default_budget, &Selection::default(), None).map_err(|refusal| LoadError::Options {
        what: "engine.budget",
        expected: refusal.expected,
        found: refusal.found,
    })?;
    Ok(ModelInfo {
        name: manifest.model.clone(),
        precision: manifest.precision,
        target: manifest.target,
        runtime: library.describe(),
        checkpoint_sha256: manifest.checkpoint_sha256.clone(),
        context_length: sizes.context_length,
        family: manifest.family.clone(),
        token_budgets: pictures.budgets().to_vec(),
        default_budget,
        selectors: pictures.selectors(),
        depths: pictures.depths(),
        images_first: manifest.vision.images_first,
        named_tokens: Vec::new(),
        generation: manifest.generation.clone(),
        kv_slots: options.slots,
        weight_bytes: need.weights,
        kv_bytes: need.kv_cache,
        // On a GPU pictures and caches lie elsewhere.
        working_bytes: if options.on_gpu() { need.activations } else { need.working() },
    })
}

/// How far a warm-up goes.
struct Lengths {
    /// Budgets to run the vision side with.
    budgets: Vec<Budget>,
    /// Tokens of the prompt.
    prompt: usize,
    /// Whether all slots step together, one of them forked from another.
    steps: bool,
    /// Width and height of the pictures.
    pictures: Vec<[u32; 2]>,
    /// Positions that a slot has.
    context: usize,
}

impl Lengths {
    /// One length of everything on the CPU. A GPU allocates and picks kernels at the first run of a shape, so
    /// there it is the smallest and the largest: what fails for want of memory fails now, and no request
    /// waits for it.
    fn of(options: &Options, sizes: &Sizes, pictures: &Pictures) -> Self {
        let [least, largest] = pictures.extremes(sizes.context_length);
        if !options.on_gpu() && options.warm_up == WarmUp::Short {
            // One token only: the shortest context that the options allow has room for no more.
            let (budgets, pictures) = (vec![Budget::Auto], vec![least]);
            return Self { budgets, prompt: 1, steps: false, pictures, context: sizes.context_length };
        }
        let budgets = pictures.budgets();
        let ends = budgets.first().into_iter().chain(budgets.last()).map(|&tokens| Budget::Tokens(tokens));
        Self {
            budgets: [Budget::Auto].into_iter().chain(ends).collect(),
            // The solo chunk is the longest, and no longer than the other on a GPU.
            prompt: sizes.solo_chunk.min(sizes.context_length - 1),
            steps: true,
            pictures: if least == largest { vec![largest] } else { vec![least, largest] },
            context: sizes.context_length,
        }
    }
}

/// Runs every graph on a grey image and a short question, so that the first request meets warm memory and a
/// broken bundle never goes into service.
fn warm_up(loaded: &mut Loaded, lengths: &Lengths) -> Result<(), LoadError> {
    let Loaded { prompter, embedder, decoder, vision } = loaded;
    let failed = |error: &dyn std::fmt::Display| LoadError::WarmUp(error.to_string());
    let question = prompter.tokenize(FALLBACK_QUESTION).map_err(|error| failed(&error))?;
    let embeds = embedder.embed(&question).map_err(|error| failed(&error))?;
    let pictures = vision.pictures();
    for (&[width, height], budget) in
        lengths.pictures.iter().flat_map(|size| lengths.budgets.iter().map(move |budget| (size, budget)))
    {
        let grey = ::image::RgbImage::from_pixel(width, height, ::image::Rgb([128; 3]));
        let image = DecodedImage { pixels: Arc::new(grey), sha256: [0; 32] };
        let grant = pictures.grant(*budget, &Selection::default(), None).map_err(|error| failed(&error))?;
        let prepared =
            pictures.prepare_decoded(&image, grant, &NoObserver).map_err(|error| failed(&error))?;
        let (visual, _) = vision.embed(prepared, &embeds, &NoObserver).map_err(|error| failed(&error))?;
        let rows = visual.rows.as_slice::<f32>().map_err(|error| failed(&error))?;
        if rows.iter().any(|number| !number.is_finite()) {
            return Err(failed(&"a number of a picture's rows is not finite; run `arrcoc-export verify`"));
        }
    }

    warm_up_last(decoder.as_mut(), embedder, &question[..1], lengths.context).map_err(|error| {
        let last = lengths.context - 1;
        failed(&format!("a token at position {last}, the last of the context: {error}"))
    })?;
    let slot = decoder.slots_mut().allocate().ok_or_else(|| failed(&"the decoder has no KV slot"))?;
    let prompt: Vec<u32> = question.iter().copied().cycle().take(lengths.prompt).collect();
    let prompt = embedder.embed(&prompt).map_err(|error| failed(&error))?;
    let logits = decoder.prefill(slot, &Rows::plain(prompt)).map_err(|error| failed(&error))?;
    let stepped = if lengths.steps { warm_up_steps(decoder.as_mut(), slot, embedder) } else { Ok(()) };
    decoder.free(slot);
    stepped.map_err(|error| failed(&error))?;
    match logits.values().iter().position(|logit| !logit.is_finite()) {
        Some(id) => {
            Err(failed(&format!("the logit of token {id} is not finite; run `arrcoc-export verify`")))
        }
        None => Ok(()),
    }
}

/// Runs a token at the last position, which the graph's tables must have: a manifest may say more than they
/// do.
fn warm_up_last(
    decoder: &mut dyn Decoder,
    embedder: &Embedder,
    token: &[u32],
    context: usize,
) -> Result<(), DecoderError> {
    let Some(slot) = decoder.slots_mut().allocate() else { return Ok(()) };
    let last = context.saturating_sub(1);
    let positions = Some(Positions { each: vec![[last; 3]], next: context });
    let ran = embedder
        .embed(token)
        .and_then(|embeds| decoder.prefill(slot, &Rows { positions, ..Rows::plain(embeds) }));
    decoder.free(slot);
    ran.map(|_| ())
}

/// Forks the prompt of a slot into all others, and makes a step of all of them: both have shapes that no
/// prompt has. After an error the forks stay taken: the decoder goes no further.
fn warm_up_steps(decoder: &mut dyn Decoder, slot: usize, embedder: &Embedder) -> Result<(), DecoderError> {
    let prompt = decoder.slots().mark(slot);
    if decoder.slots().check_room(slot, 1).is_err() {
        return Ok(());
    }
    let mut slots = vec![slot];
    while let Some(fork) = decoder.fork(slot, prompt)? {
        slots.push(fork);
    }
    let tokens = embedder.embed(&vec![0; slots.len()])?;
    decoder.step(&slots, &tokens)?;
    slots.iter().skip(1).for_each(|fork| decoder.free(*fork));
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use arrcoc_bundle::{Precision, Target};

    use super::*;

    /// A runtime is refused for bundles of other targets before a library is looked for.
    #[test]
    fn gpu_runtimes_take_the_bundles_that_they_run() {
        let precision = Precision::Fp16;
        for kind in [LibraryKind::Cuda, LibraryKind::TensorRt, LibraryKind::Tract] {
            let options = Options { runtime: Some(kind), ..Options::default() };
            let text = options.check_target(Target::Cpu, precision).unwrap_err().to_string();
            assert!(text.contains("`portable`") && text.contains(kind.name()), "{text}");
            options.check_target(Target::Portable, precision).unwrap();
            let refused = options.check_target(Target::Cuda, precision).is_err();
            assert_eq!(refused, kind != LibraryKind::Cuda);
            // CUDA's attention has no 32-bit floats.
            let text = options.check_target(Target::Cuda, Precision::Fp32).unwrap_err().to_string();
            assert!(text.contains("`ort` for an fp32 bundle of target `cuda`"), "{text}");
            assert_eq!(text.contains("build fp16"), kind == LibraryKind::Cuda, "{text}");
        }
        for target in Target::ALL {
            Options::default().check_target(target, Precision::Fp32).unwrap();
        }
    }
}
