//! Qwen3-VL-2B's shape, all 28 layers and 24 of the tower, with random weights.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::shape::{Column, FIRST_TOKEN, PEAK, PREFILL, PREPARATION, STEP, Shape, VISION};
use crate::bundles::Programs;
use crate::shell;
use crate::smollm2::SmolLm2;

const PRESET: &str = "qwen3-vl-2b";

pub(super) const QWEN3_VL_2B: Shape = Shape {
    page: "photograph-qwen3-vl",
    model: PRESET,
    family: "qwen3_vl",
    peers: "peers-qwen3-vl",
    precisions: &["int8", "int4"],
    max_context: Some(8192),
    checkpoint,
    title: "A photograph at Qwen3-VL-2B's shape",
    picture: "One picture of 1024 x 1024 pixels, which becomes 4,096 patches and 1,024 visual tokens,",
    weights: "Random weights in all 24 layers of the tower and all 28 of the decoder",
    llama_cpp: "llama.cpp: mtmd, on files that its converter made of the same checkpoint, its tower in BF16 \
                beside BF16 and in Q8_0 beside the others. The tokenizer is SmolLM2's with Qwen's marks of \
                pictures, for all sides (reference/dress_checkpoint.py): llama.cpp does not know the preset's.",
    columns: &[PREPARATION, VISION, PREFILL, FIRST_TOKEN, Column::Ratio, STEP, PEAK],
};

/// The preset's random checkpoint, and the same weights with a tokenizer that llama.cpp knows.
fn checkpoint(programs: &Programs, smollm2: &SmolLm2, dir: &Path) -> Result<PathBuf> {
    let (plain, dressed) = (dir.join(PRESET), dir.join(format!("{PRESET}-smollm2")));
    if !dressed.join("config.json").is_file() {
        if !plain.join("config.json").is_file() {
            programs.init(PRESET, 1, "bfloat16", &plain)?;
        }
        let mut dress = smollm2.script("dress_checkpoint");
        dress.arg("--checkpoint").arg(&plain).arg("--tokenizer").arg(smollm2.llama());
        shell::check(dress.arg("--out").arg(&dressed))?;
    }
    Ok(dressed)
}
