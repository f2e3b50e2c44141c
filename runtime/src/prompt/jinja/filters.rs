//! jinja2's filters, with all their arguments.

use std::cmp::Ordering;
use std::sync::Arc;

use super::given::{self, Given};
use super::meter::{ALLOCATION, Meter};
use super::said::{Builder, Text};
use super::value::{PAIR, Value, order, same};
use super::{Failure, access, format, json, names, ops, predicates, strings};

pub(super) fn apply(name: &str, value: &Value, given: Given, meter: &Meter) -> Result<Value, Failure> {
    meter.deeper(|| apply_one(name, value, given, meter))
}

fn apply_one(name: &str, value: &Value, given: Given, meter: &Meter) -> Result<Value, Failure> {
    meter.step(1)?;
    let of_any = ["default", "d", "length", "count", "safe"];
    if matches!(value, Value::Markup(_)) && !of_any.contains(&name) {
        return Err(Failure::new(format!(
            "what `safe` returns can only be printed, and `{name}` takes more of it"
        )));
    }
    match name {
        "safe" => {
            given.none(name)?;
            Ok(Value::Markup(value.text(meter)?))
        }
        "default" | "d" => {
            let [default, boolean] = given.bind(name, ["default_value", "boolean"])?;
            let absent =
                matches!(value, Value::Undefined(_)) || given::flag(boolean, false) && !value.truthy();
            Ok(if absent { default.unwrap_or_else(|| Value::own("")) } else { value.clone() })
        }
        "length" | "count" => {
            given.none(name)?;
            meter.step(value.size())?;
            Ok(Value::Int(value.length()? as i64))
        }
        "upper" | "lower" | "capitalize" | "title" | "string" | "trim" | "replace" | "indent" | "center"
        | "format" => on_text(name, &value.text(meter)?, given, meter).map(Value::Str),
        "join" => join(value, given, meter),
        "tojson" => json::tojson(value, given, meter),
        "int" | "float" | "abs" | "round" => number(name, value, given, meter),
        "first" | "last" | "list" | "reverse" | "items" => {
            given.none(name)?;
            items(name, value, meter)
        }
        "attr" => {
            let [attribute] = given.bind(name, ["name"])?;
            let attribute = Arc::from(given::text(name, attribute)?.as_str());
            match value {
                Value::Dict(_) => Ok(Value::undefined(&attribute)),
                _ => access::attribute(value, &attribute),
            }
        }
        "map" => map(value, given, meter),
        "select" | "reject" | "selectattr" | "rejectattr" => choose(name, value, given, meter),
        "sort" | "unique" | "min" | "max" | "sum" | "dictsort" => ordered(name, value, given, meter),
        _ => Err(Failure::new(format!("there is no filter `{name:.40}`"))),
    }
}

fn on_text(name: &str, text: &Text, given: Given, meter: &Meter) -> Result<Text, Failure> {
    let plain = text.as_str();
    meter.bytes(text.weight() + ALLOCATION)?;
    match name {
        "trim" => {
            let [chars] = given.bind(name, ["chars"])?;
            let set = given::optional_text(name, chars)?;
            strings::strip(text, set.as_ref(), true, true, meter)
        }
        "replace" => {
            let [old, new, count] = given.bind(name, ["old", "new", "count"])?;
            let part = |part: Option<Value>| match part {
                Some(part) => part.text(meter),
                None => Err(Failure::new("`replace` takes an old and a new string")),
            };
            let (old, new) = (part(old)?, part(new)?);
            let count = count.filter(|count| !matches!(count, Value::None));
            strings::replace(text, old.as_str(), &new, given::integer(name, count, -1)?, meter)
        }
        "indent" => indent(text, given, meter),
        "format" => {
            let values = if given.named.is_empty() {
                Value::tuple(given.positional)?
            } else if given.positional.is_empty() {
                Value::dict(
                    given.named.into_iter().map(|(name, value)| (Value::own(&name), value)).collect(),
                )?
            } else {
                return Err(Failure::new("`format` takes positional or named arguments, not both"));
            };
            format::percent(text, &values, meter)
        }
        "center" => {
            let [width] = given.bind(name, ["width"])?;
            let width = Value::Int(given::integer(name, width, 80)?);
            let given = Given { positional: vec![width], named: Vec::new() };
            strings::call(text, "center", given, meter)?.text(meter)
        }
        _ => {
            given.none(name)?;
            Ok(match name {
                "upper" => text.derive(&plain.to_uppercase()),
                "lower" => text.derive(&plain.to_lowercase()),
                "capitalize" => text.derive(&strings::capitalize(plain)),
                "title" => text.derive(&title(plain)),
                _ => text.clone(),
            })
        }
    }
}

