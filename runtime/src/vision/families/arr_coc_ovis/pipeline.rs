//! The composite's graphs, in the order in which they run:
//! `vision_encoder` -> `allocator` -> padding masked -> `compressor` -> `refiner` -> `quality_adapter`.
//!
//! One graph's outputs are the next one's inputs as they lie in memory; only the masked relevance, one float
//! per patch, is written anew, and only where there is padding. Experiments put their own relevances in the
//! allocator's place.

use arrcoc_bundle::Bundle;
use arrcoc_bundle::names::tensor;

use super::patch_grid::{PatchGrid, Token};
use crate::error::LoadError;
use crate::generate::{self, Place, Receipt, Score};
use crate::library::{Library, LibraryError};
use crate::tensor::Tensor;
use crate::vision::family::Visual;
use crate::vision::stages::{Stages, Step, unexpected};

/// The graph that makes features of pixels.
pub const ENCODER: &str = "vision_encoder";
pub(super) const ALLOCATOR: &str = "allocator";
/// The graph that takes the tokens.
pub const COMPRESSOR: &str = "compressor";
/// The graph that refines them.
pub const REFINER: &str = "refiner";
/// The graph that brings them into the decoder's space.
pub const ADAPTER: &str = "quality_adapter";

/// What a bundle of this family has besides the embedding and the decoder.
pub(super) const GRAPHS: [&str; 5] = [ENCODER, ALLOCATOR, COMPRESSOR, REFINER, ADAPTER];

/// Relevance of a patch that holds no picture: below every sigmoid, above the compressor's own filler.
const PADDING: f32 = -1.0;

/// How a picture lies in the encoder's input.
#[derive(Debug, Clone, Copy)]
pub struct View {
    /// Width and height of the picture, pixels.
    pub original: [u32; 2],
    /// Width and height that it has in the encoder's input, pixels; the rest is padding.
    pub resized: [u32; 2],
}

/// What the allocator says about one image and one question. P patches, E tiers.
pub struct Allocation {
    /// `[1, P]`, 0..1.
    pub relevance: Tensor,
    /// `[1, 3, P]`, 0..1.
    knowing: Tensor,
    /// Sum to 1.
    tension_weights: [f32; 3],
    /// `[E]`.
    tier_logits: Vec<f32>,
}

impl Allocation {
    /// The likeliest tier among those with at most `room` tokens; the smallest one, if none has so few.
    pub fn best_tier(&self, budgets: &[usize], room: usize) -> usize {
        let candidates = self.tier_logits.iter().zip(budgets).enumerate();
        let fitting = candidates.filter(|(_, (_, budget))| **budget <= room);
        // The first of equal logits wins, as `argmax` has it; `max_by` would take the last.
        let best = fitting.fold(None, |best: Option<(usize, f32)>, (tier, (&logit, _))| match best {
            Some((_, highest)) if logit > highest => Some((tier, logit)),
            Some(best) => Some(best),
            None => Some((tier, logit)),
        });
        best.map_or(0, |(tier, _)| tier)
    }
}

/// What is to become visual tokens.
#[derive(Clone, Copy)]
pub struct Selection<'a> {
    /// `[1, P, C]`.
    pub image_features: &'a Tensor,
    /// `[1, P]`; the largest are taken, padding is negative.
    pub relevance: &'a Tensor,
    /// How many tokens.
    pub tokens: usize,
    /// The adapter's tier.
    pub tier: usize,
    /// `[1, T, 2]`: where the refiner is to take them to be; `None` for where they are.
    pub positions: Option<&'a Tensor>,
}

/// Visual tokens in the decoder's space.
pub struct Tokens {
    /// `[1, T, H]`.
    pub embeds: Tensor,
    /// `[1, T]`: below P a patch, from P on a gist cell.
    pub indices: Tensor,
}

/// The graphs.
pub struct Pipeline {
    encoder: Step,
    allocator: Step,
    compressor: Step,
    refiner: Step,
    adapter: Step,
}

impl Pipeline {
    /// Loads them.
    ///
    /// # Errors
    /// [`LoadError`] when one does not load.
    pub fn load(bundle: &Bundle, library: &dyn Library) -> Result<Self, LoadError> {
        let load = |name| Step::load(bundle, library, name);
        Ok(Self {
            encoder: load(ENCODER)?,
            allocator: load(ALLOCATOR)?,
            compressor: load(COMPRESSOR)?,
            refiner: load(REFINER)?,
            adapter: load(ADAPTER)?,
        })
    }

    /// `pixel_values [1, 3, S, S]` to `image_features [1, P, C]`.
    ///
    /// # Errors
    /// [`LibraryError`], as for the other stages.
    pub fn encode(&mut self, pixel_values: &Tensor, stages: &mut Stages<'_>) -> Result<Tensor, LibraryError> {
        self.encoder.run(&[(tensor::PIXEL_VALUES, pixel_values)], stages)?.take(tensor::IMAGE_FEATURES)
    }

