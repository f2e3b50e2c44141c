//! The families of checkpoints: one file each, and one line in [`FAMILIES`].
//!
//! A new family is a file `families/NAME.rs` here. Its [`Family`] reads the checkpoint's files into a
//! [`Composition`]. The composition makes graphs from [`crate::networks`] and says what a runtime must know.
//! The file also names the keys of the configuration that change nothing. The other half of a family is
//! `vision/families/NAME.rs` of the runtime, which turns pictures into the graphs' inputs. A struct of
//! [`arrcoc_bundle::processors`] passes between the halves.

use serde::Deserialize;

use crate::config::{ConfigError, in_words};

mod arr_coc_ovis;
pub(crate) mod contract;
mod idefics3;
mod qwen_vl;

pub use contract::{
    Composition, Dialogue, Family, Files, GraphOptions, Ignored, Picture, PictureError, Preset,
};

/// All of them.
const FAMILIES: &[&dyn Family] = &[&arr_coc_ovis::ArrCocOvis, &idefics3::Idefics3, &qwen_vl::QwenVl];

/// Reads a checkpoint's configuration, of whatever family it is.
///
/// # Errors
/// [`ConfigError`].
pub fn read(files: &Files<'_>) -> Result<Box<dyn Composition>, ConfigError> {
    #[derive(Deserialize)]
    struct Raw {
        model_type: String,
    }
    let raw = Raw::deserialize(files.config)
        .map_err(|error| ConfigError::Parse { section: "top level", reason: in_words(&error.to_string()) })?;
    let family = FAMILIES.iter().find(|family| family.model_types().contains(&raw.model_type.as_str()));
    match family {
        Some(family) => family.read(files),
        None => Err(ConfigError::ModelType { found: raw.model_type, known: model_types().join(", ") }),
    }
}

/// Every `model_type` that can be read.
pub fn model_types() -> Vec<&'static str> {
    FAMILIES.iter().flat_map(|family| family.model_types()).copied().collect()
}

/// Every preset of every family.
pub fn presets() -> impl Iterator<Item = &'static Preset> {
    FAMILIES.iter().flat_map(|family| family.presets())
}

/// A preset by its name.
pub fn preset(name: &str) -> Option<&'static Preset> {
    presets().find(|preset| preset.name == name)
}