/// jinja2's own `title`: words also begin behind dashes and brackets, and not behind apostrophes.
fn title(text: &str) -> String {
    let separates = |c: char| matches!(c, '-' | '(' | '{' | '[' | '<') || super::value::is_space(c);
    let (mut titled, mut first) = (String::with_capacity(text.len()), true);
    for c in text.chars() {
        if first {
            titled.extend(c.to_uppercase())
        } else {
            titled.extend(c.to_lowercase())
        }
        first = separates(c);
    }
    titled
}

fn indent(text: &Text, given: Given, meter: &Meter) -> Result<Text, Failure> {
    let [width, first, blank] = given.bind("indent", ["width", "first", "blank"])?;
    let indent = match width {
        Some(Value::Str(text)) => text,
        width => {
            let width = usize::try_from(given::integer("indent", width, 4)?).unwrap_or(0);
            if width > 1024 {
                return Err(Failure::new("`indent` indents by at most 1024"));
            }
            Text::own(&" ".repeat(width))
        }
    };
    let (first, blank) = (given::flag(first, false), given::flag(blank, false));
    let ended = ops::join(&[text.clone(), Text::own("\n")], meter)?;
    let lines = strings::call(&ended, "splitlines", Given::default(), meter)?.iterate(meter)?;
    let mut out = Builder::new(meter);
    for (index, line) in lines.items.iter().enumerate() {
        let Value::Str(line) = line else { continue };
        if index > 0 {
            out.push_own("\n")?;
        }
        if if index == 0 { first } else { blank || !line.as_str().is_empty() } {
            out.push(&indent)?;
        }
        out.push(line)?;
    }
    Ok(out.finish())
}

fn join(value: &Value, given: Given, meter: &Meter) -> Result<Value, Failure> {
    let [separator, attribute] = given.bind("join", ["d", "attribute"])?;
    let separator = separator.map_or_else(|| Ok(Text::default()), |separator| separator.text(meter))?;
    let mut texts = Vec::new();
    let seq = value.iterate(meter)?;
    meter.items(seq.items.len() * 2)?;
    for item in &seq.items {
        meter.step(1)?;
        if !texts.is_empty() {
            texts.push(separator.clone());
        }
        texts.push(reach(item, attribute.as_ref(), meter)?.text(meter)?);
    }
    ops::join(&texts, meter).map(Value::Str)
}

/// The attribute of an item, `a.b.0` being several steps; without one, the item.
fn reach(item: &Value, attribute: Option<&Value>, meter: &Meter) -> Result<Value, Failure> {
    match attribute {
        None | Some(Value::None) => Ok(item.clone()),
        Some(Value::Str(path)) => {
            let mut found = item.clone();
            for part in path.as_str().split('.') {
                let index = part.parse().map_or_else(|_| Value::own(part), Value::Int);
                found = access::item(&found, &index, meter)?;
            }
            Ok(found)
        }
        Some(index) => access::item(item, index, meter),
    }
}

fn number(name: &str, value: &Value, given: Given, meter: &Meter) -> Result<Value, Failure> {
    match name {
        "int" => {
            let [default, base] = given.bind(name, ["default", "base"])?;
            let base = given::integer(name, base, 10)?;
            let found = match value {
                Value::Str(text) => {
                    meter.bytes(text.as_str().len())?;
                    let plain = text.as_str().trim().replace('_', "");
                    let radix = u32::try_from(base).ok().filter(|base| (2..=36).contains(base));
                    let whole = radix.and_then(|radix| i64::from_str_radix(&plain, radix).ok());
                    whole.or_else(|| plain.parse::<f64>().ok().and_then(truncated))
                }
                Value::Float(number) => truncated(*number),
                other => other.as_int(),
            };
            Ok(found.map(Value::Int).or(default).unwrap_or(Value::Int(0)))
        }
        "float" => {
            let [default] = given.bind(name, ["default"])?;
            let found = match value {
                Value::Str(text) => text.as_str().trim().parse().ok(),
                other => other.as_float(),
            };
            Ok(found.map(Value::Float).or(default).unwrap_or(Value::Float(0.0)))
        }
        "abs" => {
            given.none(name)?;
            match (value.as_int(), value.as_float()) {
                (Some(number), _) => number.checked_abs().map(Value::Int),
                (None, Some(number)) => Some(Value::Float(number.abs())),
                _ => None,
            }
            .ok_or_else(|| Failure::new(format!("`abs` takes a number, not a `{}`", value.kind())))
        }
        _ => {
            let [precision, method] = given.bind(name, ["precision", "method"])?;
            let precision = given::integer(name, precision, 0)?;
            if method.is_some() || !(0..=300).contains(&precision) {
                return Err(Failure::new("`round` takes a precision of 0 to 300 and no method"));
            }
            match value {
                Value::Float(number) => {
                    let text = format!("{number:.*}", precision as usize);
                    Ok(Value::Float(text.parse().unwrap_or(*number)))
                }
                other => other.as_int().map(Value::Int).ok_or_else(|| Failure::new("`round` takes a number")),
            }
        }
    }
}

