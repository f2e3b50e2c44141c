//! A model for experiments: the same graphs as [`arrcoc_runtime::model`], run by the caller's thread, with
//! any of the [`arms`] in the place of what chooses there.
//!
//! How an arm's tokens are made is the affair of a vision side, of which there are two: [`composite`], whose
//! bundles have an allocator, and [`stock`], of whose rows a selector keeps some. What they share is
//! [`vision_side`]. Prompts and answers are the same for both ([`OfflineModel::answer`]).
//!
//! There is no queue and no concurrency, so the same calls in the same order give the same answers. Several
//! answers are decoded side by side all the same; their tokens do not depend on what else runs, as far as an
//! engine's arithmetic does not depend on the size of a batch.
//!
//! [`arms`]: crate::arms

use std::path::Path;
use std::sync::Arc;

use crate::arms::{Arm, Positions};
use crate::neck::NeckFileError;
use arrcoc_bundle::Bundle;
use arrcoc_bundle::manifest::DecoderSpec;
use arrcoc_runtime::decoder::{self, Decoder, DecoderError, Embedder};
use arrcoc_runtime::error::LoadError;
use arrcoc_runtime::generate::{Budget, GenerateError, Image, Message, Part, Prompt, Speaker};
use arrcoc_runtime::image::{DecodedImage, ImageError, ImageLimits, decode};
use arrcoc_runtime::library::{Library, LibraryError};
use arrcoc_runtime::model::{Options, load};
use arrcoc_runtime::prompt::{Layout, Prompter};
use arrcoc_runtime::sampling::SamplingError;
use arrcoc_runtime::tensor::TensorError;
use arrcoc_runtime::vision::{ImagePlan, WholeError};
use composite::Composite;
use stock::Stock;
use vision_side::VisionSide;

mod answer;
mod answer_box;
mod arm_budget;
mod capacity;
mod composite;
mod stock;
mod vision_side;

pub use answer::Answer;
pub use arm_budget::{ArmBudget, Unsupported};
pub use capacity::Capacity;
pub use vision_side::{Example, VisualTokens};

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
    /// A picture that the model does not see so.
    #[error(transparent)]
    Picture(#[from] WholeError),
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
    /// Encoder input, pixels, where there is one size.
    pub image_size: Option<usize>,
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
    text: String,
    /// With one row in the picture's place: the whole prompt of a composite.
    layout: Arc<Layout>,
}

impl Question {
    /// As a chat of one user message: the image, then the text.
    fn prompt(text: &str) -> Prompt {
        let content = vec![Part::Image(Image::default()), Part::Text(text.to_owned())];
        Prompt::from(vec![Message::new(Speaker::User, content)])
    }

    /// The ids that tokens are chosen for.
    pub fn ids(&self) -> &[u32] {
        &self.layout.question
    }
}

/// A bundle's graphs, ready for experiments.
pub struct OfflineModel {
    info: OfflineInfo,
    prompter: Arc<Prompter>,
    embedder: Arc<Embedder>,
    decoder: Box<dyn Decoder>,
    decoder_spec: DecoderSpec,
    prefill_chunk: usize,
    limits: ImageLimits,
    vision: Box<dyn VisionSide>,
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
        let decoder_spec = &bundle.manifest().decoder;
        let embedding = runtime.load_from(bundle, bundle.manifest().only(arrcoc_bundle::Role::Embedding))?;
        let embedder = Arc::new(Embedder::new(embedding, decoder_spec.hidden_size));
        let prompter = Arc::new(Prompter::load(bundle)?);
        let asked = Arc::clone(&embedder);
        let vision: Box<dyn VisionSide> = match bundle.manifest().family.as_str() {
            composite::FAMILY => Box::new(Composite::load(bundle, runtime, asked, options)?),
            _ => {
                let prompts = stock::Prompts {
                    prompter: Arc::clone(&prompter),
                    context_length: sizes.context_length,
                    embedder: asked,
                };
                Box::new(Stock::load(bundle, runtime, prompts, options)?)
            }
        };
        let model = Self {
            info: OfflineInfo {
                runtime: runtime.describe(),
                image_size: vision.image_size(),
                slots: options.slots,
                context_length: sizes.context_length,
                kv_bytes_per_token: decoder::kv_bytes(decoder_spec, 1, 1) as usize,
            },
            prompter,
            embedder,
            decoder: decoder::load(bundle, runtime, options.slots, sizes.context_length)?,
            decoder_spec: decoder_spec.clone(),
            prefill_chunk: sizes.prefill_chunk,
            limits: options.vision.limits,
            vision,
        };
        bundle.check_unchanged()?;
        Ok(model)
    }

    /// Gives the grid's arm a trained neck in place of the mean of four; the file's SHA-256, hex.
    ///
    /// # Errors
    /// [`NeckFileError`] where the file holds none for this bundle, or there is no grid.
    pub fn read_neck(&mut self, path: &Path) -> Result<String, NeckFileError> {
        self.vision.read_neck(path)
    }

    /// What runs.
    pub fn info(&self) -> &OfflineInfo {
        &self.info
    }

    /// What there is room for, where patches lie in a fixed grid: in a composite.
    pub fn capacity(&self) -> Option<&Capacity> {
        self.vision.capacity()
    }

    /// The arms that `all` stands for, in the order of reports.
    pub fn arms(&self) -> Vec<Arm> {
        self.vision.arms()
    }

    /// Whether there is such an arm.
    pub fn has(&self, arm: Arm) -> bool {
        self.vision.has(arm)
    }

    /// The positions that there are.
    pub fn positions(&self) -> &'static [Positions] {
        self.vision.positions()
    }

    /// Checks that an arm can have a budget; what means the same comes out the same.
    ///
    /// # Errors
    /// [`Unsupported`] says why it cannot.
    pub fn arm_budget(&self, arm: Arm, budget: Budget) -> Result<ArmBudget, Unsupported> {
        self.vision.arm_budget(arm, budget)
    }

    /// Makes the visual tokens of an example. `arm_budget` comes from [`Self::arm_budget`].
    ///
    /// # Errors
    /// [`OfflineError::MissingInput`] when the example has not what the arm needs, or an engine's error.
    pub fn visual_tokens(
        &mut self,
        example: &Example,
        arm_budget: ArmBudget,
        positions: Positions,
    ) -> Result<VisualTokens, OfflineError> {
        self.vision.visual_tokens(example, arm_budget, positions)
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
        let prompt = Question::prompt(text);
        let layout = self.prompter.layout(&prompt, &[ImagePlan::rows(1)], self.info.context_length)?;
        Ok(Question { text: text.to_owned(), layout: layout.into() })
    }

    /// Tokens that a text has as an answer.
    ///
    /// # Errors
    /// [`OfflineError::Prompt`] when the tokenizer fails.
    pub fn count_tokens(&self, text: &str) -> Result<usize, OfflineError> {
        Ok(self.prompter.tokenize(text)?.len())
    }
}
