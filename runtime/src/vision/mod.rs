//! From picture files and a question to visual rows, for any family.
//!
//! [`Pictures`] is what any thread may use: it reads headers for the prompt, asks the two caches by the
//! file's bytes, and only where they have nothing decodes and prepares a picture. [`Vision`] runs the graphs,
//! on one thread. What a family does differently stands behind the traits of [`family`], one file each below
//! [`families`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrcoc_bundle::{Bundle, Manifest, Statistics};
use sha2::{Digest as _, Sha256};

use crate::cache::{ByteLru, Key};
use crate::error::LoadError;
use crate::generate::{
    Budget, Cache, Depth, Image, Need, Note, Observer, Place, Receipt, Selection, Selector, Sizing, Stage,
};
use crate::image::{DecodedImage, ImageError, ImageLimits, decode};
use crate::library::{Cancel, Library, LibraryError};
use crate::selection::{self, Evidence};
use crate::tensor::Tensor;
use family::{
    Ask, DEPTH, Features, Grant, LoadedFamily, Picture, Pixels, Processor, SIZING, SKIP_BLANK, VisionModel,
};
use stages::Stages;

mod blank;
pub mod families;
pub(crate) mod family;
mod options;
pub mod stages;
mod whole;

pub use family::{Choice, ImagePlan, Refusal, Span, Visual};
pub use options::VisionOptions;
pub use whole::{Whole, WholeError};

/// The longest lengths of the axes that the vision graphs of a bundle have, for whoever plans memory.
///
/// # Errors
/// [`LoadError`] for an unknown family, or a section that makes no sense.
pub(crate) fn longest_axes(
    manifest: &Manifest,
    options: &VisionOptions,
    context: usize,
) -> Result<Vec<(&'static str, u64)>, LoadError> {
    Ok(families::of(manifest)?.longest(manifest, options, context))
}

/// What is known of pictures without running a graph; shared freely between threads.
pub struct Pictures {
    processor: Arc<dyn Processor>,
    limits: ImageLimits,
    /// What every cache key begins with: the engine and the processor.
    identity: Sha256,
    /// Whether the rows depend on the question, and so the key of the visual-token cache.
    by_question: bool,
    /// Whether the decoder has levels of rows for deeper layers.
    deep: bool,
    caches: Mutex<Caches>,
}

struct Caches {
    features: ByteLru<Arc<Encoded>>,
    visuals: ByteLru<Visual>,
}

/// All that is known of a picture whatever is asked about it.
struct Encoded {
    features: Features,
    /// Where a selector may ask for it.
    evidence: Option<Evidence>,
}

impl Encoded {
    /// Memory that it holds, bytes.
    fn bytes(&self) -> usize {
        self.features.bytes() + self.evidence.as_ref().map_or(0, Evidence::bytes)
    }
}

/// The keys of one picture, for one question.
#[derive(Debug, Clone, Copy)]
struct Keys {
    features: Key,
    visual: Key,
}

/// A picture on its way to the vision thread.
pub(crate) struct Prepared {
    keys: Keys,
    grant: Grant,
    state: State,
    /// Stages that ran.
    pub(crate) stages: Vec<(Stage, Duration)>,
}

/// How far the caches have brought a picture.
enum State {
    Pixels(Pixels, Option<Evidence>),
    Encoded(Arc<Encoded>),
    Visual(Visual),
}

impl Pictures {
    /// Pictures without caches.
    pub(crate) fn new(processor: Arc<dyn Processor>, limits: ImageLimits, by_question: bool) -> Self {
        let caches = Caches { features: ByteLru::new(0), visuals: ByteLru::new(0) };
        let identity = Sha256::new().chain_update(processor.identity());
        Self { processor, limits, identity, by_question, deep: false, caches: Mutex::new(caches) }
    }

    /// Budgets that a request may name, ascending; none where any will do.
    pub fn budgets(&self) -> &[usize] {
        self.processor.budgets()
    }

    /// What images get whose request does not say.
    pub fn default_budget(&self) -> Budget {
        self.processor.default_budget()
    }

