//! The `arrcoc` object of an answer that explains itself: where the tokens of each image went.

use arrcoc_runtime::generate::{Allocation, Place, Receipt};
use schemars::JsonSchema;
use serde::Serialize;

/// Where the visual tokens went.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Explanation {
    images: Vec<ExplainedImage>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(inline)]
struct ExplainedImage {
    tokens: usize,
    /// What the model's allocator said; absent in models without one
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    allocation: Option<ExplainedAllocation>,
    /// Width and height
    image_size: [u32; 2],
    places: Vec<ExplainedPlace>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(inline)]
struct ExplainedAllocation {
    /// Which of the model's token budgets the image got, counted from 0
    tier: usize,
    tier_logits: Vec<f64>,
    tension_weights: TensionWeights,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(inline)]
struct TensionWeights {
    propositional: f64,
    perspectival: f64,
    participatory: f64,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(inline)]
struct ExplainedPlace {
    /// Left, top, right, bottom in pixels of the original image
    rect: [f64; 4],
    /// Tile, row and column in the tile's grid of tokens
    cell: [u32; 3],
    /// A view of the whole picture rather than a detail
    gist: bool,
    /// Why the token was taken; absent where nothing chose
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    score: Option<ExplainedScore>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(inline)]
struct ExplainedScore {
    #[schemars(range(min = 0, max = 1))]
    relevance: f64,
    /// The three scorers at this place
    knowing: [f64; 3],
}

impl From<&[Receipt]> for Explanation {
    fn from(receipts: &[Receipt]) -> Self {
        Self { images: receipts.iter().map(ExplainedImage::from).collect() }
    }
}

impl From<&Receipt> for ExplainedImage {
    fn from(receipt: &Receipt) -> Self {
        Self {
            tokens: receipt.tokens,
            allocation: receipt.allocation.as_ref().map(ExplainedAllocation::from),
            image_size: receipt.image_size,
            places: receipt.places.iter().map(ExplainedPlace::from).collect(),
        }
    }
}

impl From<&Allocation> for ExplainedAllocation {
    fn from(allocation: &Allocation) -> Self {
        let [propositional, perspectival, participatory] = allocation.tension_weights.map(f64::from);
        Self {
            tier: allocation.tier,
            tier_logits: allocation.tier_logits.iter().copied().map(f64::from).collect(),
            tension_weights: TensionWeights { propositional, perspectival, participatory },
        }
    }
}

impl From<&Place> for ExplainedPlace {
    fn from(place: &Place) -> Self {
        let score = place.score.map(|score| ExplainedScore {
            relevance: score.relevance.into(),
            knowing: score.knowing.map(f64::from),
        });
        Self { rect: place.rect.map(f64::from), cell: place.cell, gist: place.gist, score }
    }
}
