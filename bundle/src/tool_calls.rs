//! How a model calls tools.

use serde::{Deserialize, Serialize};

/// The syntax in which a model writes its calls of tools, found from the checkpoint's chat template when the
/// bundle is built. What each looks like is the runtime's to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToolSyntax {
    /// JSON between `<tool_call>` and `</tool_call>`: Hermes, Qwen2.5, Qwen3, Qwen3-VL, SmolLM3, Granite 4.
    Hermes,
    /// `<function=NAME>` and `<parameter=NAME>` between the same: Qwen3-Coder, Qwen3.5.
    QwenXml,
    /// JSON with `parameters` as the whole answer: Llama 3.1 to 3.3.
    Llama,
    /// A list in JSON, or names before `[ARGS]`, behind `[TOOL_CALLS]`: Mistral.
    Mistral,
    /// A list in JSON behind `<|tool_call|>`: Granite 3.
    Granite,
    /// Names and JSON between DeepSeek's own control tokens: V3, R1, V3.1.
    #[serde(rename = "deepseek")]
    DeepSeek,
}
