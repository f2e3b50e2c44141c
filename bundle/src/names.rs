//! Names that several crates must spell alike: axes, tensors, operators of our own, files. Every other crate
//! takes them from here.
//!
//! Tests may spell a name once more: then they notice a change of the format.

/// Axes that several graphs share. A family may add axes of its own.
pub mod axis {
    /// Rows that run together.
    pub const BATCH: &str = "batch";
    /// New tokens of a run.
    pub const SEQ: &str = "seq";
    /// Tokens that the KV cache holds before a run.
    pub const PAST: &str = "past";
    /// Tokens that the KV cache holds after a run.
    pub const TOTAL: &str = "total";
    /// Tokens of a question.
    pub const QUERY_LEN: &str = "query_len";
    /// Visual tokens of an image.
    pub const TOKENS: &str = "tokens";
    /// Patches of an image.
    pub const PATCHES: &str = "patches";
    /// Windows that patches attend in.
    pub const WINDOWS: &str = "windows";
    /// Tiles that an image was cut into.
    pub const TILES: &str = "tiles";
    /// Visual rows of all tiles.
    pub const ROWS: &str = "rows";
    /// Height of the encoder's input, pixels.
    pub const HEIGHT: &str = "height";
    /// Width of the encoder's input, pixels.
    pub const WIDTH: &str = "width";
}

/// Tensors of graphs that every family has.
pub mod tensor {
    /// Input of the embedding: tokens.
    pub const INPUT_IDS: &str = "input_ids";
    /// Output of the embedding, input of the decoder.
    pub const INPUTS_EMBEDS: &str = "inputs_embeds";
    /// Input of the decoder: three planes of positions.
    pub const POSITION_IDS: &str = "position_ids";
    /// Input of the portable decoder.
    pub const ATTENTION_MASK: &str = "attention_mask";
    /// Input of the fused decoder: length of each row after the run, minus one.
    pub const SEQLENS_K: &str = "seqlens_k";
    /// Input of the fused decoder: length of the longest row after the run.
    pub const TOTAL_SEQUENCE_LENGTH: &str = "total_sequence_length";
    /// Input of decoders that read visual rows at several depths.
    pub const DEEP_EMBEDS: &str = "deep_embeds";
    /// Output of the decoder.
    pub const LOGITS: &str = "logits";
    /// Input of the vision encoder.
    pub const PIXEL_VALUES: &str = "pixel_values";
    /// Output of the vision encoder.
    pub const IMAGE_FEATURES: &str = "image_features";
    /// Input of vision encoders for any grid: row and column of every patch.
    pub const COORDINATES: &str = "coordinates";
    /// Input of vision encoders that blend rows of a table of positions: which ones.
    pub const TABLE_ROWS: &str = "table_rows";
    /// Input beside [`TABLE_ROWS`]: how much of each.
    pub const TABLE_WEIGHTS: &str = "table_weights";
    /// Input of vision encoders that attend in windows: the patch in every slot of every window.
    pub const WINDOW_SLOTS: &str = "window_slots";
    /// Input beside [`WINDOW_SLOTS`]: what is added to the products with a slot.
    pub const WINDOW_MASK: &str = "window_mask";
    /// Input beside [`WINDOW_SLOTS`]: the slot of every patch.
    pub const WINDOW_PLACES: &str = "window_places";
    /// Output of vision encoders whose features are rows for the decoder.
    pub const VISUAL_ROWS: &str = "visual_rows";
    /// Output of vision encoders that are tapped for the decoder's first layers.
    pub const DEEP_ROWS: &str = "deep_rows";

    /// How the names of constants begin that the graphs' builder made and no checkpoint has.
    pub const CONSTANT: &str = "constant_";
}

/// Weights that a graph has in another form than 32-bit floats: the weight's name, and one of these behind
/// it.
pub mod stored {
    /// 16-bit floats.
    pub const HALF: &str = ".fp16";
    /// Integers or 8-bit floats.
    pub const VALUES: &str = ".quantized";
    /// Their scales.
    pub const SCALES: &str = ".scale";
    /// Their zero points, of forms that have them.
    pub const ZERO_POINTS: &str = ".zero_point";
}

/// Tensors of the decoder's KV cache.
pub mod cache {
    /// The two parts of a layer's cache.
    pub const PARTS: [&str; 2] = ["key", "value"];

    /// How the names of inputs begin.
    pub const PAST: &str = "past_key_values.";

    /// How the names of outputs begin.
    pub const PRESENT: &str = "present.";

