//! What a field may hold: how it is read, and how the OpenAPI document says so.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;

use crate::config::Limits;
use crate::error::ApiError;
use crate::json::Field;

/// What a field may hold. Where a field is optional, null counts as absent.
pub(crate) trait Form<'a>: Sized {
    /// What it is read into.
    type Value;

    /// Reads the field.
    ///
    /// # Errors
    /// 400 that names the field and what was expected.
    fn read(&self, field: Field<'a>, limits: &Limits) -> Result<Self::Value, ApiError>;

    /// What the document says of it.
    fn schema(&self, generator: &mut SchemaGenerator) -> Schema;

    /// Whether a request must have it.
    fn is_required(&self) -> bool {
        false
    }

    /// The same, for a field that a request must have. The reader of the value says so where it is absent.
    fn required(self) -> Required<Self> {
        Required(self)
    }

    /// The same, with a value for requests that do not have it.
    fn or<T: Into<Value> + Clone>(self, default: T) -> Or<Self, T>
    where
        Self: Form<'a, Value = Option<T>>,
    {
        Or(self, default)
    }
}

/// A field that must be there.
pub(crate) struct Required<F>(F);

impl<'a, F: Form<'a>> Form<'a> for Required<F> {
    type Value = F::Value;

    fn read(&self, field: Field<'a>, limits: &Limits) -> Result<F::Value, ApiError> {
        self.0.read(field, limits)
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Schema {
        self.0.schema(generator)
    }

    fn is_required(&self) -> bool {
        true
    }
}

/// A field with a default.
pub(crate) struct Or<F, T>(F, T);

impl<'a, T: Into<Value> + Clone, F: Form<'a, Value = Option<T>>> Form<'a> for Or<F, T> {
    type Value = T;

    fn read(&self, field: Field<'a>, limits: &Limits) -> Result<T, ApiError> {
        Ok(self.0.read(field, limits)?.unwrap_or_else(|| self.1.clone()))
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Schema {
        let mut schema = self.0.schema(generator);
        schema.insert("default".into(), self.1.clone().into());
        schema
    }
}

/// A number of a range; `open` leaves out the lower end.
pub(crate) struct Number {
    low: f64,
    high: f64,
    open: bool,
}

pub(crate) fn number(low: f64, high: f64) -> Number {
    Number { low, high, open: false }
}

impl Number {
    /// The same without the lower end.
    pub(crate) fn above(self) -> Self {
        Self { open: true, ..self }
    }
}

impl<'a> Form<'a> for Number {
    type Value = Option<f32>;

    fn read(&self, field: Field<'a>, _: &Limits) -> Result<Option<f32>, ApiError> {
        let number = field.number(self.low, self.high)?;
        if self.open && number.map(f64::from) == Some(self.low) {
            return Err(field.wrong(format_args!("a number above {}, at most {}", self.low, self.high)));
        }
        Ok(number)
    }

    fn schema(&self, _: &mut SchemaGenerator) -> Schema {
        let low = if self.open { "exclusiveMinimum" } else { "minimum" };
        json_schema!({"type": ["number", "null"], low: self.low, "maximum": self.high})
    }
}

/// A whole number of a range.
pub(crate) struct Whole {
    range: Option<(i64, i64)>,
}

pub(crate) fn whole(low: i64, high: i64) -> Whole {
    Whole { range: Some((low, high)) }
}

pub(crate) fn any_whole() -> Whole {
    Whole { range: None }
}

impl<'a> Form<'a> for Whole {
    type Value = Option<i64>;

    fn read(&self, field: Field<'a>, _: &Limits) -> Result<Option<i64>, ApiError> {
        match self.range {
            Some((low, high)) => field.whole(low, high),
            None => field.any_whole(),
        }
    }

    fn schema(&self, _: &mut SchemaGenerator) -> Schema {
        match self.range {
            Some((low, high)) => {
                json_schema!({"type": ["integer", "null"], "minimum": low, "maximum": high})
            }
            None => json_schema!({"type": ["integer", "null"]}),
        }
    }
}

/// A number of things.
pub(crate) struct Count {
    low: usize,
    most: Most,
}

enum Most {
    /// The same on every server.
    Fixed(usize),
    /// The configuration's to say: the document leaves it out.
    Configured(fn(&Limits) -> usize),
}

pub(crate) fn count(low: usize, high: usize) -> Count {
    Count { low, most: Most::Fixed(high) }
}

pub(crate) fn count_within(low: usize, most: fn(&Limits) -> usize) -> Count {
    Count { low, most: Most::Configured(most) }
}

impl<'a> Form<'a> for Count {
    type Value = Option<usize>;

    fn read(&self, field: Field<'a>, limits: &Limits) -> Result<Option<usize>, ApiError> {
        let high = match self.most {
            Most::Fixed(high) => high,
            Most::Configured(most) => most(limits),
        };
        let (low, high) = (self.low as i64, i64::try_from(high).unwrap_or(i64::MAX));
        Ok(field.whole(low, high)?.and_then(|count| usize::try_from(count).ok()))
    }

    fn schema(&self, _: &mut SchemaGenerator) -> Schema {
        let mut schema = json_schema!({"type": ["integer", "null"], "minimum": self.low});
        if let Most::Fixed(high) = self.most {
            schema.insert("maximum".into(), high.into());
        }
        schema
    }
}

/// A field that a function reads, and another describes.
pub(crate) struct By<T> {
    read: Read<T>,
    schema: Describe,
}

type Read<T> = fn(&Field<'_>, &Limits) -> Result<T, ApiError>;
type Describe = fn(&mut SchemaGenerator) -> Schema;

pub(crate) fn by<T>(read: Read<T>, schema: Describe) -> By<T> {
    By { read, schema }
}

/// An object or a value of its own type: `D` describes what `read` reads.
pub(crate) fn nested<D: JsonSchema, T>(read: Read<T>) -> By<T> {
    By { read, schema: |generator| generator.subschema_for::<Option<D>>() }
}

impl<'a, T> Form<'a> for By<T> {
    type Value = T;

    fn read(&self, field: Field<'a>, limits: &Limits) -> Result<T, ApiError> {
        (self.read)(&field, limits)
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Schema {
        (self.schema)(generator)
    }
}

/// `true` or `false`, which is what it is unless it is said.
pub(crate) fn flag() -> Or<By<Option<bool>>, bool> {
    optional_flag().or(false)
}

/// `true` or `false`, where it is said.
pub(crate) fn optional_flag() -> By<Option<bool>> {
    by(|field, _| field.flag(), |_| json_schema!({"type": ["boolean", "null"]}))
}

/// Text.
pub(crate) fn text() -> By<Option<String>> {
    by(|field, _| Ok(field.text()?.map(String::from)), |_| json_schema!({"type": ["string", "null"]}))
}

/// A field that is read later, by whoever keeps count of what a whole request holds.
pub(crate) struct Raw {
    schema: Describe,
}

pub(crate) fn raw(schema: Describe) -> Raw {
    Raw { schema }
}

impl<'a> Form<'a> for Raw {
    type Value = Field<'a>;

    fn read(&self, field: Field<'a>, _: &Limits) -> Result<Field<'a>, ApiError> {
        Ok(field)
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Schema {
        (self.schema)(generator)
    }
}
