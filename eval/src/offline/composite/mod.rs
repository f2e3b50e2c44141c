//! The visual tokens of a composite: the bundle's graphs, with the relevances of any arm in the allocator's
//! place.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::image::{Rgb, RgbImage};
use ndarray::{Array2, Axis};
use sha2::{Digest as _, Sha256};

use super::answer_box::{overlap, recall};
use super::arm_budget::{ArmBudget, Unsupported};
use super::capacity::Capacity;
use super::vision_side::{Example, Shared, VisionSide, VisualTokens};
use super::{OfflineError, Question};
use crate::arms::relevance::{self, NEUTRAL};
use crate::arms::{Arm, Method, Positions, coverage, saliency};
use crate::neck::{self, NeckFileError};
use arrcoc_bundle::Bundle;
use arrcoc_bundle::processors::ArrCocOvis;
use arrcoc_runtime::decoder::Embedder;
use arrcoc_runtime::error::LoadError;
use arrcoc_runtime::generate::{Budget, Receipt, Selector};
use arrcoc_runtime::image::DecodedImage;
use arrcoc_runtime::library::Library;
use arrcoc_runtime::model::Options;
use arrcoc_runtime::tensor::Tensor;
use arrcoc_runtime::vision::Visual;
use arrcoc_runtime::vision::families::arr_coc_ovis;
use arrcoc_runtime::vision::families::arr_coc_ovis::patch_grid::Token;
use arrcoc_runtime::vision::families::arr_coc_ovis::pipeline::{Allocation, Selection};

mod vision_runner;

use vision_runner::{EncodedImage, VisionRunner, matrix};

/// The family that has an allocator.
pub(super) const FAMILY: &str = "arr_coc_ovis";

/// The stage that makes the relevances. It has the allocator's name in every arm, whatever makes them: the
/// allocator, coverage, the grid's neck.
const RELEVANCES: &str = "allocator";

/// Relevances, and what came with them.
struct RelevanceMap {
    /// `[P]`, padding not masked.
    relevance: Vec<f32>,
    /// The allocator's own output, where it was asked.
    allocation: Option<Allocation>,
    took: Duration,
}

/// A composite's graphs.
pub(super) struct Composite {
    capacity: Capacity,
    embedder: Arc<Embedder>,
    vision: VisionRunner,
    maps: Shared<Method, RelevanceMap>,
}

impl VisionSide for Composite {
    fn arms(&self) -> Vec<Arm> {
        Method::all().into_iter().map(Arm::of).filter(|arm| self.has(*arm)).collect()
    }

    fn has(&self, arm: Arm) -> bool {
        let selector = |selector| selector == Selector::Uniform;
        arm.is_plain() && if let Method::Selector(one) = arm.method { selector(one) } else { true }
    }

    fn positions(&self) -> &'static [Positions] {
        &Positions::ALL
    }

    fn arm_budget(&self, arm: Arm, budget: Budget) -> Result<ArmBudget, Unsupported> {
        self.capacity.arm_budget(arm, budget)
    }

    fn visual_tokens(
        &mut self,
        example: &Example,
        arm_budget: ArmBudget,
        positions: Positions,
    ) -> Result<VisualTokens, OfflineError> {
        match (arm_budget.arm.method, arm_budget.budget) {
            (Method::Grid, Budget::Tokens(budget)) => self.grid_tokens(example, budget, positions),
            (Method::Downsampled, Budget::Tokens(budget)) => {
                self.downsampled_tokens(example, budget, positions)
            }
            (method, budget) => self.patch_tokens(example, method, budget, positions),
        }
    }

    fn capacity(&self) -> Option<&Capacity> {
        Some(&self.capacity)
    }

    fn image_size(&self) -> Option<usize> {
        Some(self.vision.size)
    }

    fn read_neck(&mut self, path: &Path) -> Result<String, NeckFileError> {
        let (neck, sha256) = neck::read(path, self.vision.spec.feature_size)?;
        self.vision.neck = neck;
        Ok(sha256)
    }
}

