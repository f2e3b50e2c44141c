//! Names that exporter and runtime must spell alike: axes, tensors of the decoder, operators of our own, files.

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
    /// Tiles that an image was cut into.
    pub const TILES: &str = "tiles";
    /// Visual rows of all tiles.
    pub const ROWS: &str = "rows";
    /// Height of the encoder's input, pixels.
    pub const HEIGHT: &str = "height";
    /// Width of the encoder's input, pixels.
    pub const WIDTH: &str = "width";
}

/// Tensors of the decoder's KV cache.
pub mod cache {
    /// The two parts of a layer's cache.
    pub const PARTS: [&str; 2] = ["key", "value"];

    /// Input of a layer's keys or values.
    pub fn past(layer: usize, part: &str) -> String {
        format!("past_key_values.{layer}.{part}")
    }

    /// Output of a layer's keys or values.
    pub fn present(layer: usize, part: &str) -> String {
        format!("present.{layer}.{part}")
    }

    /// Whether an input is part of the cache.
    pub fn is_past(input: &str) -> bool {
        input.starts_with("past_key_values.")
    }

    /// Whether an output is part of the cache.
    pub fn is_present(output: &str) -> bool {
        output.starts_with("present.")
    }
}

/// Operators of our own: each is a function of its graph, whose body says what it means.
pub mod operator {
    /// Their domain.
    pub const DOMAIN: &str = "arrcoc";
    /// A linear layer in 8 bits.
    pub const QUANTIZED_LINEAR: &str = "QuantizedLinear";
    /// A linear layer whose weights lie in blocks of 4 bits.
    pub const BLOCK_LINEAR: &str = "BlockLinear";
    /// Attention of the decoder over its KV cache.
    pub const CACHED_ATTENTION: &str = "CachedAttention";
    /// Attention over a grid of patches.
    pub const GRID_ATTENTION: &str = "GridAttention";
}

/// Files of a bundle besides its graphs.
pub mod file {
    /// The tokenizer, as the `tokenizers` library writes it.
    pub const TOKENIZER: &str = "tokenizer.json";
    /// The tokenizer's special tokens, and in some checkpoints the chat template.
    pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
    /// The chat template.
    pub const CHAT_TEMPLATE: &str = "chat_template.jinja";
}
