//! One question about one picture, looked at with an arm.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::image::{Rgb, RgbImage};
use ndarray::{Array2, Axis};
use sha2::{Digest as _, Sha256};

use super::eye::{self, Seen, matrix};
use super::{Lab, LabError, Plan, Question, Times};
use crate::arms::relevance::{self, NEUTRAL};
use crate::arms::{Arm, Positions, coverage, saliency};
use crate::generate::Budget;
use crate::image::DecodedImage;
use crate::tensor::Tensor;
use crate::vision::arr_coc_ovis::{Allocation, Choice};
use crate::vision::layout::Token;

/// A question about a picture, with what else the arms need. It remembers what several arms and budgets share.
pub struct Subject {
    image: DecodedImage,
    question: Question,
    /// Another row's question, for [`Arm::Shuffled`].
    pub other: Option<Question>,
    /// The question asked before, for [`Arm::FirstQuestion`].
    pub first: Option<Question>,
    /// Where the answer is, in pixels of the image: left, top, right, bottom.
    pub place: Option<[f32; 4]>,
    /// For [`Arm::Random`].
    pub seed: u64,
    maps: HashMap<Arm, Arc<Map>>,
}

/// Relevances, and what came with them.
struct Map {
    /// `[P]`, padding not masked.
    relevance: Vec<f32>,
    /// The allocator's own output, where it was asked.
    allocation: Option<Allocation>,
    took: Duration,
}

/// The visual tokens of a subject, made by one arm.
#[derive(Debug, Clone)]
pub struct Look {
    /// `[1, T, H]`.
    pub(super) embeds: Tensor,
    /// Tokens, gist cells included.
    pub tokens: usize,
    /// The adapter's tier.
    pub tier: usize,
    /// Of the patches where the answer is, the share that became tokens; `None` without a place, or where tokens are not
    /// patches of the picture.
    pub recall: Option<f64>,
    /// Time per stage.
    pub times: Times,
}

impl Look {
    /// The tokens as the decoder reads them, row by row, `[T, H]`.
    pub fn embeds(&self) -> &[f32] {
        self.embeds.as_slice().unwrap_or(&[])
    }
}

impl Subject {
    /// A question about a picture.
    pub fn new(image: DecodedImage, question: Question) -> Self {
        Self { image, question, other: None, first: None, place: None, seed: 0, maps: HashMap::new() }
    }

    /// The question.
    pub fn question(&self) -> &Question {
        &self.question
    }

    fn asked(&self, arm: Arm) -> Result<Option<&Question>, LabError> {
        match arm {
            Arm::Agnostic => Ok(None),
            Arm::Shuffled => self.other.as_ref().map(Some).ok_or(LabError::Lacks("question of another row")),
            Arm::FirstQuestion => self.first.as_ref().map(Some).ok_or(LabError::Lacks("`pair`")),
            _ => Ok(Some(&self.question)),
        }
    }
}

impl Lab {
    /// Makes the visual tokens of a subject. `plan` comes from [`super::Room::plan`] of this lab.
    ///
    /// # Errors
    /// [`LabError::Lacks`] when the subject has not what the arm needs, or an engine's error.
    pub fn look(
        &mut self,
        subject: &mut Subject,
        plan: Plan,
        positions: Positions,
    ) -> Result<Look, LabError> {
        match (plan.arm, plan.budget) {
            (Arm::Grid, Budget::Tokens(budget)) => self.look_at_grid(subject, budget, positions),
            (Arm::Downsampled, Budget::Tokens(budget)) => self.look_at_smaller(subject, budget, positions),
            _ => self.look_at_patches(subject, plan, positions),
        }
    }

    fn look_at_grid(
        &mut self,
        subject: &Subject,
        budget: usize,
        positions: Positions,
    ) -> Result<Look, LabError> {
        let n = budget.isqrt();
        let seen = self.eye.see(&subject.image, self.eye.size)?;
        let started = Instant::now();
        let features = self.eye.grid(&seen, n)?;
        let took = started.elapsed();
        let neutral = Tensor::from_vec(&[1, n * n], vec![NEUTRAL; n * n])?;
        let (tokens, tier) = (n * n + self.room.cells(), self.room.nearest_tier(budget));
        let choice = Choice { image_features: &features, relevance: &neutral, tokens, tier, positions };
        self.finish(&choice, &seen, took)
    }

