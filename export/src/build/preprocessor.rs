//! What the runtime needs of `preprocessor_config.json`.

use std::path::Path;

use super::error::TextError;
use super::text::{self, parse};

const PREPROCESSOR_CONFIG: &str = "preprocessor_config.json";

/// Mean and standard deviation; and that the file describes the preprocessing that the runtime does.
pub(super) fn read(dir: &Path, native_size: usize) -> Result<([f32; 3], [f32; 3]), TextError> {
    let hint =
        "it holds the mean and standard deviation of pixels; save it with transformers' SamImageProcessor";
    let path = dir.join(PREPROCESSOR_CONFIG);
    let bytes = text::read(dir, PREPROCESSOR_CONFIG)?
        .ok_or_else(|| TextError::Missing { path: path.clone(), hint })?;
    let config = parse(dir, PREPROCESSOR_CONFIG, &bytes)?;
    let expect = |ok: bool, key: &'static str, expected: String| match ok {
        true => Ok(()),
        false => Err(TextError::Value { path: path.clone(), key, expected, found: config[key].to_string() }),
    };
    let factor = config["rescale_factor"].as_f64().unwrap_or(1.0 / 255.0);
    expect((factor * 255.0 - 1.0).abs() < 1e-6, "rescale_factor", "1/255".to_owned())?;
    expect(config["resample"].as_u64().unwrap_or(2) == 2, "resample", "2 (bilinear)".to_owned())?;
    let edge = config["size"]["longest_edge"].as_u64().unwrap_or(native_size as u64);
    let wanted = format!("longest_edge {native_size}, the image_size of vision_config");
    expect(edge == native_size as u64, "size", wanted)?;
    let channels = |key: &'static str, positive: bool| {
        let list: Option<Vec<f32>> = config[key]
            .as_array()
            .and_then(|list| list.iter().map(|x| x.as_f64().map(|x| x as f32)).collect());
        let three = list.and_then(|list| <[f32; 3]>::try_from(list).ok());
        let wanted = if positive { "three numbers above zero" } else { "three numbers" };
        let three = three.filter(|xs| xs.iter().all(|x| x.is_finite() && (!positive || *x > 0.0)));
        expect(three.is_some(), key, wanted.to_owned())?;
        Ok(three.unwrap_or_default())
    };
    Ok((channels("image_mean", false)?, channels("image_std", true)?))
}