/// The question that the allocator is asked with; none for an arm that asks without.
fn allocator_question(example: &Example, method: Method) -> Result<Option<&Question>, OfflineError> {
    match method {
        Method::Agnostic => Ok(None),
        Method::Shuffled => {
            example.other.as_ref().map(Some).ok_or(OfflineError::MissingInput("question of another row"))
        }
        Method::FirstQuestion => example.first.as_ref().map(Some).ok_or(OfflineError::MissingInput("`pair`")),
        _ => Ok(Some(&example.question)),
    }
}

impl Composite {
    /// Loads the vision graphs of a bundle.
    ///
    /// # Errors
    /// [`LoadError`].
    pub(super) fn load(
        bundle: &Bundle,
        library: &dyn Library,
        embedder: Arc<Embedder>,
        options: &Options,
    ) -> Result<Self, LoadError> {
        let section: ArrCocOvis = bundle.manifest().processor()?;
        let size = arr_coc_ovis::image_size(&section, options.vision.image_size)?;
        Ok(Self {
            capacity: Capacity::new(&section, &bundle.manifest().vision.token_budgets, size),
            embedder,
            vision: VisionRunner::load(bundle, library, size, options.vision.feature_cache_bytes)?,
            maps: Shared::new(),
        })
    }

    fn grid_tokens(
        &mut self,
        example: &Example,
        budget: usize,
        positions: Positions,
    ) -> Result<VisualTokens, OfflineError> {
        let n = budget.isqrt();
        let encoded = self.vision.encode(&example.decoded, self.vision.size)?;
        let started = Instant::now();
        let features = self.vision.grid(&encoded, n)?;
        let took = started.elapsed();
        let neutral = Tensor::from_vec(&[1, n * n], vec![NEUTRAL; n * n])?;
        let selection = self.whole_square(&features, &neutral, budget);
        self.finish(example, &selection, positions, (&encoded, took))
    }

    fn downsampled_tokens(
        &mut self,
        example: &Example,
        budget: usize,
        positions: Positions,
    ) -> Result<VisualTokens, OfflineError> {
        let n = budget.isqrt();
        let encoded = self.vision.encode(&example.decoded, n * self.capacity.patch)?;
        let neutral = vision_runner::masked(vec![NEUTRAL; n * n], &encoded)?;
        let selection = self.whole_square(&encoded.features, &neutral, budget);
        self.finish(example, &selection, positions, (&encoded, Duration::ZERO))
    }

