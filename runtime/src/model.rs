//! A loaded model: what the server holds. Requests go in through [`Model::submit`], events come out of
//! [`Generation`].
//!
//! `load` makes a [`Model`] and [`Model::load`] calls it: the two files are one thought.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::decoder::kv_bytes;
use crate::generate::{Budget, Depth, Event, GenerateError, Observer, Request, Selector};
use crate::library::Library;
use crate::prompt::Segment;
use crate::scheduler::Ready;
use crate::scheduler::job::{Job, Status, Ticket};
use admission::Admission;
use arrcoc_bundle::{Bundle, Manifest};
use arrcoc_bundle::{GenerationSpec, Precision, Target};

mod activations;
mod admission;
pub mod load;
mod memory;
mod options;
mod sizes;

pub use crate::error::LoadError;
pub use crate::error::{MemoryError, Mib};
pub use crate::image::ImageLimits;
pub use crate::library::DEFAULT_CONTEXT_LENGTH;
pub use memory::{MemoryNeed, copies_of};
pub use options::{Options, WarmUp};

/// A running request. Dropping it cancels the request at the next iteration.
#[derive(Debug)]
pub struct Generation {
    /// What happens, in the order that [`Event`] documents; closed after `Done` or `Failed`.
    pub events: UnboundedReceiver<Event>,
}

/// What a model is and takes; fixed while it is loaded.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// Model name, from the manifest.
    pub name: String,
    /// Numeric precision.
    pub precision: Precision,
    /// What the graphs are written for.
    pub target: Target,
    /// The inference library's name and version.
    pub runtime: String,
    /// Digest of the checkpoint, hex.
    pub checkpoint_sha256: String,
    /// Positions per slot: prompt and answer together, tokens.
    pub context_length: usize,
    /// The family of checkpoints.
    pub family: String,
    /// Visual tokens that a request may ask for, ascending; none where it may ask for any number.
    pub token_budgets: Vec<usize>,
    /// What images get whose request does not say.
    pub default_budget: Budget,
    /// How a request may have tokens chosen; none where the model has an allocator of its own.
    pub selectors: &'static [Selector],
    /// Which levels of rows for deeper layers a request may grant; none where there are none to choose.
    pub depths: &'static [Depth],
    /// Whether images go before the text of their message: the model was trained so.
    pub images_first: bool,
    /// The tokens that the tokenizer's configuration names, as `eos_token`, with their texts.
    pub named_tokens: Vec<(String, String)>,
    /// How tokens are picked where a request does not say.
    pub generation: GenerationSpec,
    /// Answers that decode at the same time.
    pub kv_slots: usize,
    /// Size of the weight files, bytes.
    pub weight_bytes: u64,
    /// Size of the KV cache when every slot is full, bytes.
    pub kv_bytes: u64,
    /// What a worst request takes besides, and the caches, bytes.
    pub working_bytes: u64,
}

/// What a model holds once it is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// Size of the weight files, bytes.
    pub weight_bytes: u64,
    /// Size of the KV cache when every slot is full, bytes.
    pub kv_bytes: u64,
    /// Positions per slot, tokens.
    pub context_length: usize,
}

impl Footprint {
    /// What a bundle would take with these options; nothing is loaded.
    ///
    /// # Errors
    /// A file of the bundle cannot be read.
    pub fn of(manifest: &Manifest, options: &Options) -> Result<Self, MemoryError> {
        let context_length = sizes::context_length(manifest.decoder.context_length, options);
        Ok(Self {
            weight_bytes: memory::weight_bytes(manifest)?,
            kv_bytes: kv_bytes(&manifest.decoder, options.slots, context_length),
            context_length,
        })
    }
}

/// How busy a model is right now.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Occupancy {
    /// Requests with a KV slot.
    pub running: usize,
    /// Requests submitted and not yet running (their images may be in work).
    pub waiting: usize,
    /// Share of the KV cache that holds tokens, 0..=1. Slots are reserved whole, so requests may wait long
    /// before this is 1: `waiting` says whether they do.
    pub kv_usage: f64,
}

