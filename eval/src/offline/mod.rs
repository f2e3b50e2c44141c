//! A model for experiments: the same graphs as [`arrcoc_runtime::model`], run by the caller's thread, with
//! any of the [`arms`] in the allocator's place.
//!
//! There is no queue and no concurrency, so the same calls in the same order give the same answers. Several
//! answers are decoded side by side all the same ([`OfflineModel::answer`]); their tokens do not depend on
//! what else runs, as far as an engine's arithmetic does not depend on the size of a batch.
//!
//! [`arms`]: crate::arms

use std::sync::Arc;

use crate::arms::grid::Neck;
use arrcoc_bundle::Bundle;
use arrcoc_bundle::manifest::DecoderSpec;
use arrcoc_bundle::processors::ArrCocOvis;
use arrcoc_runtime::decoder::{self, Decoder, DecoderError, Embedder};
use arrcoc_runtime::error::LoadError;
use arrcoc_runtime::generate::{GenerateError, Image, Message, Part, Prompt, Speaker};
use arrcoc_runtime::image::{DecodedImage, ImageError, ImageLimits, decode};
use arrcoc_runtime::library::{Library, LibraryError};
use arrcoc_runtime::model::{Options, load};
use arrcoc_runtime::prompt::{Layout, Prompter};
use arrcoc_runtime::sampling::SamplingError;
use arrcoc_runtime::tensor::TensorError;
use arrcoc_runtime::vision::ImagePlan;
use arrcoc_runtime::vision::families::arr_coc_ovis;
use vision_runner::VisionRunner;

mod answer;
mod capacity;
mod vision_runner;
mod visual_tokens;

pub use answer::{Answer, AnswerRequest};
pub use capacity::{ArmBudget, Capacity, Unsupported};
pub use visual_tokens::{Example, VisualTokens};

/// The family that experiments are about.
const COMPOSITE: &str = "arr_coc_ovis";

/// An experiment broke off.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// A vision graph or the embedding failed.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// The decoder failed.
    #[error(transparent)]
    Decoder(#[from] DecoderError),
    /// The question cannot be put.
    #[error(transparent)]
    Prompt(#[from] GenerateError),
    /// The decoder gave no distribution.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// Prompt and answer do not fit.
    #[error(
        "expected a prompt shorter than the context of {context} tokens, found {prompt}; ask for a longer context \
         (`engine.context_length`) or fewer visual tokens"
    )]
    Context {
        /// Positions per slot.
        context: usize,
        /// Tokens of the prompt.
        prompt: usize,
    },
    /// The row lacks what the arm needs.
    #[error("the row has no {0}")]
    MissingInput(&'static str),
}

impl From<TensorError> for OfflineError {
    fn from(error: TensorError) -> Self {
        Self::Library(error.into())
    }
}

/// What an offline model runs, for the record.
#[derive(Debug, Clone)]
pub struct OfflineInfo {
    /// The inference library's name and version.
    pub runtime: String,
    /// Encoder input, pixels.
    pub image_size: usize,
    /// Answers that are decoded side by side.
    pub slots: usize,
    /// Positions per slot.
    pub context_length: usize,
    /// Size of keys and values of one token, bytes.
    pub kv_bytes_per_token: usize,
}

/// A question as the model gets it.
#[derive(Debug, Clone)]
pub struct Question {
    layout: Layout,
}

impl Question {
    /// The ids that the allocator is asked with.
    pub fn ids(&self) -> &[u32] {
        &self.layout.question
    }
}

/// A bundle's graphs, ready for experiments.
pub struct OfflineModel {
    info: OfflineInfo,
    capacity: Capacity,
    prompter: Arc<Prompter>,
    embedder: Embedder,
    decoder: Box<dyn Decoder>,
    decoder_spec: DecoderSpec,
    prefill_chunk: usize,
    limits: ImageLimits,
    vision: VisionRunner,
}

impl OfflineModel {
    /// Loads every graph of the bundle. `options` as for [`arrcoc_runtime::model::Model`]; queue, timeout and
    /// the token cache are not used.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(bundle: &Bundle, options: &Options) -> Result<Self, LoadError> {
        let runtime = load::open_library(bundle.manifest(), options)?;
        Self::load_on(bundle, runtime.as_ref(), options)
    }

    /// The same on an inference library that is open already; `options.runtime` and `options.library` are not
    /// used.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load_on(bundle: &Bundle, runtime: &dyn Library, options: &Options) -> Result<Self, LoadError> {
        let sizes = load::sizes(bundle, options)?;
        let family = &bundle.manifest().family;
        if family != COMPOSITE {
            return Err(LoadError::Options {
                what: "the bundle's family",
                expected: format!("{COMPOSITE}: only its allocator has other arms to be held against"),
                found: family.clone(),
            });
        }
        let section: ArrCocOvis = bundle.manifest().processor()?;
        let decoder_spec = &bundle.manifest().decoder;
        let size = arr_coc_ovis::image_size(&section, options.vision.image_size)?;
        let embedding = runtime.load_from(bundle, bundle.manifest().only(arrcoc_bundle::Role::Embedding))?;
        let model = Self {
            info: OfflineInfo {
                runtime: runtime.describe(),
                image_size: size,
                slots: options.slots,
                context_length: sizes.context_length,
                kv_bytes_per_token: decoder::kv_bytes(decoder_spec, 1, 1) as usize,
            },
            capacity: Capacity::new(&section, &bundle.manifest().vision.token_budgets, size),
            prompter: Arc::new(Prompter::load(bundle)?),
            embedder: Embedder::new(embedding, decoder_spec.hidden_size),
            decoder: decoder::load(bundle, runtime, options.slots, sizes.context_length)?,
            decoder_spec: decoder_spec.clone(),
            prefill_chunk: sizes.prefill_chunk,
            limits: options.vision.limits,
            vision: VisionRunner::load(bundle, runtime, size, options.vision.feature_cache_bytes)?,
        };
        bundle.check_unchanged()?;
        Ok(model)
    }

    /// Gives the grid's arm a trained neck in place of the mean of four.
    pub fn set_neck(&mut self, neck: Neck) {
        self.vision.neck = neck;
    }

    /// What runs.
    pub fn info(&self) -> &OfflineInfo {
        &self.info
    }

    /// What there is room for.
    pub fn capacity(&self) -> &Capacity {
        &self.capacity
    }

    /// Width of the image features: that of the grid's neck.
    pub fn feature_size(&self) -> usize {
        self.vision.spec.feature_size
    }

    /// Decodes an image file within the limits of the options.
    ///
    /// # Errors
    /// [`ImageError`] says what is wrong with the file.
    pub fn decode(&self, bytes: &[u8]) -> Result<DecodedImage, ImageError> {
        decode::decode(bytes, &self.limits)
    }

    /// Puts a question about one image, as a chat of one user message: the image, then the text.
    ///
    /// # Errors
    /// [`OfflineError::Prompt`] when the template or the tokenizer refuses it.
    pub fn question(&self, text: &str) -> Result<Question, OfflineError> {
        let content = vec![Part::Image(Image::default()), Part::Text(text.to_owned())];
        let prompt = Prompt::from(vec![Message::new(Speaker::User, content)]);
        Ok(Question {
            layout: self.prompter.layout(&prompt, &[ImagePlan::rows(1)], self.info.context_length)?,
        })
    }

    /// Tokens that a text has as an answer.
    ///
    /// # Errors
    /// [`OfflineError::Prompt`] when the tokenizer fails.
    pub fn count_tokens(&self, text: &str) -> Result<usize, OfflineError> {
        Ok(self.prompter.tokenize(text)?.len())
    }
}
