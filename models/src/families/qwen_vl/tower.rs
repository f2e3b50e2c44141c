//! The towers of the family's generations, behind one face.

use arrcoc_bundle::Target;
use serde_json::Value;

use super::NEUTRAL;
use crate::config::ConfigError;
use crate::graph::Graph;
use crate::networks::decoder::Kind;
use crate::networks::qwen_tower::Shape;
use crate::networks::qwen3_vision::Class;
use crate::networks::{qwen2_5_vision, qwen3_vision};

/// Where a checkpoint has its tower.
const TOWER: &str = "model.visual";

/// A generation, by its `model_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Generation {
    Qwen2_5,
    Qwen3,
    Qwen3_5,
}

impl Generation {
    /// Every value of `model_type`.
    pub(super) const NAMES: [&'static str; 3] = ["qwen2_5_vl", "qwen3_vl", "qwen3_5"];

    pub(super) fn named(name: &str) -> Self {
        match name {
            "qwen2_5_vl" => Self::Qwen2_5,
            "qwen3_5" => Self::Qwen3_5,
            _ => Self::Qwen3,
        }
    }

    /// The class's default of `image_token_id`.
    pub(super) fn image_token_id(self) -> u32 {
        match self {
            Self::Qwen2_5 | Self::Qwen3 => 151_655,
            Self::Qwen3_5 => 248_056,
        }
    }

    pub(super) fn decoder(self) -> Kind {
        match self {
            Self::Qwen2_5 => Kind::Qwen2_5Vl,
            Self::Qwen3 => Kind::Qwen3Vl,
            Self::Qwen3_5 => Kind::Qwen3_5,
        }
    }

    /// Reads `vision_config`.
    pub(super) fn tower(self, json: &Value) -> Result<Tower, ConfigError> {
        Ok(match self {
            Self::Qwen2_5 => Tower::Qwen2_5(qwen2_5_vision::Config::from_json(json, NEUTRAL)?),
            Self::Qwen3 => Tower::Qwen3(qwen3_vision::Config::from_json(json, NEUTRAL, Class::Qwen3Vl)?),
            Self::Qwen3_5 => Tower::Qwen3(qwen3_vision::Config::from_json(json, NEUTRAL, Class::Qwen3_5)?),
        })
    }
}

/// A validated `vision_config`.
#[derive(Debug, Clone)]
pub(super) enum Tower {
    Qwen2_5(qwen2_5_vision::Config),
    Qwen3(qwen3_vision::Config),
}

impl Tower {
    pub(super) fn graph(&self, target: Target) -> Graph {
        match self {
            Self::Qwen2_5(config) => qwen2_5_vision::graph(config, TOWER, target),
            Self::Qwen3(config) => qwen3_vision::graph(config, TOWER, target),
        }
    }

    /// Its sizes.
    pub(super) fn shape(&self) -> &Shape {
        match self {
            Self::Qwen2_5(config) => &config.shape,
            Self::Qwen3(config) => &config.shape,
        }
    }

    /// Layers that are tapped for rows of the decoder's first layers.
    pub(super) fn taps(&self) -> &[usize] {
        match self {
            Self::Qwen2_5(_) => &[],
            Self::Qwen3(config) => &config.taps,
        }
    }

    /// Side of the table of positions.
    pub(super) fn table_side(&self) -> Option<usize> {
        match self {
            Self::Qwen2_5(_) => None,
            Self::Qwen3(config) => Some(config.table_side),
        }
    }

    /// Side of a window, visual tokens.
    pub(super) fn window(&self) -> Option<usize> {
        match self {
            Self::Qwen2_5(config) => Some(config.window),
            Self::Qwen3(_) => None,
        }
    }
}
