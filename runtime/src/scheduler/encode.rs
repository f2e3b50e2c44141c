//! Images to visual tokens, beside the decoder: workers decode and preprocess image files, one thread runs
//! the vision graphs. Requests take turns, image by image, so that a request with many images does not hold
//! up the others. The channel in between is short, so that few preprocessed images are in memory however long
//! the queue is.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use super::job::{Job, PanicGuard, Ready, Status};
use super::turns::Turns;
use super::watch::Watch;
use crate::decoder::Embedder;
use crate::generate::{GenerateError, Image, Observer, Part, Prompt};
use crate::library::Cancel;
use crate::tensor::Tensor;
use crate::vision::family::Grant;
use crate::vision::{self, Pictures, Vision, Visual};

/// A request whose images are in work.
struct Images {
    /// In the order of the messages.
    files: Vec<Image>,
    question: Vec<u32>,
    grant: Grant,
    progress: Mutex<Progress>,
}

struct Progress {
    /// `None` when the request has gone on to the scheduler, or is over.
    job: Option<Job>,
    /// The embedded question, once there is an image for it.
    question: Option<Tensor>,
    /// What the images have become so far, in order.
    visuals: Vec<Visual>,
}

impl Images {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether another image is worth preparing; tells the caller when the request's time is up.
    fn go_on(&self) -> bool {
        match self.progress.try_lock() {
            Ok(mut progress) => progress.job.as_mut().is_some_and(Job::goes_on),
            // In the hands of the vision thread.
            Err(TryLockError::WouldBlock) => true,
            Err(TryLockError::Poisoned(_)) => false,
        }
    }
}

/// A request's place among those whose images are prepared: the image that comes next.
pub(crate) struct Turn {
    images: Arc<Images>,
    next: usize,
}

impl From<Job> for Turn {
    fn from(mut job: Job) -> Self {
        let files = take_images(&mut job.request.prompt);
        let (question, grant) = (job.layout.question.clone(), job.grant);
        let progress = Progress { job: Some(job), question: None, visuals: Vec::new() };
        Self { images: Arc::new(Images { files, question, grant, progress: Mutex::new(progress) }), next: 0 }
    }
}

/// One image of a request, on its way to the vision thread.
pub(crate) struct Prepared {
    images: Arc<Images>,
    image: Result<vision::Prepared, GenerateError>,
}

/// Requests with images, as the preparing workers share them.
pub(crate) type ImageQueue = Turns<Job, Turn>;

/// The queue that jobs enter through `jobs`.
pub(crate) fn image_queue(jobs: Receiver<Job>) -> Arc<ImageQueue> {
    Arc::new(Turns::new(jobs))
}

/// What a preparing worker needs.
pub(crate) struct Preparer {
    pub(crate) queue: Arc<ImageQueue>,
    pub(crate) pictures: Arc<Pictures>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) encoder: SyncSender<Prepared>,
    pub(crate) shared: Arc<Status>,
}

impl Preparer {
    /// Prepares one image after the other, of the waiting requests in turn, until the model is dropped.
    pub(crate) fn run(self) {
        let _guard = PanicGuard::new(&self.shared, "image");
        let mut back = None;
        while let Some(Turn { images, next }) = self.queue.next(back.take()) {
            if !images.go_on() {
                continue;
            }
            let image = match images.files.get(next) {
                Some(file) => self.prepare(next, file, &images),
                None => Err(GenerateError::Internal("an image got lost on its way".into())),
            };
            let failed = image.is_err();
            if self.encoder.send(Prepared { images: Arc::clone(&images), image }).is_err() {
                return;
            }
            if !failed && next + 1 < images.files.len() {
                back = Some(Turn { images, next: next + 1 });
            }
        }
    }

