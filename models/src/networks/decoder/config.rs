//! Hyperparameters of the decoder, as transformers' `LlamaConfig`, `MistralConfig`, `Qwen2Config` and
//! `Qwen3Config` have them.
//!
//! What a file does not state is that class's default: transformers leaves defaults out of the sections that
//! it saves.

use serde::{Deserialize, Deserializer};

use super::rope::{Keys, RawRope, Rope};
use crate::bricks::Activation;
use crate::config::{Check, ConfigError, Neutral, check_model_type, section};

/// Section of `config.json` that has the decoder.
const SECTION: &str = "text_config";

/// A decoder by its `model_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// <https://arxiv.org/abs/2407.21783>
    Llama,
    /// <https://arxiv.org/abs/2310.06825>
    Mistral,
    /// <https://arxiv.org/abs/2407.10671>
    Qwen2,
    /// <https://arxiv.org/abs/2505.09388>
    Qwen3,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 4] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3];

    /// The value of `model_type`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }
}

/// Hyperparameters.
#[derive(Debug, Clone)]
pub struct Config {
    /// Width of the residual stream, H.
    pub hidden_size: usize,
    /// Hidden width of the MLPs.
    pub intermediate_size: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Size of the vocabulary, V.
    pub vocab_size: usize,
    /// Longest sequence that the model was made for.
    pub max_positions: usize,
    /// Rotary positions.
    pub rope: Rope,
    /// Epsilon of the norms.
    pub rms_norm_eps: f32,
    /// Activation of the gate.
    pub activation: Activation,
    /// Whether the projections to queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether the projection behind the attention has one.
    pub output_bias: bool,
    /// Whether the MLP's projections have biases.
    pub mlp_bias: bool,
    /// Whether queries and keys are normalised, head by head.
    pub head_norms: bool,
    /// How many tokens back a layer sees, where one does not see all.
    pub sliding_window: Option<usize>,
    /// Whether the output head is the embedding table. What the file says; what the weights say wins.
    pub tied: bool,
    /// How many levels of visual features (DeepStack, <https://arxiv.org/abs/2406.04334>) are added behind
    /// the first layers.
    pub deep_levels: usize,
}

#[derive(Deserialize)]
struct RawConfig {
    model_type: Option<String>,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: Option<usize>,
    max_position_embeddings: Option<usize>,
    rope_theta: Option<f64>,
    rope_parameters: Option<RawRope>,
    rope_scaling: Option<RawRope>,
    partial_rotary_factor: Option<f64>,
    rms_norm_eps: Option<f32>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    #[serde(default)]
    tie_word_embeddings: bool,
    hidden_act: Option<String>,
    #[serde(default)]
    use_sliding_window: bool,
    /// `null` is another answer than none.
    #[serde(default, deserialize_with = "stated")]
    sliding_window: Option<Option<usize>>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
}

fn stated<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Option<usize>>, D::Error> {
    Option::deserialize(value).map(Some)
}

/// What a class of transformers takes where the file states nothing.
struct Defaults {
    vocab_size: usize,
    intermediate_size: usize,
    kv_heads: usize,
    max_positions: usize,
}

impl Kind {
    fn defaults(self, heads: usize) -> Defaults {
        match self {
            Self::Llama => Defaults {
                vocab_size: 32_000,
                intermediate_size: 11_008,
                kv_heads: heads,
                max_positions: 2048,
            },
            Self::Mistral => Defaults {
                vocab_size: 32_000,
                intermediate_size: 14_336,
                kv_heads: 8,
                max_positions: 131_072,
            },
            Self::Qwen2 | Self::Qwen3 => Defaults {
                vocab_size: 151_936,
                intermediate_size: 22_016,
                kv_heads: 32,
                max_positions: 32_768,
            },
        }
    }
}

impl Config {
    /// Reads a text configuration of one of `kinds`; the first one is meant where it names none.
    ///
    /// # Errors
    /// [`ConfigError`], naming key, what was expected and what was found.
    pub fn from_json(
        json: &serde_json::Value,
        neutral: Neutral,
        kinds: &[Kind],
    ) -> Result<Self, ConfigError> {
        let raw: RawConfig = section(json, SECTION, neutral)?;
        let names: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
        check_model_type(SECTION, raw.model_type.as_deref(), &names)?;
        let named = |kind: &&Kind| raw.model_type.as_deref() == Some(kind.name());
        let kind = kinds.iter().find(named).or(kinds.first()).copied().unwrap_or(Kind::Llama);
        raw.check(&Check(SECTION), kind)
    }

    /// Fails where a layer would forget tokens of a context of this length: here every layer sees all of
    /// them.
    ///
    /// # Errors
    /// [`ConfigError`], with the longest context that does.
    pub fn check_context(&self, context_length: usize) -> Result<(), ConfigError> {
        let seen = self.sliding_window.unwrap_or(context_length);
        let expected =
            format!("none, or at least the context of {context_length} tokens (choose a shorter one)");
        Check(SECTION).that(seen >= context_length, "sliding_window", expected, seen)
    }