    fn look_at_smaller(
        &mut self,
        subject: &Subject,
        budget: usize,
        positions: Positions,
    ) -> Result<Look, LabError> {
        let n = budget.isqrt();
        let seen = self.eye.see(&subject.image, n * self.room.patch)?;
        let neutral = eye::masked(vec![NEUTRAL; n * n], &seen)?;
        let (tokens, tier) = (n * n + self.room.cells(), self.room.nearest_tier(budget));
        let choice = Choice { image_features: &seen.features, relevance: &neutral, tokens, tier, positions };
        self.finish(&choice, &seen, Duration::ZERO)
    }

    fn look_at_patches(
        &mut self,
        subject: &mut Subject,
        plan: Plan,
        positions: Positions,
    ) -> Result<Look, LabError> {
        let image = if plan.arm == Arm::Blank { blank(&subject.image) } else { subject.image.clone() };
        let seen = self.eye.see(&image, self.eye.size)?;
        let map = self.map(subject, &seen, plan.arm)?;
        let (tokens, tier) = self.amount(plan.budget, &seen, map.allocation.as_ref());
        let relevance = eye::masked(map.relevance.clone(), &seen)?;
        let choice =
            Choice { image_features: &seen.features, relevance: &relevance, tokens, tier, positions };
        let (mut look, indices) = self.finish_with_indices(&choice, &seen, map.took)?;
        look.recall = subject.place.and_then(|place| recall(&patches_in(&seen, place), &indices));
        Ok(look)
    }

    /// Tokens and tier.
    fn amount(&self, budget: Budget, seen: &Seen, allocation: Option<&Allocation>) -> (usize, usize) {
        let region = seen.region();
        let filled = region.columns * region.rows;
        match budget {
            Budget::Tokens(tokens) => (tokens, self.room.nearest_tier(tokens)),
            Budget::Full => {
                let tokens = filled.min(self.room.most_fine()) + self.room.cells();
                (tokens, self.room.nearest_tier(tokens))
            }
            Budget::Auto => {
                let most = self.room.patches() + self.room.cells();
                let possible = self.room.budgets.iter().filter(|&&budget| budget <= most).count();
                let budgets = &self.room.budgets[..possible];
                let room = filled + self.room.cells();
                let tier = allocation.map_or(0, |allocation| allocation.best_tier(budgets, room));
                (self.room.budgets[tier], tier)
            }
        }
    }

    fn finish(&mut self, choice: &Choice<'_>, seen: &Seen, took: Duration) -> Result<Look, LabError> {
        Ok(self.finish_with_indices(choice, seen, took)?.0)
    }

    fn finish_with_indices(
        &mut self,
        choice: &Choice<'_>,
        seen: &Seen,
        took: Duration,
    ) -> Result<(Look, Vec<i64>), LabError> {
        let made = self.eye.tokens(choice)?;
        let times = Times { encode: seen.encode, allocator: took, ..made.times };
        let look = Look {
            embeds: made.tokens.embeds,
            tokens: choice.tokens,
            tier: choice.tier,
            recall: None,
            times,
        };
        let indices = made.tokens.indices.as_slice::<i64>()?.to_vec();
        Ok((look, indices))
    }

    /// The arm's relevances, made once per subject.
    fn map(&mut self, subject: &mut Subject, seen: &Seen, arm: Arm) -> Result<Arc<Map>, LabError> {
        if let Some(map) = subject.maps.get(&arm) {
            return Ok(Arc::clone(map));
        }
        let map = Arc::new(self.make_map(subject, seen, arm)?);
        subject.maps.insert(arm, Arc::clone(&map));
        Ok(map)
    }