    /// How a request may have tokens chosen.
    pub fn selectors(&self) -> &'static [Selector] {
        self.processor.selectors()
    }

    /// Which levels of rows for deeper layers a request may grant; none where there are none.
    pub fn depths(&self) -> &'static [Depth] {
        if self.deep && !self.selectors().is_empty() { &Depth::ALL } else { &[] }
    }

    /// Pictures that make the encoder's input the smallest and the largest within a context.
    pub(crate) fn extremes(&self, context: usize) -> [[u32; 2]; 2] {
        self.processor.extremes(context)
    }

    /// What a budget means for a question, without running anything.
    ///
    /// # Errors
    /// [`Refusal`] when it is none of the model's, or tokens are not chosen so.
    pub(crate) fn grant(
        &self,
        budget: Budget,
        selection: &Selection,
        need: Option<Need>,
    ) -> Result<Grant, Refusal> {
        if let (Some(set), []) = (selection.set(), self.selectors()) {
            let expected = "nothing: this model chooses by its own allocator".to_owned();
            return Err(Refusal { field: set, expected, found: format!("`{set}`") });
        }
        if let (Some(depth @ Depth::Relevant), []) = (selection.depth, self.depths()) {
            let expected = "`all`: this model has no rows for deeper layers".to_owned();
            return Err(Refusal { field: DEPTH, expected, found: depth.name().to_owned() });
        }
        Ok(match self.processor.grant(budget, selection)? {
            Grant::Choose(choice) => Grant::Choose(Choice { need, ..choice }),
            grant => grant,
        })
    }

    /// What stands in a picture's place in the prompt; only the file's header is read.
    ///
    /// # Errors
    /// [`ImageError`] says what is wrong with the file.
    pub(crate) fn plan(&self, image: &Image, grant: Grant) -> Result<ImagePlan, ImageError> {
        let plan = self.processor.plan(self.picture(image)?, grant)?;
        let Grant::Choose(Choice { budget, need, .. }) = grant else { return Ok(plan) };
        let most = selection::most(budget, plan.all_rows(), need);
        Ok(plan.keeping(most))
    }

    /// Whether pictures can be seen so.
    ///
    /// # Errors
    /// [`Refusal`] when an argument means nothing here, or too much.
    pub(crate) fn check(&self, sizing: &Sizing) -> Result<(), Refusal> {
        self.processor.check(sizing)?;
        if sizing.skip_blank && self.selectors().is_empty() {
            let expected = "nothing: this model sees whole pictures".to_owned();
            return Err(Refusal { field: SKIP_BLANK, expected, found: "true".to_owned() });
        }
        // A small file may be seen large, and no larger than the operator lets files be.
        let most = self.limits.max_pixels;
        match sizing.min_pixels.max(sizing.shortest_edge) {
            Some(least) if least > most => Err(Refusal {
                field: SIZING,
                expected: format!("pictures of at most {most} pixels, the operator's limit"),
                found: format!("at least {least}"),
            }),
            _ => Ok(()),
        }
    }

    /// The input of the encoder, or as much of what comes after it as the caches have.
    ///
    /// # Errors
    /// [`ImageError`] says what is wrong with the file.
    pub(crate) fn prepare(
        &self,
        image: &Image,
        question: &[u32],
        grant: Grant,
        observer: &dyn Observer,
    ) -> Result<Prepared, ImageError> {
        let keys = self.keys(&image.file, self.picture(image)?, question, grant);
        match self.cached(&keys) {
            Some(state) => Ok(Prepared { keys, grant, state, stages: Vec::new() }),
            None => self.prepare_file(image, keys, grant, observer),
        }
    }

    /// What is to be known of a file's picture from its header.
    fn picture(&self, Image { file, sizing }: &Image) -> Result<Picture, ImageError> {
        Ok(Picture { size: decode::size(file, &self.limits)?, sizing: *sizing })
    }

    fn prepare_file(
        &self,
        Image { file, sizing }: &Image,
        keys: Keys,
        grant: Grant,
        observer: &dyn Observer,
    ) -> Result<Prepared, ImageError> {
        let mut stages = Stages::new(observer);
        let image = stages.time(&Stage::DECODE_IMAGE, || decode::decode(file, &self.limits))?;
        self.prepare_pixels((&image, *sizing), keys, grant, stages)
    }

    /// The same for a picture that no cache is asked for.
    pub(crate) fn prepare_decoded(
        &self,
        image: &DecodedImage,
        grant: Grant,
        observer: &dyn Observer,
    ) -> Result<Prepared, ImageError> {
        let sizing = Sizing::default();
        let picture = Picture { size: image.pixels.dimensions().into(), sizing };
        let keys = self.keys(&image.sha256, picture, &[], grant);
        self.prepare_pixels((image, sizing), keys, grant, Stages::new(observer))
    }

    fn prepare_pixels(
        &self,
        (image, sizing): (&DecodedImage, Sizing),
        keys: Keys,
        grant: Grant,
        mut stages: Stages<'_>,
    ) -> Result<Prepared, ImageError> {
        let state = stages.time(&Stage::PREPROCESS, || {
            let chosen = !self.selectors().is_empty();
            let evidence = chosen.then(|| Evidence::of(&image.pixels));
            Ok::<_, ImageError>(State::Pixels(self.processor.pixels(image, sizing)?, evidence))
        })?;
        Ok(Prepared { keys, grant, state, stages: stages.into_ran() })
    }

    fn cached(&self, keys: &Keys) -> Option<State> {
        let mut caches = self.caches();
        let visual = caches.visuals.get(&keys.visual).map(State::Visual);
        visual.or_else(|| caches.features.get(&keys.features).map(State::Encoded))
    }

    fn caches(&self) -> MutexGuard<'_, Caches> {
        self.caches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the rows depend on the question.
    fn reads_question(&self, grant: Grant) -> bool {
        self.by_question || matches!(grant, Grant::Choose(_))
    }

    fn keys(&self, file: &[u8], picture: Picture, question: &[u32], grant: Grant) -> Keys {
        let file = Sha256::digest(file);
        let geometry = format!("{} {}", self.processor.geometry(picture), picture.sizing.skip_blank);
        let of =
            |kind: &[u8]| self.identity.clone().chain_update(kind).chain_update(file).chain_update(&geometry);
        // Every field is spelt out, and every number as exactly as it is. What `auto` comes to depends on
        // nothing else than the rest of the key.
        let mut visual = of(b"tokens").chain_update(format!("{grant:?}"));
        for id in question.iter().filter(|_| self.reads_question(grant)) {
            visual.update(id.to_le_bytes());
        }
        Keys { features: of(b"features").finalize().into(), visual: visual.finalize().into() }
    }
}

