//! Python's two ways to format: `'%s' % x` and `'{}'.format(x)`.

use std::sync::Arc;

use super::given::Given;
use super::meter::Meter;
use super::said::{Builder, Text};
use super::value::Value;
use super::{Failure, access, repr};

/// Widest field, and most digits.
const WIDEST: usize = 4096;

/// How one field is written.
#[derive(Default)]
struct Spec {
    fill: Option<char>,
    align: Option<char>,
    sign: Option<char>,
    alternate: bool,
    grouping: bool,
    width: usize,
    precision: Option<usize>,
    kind: Option<char>,
}

/// `pattern % values`.
pub(super) fn percent(pattern: &Text, values: &Value, meter: &Meter) -> Result<Text, Failure> {
    let mut rest = match values {
        Value::Tuple(seq) => seq.items.iter(),
        other => std::slice::from_ref(other).iter(),
    };
    let plain = pattern.as_str();
    let (mut out, mut from) = (Builder::new(meter), 0);
    while let Some(found) = plain[from..].find('%') {
        meter.step(1)?;
        let begin = from + found;
        out.push(&pattern.slice(from..begin))?;
        let mut at = begin + 1;
        let key = plain[at..].strip_prefix('(').map(|inside| {
            let key = inside.split(')').next().unwrap_or_default();
            at = plain.len().min(at + key.len() + "()".len());
            key
        });
        let mut chars = plain[at..].char_indices().peekable();
        let mut spec = Spec { align: Some('>'), ..Spec::default() };
        while let Some((_, c)) = chars.next_if(|(_, c)| "-+ 0#".contains(*c)) {
            match c {
                '-' => spec.align = Some('<'),
                '0' => spec.fill = Some('0'),
                '#' => spec.alternate = true,
                sign => spec.sign = Some(sign),
            }
        }
        spec.width = number(&mut chars)?.unwrap_or(0);
        if chars.next_if(|(_, c)| *c == '.').is_some() {
            spec.precision = Some(number(&mut chars)?.unwrap_or(0));
        }
        let Some((offset, kind)) = chars.next() else { return Err(Failure::new("a format ends in `%`")) };
        from = at + offset + kind.len_utf8();
        if kind == '%' {
            out.push_own("%")?;
            continue;
        }
        let value = match key {
            Some(key) => match values {
                Value::Dict(dict) => {
                    meter.step(dict.entries.len() as u64 / 8)?;
                    dict.get_str(key).cloned()
                }
                _ => None,
            },
            None => rest.next().cloned(),
        };
        let value = value.ok_or_else(|| Failure::new("a format has more places than values"))?;
        let text = match kind {
            's' => value.text(meter)?,
            'r' => repr::text(&value, meter)?,
            _ => Text::default(),
        };
        if matches!(kind, 's' | 'r') {
            spec.fill = None;
            let text = cut(&text, spec.precision);
            pad(&text, &spec, '>', &mut out)?;
            continue;
        }
        spec.kind = Some(if matches!(kind, 'i' | 'u') { 'd' } else { kind });
        let value = match (spec.kind, value) {
            (Some('d'), Value::Float(value)) => Value::Int(value.trunc() as i64),
            (_, value) => value,
        };
        if spec.fill == Some('0') && spec.align == Some('>') {
            spec.align = Some('=');
        } else {
            spec.fill = None;
        }
        number_field(&value, &spec, &mut out)?;
    }
    out.push(&pattern.slice(from..plain.len()))?;
    if !matches!(values, Value::Dict(_)) && rest.next().is_some() {
        return Err(Failure::new("a format has fewer places than values"));
    }
    Ok(out.finish())
}

fn number(chars: &mut std::iter::Peekable<std::str::CharIndices<'_>>) -> Result<Option<usize>, Failure> {
    let mut number = None;
    while let Some(digit) = chars.peek().and_then(|(_, c)| c.to_digit(10)) {
        let read = number.unwrap_or(0) * 10 + digit as usize;
        if read > WIDEST {
            return Err(Failure::new(format!("a field wider than {WIDEST}")));
        }
        number = Some(read);
        chars.next();
    }
    Ok(number)
}

