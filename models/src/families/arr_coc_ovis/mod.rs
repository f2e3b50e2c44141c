//! The composite ARR-COC model: SAM, allocator, compressor, CLIP, quality adapter and Qwen3.

use arrcoc_bundle::manifest::VisionSpec;
use arrcoc_bundle::names::axis;
use arrcoc_bundle::{AxisRange, Statistics, processors};
use serde::Deserialize;

use super::contract::{self, Composition, Family, Files, GraphOptions, Picture, PictureError, Preset};
use crate::config::{Check, ConfigError, Neutral, section};
use crate::graph::Graph;
use crate::image_processor::ImageProcessor;
use crate::networks::{allocator, clip, compressor, decoder, quality_adapter, sam};

mod presets;

/// The family.
pub(super) struct ArrCocOvis;

impl Family for ArrCocOvis {
    fn model_types(&self) -> &'static [&'static str] {
        &["arr_coc_ovis"]
    }

    fn read(&self, files: &Files<'_>) -> Result<Box<dyn Composition>, ConfigError> {
        Ok(Box::new(Config::read(files)?))
    }

    fn presets(&self) -> &'static [Preset] {
        &presets::PRESETS
    }
}

/// Where a checkpoint has its decoder.
const DECODER: decoder::Names<'_> = decoder::Names { body: "ovis_llm.model", head: "ovis_llm.lm_head" };

/// Keys of the configuration that change nothing.
const NEUTRAL: Neutral = Neutral(&[
    // The checkpoint's own code is never run. The decoder ties its weights where `text_config` says so.
    ("top level", &["_pad_token_id", "auto_map", "tie_word_embeddings", "vocab_size"]),
    // Of SAM's prompt encoder, which is not part of these networks.
    ("vision_config", &["num_pos_feats", "scale", "tie_word_embeddings"]),
    // Of CLIP's projection, likewise.
    ("clip_config", &["projection_dim", "tie_word_embeddings"]),
]);

/// Validated configuration of the composite.
#[derive(Debug, Clone)]
pub(super) struct Config {
    /// Image encoder.
    pub vision: sam::Config,
    /// Relevance and tier.
    pub allocator: allocator::Config,
    /// From relevance to tokens.
    pub compressor: compressor::Config,
    /// Refinement of the tokens.
    pub refiner: clip::Config,
    /// From tokens to decoder embeddings.
    pub adapter: quality_adapter::Config,
    /// Decoder.
    pub decoder: decoder::Config,
    /// Token budgets, ascending; their indices are the tiers.
    pub token_budgets: Vec<usize>,
    /// Square input sizes that the runtime may use, pixels.
    pub image_sizes: Vec<usize>,
    /// Id of the placeholder that an image's tokens replace.
    pub image_token_id: u32,
    /// Whether the model was trained on messages whose images stand before their text.
    pub images_first: bool,
    /// Per-channel mean and standard deviation of pixels in 0..1.
    pub pixels: [[f32; 3]; 2],
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(rename = "model_type")]
    _model_type: String,
    #[serde(default)]
    vision_config: serde_json::Value,
    #[serde(default)]
    allocator_config: serde_json::Value,
    #[serde(default)]
    compressor_config: serde_json::Value,
    #[serde(default)]
    clip_config: serde_json::Value,
    #[serde(default)]
    adapter_config: serde_json::Value,
    #[serde(default)]
    text_config: serde_json::Value,
    token_budgets: Vec<usize>,
    image_sizes: Vec<usize>,
    image_token_id: u32,
    /// The family's own prompts have that order.
    #[serde(default = "yes")]
    images_first: bool,
}

fn yes() -> bool {
    true
}

impl Config {
    fn read(files: &Files<'_>) -> Result<Self, ConfigError> {
        let raw: RawConfig = section(files.config, "top level", NEUTRAL)?;
        let vision = sam::Config::from_json(&raw.vision_config, NEUTRAL)?;
        let pixels = ImageProcessor::new(files)?.square(vision.image_size)?;
        let config = Self {
            vision,
            allocator: allocator::Config::from_json(&raw.allocator_config, NEUTRAL)?,
            compressor: compressor::Config::from_json(&raw.compressor_config, NEUTRAL)?,
            refiner: clip::Config::from_json(&raw.clip_config, NEUTRAL)?,
            adapter: quality_adapter::Config::from_json(&raw.adapter_config, NEUTRAL)?,
            decoder: decoder::Config::from_json(&raw.text_config, NEUTRAL, &[decoder::Kind::Qwen3])?,
            token_budgets: raw.token_budgets,
            image_sizes: raw.image_sizes,
            image_token_id: raw.image_token_id,
            images_first: raw.images_first,
            pixels,
        };
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let check = Check("top level");
        let budgets = &self.token_budgets;
        let ascending = !budgets.is_empty() && budgets.is_sorted_by(|a, b| a < b);
        check.that(ascending, "token_budgets", "ascending numbers, at least one", budgets)?;
        let (least, most) = (budgets[0], budgets[budgets.len() - 1]);
        let in_range = least > self.compressor.gist() && most <= 4096;
        check.that(in_range, "token_budgets", "more than the gist's cells, at most 4096", budgets)?;
        let patch = self.vision.patch_size;
        let whole =
            self.image_sizes.iter().all(|&size| size > 0 && size <= 8192 && size.is_multiple_of(patch));
        check.that(whole, "image_sizes", format!("multiples of {patch}, at most 8192"), &self.image_sizes)?;
        let native = self.image_sizes.contains(&self.vision.image_size);
        check.that(native, "image_sizes", format!("{} among them", self.vision.image_size), &self.image_sizes)
    }

