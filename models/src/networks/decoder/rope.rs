//! Rotary positions of the decoder: frequencies as transformers' `modeling_rope_utils.py` computes them, and
//! cosines and sines by token.
//!
//! This file and `config.rs` are one thought: a configuration has a rope, and a rope is read from the
//! configuration's keys.

use std::collections::BTreeMap;
use std::f64::consts::TAU;

use arrcoc_bundle::quote::excerpt;
use serde::Deserialize;

use super::Config;
use crate::bricks::rotary;
use crate::config::{Check, ConfigError};
use crate::graph::{Builder, Value};

/// Rotary positions.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// What makes of them frequencies for a longer context.
    pub scaling: Scaling,
    /// Which axis of a position each frequency turns with.
    pub axes: Axes,
    /// How many numbers of a head are rotated: all, or the first ones; even.
    pub width: usize,
}

/// The axes of positions: 0 time, 1 row, 2 column. A text's token has the same number in all three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axes {
    /// All frequencies turn with the first axis.
    One,
    /// The first frequencies turn with time, the next with the row, the last with the column, so many each
    /// (<https://arxiv.org/abs/2409.12191>).
    Sections([usize; 3]),
    /// Every third frequency turns with the row and the ones behind these with the column, so many each; all
    /// others with time (<https://arxiv.org/abs/2511.21631>).
    Interleaved([usize; 3]),
}

impl Axes {
    /// The axis of each of `count` frequencies.
    pub fn of(self, count: usize) -> Vec<usize> {
        let axis = |at: usize| match self {
            Self::One => 0,
            Self::Sections([time, rows, _]) => usize::from(at >= time) + usize::from(at >= time + rows),
            Self::Interleaved(sections) => match at % 3 {
                axis if at < 3 * sections[axis] => axis,
                _ => 0,
            },
        };
        (0..count).map(axis).collect()
    }

    /// The same with the sections that a file states.
    fn with(self, sections: [usize; 3]) -> Self {
        match self {
            Self::One => Self::One,
            Self::Sections(_) => Self::Sections(sections),
            Self::Interleaved(_) => Self::Interleaved(sections),
        }
    }
}

/// What a class of transformers takes where the file states nothing.
pub(super) struct Defaults {
    pub(super) theta: f64,
    pub(super) axes: Axes,
    /// The share of a head that is rotated; `None` where the class rotates whole heads, or fails.
    pub(super) share: Option<f64>,
}

impl Defaults {
    /// Those of most models.
    pub(super) const PLAIN: Self = Self { theta: 10_000.0, axes: Axes::One, share: None };
}

/// How frequencies are changed for contexts beyond those of the first training.
#[derive(Debug, Clone, PartialEq)]
pub enum Scaling {
    /// They are not.
    Default,
    /// All are divided by a factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Llama 3.1: low ones are divided, high ones stay, those in between are blended.
    Llama3 {
        /// What low frequencies are divided by.
        factor: f64,
        /// Turns within the original context up to which a frequency is low.
        low: f64,
        /// Turns within the original context from which on a frequency is high.
        high: f64,
        /// The original context.
        original: f64,
    },
    /// YaRN (<https://arxiv.org/abs/2309.00071>): as before, blended by the index of the frequency, with
    /// longer vectors.
    Yarn {
        /// What low frequencies are divided by.
        factor: f64,
        /// Turns within the original context that end the blend.
        fast: f64,
        /// Turns within the original context that begin it.
        slow: f64,
        /// Whether the blend begins and ends at whole indices.
        truncate: bool,
        /// The original context.
        original: f64,
        /// Factor on cosines and sines.
        magnitude: f64,
    },
}

/// `rope_parameters`, or `rope_scaling` of files before transformers 5.
#[derive(Default, Deserialize)]
pub(super) struct RawRope {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
    /// The older spelling, which counts where the newer one is missing.
    #[serde(rename = "type")]
    legacy_type: Option<String>,
    partial_rotary_factor: Option<f64>,
    /// What the types of rope need.
    #[serde(flatten)]
    others: BTreeMap<String, serde_json::Value>,
}

