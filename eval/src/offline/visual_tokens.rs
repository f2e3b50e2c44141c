//! The visual tokens of one question about one picture, made by an arm.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::image::{Rgb, RgbImage};
use ndarray::{Array2, Axis};
use sha2::{Digest as _, Sha256};

use super::vision_runner::{self, EncodedImage, matrix};
use super::{ArmBudget, OfflineError, OfflineModel, Question};
use crate::arms::relevance::{self, NEUTRAL};
use crate::arms::{Arm, Positions, coverage, saliency};
use crate::times::StageTimes;
use arrcoc_runtime::generate::Budget;
use arrcoc_runtime::image::DecodedImage;
use arrcoc_runtime::tensor::Tensor;
use arrcoc_runtime::vision::families::arr_coc_ovis::patch_grid::Token;
use arrcoc_runtime::vision::families::arr_coc_ovis::pipeline::{Allocation, Selection};

/// The stage that makes the relevances. It has the allocator's name in every arm, whatever makes them: the
/// allocator, coverage, the grid's neck.
const RELEVANCES: &str = "allocator";

/// A question about a picture, with what else the arms need. It remembers what several arms and budgets
/// share.
pub struct Example {
    image: DecodedImage,
    question: Question,
    /// Another row's question, for [`Arm::Shuffled`].
    pub other: Option<Question>,
    /// The question asked before, for [`Arm::FirstQuestion`].
    pub first: Option<Question>,
    /// Where the answer is, in pixels of the image: left, top, right, bottom.
    pub answer_box: Option<[f32; 4]>,
    /// For [`Arm::Random`].
    pub seed: u64,
    maps: HashMap<Arm, Arc<RelevanceMap>>,
}

/// Relevances, and what came with them.
struct RelevanceMap {
    /// `[P]`, padding not masked.
    relevance: Vec<f32>,
    /// The allocator's own output, where it was asked.
    allocation: Option<Allocation>,
    took: Duration,
}

/// The visual tokens of an example, made by one arm.
#[derive(Debug, Clone)]
pub struct VisualTokens {
    /// `[1, T, H]`.
    pub(super) embeds: Tensor,
    /// Tokens, gist cells included.
    pub tokens: usize,
    /// The adapter's tier.
    pub tier: usize,
    /// What each token is, in the order of the tokens: an index of the patches that the arm gave, or beyond
    /// them of a gist cell.
    pub indices: Vec<i64>,
    /// Of the patches where the answer is, the share that became tokens; `None` without an answer box, or
    /// where tokens are not patches of the picture.
    pub recall: Option<f64>,
    /// Time per stage of the vision side. The encoder runs once for all arms and questions of a picture, and
    /// has here what it took then.
    pub times: StageTimes,
}

impl VisualTokens {
    /// The tokens as the decoder reads them, row by row, `[T, H]`.
    pub fn embeds(&self) -> &[f32] {
        self.embeds.as_slice().unwrap_or(&[])
    }
}

impl Example {
    /// A question about a picture.
    pub fn new(image: DecodedImage, question: Question) -> Self {
        Self { image, question, other: None, first: None, answer_box: None, seed: 0, maps: HashMap::new() }
    }

    /// The question.
    pub fn question(&self) -> &Question {
        &self.question
    }

    fn allocator_question(&self, arm: Arm) -> Result<Option<&Question>, OfflineError> {
        match arm {
            Arm::Agnostic => Ok(None),
            Arm::Shuffled => {
                self.other.as_ref().map(Some).ok_or(OfflineError::MissingInput("question of another row"))
            }
            Arm::FirstQuestion => self.first.as_ref().map(Some).ok_or(OfflineError::MissingInput("`pair`")),
            _ => Ok(Some(&self.question)),
        }
    }
}

impl OfflineModel {
    /// Makes the visual tokens of an example. `arm_budget` comes from [`super::Capacity::arm_budget`] of this
    /// model.
    ///
    /// # Errors
    /// [`OfflineError::MissingInput`] when the example has not what the arm needs, or an engine's error.
    pub fn visual_tokens(
        &mut self,
        example: &mut Example,
        arm_budget: ArmBudget,
        positions: Positions,
    ) -> Result<VisualTokens, OfflineError> {
        match (arm_budget.arm, arm_budget.budget) {
            (Arm::Grid, Budget::Tokens(budget)) => self.grid_tokens(example, budget, positions),
            (Arm::Downsampled, Budget::Tokens(budget)) => self.downsampled_tokens(example, budget, positions),
            _ => self.patch_tokens(example, arm_budget, positions),
        }
    }

    fn grid_tokens(
        &mut self,
        example: &Example,
        budget: usize,
        positions: Positions,
    ) -> Result<VisualTokens, OfflineError> {
        let n = budget.isqrt();
        let encoded = self.vision.encode(&example.image, self.vision.size)?;
        let started = Instant::now();
        let features = self.vision.grid(&encoded, n)?;
        let took = started.elapsed();
        let neutral = Tensor::from_vec(&[1, n * n], vec![NEUTRAL; n * n])?;
        let selection = self.whole_square(&features, &neutral, budget);
        self.finish(&selection, positions, &encoded, took)
    }

