//! Python's operators, and how jinja2 finds attributes and items.

use std::sync::Arc;

use super::ast::{Binary, Comparison};
use super::meter::Meter;
use super::said::{Builder, Text};
use super::value::{Value, order, same};
use super::{Failure, format, methods};

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

/// Keys of dictionaries must never change.
pub(super) fn hashable(key: &Value) -> Result<(), Failure> {
    match key {
        Value::List(_) | Value::Dict(_) => Err(Failure::new(format!("a `{}` cannot be a key", key.kind()))),
        Value::Tuple(seq) => seq.items.iter().try_for_each(hashable),
        _ => Ok(()),
    }
}

fn no_attribute(of: &Value, name: &str) -> Value {
    Value::Undefined(format!("a `{}` has no attribute `{name:.80}`", of.kind()).into())
}

/// `value.name`: an attribute or method, or else the item of that name.
pub(super) fn attribute(value: &Value, name: &Arc<str>) -> Result<Value, Failure> {
    value.require()?;
    if let Some(found) = own_attribute(value, name) {
        return Ok(found);
    }
    match value {
        Value::Dict(dict) => Ok(dict.get_str(name).cloned().unwrap_or_else(|| no_attribute(value, name))),
        _ => Ok(no_attribute(value, name)),
    }
}

/// What Python's `getattr` finds.
fn own_attribute(value: &Value, name: &Arc<str>) -> Option<Value> {
    match value {
        Value::Namespace(entries) => {
            let entries = entries.borrow();
            entries.iter().find(|(key, _)| key.as_str() == &**name).map(|(_, value)| value.clone())
        }
        Value::Loop(it) if it.attribute(name).is_some() => it.attribute(name),
        Value::Macro(closure) if &**name == "name" => Some(Value::own(&closure.declaration.name)),
        _ if methods::exists(value, name) => Some(Value::Method((value.clone(), Arc::clone(name)).into())),
        _ => None,
    }
}

/// `value[index]`: the item, or else the attribute of that name.
pub(super) fn item(value: &Value, index: &Value, meter: &Meter) -> Result<Value, Failure> {
    value.require()?;
    index.require()?;
    meter.step(1)?;
    let found = match value {
        Value::Dict(dict) => {
            meter.step(dict.entries.len() as u64 / 8 + index.size())?;
            dict.get(index).cloned()
        }
        Value::List(seq) | Value::Tuple(seq) => {
            index.as_int().and_then(|at| place(at, seq.items.len())).map(|at| seq.items[at].clone())
        }
        Value::Str(text) => match index.as_int() {
            Some(at) => {
                meter.step(text.as_str().len() as u64 / 64)?;
                let length = text.as_str().chars().count();
                let found = place(at, length).and_then(|at| text.as_str().char_indices().nth(at));
                found.map(|(at, c)| Value::Str(text.slice(at..at + c.len_utf8())))
            }
            None => None,
        },
        Value::Range(start, length, step) => index
            .as_int()
            .and_then(|at| place(at, *length as usize))
            .map(|at| Value::Int(start + at as i64 * step)),
        _ => None,
    };
    match (found, index) {
        (Some(found), _) => Ok(found),
        (None, Value::Str(name)) => {
            let name = Arc::from(name.as_str());
            Ok(own_attribute(value, &name).unwrap_or_else(|| no_attribute(value, &name)))
        }
        (None, _) => Ok(Value::Undefined(format!("a `{}` has no such item", value.kind()).into())),
    }
}

/// An index that may count from the end.
fn place(at: i64, length: usize) -> Option<usize> {
    let at = if at < 0 { at.checked_add(length as i64)? } else { at };
    usize::try_from(at).ok().filter(|at| *at < length)
}

/// `value[start:stop:step]`.
pub(super) fn slice(value: &Value, parts: &[Option<Value>; 3], meter: &Meter) -> Result<Value, Failure> {
    value.require()?;
    let mut numbers = [None; 3];
    for (number, part) in numbers.iter_mut().zip(parts) {
        *number = match part {
            None | Some(Value::None) => None,
            Some(part) => {
                part.require()?;
                let wrong = || Failure::new(format!("a slice takes numbers, not a `{}`", part.kind()));
                Some(part.as_int().ok_or_else(wrong)?)
            }
        };
    }
    meter.step(1)?;
    let length = match value {
        Value::Str(_) | Value::List(_) | Value::Tuple(_) => value.length()?,
        other => return Ok(Value::Undefined(format!("a `{}` has no slices", other.kind()).into())),
    };
    let at = Indices::new(numbers, length)?;
    match value {
        Value::Str(text) => characters(text, &at, meter).map(Value::Str),
        Value::List(seq) | Value::Tuple(seq) => {
            meter.items(at.count)?;
            let items = at.iter().map(|index| seq.items[index].clone()).collect();
            if matches!(value, Value::List(_)) { Value::list(items) } else { Value::tuple(items) }
        }
        _ => Ok(Value::None),
    }
}

/// The characters of a text at these indices.
fn characters(text: &Text, at: &Indices, meter: &Meter) -> Result<Text, Failure> {
    let plain = text.as_str();
    meter.bytes(text.weight())?;
    if at.step == 1 {
        let place = |index: usize| plain.char_indices().nth(index).map_or(plain.len(), |(place, _)| place);
        return Ok(text.slice(place(at.start)..place(at.start + at.count)));
    }
    meter.bytes(plain.len().saturating_mul(size_of::<usize>()))?;
    let starts: Vec<usize> = plain.char_indices().map(|(start, _)| start).chain([plain.len()]).collect();
    let mut builder = Builder::new(meter);
    for index in at.iter() {
        builder.push(&text.slice(starts[index]..starts[index + 1]))?;
    }
    Ok(builder.finish())
}

/// The indices of a slice, as Python's `slice.indices` has them.
struct Indices {
    start: usize,
    step: i64,
    count: usize,
}

impl Indices {
    fn new([start, stop, step]: [Option<i64>; 3], length: usize) -> Result<Self, Failure> {
        let (length, step) = (length as i64, step.unwrap_or(1));
        if step == 0 {
            return Err(Failure::new("a slice with a step of zero"));
        }
        let (lowest, highest) = if step > 0 { (0, length) } else { (-1, length - 1) };
        let clip = |at: i64| {
            let at = if at < 0 { at.saturating_add(length) } else { at };
            at.clamp(lowest, highest)
        };
        let start = start.map_or(if step > 0 { lowest } else { highest }, clip);
        let stop = stop.map_or(if step > 0 { highest } else { lowest }, clip);
        let span = if step > 0 { stop - start } else { start - stop }.max(0) as u64;
        let count = span.div_ceil(step.unsigned_abs()) as usize;
        Ok(Self { start: usize::try_from(start).unwrap_or(0), step, count })
    }

    fn iter(&self) -> impl Iterator<Item = usize> {
        let (start, step) = (self.start as i64, self.step);
        (0..self.count as i64).map(move |at| (start + at * step) as usize)
    }
}
