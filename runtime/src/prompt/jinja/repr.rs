//! How Python writes values: `str` and `repr`.

use super::Failure;
use super::meter::Meter;
use super::said::{Builder, Text};
use super::value::{Seq, Value};

impl Value {
    /// Python's `str(value)`.
    pub(super) fn text(&self, meter: &Meter) -> Result<Text, Failure> {
        Ok(match self {
            Self::Str(text) | Self::Markup(text) => text.clone(),
            Self::Undefined(_) => Text::default(),
            other => text(other, meter)?,
        })
    }
}

/// `repr(value)`.
pub(super) fn text(value: &Value, meter: &Meter) -> Result<Text, Failure> {
    let mut builder = Builder::new(meter);
    write(value, &mut builder)?;
    Ok(builder.finish())
}

/// Appends `repr(value)`.
pub(super) fn write(value: &Value, out: &mut Builder<'_>) -> Result<(), Failure> {
    out.meter.step(1)?;
    match value {
        Value::Undefined(_) => out.push_own("Undefined")?,
        Value::None => out.push_own("None")?,
        Value::Bool(value) => out.push_own(if *value { "True" } else { "False" })?,
        Value::Int(value) => out.push_own(&value.to_string())?,
        Value::Float(value) => out.push_own(&float(*value))?,
        Value::Str(text) => quoted(text, out)?,
        Value::Markup(text) => {
            out.push_own("Markup(")?;
            quoted(text, out)?;
            out.push_own(")")?;
        }
        Value::List(seq) => sequence(seq, "[", "]", out)?,
        Value::Tuple(seq) => sequence(seq, "(", if seq.items.len() == 1 { ",)" } else { ")" }, out)?,
        Value::Dict(dict) => {
            out.push_own("{")?;
            for (index, (key, value)) in dict.entries.iter().enumerate() {
                out.push_own(if index > 0 { ", " } else { "" })?;
                write(key, out)?;
                out.push_own(": ")?;
                write(value, out)?;
            }
            out.push_own("}")?;
        }
        Value::View(name, seq) => {
            out.push_own(name)?;
            sequence(seq, "([", "])", out)?;
        }
        Value::Range(start, length, step) => {
            let stop = start + length * step;
            let step = if *step == 1 { String::new() } else { format!(", {step}") };
            out.push_own(&format!("range({start}, {stop}{step})"))?;
        }
        Value::Generator(_)
        | Value::Namespace(_)
        | Value::Loop(_)
        | Value::Macro(_)
        | Value::Function(_)
        | Value::Method(_) => {
            return Err(Failure::new(format!("a `{}` cannot be written as text", value.kind())));
        }
    }
    Ok(())
}

fn sequence(seq: &Seq, open: &str, close: &str, out: &mut Builder<'_>) -> Result<(), Failure> {
    out.push_own(open)?;
    for (index, item) in seq.items.iter().enumerate() {
        out.push_own(if index > 0 { ", " } else { "" })?;
        write(item, out)?;
    }
    out.push_own(close)?;
    Ok(())
}

/// A string in quotes.
fn quoted(text: &Text, out: &mut Builder<'_>) -> Result<(), Failure> {
    let plain = text.as_str();
    let quote = if plain.contains('\'') && !plain.contains('"') { '"' } else { '\'' };
    let escape = |c: char| {
        let code = u32::from(c);
        Some(match c {
            '\\' => "\\\\".to_owned(),
            '\n' => "\\n".to_owned(),
            '\r' => "\\r".to_owned(),
            '\t' => "\\t".to_owned(),
            c if c == quote => format!("\\{c}"),
            c if printable(c) => return None,
            _ if code <= 0xFF => format!("\\x{code:02x}"),
            _ if code <= 0xFFFF => format!("\\u{code:04x}"),
            _ => format!("\\U{code:08x}"),
        })
    };
    out.fill(quote, 1)?;
    text.escaped(escape, out)?;
    out.fill(quote, 1)
}

/// Python's `str.isprintable`. Rust's own rule for what it escapes, behind a letter so that combining
/// characters count.
fn printable(c: char) -> bool {
    c.is_ascii_graphic() || c == ' ' || !c.is_ascii() && format!("a{c}").escape_debug().nth(1) != Some('\\')
}

/// The shortest digits that read back as the same number.
pub(super) fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.into();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{value}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}
