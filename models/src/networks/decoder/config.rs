//! Hyperparameters of the decoder, as transformers' `LlamaConfig`, `MistralConfig`, `Qwen2Config`,
//! `Qwen3Config`, `Qwen3VLTextConfig` and `Qwen3_5TextConfig` have them.
//!
//! What a file does not state is that class's default: transformers leaves defaults out of the sections that
//! it saves.

use arrcoc_bundle::Target;
use serde::{Deserialize, Deserializer};

use super::delta_net::DeltaNet;
use super::rope::{self, Axes, Keys, RawRope, Rope};
use crate::bricks::{Activation, RmsNorm};
use crate::config::{Check, ConfigError, Neutral, check_model_type, section};
use crate::graph::ops::gated_delta::DeltaHeads;

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
    /// Qwen2 with positions in three axes (<https://arxiv.org/abs/2502.13923>).
    Qwen2_5Vl,
    /// Qwen3 with positions in three axes (<https://arxiv.org/abs/2511.21631>).
    Qwen3Vl,
    /// Most layers are gated delta nets (<https://arxiv.org/abs/2412.06464>); positions in three axes.
    Qwen3_5,
}

impl Kind {
    /// Every kind that is a model of its own: those that count positions in one axis.
    pub const ALL: [Kind; 4] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3];

    /// The value of `model_type`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Qwen2_5Vl => "qwen2_5_vl_text",
            Self::Qwen3Vl => "qwen3_vl_text",
            Self::Qwen3_5 => "qwen3_5_text",
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
    /// Whether the projection to queries also makes gates, by which the attention's output is multiplied.
    pub output_gate: bool,
    /// Whether norms multiply with one more than their weights.
    pub norms_from_one: bool,
    /// Layers that have no attention.
    pub delta_net: Option<DeltaNet>,
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
    full_attention_interval: Option<usize>,
    linear_num_key_heads: Option<usize>,
    linear_num_value_heads: Option<usize>,
    linear_key_head_dim: Option<usize>,
    linear_value_head_dim: Option<usize>,
    linear_conv_kernel_dim: Option<usize>,
}

fn stated<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Option<usize>>, D::Error> {
    Option::deserialize(value).map(Some)
}

/// What a class of transformers takes where the file states nothing.
struct Defaults {
    hidden_size: usize,
    intermediate_size: usize,
    layers: usize,
    heads: usize,
    /// `None` is as many as query heads.
    kv_heads: Option<usize>,
    /// `None` is the width of a query head's share.
    head_dim: Option<usize>,
    vocab_size: usize,
    max_positions: usize,
    rms_norm_eps: f32,
    max_window_layers: usize,
    rope: rope::Defaults,
}

impl Defaults {
    const LLAMA: Self = Self {
        hidden_size: 4096,
        intermediate_size: 11_008,
        layers: 32,
        heads: 32,
        kv_heads: None,
        head_dim: None,
        vocab_size: 32_000,
        max_positions: 2048,
        rms_norm_eps: 1e-6,
        max_window_layers: 28,
        rope: rope::Defaults::PLAIN,
    };
    const MISTRAL: Self =
        Self { intermediate_size: 14_336, kv_heads: Some(8), max_positions: 131_072, ..Self::LLAMA };
    const QWEN2: Self = Self {
        intermediate_size: 22_016,
        kv_heads: Some(32),
        vocab_size: 151_936,
        max_positions: 32_768,
        ..Self::LLAMA
    };
    const QWEN3: Self = Self { head_dim: Some(128), ..Self::QWEN2 };
    const QWEN2_5_VL: Self = Self {
        hidden_size: 8192,
        intermediate_size: 29_568,
        layers: 80,
        heads: 64,
        kv_heads: Some(8),
        vocab_size: 152_064,
        rms_norm_eps: 1e-5,
        max_window_layers: 80,
        rope: rope::Defaults { theta: 1_000_000.0, axes: Axes::Sections([16, 24, 24]), share: None },
        ..Self::QWEN2
    };
    const QWEN3_VL: Self = Self {
        max_positions: 128_000,
        rope: rope::Defaults { theta: 500_000.0, axes: Axes::Interleaved([24, 20, 20]), share: None },
        ..Self::QWEN3
    };
    const QWEN3_5: Self = Self {
        intermediate_size: 12_288,
        heads: 16,
        kv_heads: Some(4),
        head_dim: Some(256),
        vocab_size: 248_320,
        rope: rope::Defaults { theta: 10_000.0, axes: Axes::Interleaved([11, 11, 10]), share: Some(0.25) },
        ..Self::QWEN3
    };
}

