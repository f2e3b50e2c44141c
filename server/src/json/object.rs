//! A JSON object, split into its fields.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::Field;
use crate::error::ApiError;
use arrcoc_bundle::quote::quote;

/// Most fields of an object: requests have a few dozen.
const MOST_FIELDS: usize = 256;

/// The fields of a JSON object, none of them read yet.
#[derive(Debug)]
pub struct Object<'a> {
    /// Where it stands, with the dot that comes before its fields' names; empty for the body itself.
    prefix: String,
    fields: Vec<(Cow<'a, str>, &'a str)>,
}

impl<'a> Object<'a> {
    /// The body itself.
    pub(super) fn outermost(text: &'a str) -> Result<Self, ApiError> {
        let malformed = |message| ApiError::malformed("invalid_json", message);
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let Fields(fields) = Fields::deserialize(&mut deserializer).map_err(|error| {
            malformed(if error.is_data() {
                format!("expected an object of at most {MOST_FIELDS} fields")
            } else {
                format!("the body is not JSON: {error}")
            })
        })?;
        deserializer
            .end()
            .map_err(|error| malformed(format!("the body goes on after its JSON value: {error}")))?;
        Self { prefix: String::new(), fields }.distinct()
    }

    /// An object at `path`; `None` where `text` is none.
    pub(super) fn nested(path: &str, text: &'a str) -> Result<Option<Self>, ApiError> {
        if !text.starts_with('{') {
            return Ok(None);
        }
        let Fields(fields) = serde_json::from_str(text).map_err(|_| {
            ApiError::invalid(path, format!("`{path}`: expected an object of at most {MOST_FIELDS} fields"))
        })?;
        Self { prefix: format!("{path}."), fields }.distinct().map(Some)
    }

    /// A name that stands there twice could mean either of its values.
    fn distinct(self) -> Result<Self, ApiError> {
        let twice = self
            .fields
            .iter()
            .enumerate()
            .find(|(at, (name, _))| self.fields[..*at].iter().any(|(earlier, _)| earlier == name));
        let Some((_, (name, _))) = twice else { return Ok(self) };
        let place = self.prefix.trim_end_matches('.');
        let message = format!("the field {} is there twice; send it once", quote(name));
        Err(if place.is_empty() {
            ApiError::malformed("invalid_json", message)
        } else {
            ApiError::invalid(place, format!("`{place}`: {message}"))
        })
    }

    /// A field, whether it is there or not.
    pub fn field(&self, name: &str) -> Field<'a> {
        let found = self.fields.iter().find(|(field, _)| field == name);
        Field::new(format!("{}{name}", self.prefix), found.map(|(_, text)| *text))
    }

    /// The names that are there.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|(name, _)| name.as_ref())
    }
}

struct Fields<'a>(Vec<(Cow<'a, str>, &'a str)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some(Name(name)) = map.next_key()? {
                    // Stops here: nothing is built of what comes after.
                    if fields.len() == MOST_FIELDS {
                        return Err(A::Error::custom("too many fields"));
                    }
                    fields.push((name, map.next_value::<&RawValue>()?.get()));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// A string that is borrowed where it holds no escapes.
#[derive(Deserialize)]
pub(super) struct Name<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);
