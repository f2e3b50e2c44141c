//! The `arrcoc` object of an answer that explains itself: where the tokens of each image went.

use arrcoc_runtime::generate::{Allocation, Place, Reason, Receipt, Selected};
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
    /// How tokens were chosen, where a selector chose them
    #[serde(skip_serializing_if = "Option::is_none")]
    selection: Option<ExplainedSelection>,
    /// Width and height
    image_size: [u32; 2],
    places: Vec<ExplainedPlace>,
    /// Places that were left out: by a selector, or since they are blank
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dropped: Vec<DroppedPlace>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(inline)]
struct ExplainedSelection {
    selector: &'static str,
    /// Tokens that there were, of those that were encoded
    of: usize,
    /// Why so many were kept: `asked`, `concentration`, or what the question needs (`counting`, `reading`,
    /// `grounding`)
    reason: &'static str,
    /// On about how many tokens the question's relevance lies, where that decided
    #[serde(skip_serializing_if = "Option::is_none")]
    concentration: Option<f64>,
    tension_weights: TensionWeights,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(inline)]
struct DroppedPlace {
    rect: [f64; 4],
    /// Absent where nothing was there to be encoded
    #[serde(skip_serializing_if = "Option::is_none")]
    relevance: Option<f64>,
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
    /// Its rank in the order of selection, from 0, where tokens are taken one by one
    #[serde(skip_serializing_if = "Option::is_none")]
    rank: Option<usize>,
    /// How many levels of rows for deeper layers it has, the deepest first, where some were chosen
    #[serde(skip_serializing_if = "Option::is_none")]
    layers: Option<usize>,
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
            selection: receipt.selected.as_ref().map(ExplainedSelection::from),
            image_size: receipt.image_size,
            places: receipt.places.iter().map(ExplainedPlace::from).collect(),
            dropped: receipt.dropped.iter().map(DroppedPlace::from).collect(),
        }
    }
}

impl From<&Allocation> for ExplainedAllocation {
    fn from(allocation: &Allocation) -> Self {
        Self {
            tier: allocation.tier,
            tier_logits: allocation.tier_logits.iter().copied().map(f64::from).collect(),
            tension_weights: allocation.tension_weights.into(),
        }
    }
}

impl From<[f32; 3]> for TensionWeights {
    fn from(weights: [f32; 3]) -> Self {
        let [propositional, perspectival, participatory] = weights.map(f64::from);
        Self { propositional, perspectival, participatory }
    }
}

impl From<&Selected> for ExplainedSelection {
    fn from(selected: &Selected) -> Self {
        let (reason, concentration) = match selected.reason {
            Reason::Asked => ("asked", None),
            Reason::Concentration(tokens) => ("concentration", Some(tokens.into())),
            Reason::Need(need) => (need.name(), None),
        };
        let (selector, of) = (selected.selector.name(), selected.of);
        Self { selector, of, reason, concentration, tension_weights: selected.weights.into() }
    }
}

impl From<&Place> for DroppedPlace {
    fn from(place: &Place) -> Self {
        let relevance = place.score.map(|score| score.relevance.into());
        Self { rect: place.rect.map(f64::from), relevance }
    }
}

impl From<&Place> for ExplainedPlace {
    fn from(place: &Place) -> Self {
        let score = place.score.map(|score| ExplainedScore {
            relevance: score.relevance.into(),
            knowing: score.knowing.map(f64::from),
        });
        let Place { rect, cell, gist, rank, layers, .. } = *place;
        Self { rect: rect.map(f64::from), cell, gist, score, rank, layers }
    }
}
