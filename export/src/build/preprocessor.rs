//! What the runtime needs of `preprocessor_config.json`, the configuration of transformers' `SamImageProcessor`.
//!
//! A key that changes pixel values is followed, or refused by name: the runtime resizes to the longest edge, rescales,
//! normalises and pads, in this order, and a bundle tells it one mean and one deviation per channel. Which factor pixels
//! are rescaled by, and whether they are rescaled and normalised at all, can be said with these.

use std::path::{Path, PathBuf};

use arrcoc_runtime::quote::excerpt;
use serde_json::Value;

use super::error::TextError;
use super::text::{self, parse};

const PREPROCESSOR_CONFIG: &str = "preprocessor_config.json";

/// The image processors of transformers that do what the runtime does.
const PROCESSORS: [&str; 3] = ["SamImageProcessor", "SamImageProcessorFast", "SamImageProcessorPil"];

/// Keys that change nothing of the pixel values: of masks, of the form in which transformers returns them, and what it
/// reads only beside a key that is refused.
const NEUTRAL: [&str; 14] = [
    "_valid_processor_keys",
    "crop_size",
    "data_format",
    "default_to_square",
    "device",
    "disable_grouping",
    "feature_extractor_type",
    "image_seq_length",
    "input_data_format",
    "mask_pad_size",
    "mask_size",
    "num_channels",
    "processor_class",
    "return_tensors",
];

/// Keys that are read.
const READ: [&str; 13] = [
    "image_processor_type",
    "do_resize",
    "size",
    "resample",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
    "do_pad",
    "pad_size",
    "do_center_crop",
    "do_convert_rgb",
];

/// Mean and standard deviation of pixels in 0..1 that do what the file says; and that the runtime can do the rest.
pub(super) fn read(dir: &Path, native_size: usize) -> Result<([f32; 3], [f32; 3]), TextError> {
    let hint =
        "it holds the mean and standard deviation of pixels; save it with transformers' SamImageProcessor";
    let path = dir.join(PREPROCESSOR_CONFIG);
    let bytes = text::read(dir, PREPROCESSOR_CONFIG)?
        .ok_or_else(|| TextError::Missing { path: path.clone(), hint })?;
    let config = parse(dir, PREPROCESSOR_CONFIG, &bytes)?;
    let file = File { path, config };
    file.check_keys()?;
    file.check_geometry(native_size)?;
    let [mean, deviation] = file.statistics()?;
    Ok((mean.map(|x| x as f32), deviation.map(|x| x as f32)))
}

struct File {
    path: PathBuf,
    config: Value,
}

impl File {
    fn expect(&self, ok: bool, key: &'static str, expected: impl Into<String>) -> Result<(), TextError> {
        if ok {
            return Ok(());
        }
        let found =
            self.config.get(key).map_or_else(|| "nothing".to_owned(), |value| excerpt(&value.to_string()));
        Err(TextError::Value { path: self.path.clone(), key, expected: expected.into(), found })
    }

    /// A switch; `null` turns it off, as in transformers.
    fn switch(&self, key: &'static str, default: bool) -> Result<bool, TextError> {
        match self.config.get(key) {
            None => Ok(default),
            Some(Value::Bool(on)) => Ok(*on),
            Some(Value::Null) => Ok(false),
            Some(_) => self.expect(false, key, "true or false").map(|()| default),
        }
    }

    fn check_keys(&self) -> Result<(), TextError> {
        let keys = self.config.as_object().into_iter().flatten();
        for (key, value) in keys.filter(|(key, value)| !READ.contains(&key.as_str()) && !value.is_null()) {
            if !NEUTRAL.contains(&key.as_str()) {
                let (path, key) = (self.path.clone(), excerpt(key));
                let value = excerpt(&value.to_string());
                return Err(TextError::UnknownKey { path, key, value });
            }
        }
        let processor = &self.config["image_processor_type"];
        let known = processor.is_null() || processor.as_str().is_some_and(|name| PROCESSORS.contains(&name));
        self.expect(known, "image_processor_type", PROCESSORS.join(" or "))
    }

