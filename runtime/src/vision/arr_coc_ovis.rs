//! The vision stages of the composite model (design section 4.1), in the order in which they run:
//! `vision_encoder` -> `allocator` -> padding masked -> `compressor` -> `refiner` -> `quality_adapter`.
//!
//! One graph's outputs are the next one's inputs as they lie in memory; only the masked relevance, one float per patch, is
//! written anew, and only where there is padding.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::arms::Positions;
use crate::bundle::Bundle;
use crate::engine::{EngineError, Graph, Runtime};
use crate::error::LoadError;
use crate::generate::{Observer, Place, Receipt, Stage};
use crate::image::PixelValues;
use crate::tensor::Tensor;

use super::layout::{Layout, Token};

/// Relevance of a patch that holds no picture: below every sigmoid, above the compressor's own filler.
const PADDING: f32 = -1.0;

/// Measures stages, for the caller and for the observer.
pub(crate) struct Timer {
    observer: Arc<dyn Observer>,
    stages: Vec<(Stage, Duration)>,
}

impl Timer {
    pub(crate) fn new(observer: Arc<dyn Observer>) -> Self {
        Self { observer, stages: Vec::new() }
    }

    pub(crate) fn time<T>(
        &mut self,
        stage: Stage,
        run: impl FnOnce() -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let started = Instant::now();
        let result = run()?;
        let took = started.elapsed();
        self.observer.stage(stage, took);
        self.stages.push((stage, took));
        Ok(result)
    }

    pub(crate) fn into_stages(self) -> Vec<(Stage, Duration)> {
        self.stages
    }
}

/// What the allocator says about one image and one question. P patches, E tiers.
pub(crate) struct Allocation {
    /// `[1, P]`, 0..1.
    pub(crate) relevance: Tensor,
    /// `[1, 3, P]`, 0..1.
    knowing: Tensor,
    /// Sum to 1.
    tension_weights: [f32; 3],
    /// `[E]`.
    tier_logits: Vec<f32>,
}

impl Allocation {
    /// The likeliest tier among those with at most `room` tokens; the smallest one, if none has so few.
    pub(crate) fn best_tier(&self, budgets: &[usize], room: usize) -> usize {
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

/// Visual tokens and where they come from: what the visual-token cache holds.
#[derive(Debug, Clone)]
pub(super) struct Selected {
    /// `[1, T, H]`.
    pub(super) embeds: Tensor,
    pub(super) receipt: Arc<Receipt>,
}

impl Selected {
    /// Memory that it holds, bytes.
    pub(super) fn bytes(&self) -> usize {
        self.embeds.bytes().len() + self.receipt.places.len() * size_of::<Place>() + size_of::<Receipt>()
    }
}

/// What is to become visual tokens.
pub(crate) struct Selection<'a> {
    /// `[1, P, C]`.
    pub(crate) image_features: &'a Tensor,
    /// `[1, P]`; the largest are taken, padding is negative.
    pub(crate) relevance: &'a Tensor,
    /// How many tokens.
    pub(crate) tokens: usize,
    /// The adapter's tier.
    pub(crate) tier: usize,
    /// Where the refiner takes them to be.
    pub(crate) positions: Positions,
}

/// Visual tokens in the decoder's space.
pub(crate) struct Tokens {
    /// `[1, T, H]`.
    pub(crate) embeds: Tensor,
    /// `[1, T]`: below P a patch, from P on a gist cell.
    pub(crate) indices: Tensor,
}

/// The graphs.
pub(crate) struct Pipeline {
    vision_encoder: Stepper,
    allocator: Stepper,
    compressor: Stepper,
    refiner: Stepper,
    quality_adapter: Stepper,
}

impl Pipeline {
    pub(crate) fn load(bundle: &Bundle, runtime: &dyn Runtime) -> Result<Self, LoadError> {
        let load = |name| Ok::<_, LoadError>(Stepper { name, graph: bundle.load_graph(runtime, name)? });
        Ok(Self {
            vision_encoder: load("vision_encoder")?,
            allocator: load("allocator")?,
            compressor: load("compressor")?,
            refiner: load("refiner")?,
            quality_adapter: load("quality_adapter")?,
        })
    }

    /// `pixel_values [1, 3, S, S]` to `image_features [1, P, C]`.
    pub(crate) fn encode(&mut self, pixel_values: &Tensor, timer: &mut Timer) -> Result<Tensor, EngineError> {
        timer.time(Stage::VisionEncoder, || {
            let mut outputs = self.vision_encoder.run(&[("pixel_values", pixel_values)])?;
            outputs.take("image_features")
        })
    }

    /// Scores every patch for a question, `query_embeds [1, Q, H]`.
    pub(crate) fn allocate(
        &mut self,
        image_features: &Tensor,
        query_embeds: &Tensor,
        timer: &mut Timer,
    ) -> Result<Allocation, EngineError> {
        timer.time(Stage::Allocator, || {
            let length = query_embeds.shape().get(1).copied().unwrap_or(0);
            let query_mask = Tensor::from_vec(&[1, length], vec![1i64; length])?;
            let inputs = [
                ("image_features", image_features),
                ("query_embeds", query_embeds),
                ("query_mask", &query_mask),
            ];
            let mut outputs = self.allocator.run(&inputs)?;
            let tension_weights = outputs.take("tension_weights")?;
            let Ok(tension_weights) = <[f32; 3]>::try_from(tension_weights.as_slice::<f32>()?) else {
                return Err(unexpected("allocator", "tension_weights", &[1, 3], &tension_weights));
            };
            Ok(Allocation {
                relevance: outputs.take("relevance")?,
                knowing: outputs.take("knowing")?,
                tension_weights,
                tier_logits: outputs.take("tier_logits")?.as_slice::<f32>()?.to_vec(),
            })
        })
    }