    /// Scores every patch for a question, `query_embeds [1, Q, H]`.
    ///
    /// # Errors
    /// [`LibraryError`].
    pub fn allocate(
        &mut self,
        image_features: &Tensor,
        query_embeds: &Tensor,
        stages: &mut Stages<'_>,
    ) -> Result<Allocation, LibraryError> {
        let length = query_embeds.shape().get(1).copied().unwrap_or(0);
        let query_mask = Tensor::from_vec(&[1, length], vec![1i64; length])?;
        let inputs = [
            (tensor::IMAGE_FEATURES, image_features),
            ("query_embeds", query_embeds),
            ("query_mask", &query_mask),
        ];
        let mut outputs = self.allocator.run(&inputs, stages)?;
        let tension_weights = outputs.take("tension_weights")?;
        let Ok(tension_weights) = <[f32; 3]>::try_from(tension_weights.as_slice::<f32>()?) else {
            return Err(unexpected(ALLOCATOR, "tension_weights", &[1, 3], &tension_weights));
        };
        Ok(Allocation {
            relevance: outputs.take("relevance")?,
            knowing: outputs.take("knowing")?,
            tension_weights,
            tier_logits: outputs.take("tier_logits")?.as_slice::<f32>()?.to_vec(),
        })
    }

    /// Takes the tokens of a tier and brings them into the decoder's space.
    pub(super) fn select(
        &mut self,
        image_features: &Tensor,
        allocation: Allocation,
        layout: &PatchGrid,
        view: &View,
        (tier, budget): (usize, usize),
        stages: &mut Stages<'_>,
    ) -> Result<Visual, LibraryError> {
        let relevance = mask_padding(&allocation.relevance, layout, view.resized)?;
        let selection =
            Selection { image_features, relevance: &relevance, tokens: budget, tier, positions: None };
        let Tokens { embeds, indices } = self.tokens(&selection, stages)?;
        let places = places(indices.as_slice::<i64>()?, &allocation, layout, view)
            .ok_or_else(|| unexpected(COMPRESSOR, "token_indices", &[1, budget], &indices))?;
        let receipt = Receipt {
            allocation: Some(generate::Allocation {
                tier,
                tier_logits: allocation.tier_logits,
                tension_weights: allocation.tension_weights,
            }),
            ..Receipt::of_all(view.original, places)
        };
        Ok(Visual::new(embeds, vec![0..budget], receipt))
    }

    /// Compresses, refines and adapts.
    ///
    /// # Errors
    /// [`LibraryError`].
    pub fn tokens(
        &mut self,
        selection: &Selection<'_>,
        stages: &mut Stages<'_>,
    ) -> Result<Tokens, LibraryError> {
        let &Selection { image_features, relevance, tokens, tier, positions } = selection;
        let token_slots = Tensor::from_vec(&[tokens], vec![0_i64; tokens])?;
        let inputs = [
            (tensor::IMAGE_FEATURES, image_features),
            ("relevance", relevance),
            ("token_slots", &token_slots),
        ];
        let mut compressed = self.compressor.run(&inputs, stages)?;
        let visual_tokens = compressed.take("visual_tokens")?;
        let own_positions = compressed.take("token_positions")?;
        let token_positions = positions.unwrap_or(&own_positions);
        let inputs = [("visual_tokens", &visual_tokens), ("token_positions", token_positions)];
        let refined_tokens = self.refiner.run(&inputs, stages)?.take("refined_tokens")?;
        let tier = Tensor::from_vec(&[1], vec![tier as i64])?;
        let inputs = [("refined_tokens", &refined_tokens), ("tier", &tier)];
        let embeds = self.adapter.run(&inputs, stages)?.take("visual_embeds")?;
        Ok(Tokens { embeds, indices: compressed.take("token_indices")? })
    }
}

/// Relevance with padding pushed below everything else, so that it is picked last.
pub fn mask_padding(
    relevance: &Tensor,
    layout: &PatchGrid,
    resized: [u32; 2],
) -> Result<Tensor, LibraryError> {
    let valid = layout.valid_region(resized);
    if valid.patches() == layout.patches() {
        return Ok(relevance.clone());
    }
    let mask = |(patch, &relevance): (usize, &f32)| {
        let (row, column) = layout.position(patch);
        if valid.contains(row, column) { relevance } else { PADDING }
    };
    let masked = relevance.as_slice::<f32>()?.iter().enumerate().map(mask).collect();
    Ok(Tensor::from_vec(relevance.shape(), masked)?)
}

/// Where the tokens look; `None` when the graphs disagree about the number of patches.
fn places(indices: &[i64], allocation: &Allocation, layout: &PatchGrid, view: &View) -> Option<Vec<Place>> {
    let relevance = allocation.relevance.as_slice::<f32>().ok()?;
    let knowing = allocation.knowing.as_slice::<f32>().ok()?;
    if relevance.len() != layout.patches() || knowing.len() != 3 * relevance.len() {
        return None;
    }
    let valid = layout.valid_region(view.resized);
    let masked = |patch: usize| {
        let (row, column) = layout.position(patch);
        if valid.contains(row, column) { relevance[patch] } else { 0.0 }
    };
    let place = |&index: &i64| {
        let token = layout.token(index)?;
        let count = layout.patches_of(token).count() as f32;
        let mean = |value: &dyn Fn(usize) -> f32| layout.patches_of(token).map(value).sum::<f32>() / count;
        let knowing = std::array::from_fn(|way| mean(&|patch| knowing[way * relevance.len() + patch]));
        Some(Place {
            rect: layout.rect(token, view.original, view.resized),
            cell: layout.cell(token),
            gist: matches!(token, Token::Gist(_)),
            score: Some(Score { relevance: mean(&masked), knowing }),
            ..Place::default()
        })
    };
    indices.iter().map(place).collect()
}
