//! The methods of Python's `str`.

use super::given::{self, Given};
use super::meter::{ALLOCATION, Meter};
use super::said::{Builder, Text};
use super::value::{Value, is_space};
use super::{Failure, format, ops};

pub(super) fn call(text: &Text, name: &str, given: Given, meter: &Meter) -> Result<Value, Failure> {
    let plain = text.as_str();
    meter.bytes(text.weight() + ALLOCATION)?;
    Ok(match name {
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = given.bind(name, ["chars"])?;
            let set = given::optional_text(name, chars)?;
            Value::Str(strip(text, set.as_ref(), name != "rstrip", name != "lstrip", meter)?)
        }
        "upper" => derived(text, given, name, str::to_uppercase)?,
        "lower" => derived(text, given, name, str::to_lowercase)?,
        "title" => derived(text, given, name, title)?,
        "capitalize" => derived(text, given, name, capitalize)?,
        "swapcase" => derived(text, given, name, |text| {
            let swap = |c: char| {
                if c.is_uppercase() { c.to_lowercase().to_string() } else { c.to_uppercase().to_string() }
            };
            text.chars().map(swap).collect()
        })?,
        "startswith" | "endswith" => Value::Bool(begins_or_ends(plain, name, given, meter)?),
        "replace" => {
            let [old, new, count] = given.bind(name, ["old", "new", "count"])?;
            let (old, new) = (given::text(name, old)?, given::text(name, new)?);
            Value::Str(replace(text, old.as_str(), &new, given::integer(name, count, -1)?, meter)?)
        }
        "split" | "rsplit" => {
            let [sep, most] = given.bind(name, ["sep", "maxsplit"])?;
            let (sep, most) = (given::optional_text(name, sep)?, given::integer(name, most, -1)?);
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            let parts = match &sep {
                Some(sep) if sep.as_str().is_empty() => {
                    return Err(Failure::new("a split at an empty string"));
                }
                Some(sep) => split(plain, sep.as_str(), most, name == "rsplit", meter)?,
                None => words(plain, most, name == "rsplit", meter)?,
            };
            parts_of(text, &parts, meter)?
        }
        "splitlines" => {
            let [keep] = given.bind(name, ["keepends"])?;
            parts_of(text, &lines(plain, given::flag(keep, false), meter)?, meter)?
        }
        "partition" | "rpartition" => {
            let [sep] = given.bind(name, ["sep"])?;
            let sep = given::text(name, sep)?;
            let at = if name == "partition" { plain.find(sep.as_str()) } else { plain.rfind(sep.as_str()) };
            let parts = match at {
                _ if sep.as_str().is_empty() => return Err(Failure::new("a partition at an empty string")),
                Some(at) => {
                    let end = at + sep.as_str().len();
                    [text.slice(0..at), text.slice(at..end), text.slice(end..plain.len())]
                }
                None if name == "partition" => [text.clone(), Text::default(), Text::default()],
                None => [Text::default(), Text::default(), text.clone()],
            };
            Value::tuple(parts.into_iter().map(Value::Str).collect())?
        }
        "join" => {
            let [items] = given.bind(name, ["iterable"])?;
            let items = items.ok_or_else(|| Failure::new("`join` needs a list"))?.iterate(meter)?;
            meter.items(items.items.len() * 2)?;
            let mut texts = Vec::new();
            for item in &items.items {
                if !texts.is_empty() {
                    texts.push(text.clone());
                }
                texts.push(given::text(name, Some(item.clone()))?);
            }
            Value::Str(ops::join(&texts, meter)?)
        }
        "find" | "rfind" | "index" | "rindex" | "count" => search(plain, name, given)?,
        "removeprefix" | "removesuffix" => {
            let [affix] = given.bind(name, [if name == "removeprefix" { "prefix" } else { "suffix" }])?;
            let affix = given::text(name, affix)?;
            let cut = match name {
                "removeprefix" => plain.strip_prefix(affix.as_str()),
                _ => plain.strip_suffix(affix.as_str()),
            };
            Value::Str(cut.map_or_else(|| text.clone(), |cut| text.part(cut)))
        }
        "zfill" | "center" | "ljust" | "rjust" => Value::Str(pad(text, name, given, meter)?),
        "format" => Value::Str(format::braces(text, given, meter)?),
        _ => {
            given.none(name)?;
            quality(plain, name)?
        }
    })
}

fn derived(text: &Text, given: Given, name: &str, change: fn(&str) -> String) -> Result<Value, Failure> {
    given.none(name)?;
    Ok(Value::Str(text.derive(&change(text.as_str()))))
}

/// A list of parts of a text, which are paid for.
fn parts_of(text: &Text, parts: &[&str], meter: &Meter) -> Result<Value, Failure> {
    meter.step((parts.len() * text.ranges().len()) as u64 / 16)?;
    Value::list(parts.iter().map(|part| Value::Str(text.part(part))).collect())
}

