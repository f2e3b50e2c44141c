//! `tojson`, as transformers has it: Python's `json.dumps`.

use super::Failure;
use super::given::{self, Given};
use super::meter::Meter;
use super::repr;
use super::said::{Builder, Text};
use super::value::Value;

/// Deepest indentation of one level.
const WIDEST: i64 = 64;

struct Style {
    ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sorted: bool,
}

pub(super) fn tojson(value: &Value, given: Given, meter: &Meter) -> Result<Value, Failure> {
    let [ascii, indent, separators, sorted] =
        given.bind("tojson", ["ensure_ascii", "indent", "separators", "sort_keys"])?;
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(Value::Str(text)) => Some(text.as_str().to_owned()),
        Some(width) => {
            let width = given::integer("tojson", Some(width), 0)?;
            if width > WIDEST {
                return Err(Failure::new(format!("`tojson` indents by at most {WIDEST}")));
            }
            Some(" ".repeat(width.max(0) as usize))
        }
    };
    let mut style = Style {
        ascii: given::flag(ascii, false),
        item: if indent.is_some() { "," } else { ", " }.to_owned(),
        key: ": ".to_owned(),
        indent,
        sorted: given::flag(sorted, false),
    };
    match separators {
        None | Some(Value::None) => {}
        Some(pair) => match pair.iterate(meter)?.items.as_slice() {
            [Value::Str(item), Value::Str(key)] => {
                (style.item, style.key) = (item.as_str().to_owned(), key.as_str().to_owned());
            }
            _ => return Err(Failure::new("`tojson` takes two strings as separators")),
        },
    }
    let mut writer = Writer { style, out: Builder::new(meter) };
    writer.value(value, 0)?;
    Ok(Value::Str(writer.out.finish()))
}

struct Writer<'m> {
    style: Style,
    out: Builder<'m>,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, level: usize) -> Result<(), Failure> {
        self.out.meter.bytes(16)?;
        match value {
            Value::None => self.out.push_own("null")?,
            Value::Bool(value) => self.out.push_own(if *value { "true" } else { "false" })?,
            Value::Int(value) => self.out.push_own(&value.to_string())?,
            Value::Float(value) => self.out.push_own(&match repr::float(*value).as_str() {
                "nan" => "NaN".to_owned(),
                "inf" => "Infinity".to_owned(),
                "-inf" => "-Infinity".to_owned(),
                number => number.to_owned(),
            })?,
            Value::Str(text) => self.string(text)?,
            Value::List(seq) | Value::Tuple(seq) => {
                self.out.push_own("[")?;
                for (index, item) in seq.items.iter().enumerate() {
                    self.begin(index, level + 1)?;
                    self.value(item, level + 1)?;
                }
                self.end(seq.items.len(), level)?;
                self.out.push_own("]")?;
            }
            Value::Dict(dict) => self.dict(&dict.entries, level)?,
            other => {
                other.require()?;
                return Err(Failure::new(format!("a `{}` has no form in JSON", other.kind())));
            }
        }
        Ok(())
    }

    fn dict(&mut self, entries: &[(Value, Value)], level: usize) -> Result<(), Failure> {
        let mut entries: Vec<&(Value, Value)> = entries.iter().collect();
        if self.style.sorted {
            let mut failure = None;
            entries.sort_by(|(a, _), (b, _)| {
                super::value::order(a, b)
                    .unwrap_or_else(|error| {
                        failure = Some(error);
                        None
                    })
                    .unwrap_or(std::cmp::Ordering::Equal)
            });
            if let Some(failure) = failure {
                return Err(failure);
            }
        }
        self.out.push_own("{")?;
        for (index, (key, value)) in entries.iter().enumerate() {
            self.begin(index, level + 1)?;
            match key {
                Value::Str(text) => self.string(text)?,
                Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
                    self.out.push_own("\"")?;
                    self.value(key, level)?;
                    self.out.push_own("\"")?;
                }
                other => return Err(Failure::new(format!("a `{}` is no key in JSON", other.kind()))),
            }
            self.out.push_own(&self.style.key)?;
            self.value(value, level + 1)?;
        }
        self.end(entries.len(), level)?;
        self.out.push_own("}")?;
        Ok(())
    }

    /// What stands before an item.
    fn begin(&mut self, index: usize, level: usize) -> Result<(), Failure> {
        if index > 0 {
            self.out.push_own(&self.style.item)?;
        }
        self.new_line(level)
    }

    /// What stands behind the last of `count` items.
    fn end(&mut self, count: usize, level: usize) -> Result<(), Failure> {
        if count > 0 { self.new_line(level) } else { Ok(()) }
    }

    fn new_line(&mut self, level: usize) -> Result<(), Failure> {
        if let Some(indent) = &self.style.indent {
            self.out.push_own("\n")?;
            for _ in 0..level {
                self.out.push_own(indent)?;
            }
        }
        Ok(())
    }

    fn string(&mut self, text: &Text) -> Result<(), Failure> {
        let ascii = self.style.ascii;
        let escape = |c: char| {
            Some(match c {
                '"' => "\\\"".to_owned(),
                '\\' => "\\\\".to_owned(),
                '\n' => "\\n".to_owned(),
                '\r' => "\\r".to_owned(),
                '\t' => "\\t".to_owned(),
                '\x08' => "\\b".to_owned(),
                '\x0c' => "\\f".to_owned(),
                c if u32::from(c) < 0x20 || ascii && !(' '..='~').contains(&c) => {
                    c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect()
                }
                _ => return None,
            })
        };
        self.out.push_own("\"")?;
        text.escaped(escape, &mut self.out)?;
        self.out.push_own("\"")
    }
}