/// The vision side of a loaded model.
pub struct Vision {
    pictures: Arc<Pictures>,
    model: Box<dyn VisionModel>,
    /// What the rows should look like to the decoder, where the family says so.
    target: Option<Statistics>,
}

impl Vision {
    /// Loads the vision graphs of a bundle.
    ///
    /// # Errors
    /// [`LoadError`] when a graph does not load, the family is unknown, or an option does not fit the bundle.
    pub fn load(bundle: &Bundle, library: &dyn Library, options: &VisionOptions) -> Result<Self, LoadError> {
        let family = families::of(bundle.manifest())?;
        families::check_image_size(family, &bundle.manifest().family, options)?;
        let LoadedFamily { processor, model } = family.load(bundle, library, options)?;
        let identity = Sha256::new()
            .chain_update(bundle.digest())
            .chain_update(library.describe())
            .chain_update(processor.identity());
        let caches = Caches {
            features: ByteLru::new(options.feature_cache_bytes),
            visuals: ByteLru::new(options.token_cache_bytes),
        };
        let by_question = model.reads_question();
        let pictures = Pictures::new(processor, options.limits, by_question);
        let deep = bundle.manifest().decoder.deep_levels > 0;
        let pictures = Pictures { identity, deep, caches: Mutex::new(caches), ..pictures };
        let target = bundle.manifest().vision.embeds_target;
        Ok(Self { pictures: Arc::new(pictures), model, target })
    }

