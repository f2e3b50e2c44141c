//! Qwen2.5-VL, Qwen3-VL and Qwen3.5: pictures of any size, and a decoder whose positions have three axes.
//! Qwen3-VL's tower is tapped for rows that reach the decoder's first layers. Most layers of Qwen3.5's
//! decoder have a recurrent memory.
//!
//! The references are transformers' `Qwen2_5_VLForConditionalGeneration`, `Qwen3VLForConditionalGeneration`
//! and `Qwen3_5ForConditionalGeneration`, with their processors:
//! <https://github.com/huggingface/transformers/tree/main/src/transformers/models/qwen3_vl>.

use arrcoc_bundle::AxisRange;
use arrcoc_bundle::manifest::VisionSpec;
use arrcoc_bundle::names::axis;
use arrcoc_bundle::processors;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::contract::{
    self, Composition, Family, Files, GraphOptions, Ignored, Picture, PictureError, Preset,
};
use crate::config::{Check, ConfigError, Neutral, section};
use crate::graph::Graph;
use crate::networks::decoder;
use crate::networks::qwen_tower::Shape;

mod images;
mod presets;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod tower;

use images::Images;
use tower::{Generation, Tower};

/// Where a checkpoint has its decoder.
const DECODER: decoder::Names<'_> = decoder::Names { body: "model.language_model", head: "lm_head" };

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
    ("top level", &["video_token_id", "vision_start_token_id", "vision_end_token_id", "vision_token_id"]),
    // What released files of Qwen3.5 say and transformers does not read: all of it is so in every one.
    (
        "text_config",
        &[
            "attn_output_gate",
            "mamba_ssm_dtype",
            "mlp_only_layers",
            "mtp_num_hidden_layers",
            "mtp_use_dedicated_embeddings",
        ],
    ),
    // Of videos, and spellings that transformers never read.
    ("vision_config", &["tokens_per_second", "in_chans", "spatial_patch_size"]),
]);

/// Keys of the top level that are not the decoder's, where a file of Qwen2.5-VL has these there too.
const TOP_LEVEL: [&str; 9] = [
    "model_type",
    "vision_config",
    "image_token_id",
    "tie_word_embeddings",
    "architectures",
    "video_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
    "vision_token_id",
];

/// The family.
pub(super) struct QwenVl;

impl Family for QwenVl {
    fn model_types(&self) -> &'static [&'static str] {
        &Generation::NAMES
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
    tower: Tower,
    decoder: decoder::Config,
    image_token_id: u32,
    images: Images,
}

#[derive(Deserialize)]
struct RawConfig {
    model_type: String,
    #[serde(default)]
    vision_config: Option<Value>,
    #[serde(default)]
    text_config: Option<Value>,
    image_token_id: Option<u32>,
    #[serde(default)]
    tie_word_embeddings: bool,
}

impl Config {
    fn read(files: &Files<'_>) -> Result<Self, ConfigError> {
        let nested = nested(files.config);
        let raw: RawConfig = section(nested.as_ref().unwrap_or(files.config), "top level", NEUTRAL)?;
        let generation = Generation::named(&raw.model_type);
        let empty = || Value::Object(Map::new());
        let text = raw.text_config.unwrap_or_else(empty);
        let tower = generation.tower(&raw.vision_config.unwrap_or_else(empty))?;
        let mut decoder = decoder::Config::from_json(&text, NEUTRAL, &[generation.decoder()])?;
        // Files of Qwen2.5-VL have the flag in either place.
        let tied = raw.tie_word_embeddings || (generation == Generation::Qwen2_5 && decoder.tied);
        decoder.tied = files.tied("lm_head.weight", tied);
        decoder.deep_levels = tower.taps().len();
        let check = Check("vision_config");
        let (width, expected) = (tower.shape().out_hidden_size, decoder.hidden_size);
        let agrees = width == expected;
        check.that(agrees, "out_hidden_size", format!("{expected}, text_config.hidden_size"), width)?;
        let few = decoder.deep_levels <= decoder.layers;
        let expected = format!("at most {} taps, the decoder's layers", decoder.layers);
        check.that(few, "deepstack_visual_indexes", expected, tower.taps())?;
        let images = Images::read(files, tower.shape())?;
        let image_token_id = raw.image_token_id.unwrap_or(generation.image_token_id());
        let config = Self { tower, decoder, image_token_id, images };
        config.check_least(files)?;
        Ok(config)
    }

