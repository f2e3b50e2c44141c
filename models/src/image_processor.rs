//! The image processor's configuration, as transformers writes it: what of it a family follows, and what it
//! refuses by name.
//!
//! A key that changes pixel values is followed or refused. Which factor pixels are rescaled by, and whether
//! they are rescaled and normalised at all, becomes one mean and one deviation per channel.

use arrcoc_bundle::processors::PixelScale;
use arrcoc_bundle::quote::excerpt;
use serde_json::Value;

use crate::config::ConfigError;
use crate::families::contract::Files;

/// Keys that change nothing of the pixel values: of masks, of the form in which transformers returns them,
/// and what it reads only beside a key that is refused.
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

/// Keys that every family reads or checks here.
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

/// The image processors of transformers that resize to the longest edge and pad to a square.
const SQUARE: [&str; 3] = ["SamImageProcessor", "SamImageProcessorFast", "SamImageProcessorPil"];

/// A checkpoint's image processor.
#[derive(Clone, Copy)]
pub(crate) struct ImageProcessor<'a> {
    config: &'a Value,
    file: &'static str,
}

impl<'a> ImageProcessor<'a> {
    /// The configuration of a checkpoint.
    ///
    /// # Errors
    /// [`ConfigError::Value`] where there is none.
    pub(crate) fn new(files: &Files<'a>) -> Result<Self, ConfigError> {
        let processor = Self { config: files.image_processor, file: files.image_processor_file };
        if processor.config.is_object() {
            return Ok(processor);
        }
        Err(ConfigError::Value {
            section: processor.file,
            key: "image_processor_type",
            expected: "the image processor's configuration, as `processor.save_pretrained(DIR)` of transformers writes it".into(),
            found: "none".into(),
        })
    }

    /// Mean and deviation of a processor that resizes to the longest edge, rescales, normalises and pads to a
    /// square, in this order.
    ///
    /// # Errors
    /// [`ConfigError`] for everything else.
    pub(crate) fn square(&self, native_size: usize) -> Result<[[f32; 3]; 2], ConfigError> {
        self.check_keys(&SQUARE, &[])?;
        self.check_geometry(native_size)?;
        self.statistics()
    }

    /// Fails unless `ok`.
    pub(crate) fn expect(
        &self,
        ok: bool,
        key: &'static str,
        expected: impl Into<String>,
    ) -> Result<(), ConfigError> {
        if ok {
            return Ok(());
        }
        let found =
            self.config.get(key).map_or_else(|| "nothing".to_owned(), |value| excerpt(&value.to_string()));
        Err(ConfigError::Value { section: self.file, key, expected: expected.into(), found })
    }

    /// The value of a key; `null` where it is not set.
    pub(crate) fn get(&self, key: &str) -> &'a Value {
        &self.config[key]
    }

    /// A switch; `null` turns it off, as in transformers.
    /// A missing one is `default`.
    pub(crate) fn switch(&self, key: &'static str, default: bool) -> Result<bool, ConfigError> {
        match self.config.get(key) {
            None => Ok(default),
            Some(Value::Bool(on)) => Ok(*on),
            Some(Value::Null) => Ok(false),
            Some(_) => self.expect(false, key, "true or false").map(|()| default),
        }
    }

    /// Refuses a processor that is none of `types`, and keys that are neither read here, nor by the family,
    /// nor known to change nothing.
    pub(crate) fn check_keys(&self, types: &[&str], read: &[&str]) -> Result<(), ConfigError> {
        let keys = self.config.as_object().into_iter().flatten();
        let known = |key: &str| READ.contains(&key) || NEUTRAL.contains(&key) || read.contains(&key);
        if let Some((key, value)) = keys.into_iter().find(|(key, value)| !known(key) && !value.is_null()) {
            let key = format!("{} = {}", excerpt(key), excerpt(&value.to_string()));
            return Err(ConfigError::Unknown { section: self.file, key });
        }
        let processor = self.get("image_processor_type");
        let known = processor.is_null() || processor.as_str().is_some_and(|name| types.contains(&name));
        self.expect(known, "image_processor_type", types.join(" or "))
    }

    /// Everything but the numbers: colours, size, filter, padding.
    fn check_geometry(&self, native_size: usize) -> Result<(), ConfigError> {
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
        let config = self.config;
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

    /// Mean and standard deviation for pixels in 0..1. transformers computes `(byte * factor - mean) /
    /// deviation`, which is `(byte / 255 - mean / s) / (deviation / s)` with `s = 255 * factor`; it leaves
    /// out the factor without `do_rescale`, and mean and deviation without `do_normalize`.
    pub(crate) fn statistics(&self) -> Result<[[f32; 3]; 2], ConfigError> {
        let scale = if self.switch("do_rescale", true)? { self.scale()? } else { 255.0 };
        let statistics = match self.switch("do_normalize", true)? {
            true => [self.channels("image_mean", false)?, self.channels("image_std", true)?],
            false => [[0.0; 3], [1.0; 3]],
        };
        Ok(statistics.map(|channels| channels.map(|x| (x / scale) as f32)))
    }

    /// The same in the order and the roundings of transformers.
    ///
    /// # Errors
    /// [`ConfigError`] for numbers that cannot be used.
    pub(crate) fn pixel_scale(&self) -> Result<PixelScale, ConfigError> {
        let floats = |channels: [f64; 3]| channels.map(|x| x as f32);
        let factor = match self.switch("do_rescale", true)? {
            true => Some(self.factor()?),
            false => None,
        };
        let normalise = match self.switch("do_normalize", true)? {
            true => {
                Some([floats(self.channels("image_mean", false)?), floats(self.channels("image_std", true)?)])
            }
            false => None,
        };
        Ok(PixelScale { factor, normalise })
    }

    /// 255 times the rescaling factor.
    fn scale(&self) -> Result<f64, ConfigError> {
        let scale = self.factor()? * 255.0;
        // 1/255 has no exact number: the usual factor is to leave the statistics as they are.
        Ok(if (scale - 1.0).abs() < 1e-6 { 1.0 } else { scale })
    }

    /// The rescaling factor.
    fn factor(&self) -> Result<f64, ConfigError> {
        let factor = match self.config.get("rescale_factor") {
            None => 1.0 / 255.0,
            Some(factor) => factor.as_f64().unwrap_or(f64::NAN),
        };
        let usable = factor.is_finite() && (1e-6..=1e6).contains(&factor);
        self.expect(usable, "rescale_factor", "a number above zero, such as 0.00392156862745098 (1/255)")?;
        Ok(factor)
    }

    /// Three numbers, or one for all channels.
    fn channels(&self, key: &'static str, positive: bool) -> Result<[f64; 3], ConfigError> {
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
