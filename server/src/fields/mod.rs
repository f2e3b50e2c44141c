//! The fields of requests. One row of [`fields!`] says a field's name, what it is read into, what it may hold
//! and what it is for; reading, checking of names and the OpenAPI document follow from it. Each API has
//! tables of the names that it refuses, and of those that it takes without effect.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value};

mod forms;
mod names;

pub(crate) use forms::{Form, by};
pub(crate) use forms::{
    any_whole, count, count_within, flag, nested, number, optional_flag, raw, text, whole,
};
pub(crate) use names::check_own;
pub(crate) use names::{Refused, check, check_nested, refused};

/// Fields of an object of a request, as a struct. Each row is
///
/// ```text
/// name: TYPE = form, "what it is for";
/// ```
///
/// where `form` is a [`Form`] that reads a `TYPE`. The struct gets `read`, `describe` (its part of an
/// object's schema) and `NAMES`.
macro_rules! fields {
    ($(#[$doc:meta])* $vis:vis struct $name:ident $(<$life:lifetime>)? {
        $($field:ident: $type:ty = $form:expr, $help:expr;)*
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        $vis struct $name $(<$life>)? {
            $($vis $field: $type,)*
        }

        impl $(<$life>)? $name $(<$life>)? {
            $vis const NAMES: &'static [&'static str] = &[$(stringify!($field)),*];

            /// Reads and checks every field.
            $vis fn read(
                object: &$crate::json::Object<$($life)?>,
                limits: &$crate::config::Limits,
            ) -> Result<Self, $crate::error::ApiError> {
                use $crate::fields::Form as _;
                Ok(Self { $($field: ($form).read(object.field(stringify!($field)), limits)?,)* })
            }

            $vis fn describe(
                generator: &mut schemars::SchemaGenerator,
                properties: &mut $crate::fields::Properties,
            ) {
                $(properties.add(generator, stringify!($field), &$form, $help);)*
            }
        }
    };
}
pub(crate) use fields;

/// The properties of an object's schema, as they are gathered.
#[derive(Default)]
pub(crate) struct Properties {
    properties: Map<String, Value>,
    required: Vec<Value>,
}

impl Properties {
    pub(crate) fn add<'a>(
        &mut self,
        generator: &mut SchemaGenerator,
        name: &str,
        form: &impl Form<'a>,
        help: &str,
    ) {
        let mut schema = form.schema(generator);
        if !help.is_empty() {
            schema.insert("description".into(), help.into());
        }
        if form.is_required() {
            self.required.push(name.into());
        }
        self.properties.insert(name.into(), schema.into());
    }
}

/// Part of an object's schema: `describe` of a struct of [`fields!`].
pub(crate) type Describe = fn(&mut SchemaGenerator, &mut Properties);

/// The schema of an object with these fields, which may have others.
pub(crate) fn object(generator: &mut SchemaGenerator, parts: &[Describe]) -> Schema {
    let mut gathered = Properties::default();
    for describe in parts {
        describe(generator, &mut gathered);
    }
    let Properties { properties, required } = gathered;
    json_schema!({"type": "object", "required": required, "properties": properties})
}

/// The schema of an object with these fields alone.
pub(crate) fn only(generator: &mut SchemaGenerator, parts: &[Describe]) -> Schema {
    let mut schema = object(generator, parts);
    schema.insert("additionalProperties".into(), false.into());
    schema
}