impl RawRope {
    fn is_empty(&self) -> bool {
        let Self { rope_theta, rope_type, legacy_type, partial_rotary_factor, others } = self;
        let named = rope_type.is_some() || legacy_type.is_some();
        !named && rope_theta.is_none() && partial_rotary_factor.is_none() && others.is_empty()
    }
}

/// Keys of the text configuration that say what the rope is.
pub(super) struct Keys {
    pub(super) rope_theta: Option<f64>,
    /// transformers 5.
    pub(super) rope_parameters: Option<RawRope>,
    /// Released checkpoints; wins over `rope_parameters`, unless it is empty.
    pub(super) rope_scaling: Option<RawRope>,
    /// Counts where the rope's own object has none.
    pub(super) partial_rotary_factor: Option<f64>,
    pub(super) max_positions: usize,
    pub(super) head_dim: usize,
    pub(super) defaults: Defaults,
}

impl Rope {
    /// The rope from where transformers takes it: the object that wins, then the key beside it, then the
    /// default.
    pub(super) fn read(check: &Check, keys: Keys) -> Result<Self, ConfigError> {
        let scaling = keys.rope_scaling.filter(|rope| !rope.is_empty());
        let (key, rope) = match (scaling, keys.rope_parameters) {
            (Some(rope), _) => ("rope_scaling", rope),
            (None, rope) => ("rope_parameters", rope.unwrap_or_default()),
        };
        let Defaults { theta, axes, share } = keys.defaults;
        let stated = rope.partial_rotary_factor.or(keys.partial_rotary_factor);
        let width = rotated(check, stated, share, keys.head_dim)?;
        let theta = rope.rope_theta.or(keys.rope_theta).unwrap_or(theta);
        check.that(theta.is_finite() && theta > 1.0, "rope_theta", "above 1", theta)?;
        let kind = rope.rope_type.or(rope.legacy_type).unwrap_or_else(|| "default".to_owned());
        // Files before transformers 5 name the axes where others name the scaling.
        let kind = if axes != Axes::One && kind == "mrope" { "default".to_owned() } else { kind };
        let mut parameters = Parameters { check, key, kind: &kind, others: rope.others };
        let axes = parameters.axes(axes, width / 2)?;
        let scaling = parameters.scaling(keys.max_positions as f64)?;
        Ok(Self { theta, scaling, axes, width })
    }

    /// Frequencies of a head, \[width / 2\].
    pub fn frequencies(&self) -> Vec<f64> {
        let width = self.width;
        let plain = rotary::frequencies(width, self.theta);
        match self.scaling {
            Scaling::Default => plain,
            Scaling::Linear { factor } => plain.iter().map(|f| f / factor).collect(),
            Scaling::Llama3 { factor, low, high, original } => {
                let scaled = |f: f64| {
                    // Turns within the original context.
                    let turns = original * f / TAU;
                    let high_share = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    (1.0 - high_share) * f / factor + high_share * f
                };
                plain.into_iter().map(scaled).collect()
            }
            Scaling::Yarn { factor, fast, slow, truncate, original, .. } => {
                // The index, a fraction, of the frequency that turns so often within the original context.
                let index =
                    |turns: f64| width as f64 * (original / (turns * TAU)).ln() / (2.0 * self.theta.ln());
                let (first, last) = match truncate {
                    true => (index(fast).floor(), index(slow).ceil()),
                    false => (index(fast), index(slow)),
                };
                let (first, last) = (first.max(0.0), last.min(width as f64 - 1.0));
                let length = if first == last { 0.001 } else { last - first };
                let scaled = |(i, f): (usize, f64)| {
                    let low_share = ((i as f64 - first) / length).clamp(0.0, 1.0);
                    f / factor * low_share + f * (1.0 - low_share)
                };
                plain.into_iter().enumerate().map(scaled).collect()
            }
        }
    }

    /// Factor on cosines and sines.
    pub fn magnitude(&self) -> f64 {
        match self.scaling {
            Scaling::Yarn { magnitude, .. } => magnitude,
            _ => 1.0,
        }
    }
}

