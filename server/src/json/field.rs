//! One field of a request: its place, and its value as text until somebody reads it.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::Object;
use super::object::Name;
use crate::error::ApiError;
use arrcoc_bundle::quote::excerpt;

/// Longest value that is compared with one that is let through, bytes: nothing is built of longer ones.
const COMPARED: usize = 200;

/// A field of an object, or an item of a list. What is null counts as absent.
#[derive(Debug, Clone)]
pub struct Field<'a> {
    /// Dotted, as errors name it: `messages[0].content`.
    path: String,
    text: Option<&'a str>,
}

impl<'a> Field<'a> {
    pub(super) fn new(path: String, text: Option<&'a str>) -> Self {
        Self { path, text: text.filter(|text| *text != "null") }
    }

    /// Where it stands.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether it is there, and not null.
    pub fn is_set(&self) -> bool {
        self.text.is_some()
    }

    /// Length of its JSON: no string in it is longer.
    pub fn json_length(&self) -> usize {
        self.text.map_or(0, str::len)
    }

    /// 400: something else was expected here.
    pub fn wrong(&self, expected: impl fmt::Display) -> ApiError {
        let found = self.text.map_or_else(|| "nothing".into(), excerpt);
        ApiError::invalid(&self.path, format!("`{}`: expected {expected}, found {found}", self.path))
    }

    /// 400: a field that must be there is not.
    pub fn required(&self, expected: impl fmt::Display) -> Result<(), ApiError> {
        if self.is_set() { Ok(()) } else { Err(self.wrong(expected)) }
    }

    /// A string.
    pub fn text(&self) -> Result<Option<Cow<'a, str>>, ApiError> {
        self.scalar("a string", |text| {
            let string = text.starts_with('"').then(|| serde_json::from_str(text).ok()).flatten();
            string.map(|Name(string)| string)
        })
    }

    /// Whether it is a string, without reading it.
    pub fn is_text(&self) -> bool {
        self.text.is_some_and(|text| text.starts_with('"'))
    }

    /// Whether it is a list, without reading it.
    pub fn is_list(&self) -> bool {
        self.text.is_some_and(|text| text.starts_with('['))
    }

    /// `true` or `false`.
    pub fn flag(&self) -> Result<Option<bool>, ApiError> {
        self.scalar("true or false", |text| text.parse().ok())
    }

    /// A whole number of a range.
    pub fn whole(&self, low: i64, high: i64) -> Result<Option<i64>, ApiError> {
        let number = |text: &str| text.parse().ok().filter(|number| (low..=high).contains(number));
        self.scalar(format_args!("a whole number from {low} to {high}"), number)
    }

    /// A whole number.
    pub fn any_whole(&self) -> Result<Option<i64>, ApiError> {
        self.scalar("a whole number", |text| text.parse().ok())
    }

    /// A number of a range.
    pub fn number(&self, low: f64, high: f64) -> Result<Option<f32>, ApiError> {
        let number = |text: &str| {
            // JSON's numbers begin with a digit or a sign; Rust would read `inf` too, which is no JSON.
            let number: f64 = text.parse().ok()?;
            (low..=high).contains(&number).then_some(number as f32)
        };
        self.scalar(format_args!("a number from {low} to {high}"), number)
    }

    fn scalar<T>(
        &self,
        expected: impl fmt::Display,
        read: impl FnOnce(&'a str) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        match self.text {
            None => Ok(None),
            Some(text) => read(text).map(Some).ok_or_else(|| self.wrong(expected)),
        }
    }

    /// A list of whole numbers of 32 bits, and of nothing else; `None` where it is anything else.
    pub fn ids(&self) -> Option<Vec<u32>> {
        serde_json::from_str(self.text?).ok()
    }

    /// Any JSON, of at most so many bytes.
    pub fn value(&self, expected: &str, most: usize) -> Result<Option<Value>, ApiError> {
        let Some(text) = self.text else { return Ok(None) };
        if text.len() > most {
            return Err(self.wrong(format_args!("{expected} of at most {most} bytes of JSON")));
        }
        serde_json::from_str(text).map(Some).map_err(|_| self.wrong(expected))
    }

    /// An object of any fields, of at most so many bytes of JSON.
    pub fn map(
        &self,
        expected: &str,
        most: usize,
    ) -> Result<Option<serde_json::Map<String, Value>>, ApiError> {
        match self.value(expected, most)? {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(_) => Err(self.wrong(expected)),
        }
    }

    /// An object; `expected` names what it should hold.
    pub fn object(&self, expected: &str) -> Result<Option<Object<'a>>, ApiError> {
        let Some(text) = self.text else { return Ok(None) };
        Object::nested(&self.path, text)?.map(Some).ok_or_else(|| self.wrong(expected))
    }

    /// A list of at most `most` items, which `limit` names; reading stops at the first that is too many.
    pub fn list(&self, expected: &str, most: usize, limit: &str) -> Result<Option<Vec<Self>>, ApiError> {
        let Some(text) = self.text else { return Ok(None) };
        if !text.starts_with('[') {
            return Err(self.wrong(expected));
        }
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let items = deserializer.deserialize_seq(Items { most }).map_err(|_| {
            let message = format!("`{}`: expected at most {most} items, found more{limit}", self.path);
            ApiError::invalid(&self.path, message)
        })?;
        let item = |(index, text)| Self { path: format!("{}[{index}]", self.path), text: Some(text) };
        Ok(Some(items.into_iter().enumerate().map(item).collect()))
    }

    /// Whether its value is one of these, which are JSON.
    pub fn is_one_of(&self, values: &[&str]) -> bool {
        let Some(text) = self.text.filter(|text| text.len() <= COMPARED) else { return false };
        let Ok(found) = serde_json::from_str::<Value>(text) else { return false };
        values.iter().any(|value| serde_json::from_str::<Value>(value).is_ok_and(|value| value == found))
    }
}

/// Items of a list, as text.
struct Items {
    most: usize,
}

impl<'de> Visitor<'de> for Items {
    type Value = Vec<&'de str>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<&'de str>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element::<&RawValue>()? {
            if items.len() == self.most {
                return Err(A::Error::custom("too many items"));
            }
            items.push(item.get());
        }
        Ok(items)
    }
}
