//! `--preset`: the shapes that families know by name.

use arrcoc_models::families::{self, Preset};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

/// Parses a preset's name, and tells help and shells which there are.
pub(super) fn preset() -> impl TypedValueParser<Value = &'static Preset> {
    let values = families::presets().map(|preset| PossibleValue::new(preset.name).help(preset.about));
    PossibleValuesParser::new(values)
        .try_map(|name| families::preset(&name).ok_or_else(|| format!("no preset is called `{name}`")))
}
