//! What the image processor of Qwen's models says, for the family.

use arrcoc_bundle::processors::{PixelScale, QwenVl, Resampling};
use serde_json::Value;

use crate::config::ConfigError;
use crate::families::contract::Files;
use crate::image_processor::ImageProcessor;
use crate::networks::qwen_tower::Shape;

/// Image processors of transformers that do what the runtime does.
const PROCESSORS: [&str; 3] =
    ["Qwen2VLImageProcessor", "Qwen2VLImageProcessorFast", "Qwen2VLImageProcessorPil"];

/// Keys of the image processor that are read here.
const PROCESSOR_KEYS: [&str; 5] =
    ["min_pixels", "max_pixels", "patch_size", "temporal_patch_size", "merge_size"];

/// The class's defaults: patch, frames and squares.
const DEFAULT_SIZES: [u64; 3] = [14, 2, 2];
/// The class's default of `size`, pixels.
const DEFAULT_PIXELS: [u64; 2] = [56 * 56, 28 * 28 * 1280];

/// How pictures are resized and scaled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Images {
    pub(super) min_pixels: u64,
    pub(super) max_pixels: u64,
    pub(super) resampling: Resampling,
    pub(super) scale: PixelScale,
}

impl Images {
    /// Reads the file, which has to agree with the tower on patches, frames and squares.
    ///
    /// # Errors
    /// [`ConfigError`], naming file, key, what was expected and what was found.
    pub(super) fn read(files: &Files<'_>, tower: &Shape) -> Result<Self, ConfigError> {
        let processor = &ImageProcessor::new(files)?;
        processor.check_keys(&PROCESSORS, &PROCESSOR_KEYS)?;
        let always = [
            ("do_convert_rgb", "true: pictures are always made RGB"),
            ("do_resize", "true: pictures are always brought to whole visual tokens"),
        ];
        for (key, expected) in always {
            processor.expect(processor.switch(key, true)?, key, expected)?;
        }
        let crop = processor.switch("do_center_crop", false)?;
        processor.expect(!crop, "do_center_crop", "false: pictures are not cropped")?;
        let keys = [
            ("patch_size", "patch_size"),
            ("temporal_patch_size", "temporal_patch_size"),
            ("merge_size", "spatial_merge_size"),
        ];
        let sizes = [tower.patch_size, tower.temporal_patch_size, tower.merge_size];
        for ((key, name), (default, expected)) in keys.into_iter().zip(DEFAULT_SIZES.into_iter().zip(sizes)) {
            let stated = match processor.get(key) {
                Value::Null => Some(default),
                stated => stated.as_u64(),
            };
            let agrees = stated == Some(expected as u64);
            processor.expect(agrees, key, format!("{expected}, {name} of vision_config"))?;
        }
        let filter = match processor.get("resample") {
            Value::Null => Some(Resampling::Bicubic),
            number => number.as_u64().and_then(Resampling::of_pil),
        };
        processor.expect(filter.is_some(), "resample", "1 (Lanczos), 2 (bilinear) or 3 (bicubic)")?;
        let [min_pixels, max_pixels] = pixels(processor)?;
        Ok(Self {
            min_pixels,
            max_pixels,
            resampling: filter.unwrap_or(Resampling::Bicubic),
            scale: processor.pixel_scale()?,
        })
    }
}

/// The least and the most pixels: the older keys win over the parts of `size`.
fn pixels(processor: &ImageProcessor<'_>) -> Result<[u64; 2], ConfigError> {
    let size = processor.get("size");
    let known =
        |key: &String| ["shortest_edge", "longest_edge", "min_pixels", "max_pixels"].contains(&&**key);
    let plain = size.is_null() || size.as_object().is_some_and(|size| size.keys().all(known));
    let expected = "{\"shortest_edge\": N, \"longest_edge\": N}, the least and the most pixels of a picture";
    processor.expect(plain, "size", expected)?;
    let read = |key: &'static str, part: &str, default: u64| {
        let (older, part) = (processor.get(key), &size[part]);
        let (key, found) = match (older, part) {
            (Value::Null, Value::Null) if size.is_null() => return Ok(default),
            (Value::Null, part) => ("size", part),
            (older, _) => (key, older),
        };
        let number = found.as_u64().filter(|number| (1..=QwenVl::MOST_PIXELS).contains(number));
        let expected = match key {
            "size" => expected.to_owned(),
            _ => format!("1 to {} pixels", QwenVl::MOST_PIXELS),
        };
        processor.expect(number.is_some(), key, expected)?;
        Ok(number.unwrap_or(default))
    };
    let least = read("min_pixels", "shortest_edge", DEFAULT_PIXELS[0])?;
    let most = read("max_pixels", "longest_edge", DEFAULT_PIXELS[1])?;
    let key = if processor.get("max_pixels").is_null() { "size" } else { "max_pixels" };
    processor.expect(least <= most, key, format!("at least as many pixels as the least, {least}"))?;
    Ok([least, most])
}
