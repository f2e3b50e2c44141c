//! Recursion that ends: definitions that no finite document fits become `false`, so that no answer is led
//! into them.

use serde_json::{Map, Value};

use crate::form::error::FormError;

/// Most rounds over all definitions. Each round settles whole chains of references that were written in
/// order.
const ROUNDS: usize = 64;

const SCALARS: [&str; 5] = ["null", "boolean", "number", "integer", "string"];

/// Takes away what never ends.
///
/// # Errors
/// [`FormError`] where nothing is left, or too many definitions refer to each other.
pub(super) fn prune(root: &mut Value, definitions: &mut [Value]) -> Result<(), FormError> {
    let mut known = vec![false; definitions.len()];
    let mut rounds = 0;
    loop {
        let mut changed = false;
        // Definitions are found in the order in which they refer to each other: the last ones know first.
        for (index, definition) in definitions.iter().enumerate().rev() {
            if !known[index] && finite(definition, &known) {
                known[index] = true;
                changed = true;
            }
        }
        if !changed || known.iter().all(|known| *known) {
            break;
        }
        rounds += 1;
        if rounds == ROUNDS {
            return Err(FormError::schema("#", "too many definitions refer to each other"));
        }
    }
    if !finite(root, &known) {
        return Err(FormError::schema(
            "#",
            "expected a schema that ends: every document that fits this one is endless",
        ));
    }
    if known.contains(&false) {
        cut(root, &known);
        definitions.iter_mut().for_each(|definition| cut(definition, &known));
    }
    Ok(())
}

/// Whether a document of finite length may fit, where `known` definitions have such. In doubt it may.
fn finite(schema: &Value, known: &[bool]) -> bool {
    let schema = match schema {
        Value::Object(schema) => schema,
        other => return *other != Value::Bool(false),
    };
    if reference(schema).is_some_and(|index| !known[index]) {
        return false;
    }
    let list = |name: &str| schema.get(name).and_then(Value::as_array);
    list("allOf").is_none_or(|all| all.iter().all(|schema| finite(schema, known)))
        && list("anyOf").is_none_or(|any| any.iter().any(|schema| finite(schema, known)))
        && (schema.contains_key("enum") || schema.contains_key("const") || some_type(schema, known))
}

/// The definition that a schema refers to.
fn reference(schema: &Map<String, Value>) -> Option<usize> {
    schema.get("$ref")?.as_str()?.strip_prefix("#/$defs/")?.parse().ok()
}

/// Whether one of the types that a schema allows has something finite.
fn some_type(schema: &Map<String, Value>, known: &[bool]) -> bool {
    let of = |name: &str| match name {
        "array" => array(schema, known),
        "object" => object(schema, known),
        name => SCALARS.contains(&name),
    };
    match schema.get("type") {
        Some(Value::String(name)) => of(name),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).any(of),
        _ => true,
    }
}

fn array(schema: &Map<String, Value>, known: &[bool]) -> bool {
    let least = schema.get("minItems").and_then(Value::as_u64).unwrap_or(0) as usize;
    let first = schema.get("prefixItems").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let rest = schema.get("items").is_none_or(|items| finite(items, known));
    first.iter().take(least).all(|item| finite(item, known)) && (least <= first.len() || rest)
}

fn object(schema: &Map<String, Value>, known: &[bool]) -> bool {
    let required = schema.get("required").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    required.iter().filter_map(Value::as_str).all(|name| {
        let property = schema.get("properties").and_then(|properties| properties.get(name));
        let other = schema.get("additionalProperties").filter(|_| !schema.contains_key("patternProperties"));
        property.or(other).is_none_or(|property| finite(property, known))
    })
}

/// Puts `false` in the place of every reference to a definition that has nothing finite.
fn cut(schema: &mut Value, known: &[bool]) {
    match schema {
        Value::Object(object) if reference(object).is_some_and(|index| !known[index]) => {
            *schema = false.into()
        }
        Value::Object(object) => object.values_mut().for_each(|value| cut(value, known)),
        Value::Array(items) => items.iter_mut().for_each(|item| cut(item, known)),
        _ => {}
    }
}