    /// Shape of the embedding table.
    pub(super) fn embedding_shape(&self) -> [usize; 2] {
        [self.vocab_size, self.hidden_size]
    }
}

impl RawConfig {
    fn check(self, check: &Check, kind: Kind) -> Result<Config, ConfigError> {
        let hidden_size = self.hidden_size.unwrap_or(4096);
        let layers = self.num_hidden_layers.unwrap_or(32);
        let heads = self.num_attention_heads.unwrap_or(32);
        let defaults = kind.defaults(heads);
        let intermediate_size = self.intermediate_size.unwrap_or(defaults.intermediate_size);
        let kv_heads = self.num_key_value_heads.unwrap_or(defaults.kv_heads);
        let vocab_size = self.vocab_size.unwrap_or(defaults.vocab_size);
        let max_positions = self.max_position_embeddings.unwrap_or(defaults.max_positions);
        let head_dim = self.head_dim.unwrap_or(match kind {
            Kind::Qwen3 => 128,
            _ => hidden_size / heads.max(1),
        });
        check.sizes(&[
            ("hidden_size", hidden_size),
            ("intermediate_size", intermediate_size),
            ("num_attention_heads", heads),
            ("num_key_value_heads", kv_heads),
            ("head_dim", head_dim),
            ("vocab_size", vocab_size),
            ("max_position_embeddings", max_positions),
        ])?;
        let rms_norm_eps = self.rms_norm_eps.unwrap_or(1e-6);
        check.layers("num_hidden_layers", layers)?;
        check.epsilon("rms_norm_eps", rms_norm_eps)?;
        check.divides("num_attention_heads", heads, kv_heads, "num_key_value_heads")?;
        check.divides("head_dim", head_dim, 2, "two")?;
        let [qkv_bias, output_bias, mlp_bias] = self.biases(check, kind)?;
        let activation = Activation::read(check, "hidden_act", self.hidden_act.as_deref().unwrap_or("silu"))?;
        let sliding_window = self.sliding_window(check, kind, layers)?;
        let keys = Keys {
            rope_theta: self.rope_theta,
            rope_parameters: self.rope_parameters,
            rope_scaling: self.rope_scaling,
            partial_rotary_factor: self.partial_rotary_factor,
            max_positions,
        };
        Ok(Config {
            hidden_size,
            intermediate_size,
            layers,
            heads,
            kv_heads,
            head_dim,
            vocab_size,
            max_positions,
            rope: Rope::read(check, keys)?,
            rms_norm_eps,
            activation,
            qkv_bias,
            output_bias,
            mlp_bias,
            head_norms: kind == Kind::Qwen3,
            sliding_window,
            tied: self.tie_word_embeddings,
            deep_levels: 0,
        })
    }

    /// Whether there are biases on queries, keys and values, behind the attention, and in the MLP. Where the
    /// class fixes them, the file may not state otherwise.
    fn biases(&self, check: &Check, kind: Kind) -> Result<[bool; 3], ConfigError> {
        let fixed = |key, stated: Option<bool>, value: bool| {
            check.that(stated.is_none_or(|stated| stated == value), key, format!("{value}, or none"), stated)
        };
        let (attention, mlp) = (self.attention_bias, self.mlp_bias);
        match kind {
            Kind::Llama => {
                let attention = attention.unwrap_or(false);
                Ok([attention, attention, mlp.unwrap_or(false)])
            }
            Kind::Qwen3 => {
                let attention = attention.unwrap_or(false);
                fixed("mlp_bias", mlp, false).map(|()| [attention, attention, false])
            }
            Kind::Mistral | Kind::Qwen2 => {
                let biased = kind == Kind::Qwen2;
                fixed("attention_bias", attention, biased)?;
                fixed("mlp_bias", mlp, false).map(|()| [biased, false, false])
            }
        }
    }

    /// The window of the layers that have one.
    fn sliding_window(&self, check: &Check, kind: Kind, layers: usize) -> Result<Option<usize>, ConfigError> {
        let window = self.sliding_window.unwrap_or(Some(4096));
        let types = self.layer_types.as_deref().unwrap_or_default();
        let known = types.iter().all(|kind| kind == "full_attention" || kind == "sliding_attention");
        let slides = types.iter().any(|kind| kind == "sliding_attention");
        check.that(known, "layer_types", "full_attention or sliding_attention", types)?;
        match kind {
            // Neither reads `layer_types`.
            Kind::Llama | Kind::Mistral => {
                check.that(!slides, "layer_types", "full_attention in every layer", types)?;
                Ok(window.filter(|_| kind == Kind::Mistral))
            }
            Kind::Qwen2 | Kind::Qwen3 => {
                let on = self.use_sliding_window && window.is_some();
                check.that(on || !slides, "layer_types", "full_attention in every layer", types)?;
                let last_ones = self.layer_types.is_none() && self.max_window_layers.unwrap_or(28) < layers;
                Ok(window.filter(|_| on && (slides || last_ones)))
            }
        }
    }
}
