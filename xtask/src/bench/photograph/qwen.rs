//! Shapes of Qwen's models, all of their layers, with random weights.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::shape::{Column, FIRST_TOKEN, PEAK, PREFILL, PREPARATION, STEP, Shape, VISION};
use crate::bundles::Programs;
use crate::shell;
use crate::smollm2::SmolLm2;

pub(super) const QWEN3_VL_2B: Shape = Shape {
    page: "photograph-qwen3-vl",
    model: "qwen3-vl-2b",
    family: "qwen3_vl",
    peers: "peers-qwen3-vl",
    precisions: &["int8", "int4"],
    max_context: Some(8192),
    checkpoint: |programs, smollm2, dir| checkpoint("qwen3-vl-2b", programs, smollm2, dir),
    title: "A photograph at Qwen3-VL-2B's shape",
    picture: "One picture of 1024 x 1024 pixels, which becomes 4,096 patches and 1,024 visual tokens,",
    weights: "Random weights in all 24 layers of the tower and all 28 of the decoder",
    llama_cpp: "llama.cpp: mtmd, on files that its converter made of the same checkpoint, its tower in BF16 \
                beside BF16 and in Q8_0 beside the others. The tokenizer is SmolLM2's with Qwen's marks of \
                pictures, for all sides (reference/dress_checkpoint.py): llama.cpp does not know the preset's.",
    columns: &[PREPARATION, VISION, PREFILL, FIRST_TOKEN, Column::Ratio, STEP, PEAK],
};

pub(super) const QWEN3_5_0_8B: Shape = Shape {
    page: "photograph-qwen3.5",
    model: "qwen3.5-0.8b",
    family: "qwen3_5",
    peers: "peers-qwen3.5",
    checkpoint: |programs, smollm2, dir| checkpoint("qwen3.5-0.8b", programs, smollm2, dir),
    title: "A photograph at Qwen3.5-0.8B's shape",
    weights: "Random weights in all 12 layers of the tower and all 24 of the decoder, 18 of them gated delta nets",
    llama_cpp: "llama.cpp is not among the peers: transformers reads any tokenizer of this family as Qwen's own, \
                and so llama.cpp's converter does not know the one of a random checkpoint.",
    ..QWEN3_VL_2B
};

/// The preset's random checkpoint, and the same weights with a tokenizer that llama.cpp knows.
fn checkpoint(preset: &str, programs: &Programs, smollm2: &SmolLm2, dir: &Path) -> Result<PathBuf> {
    let (plain, dressed) = (dir.join(preset), dir.join(format!("{preset}-smollm2")));
    if !dressed.join("config.json").is_file() {
        if !plain.join("config.json").is_file() {
            programs.init(preset, 1, "bfloat16", &plain)?;
        }
        let mut dress = smollm2.script("dress_checkpoint");
        dress.arg("--checkpoint").arg(&plain).arg("--tokenizer").arg(smollm2.llama());
        shell::check(dress.arg("--out").arg(&dressed))?;
    }
    Ok(dressed)
}