    /// Takes the tokens of a tier and brings them into the decoder's space.
    pub(super) fn select(
        &mut self,
        image_features: &Tensor,
        allocation: Allocation,
        layout: &Layout,
        image: &PixelValues,
        (tier, budget): (usize, usize),
        timer: &mut Timer,
    ) -> Result<Selected, EngineError> {
        let relevance = mask_padding(&allocation.relevance, layout, image.resized)?;
        let positions = Positions::Original;
        let selection = Selection { image_features, relevance: &relevance, tokens: budget, tier, positions };
        let Tokens { embeds, indices } = self.tokens(&selection, timer)?;
        let places = places(indices.as_slice::<i64>()?, &allocation, layout, image)
            .ok_or_else(|| unexpected("compressor", "token_indices", &[1, budget], &indices))?;
        let receipt = Receipt {
            tier,
            tokens: budget,
            tier_logits: allocation.tier_logits,
            tension_weights: allocation.tension_weights,
            image_size: image.original,
            places,
        };
        Ok(Selected { embeds, receipt: Arc::new(receipt) })
    }

    /// Compresses, refines and adapts.
    pub(crate) fn tokens(
        &mut self,
        selection: &Selection<'_>,
        timer: &mut Timer,
    ) -> Result<Tokens, EngineError> {
        let &Selection { image_features, relevance, tokens, tier, positions } = selection;
        let mut compressed = timer.time(Stage::Compressor, || {
            let token_slots = Tensor::from_vec(&[tokens], vec![0_i64; tokens])?;
            let inputs =
                [("image_features", image_features), ("relevance", relevance), ("token_slots", &token_slots)];
            self.compressor.run(&inputs)
        })?;
        let visual_tokens = compressed.take("visual_tokens")?;
        let token_positions = match positions {
            Positions::Original => compressed.take("token_positions")?,
            Positions::Repacked => Tensor::from_vec(&[1, tokens, 2], Positions::repacked(tokens))?,
        };
        let refined_tokens = timer.time(Stage::Refiner, || {
            let inputs = [("visual_tokens", &visual_tokens), ("token_positions", &token_positions)];
            self.refiner.run(&inputs)?.take("refined_tokens")
        })?;
        let embeds = timer.time(Stage::QualityAdapter, || {
            let tier = Tensor::from_vec(&[1], vec![tier as i64])?;
            let inputs = [("refined_tokens", &refined_tokens), ("tier", &tier)];
            self.quality_adapter.run(&inputs)?.take("visual_embeds")
        })?;
        Ok(Tokens { embeds, indices: compressed.take("token_indices")? })
    }
}

/// Relevance with padding pushed below everything else, so that it is picked last.
pub(crate) fn mask_padding(
    relevance: &Tensor,
    layout: &Layout,
    resized: [u32; 2],
) -> Result<Tensor, EngineError> {
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
fn places(
    indices: &[i64],
    allocation: &Allocation,
    layout: &Layout,
    image: &PixelValues,
) -> Option<Vec<Place>> {
    let relevance = allocation.relevance.as_slice::<f32>().ok()?;
    let knowing = allocation.knowing.as_slice::<f32>().ok()?;
    if relevance.len() != layout.patches() || knowing.len() != 3 * relevance.len() {
        return None;
    }
    let valid = layout.valid_region(image.resized);
    let masked = |patch: usize| {
        let (row, column) = layout.position(patch);
        if valid.contains(row, column) { relevance[patch] } else { 0.0 }
    };
    let place = |&index: &i64| {
        let token = layout.token(index)?;
        let count = layout.patches_of(token).count() as f32;
        let mean = |value: &dyn Fn(usize) -> f32| layout.patches_of(token).map(value).sum::<f32>() / count;
        Some(Place {
            rect: layout.rect(token, image.original, image.resized),
            relevance: mean(&masked),
            gist: matches!(token, Token::Gist(_)),
            knowing: std::array::from_fn(|way| mean(&|patch| knowing[way * relevance.len() + patch])),
        })
    };
    indices.iter().map(place).collect()
}

/// A graph and its name.
struct Stepper {
    name: &'static str,
    graph: Box<dyn Graph>,
}

impl Stepper {
    fn run(&mut self, inputs: &[(&str, &Tensor)]) -> Result<Outputs, EngineError> {
        let inputs: Vec<_> = inputs.iter().map(|&(name, tensor)| (name, tensor.clone())).collect();
        Ok(Outputs { graph: self.name, tensors: self.graph.run(&inputs)? })
    }
}

/// What a graph returned.
struct Outputs {
    graph: &'static str,
    tensors: Vec<(String, Tensor)>,
}

impl Outputs {
    fn take(&mut self, name: &str) -> Result<Tensor, EngineError> {
        match self.tensors.iter().position(|(output, _)| output == name) {
            Some(at) => Ok(self.tensors.swap_remove(at).1),
            None => Err(EngineError::Run {
                graph: self.graph.to_owned(),
                reason: format!("expected an output `{name}`, found none; export the checkpoint again"),
            }),
        }
    }
}

fn unexpected(graph: &'static str, output: &str, expected: &[usize], found: &Tensor) -> EngineError {
    let reason = format!(
        "output `{output}`: expected shape {expected:?} for this input size, found {:?}; export the checkpoint again",
        found.shape()
    );
    EngineError::Run { graph: graph.to_owned(), reason }
}
