//! What `is` asks.

use super::Failure;
use super::ast::Comparison;
use super::given::Given;
use super::meter::Meter;
use super::ops;
use super::value::Value;

pub(super) fn ask(name: &str, value: &Value, given: Given, meter: &Meter) -> Result<bool, Failure> {
    let comparison = match name {
        "eq" | "equalto" | "==" => Some(Comparison::Eq),
        "ne" | "!=" => Some(Comparison::Ne),
        "lt" | "lessthan" | "<" => Some(Comparison::Lt),
        "le" | "<=" => Some(Comparison::Le),
        "gt" | "greaterthan" | ">" => Some(Comparison::Gt),
        "ge" | ">=" => Some(Comparison::Ge),
        "in" => Some(Comparison::In),
        _ => None,
    };
    if comparison.is_some() || matches!(name, "sameas" | "divisibleby") {
        let [other] = given.bind(name, ["other"])?;
        let other = other.ok_or_else(|| Failure::new(format!("the test `{name}` needs a value")))?;
        if let Some(comparison) = comparison {
            return ops::compare(comparison, value, &other, meter);
        }
        if name == "sameas" {
            return Ok(same_object(value, &other));
        }
        let rest = ops::binary(super::ast::Binary::Mod, value, &other, meter)?;
        return Ok(!rest.truthy());
    }
    given.none(name)?;
    Ok(match name {
        "defined" => !matches!(value, Value::Undefined(_)),
        "undefined" => matches!(value, Value::Undefined(_)),
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => value.as_float().is_some(),
        "string" => matches!(value, Value::Str(_) | Value::Markup(_)),
        "mapping" => matches!(value, Value::Dict(_)),
        "iterable" => {
            is_sequence(value) || matches!(value, Value::View(..) | Value::Generator(_) | Value::Loop(_))
        }
        "sequence" => is_sequence(value),
        "callable" => {
            matches!(value, Value::Macro(_) | Value::Function(_) | Value::Method(_) | Value::Undefined(_))
        }
        "lower" | "upper" => {
            meter.step(value.size())?;
            let text = value.text(meter)?;
            let text = text.as_str();
            let (lower, upper) = (text.chars().any(char::is_lowercase), text.chars().any(char::is_uppercase));
            if name == "lower" { lower && !upper } else { upper && !lower }
        }
        // Nothing here is marked as escaped HTML.
        "escaped" => false,
        "odd" | "even" => {
            let number = value.as_int();
            let number =
                number.ok_or_else(|| Failure::new(format!("the test `{name}` takes a whole number")))?;
            (number % 2 != 0) == (name == "odd")
        }
        _ => return Err(Failure::new(format!("there is no test `{name:.40}`"))),
    })
}

/// Python's `a is b`, where it does not depend on what Python keeps.
fn same_object(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => std::rc::Rc::ptr_eq(a, b),
        (Value::Dict(a), Value::Dict(b)) => std::rc::Rc::ptr_eq(a, b),
        (Value::Int(_), Value::Bool(_)) | (Value::Bool(_), Value::Int(_)) | (Value::Undefined(_), _) => false,
        (Value::Float(_), _) | (_, Value::Float(_)) => false,
        _ => super::value::same(a, b),
    }
}

/// What has a length and an item at a place, as jinja2 asks: with Python's `len` and `[]`.
fn is_sequence(value: &Value) -> bool {
    matches!(
        value,
        Value::Undefined(_)
            | Value::Str(_)
            | Value::Markup(_)
            | Value::List(_)
            | Value::Tuple(_)
            | Value::Dict(_)
            | Value::Range(..)
    )
}
