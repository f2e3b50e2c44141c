//! What bodies of calls are read with, and what they tell the reader.

use std::sync::Arc;

use crate::generate::{Function, Tools};

/// The functions that may be called.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Offered(Arc<[Function]>);

impl Offered {
    pub(super) fn of(tools: &Tools) -> Self {
        Self(tools.functions.as_slice().into())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|function| function.name == name)
    }

    /// The types that the schema of an argument lists; `None` where it lists none.
    pub(super) fn types(&self, function: &str, argument: &str) -> Option<Vec<&str>> {
        let function = self.0.iter().find(|known| known.name == function)?;
        let schema = &function.parameters.as_ref()?["properties"][argument];
        let texts = |list: &serde_json::Value| {
            list.as_array().is_some_and(|all| all.iter().all(|one| one.is_string()))
        };
        match &schema["type"] {
            serde_json::Value::Null if texts(&schema["enum"]) || schema["const"].is_string() => {
                Some(vec!["string"])
            }
            serde_json::Value::String(one) => Some(vec![one]),
            serde_json::Value::Array(all) => Some(all.iter().filter_map(serde_json::Value::as_str).collect()),
            _ => None,
        }
    }
}

/// What a body has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Flow {
    /// More of it follows.
    More,
    /// It is over, with this character or before it.
    Done { consumed: bool },
    /// It is over, and this text follows.
    Behind(String),
    /// It is no call of an offered function.
    Broken,
}

/// What a body has, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// A call begins.
    Name(String),
    /// More of its arguments.
    Arguments(String),
    /// It ends.
    End,
}