impl Kind {
    fn defaults(self) -> Defaults {
        match self {
            Self::Llama => Defaults::LLAMA,
            Self::Mistral => Defaults::MISTRAL,
            Self::Qwen2 => Defaults::QWEN2,
            Self::Qwen3 => Defaults::QWEN3,
            Self::Qwen2_5Vl => Defaults::QWEN2_5_VL,
            Self::Qwen3Vl => Defaults::QWEN3_VL,
            Self::Qwen3_5 => Defaults::QWEN3_5,
        }
    }
}

impl Config {
    /// Width of a head in the cache: ONNX Runtime's attention takes multiples of eight. Other heads are
    /// filled up with zeros there, which changes no product.
    pub fn cached_width(&self, target: Target) -> usize {
        let takes_any = target.has_own_operators() || !target.shares_cache();
        if takes_any { self.head_dim } else { self.head_dim.next_multiple_of(8) }
    }

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

    /// What the norms before layers and parts of them multiply with.
    pub(super) fn norm(&self) -> RmsNorm {
        RmsNorm { epsilon: self.rms_norm_eps, from_one: self.norms_from_one }
    }

    /// The sizes of a layer's delta net; `None` where it has attention.
    pub(super) fn delta_net(&self, layer: usize) -> Option<&DeltaNet> {
        self.delta_net.as_ref().filter(|net| net.layers.contains(&layer))
    }

    /// Shape of the embedding table.
    pub(super) fn embedding_shape(&self) -> [usize; 2] {
        [self.vocab_size, self.hidden_size]
    }
}

impl RawConfig {
    fn check(self, check: &Check, kind: Kind) -> Result<Config, ConfigError> {
        let defaults = kind.defaults();
        let hidden_size = self.hidden_size.unwrap_or(defaults.hidden_size);
        let layers = self.num_hidden_layers.unwrap_or(defaults.layers);
        let heads = self.num_attention_heads.unwrap_or(defaults.heads);
        let intermediate_size = self.intermediate_size.unwrap_or(defaults.intermediate_size);
        let kv_heads = self.num_key_value_heads.or(defaults.kv_heads).unwrap_or(heads);
        let vocab_size = self.vocab_size.unwrap_or(defaults.vocab_size);
        let max_positions = self.max_position_embeddings.unwrap_or(defaults.max_positions);
        let head_dim = self.head_dim.or(defaults.head_dim).unwrap_or(hidden_size / heads.max(1));
        check.sizes(&[
            ("hidden_size", hidden_size),
            ("intermediate_size", intermediate_size),
            ("num_attention_heads", heads),
            ("num_key_value_heads", kv_heads),
            ("head_dim", head_dim),
            ("vocab_size", vocab_size),
            ("max_position_embeddings", max_positions),
        ])?;
        let rms_norm_eps = self.rms_norm_eps.unwrap_or(defaults.rms_norm_eps);
        check.layers("num_hidden_layers", layers)?;
        check.epsilon("rms_norm_eps", rms_norm_eps)?;
        check.divides("num_attention_heads", heads, kv_heads, "num_key_value_heads")?;
        check.divides("head_dim", head_dim, 2, "two")?;
        let [qkv_bias, output_bias, mlp_bias] = self.biases(check, kind)?;
        let activation = Activation::read(check, "hidden_act", self.hidden_act.as_deref().unwrap_or("silu"))?;
        let sliding_window = self.sliding_window(check, kind, layers)?;
        let delta_net = self.delta_net(check, kind, layers)?;
        let keys = Keys {
            rope_theta: self.rope_theta,
            rope_parameters: self.rope_parameters,
            rope_scaling: self.rope_scaling,
            partial_rotary_factor: self.partial_rotary_factor,
            max_positions,
            head_dim,
            defaults: defaults.rope,
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
            head_norms: matches!(kind, Kind::Qwen3 | Kind::Qwen3Vl | Kind::Qwen3_5),
            output_gate: kind == Kind::Qwen3_5,
            norms_from_one: kind == Kind::Qwen3_5,
            delta_net,
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
            Kind::Qwen3 | Kind::Qwen3Vl | Kind::Qwen3_5 => {
                let attention = attention.unwrap_or(false);
                fixed("mlp_bias", mlp, false).map(|()| [attention, attention, false])
            }
            Kind::Mistral | Kind::Qwen2 | Kind::Qwen2_5Vl => {
                let biased = kind != Kind::Mistral;
                fixed("attention_bias", attention, biased)?;
                fixed("mlp_bias", mlp, false).map(|()| [biased, false, false])
            }
        }
    }

