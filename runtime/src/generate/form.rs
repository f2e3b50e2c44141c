//! What an answer must look like: the form that a request binds its answers to.

use serde_json::Value;

/// The form of an answer, checked for nothing but the types of its parts. Whether it can be kept is decided
/// when it is compiled, before anything else is done for the request.
#[derive(Debug, Clone, PartialEq)]
pub enum Form {
    /// JSON that a schema allows. Draft 2020-12 of JSON Schema, and what earlier drafts write otherwise.
    Json {
        /// The schema: an object, or true or false.
        schema: Value,
        /// How the JSON is written.
        style: JsonStyle,
    },
    /// Text that matches a regular expression as a whole.
    Regex(String),
    /// One of these texts, at least one.
    Choice(Vec<String>),
    /// Text of a context-free grammar, in Lark's form or in GBNF's.
    Grammar(String),
}

impl Form {
    /// Any JSON object.
    pub fn json_object() -> Self {
        Self::Json { schema: serde_json::json!({"type": "object"}), style: JsonStyle::default() }
    }
}

/// How JSON is written, where the schema leaves that open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JsonStyle {
    /// What may stand between values, names and signs.
    pub white_space: WhiteSpace,
    /// An object whose schema lists properties has no others, unless the schema says so.
    pub closed: bool,
}

/// White space of JSON outside of strings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum WhiteSpace {
    /// One space, or a line break and what a line is indented by: small models would go on with it for ever.
    #[default]
    Some,
    /// None.
    None,
    /// What matches this expression, at most once in a place.
    Pattern(String),
}