    fn downsampled_tokens(
        &mut self,
        example: &Example,
        budget: usize,
        positions: Positions,
    ) -> Result<VisualTokens, OfflineError> {
        let n = budget.isqrt();
        let encoded = self.vision.encode(&example.image, n * self.capacity.patch)?;
        let neutral = vision_runner::masked(vec![NEUTRAL; n * n], &encoded)?;
        let selection = self.whole_square(&encoded.features, &neutral, budget);
        self.finish(&selection, positions, &encoded, Duration::ZERO)
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
        example: &mut Example,
        arm_budget: ArmBudget,
        positions: Positions,
    ) -> Result<VisualTokens, OfflineError> {
        let image = if arm_budget.arm == Arm::Blank { blank(&example.image) } else { example.image.clone() };
        let encoded = self.vision.encode(&image, self.vision.size)?;
        let map = self.relevance_map(example, &encoded, arm_budget.arm)?;
        let (tokens, tier) = self.resolve_budget(arm_budget.budget, &encoded, map.allocation.as_ref());
        let relevance = vision_runner::masked(map.relevance.clone(), &encoded)?;
        let selection = Selection {
            image_features: &encoded.features,
            relevance: &relevance,
            tokens,
            tier,
            positions: None,
        };
        let mut visual = self.finish(&selection, positions, &encoded, map.took)?;
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
        selection: &Selection<'_>,
        positions: Positions,
        encoded: &EncodedImage,
        took: Duration,
    ) -> Result<VisualTokens, OfflineError> {
        let made = self.vision.tokens(selection, positions)?;
        let mut times = encoded.times.clone();
        times.add(RELEVANCES, took);
        times.append(&made.times);
        Ok(VisualTokens {
            indices: made.tokens.indices.as_slice::<i64>()?.to_vec(),
            embeds: made.tokens.embeds,
            tokens: selection.tokens,
            tier: selection.tier,
            recall: None,
            times,
        })
    }

    /// The arm's relevances, made once per example.
    fn relevance_map(
        &mut self,
        example: &mut Example,
        encoded: &EncodedImage,
        arm: Arm,
    ) -> Result<Arc<RelevanceMap>, OfflineError> {
        if let Some(map) = example.maps.get(&arm) {
            return Ok(Arc::clone(map));
        }
        let map = Arc::new(self.make_relevance_map(example, encoded, arm)?);
        example.maps.insert(arm, Arc::clone(&map));
        Ok(map)
    }

    fn make_relevance_map(
        &mut self,
        example: &mut Example,
        encoded: &EncodedImage,
        arm: Arm,
    ) -> Result<RelevanceMap, OfflineError> {
        let (region, patches) = (encoded.region(), encoded.layout.patches());
        let started = Instant::now();
        let relevance = match arm {
            Arm::QueryAware | Arm::Shuffled | Arm::FirstQuestion | Arm::Blank => {
                return self.allocate(example, encoded, arm);
            }
            Arm::Agnostic => {
                let map = self.allocate(example, encoded, arm)?;
                let order = relevance::by_score(&map.relevance, region);
                return Ok(RelevanceMap { relevance: relevance::from_order(&order, patches), ..map });
            }
            Arm::QueryAwareChoice => {
                let map = self.relevance_map(example, encoded, Arm::QueryAware)?;
                let order = relevance::by_score(&map.relevance, region);
                let relevance = relevance::from_order(&order, patches);
                return Ok(RelevanceMap { relevance, allocation: None, took: map.took });
            }
            Arm::Coverage => return self.cover(example, encoded),
            Arm::Uniform => relevance::from_order(&relevance::spread(region), patches),
            Arm::Random => relevance::from_order(&relevance::random(region, example.seed), patches),
            Arm::Saliency => {
                let pixels = &encoded.pixels.tensor;
                let pixels = pixels.as_slice::<f32>()?;
                let scores = saliency::scores(pixels, region, self.capacity.patch);
                relevance::from_order(&relevance::by_score(&scores, region), patches)
            }
            Arm::Oracle => {
                let answer_box = example.answer_box.ok_or(OfflineError::MissingInput("`box`"))?;
                let answer = patches_in(encoded, answer_box);
                if answer.is_empty() {
                    return Err(OfflineError::MissingInput("`box` inside its image"));
                }
                relevance::oracle(&answer, patches)
            }
            // `Full` keeps everything. The other two are given their tokens elsewhere, from features of their
            // own.
            Arm::Full | Arm::Grid | Arm::Downsampled => vec![NEUTRAL; patches],
        };
        Ok(RelevanceMap { relevance, allocation: None, took: started.elapsed() })
    }

    fn allocate(
        &mut self,
        example: &Example,
        encoded: &EncodedImage,
        arm: Arm,
    ) -> Result<RelevanceMap, OfflineError> {
        let query = match example.allocator_question(arm)? {
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
fn patches_in(encoded: &EncodedImage, [left, top, right, bottom]: [f32; 4]) -> Vec<usize> {
    let overlaps = |&patch: &usize| {
        let [x0, y0, x1, y1] =
            encoded.layout.rect(Token::Fine(patch), encoded.pixels.original, encoded.pixels.resized);
        x1.min(right) > x0.max(left) && y1.min(bottom) > y0.max(top)
    };
    encoded.region().filled().filter(overlaps).collect()
}

/// Of `wanted`, the share among the token indices.
fn recall(wanted: &[usize], indices: &[i64]) -> Option<f64> {
    let found = wanted.iter().filter(|&&patch| indices.contains(&(patch as i64))).count();
    (!wanted.is_empty()).then(|| found as f64 / wanted.len() as f64)
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
    fn recall_is_the_share_of_the_answers_patches() {
        assert_eq!(recall(&[3, 4, 9], &[100, 4, 7, 9]), Some(2.0 / 3.0));
        assert_eq!(recall(&[3], &[100, 4]), Some(0.0));
        assert_eq!(recall(&[], &[1]), None);
    }

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
