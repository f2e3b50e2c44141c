//! The methods of Python's types, for expressions that call one.

use super::given::{self, Given};
use super::meter::{ALLOCATION, Meter};
use super::value::{PAIR, Value, hashable, same};
use super::{Failure, strings};

fn none(value: &Value, name: &str) -> Failure {
    Failure::new(format!("a `{}` has no method `{name:.40}`", value.kind()))
}

pub(super) fn call(value: &Value, name: &str, given: Given, meter: &Meter) -> Result<Value, Failure> {
    match value {
        Value::Str(text) => strings::call(text, name, given, meter),
        Value::Loop(it) => it.call(name, given),
        Value::Dict(dict) => {
            meter.items(dict.entries.len())?;
            let entries = &dict.entries;
            Ok(match name {
                "get" => {
                    let [key, default] = given.bind("get", ["key", "default"])?;
                    let key = key.ok_or_else(|| Failure::new("`get` needs a key"))?;
                    meter.step(key.size())?;
                    hashable(&key)?;
                    dict.get(&key).cloned().or(default).unwrap_or(Value::None)
                }
                "keys" => {
                    given.none(name)?;
                    view("dict_keys", entries.iter().map(|(key, _)| key.clone()).collect())?
                }
                "values" => {
                    given.none(name)?;
                    view("dict_values", entries.iter().map(|(_, value)| value.clone()).collect())?
                }
                "items" => {
                    given.none(name)?;
                    meter.items(entries.len() * PAIR)?;
                    let pair = |(key, value): &(Value, Value)| Value::tuple(vec![key.clone(), value.clone()]);
                    view("dict_items", entries.iter().map(pair).collect::<Result<_, _>>()?)?
                }
                "copy" => {
                    given.none(name)?;
                    value.clone()
                }
                _ => return Err(none(value, name)),
            })
        }
        Value::List(seq) | Value::Tuple(seq) => {
            meter.step(value.size())?;
            if name == "copy" {
                given.none(name)?;
                return Ok(value.clone());
            }
            let [item] = given.bind(name, ["value"])?;
            let item = item.ok_or_else(|| Failure::new(format!("`{name}` needs a value")))?;
            let mut found = seq.items.iter().enumerate().filter(|(_, found)| same(found, &item));
            match name {
                "count" => Ok(Value::Int(found.count() as i64)),
                "index" => {
                    let first = found.next().map(|(at, _)| Value::Int(at as i64));
                    first.ok_or_else(|| Failure::new("`index` does not find its value"))
                }
                _ => Err(none(value, name)),
            }
        }
        other => Err(none(other, name)),
    }
}

fn view(name: &'static str, items: Vec<Value>) -> Result<Value, Failure> {
    Ok(Value::View(name, super::value::Seq::new(items)?))
}

impl super::value::Loop {
    pub(super) fn attribute(&self, name: &str) -> Option<Value> {
        let (index, length) = (self.index.get(), self.items.items.len());
        let neighbour = |at: Option<usize>, which: &str| {
            let item = at.and_then(|at| self.items.items.get(at)).cloned();
            item.unwrap_or_else(|| Value::Undefined(format!("there is no {which} item").into()))
        };
        Some(match name {
            "index" => Value::Int(index as i64 + 1),
            "index0" => Value::Int(index as i64),
            "revindex" => Value::Int((length - index) as i64),
            "revindex0" => Value::Int((length - index) as i64 - 1),
            "first" => Value::Bool(index == 0),
            "last" => Value::Bool(index + 1 == length),
            "length" => Value::Int(length as i64),
            // Only recursive loops, which are not supported, go deeper.
            "depth" => Value::Int(1),
            "depth0" => Value::Int(0),
            "previtem" => neighbour(index.checked_sub(1), "previous"),
            "nextitem" => neighbour(index.checked_add(1), "next"),
            _ => return None,
        })
    }

    fn call(&self, name: &str, given: Given) -> Result<Value, Failure> {
        if !given.named.is_empty() {
            return Err(Failure::new(format!("`loop.{name}` takes no named arguments")));
        }
        let values = given.positional;
        if name == "cycle" {
            if values.is_empty() {
                return Err(Failure::new("`loop.cycle` needs a value"));
            }
            return Ok(values[self.index.get() % values.len()].clone());
        }
        let mut last = self.changed.borrow_mut();
        let equal = |last: &Vec<Value>| {
            last.len() == values.len() && last.iter().zip(&values).all(|(a, b)| same(a, b))
        };
        if last.as_ref().is_some_and(equal) {
            return Ok(Value::Bool(false));
        }
        *last = Some(values);
        Ok(Value::Bool(true))
    }
}

/// What a `namespace(...)` or `dict(...)` is made of: the entries of a dictionary or pairs, then named ones.
pub(super) fn entries(function: &str, given: Given, meter: &Meter) -> Result<Vec<(Value, Value)>, Failure> {
    let Given { positional, named } = given;
    if positional.len() > 1 {
        return Err(Failure::new(format!("`{function}` takes one positional argument at most")));
    }
    let mut entries: Vec<(Value, Value)> = Vec::new();
    let put = |entries: &mut Vec<(Value, Value)>, key: Value, value: Value| {
        meter.step(1 + entries.len() as u64 / 4)?;
        meter.bytes(2 * size_of::<Value>())?;
        hashable(&key)?;
        match entries.iter_mut().find(|(found, _)| same(found, &key)) {
            Some((_, old)) => *old = value,
            None => entries.push((key, value)),
        }
        Ok::<_, Failure>(())
    };
    for source in positional {
        if let Value::Dict(dict) = &source {
            for (key, value) in &dict.entries {
                put(&mut entries, key.clone(), value.clone())?;
            }
            continue;
        }
        for pair in &source.iterate(meter)?.items {
            match pair.iterate(meter)?.items.as_slice() {
                [key, value] => put(&mut entries, key.clone(), value.clone())?,
                _ => return Err(Failure::new(format!("`{function}` takes pairs of a key and a value"))),
            }
        }
    }
    for (name, value) in named {
        meter.bytes(name.len() + ALLOCATION)?;
        put(&mut entries, Value::own(&name), value)?;
    }
    Ok(entries)
}

/// Python's `range(...)` within the sandbox's limit.
pub(super) fn range(given: Given) -> Result<Value, Failure> {
    let [a, b, step] = given.bind("range", ["start", "stop", "step"])?;
    let a = given::integer("range", a, 0)?;
    let (start, stop) = match b {
        Some(b) => (a, given::integer("range", Some(b), 0)?),
        None => (0, a),
    };
    let step = given::integer("range", step, 1)?;
    if step == 0 {
        return Err(Failure::new("`range` with a step of zero"));
    }
    let span = if step > 0 { stop.saturating_sub(start) } else { start.saturating_sub(stop) }.max(0) as u64;
    let length = span.div_ceil(step.unsigned_abs()) as i64;
    if length > 100_000 {
        return Err(Failure::new("a range of more than 100,000 numbers"));
    }
    Ok(Value::Range(start, length, step))
}