    /// Every cell of a square of features `[1, n * n, C]`, and the gist on top.
    fn whole_square<'a>(
        &self,
        image_features: &'a Tensor,
        relevance: &'a Tensor,
        budget: usize,
    ) -> Selection<'a> {
        let cells = budget.isqrt().pow(2);
        let (tokens, tier) = (cells + self.capacity.cells(), self.capacity.nearest_tier(budget));
        Selection { image_features, relevance, tokens, tier, positions: None }
    }

    fn patch_tokens(
        &mut self,
        example: &Example,
        method: Method,
        budget: Budget,
        positions: Positions,
    ) -> Result<VisualTokens, OfflineError> {
        let image = if method == Method::Blank { blank(&example.decoded) } else { example.decoded.clone() };
        let encoded = self.vision.encode(&image, self.vision.size)?;
        let map = self.relevance_map(example, &encoded, method)?;
        let (tokens, tier) = self.resolve_budget(budget, &encoded, map.allocation.as_ref());
        let relevance = vision_runner::masked(map.relevance.clone(), &encoded)?;
        let selection = Selection {
            image_features: &encoded.features,
            relevance: &relevance,
            tokens,
            tier,
            positions: None,
        };
        let mut visual = self.finish(example, &selection, positions, (&encoded, map.took))?;
        visual.recall = example
            .answer_box
            .and_then(|answer_box| recall(&patches_in(&encoded, answer_box), &visual.indices));
        Ok(visual)
    }

    /// Tokens and tier.
    fn resolve_budget(
        &self,
        budget: Budget,
        encoded: &EncodedImage,
        allocation: Option<&Allocation>,
    ) -> (usize, usize) {
        let region = encoded.region();
        let filled = region.columns * region.rows;
        match budget {
            Budget::Tokens(tokens) => (tokens, self.capacity.nearest_tier(tokens)),
            Budget::Full => {
                let tokens = filled.min(self.capacity.most_fine()) + self.capacity.cells();
                (tokens, self.capacity.nearest_tier(tokens))
            }
            Budget::Auto | Budget::Share(_) => {
                let most = self.capacity.patches() + self.capacity.cells();
                let possible = self.capacity.budgets.iter().filter(|&&budget| budget <= most).count();
                let budgets = &self.capacity.budgets[..possible];
                let room = filled + self.capacity.cells();
                let tier = allocation.map_or(0, |allocation| allocation.best_tier(budgets, room));
                (self.capacity.budgets[tier], tier)
            }
        }
    }

    fn finish(
        &mut self,
        example: &Example,
        selection: &Selection<'_>,
        positions: Positions,
        (encoded, took): (&EncodedImage, Duration),
    ) -> Result<VisualTokens, OfflineError> {
        let made = self.vision.tokens(selection, positions)?;
        let mut times = encoded.times.clone();
        times.add(RELEVANCES, took);
        times.append(&made.times);
        Ok(VisualTokens {
            indices: made.tokens.indices.as_slice::<i64>()?.to_vec(),
            layout: Arc::clone(&example.question.layout),
            visual: one_run(made.tokens.embeds),
            tokens: selection.tokens,
            tier: Some(selection.tier),
            recall: None,
            times,
        })
    }

    /// The arm's relevances, made once per example.
    fn relevance_map(
        &mut self,
        example: &Example,
        encoded: &EncodedImage,
        method: Method,
    ) -> Result<Arc<RelevanceMap>, OfflineError> {
        if let Some(map) = self.maps.of(example).get(&method) {
            return Ok(Arc::clone(map));
        }
        let map = Arc::new(self.make_relevance_map(example, encoded, method)?);
        self.maps.of(example).insert(method, Arc::clone(&map));
        Ok(map)
    }

    fn make_relevance_map(
        &mut self,
        example: &Example,
        encoded: &EncodedImage,
        method: Method,
    ) -> Result<RelevanceMap, OfflineError> {
        let (region, patches) = (encoded.region(), encoded.layout.patches());
        let started = Instant::now();
        let relevance = match method {
            Method::QueryAware | Method::Shuffled | Method::FirstQuestion | Method::Blank => {
                return self.allocate(example, encoded, method);
            }
            Method::Agnostic => {
                let map = self.allocate(example, encoded, method)?;
                let order = relevance::by_score(&map.relevance, region);
                return Ok(RelevanceMap { relevance: relevance::from_order(&order, patches), ..map });
            }
            Method::QueryAwareChoice => {
                let map = self.relevance_map(example, encoded, Method::QueryAware)?;
                let order = relevance::by_score(&map.relevance, region);
                let relevance = relevance::from_order(&order, patches);
                return Ok(RelevanceMap { relevance, allocation: None, took: map.took });
            }
            Method::Coverage => return self.cover(example, encoded),
            // The only selector that a composite has is `uniform`.
            Method::Selector(_) => relevance::from_order(&relevance::spread(region), patches),
            Method::Random => relevance::from_order(&relevance::random(region, example.seed), patches),
            Method::Saliency => {
                let pixels = &encoded.pixels.tensor;
                let pixels = pixels.as_slice::<f32>()?;
                let scores = saliency::scores(pixels, region, self.capacity.patch);
                relevance::from_order(&relevance::by_score(&scores, region), patches)
            }
            Method::Oracle => {
                let answer_box = example.answer_box.ok_or(OfflineError::MissingInput("`box`"))?;
                let answer = patches_in(encoded, answer_box);
                if answer.is_empty() {
                    return Err(OfflineError::MissingInput("`box` inside its image"));
                }
                relevance::oracle(&answer, patches)
            }
            // `Full` keeps everything. The other two are given their tokens elsewhere, from features of their
            // own.
            Method::Full | Method::Grid | Method::Downsampled => vec![NEUTRAL; patches],
        };
        Ok(RelevanceMap { relevance, allocation: None, took: started.elapsed() })
    }

    fn allocate(
        &mut self,
        example: &Example,
        encoded: &EncodedImage,
        method: Method,
    ) -> Result<RelevanceMap, OfflineError> {
        let query = match allocator_question(example, method)? {
            Some(question) => Some(self.embedder.embed(question.ids())?),
            None => None,
        };
        let (allocation, took) = self.vision.allocate(&encoded.features, query.as_ref())?;
        let relevance = allocation.relevance.as_slice::<f32>()?.to_vec();
        Ok(RelevanceMap { relevance, allocation: Some(allocation), took })
    }

    fn cover(&mut self, example: &Example, encoded: &EncodedImage) -> Result<RelevanceMap, OfflineError> {
        let (region, patches, capacity) = (encoded.region(), encoded.layout.patches(), self.capacity.clone());
        let (visual, embedding) = self
            .vision
            .all_patch_embeds(encoded, capacity.most_fine(), |tokens| capacity.nearest_tier(tokens))?;
        let text = matrix(&self.embedder.embed(example.question.ids())?)?;
        let started = Instant::now();
        // Padding is neither covered nor chosen.
        let filled: Vec<usize> = region.filled().collect();
        let only_filled = |rows: &Array2<f32>| rows.select(Axis(0), &filled);
        let features = only_filled(&matrix(&encoded.features)?);
        let rows = coverage::mmtok_rows(text.view(), only_filled(&visual).view(), features.view());
        let most = filled.len().min(capacity.most_fine());
        let chosen = coverage::greedy_coverage(rows.coverage.view(), &rows.weights, most);
        // What no budget reaches follows in the order of the grid.
        let mut left = vec![true; filled.len()];
        chosen.iter().for_each(|&at| left[at] = false);
        let rest = (0..filled.len()).filter(|&at| left[at]);
        let order: Vec<usize> = chosen.iter().copied().chain(rest).map(|at| filled[at]).collect();
        let relevance = relevance::from_order(&order, patches);
        Ok(RelevanceMap { relevance, allocation: None, took: embedding + started.elapsed() })
    }
}