/// How many numbers of a head are rotated.
fn rotated(
    check: &Check,
    stated: Option<f64>,
    share: Option<f64>,
    head: usize,
) -> Result<usize, ConfigError> {
    let (expected, width) = match (stated, share) {
        (None, None) => return Ok(head),
        (Some(stated), None) => ("1, or none", if stated == 1.0 { head } else { 0 }),
        (stated, Some(share)) => {
            let share = stated.unwrap_or(share);
            let width = if share > 0.0 && share <= 1.0 { (head as f64 * share) as usize } else { 0 };
            ("a share of head_dim that is a whole, even number", width)
        }
    };
    let fits = width > 0 && width.is_multiple_of(2);
    check.that(fits, "partial_rotary_factor", expected, stated.or(share))?;
    Ok(width)
}

/// What an object says besides the base, by the type of its rope.
struct Parameters<'a> {
    check: &'a Check,
    /// Where the object stands.
    key: &'static str,
    kind: &'a str,
    others: BTreeMap<String, serde_json::Value>,
}

impl Parameters<'_> {
    /// The axes of `count` frequencies; a model with one axis knows no keys about several.
    fn axes(&mut self, default: Axes, count: usize) -> Result<Axes, ConfigError> {
        if default == Axes::One {
            return Ok(default);
        }
        // The class has the frequencies in its own order, whatever the file says.
        self.others.remove("mrope_interleaved");
        let stated = self.others.remove("mrope_section").filter(|stated| !stated.is_null());
        let (sections, found) = match (stated, default) {
            (None, Axes::Sections(sections)) => (Some(sections), "none".to_owned()),
            // What the class's own sections leave over turns with time.
            (None, _) => return Ok(default),
            (Some(stated), _) => (serde_json::from_value(stated.clone()).ok(), excerpt(&stated.to_string())),
        };
        let sum = |sections: &[usize; 3]| sections.iter().try_fold(0, |sum: usize, &n| sum.checked_add(n));
        let fitting = sections.filter(|sections| sum(sections) == Some(count));
        let expected =
            format!("mrope_section: three numbers with the sum {count}, half the rotated width of a head");
        fitting.map(|sections| default.with(sections)).ok_or_else(|| self.refused(expected, found))
    }

    fn scaling(mut self, max_positions: f64) -> Result<Scaling, ConfigError> {
        let scaling = match self.kind {
            "default" => Scaling::Default,
            "linear" => Scaling::Linear { factor: self.required("factor")? },
            "llama3" => self.llama3(max_positions)?,
            "yarn" => self.yarn(max_positions)?,
            other => {
                let expected = "rope_type default, linear, llama3 or yarn".to_owned();
                return Err(self.refused(expected, format!("{other:?}")));
            }
        };
        match self.others.into_iter().find(|(_, value)| !value.is_null()) {
            None => Ok(scaling),
            Some((other, _)) => {
                let key = format!("{}.{other}", self.key);
                Err(ConfigError::Unknown { section: self.check.0, key })
            }
        }
    }

    fn llama3(&mut self, max_positions: f64) -> Result<Scaling, ConfigError> {
        let (low, high) = (self.required("low_freq_factor")?, self.required("high_freq_factor")?);
        self.check.that(low < high, self.key, "low_freq_factor below high_freq_factor", [low, high])?;
        Ok(Scaling::Llama3 {
            factor: self.required("factor")?,
            low,
            high,
            original: self.optional("original_max_position_embeddings")?.unwrap_or(max_positions),
        })
    }

    fn yarn(&mut self, max_positions: f64) -> Result<Scaling, ConfigError> {
        let original = self.optional("original_max_position_embeddings")?.unwrap_or(max_positions);
        let factor = self.optional("factor")?.unwrap_or(max_positions / original);
        let longer = |weight: f64| if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 };
        let weights = (self.optional("mscale")?, self.optional("mscale_all_dim")?);
        let magnitude = match (self.optional("attention_factor")?, weights) {
            (Some(stated), _) => stated,
            (None, (Some(over), Some(under))) => longer(over) / longer(under),
            (None, _) => longer(1.0),
        };
        let truncate = match self.others.remove("truncate") {
            None | Some(serde_json::Value::Null) => true,
            Some(serde_json::Value::Bool(truncate)) => truncate,
            Some(other) => {
                return Err(self.refused("truncate true or false".to_owned(), other.to_string()));
            }
        };
        let (fast, slow) =
            (self.optional("beta_fast")?.unwrap_or(32.0), self.optional("beta_slow")?.unwrap_or(1.0));
        Ok(Scaling::Yarn { factor, fast, slow, truncate, original, magnitude })
    }

    fn required(&mut self, name: &'static str) -> Result<f64, ConfigError> {
        let found = self.optional(name)?;
        found.ok_or_else(|| self.not_positive(name, "none".to_owned()))
    }

    /// A number above zero; zero counts as none, as it does in transformers.
    fn optional(&mut self, name: &'static str) -> Result<Option<f64>, ConfigError> {
        let Some(value) = self.others.remove(name).filter(|value| !value.is_null()) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if number > 0.0 && number.is_finite() => Ok(Some(number)),
            Some(0.0) => Ok(None),
            _ => Err(self.not_positive(name, value.to_string())),
        }
    }

    fn not_positive(&self, name: &str, found: String) -> ConfigError {
        self.refused(format!("{name} above 0 for rope_type {}", self.kind), found)
    }

    fn refused(&self, expected: String, found: String) -> ConfigError {
        ConfigError::Value { section: self.check.0, key: self.key, expected, found }
    }
}

