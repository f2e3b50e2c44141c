//! Jinja2 as transformers runs it, with a bound on everything.
//!
//! Chat templates are written for Python: for jinja2's sandbox with `trim_blocks` and `lstrip_blocks`, for
//! the methods of `str` and `dict`, and for what Python prints. A template comes with a checkpoint from
//! anywhere, so what it costs is bounded too: work, memory, time and depth ([`Limits`]). What is not
//! implemented is an error when the template is loaded or rendered, never another text.
//!
//! This is for whoever serves a checkpoint that somebody else made: its prompts must be the ones that it was
//! trained on, and its template must not take the server along. No library does both. minijinja, the kept
//! one, bounds work and not memory; and it differs from jinja2 in operators, indexing, undefined values and
//! printing, which the table of `prompts_equal_transformers` shows. Neither does it know which characters of
//! a prompt a message said ([`Text`]).
//!
//! Its files stand on each other: values (`value.rs`) pay the meter; printing, operators, methods, tests and
//! filters work on values; and the evaluator (`eval.rs`) calls them. What a template may name stands in
//! `names.rs`, which parser and values read.

mod access;
mod ast;
mod clock;
mod eval;
mod expression;
mod failure;
mod filters;
mod format;
mod given;
mod json;
mod lexer;
mod meter;
mod methods;
mod names;
mod ops;
mod parser;
mod predicates;
mod repr;
mod said;
mod strings;
mod value;

use std::sync::Arc;

pub(crate) use clock::Moment;
use eval::Evaluator;
pub(crate) use failure::{Failure, RenderError, SyntaxError};
pub(crate) use meter::Limits;
use meter::Meter;
use said::Builder;
pub(crate) use said::{Pieces, Text};
pub(crate) use value::Value;
use value::{Dict, Scope, Seq};

/// Longest template, bytes. The longest in use have 30,000.
const LONGEST: usize = 256 << 10;

/// A template that parses.
#[derive(Debug)]
pub(crate) struct Template {
    body: ast::Body,
}

impl Template {
    /// Parses a template.
    pub(crate) fn parse(source: &str) -> Result<Self, SyntaxError> {
        if source.len() > LONGEST {
            let message = format!("expected at most {LONGEST} bytes, found {}", source.len());
            return Err(SyntaxError { line: 1, message });
        }
        let tokens = lexer::tokens(&lexer::normalise(source))?;
        Ok(Self { body: parser::Parser::new(tokens).template()? })
    }

    /// Renders the template with these variables.
    pub(crate) fn render(
        &self,
        variables: Vec<(&str, Value)>,
        limits: Limits,
        now: Moment,
    ) -> Result<Text, RenderError> {
        let meter = Meter::new(limits);
        let evaluator = Evaluator::new(&meter, now);
        let globals = Scope::new(None);
        for (name, value) in variables {
            globals.set(&Arc::from(name), value);
        }
        let mut out = Builder::new(&meter);
        match evaluator.body(&self.body, &Scope::new(Some(globals)), &mut out) {
            Ok(_) => Ok(out.finish()),
            Err(failure) => Err(RenderError { line: evaluator.line.get(), failure }),
        }
    }
}

impl Value {
    /// A string of ours.
    pub(crate) fn string(text: &str) -> Self {
        Self::own(text)
    }

    /// A string that a message says.
    pub(crate) fn said(text: &str) -> Self {
        Self::Str(Text::said(text))
    }

    /// What a user gives as JSON; strings and names in it are said.
    ///
    /// # Errors
    /// It is nested too deeply, or holds a whole number of more than 64 bits.
    pub(crate) fn said_json(json: &serde_json::Value) -> Result<Self, Failure> {
        use serde_json::Value as Json;
        Ok(match json {
            Json::Null => Self::None,
            Json::Bool(flag) => Self::Bool(*flag),
            Json::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(whole), _) => Self::Int(whole),
                (None, Some(float)) if number.is_f64() => Self::Float(float),
                _ => return Err(Failure::new("a whole number has more than 64 bits")),
            },
            Json::String(text) => Self::said(text),
            Json::Array(items) => Self::list(items.iter().map(Self::said_json).collect::<Result<_, _>>()?)?,
            Json::Object(entries) => {
                let entry = |(key, value): (&String, &Json)| Ok((Self::said(key), Self::said_json(value)?));
                Self::dict(entries.iter().map(entry).collect::<Result<_, Failure>>()?)?
            }
        })
    }

    /// A list; too deep a one is refused as an empty one.
    pub(crate) fn sequence(items: Vec<Self>) -> Self {
        Self::List(Seq::new(items).unwrap_or_default())
    }

    /// A dictionary with names as keys; too deep a one is refused as an empty one.
    pub(crate) fn object(entries: Vec<(&str, Self)>) -> Self {
        let entries = entries.into_iter().map(|(key, value)| (Self::own(key), value)).collect();
        Self::Dict(Dict::new(entries).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests;