/// The patches that a rectangle in pixels of the image covers, if only in part.
fn patches_in(encoded: &EncodedImage, answer_box: [f32; 4]) -> Vec<usize> {
    let overlaps = |&patch: &usize| {
        let rect = encoded.layout.rect(Token::Fine(patch), encoded.pixels.original, encoded.pixels.resized);
        overlap(rect, answer_box)
    };
    encoded.region().filled().filter(overlaps).collect()
}

/// Tokens that stand one behind the other. Who says what they are is not the runtime.
fn one_run(embeds: Tensor) -> Visual {
    // One run, the whole picture: an array of one range is meant.
    #[allow(clippy::single_range_in_vec_init)]
    let runs = vec![0..embeds.shape()[1]];
    Visual::new(embeds, runs, Receipt::of_all([0; 2], Vec::new()))
}

/// A picture of the same size in mid-grey.
fn blank(image: &DecodedImage) -> DecodedImage {
    let (width, height) = image.pixels.dimensions();
    let sizes = [width.to_le_bytes(), height.to_le_bytes()].concat();
    DecodedImage {
        pixels: Arc::new(RgbImage::from_pixel(width, height, Rgb([128; 3]))),
        sha256: Sha256::new().chain_update(b"blank").chain_update(sizes).finalize().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_pictures_of_one_size_are_one_picture() {
        let image = |width, shade| DecodedImage {
            pixels: Arc::new(RgbImage::from_pixel(width, 2, Rgb([shade; 3]))),
            sha256: [shade; 32],
        };
        let (a, b, c) = (blank(&image(3, 1)), blank(&image(3, 2)), blank(&image(4, 1)));
        assert_eq!(a.sha256, b.sha256);
        assert_ne!(a.sha256, c.sha256);
        assert_eq!(a.pixels.dimensions(), (3, 2));
        assert!(a.pixels.pixels().all(|pixel| pixel.0 == [128; 3]));
    }
}
