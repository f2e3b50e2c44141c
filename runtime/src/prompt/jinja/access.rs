//! How jinja2 finds attributes and items, and Python's slices.

use std::sync::Arc;

use super::meter::Meter;
use super::said::{Builder, Text};
use super::value::Value;
use super::{Failure, names};

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
        _ if names::has_method(value, name) => Some(Value::Method((value.clone(), Arc::clone(name)).into())),
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
