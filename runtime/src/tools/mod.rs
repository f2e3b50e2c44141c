//! Calls of tools: how models write them, and how they are read from an answer that arrives in pieces.
//!
//! Every syntax is a value ([`Syntax`]) in a file of its own. Its markers and its body lead [`Reader`], which
//! gives out text and calls and loses nothing: what turns out to be no call of an offered function is text.
//! How a call is written whose answer must be one ([`Written`]) leads the grammar of `form::calls`. Templates
//! show which syntax a model has learnt ([`Syntax::shown_by`]).

use arrcoc_bundle::ToolSyntax;

mod body;
mod deepseek;
mod granite;
mod hermes;
mod json_calls;
mod llama;
mod mistral;
mod named_call;
mod qwen_xml;
mod reader;
mod value;
mod xml_call;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub(crate) use reader::{Heard, Reader};

/// The function that a template is asked to show a call of.
pub(crate) const EXAMPLE: &str = "kevuda";

/// How a model writes calls.
#[derive(Debug, PartialEq)]
pub(crate) struct Syntax {
    /// Its name in manifests.
    pub(crate) name: ToolSyntax,
    /// Markers before calls.
    opening: &'static [&'static str],
    /// What may stand behind calls and means nothing.
    closing: &'static [&'static str],
    /// Calls may begin an answer without a marker.
    bare: bool,
    /// What stands behind the marker.
    body: Body,
    /// How calls are written whose answer is bound to them.
    pub(crate) bound: Written,
    /// Found in what a template writes for a call of [`EXAMPLE`], all of them.
    signs: &'static [&'static str],
}

/// What stands behind the marker of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    /// An object of name and arguments, or a list of them.
    Json,
    /// A name, a separator and arguments in JSON; or what [`Body::Json`] is.
    Named,
    /// `<function=NAME>` and `<parameter=NAME>`.
    Xml,
}

/// How calls are written in an answer that is bound to them. Markers that are control tokens in the
/// tokenizers of a family are left out: no form can ask for one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// Before all calls, and behind them.
    pub(crate) around: [&'static str; 2],
    /// Between two calls.
    pub(crate) between: &'static str,
    /// Before the name, between name and arguments, behind the arguments.
    pub(crate) call: [&'static str; 3],
    /// How arguments are written.
    pub(crate) arguments: Arguments,
    /// No marker stands before them.
    bare: bool,
}

/// How arguments are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arguments {
    /// As a JSON object; the name is a JSON string.
    Json,
    /// As elements named `parameter`; the name is as it is.
    Xml,
}

/// A list in JSON, for models whose markers are control tokens.
const PLAIN_LIST: Written = Written {
    around: ["[", "]"],
    between: ", ",
    call: ["{\"name\": ", ", \"arguments\": ", "}"],
    arguments: Arguments::Json,
    bare: true,
};

/// Every syntax. Signs of an earlier one may stand in what a later one's template writes, and not the other
/// way round.
const ALL: [&Syntax; 6] = [
    &qwen_xml::SYNTAX,
    &hermes::SYNTAX,
    &mistral::SYNTAX,
    &granite::SYNTAX,
    &deepseek::SYNTAX,
    &llama::SYNTAX,
];

impl Syntax {
    /// The syntax of that name.
    pub(crate) fn named(name: ToolSyntax) -> &'static Self {
        match name {
            ToolSyntax::Hermes => &hermes::SYNTAX,
            ToolSyntax::QwenXml => &qwen_xml::SYNTAX,
            ToolSyntax::Llama => &llama::SYNTAX,
            ToolSyntax::Mistral => &mistral::SYNTAX,
            ToolSyntax::Granite => &granite::SYNTAX,
            ToolSyntax::DeepSeek => &deepseek::SYNTAX,
        }
    }

    /// The syntax of what a template writes for a call of [`EXAMPLE`].
    pub(crate) fn shown_by(rendered: &str) -> Option<&'static Self> {
        ALL.into_iter().find(|syntax| syntax.signs.iter().all(|sign| rendered.contains(sign)))
    }

    /// All markers: where they are control tokens, their text counts nevertheless.
    pub(crate) fn markers(&self) -> impl Iterator<Item = &'static str> {
        self.opening.iter().chain(self.closing).copied().chain(named_call::SEPARATORS)
    }
}
