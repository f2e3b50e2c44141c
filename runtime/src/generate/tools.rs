//! Tools that a request offers, and calls of them.

use serde_json::Value;

/// The functions that a model may call in its answer; none, unless some are offered.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tools {
    /// In the order of the request; their names differ.
    pub functions: Vec<Function>,
    /// Whether one must be called.
    pub choice: ToolChoice,
    /// Answers of one call at most.
    pub single: bool,
}

/// A function that a model may call.
#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// The JSON schema of its arguments; `None` where it takes any.
    pub parameters: Option<Value>,
    /// The whole tool as the request has it, for the model's template: `{"type": "function", "function":
    /// ...}`.
    pub described: Value,
}

/// Whether a function must be called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// The model decides.
    #[default]
    Auto,
    /// One of them, or several.
    Required,
    /// This one, by its index, once.
    Function(usize),
}

/// A call that an assistant made, in a message.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    /// What the result is told by.
    pub id: Option<String>,
    /// The function.
    pub name: String,
    /// Its arguments: an object, or a string where the request had one that is no JSON object.
    pub arguments: Value,
}

/// What a token added to a call of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallPiece {
    /// The call's index in the answer.
    pub index: usize,
    /// Its name, in its first piece.
    pub name: Option<String>,
    /// More of its arguments, JSON.
    pub arguments: String,
}
