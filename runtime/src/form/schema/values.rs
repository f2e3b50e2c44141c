//! Keywords of a schema that hold no schemas: types, numbers, strings, sizes, constants.

use serde_json::{Map, Number, Value};

use super::{pattern, pointer, wrong};
use crate::form::error::FormError;

type Written = Map<String, Value>;
type Outcome<T = ()> = Result<T, FormError>;

const TYPES: [&str; 7] = ["null", "boolean", "number", "integer", "string", "array", "object"];

/// Formats that are kept as the shape that they have; others are annotations.
const FORMATS: [&str; 10] =
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];

/// Largest bound of numbers: all whole numbers up to it are exact, and so are their tenths.
const LARGEST: f64 = 1e15;
/// Largest whole number that a double holds exactly, like every smaller one.
const EXACT: i64 = 1 << 53;
/// Control characters that JSON has short escapes for.
const ESCAPED: [char; 5] = ['\n', '\r', '\t', '\u{8}', '\u{c}'];
/// Largest size that is worth asking for: no context is longer.
const LARGEST_SIZE: u64 = 1 << 24;

/// `type`.
pub(super) fn types(schema: &Map<String, Value>, place: &str, written: &mut Written) -> Outcome {
    let Some(value) = schema.get("type") else { return Ok(()) };
    let known = |value: &Value| value.as_str().is_some_and(|name| TYPES.contains(&name));
    let fine = match value {
        Value::Array(names) => !names.is_empty() && names.iter().all(known),
        value => known(value),
    };
    if !fine {
        let expected = format!("one of {}, or a list of them", TYPES.join(", "));
        return Err(wrong(&pointer::join(place, "type"), &expected, value));
    }
    written.insert("type".into(), value.clone());
    Ok(())
}

/// Whether a schema may hold numbers that are not whole.
fn fractions(schema: &Map<String, Value>) -> bool {
    match schema.get("type") {
        Some(Value::String(name)) => name == "number",
        Some(Value::Array(names)) => names.iter().any(|name| name == "number"),
        _ => true,
    }
}

/// Bounds of numbers.
pub(super) fn numbers(schema: &Map<String, Value>, place: &str, written: &mut Written) -> Outcome {
    let bound = |name: &str| match schema.get(name) {
        None | Some(Value::Bool(_)) => Ok(None),
        Some(value) => number(value, &pointer::join(place, name)).map(Some),
    };
    let [mut least, mut most] = [bound("minimum")?, bound("maximum")?];
    let [mut above, mut below] = [bound("exclusiveMinimum")?, bound("exclusiveMaximum")?];
    // Draft 4 has a flag.
    if schema.get("exclusiveMinimum") == Some(&Value::Bool(true)) {
        above = least.take();
    }
    if schema.get("exclusiveMaximum") == Some(&Value::Bool(true)) {
        below = most.take();
    }
    check_open_ends(schema, place, [least, most, above, below])?;
    let bounds =
        [("minimum", least), ("maximum", most), ("exclusiveMinimum", above), ("exclusiveMaximum", below)];
    for (name, bound) in bounds {
        if let Some(bound) = bound.and_then(|bound| exact(bound).or_else(|| Number::from_f64(bound))) {
            written.insert(name.into(), bound.into());
        }
    }
    let Some(step) = schema.get("multipleOf") else { return Ok(()) };
    let place = pointer::join(place, "multipleOf");
    let value = number(step, &place)?;
    // In hundredths, a number that the library computes with exactly.
    let hundredths = value * 100.0;
    if !(1.0..=1e5).contains(&hundredths) || (hundredths - hundredths.round()).abs() > 1e-9 {
        return Err(wrong(&place, "a number from 0.01 to 1000 of at most two decimals", step));
    }
    if fractions(schema) && value.fract() != 0.0 || value.fract() == 0.0 {
        written.insert("multipleOf".into(), step.clone());
        return Ok(());
    }
    Err(wrong(&place, "a whole number, for whole numbers", step))
}

/// The library reads an open bound at a whole number for a closed one where the other bound lies before the
/// next whole number.
fn check_open_ends(schema: &Map<String, Value>, place: &str, bounds: [Option<f64>; 4]) -> Outcome {
    let [least, most, above, below] = bounds;
    let narrow = |open: Option<f64>, other: Option<f64>| match (open, other) {
        (Some(open), Some(other)) => open.fract() == 0.0 && (open - other).abs() < 1.0,
        _ => false,
    };
    let upper = most.into_iter().chain(below).reduce(f64::min);
    let lower = least.into_iter().chain(above).reduce(f64::max);
    for (name, open, other) in [("exclusiveMinimum", above, upper), ("exclusiveMaximum", below, lower)] {
        if fractions(schema) && narrow(open, other) {
            let reason =
                "an open bound at a whole number cannot be kept where the other bound is less than 1 away";
            return Err(FormError::schema(&pointer::join(place, name), reason));
        }
    }
    Ok(())
}

