//! SmolVLM and Idefics3: SigLIP over square tiles, pixel shuffle, one product, and a Llama decoder.
//!
//! The reference is transformers' `Idefics3ForConditionalGeneration` and `Idefics3Processor` (SmolVLM's are
//! the same under other names):
//! <https://github.com/huggingface/transformers/tree/main/src/transformers/models/idefics3>.

use arrcoc_bundle::manifest::VisionSpec;
use arrcoc_bundle::names::axis;
use arrcoc_bundle::names::checkpoint::PROCESSOR_CONFIG;
use arrcoc_bundle::processors::{self, PixelScale, Resampling};
use arrcoc_bundle::{AxisRange, Target};
use serde::Deserialize;
use serde_json::{Value, json};

use super::contract::{self, Composition, Family, Files, GraphOptions, Picture, PictureError, Preset};
use crate::config::{Check, ConfigError, Neutral, section};
use crate::graph::Graph;
use crate::image_processor::ImageProcessor;
use crate::networks::{decoder, idefics3, siglip};

mod marks;
mod presets;

use marks::Marks;

/// Image processors of transformers that do what the runtime does.
const PROCESSORS: [&str; 6] = [
    "Idefics3ImageProcessor",
    "Idefics3ImageProcessorFast",
    "Idefics3ImageProcessorPil",
    "SmolVLMImageProcessor",
    "SmolVLMImageProcessorFast",
    "SmolVLMImageProcessorPil",
];

/// Keys of the image processor that are read here, or concern videos.
const PROCESSOR_KEYS: [&str; 5] =
    ["do_image_splitting", "max_image_size", "return_row_col_info", "video_sampling", "max_frames"];

/// Patches that run together at most: more tiles at once would only take more memory.
const PATCHES_AT_ONCE: usize = 8192;

/// Where a checkpoint has its decoder.
const DECODER: decoder::Names<'_> = decoder::Names { body: "model.text_model", head: "lm_head" };

/// Keys of the configuration that change nothing.
const NEUTRAL: Neutral = Neutral(&[
    // The checkpoint's own code is never run.
    ("top level", &["_pad_token_id", "auto_map", "vocab_size"]),
    // A slower way to the same products, and what earlier code of SmolVLM and Idefics wrote. The decoders of
    // transformers read none of it.
    (
        "text_config",
        &[
            "_flash_attn_2_enabled",
            "is_llama_config",
            "neftune_noise_alpha",
            "perceiver_config",
            "pixel_shuffle_factor",
            "pretraining_tp",
            "qk_layer_norms",
            "rope_interleaved",
            "transformers.js_config",
            "use_resampler",
        ],
    ),
    // Earlier code of SmolVLM and Idefics wrote these too.
    ("vision_config", &["max_image_size", "size", "tie_word_embeddings", "use_base_siglip"]),
]);

/// The family.
pub(super) struct Idefics3;

impl Family for Idefics3 {
    fn model_types(&self) -> &'static [&'static str] {
        &["idefics3", "smolvlm"]
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
    encoder: idefics3::Config,
    decoder: decoder::Config,
    image_token_id: u32,
    images: Images,
    marks: Marks,
}

/// What the image processor's file says.
#[derive(Debug, Clone, Copy)]
struct Images {
    tile: usize,
    longest_edge: Option<usize>,
    split: bool,
    resampling: Resampling,
    scale: PixelScale,
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(rename = "model_type")]
    _model_type: String,
    #[serde(default)]
    vision_config: Value,
    #[serde(default)]
    text_config: Value,
    /// The class's default is another one than any released checkpoint's.
    #[serde(default = "default_scale_factor")]
    scale_factor: usize,
    image_token_id: Option<u32>,
    /// Decides alone; the flag of `text_config` is not read.
    #[serde(default)]
    tie_word_embeddings: bool,
}

fn default_scale_factor() -> usize {
    2
}

/// The class's default.
const IMAGE_TOKEN: u32 = 128_257;

