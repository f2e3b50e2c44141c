//! Qwen3-VL: pictures of any size, taps of the tower that reach the decoder's first layers, and a Qwen3
//! decoder whose positions have three axes.
//!
//! The reference is transformers' `Qwen3VLForConditionalGeneration` and `Qwen3VLProcessor`:
//! <https://github.com/huggingface/transformers/tree/main/src/transformers/models/qwen3_vl>.

use arrcoc_bundle::manifest::VisionSpec;
use arrcoc_bundle::names::axis;
use arrcoc_bundle::processors;
use arrcoc_bundle::{AxisRange, Target};
use serde::Deserialize;
use serde_json::Value;

use super::contract::{
    self, Composition, Family, Files, GraphOptions, Ignored, Picture, PictureError, Preset,
};
use crate::config::{Check, ConfigError, Neutral, section};
use crate::graph::Graph;
use crate::networks::{decoder, qwen3_vision};

mod images;
mod presets;

use images::Images;

/// Where a checkpoint has its decoder.
const DECODER: decoder::Names<'_> = decoder::Names { body: "model.language_model", head: "lm_head" };

/// Where it has its tower.
const TOWER: &str = "model.visual";

/// Prefixes that released files have, and those that transformers 5 writes.
const RENAMES: [(&str, &str); 4] = [
    ("model.visual.", "model.visual."),
    ("model.language_model.", "model.language_model."),
    ("visual.", "model.visual."),
    ("model.", "model.language_model."),
];

/// Tensors of some files that no answer depends on.
const IGNORED: [Ignored; 1] = [Ignored {
    prefix: "mtp.",
    reason: "drafts tokens for speculative decoding; answers do not depend on it",
}];

/// Keys of the configuration that change nothing.
const NEUTRAL: Neutral = Neutral(&[
    // Ids of tokens that templates write and nothing counts, and of videos, which are not read.
    ("top level", &["video_token_id", "vision_start_token_id", "vision_end_token_id"]),
    // The decoders of transformers do not read it.
    ("text_config", &["max_window_layers", "use_sliding_window", "sliding_window"]),
]);

/// The family.
pub(super) struct QwenVl;

impl Family for QwenVl {
    fn model_types(&self) -> &'static [&'static str] {
        &["qwen3_vl"]
    }

    fn read(&self, files: &Files<'_>) -> Result<Box<dyn Composition>, ConfigError> {
        Ok(Box::new(Config::read(files)?))
    }

    fn presets(&self) -> &'static [Preset] {
        &presets::PRESETS
    }
}

/// Validated configuration.
#[derive(Debug, Clone)]
struct Config {
    tower: qwen3_vision::Config,
    decoder: decoder::Config,
    image_token_id: u32,
    images: Images,
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(rename = "model_type")]
    _model_type: String,
    #[serde(default)]
    vision_config: Option<Value>,
    #[serde(default)]
    text_config: Option<Value>,
    #[serde(default = "default_image_token_id")]
    image_token_id: u32,
    /// Decides alone; the flag of `text_config` is not read.
    #[serde(default)]
    tie_word_embeddings: bool,
}

/// The class's default.
fn default_image_token_id() -> u32 {
    151_655
}

impl Config {
    fn read(files: &Files<'_>) -> Result<Self, ConfigError> {
        let raw: RawConfig = section(files.config, "top level", NEUTRAL)?;
        let empty = || Value::Object(serde_json::Map::new());
        let text = raw.text_config.unwrap_or_else(empty);
        let tower = qwen3_vision::Config::from_json(&raw.vision_config.unwrap_or_else(empty), NEUTRAL)?;
        let mut decoder = decoder::Config::from_json(&text, NEUTRAL, &[decoder::Kind::Qwen3Vl])?;
        decoder.tied = files.tied("lm_head.weight", raw.tie_word_embeddings);
        decoder.deep_levels = tower.taps.len();
        let check = Check("vision_config");
        let (width, expected) = (tower.out_hidden_size, decoder.hidden_size);
        let agrees = width == expected;
        check.that(agrees, "out_hidden_size", format!("{expected}, text_config.hidden_size"), width)?;
        let few = tower.taps.len() <= decoder.layers;
        let expected = format!("at most {} taps, the decoder's layers", decoder.layers);
        check.that(few, "deepstack_visual_indexes", expected, &tower.taps)?;
        let images = Images::read(files, [tower.patch_size, tower.temporal_patch_size, tower.merge_size])?;
        Ok(Self { tower, decoder, image_token_id: raw.image_token_id, images })
    }

    /// What the runtime must know.
    fn section(&self) -> processors::QwenVl {
        let Images { min_pixels, max_pixels, resampling, scale } = self.images;
        processors::QwenVl {
            patch_size: self.tower.patch_size,
            temporal_patch_size: self.tower.temporal_patch_size,
            merge_size: self.tower.merge_size,
            min_pixels,
            max_pixels,
            resampling,
            scale,
            table_side: Some(self.tower.table_side),
            window: None,
        }
    }
}

impl Composition for Config {
    fn graphs(&self, options: GraphOptions) -> Vec<Graph> {
        let target: Target = options.target;
        vec![
            qwen3_vision::graph(&self.tower, TOWER, target),
            decoder::graph(&self.decoder, DECODER, target, options.context_length),
            decoder::embedding_graph(&self.decoder, DECODER, target),
        ]
    }

    fn decoder(&self) -> &decoder::Config {
        &self.decoder
    }

    fn vision(&self) -> VisionSpec {
        VisionSpec {
            image_token_id: self.image_token_id,
            images_first: false,
            token_budgets: Vec::new(),
            embeds_target: None,
        }
    }

    fn processor(&self) -> serde_yaml::Value {
        contract::section(&self.section())
    }

    fn range(&self, name: &str) -> Option<AxisRange> {
        let (most, merged) = (self.section().most_rows() as u64, self.tower.merged() as u64);
        let usual = most.min(USUAL_ROWS);
        match name {
            axis::PATCHES => Some(AxisRange { min: merged, opt: usual * merged, max: most * merged }),
            axis::ROWS => Some(AxisRange { min: 1, opt: usual, max: most }),
            _ => None,
        }
    }

    fn picture(&self, size: Option<usize>) -> Result<Picture, PictureError> {
        let section = self.section();
        let factor = section.factor();
        let longest = (section.max_pixels as f64).sqrt() as usize / factor * factor;
        let side = size.unwrap_or(longest);
        if side == 0 || side > longest || !side.is_multiple_of(factor) {
            return Err(PictureError { expected: vec![longest], found: side });
        }
        let rows = (side / factor).pow(2);
        Ok(Picture {
            size: side,
            axes: vec![(axis::PATCHES, rows * self.tower.merged()), (axis::ROWS, rows)],
            full: rows,
            budgets: Vec::new(),
        })
    }

    fn renames(&self) -> &'static [(&'static str, &'static str)] {
        &RENAMES
    }

    fn ignored(&self) -> &'static [Ignored] {
        &IGNORED
    }
}

/// Visual tokens of a picture that a plan for TensorRT is made for: a square of 1,024 pixels at 32 a token.
const USUAL_ROWS: u64 = 1024;
