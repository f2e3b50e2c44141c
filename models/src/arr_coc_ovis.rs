//! The composite ARR-COC model: SAM, allocator, compressor, CLIP, quality adapter and Qwen3 (design section 4.1).

use serde::Deserialize;

use crate::Target;
use crate::config::{Check, ConfigError, section};
use crate::graph::{Graph, Parameter};
use crate::networks::{allocator, clip, compressor, quality_adapter, qwen3, sam};

/// Value of `model_type` in `config.json`.
pub const MODEL_TYPE: &str = "arr_coc_ovis";

/// Validated configuration of the composite.
#[derive(Debug, Clone)]
pub struct Config {
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
    pub decoder: qwen3::Config,
    /// Token budgets, ascending; their indices are the tiers.
    pub token_budgets: Vec<usize>,
    /// Square input sizes that the runtime may use, pixels.
    pub image_sizes: Vec<usize>,
    /// Id of the placeholder that an image's tokens replace.
    pub image_token_id: u32,
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
}

/// How graphs are written.
#[derive(Debug, Clone, Copy)]
pub struct GraphOptions {
    /// What they are written for.
    pub target: Target,
    /// Length of the rotary tables, and so the longest sequence.
    pub context_length: usize,
}

impl Config {
    pub(crate) fn from_json(json: &serde_json::Value) -> Result<Self, ConfigError> {
        let raw: RawConfig = section(json, "top level")?;
        let config = Self {
            vision: sam::Config::from_json(&raw.vision_config)?,
            allocator: allocator::Config::from_json(&raw.allocator_config)?,
            compressor: compressor::Config::from_json(&raw.compressor_config)?,
            refiner: clip::Config::from_json(&raw.clip_config)?,
            adapter: quality_adapter::Config::from_json(&raw.adapter_config)?,
            decoder: qwen3::Config::from_json(&raw.text_config)?,
            token_budgets: raw.token_budgets,
            image_sizes: raw.image_sizes,
            image_token_id: raw.image_token_id,
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
        check.that(
            native,
            "image_sizes",
            format!("{} among them", self.vision.image_size),
            &self.image_sizes,
        )?;
        let in_vocabulary = (self.image_token_id as usize) < self.decoder.vocab_size;
        check.that(in_vocabulary, "image_token_id", "an id of the vocabulary", self.image_token_id)
    }

    /// The graphs of a bundle. The decoder comes before the embedding, which shares its table when the weights are tied.
    pub fn graphs(&self, options: GraphOptions) -> Vec<Graph> {
        let target = options.target;
        let (features, refiner, decoder) =
            (self.vision.output_channels, self.refiner.hidden_size, self.decoder.hidden_size);
        let tiers = self.token_budgets.len();
        let allocator_widths = allocator::Widths { features, decoder, tiers };
        let compressor_widths = compressor::Widths { features, refiner, budgets: self.token_budgets.clone() };
        let adapter_widths = quality_adapter::Widths { refiner, decoder, tiers };
        vec![
            sam::graph(&self.vision, "sam_encoder", target),
            allocator::graph(&self.allocator, allocator_widths, "arr_coc_allocator", target),
            compressor::graph(&self.compressor, &compressor_widths, "arr_coc_compressor", target),
            clip::graph(&self.refiner, "clip_vision_model", target),
            quality_adapter::graph(&self.adapter, adapter_widths, "quality_adapter", target),
            qwen3::decoder_graph(&self.decoder, "ovis_llm", target, options.context_length),
            qwen3::embedding_graph(&self.decoder, "ovis_llm", target),
        ]
    }

    /// Every tensor that a checkpoint of this configuration must have, sorted by name.
    pub fn parameters(&self) -> Vec<Parameter> {
        let graphs = self.graphs(GraphOptions { target: Target::Portable, context_length: 1 });
        let mut parameters: Vec<_> = graphs.into_iter().flat_map(|graph| graph.parameters).collect();
        parameters.sort_by(|a, b| a.name.cmp(&b.name));
        parameters.dedup_by(|a, b| a.name == b.name);
        parameters
    }
}