fn truncated(number: f64) -> Option<i64> {
    (number.abs() < 9.2e18).then_some(number.trunc() as i64)
}

fn items(name: &str, value: &Value, meter: &Meter) -> Result<Value, Failure> {
    let missing = |which: &str| Value::Undefined(format!("there is no {which} item").into());
    if name == "items" {
        return match value {
            Value::Undefined(_) => Value::generator(Vec::new()),
            Value::Dict(dict) => {
                meter.items(dict.entries.len() * PAIR)?;
                let pair = |(key, value): &(Value, Value)| Value::tuple(vec![key.clone(), value.clone()]);
                Value::generator(dict.entries.iter().map(pair).collect::<Result<_, _>>()?)
            }
            other => Err(Failure::new(format!("`items` takes a dictionary, not a `{}`", other.kind()))),
        };
    }
    if let ("reverse", Value::Str(text)) = (name, value) {
        return access::slice(&Value::Str(text.clone()), &[None, None, Some(Value::Int(-1))], meter);
    }
    if name == "last" && matches!(value, Value::Generator(_)) {
        return Err(Failure::new("`last` does not take a generator; make it a list first"));
    }
    if let ("first" | "last", Value::Str(text)) = (name, value) {
        let mut chars = text.as_str().char_indices();
        let found = if name == "first" { chars.next() } else { chars.next_back() };
        let character = |(at, c): (usize, char)| Value::Str(text.slice(at..at + c.len_utf8()));
        return Ok(found.map_or_else(|| missing(name), character));
    }
    let seq = value.iterate(meter)?;
    match name {
        "first" => Ok(seq.items.first().cloned().unwrap_or_else(|| missing("first"))),
        "last" => Ok(seq.items.last().cloned().unwrap_or_else(|| missing("last"))),
        "list" => {
            meter.items(seq.items.len())?;
            Value::list(seq.items.clone())
        }
        _ => {
            meter.items(seq.items.len())?;
            let reversed = seq.items.iter().rev().cloned().collect();
            if matches!(value, Value::Generator(_)) {
                Value::list(reversed)
            } else {
                Value::generator(reversed)
            }
        }
    }
}

fn map(value: &Value, mut given: Given, meter: &Meter) -> Result<Value, Failure> {
    let seq = value.iterate(meter)?;
    meter.items(seq.items.len())?;
    if given.positional.is_empty() {
        let [attribute, default] = given.bind("map", ["attribute", "default"])?;
        let attribute = attribute.ok_or_else(|| Failure::new("`map` needs a filter or an attribute"))?;
        let one = |item: &Value| {
            meter.bytes(ALLOCATION)?;
            let found = reach(item, Some(&attribute), meter)?;
            Ok(match (&found, &default) {
                (Value::Undefined(_), Some(default)) => default.clone(),
                _ => found,
            })
        };
        return Value::generator(seq.items.iter().map(one).collect::<Result<_, Failure>>()?);
    }
    let name = given::text("map", Some(given.positional.remove(0)))?;
    let again = || Given { positional: given.positional.clone(), named: given.named.clone() };
    let one = |item: &Value| {
        meter.bytes(ALLOCATION)?;
        apply(name.as_str(), item, again(), meter)
    };
    Value::generator(seq.items.iter().map(one).collect::<Result<_, _>>()?)
}

