//! `oneOf`: the same as `anyOf` where no document can fit two of its schemas. The library keeps no other.

use serde_json::{Map, Value};

use super::pointer;
use crate::form::error::FormError;

/// Most comparisons for one list.
const MOST_STEPS: usize = 100_000;
/// Most references in a row.
const MOST_HOPS: usize = 16;

const TYPES: [&str; 6] = ["null", "boolean", "number", "string", "array", "object"];

/// Checks that no two schemas of a list can hold at once.
///
/// # Errors
/// [`FormError`] that names the two.
pub(super) fn check(root: &Value, schemas: &[Value], place: &str) -> Result<(), FormError> {
    let mut pairs = Pairs { root, steps: MOST_STEPS };
    for (at, one) in schemas.iter().enumerate() {
        for (before, other) in schemas[..at].iter().enumerate() {
            if !pairs.apart(one, other, 0) {
                let reason = format!(
                    "`oneOf` is kept only where its schemas exclude each other by a type or a required constant; \
                     {before} and {at} do not, or not visibly: use `anyOf`"
                );
                return Err(FormError::schema(place, reason));
            }
        }
    }
    Ok(())
}

struct Pairs<'a> {
    root: &'a Value,
    steps: usize,
}

impl<'a> Pairs<'a> {
    /// Whether nothing can fit both. In doubt it can.
    fn apart(&mut self, one: &'a Value, other: &'a Value, depth: usize) -> bool {
        self.steps = self.steps.saturating_sub(1);
        if self.steps == 0 || depth > MOST_HOPS {
            return false;
        }
        match (one, other) {
            (Value::Bool(false), _) | (_, Value::Bool(false)) => true,
            (Value::Object(first), Value::Object(second)) => {
                by_types(first, second)
                    || by_values(first, second)
                    || self.by_properties(first, second, depth)
                    || self.by_parts(first, other, depth)
                    || self.by_parts(second, one, depth)
            }
            _ => false,
        }
    }

    /// A property that must be there, and cannot be both.
    fn by_properties(
        &mut self,
        one: &'a Map<String, Value>,
        other: &'a Map<String, Value>,
        depth: usize,
    ) -> bool {
        let only = |schema| TYPES.iter().all(|name| *name == "object" || !allows(schema, name));
        if !only(one) && !only(other) {
            return false;
        }
        let required =
            [one, other].into_iter().filter_map(|schema| schema.get("required")?.as_array()).flatten();
        let names: Vec<&str> = required.filter_map(Value::as_str).collect();
        names.into_iter().any(|name| {
            let property = |schema: &'a Map<String, Value>| schema.get("properties")?.get(name);
            match (property(one), property(other)) {
                (Some(one), Some(other)) => self.apart(one, other, depth + 1),
                (None, Some(_)) => closed(one),
                (Some(_), None) => closed(other),
                (None, None) => false,
            }
        })
    }

    /// What `one` refers to or is composed of.
    fn by_parts(&mut self, one: &'a Map<String, Value>, other: &'a Value, depth: usize) -> bool {
        if let Some(Value::String(reference)) = one.get("$ref")
            && let Ok((_, target)) = pointer::follow(self.root, reference, "")
            && self.apart(target, other, depth + 1)
        {
            return true;
        }
        let parts = |name: &str| one.get(name).and_then(Value::as_array);
        let (all, any) = (parts("allOf"), parts("anyOf").or(parts("oneOf")));
        all.is_some_and(|all| all.iter().any(|part| self.apart(part, other, depth + 1)))
            || any.is_some_and(|any| any.iter().all(|part| self.apart(part, other, depth + 1)))
    }
}

fn by_types(one: &Map<String, Value>, other: &Map<String, Value>) -> bool {
    !TYPES.iter().any(|name| allows(one, name) && allows(other, name))
}

/// Whether documents of a type may fit.
fn allows(schema: &Map<String, Value>, name: &str) -> bool {
    let listed = match schema.get("type") {
        Some(Value::String(only)) => is_type(only, name),
        Some(Value::Array(types)) => types.iter().filter_map(Value::as_str).any(|one| is_type(one, name)),
        _ => true,
    };
    listed && literals(schema).is_none_or(|values| values.iter().any(|value| type_of(value) == name))
}

fn is_type(listed: &str, name: &str) -> bool {
    listed == name || (listed == "integer" && name == "number")
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The values that a schema lists.
fn literals(schema: &Map<String, Value>) -> Option<&[Value]> {
    match (schema.get("const"), schema.get("enum")) {
        (Some(only), _) => Some(std::slice::from_ref(only)),
        (None, Some(Value::Array(values))) => Some(values),
        _ => None,
    }
}

fn by_values(one: &Map<String, Value>, other: &Map<String, Value>) -> bool {
    let (Some(one), Some(other)) = (literals(one), literals(other)) else { return false };
    // Long lists are compared in no other place either.
    one.len() * other.len() <= 10_000 && !one.iter().any(|value| other.iter().any(|other| same(value, other)))
}

/// Whether two values are the same JSON: 1 and 1.0 are.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        // What is inside of lists and objects is left in doubt.
        (Value::Array(_), Value::Array(_)) | (Value::Object(_), Value::Object(_)) => true,
        (one, other) => one == other,
    }
}

fn closed(schema: &Map<String, Value>) -> bool {
    schema.get("additionalProperties") == Some(&Value::Bool(false))
        && !schema.contains_key("patternProperties")
}