/// Cosines and sines of every token, \[B, S, width / 2\] each, from `position_ids` \[3, B, S\]: a token's
/// time, row and column. Only tables of `context_length` places are looked up, so nothing is computed that
/// depends on the position.
///
/// Where frequencies turn with different axes, rows of all three are looked up, and each frequency takes its
/// own from the row of its axis.
pub(super) fn rope(
    g: &mut Builder,
    config: &Config,
    position_ids: &Value,
    context_length: usize,
) -> (Value, Value) {
    let (frequencies, magnitude) = (config.rope.frequencies(), config.rope.magnitude());
    let axes = config.rope.axes.of(frequencies.len());
    let planes: Vec<Plane> = (0..3)
        .filter(|axis| *axis == 0 || axes.contains(axis))
        .map(|axis| plane(g, position_ids, &axes, axis))
        .collect();
    // [context, width / 2]
    let (cosines, sines) = rotary::tables(g, context_length, &frequencies, magnitude as f32);
    (look_up(g, &cosines, &planes), look_up(g, &sines, &planes))
}

/// One axis of all positions.
struct Plane {
    /// \[B, S\]
    places: Value,
    /// Which frequencies turn with it, \[width / 2\]; `None` for the first axis, which has all others.
    own: Option<Value>,
}

fn plane(g: &mut Builder, position_ids: &Value, axes: &[usize], axis: usize) -> Plane {
    let index = g.ints(&[], &[axis as i64]);
    let places = g.gather(position_ids, &index, 0);
    let own = (axis > 0).then(|| {
        let marks: Vec<i64> = axes.iter().map(|&of| i64::from(of == axis)).collect();
        let (marks, one) = (g.ints(&[marks.len()], &marks), g.ints(&[1], &[1]));
        g.equal(&marks, &one)
    });
    Plane { places, own }
}

/// Rows of a table by token, \[B, S, width / 2\].
fn look_up(g: &mut Builder, table: &Value, planes: &[Plane]) -> Value {
    let mut rows = g.gather(table, &planes[0].places, 0);
    for plane in &planes[1..] {
        let others = g.gather(table, &plane.places, 0);
        if let Some(own) = &plane.own {
            rows = g.select(own, &others, &rows);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frequency_turns_with_the_axis_that_transformers_gives_it() {
        // By hand from `recomposition_frequencies` of Qwen2.5-VL and Qwen3-VL.
        assert_eq!(Axes::Sections([1, 2, 1]).of(4), [0, 1, 1, 2]);
        assert_eq!(Axes::Interleaved([4, 2, 2]).of(8), [0, 1, 2, 0, 1, 2, 0, 0]);
        assert_eq!(Axes::Interleaved([3, 2, 3]).of(8), [0, 1, 2, 0, 1, 2, 0, 0]);
        assert_eq!(Axes::One.of(2), [0, 0]);
    }
}