    fn make_map(&mut self, subject: &mut Subject, seen: &Seen, arm: Arm) -> Result<Map, LabError> {
        let (region, patches) = (seen.region(), seen.layout.patches());
        let started = Instant::now();
        let relevance = match arm {
            Arm::QueryAware | Arm::Shuffled | Arm::FirstQuestion | Arm::Blank => {
                return self.allocate(subject, seen, arm);
            }
            Arm::Agnostic => {
                let map = self.allocate(subject, seen, arm)?;
                let order = relevance::by_score(&map.relevance, region);
                return Ok(Map { relevance: relevance::from_order(&order, patches), ..map });
            }
            Arm::QueryAwareChoice => {
                let map = self.map(subject, seen, Arm::QueryAware)?;
                let order = relevance::by_score(&map.relevance, region);
                let relevance = relevance::from_order(&order, patches);
                return Ok(Map { relevance, allocation: None, took: map.took });
            }
            Arm::Coverage => return self.cover(subject, seen),
            Arm::Uniform => relevance::from_order(&relevance::spread(region), patches),
            Arm::Random => relevance::from_order(&relevance::random(region, subject.seed), patches),
            Arm::Saliency => {
                let pixels = &seen.pixels.tensor;
                let pixels = pixels.as_slice::<f32>()?;
                let scores = saliency::scores(pixels, region, self.room.patch);
                relevance::from_order(&relevance::by_score(&scores, region), patches)
            }
            Arm::Oracle => {
                let place = subject.place.ok_or(LabError::Lacks("`box`"))?;
                let answer = patches_in(seen, place);
                if answer.is_empty() {
                    return Err(LabError::Lacks("`box` inside its image"));
                }
                relevance::oracle(&answer, patches)
            }
            // These two never come here: their features are not the picture's.
            Arm::Full | Arm::Grid | Arm::Downsampled => vec![NEUTRAL; patches],
        };
        Ok(Map { relevance, allocation: None, took: started.elapsed() })
    }

    fn allocate(&mut self, subject: &Subject, seen: &Seen, arm: Arm) -> Result<Map, LabError> {
        let query = match subject.asked(arm)? {
            Some(question) => Some(self.embedder.embed(question.ids())?),
            None => None,
        };
        let (allocation, took) = self.eye.allocate(&seen.features, query.as_ref())?;
        let relevance = allocation.relevance.as_slice::<f32>()?.to_vec();
        Ok(Map { relevance, allocation: Some(allocation), took })
    }

    fn cover(&mut self, subject: &Subject, seen: &Seen) -> Result<Map, LabError> {
        let (region, patches, room) = (seen.region(), seen.layout.patches(), self.room.clone());
        let (visual, panorama) =
            self.eye.panorama(seen, room.most_fine(), |tokens| room.nearest_tier(tokens))?;
        let text = matrix(&self.embedder.embed(subject.question.ids())?)?;
        let started = Instant::now();
        // Padding is neither covered nor chosen.
        let filled: Vec<usize> = region.filled().collect();
        let only_filled = |rows: &Array2<f32>| rows.select(Axis(0), &filled);
        let features = only_filled(&matrix(&seen.features)?);
        let rows = coverage::mmtok_rows(text.view(), only_filled(&visual).view(), features.view());
        let most = filled.len().min(room.most_fine());
        let chosen = coverage::greedy_coverage(rows.coverage.view(), &rows.weights, most);
        // What no budget reaches follows in the order of the grid.
        let mut left = vec![true; filled.len()];
        chosen.iter().for_each(|&at| left[at] = false);
        let rest = (0..filled.len()).filter(|&at| left[at]);
        let order: Vec<usize> = chosen.iter().copied().chain(rest).map(|at| filled[at]).collect();
        let relevance = relevance::from_order(&order, patches);
        Ok(Map { relevance, allocation: None, took: panorama + started.elapsed() })
    }
}

/// The patches that a rectangle in pixels of the image covers, if only in part.
fn patches_in(seen: &Seen, [left, top, right, bottom]: [f32; 4]) -> Vec<usize> {
    let overlaps = |&patch: &usize| {
        let [x0, y0, x1, y1] =
            seen.layout.rect(Token::Fine(patch), seen.pixels.original, seen.pixels.resized);
        x1.min(right) > x0.max(left) && y1.min(bottom) > y0.max(top)
    };
    seen.region().filled().filter(overlaps).collect()
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