/// A whole number as one: the library tells 5 and 5.0 apart.
fn exact(bound: f64) -> Option<Number> {
    (bound.fract() == 0.0).then(|| Number::from(bound as i64))
}

/// A bound.
fn number(value: &Value, place: &str) -> Outcome<f64> {
    let found = value.as_f64().filter(|found| found.abs() <= LARGEST);
    found.ok_or_else(|| wrong(place, "a number from -10^15 to 10^15", value))
}

/// Lengths, patterns and formats of strings.
pub(super) fn strings(schema: &Map<String, Value>, place: &str, written: &mut Written) -> Outcome {
    sizes(schema, place, ["minLength", "maxLength"], written)?;
    if let Some(value) = schema.get("pattern") {
        let place = pointer::join(place, "pattern");
        let Value::String(pattern) = value else { return Err(wrong(&place, "a string", value)) };
        written.insert("pattern".into(), pattern::prepare(pattern, &place)?.into());
    }
    if let Some(Value::String(format)) = schema.get("format")
        && FORMATS.contains(&format.as_str())
    {
        written.insert("format".into(), format.as_str().into());
    }
    Ok(())
}

/// A pair of least and most; returns the most.
pub(super) fn sizes(
    schema: &Map<String, Value>,
    place: &str,
    names: [&str; 2],
    written: &mut Written,
) -> Outcome<Option<u64>> {
    let size = |name: &str| {
        let Some(value) = schema.get(name) else { return Ok(None) };
        // 2.0 is a whole number too.
        let whole = value.as_f64().filter(|size| size.fract() == 0.0 && (0.0..=LARGEST).contains(size));
        let size =
            whole.ok_or_else(|| wrong(&pointer::join(place, name), "a whole number, 0 or more", value))?;
        Ok(Some((size as u64).min(LARGEST_SIZE)))
    };
    let [least, most] = [size(names[0])?, size(names[1])?];
    if let (Some(least), Some(most)) = (least, most)
        && least > most
    {
        let reason = format!("expected at most `{}`, {most}, found {least}", names[1]);
        return Err(FormError::schema(&pointer::join(place, names[0]), reason));
    }
    for (name, size) in names.into_iter().zip([least, most]) {
        if let Some(size) = size {
            written.insert(name.into(), size.into());
        }
    }
    Ok(most)
}

/// `required`; returns how many there are.
pub(super) fn required(schema: &Map<String, Value>, place: &str, written: &mut Written) -> Outcome<usize> {
    let Some(value) = schema.get("required") else { return Ok(0) };
    match value {
        Value::Array(names) if names.iter().all(Value::is_string) => {
            let mut distinct: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
            distinct.sort_unstable();
            distinct.dedup();
            written.insert("required".into(), value.clone());
            Ok(distinct.len())
        }
        // Draft 3 had a flag; elsewhere it is a slip.
        value => Err(wrong(&pointer::join(place, "required"), "a list of names", value)),
    }
}

/// `const` and `enum`.
pub(super) fn literals(schema: &Map<String, Value>, place: &str, written: &mut Written) -> Outcome {
    if let Some(value) = schema.get("const") {
        check_literal(value, &pointer::join(place, "const"))?;
        written.insert("const".into(), value.clone());
    }
    if let Some(value) = schema.get("enum") {
        let place = pointer::join(place, "enum");
        let Value::Array(values) = value else { return Err(wrong(&place, "a list of values", value)) };
        values.iter().try_for_each(|value| check_literal(value, &place))?;
        written.insert("enum".into(), value.clone());
    }
    Ok(())
}

/// Refuses what the library would write otherwise: numbers that it rounds, and control characters, which need
/// an escape that answers do not use.
fn check_literal(value: &Value, place: &str) -> Outcome {
    match value {
        Value::Number(found) => {
            let whole = found.as_i64().is_some_and(|found| found.abs() <= EXACT);
            let fraction = found.is_f64() && found.as_f64().is_some_and(|found| found.abs() <= LARGEST);
            if whole || fraction {
                return Ok(());
            }
            Err(wrong(place, "numbers up to 10^15", value))
        }
        Value::String(text)
            if text.chars().any(|char| char.is_ascii_control() && !ESCAPED.contains(&char)) =>
        {
            Err(wrong(place, "texts without control characters other than line breaks and tabs", value))
        }
        Value::Array(items) => items.iter().try_for_each(|item| check_literal(item, place)),
        Value::Object(fields) => fields.values().try_for_each(|field| check_literal(field, place)),
        _ => Ok(()),
    }
}