    /// The part that needs no graph, for other threads.
    pub fn pictures(&self) -> Arc<Pictures> {
        Arc::clone(&self.pictures)
    }

    /// Whether the rows depend on the question.
    pub(crate) fn reads_question(&self, grant: Grant) -> bool {
        self.pictures.reads_question(grant)
    }

    /// The visual rows of one picture. `question` is `[1, Q, H]`, the question's token embeddings.
    ///
    /// # Errors
    /// [`LibraryError`] when a graph fails.
    pub(crate) fn embed(
        &mut self,
        prepared: Prepared,
        question: &Tensor,
        observer: &dyn Observer,
    ) -> Result<(Visual, Vec<(Stage, Duration)>), LibraryError> {
        self.embed_until(prepared, question, observer, &Cancel::default())
    }

    /// The same; `cancel` ends it early.
    ///
    /// # Errors
    /// As [`Self::embed`]; and when it was ended.
    pub(crate) fn embed_until(
        &mut self,
        prepared: Prepared,
        question: &Tensor,
        observer: &dyn Observer,
        cancel: &Cancel,
    ) -> Result<(Visual, Vec<(Stage, Duration)>), LibraryError> {
        let Prepared { keys, grant, state, stages: mut ran } = prepared;
        // An equal picture may have been encoded while this one was prepared.
        let state = match state {
            State::Pixels(..) => self.pictures.cached(&keys).unwrap_or(state),
            further => further,
        };
        let mut stages = Stages::until(observer, cancel);
        observer.note(Note::Cache { cache: Cache::VisualTokens, hit: matches!(state, State::Visual(_)) });
        let visual = match state {
            State::Visual(visual) => visual,
            state => {
                let encoded = self.encoded(state, &keys, &mut stages)?;
                let Encoded { features, evidence } = encoded.as_ref();
                let mut visual = self.model.embed(features, &Ask { question, grant }, &mut stages)?;
                visual.positions = self.model.positions(features, &visual);
                if let Grant::Choose(choice) = &grant {
                    let choose = || selection::choose(&visual, question, evidence.as_ref(), choice);
                    visual = stages.time(&Stage::SELECT, choose)?;
                }
                self.note_statistics(&visual, observer)?;
                self.pictures.caches().visuals.insert(keys.visual, visual.clone(), visual.bytes());
                visual
            }
        };
        let tier = visual.receipt.allocation.as_ref().map(|allocation| allocation.tier);
        observer.note(Note::Image { tier, tokens: visual.receipt.tokens });
        ran.extend(stages.into_ran());
        Ok((visual, ran))
    }

    fn encoded(
        &mut self,
        state: State,
        keys: &Keys,
        stages: &mut Stages<'_>,
    ) -> Result<Arc<Encoded>, LibraryError> {
        let hit = matches!(state, State::Encoded(_));
        stages.observer().note(Note::Cache { cache: Cache::ImageFeatures, hit });
        let (pixels, evidence) = match state {
            State::Encoded(encoded) => return Ok(encoded),
            State::Pixels(pixels, evidence) => (pixels, evidence),
            State::Visual(_) => unreachable!("a finished picture needs no features"),
        };
        let encoded = Arc::new(Encoded { features: self.model.encode(&pixels, stages)?, evidence });
        self.pictures.caches().features.insert(keys.features, Arc::clone(&encoded), encoded.bytes());
        Ok(encoded)
    }

    /// Tells what the decoder gets, where it is known what it should get.
    fn note_statistics(&self, visual: &Visual, observer: &dyn Observer) -> Result<(), LibraryError> {
        if let (Some(_), Some(allocation)) = (&self.target, &visual.receipt.allocation) {
            let statistics = Statistics::of(visual.rows.as_slice()?);
            observer.note(Note::Embeds { tier: allocation.tier, statistics });
        }
        Ok(())
    }
}

impl Receipt {
    /// Memory that it holds, bytes.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + (self.places.len() + self.dropped.len()) * size_of::<Place>()
    }
}

#[cfg(test)]
mod tests;