    /// Patches of the encoder's grid at an image size.
    fn patches(&self, size: usize) -> usize {
        (size / self.vision.patch_size).pow(2)
    }
}

impl Composition for Config {
    fn graphs(&self, options: GraphOptions) -> Vec<Graph> {
        let target = options.target;
        let (features, refiner, hidden) =
            (self.vision.output_channels, self.refiner.hidden_size, self.decoder.hidden_size);
        let tiers = self.token_budgets.len();
        let allocator_widths = allocator::Widths { features, decoder: hidden, tiers };
        let compressor_widths = compressor::Widths { features, refiner, budgets: self.token_budgets.clone() };
        let adapter_widths = quality_adapter::Widths { refiner, decoder: hidden, tiers };
        vec![
            sam::graph(&self.vision, "sam_encoder", target),
            allocator::graph(&self.allocator, allocator_widths, "arr_coc_allocator", target),
            compressor::graph(&self.compressor, &compressor_widths, "arr_coc_compressor", target),
            clip::graph(&self.refiner, "clip_vision_model", target),
            quality_adapter::graph(&self.adapter, adapter_widths, "quality_adapter", target),
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
            images_first: self.images_first,
            token_budgets: self.token_budgets.clone(),
            embeds_target: Some(Statistics {
                mean: self.adapter.target_mean,
                std: self.adapter.target_std,
                sparsity: self.adapter.target_sparsity,
            }),
        }
    }

    fn processor(&self) -> serde_yaml::Value {
        let mut image_sizes = self.image_sizes.clone();
        image_sizes.sort_unstable();
        let [image_mean, image_std] = self.pixels;
        contract::section(&processors::ArrCocOvis {
            patch_size: self.vision.patch_size,
            feature_size: self.vision.output_channels,
            image_sizes,
            native_size: self.vision.image_size,
            image_mean,
            image_std,
            gist_grid: self.compressor.gist_grid,
        })
    }

    fn range(&self, name: &str) -> Option<AxisRange> {
        let sizes = |map: &dyn Fn(usize) -> usize| AxisRange {
            min: self.image_sizes.iter().map(|&size| map(size)).min().unwrap_or(1) as u64,
            opt: map(self.vision.image_size) as u64,
            max: self.image_sizes.iter().map(|&size| map(size)).max().unwrap_or(1) as u64,
        };
        let budgets = &self.token_budgets;
        match name {
            axis::HEIGHT | axis::WIDTH => Some(sizes(&|size| size)),
            axis::PATCHES => Some(sizes(&|size| self.patches(size))),
            axis::TOKENS => Some(AxisRange {
                min: budgets.first().map_or(1, |&n| n as u64),
                // The upper of the middle tiers: kernels for it do for the smaller ones too.
                opt: budgets.get(budgets.len() * 3 / 4).map_or(1, |&n| n as u64),
                max: budgets.last().map_or(1, |&n| n as u64),
            }),
            _ => None,
        }
    }

    fn picture(&self, size: Option<usize>) -> Result<Picture, PictureError> {
        let size = size.unwrap_or(self.vision.image_size);
        if !self.image_sizes.contains(&size) {
            return Err(PictureError { expected: self.image_sizes.clone(), found: size });
        }
        let patches = self.patches(size);
        let full = patches + self.compressor.gist();
        let most = self.token_budgets.last().copied().unwrap_or_default();
        Ok(Picture {
            size,
            axes: vec![
                (axis::HEIGHT, size),
                (axis::WIDTH, size),
                (axis::PATCHES, patches),
                (axis::TOKENS, most.min(full)),
            ],
            full,
            budgets: self.token_budgets.iter().copied().filter(|&budget| budget < full).collect(),
        })
    }
}