    /// Everything but the numbers: colours, size, filter, padding.
    fn check_geometry(&self, native_size: usize) -> Result<(), TextError> {
        self.expect(
            self.switch("do_convert_rgb", true)?,
            "do_convert_rgb",
            "true: pictures are always made RGB",
        )?;
        self.expect(
            self.switch("do_resize", true)?,
            "do_resize",
            "true: pictures are always scaled to the encoder",
        )?;
        self.expect(
            !self.switch("do_center_crop", false)?,
            "do_center_crop",
            "false: pictures are not cropped",
        )?;
        self.expect(
            self.switch("do_pad", true)?,
            "do_pad",
            "true: pictures are always filled up to the encoder's square",
        )?;
        let config = &self.config;
        let filter = config.get("resample");
        let bilinear = filter.is_none_or(|filter| filter.as_u64() == Some(2) || filter == "bilinear");
        self.expect(bilinear, "resample", "2 (bilinear)")?;
        let only = |key: &str, sides: &[&str]| {
            let matches = |(side, length): (&String, &Value)| {
                sides.contains(&side.as_str()) && length.as_u64() == Some(native_size as u64)
            };
            let sizes = config.get(key).map(|size| size.as_object().filter(|size| size.len() == sides.len()));
            sizes.is_none_or(|size| size.is_some_and(|size| size.iter().all(matches)))
        };
        let wanted = format!("{{\"longest_edge\": {native_size}}}, the image_size of vision_config");
        self.expect(only("size", &["longest_edge"]), "size", wanted)?;
        let wanted = format!("height and width {native_size}, the image_size of vision_config");
        self.expect(only("pad_size", &["height", "width"]), "pad_size", wanted)
    }

    /// Mean and standard deviation for pixels in 0..1. transformers computes `(byte * factor - mean) / deviation`, which is
    /// `(byte / 255 - mean / s) / (deviation / s)` with `s = 255 * factor`; it leaves out the factor without `do_rescale`,
    /// and mean and deviation without `do_normalize`.
    fn statistics(&self) -> Result<[[f64; 3]; 2], TextError> {
        let scale = if self.switch("do_rescale", true)? { self.scale()? } else { 255.0 };
        let statistics = match self.switch("do_normalize", true)? {
            true => [self.channels("image_mean", false)?, self.channels("image_std", true)?],
            false => [[0.0; 3], [1.0; 3]],
        };
        Ok(statistics.map(|channels| channels.map(|x| x / scale)))
    }

    /// 255 times the rescaling factor.
    fn scale(&self) -> Result<f64, TextError> {
        let factor = match self.config.get("rescale_factor") {
            None => 1.0 / 255.0,
            Some(factor) => factor.as_f64().unwrap_or(f64::NAN),
        };
        let usable = factor.is_finite() && (1e-6..=1e6).contains(&factor);
        self.expect(usable, "rescale_factor", "a number above zero, such as 0.00392156862745098 (1/255)")?;
        let scale = factor * 255.0;
        // 1/255 has no exact number: the usual factor is to leave the statistics as they are.
        Ok(if (scale - 1.0).abs() < 1e-6 { 1.0 } else { scale })
    }

    /// Three numbers, or one for all channels.
    fn channels(&self, key: &'static str, positive: bool) -> Result<[f64; 3], TextError> {
        let found = match &self.config[key] {
            Value::Array(list) => {
                let list: Option<Vec<f64>> = list.iter().map(Value::as_f64).collect();
                list.and_then(|list| <[f64; 3]>::try_from(list).ok())
            }
            one => one.as_f64().map(|x| [x; 3]),
        };
        let usable = |x: &f64| (*x as f32).is_finite() && (!positive || *x as f32 > 0.0);
        let found = found.filter(|channels| channels.iter().all(usable));
        let wanted = if positive { "three numbers above zero" } else { "three numbers" };
        self.expect(found.is_some(), key, wanted)?;
        Ok(found.unwrap_or([1.0; 3]))
    }
}

#[cfg(test)]
mod tests;
