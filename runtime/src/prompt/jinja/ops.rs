//! Python's operators.

use super::ast::{Binary, Comparison};
use super::meter::Meter;
use super::said::{Builder, Text};
use super::value::{Value, hashable, order, same};
use super::{Failure, format};

pub(super) fn binary(operator: Binary, a: &Value, b: &Value, meter: &Meter) -> Result<Value, Failure> {
    a.require()?;
    b.require()?;
    match (operator, a, b) {
        (Binary::Add, Value::Str(a), Value::Str(b)) => {
            return join(&[a.clone(), b.clone()], meter).map(Value::Str);
        }
        (Binary::Add, Value::List(x), Value::List(y)) | (Binary::Add, Value::Tuple(x), Value::Tuple(y)) => {
            meter.items(x.items.len() + y.items.len())?;
            let items = x.items.iter().chain(&y.items).cloned().collect();
            return if matches!(a, Value::List(_)) { Value::list(items) } else { Value::tuple(items) };
        }
        (Binary::Mod, Value::Str(pattern), _) => return format::percent(pattern, b, meter).map(Value::Str),
        (Binary::Mul, Value::Str(_) | Value::List(_) | Value::Tuple(_), _) => {
            if let Some(times) = b.as_int() {
                return repeat(a, times, meter);
            }
        }
        (Binary::Mul, _, Value::Str(_) | Value::List(_) | Value::Tuple(_)) => {
            if let Some(times) = a.as_int() {
                return repeat(b, times, meter);
            }
        }
        _ => {}
    }
    match (a.as_int(), b.as_int(), a.as_float(), b.as_float()) {
        (Some(x), Some(y), ..) if operator != Binary::Div => integers(operator, x, y),
        (.., Some(x), Some(y)) => floats(operator, x, y).map(Value::Float),
        _ => Err(Failure::new(format!(
            "the operator `{}` does not take a `{}` and a `{}`",
            symbol(operator),
            a.kind(),
            b.kind()
        ))),
    }
}

fn symbol(operator: Binary) -> &'static str {
    match operator {
        Binary::Add => "+",
        Binary::Sub => "-",
        Binary::Mul => "*",
        Binary::Div => "/",
        Binary::FloorDiv => "//",
        Binary::Mod => "%",
        Binary::Pow => "**",
    }
}

fn integers(operator: Binary, a: i64, b: i64) -> Result<Value, Failure> {
    let overflow = || Failure::new("a number beyond 64 bits");
    if b == 0 && matches!(operator, Binary::FloorDiv | Binary::Mod) {
        return Err(Failure::new("a division by zero"));
    }
    let result = match operator {
        Binary::Add => a.checked_add(b),
        Binary::Sub => a.checked_sub(b),
        Binary::Mul => a.checked_mul(b),
        Binary::Pow => match u32::try_from(b) {
            Ok(power) => a.checked_pow(power),
            Err(_) if b < 0 => return floats(operator, a as f64, b as f64).map(Value::Float),
            Err(_) => None,
        },
        // Python rounds down, and a remainder has the divisor's sign.
        Binary::FloorDiv => {
            a.checked_div_euclid(b).map(|q| if b < 0 && a.rem_euclid(b) != 0 { q - 1 } else { q })
        }
        Binary::Mod => a.checked_rem_euclid(b).map(|r| if b < 0 && r != 0 { r + b } else { r }),
        Binary::Div => None,
    };
    result.map(Value::Int).ok_or_else(overflow)
}

fn floats(operator: Binary, a: f64, b: f64) -> Result<f64, Failure> {
    if b == 0.0 && matches!(operator, Binary::Div | Binary::FloorDiv | Binary::Mod) {
        return Err(Failure::new("a division by zero"));
    }
    Ok(match operator {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::FloorDiv => (a / b).floor(),
        Binary::Mod => {
            let rest = a % b;
            if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }
        }
        Binary::Pow => a.powf(b),
    })
}

fn repeat(value: &Value, times: i64, meter: &Meter) -> Result<Value, Failure> {
    let times = usize::try_from(times).unwrap_or(0);
    match value {
        Value::Str(text) => {
            meter.affords(text.weight().saturating_mul(times))?;
            if text.ranges().is_empty() {
                meter.bytes(text.as_str().len().saturating_mul(times))?;
                return Ok(Value::own(&text.as_str().repeat(times)));
            }
            let mut builder = Builder::new(meter);
            for _ in 0..times {
                builder.push(text)?;
            }
            Ok(Value::Str(builder.finish()))
        }
        Value::List(seq) | Value::Tuple(seq) => {
            meter.items(seq.items.len().saturating_mul(times))?;
            let times = if seq.items.is_empty() { 0 } else { times };
            let items = (0..times).flat_map(|_| seq.items.iter().cloned()).collect();
            if matches!(value, Value::List(_)) { Value::list(items) } else { Value::tuple(items) }
        }
        other => Err(Failure::new(format!("a `{}` cannot be repeated", other.kind()))),
    }
}

/// Texts one behind the other.
pub(super) fn join(texts: &[Text], meter: &Meter) -> Result<Text, Failure> {
    let mut builder = Builder::new(meter);
    texts.iter().try_for_each(|text| builder.push(text))?;
    Ok(builder.finish())
}

pub(super) fn compare(comparison: Comparison, a: &Value, b: &Value, meter: &Meter) -> Result<bool, Failure> {
    let ordered = |fits: fn(std::cmp::Ordering) -> bool| {
        meter.step(a.size().min(b.size()))?;
        Ok(order(a, b)?.is_some_and(fits))
    };
    match comparison {
        Comparison::Eq | Comparison::Ne => {
            meter.step(a.size().min(b.size()))?;
            Ok(same(a, b) == (comparison == Comparison::Eq))
        }
        Comparison::Lt => ordered(|order| order.is_lt()),
        Comparison::Le => ordered(|order| order.is_le()),
        Comparison::Gt => ordered(|order| order.is_gt()),
        Comparison::Ge => ordered(|order| order.is_ge()),
        Comparison::In => contains(b, a, meter),
        Comparison::NotIn => contains(b, a, meter).map(|found| !found),
    }
}

/// Python's `item in container`.
pub(super) fn contains(container: &Value, item: &Value, meter: &Meter) -> Result<bool, Failure> {
    match (container, item) {
        (Value::Str(text), Value::Str(part)) => {
            meter.step(text.as_str().len() as u64 / 64)?;
            Ok(text.as_str().contains(part.as_str()))
        }
        (Value::Str(_), other) => {
            other.require()?;
            Err(Failure::new(format!("`in` looks for a string in a string, not for a `{}`", other.kind())))
        }
        (Value::Dict(dict), key) => {
            meter.step(dict.entries.len() as u64 / 8 + key.size())?;
            hashable(key)?;
            Ok(dict.get(key).is_some())
        }
        (Value::Namespace(_) | Value::Loop(_), _) => {
            Err(Failure::new(format!("`in` does not look into a `{}`", container.kind())))
        }
        (container, item) => {
            meter.step(container.size())?;
            let seq = container.iterate(meter)?;
            meter.step(seq.items.len() as u64)?;
            Ok(seq.items.iter().any(|found| same(found, item)))
        }
    }
}