pub(super) fn strip(
    text: &Text,
    set: Option<&Text>,
    left: bool,
    right: bool,
    meter: &Meter,
) -> Result<Text, Failure> {
    let plain = text.as_str();
    meter.step((set.map_or(0, |set| set.as_str().len()) as u64).saturating_mul(plain.len() as u64) / 64)?;
    let stripped = |c: char| set.map_or_else(|| is_space(c), |set| set.as_str().contains(c));
    let mut cut = plain;
    if left {
        cut = cut.trim_start_matches(stripped);
    }
    if right {
        cut = cut.trim_end_matches(stripped);
    }
    Ok(text.part(cut))
}

/// The first character of each word in upper case, and the others in lower case.
pub(super) fn title(text: &str) -> String {
    let mut in_word = false;
    let mut titled = String::with_capacity(text.len());
    for c in text.chars() {
        let cased = c.is_lowercase() || c.is_uppercase();
        if in_word {
            titled.extend(c.to_lowercase())
        } else {
            titled.push_str(&upper_first(c))
        }
        in_word = cased;
    }
    titled
}

pub(super) fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| upper_first(first) + &chars.as_str().to_lowercase())
}

/// One character as the first of a word: of several that it becomes, only the first is in upper case.
fn upper_first(c: char) -> String {
    let upper = c.to_uppercase();
    if upper.len() < 2 {
        return upper.to_string();
    }
    upper.enumerate().flat_map(|(at, c)| if at == 0 { vec![c] } else { c.to_lowercase().collect() }).collect()
}

/// The part of a text between two positions that Python takes as in a slice, and where it begins, in
/// characters.
fn window(
    text: &str,
    start: Option<Value>,
    end: Option<Value>,
    name: &str,
) -> Result<Option<(usize, String)>, Failure> {
    let length = text.chars().count() as i64;
    let place = |value: Option<Value>, default: i64| {
        let value = value.filter(|value| !matches!(value, Value::None));
        let at = given::integer(name, value, default)?;
        Ok::<_, Failure>(if at < 0 { (at.saturating_add(length)).max(0) } else { at })
    };
    let (start, end) = (place(start, 0)?, place(end, length)?.min(length));
    if start > end {
        return Ok(None);
    }
    Ok(Some((start as usize, text.chars().skip(start as usize).take((end - start) as usize).collect())))
}

fn begins_or_ends(text: &str, name: &str, given: Given, meter: &Meter) -> Result<bool, Failure> {
    let [affix, start, end] = given.bind(name, ["prefix", "start", "end"])?;
    let affixes = match affix {
        Some(Value::Tuple(seq)) => {
            meter.step(Value::Tuple(seq.clone()).size())?;
            meter.items(seq.items.len())?;
            seq.items.clone()
        }
        other => vec![Value::Str(given::text(name, other)?)],
    };
    let Some((_, window)) = window(text, start, end, name)? else { return Ok(false) };
    let mut found = false;
    for affix in affixes {
        let affix = given::text(name, Some(affix))?;
        found |= if name == "startswith" {
            window.starts_with(affix.as_str())
        } else {
            window.ends_with(affix.as_str())
        };
    }
    Ok(found)
}

fn search(text: &str, name: &str, given: Given) -> Result<Value, Failure> {
    let [part, start, end] = given.bind(name, ["sub", "start", "end"])?;
    let part = given::text(name, part)?;
    let part = part.as_str();
    let window = window(text, start, end, name)?;
    if name == "count" {
        let count = window.map_or(0, |(_, window)| {
            if part.is_empty() { window.chars().count() + 1 } else { window.matches(part).count() }
        });
        return Ok(Value::Int(count as i64));
    }
    let found = window.and_then(|(start, window)| {
        let at = if name.starts_with('r') { window.rfind(part) } else { window.find(part) }?;
        Some(start + window[..at].chars().count())
    });
    match found {
        Some(at) => Ok(Value::Int(at as i64)),
        None if name.ends_with("find") => Ok(Value::Int(-1)),
        None => Err(Failure::new(format!("`{name}` does not find its string"))),
    }
}

pub(super) fn replace(
    text: &Text,
    old: &str,
    new: &Text,
    count: i64,
    meter: &Meter,
) -> Result<Text, Failure> {
    let (plain, most) = (text.as_str(), usize::try_from(count).unwrap_or(usize::MAX));
    let (mut builder, mut from) = (Builder::new(meter), 0);
    let mut put = |at: usize| {
        meter.step(1 + text.ranges().len() as u64 / 16)?;
        builder.push(&text.slice(from..at))?;
        from = at + old.len();
        builder.push(new)
    };
    if old.is_empty() {
        plain.char_indices().map(|(at, _)| at).chain([plain.len()]).take(most).try_for_each(&mut put)?;
    } else {
        plain.match_indices(old).map(|(at, _)| at).take(most).try_for_each(&mut put)?;
    }
    builder.push(&text.slice(from..plain.len()))?;
    Ok(builder.finish())
}

