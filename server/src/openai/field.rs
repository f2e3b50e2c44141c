//! Small shapes that requests are made of.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::Value;

use crate::error::ApiError;

/// A string, or a list of `T`. An untagged enum would do, but forgets where in the list an error was.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum TextOr<T> {
    Text(String),
    List(Vec<T>),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for TextOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for TextOrVisitor<T> {
            type Value = TextOr<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list")
            }
            fn visit_str<E>(self, text: &str) -> Result<TextOr<T>, E> {
                Ok(TextOr::Text(text.to_owned()))
            }
            fn visit_string<E>(self, text: String) -> Result<TextOr<T>, E> {
                Ok(TextOr::Text(text))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<TextOr<T>, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(items)).map(TextOr::List)
            }
        }
        deserializer.deserialize_any(TextOrVisitor(PhantomData))
    }
}

/// Refuses a field that would change the answer and is not implemented. Values that ask for nothing pass, since
/// clients send them as defaults.
pub(super) fn unsupported(
    name: &str,
    value: Option<&Value>,
    harmless: &[Value],
    instead: &str,
) -> Result<(), ApiError> {
    let nothing = match value {
        None | Some(Value::Null | Value::Bool(false)) => true,
        Some(Value::Array(items)) => items.is_empty() || harmless.contains(&Value::Array(items.clone())),
        Some(Value::Object(fields)) => fields.is_empty() || harmless.contains(&Value::Object(fields.clone())),
        Some(other) => harmless.contains(other),
    };
    if nothing { Ok(()) } else { Err(ApiError::unsupported(name, instead)) }
}

/// Checks a whole number against a range.
pub(super) fn whole(name: &str, value: i64, low: i64, high: i64) -> Result<usize, ApiError> {
    if (low..=high).contains(&value) {
        // `low` is never negative.
        Ok(value as usize)
    } else {
        Err(ApiError::invalid(
            name,
            format!("`{name}`: expected a whole number from {low} to {high}, found {value}"),
        ))
    }
}

/// Checks a number against a range.
pub(super) fn number(
    name: &str,
    value: Option<f64>,
    low: f64,
    high: f64,
    default: f64,
) -> Result<f32, ApiError> {
    match value {
        None => Ok(default as f32),
        Some(value) if (low..=high).contains(&value) => Ok(value as f32),
        Some(value) => Err(ApiError::invalid(
            name,
            format!("`{name}`: expected a number from {low} to {high}, found {value}"),
        )),
    }
}