fn choose(name: &str, value: &Value, mut given: Given, meter: &Meter) -> Result<Value, Failure> {
    let seq = value.iterate(meter)?;
    meter.items(seq.items.len())?;
    let attribute = if name.ends_with("attr") {
        if given.positional.is_empty() {
            return Err(Failure::new(format!("`{name}` needs an attribute")));
        }
        Some(given.positional.remove(0))
    } else {
        None
    };
    let test = if given.positional.is_empty() {
        None
    } else {
        Some(given::text(name, Some(given.positional.remove(0)))?)
    };
    let mut chosen = Vec::new();
    for item in &seq.items {
        meter.step(1)?;
        let asked = reach(item, attribute.as_ref(), meter)?;
        let holds = match &test {
            None => asked.truthy(),
            Some(test) if names::TESTS.contains(&test.as_str()) => {
                let again = Given { positional: given.positional.clone(), named: given.named.clone() };
                predicates::ask(test.as_str(), &asked, again, meter)?
            }
            Some(test) => return Err(Failure::new(format!("there is no test `{:.40}`", test.as_str()))),
        };
        if holds != name.starts_with("reject") {
            chosen.push(item.clone());
        }
    }
    Value::generator(chosen)
}

/// What a value is sorted by: strings without regard to case, unless asked.
fn folded(value: Value, case_sensitive: bool, meter: &Meter) -> Result<Value, Failure> {
    match value {
        Value::Str(text) if !case_sensitive => {
            meter.bytes(text.as_str().len() + ALLOCATION)?;
            Ok(Value::own(&text.as_str().to_lowercase()))
        }
        other => Ok(other),
    }
}

/// Items with what they are sorted by, in order.
fn sorted(mut keyed: Vec<(Value, Value)>, reverse: bool, meter: &Meter) -> Result<Vec<Value>, Failure> {
    let mut failure = None;
    keyed.sort_by(|(a, _), (b, _)| {
        let found = meter.step(a.size().min(b.size())).and_then(|()| order(a, b)).unwrap_or_else(|error| {
            failure = Some(error);
            None
        });
        let found = found.unwrap_or(Ordering::Equal);
        if reverse { found.reverse() } else { found }
    });
    failure.map_or_else(|| Ok(keyed.into_iter().map(|(_, item)| item).collect()), Err)
}

fn ordered(name: &str, value: &Value, given: Given, meter: &Meter) -> Result<Value, Failure> {
    if name == "dictsort" {
        let [case, by, reverse] = given.bind(name, ["case_sensitive", "by", "reverse"])?;
        let case = given::flag(case, false);
        let by_value = match given::optional_text(name, by)? {
            Some(by) if by.as_str() == "value" => true,
            Some(by) if by.as_str() != "key" => {
                return Err(Failure::new("`dictsort` sorts by `key` or `value`"));
            }
            _ => false,
        };
        let Value::Dict(dict) = value else { return Err(Failure::new("`dictsort` takes a dictionary")) };
        meter.items(dict.entries.len() * (1 + PAIR))?;
        let mut keyed = Vec::new();
        for (key, value) in &dict.entries {
            let by = if by_value { value } else { key };
            keyed.push((folded(by.clone(), case, meter)?, Value::tuple(vec![key.clone(), value.clone()])?));
        }
        return Value::list(sorted(keyed, given::flag(reverse, false), meter)?);
    }
    if name == "sum" {
        let [attribute, start] = given.bind(name, ["attribute", "start"])?;
        let mut total = start.unwrap_or(Value::Int(0));
        for item in &value.iterate(meter)?.items {
            let item = reach(item, attribute.as_ref(), meter)?;
            total = ops::binary(super::ast::Binary::Add, &total, &item, meter)?;
        }
        return Ok(total);
    }
    let [reverse, case, attribute] = if name == "sort" {
        given.bind(name, ["reverse", "case_sensitive", "attribute"])?
    } else {
        let [case, attribute] = given.bind(name, ["case_sensitive", "attribute"])?;
        [None, case, attribute]
    };
    let case = given::flag(case, false);
    let seq = value.iterate(meter)?;
    meter.items(seq.items.len() * 3)?;
    let mut keyed = Vec::new();
    for item in &seq.items {
        keyed.push((folded(reach(item, attribute.as_ref(), meter)?, case, meter)?, item.clone()));
    }
    if name == "unique" {
        let mut kept: Vec<(Value, Value)> = Vec::new();
        for (key, item) in keyed {
            meter.step((1 + kept.len() as u64).saturating_mul(key.size()))?;
            if !kept.iter().any(|(found, _)| same(found, &key)) {
                kept.push((key, item));
            }
        }
        return Value::generator(kept.into_iter().map(|(_, item)| item).collect());
    }
    let reverse = given::flag(reverse, false);
    let sorted = sorted(keyed, reverse || name == "max", meter)?;
    match name {
        "sort" => Value::list(sorted),
        _ => Ok(sorted.into_iter().next().unwrap_or_else(|| Value::Undefined("there is no item".into()))),
    }
}