fn split<'t>(
    text: &'t str,
    separator: &str,
    most: usize,
    from_right: bool,
    meter: &Meter,
) -> Result<Vec<&'t str>, Failure> {
    let limit = most.saturating_add(1);
    let paid = |part: &'t str| meter.part().map(|()| part);
    if !from_right {
        return text.splitn(limit, separator).map(paid).collect();
    }
    let mut parts: Vec<_> = text.rsplitn(limit, separator).map(paid).collect::<Result<_, _>>()?;
    parts.reverse();
    Ok(parts)
}

/// Words between white space.
fn words<'t>(text: &'t str, most: usize, from_right: bool, meter: &Meter) -> Result<Vec<&'t str>, Failure> {
    let mut parts = Vec::new();
    if from_right {
        let mut rest = text.trim_end_matches(is_space);
        while !rest.is_empty() {
            meter.part()?;
            let at = if parts.len() < most { rest.rfind(is_space) } else { None };
            match at.and_then(|at| Some((at, rest[at..].chars().next()?))) {
                Some((at, space)) => {
                    parts.push(&rest[at + space.len_utf8()..]);
                    rest = rest[..at].trim_end_matches(is_space);
                }
                None => {
                    parts.push(if parts.len() < most { rest } else { rest.trim_end_matches(is_space) });
                    break;
                }
            }
        }
        parts.reverse();
        return Ok(parts);
    }
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        meter.part()?;
        match rest.find(is_space).filter(|_| parts.len() < most) {
            Some(at) => {
                parts.push(&rest[..at]);
                rest = rest[at..].trim_start_matches(is_space);
            }
            None => {
                parts.push(rest);
                break;
            }
        }
    }
    Ok(parts)
}

/// Lines, at every line end that Python knows.
fn lines<'t>(text: &'t str, keep: bool, meter: &Meter) -> Result<Vec<&'t str>, Failure> {
    let is_end = |c: char| {
        matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}')
    };
    let (mut lines, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        meter.part()?;
        let Some(at) = rest.find(is_end) else {
            lines.push(rest);
            break;
        };
        let length = if rest[at..].starts_with("\r\n") {
            2
        } else {
            rest[at..].chars().next().map_or(1, char::len_utf8)
        };
        lines.push(&rest[..if keep { at + length } else { at }]);
        rest = &rest[at + length..];
    }
    Ok(lines)
}

fn pad(text: &Text, name: &str, given: Given, meter: &Meter) -> Result<Text, Failure> {
    let [width, fill] = given.bind(name, ["width", "fillchar"])?;
    let width = usize::try_from(given::integer(name, width, 0)?).unwrap_or(0);
    let fill = match given::optional_text(name, fill)? {
        Some(fill) if name == "zfill" || fill.as_str().chars().count() != 1 => {
            return Err(Failure::new(format!("`{name}` fills with one character")));
        }
        Some(fill) => fill.as_str().chars().next(),
        None => Some(if name == "zfill" { '0' } else { ' ' }),
    };
    let fill = fill.unwrap_or(' ');
    let missing = width.saturating_sub(text.as_str().chars().count());
    let left = match name {
        "ljust" => 0,
        "center" => missing / 2 + (missing & width & 1),
        _ => missing,
    };
    let sign = if name == "zfill" && text.as_str().starts_with(['+', '-']) { 1 } else { 0 };
    let mut builder = Builder::new(meter);
    builder.push(&text.slice(0..sign))?;
    builder.fill(fill, left)?;
    builder.push(&text.slice(sign..text.as_str().len()))?;
    builder.fill(fill, missing - left)?;
    Ok(builder.finish())
}

fn quality(text: &str, name: &str) -> Result<Value, Failure> {
    let all = |fits: fn(char) -> bool| !text.is_empty() && text.chars().all(fits);
    let digits_known = |text: &str| text.chars().all(|c| c.is_ascii() || !c.is_numeric());
    if matches!(name, "isdigit" | "isdecimal" | "isnumeric") && !digits_known(text) {
        return Err(Failure::new(format!("`{name}` knows the digits 0 to 9 only")));
    }
    let cased = |wrong: fn(char) -> bool, right: fn(char) -> bool| {
        !text.chars().any(wrong) && text.chars().any(right)
    };
    Ok(match name {
        "isdigit" | "isdecimal" | "isnumeric" => Value::Bool(all(|c| c.is_ascii_digit())),
        "isalpha" => Value::Bool(all(char::is_alphabetic)),
        "isalnum" => Value::Bool(all(char::is_alphanumeric)),
        "isspace" => Value::Bool(all(is_space)),
        "isupper" => Value::Bool(cased(char::is_lowercase, char::is_uppercase)),
        "islower" => Value::Bool(cased(char::is_uppercase, char::is_lowercase)),
        "isascii" => Value::Bool(text.is_ascii()),
        _ => return Err(Failure::new(format!("a `str` has no method `{name:.40}`"))),
    })
}