/// A model in memory with its worker threads. Dropping it drains and joins them.
pub struct Model {
    info: ModelInfo,
    admission: Admission,
    image_token_id: u32,
    timeout: Duration,
    shared: Arc<Status>,
    /// To the workers that prepare images; `None` while the model is being dropped.
    images: Option<Sender<Job>>,
    /// Straight to the scheduler, for requests without images; `None` while the model is being dropped.
    ready: Option<Sender<Ready>>,
    /// Ends the watch over the bundle's files by being dropped.
    watched: Option<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Model {
    /// Loads every graph of the bundle, runs each once, and starts the worker threads.
    ///
    /// # Errors
    /// [`LoadError`]; nothing stays loaded then.
    pub fn load(bundle: Bundle, options: &Options, observer: Arc<dyn Observer>) -> Result<Self, LoadError> {
        let library = load::open_library(bundle.manifest(), options)?;
        Self::load_on(bundle, library.as_ref(), options, observer)
    }

    /// The same on an inference library that is open already; `options.runtime` and `options.library` are not
    /// used.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn load_on(
        bundle: Bundle,
        library: &dyn Library,
        options: &Options,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, LoadError> {
        load::load(&bundle, library, options, observer)
    }

    /// Takes a request in, or refuses it at once: no image is decoded before the queue and the limits are
    /// checked, every image being charged with the most tokens that its budget allows. The prompt is
    /// rendered and tokenised here, and the form of the answers compiled; everything else happens on the
    /// model's own threads.
    ///
    /// # Errors
    /// [`GenerateError::QueueFull`], [`GenerateError::Draining`], [`GenerateError::Invalid`], and
    /// [`GenerateError::Internal`] once the model is no longer [`Model::healthy`].
    pub fn submit(&self, request: Request) -> Result<Generation, GenerateError> {
        let ticket = Ticket::enter(&self.shared)?;
        let (layout, grant) = self.admission.check(&request)?;
        let guide = self.admission.guide(&request, &layout)?;
        let (sender, events) = unbounded_channel();
        let has_images = layout.images > 0;
        let job = Job::new(request, (layout, grant, guide), self.timeout, ticket, sender);
        let sent = if has_images {
            self.images.as_ref().is_some_and(|images| images.send(job).is_ok())
        } else {
            let ready = Ready { job, visuals: Vec::new() };
            self.ready.as_ref().is_some_and(|scheduler| scheduler.send(ready).is_ok())
        };
        if sent {
            return Ok(Generation { events });
        }
        let reason = self.shared.failure().unwrap_or_else(|| "the model's worker threads have ended".into());
        Err(GenerateError::Internal(reason))
    }

    /// The bytes of a token, of a control token those of its name; none where no token has this id.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.admission.prompter.vocabulary().bytes(id)
    }

    /// A request's prompt in token ids, as transformers would have it: an image's placeholder once for every
    /// row that the image may get.
    ///
    /// # Errors
    /// As for [`Model::submit`], as far as nothing is run.
    pub fn prompt_ids(&self, request: &Request) -> Result<Vec<u32>, GenerateError> {
        let (layout, _) = self.admission.check(request)?;
        let mut ids = Vec::new();
        for segment in &layout.segments {
            match segment {
                Segment::Tokens(tokens) => ids.extend_from_slice(tokens),
                Segment::Rows { most, .. } => ids.resize(ids.len() + most, self.image_token_id),
            }
        }
        Ok(ids)
    }

    /// What the model is and takes.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// How busy the model is.
    pub fn occupancy(&self) -> Occupancy {
        Occupancy {
            running: self.shared.running(),
            waiting: self.shared.waiting(),
            kv_usage: self.shared.kv_usage(),
        }
    }

    /// When those who wait now will have been answered, as far as the last answers tell; from 1 to 120 s.
    pub fn retry_after(&self) -> Duration {
        self.shared.retry_after()
    }

    /// Takes no new requests from now on; those that run or wait are finished.
    pub fn drain(&self) {
        self.shared.drain();
    }

    /// Whether all worker threads live and the bundle's files are as they were. A model that is not healthy
    /// refuses every request and must be loaded again.
    pub fn healthy(&self) -> bool {
        self.shared.failure().is_none()
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.drain();
        // The threads end one after the other as the channels between them close behind the last request.
        self.images = None;
        self.ready = None;
        self.watched = None;
        for thread in self.threads.drain(..) {
            // A panic was reported when it happened.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