    /// Input of a layer's keys or values.
    pub fn past(layer: usize, part: &str) -> String {
        format!("{PAST}{layer}.{part}")
    }

    /// Output of a layer's keys or values.
    pub fn present(layer: usize, part: &str) -> String {
        format!("{PRESENT}{layer}.{part}")
    }

    /// The two parts of what a recurrent layer remembers: the last inputs of its convolution, and its
    /// matrices.
    pub const STATE_PARTS: [&str; 2] = ["window", "matrix"];

    /// How the names of inputs of recurrent layers begin.
    pub const PAST_STATE: &str = "past_states.";

    /// How the names of outputs of recurrent layers begin.
    pub const PRESENT_STATE: &str = "present_states.";

    /// Input of what a recurrent layer remembers.
    pub fn past_state(layer: usize, part: &str) -> String {
        format!("{PAST_STATE}{layer}.{part}")
    }

    /// Output of what a recurrent layer remembers.
    pub fn present_state(layer: usize, part: &str) -> String {
        format!("{PRESENT_STATE}{layer}.{part}")
    }

    /// Whether an input comes from earlier runs.
    pub fn is_past(input: &str) -> bool {
        input.starts_with(PAST) || input.starts_with(PAST_STATE)
    }

    /// Whether an output goes to later runs.
    pub fn is_present(output: &str) -> bool {
        output.starts_with(PRESENT) || output.starts_with(PRESENT_STATE)
    }
}

/// Operators of our own, each a function of its graph whose body says what it means; and those of ONNX
/// Runtime's that passes know.
pub mod operator {
    /// The domain of our own.
    pub const DOMAIN: &str = "arrcoc";
    /// A linear layer in 8 bits.
    pub const QUANTIZED_LINEAR: &str = "QuantizedLinear";
    /// A linear layer whose weights lie in blocks of 4 bits.
    pub const BLOCK_LINEAR: &str = "BlockLinear";
    /// Attention of the decoder over its KV cache.
    pub const CACHED_ATTENTION: &str = "CachedAttention";
    /// The short convolution of recurrent layers.
    pub const CAUSAL_CONVOLUTION: &str = "CausalConvolution";
    /// The gated delta rule of recurrent layers.
    pub const GATED_DELTA: &str = "GatedDelta";
    /// Attention over a grid of patches.
    pub const GRID_ATTENTION: &str = "GridAttention";
    /// The same, with factors that a kernel may round to bfloat16.
    pub const GRID_ATTENTION_BF16: &str = "GridAttentionBf16";
    /// Attention of a sequence with itself, with factors that a kernel may round to bfloat16.
    pub const ATTENTION_BF16: &str = "AttentionBf16";

    /// ONNX Runtime's attention of the decoder over a KV cache that it extends in place.
    pub const GROUP_QUERY_ATTENTION: &str = "GroupQueryAttention";
    /// ONNX Runtime's rotary positions.
    pub const ROTARY_EMBEDDING: &str = "RotaryEmbedding";
}

/// Files of a bundle besides its graphs.
pub mod file {
    /// The manifest.
    pub const MANIFEST: &str = "manifest.yaml";
    /// The tokenizer, as the `tokenizers` library writes it.
    pub const TOKENIZER: &str = "tokenizer.json";
    /// The tokenizer's special tokens, and in some checkpoints the chat template.
    pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
    /// The chat template.
    pub const CHAT_TEMPLATE: &str = "chat_template.jinja";
}

/// Files of a checkpoint, as transformers names them, besides those that a bundle carries too ([`mod@file`]).
pub mod checkpoint {
    /// The networks' configuration.
    pub const CONFIG: &str = "config.json";
    /// Weights that lie in one file.
    pub const WEIGHTS: &str = "model.safetensors";
    /// Index of weights that lie in several files.
    pub const INDEX: &str = "model.safetensors.index.json";
    /// How tokens are picked, and which end an answer.
    pub const GENERATION_CONFIG: &str = "generation_config.json";
    /// The image processor's configuration.
    pub const PREPROCESSOR_CONFIG: &str = "preprocessor_config.json";
    /// The processor's configuration, in newer checkpoints with the image processor's inside.
    pub const PROCESSOR_CONFIG: &str = "processor_config.json";
    /// Where processors had their template before it got a file of its own.
    pub const LEGACY_CHAT_TEMPLATE: &str = "chat_template.json";
    /// The default among named templates.
    pub const DEFAULT_TEMPLATE: &str = "chat_templates/default.jinja";
    /// Tokens that older tokenizer configurations do not name themselves.
    pub const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
}
