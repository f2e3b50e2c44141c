//! From pixels and a question to visual tokens.
//!
//! [`Vision`] owns the graphs of the vision side and the two caches of design section 6. Decoding and preprocessing need
//! no graph: they live in [`Preprocessor`], which any thread may share while another one runs [`Vision::embed`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::bundle::Bundle;
use crate::bundle::manifest::{Statistics, VisionSpec};
use crate::cache::{ByteLru, Key};
use crate::engine::{EngineError, Runtime};
use crate::error::LoadError;
use crate::generate::{Budget, Cache, Observer, Receipt, Stage};
use crate::image::preprocess::Preprocess;
use crate::image::{DecodedImage, ImageError, ImageLimits, PixelValues, decode};
use crate::tensor::Tensor;
use arr_coc_ovis::{Pipeline, Selected, Timer};
use layout::Layout;

pub(crate) mod arr_coc_ovis;
pub(crate) mod layout;
pub mod picture;
#[cfg(test)]
mod tests;

/// How to run the vision side.
#[derive(Debug, Clone)]
pub struct VisionOptions {
    /// Encoder input size, pixels; one of the bundle's `image_sizes`. `None`: the native one.
    pub image_size: Option<usize>,
    /// What an image may cost.
    pub limits: ImageLimits,
    /// Bound of the image-feature cache, bytes; 0 turns it off.
    pub feature_cache_bytes: usize,
    /// Bound of the visual-token cache, bytes; 0 turns it off.
    pub token_cache_bytes: usize,
}

impl Default for VisionOptions {
    fn default() -> Self {
        Self {
            image_size: None,
            limits: ImageLimits::default(),
            feature_cache_bytes: 256 << 20,
            token_cache_bytes: 64 << 20,
        }
    }
}

/// The visual tokens of one image for one question.
#[derive(Debug, Clone)]
pub struct VisualEmbeds {
    /// `[1, tokens, H]`: rows that replace the image placeholder in the decoder's `inputs_embeds`.
    pub embeds: Tensor,
    /// Index into the bundle's `token_budgets`.
    pub tier: usize,
    /// Where the tokens look, when asked to explain.
    pub receipt: Option<Receipt>,
    /// Time per stage that ran; a cached stage is absent.
    pub stages: Vec<(Stage, Duration)>,
}

/// An image could not be embedded.
#[derive(Debug, thiserror::Error)]
pub enum VisionError {
    /// The budget is none of the model's.
    #[error("expected a budget of {allowed:?} tokens or `auto`, found {asked}")]
    Budget {
        /// What was asked for.
        asked: String,
        /// What the bundle and this image size allow.
        allowed: Vec<usize>,
    },
    /// An engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Decodes and preprocesses images; shared freely between threads.
pub struct Preprocessor {
    limits: ImageLimits,
    preprocess: Preprocess,
    observer: Arc<dyn Observer>,
}

impl Preprocessor {
    /// Decodes an image file; see [`crate::image`].
    ///
    /// # Errors
    /// [`ImageError`] says what is wrong with the file.
    pub fn decode(&self, bytes: &[u8]) -> Result<DecodedImage, ImageError> {
        let started = Instant::now();
        let image = decode::decode(bytes, &self.limits)?;
        self.observer.stage(Stage::DecodeImage, started.elapsed());
        Ok(image)
    }

