//! SmolVLM-256M's shape: a picture in tiles, and a small decoder.

use super::shape::{Column, FIRST_TOKEN, PEAK, PREPARATION, STEP, Shape, VISION};

pub(super) const SMOLVLM: Shape = Shape {
    page: "photograph",
    model: "smolvlm",
    family: "smolvlm",
    peers: "peers",
    precisions: &["fp32", "int8", "int4"],
    max_context: None,
    checkpoint: |_, smollm2, _| Ok(smollm2.smolvlm()),
    title: "A photograph at SmolVLM-256M's shape",
    picture: "One picture of 1536 x 1152 pixels, which becomes 13 tiles,",
    weights: "SmolLM2's weights behind a random vision tower",
    llama_cpp: "llama.cpp: mtmd, its tower in F16 beside F16 and in Q8_0 beside the others.",
    columns: &[PREPARATION, VISION, FIRST_TOKEN, Column::Ratio, STEP, PEAK],
};
