//! Images to visual tokens, beside the decoder: workers decode and preprocess image files, one thread runs the vision
//! graphs. Channels in between are short, so that few preprocessed images are in memory however long the queue is.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Ready;
use super::job::{Job, PanicGuard, Shared};
use crate::decoder::Embedder;
use crate::generate::{GenerateError, Message, Part, Prompt, Stage};
use crate::image::PixelValues;
use crate::vision::{Preprocessor, Vision, VisionError, VisualEmbeds};

/// An image as the vision thread gets it.
type Prepared = Result<PreparedImage, GenerateError>;

pub(crate) struct PreparedImage {
    pixels: PixelValues,
    stages: [(Stage, Duration); 2],
}

/// A request whose images arrive one by one, while they are being prepared.
pub(crate) struct EncodeJob {
    job: Job,
    images: Receiver<Prepared>,
}

/// What a preparing worker needs.
pub(crate) struct Preparer {
    pub(crate) jobs: Arc<Mutex<Receiver<Job>>>,
    pub(crate) preprocessor: Arc<Preprocessor>,
    pub(crate) encoder: SyncSender<EncodeJob>,
    pub(crate) shared: Arc<Shared>,
}

impl Preparer {
    /// Prepares the images of one request after the other until the model is dropped.
    pub(crate) fn run(self) {
        let _guard = PanicGuard::new(&self.shared, "image");
        loop {
            let next = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(mut job) = next else { return };
            if !job.goes_on() {
                continue;
            }
            let files = images(&job.request.prompt);
            let (sender, images) = sync_channel(1);
            if self.encoder.send(EncodeJob { job, images }).is_err() {
                return;
            }
            for (index, file) in files.iter().enumerate() {
                let prepared = self.prepare(index, file);
                let failed = prepared.is_err();
                // A closed channel: the request is over already.
                if sender.send(prepared).is_err() || failed {
                    break;
                }
            }
        }
    }

    fn prepare(&self, index: usize, file: &[u8]) -> Prepared {
        let number = index + 1;
        // Image decoders are the widest door for hostile input. They share no state, so a panic in one is the end of
        // this request only.
        let prepared = catch_unwind(AssertUnwindSafe(|| {
            let started = Instant::now();
            let image = self.preprocessor.decode(file)?;
            let decoded = started.elapsed();
            let pixels = self.preprocessor.preprocess(&image);
            let stages = [(Stage::DecodeImage, decoded), (Stage::Preprocess, started.elapsed() - decoded)];
            Ok(PreparedImage { pixels, stages })
        }));
        match prepared {
            Ok(Ok(prepared)) => Ok(prepared),
            Ok(Err(error)) => Err(invalid_image(number, &error)),
            Err(_) => Err(GenerateError::Engine(format!("the image decoder panicked on image {number}"))),
        }
    }
}

fn invalid_image(number: usize, error: &crate::image::ImageError) -> GenerateError {
    GenerateError::Invalid { field: "messages", message: format!("image {number}: {error}") }
}

/// The image files of a prompt, in order.
fn images(prompt: &Prompt) -> Vec<Arc<[u8]>> {
    let Prompt::Chat(messages) = prompt else { return Vec::new() };
    let files = |message: &Message| {
        message
            .content
            .iter()
            .filter_map(|part| match part {
                Part::Image(file) => Some(Arc::clone(file)),
                Part::Text(_) => None,
            })
            .collect::<Vec<_>>()
    };
    messages.iter().flat_map(files).collect()
}

/// The thread that runs the vision graphs.
pub(crate) struct Encoder {
    pub(crate) jobs: Receiver<EncodeJob>,
    pub(crate) vision: Vision,
    pub(crate) embedder: Arc<Embedder>,
    pub(crate) ready: Sender<Ready>,
    pub(crate) shared: Arc<Shared>,
}

impl Encoder {
    /// Encodes the images of one request after the other until the workers are gone.
    pub(crate) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        while let Ok(EncodeJob { mut job, images }) = self.jobs.recv() {
            // Declared after the job, hence dropped before it.
            let _guard = PanicGuard::new(&shared, "vision");
            match self.encode(&mut job, &images) {
                Ok(Some(visuals)) => {
                    // A closed channel: the scheduler is gone, and the job tells its caller when it is dropped.
                    let _ = self.ready.send(Ready { job, visuals });
                }
                Ok(None) => {}
                Err(error) => job.fail(error),
            }
        }
    }

    /// The visual tokens of every image; `None` when the request ended in between.
    fn encode(
        &mut self,
        job: &mut Job,
        images: &Receiver<Prepared>,
    ) -> Result<Option<Vec<VisualEmbeds>>, GenerateError> {
        let question = self.embedder.embed(&job.layout.question);
        let question = question.map_err(|error| GenerateError::Engine(error.to_string()))?;
        let mut visuals = Vec::new();
        for _ in 0..job.layout.images() {
            let Ok(prepared) = images.recv() else {
                return Err(GenerateError::Engine("an image got lost on its way".into()));
            };
            let prepared = prepared?;
            if !job.goes_on() {
                return Ok(None);
            }
            let (budget, explain) = (job.request.budget, job.request.explain);
            let embeds =
                self.vision.embed(&prepared.pixels, &question, &job.layout.question, budget, explain);
            let embeds = embeds.map_err(|error| match error {
                VisionError::Budget { .. } => {
                    GenerateError::Invalid { field: "arrcoc.budget", message: error.to_string() }
                }
                other => GenerateError::Engine(other.to_string()),
            })?;
            job.stages.extend(prepared.stages);
            job.stages.extend(embeds.stages.iter().copied());
            visuals.push(embeds);
        }
        Ok(job.goes_on().then_some(visuals))
    }
}