    /// Resizes, normalises and pads an image to the encoder's input.
    pub fn preprocess(&self, image: &DecodedImage) -> PixelValues {
        let started = Instant::now();
        let pixels = self.preprocess.apply(image);
        self.observer.stage(Stage::Preprocess, started.elapsed());
        pixels
    }
}

/// The vision side of a loaded model.
pub struct Vision {
    preprocessor: Arc<Preprocessor>,
    pipeline: Pipeline,
    layout: Layout,
    budgets: Vec<usize>,
    /// Longest question that the allocator takes, tokens.
    max_query: usize,
    /// What every cache key begins with: the engine and the preprocessing.
    identity: Sha256,
    features: ByteLru<Tensor>,
    tokens: ByteLru<Selected>,
    observer: Arc<dyn Observer>,
}

impl Vision {
    /// Loads the vision graphs of a bundle.
    ///
    /// # Errors
    /// [`LoadError`] when a graph does not load or `image_size` is none of the bundle's.
    pub fn load(
        bundle: &Bundle,
        runtime: &dyn Runtime,
        options: &VisionOptions,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, LoadError> {
        let spec = &bundle.manifest().vision;
        let size = image_size(spec, options.image_size)?;
        let layout = Layout::new(size / spec.patch_size, spec.patch_size, spec.gist_grid);
        let budgets = allowed_budgets(spec, &layout)?;
        let preprocessor = Preprocessor {
            limits: options.limits,
            preprocess: Preprocess::new(size, spec),
            observer: Arc::clone(&observer),
        };
        let identity = Sha256::new()
            .chain_update(bundle.digest())
            .chain_update(runtime.describe())
            .chain_update((size as u64).to_le_bytes());
        Ok(Self {
            preprocessor: Arc::new(preprocessor),
            pipeline: Pipeline::load(bundle, runtime)?,
            layout,
            budgets,
            max_query: longest_query(bundle),
            identity,
            features: ByteLru::new(options.feature_cache_bytes),
            tokens: ByteLru::new(options.token_cache_bytes),
            observer,
        })
    }

    /// The part that needs no graph, for other threads.
    pub fn preprocessor(&self) -> Arc<Preprocessor> {
        Arc::clone(&self.preprocessor)
    }

    /// Budgets that an encoder input of this size has patches for, ascending.
    pub fn budgets(&self) -> Vec<usize> {
        self.budgets.clone()
    }

    /// Checks a budget without running anything: the tier index, or `None` for `Auto`.
    ///
    /// # Errors
    /// [`VisionError::Budget`] when it is none of the model's.
    pub fn check_budget(&self, budget: Budget) -> Result<Option<usize>, VisionError> {
        let asked = match budget {
            Budget::Auto => return Ok(None),
            Budget::Full => "`full`".to_owned(),
            Budget::Tokens(tokens) => match self.budgets.iter().position(|&allowed| allowed == tokens) {
                Some(tier) => return Ok(Some(tier)),
                None => tokens.to_string(),
            },
        };
        Err(VisionError::Budget { asked, allowed: self.budgets.clone() })
    }

    /// Picks and refines the visual tokens of one image for one question.
    ///
    /// `query_embeds` is `[1, Q, H]`, the question's token embeddings; `query_ids` its token ids, for the cache key. Of a
    /// question longer than the allocator takes, the end counts.
    ///
    /// # Errors
    /// [`VisionError`] when the budget is none of the model's, or an engine fails.
    pub fn embed(
        &mut self,
        image: &PixelValues,
        query_embeds: &Tensor,
        query_ids: &[u32],
        budget: Budget,
        explain: bool,
    ) -> Result<VisualEmbeds, VisionError> {
        let tier = self.check_budget(budget)?;
        let mut timer = Timer::new(Arc::clone(&self.observer));
        let token_key = self.token_key(image, query_ids, tier);
        let cached = self.tokens.get(&token_key);
        self.observer.cache(Cache::VisualTokens, cached.is_some());
        let selected = match cached {
            Some(selected) => selected,
            None => {
                let selected = self.select(image, query_embeds, tier, &mut timer)?;
                self.tokens.insert(token_key, selected.clone(), selected.bytes());
                selected
            }
        };
        let Selected { embeds, receipt } = selected;
        let tier = receipt.tier;
        self.observer.visual_tokens(tier, receipt.tokens);
        let receipt = explain.then(|| Receipt::clone(&receipt));
        Ok(VisualEmbeds { embeds, tier, receipt, stages: timer.into_stages() })
    }

    fn select(
        &mut self,
        image: &PixelValues,
        query_embeds: &Tensor,
        tier: Option<usize>,
        timer: &mut Timer,
    ) -> Result<Selected, EngineError> {
        let feature_key = self.feature_key(image);
        let cached = self.features.get(&feature_key);
        self.observer.cache(Cache::ImageFeatures, cached.is_some());
        let features = match cached {
            Some(features) => features,
            None => {
                let features = self.pipeline.encode(&image.tensor, timer)?;
                self.features.insert(feature_key, features.clone(), features.bytes().len());
                features
            }
        };
        let query = last_rows(query_embeds, self.max_query)?;
        let valid = self.layout.valid_region(image.resized);
        let allocation = self.pipeline.allocate(&features, &query, timer)?;
        let tier = match tier {
            Some(tier) => tier,
            None => allocation.best_tier(&self.budgets, valid.patches() + self.layout.cells()),
        };
        let selected = self.pipeline.select(
            &features,
            allocation,
            &self.layout,
            image,
            (tier, self.budgets[tier]),
            timer,
        )?;
        let statistics = Statistics::of(selected.embeds.as_slice()?);
        self.observer.adapter_output(tier, statistics);
        Ok(selected)
    }

    fn feature_key(&self, image: &PixelValues) -> Key {
        self.identity.clone().chain_update(b"features").chain_update(image.sha256).finalize().into()
    }

    fn token_key(&self, image: &PixelValues, query_ids: &[u32], tier: Option<usize>) -> Key {
        let mut hasher = self.identity.clone().chain_update(b"tokens").chain_update(image.sha256);
        // 0 stands for `Auto`, whose outcome depends on nothing else than the rest of the key.
        hasher.update(tier.map_or(0, |tier| tier as u64 + 1).to_le_bytes());
        for id in query_ids {
            hasher.update(id.to_le_bytes());
        }
        hasher.finalize().into()
    }
}

pub(crate) fn image_size(spec: &VisionSpec, asked: Option<usize>) -> Result<usize, LoadError> {
    let size = asked.unwrap_or(spec.native_size);
    if spec.image_sizes.contains(&size) {
        return Ok(size);
    }
    let expected = format!("one of {:?}", spec.image_sizes);
    Err(LoadError::Options { what: "image_size", expected, found: size.to_string() })
}

/// Budgets that an input of this size can fill.
fn allowed_budgets(spec: &VisionSpec, layout: &Layout) -> Result<Vec<usize>, LoadError> {
    let room = layout.patches() + layout.cells();
    let budgets: Vec<_> = spec.token_budgets.iter().copied().filter(|&budget| budget <= room).collect();
    if budgets.is_empty() {
        let expected =
            format!("an input size with at least {:?} patches and gist cells", spec.token_budgets.first());
        return Err(LoadError::Options { what: "image_size", expected, found: format!("{room} of them") });
    }
    Ok(budgets)
}

/// Longest question that the allocator takes, tokens.
pub(crate) fn longest_query(bundle: &Bundle) -> usize {
    let range = bundle.axis("allocator", "query_len");
    range.and_then(|range| usize::try_from(range.max).ok()).unwrap_or(usize::MAX)
}

/// The last `most` rows of a `[1, rows, width]` tensor.
pub(crate) fn last_rows(tensor: &Tensor, most: usize) -> Result<Tensor, EngineError> {
    let (rows, width) = match *tensor.shape() {
        [1, rows, width] => (rows, width),
        _ => (0, 0),
    };
    if rows <= most {
        return Ok(tensor.clone());
    }
    let kept = tensor.as_slice::<f32>()?[(rows - most) * width..].to_vec();
    Ok(Tensor::from_vec(&[1, most, width], kept)?)
}