    /// Which layers are delta nets, and their sizes.
    fn delta_net(&self, check: &Check, kind: Kind, layers: usize) -> Result<Option<DeltaNet>, ConfigError> {
        let sizes = [
            ("linear_num_key_heads", self.linear_num_key_heads, 16),
            ("linear_num_value_heads", self.linear_num_value_heads, 32),
            ("linear_key_head_dim", self.linear_key_head_dim, 128),
            ("linear_value_head_dim", self.linear_value_head_dim, 128),
            ("linear_conv_kernel_dim", self.linear_conv_kernel_dim, 4),
        ];
        if kind != Kind::Qwen3_5 {
            // No other class reads these keys.
            let all = sizes.iter().map(|(key, stated, _)| (*key, *stated));
            let mut all = all.chain([("full_attention_interval", self.full_attention_interval)]);
            return match all.find(|(_, stated)| stated.is_some()) {
                None => Ok(None),
                Some((key, _)) => Err(ConfigError::Unknown { section: check.0, key: key.to_owned() }),
            };
        }
        let taken = sizes.map(|(key, stated, default)| (key, stated.unwrap_or(default)));
        check.sizes(&taken)?;
        let [key_heads, value_heads, key_width, value_width, kernel] = taken.map(|(_, size)| size);
        check.divides("linear_num_value_heads", value_heads, key_heads, "linear_num_key_heads")?;
        check.that((2..=64).contains(&kernel), "linear_conv_kernel_dim", "2 to 64", kernel)?;
        let layers = self.linear_layers(check, layers)?;
        let heads = DeltaHeads { key_heads, value_heads, key_width, value_width };
        let net = DeltaNet { layers, heads, kernel };
        Ok(Some(net).filter(|net| !net.layers.is_empty()))
    }

    /// The layers without attention.
    fn linear_layers(&self, check: &Check, layers: usize) -> Result<Vec<usize>, ConfigError> {
        let Some(types) = &self.layer_types else {
            let interval = self.full_attention_interval.unwrap_or(4);
            check.that(interval > 0, "full_attention_interval", "1 or more", interval)?;
            return Ok((0..layers).filter(|layer| !(layer + 1).is_multiple_of(interval)).collect());
        };
        let known = types.iter().all(|kind| kind == "full_attention" || kind == "linear_attention");
        check.that(known, "layer_types", "full_attention or linear_attention", types)?;
        let expected = format!("num_hidden_layers ({layers}) entries");
        check.that(types.len() == layers, "layer_types", expected, types.len())?;
        let linear = types.iter().enumerate().filter(|(_, kind)| *kind == "linear_attention");
        Ok(linear.map(|(layer, _)| layer).collect())
    }

    /// The window of the layers that have one.
    fn sliding_window(&self, check: &Check, kind: Kind, layers: usize) -> Result<Option<usize>, ConfigError> {
        if kind == Kind::Qwen3_5 {
            return Ok(None);
        }
        let window = self.sliding_window.unwrap_or(Some(4096));
        let types = self.layer_types.as_deref().unwrap_or_default();
        let known = types.iter().all(|kind| kind == "full_attention" || kind == "sliding_attention");
        let slides = types.iter().any(|kind| kind == "sliding_attention");
        check.that(known, "layer_types", "full_attention or sliding_attention", types)?;
        match kind {
            // None of them reads `layer_types`.
            Kind::Llama | Kind::Mistral | Kind::Qwen3Vl => {
                check.that(!slides, "layer_types", "full_attention in every layer", types)?;
                Ok(window.filter(|_| kind == Kind::Mistral))
            }
            Kind::Qwen2 | Kind::Qwen3 | Kind::Qwen2_5Vl | Kind::Qwen3_5 => {
                let on = self.use_sliding_window && window.is_some();
                check.that(on || !slides, "layer_types", "full_attention in every layer", types)?;
                let first = self.max_window_layers.unwrap_or(kind.defaults().max_window_layers);
                let last_ones = self.layer_types.is_none() && first < layers;
                Ok(window.filter(|_| on && (slides || last_ones)))
            }
        }
    }
}