    fn prepare(
        &self,
        index: usize,
        image: &Image,
        images: &Images,
    ) -> Result<vision::Prepared, GenerateError> {
        // Image decoders are the widest door for hostile input. They share no state, so a panic in one is the
        // end of this request only.
        let prepared = catch_unwind(AssertUnwindSafe(|| {
            self.pictures.prepare(image, &images.question, images.grant, self.observer.as_ref())
        }));
        match prepared {
            Ok(Ok(prepared)) => Ok(prepared),
            Ok(Err(error)) => Err(GenerateError::image(index, &error)),
            Err(_) => {
                let number = index + 1;
                Err(GenerateError::Internal(format!("the image decoder panicked on image {number}")))
            }
        }
    }
}

/// Takes the image files out of a prompt, in order: the answer needs them no longer, and it may take a while.
fn take_images(prompt: &mut Prompt) -> Vec<Image> {
    let Prompt::Chat(conversation) = prompt else { return Vec::new() };
    let parts = conversation.messages.iter_mut().flat_map(|message| &mut message.content);
    let files = parts.filter_map(|part| match part {
        Part::Image(image) => Some(std::mem::take(image)),
        Part::Text(_) => None,
    });
    files.collect()
}

/// The thread that runs the vision graphs.
pub(crate) struct Encoder {
    pub(crate) images: Receiver<Prepared>,
    pub(crate) vision: Vision,
    pub(crate) embedder: Arc<Embedder>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) ready: Sender<Ready>,
    pub(crate) shared: Arc<Status>,
}

impl Encoder {
    /// Encodes one image after the other, as they come, until the workers are gone.
    pub(crate) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let watch = Watch::start();
        if let Err(error) = &watch {
            tracing::warn!(%error, "pictures that nobody waits for any more are encoded to their end");
        }
        let watch = watch.ok();
        while let Ok(Prepared { images, image }) = self.images.recv() {
            let mut progress = images.progress();
            let Some(mut job) = progress.job.take().filter(|job| !job.ended()) else { continue };
            // Declared after the job, hence dropped before it.
            let _guard = PanicGuard::new(&shared, "vision");
            match self.encode(&mut job, &mut progress, image, watch.as_ref()) {
                Ok(()) if !job.goes_on() => {}
                Ok(()) if progress.visuals.len() < job.layout.images => progress.job = Some(job),
                Ok(()) => {
                    let visuals = std::mem::take(&mut progress.visuals);
                    // A closed channel: the scheduler is gone, and the job tells its caller when it is
                    // dropped.
                    let _ = self.ready.send(Ready { job, visuals });
                }
                // Ended early.
                Err(_) if !job.goes_on() => {}
                Err(error) => job.fail(error),
            }
        }
    }

    /// Adds the visual rows of the next image.
    fn encode(
        &mut self,
        job: &mut Job,
        progress: &mut Progress,
        image: Result<vision::Prepared, GenerateError>,
        watch: Option<&Watch>,
    ) -> Result<(), GenerateError> {
        let image = image?;
        if !job.goes_on() {
            return Ok(());
        }
        let question = match progress.question.take() {
            Some(question) => question,
            None => self.question(&job.layout.question, job.grant)?,
        };
        let (vision, observer) = (&mut self.vision, self.observer.as_ref());
        let embed = |cancel: &Cancel| vision.embed_until(image, &question, observer, cancel);
        let embedded = match watch {
            Some(watch) => watch.during(job.waiting(), embed),
            None => embed(&Cancel::default()),
        };
        let (visual, stages) = embedded.map_err(|error| GenerateError::Internal(error.to_string()))?;
        job.stages.extend(stages);
        progress.question = Some(question);
        progress.visuals.push(visual);
        Ok(())
    }

    /// The question's embeddings, for a model that reads them.
    fn question(&self, ids: &[u32], grant: Grant) -> Result<Tensor, GenerateError> {
        let ids = if self.vision.reads_question(grant) { ids } else { &ids[..1] };
        self.embedder.embed(ids).map_err(|error| GenerateError::Internal(error.to_string()))
    }
}