impl Config {
    fn read(files: &Files<'_>) -> Result<Self, ConfigError> {
        let raw: RawConfig = section(files.config, "top level", NEUTRAL)?;
        let images = Images::read(&ImageProcessor::new(files)?)?;
        // What the class takes where there is no section at all.
        let text = match raw.text_config {
            Value::Null => json!({ "model_type": "llama", "rms_norm_eps": 1e-5 }),
            text => text,
        };
        let mut decoder = decoder::Config::from_json(&text, NEUTRAL, &decoder::Kind::ALL)?;
        decoder.tied = files.tied("lm_head.weight", raw.tie_word_embeddings);
        let encoder = idefics3::Config {
            vision: siglip::Config::from_json(&raw.vision_config, NEUTRAL)?,
            tile: images.tile,
            scale_factor: raw.scale_factor,
            hidden_size: decoder.hidden_size,
        };
        encoder.check()?;
        let rows = encoder.side().pow(2);
        let stated = &files.processor["image_seq_len"];
        let agrees = stated.is_null() || stated.as_u64() == Some(rows as u64);
        let expected = format!("{rows}, the visual tokens of a tile of {} pixels", images.tile);
        Check(PROCESSOR_CONFIG).that(agrees, "image_seq_len", expected, stated)?;
        let image_token_id = raw.image_token_id.unwrap_or(IMAGE_TOKEN);
        Ok(Self { encoder, decoder, image_token_id, images, marks: Marks::read(files)? })
    }

    /// Visual tokens of a tile.
    fn rows(&self) -> usize {
        self.encoder.side().pow(2)
    }

    /// Tiles that run together.
    fn tiles_at_once(&self) -> usize {
        let patches = self.encoder.vision.grid(self.images.tile).pow(2);
        (PATCHES_AT_ONCE / patches.max(1)).clamp(1, 16)
    }
}

impl Images {
    fn read(processor: &ImageProcessor<'_>) -> Result<Self, ConfigError> {
        processor.check_keys(&PROCESSORS, &PROCESSOR_KEYS)?;
        processor.expect(
            processor.switch("do_convert_rgb", true)?,
            "do_convert_rgb",
            "true: pictures are always made RGB",
        )?;
        let crop = processor.switch("do_center_crop", false)?;
        processor.expect(!crop, "do_center_crop", "false: pictures are not cropped")?;
        let longest = |key: &'static str, default: usize| {
            let found = match processor.get(key) {
                Value::Null => Some(default),
                size => size["longest_edge"].as_u64().and_then(|side| usize::try_from(side).ok()),
            };
            let found = found.filter(|side| (1..=1 << 16).contains(side));
            processor.expect(found.is_some(), key, "{\"longest_edge\": N} with N from 1 to 65536")?;
            Ok::<_, ConfigError>(found.unwrap_or(default))
        };
        let tile = longest("max_image_size", 364)?;
        let edge = longest("size", 4 * 364)?;
        let filter = match processor.get("resample") {
            Value::Null => Some(Resampling::Lanczos),
            number => number.as_u64().and_then(Resampling::of_pil),
        };
        processor.expect(filter.is_some(), "resample", "1 (Lanczos), 2 (bilinear) or 3 (bicubic)")?;
        Ok(Self {
            tile,
            longest_edge: processor.switch("do_resize", true)?.then_some(edge),
            split: processor.switch("do_image_splitting", true)?,
            resampling: filter.unwrap_or(Resampling::Lanczos),
            scale: processor.pixel_scale()?,
        })
    }
}

impl Composition for Config {
    fn graphs(&self, options: GraphOptions) -> Vec<Graph> {
        let target: Target = options.target;
        vec![
            idefics3::graph(&self.encoder, "model", target),
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
        let Images { tile, longest_edge, split, resampling, scale } = self.images;
        contract::section(&processors::Idefics3 {
            tile,
            rows_per_side: self.encoder.side(),
            longest_edge,
            split,
            resampling,
            scale,
            frame: self.marks.frame.clone(),
            whole: self.marks.whole.clone(),
        })
    }

    fn range(&self, name: &str) -> Option<AxisRange> {
        let (tiles, rows) = (self.tiles_at_once() as u64, self.rows() as u64);
        match name {
            axis::TILES => Some(AxisRange { min: 1, opt: tiles, max: tiles }),
            axis::ROWS => Some(AxisRange { min: rows, opt: rows * tiles, max: rows * tiles }),
            _ => None,
        }
    }

    fn picture(&self, size: Option<usize>) -> Result<Picture, PictureError> {
        let longest = self.images.longest_edge.unwrap_or(self.images.tile);
        if let Some(found) = size.filter(|&size| size != longest) {
            return Err(PictureError { expected: vec![longest], found });
        }
        let side = if self.images.split { longest.div_ceil(self.images.tile) } else { 1 };
        let tiles = if side > 1 { side * side + 1 } else { 1 };
        let at_once = self.tiles_at_once().min(tiles);
        Ok(Picture {
            size: longest,
            axes: vec![(axis::TILES, at_once), (axis::ROWS, at_once * self.rows())],
            full: tiles * self.rows(),
            budgets: Vec::new(),
        })
    }
}
