//! What a graph says about itself, for code that chooses precisions, compares outputs, plans memory or names
//! metrics.

use serde::{Deserialize, Serialize};

/// What a graph is for. Rules that hold for some graphs and not for others name a role, never a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Token ids to rows of a table.
    Embedding,
    /// Pixels, or what an encoder made of them, to features: where the products are large and quantization
    /// pays.
    Encoder,
    /// Says which features become tokens. Its numbers are compared with each other, so they keep 32 bits.
    Chooser,
    /// Features to rows in the decoder's space. It costs little, so it keeps 32 bits where the precision is
    /// not its own affair.
    Projector,
    /// Rows and a KV cache to logits.
    Decoder,
}

impl Role {
    /// All of them, in the order in which an answer needs them.
    pub const ALL: [Self; 5] =
        [Self::Embedding, Self::Encoder, Self::Chooser, Self::Projector, Self::Decoder];

    /// As manifests and rules write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Encoder => "encoder",
            Self::Chooser => "chooser",
            Self::Projector => "projector",
            Self::Decoder => "decoder",
        }
    }
}

/// What the numbers of an output mean, and so how two libraries' answers may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Meaning {
    /// Chosen indices: equal, or the choice was another one.
    Picked,
    /// A few additions and products of the input: equal up to rounding in 32 bits.
    Arithmetic,
    /// What a network computed: as far apart as its precision allows.
    Network,
    /// Scores of the vocabulary: what matters is their order.
    Logits,
}

/// Range of a dynamic axis: what a TensorRT profile needs, and what the runtime refuses to leave.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct AxisRange {
    /// Smallest length.
    pub min: u64,
    /// Length to optimise for.
    pub opt: u64,
    /// Largest length.
    pub max: u64,
}