    /// Fails where even the smallest picture has more visual tokens than there are positions, or a side that
    /// no table reaches.
    fn check_least(&self, files: &Files<'_>) -> Result<(), ConfigError> {
        let section = self.section();
        let (least, factor) = (section.min_pixels, section.factor() as u64);
        let (rows, side) = (least / (factor * factor), least.isqrt() / section.patch_size as u64);
        let fits = rows < self.decoder.max_positions as u64 && side <= processors::QwenVl::MOST_SIDE as u64;
        let expected = format!(
            "a least size of fewer visual tokens than max_position_embeddings ({}), and of at most {} patches a side",
            self.decoder.max_positions,
            processors::QwenVl::MOST_SIDE
        );
        let key = if files.image_processor["min_pixels"].is_null() { "size" } else { "min_pixels" };
        Check(files.image_processor_file).that(fits, key, expected, least)
    }

    /// Windows of a square picture of so many visual tokens.
    fn windows(&self, rows: u64) -> u64 {
        let window = self.tower.window().unwrap_or(1) as u64;
        rows.isqrt().div_ceil(window).pow(2).max(1)
    }

    /// What the runtime must know.
    fn section(&self) -> processors::QwenVl {
        let Images { min_pixels, max_pixels, resampling, scale } = self.images;
        let &Shape { patch_size, temporal_patch_size, merge_size, .. } = self.tower.shape();
        processors::QwenVl {
            patch_size,
            temporal_patch_size,
            merge_size,
            min_pixels,
            max_pixels,
            resampling,
            scale,
            table_side: self.tower.table_side(),
            window: self.tower.window(),
        }
    }
}

/// A file of Qwen2.5-VL as it was released, whose decoder has no section, with one; `None` where it has one.
fn nested(config: &Value) -> Option<Value> {
    let all = config.as_object()?;
    if config["model_type"] != "qwen2_5_vl" || !config["text_config"].is_null() {
        return None;
    }
    let own = |(key, _): &(&String, &Value)| TOP_LEVEL.contains(&key.as_str());
    let copied = |(key, value): (&String, &Value)| (key.clone(), value.clone());
    let mut top: Map<_, _> = all.iter().filter(own).map(copied).collect();
    let text: Map<_, _> =
        all.iter().filter(|entry| !own(entry) && entry.0 != "text_config").map(copied).collect();
    top.insert("text_config".to_owned(), Value::Object(text));
    Some(Value::Object(top))
}

impl Composition for Config {
    fn graphs(&self, options: GraphOptions) -> Vec<Graph> {
        let target = options.target;
        vec![
            self.tower.graph(target),
            decoder::graph(&self.decoder, DECODER, target, options.context_length),
            decoder::embedding_graph(&self.decoder, DECODER, target),
        ]
    }

    fn decoder(&self) -> &decoder::Config {
        &self.decoder
    }

    fn vision(&self) -> VisionSpec {
        contract::all_tokens(self.image_token_id)
    }

    fn processor(&self) -> serde_yaml::Value {
        contract::section(&self.section())
    }

    fn range(&self, name: &str) -> Option<AxisRange> {
        let (most, merged) = (self.section().most_rows() as u64, self.tower.shape().merged() as u64);
        let usual = most.min(USUAL_ROWS);
        match name {
            axis::PATCHES => Some(AxisRange { min: merged, opt: usual * merged, max: most * merged }),
            axis::ROWS => Some(AxisRange { min: 1, opt: usual, max: most }),
            axis::WINDOWS => {
                let max = self.section().most_windows(most as usize) as u64;
                Some(AxisRange { min: 1, opt: self.windows(usual).min(max), max })
            }
            _ => None,
        }
    }

    fn picture(&self, size: Option<usize>) -> Result<Picture, PictureError> {
        let section = self.section();
        let factor = section.factor();
        let longest = ((section.max_pixels as f64).sqrt() as usize / factor).max(1) * factor;
        let side = size.unwrap_or(longest.min(USUAL_SIDE * factor));
        if side == 0 || side > longest || !side.is_multiple_of(factor) {
            return Err(PictureError { expected: vec![longest], found: side });
        }
        let rows = (side / factor).pow(2);
        let windows = self.windows(rows as u64) as usize;
        Ok(Picture {
            size: side,
            axes: vec![
                (axis::PATCHES, rows * self.tower.shape().merged()),
                (axis::ROWS, rows),
                (axis::WINDOWS, windows),
            ],
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

/// Side of the picture that plans are made for, visual tokens: 1,024 pixels at 32 a token. The largest that
/// released files allow has sixteen times as many, and would not fit the usual context.
const USUAL_SIDE: usize = 32;
const USUAL_ROWS: u64 = (USUAL_SIDE * USUAL_SIDE) as u64;