fn cut(text: &Text, most: Option<usize>) -> Text {
    let end = most.and_then(|most| text.as_str().char_indices().nth(most));
    end.map_or_else(|| text.clone(), |(at, _)| text.slice(0..at))
}

fn pad(text: &Text, spec: &Spec, default: char, out: &mut Builder<'_>) -> Result<(), Failure> {
    let missing = spec.width.saturating_sub(text.as_str().chars().count());
    let left = match spec.align.unwrap_or(default) {
        '<' => 0,
        '^' => missing / 2,
        _ => missing,
    };
    let fill = spec.fill.unwrap_or(' ');
    out.fill(fill, left)?;
    out.push(text)?;
    out.fill(fill, missing - left)
}

fn number_field(value: &Value, spec: &Spec, out: &mut Builder<'_>) -> Result<(), Failure> {
    out.meter.affords(spec.width + spec.precision.unwrap_or(0))?;
    let kind = spec.kind.unwrap_or(if matches!(value, Value::Float(_)) { 'r' } else { 'd' });
    let wrong = || Failure::new(format!("the format `{kind}` does not take a `{}`", value.kind()));
    value.require()?;
    let (negative, digits) = match kind {
        'd' | 'n' | 'x' | 'X' | 'o' | 'b' => {
            let number = value.as_int().ok_or_else(wrong)?;
            let size = number.unsigned_abs();
            let digits = match (kind, spec.alternate) {
                ('x', false) => format!("{size:x}"),
                ('x', true) => format!("{size:#x}"),
                ('X', false) => format!("{size:X}"),
                ('X', true) => format!("0X{size:X}"),
                ('o', false) => format!("{size:o}"),
                ('o', true) => format!("{size:#o}"),
                ('b', false) => format!("{size:b}"),
                ('b', true) => format!("{size:#b}"),
                _ => size.to_string(),
            };
            (number < 0, digits)
        }
        'f' | 'F' | '%' => {
            let number = value.as_float().ok_or_else(wrong)?;
            let precision = spec.precision.unwrap_or(6);
            let digits = if kind == '%' {
                format!("{:.precision$}%", number.abs() * 100.0)
            } else {
                format!("{:.precision$}", number.abs())
            };
            (number.is_sign_negative(), digits)
        }
        'r' if spec.precision.is_none() => {
            let number = value.as_float().ok_or_else(wrong)?;
            (number.is_sign_negative(), repr::float(number.abs()))
        }
        'c' => {
            let c = value.as_int().and_then(|code| u32::try_from(code).ok()).and_then(char::from_u32);
            (false, c.ok_or_else(wrong)?.to_string())
        }
        _ => return Err(Failure::new(format!("the format `{kind}` is not supported"))),
    };
    let digits = if spec.grouping { grouped(&digits) } else { digits };
    let sign = match (negative, spec.sign) {
        (true, _) => "-",
        (false, Some('+')) => "+",
        (false, Some(' ')) => " ",
        _ => "",
    };
    if spec.align == Some('=') {
        let missing = spec.width.saturating_sub(sign.len() + digits.len());
        out.push_own(sign)?;
        out.fill(spec.fill.unwrap_or(' '), missing)?;
        return out.push_own(&digits);
    }
    pad(&Text::own(&format!("{sign}{digits}")), spec, '>', out)
}

fn grouped(digits: &str) -> String {
    let (whole, rest) = digits.split_at(digits.find('.').unwrap_or(digits.len()));
    let mut text = String::new();
    for (index, c) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(c);
    }
    text + rest
}

/// `pattern.format(...)`.
pub(super) fn braces(pattern: &Text, given: Given, meter: &Meter) -> Result<Text, Failure> {
    let plain = pattern.as_str();
    let (mut out, mut from, mut automatic) = (Builder::new(meter), 0, 0);
    while let Some(found) = plain[from..].find(['{', '}']) {
        meter.step(1)?;
        let begin = from + found;
        out.push(&pattern.slice(from..begin))?;
        let (brace, after) = (&plain[begin..=begin], &plain[begin + 1..]);
        if after.starts_with(brace) {
            out.push_own(brace)?;
            from = begin + 2;
            continue;
        }
        let length = after.find('}').filter(|_| brace == "{");
        let length = length.ok_or_else(|| Failure::new("a `format` with a single brace"))?;
        from = begin + length + 2;
        let field = &after[..length];
        if field.contains('{') {
            return Err(Failure::new("a `format` with a field inside a field is not supported"));
        }
        let (name, spec) = field.split_once(':').unwrap_or((field, ""));
        let (name, conversion) = name.split_once('!').unwrap_or((name, ""));
        let value = lookup(name, &given, &mut automatic, meter)?;
        let value = match conversion {
            "" => value,
            "s" => Value::Str(value.text(meter)?),
            "r" => Value::Str(repr::text(&value, meter)?),
            _ => return Err(Failure::new("a `format` converts with `!s` and `!r` only")),
        };
        let spec = parse_spec(spec)?;
        match &value {
            Value::Int(_) | Value::Float(_) => number_field(&value, &spec, &mut out)?,
            _ if spec.kind.is_some_and(|kind| kind != 's') => number_field(&value, &spec, &mut out)?,
            _ => pad(&cut(&value.text(meter)?, spec.precision), &spec, '<', &mut out)?,
        }
    }
    out.push(&pattern.slice(from..plain.len()))?;
    Ok(out.finish())
}

fn lookup(name: &str, given: &Given, automatic: &mut usize, meter: &Meter) -> Result<Value, Failure> {
    let end = name.find(['.', '[']).unwrap_or(name.len());
    let (first, mut rest) = name.split_at(end);
    let found = if first.is_empty() || first.bytes().all(|b| b.is_ascii_digit()) {
        let at = if first.is_empty() { *automatic } else { first.parse().unwrap_or(usize::MAX) };
        *automatic += usize::from(first.is_empty());
        given.positional.get(at).cloned()
    } else {
        given.named.iter().find(|(known, _)| &**known == first).map(|(_, value)| value.clone())
    };
    let mut value = found.ok_or_else(|| Failure::new("a `format` has a place without a value"))?;
    while !rest.is_empty() {
        if let Some(index) = rest.strip_prefix('[') {
            let (index, after) = index.split_once(']').ok_or_else(|| Failure::new("a `format` lacks `]`"))?;
            let key = index.parse().map_or_else(|_| Value::own(index), Value::Int);
            value = access::item(&value, &key, meter)?;
            rest = after;
        } else {
            let attribute = &rest[1..];
            let end = attribute.find(['.', '[']).unwrap_or(attribute.len());
            value = access::attribute(&value, &Arc::from(&attribute[..end]))?;
            rest = &attribute[end..];
        }
        value.require()?;
    }
    Ok(value)
}

fn parse_spec(text: &str) -> Result<Spec, Failure> {
    let mut spec = Spec::default();
    let mut chars = text.char_indices().peekable();
    let aligns = |c: char| matches!(c, '<' | '>' | '^' | '=');
    let second = text.chars().nth(1).filter(|c| aligns(*c));
    if second.is_some() {
        spec.fill = chars.next().map(|(_, c)| c);
    }
    spec.align = chars.next_if(|(_, c)| aligns(*c)).map(|(_, c)| c);
    spec.sign = chars.next_if(|(_, c)| matches!(c, '+' | '-' | ' ')).map(|(_, c)| c);
    spec.alternate = chars.next_if(|(_, c)| *c == '#').is_some();
    if chars.next_if(|(_, c)| *c == '0').is_some() && spec.align.is_none() {
        (spec.fill, spec.align) = (Some('0'), Some('='));
    }
    spec.width = number(&mut chars)?.unwrap_or(0);
    spec.grouping = chars.next_if(|(_, c)| *c == ',').is_some();
    if chars.next_if(|(_, c)| *c == '.').is_some() {
        spec.precision = Some(number(&mut chars)?.unwrap_or(0));
    }
    spec.kind = chars.next().map(|(_, c)| c);
    if chars.next().is_some() {
        return Err(Failure::new("a format specification that is not supported"));
    }
    Ok(spec)
}
