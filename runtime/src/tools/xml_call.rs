//! A call as elements: `<function=NAME>`, and in it `<parameter=NAME>` for each argument.

use serde_json::Value as Json;

use super::body::{Flow, Found, Offered};

const FUNCTION: &str = "<function=";
const FUNCTION_END: &str = "</function>";
const PARAMETER: &str = "<parameter=";
const PARAMETER_END: &str = "</parameter>";
/// Longest name that is waited for, with what stands around it, bytes.
const LONGEST: usize = 512;

/// Reads it, character by character.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct XmlCall {
    at: At,
    held: String,
    function: String,
    arguments: usize,
}

#[derive(Debug, Clone, Default, PartialEq)]
enum At {
    #[default]
    Function,
    /// Before a parameter or the end.
    Between,
    /// In the value of a parameter.
    Value(String),
}

impl XmlCall {
    /// Behind `<function=`.
    pub(super) fn within() -> Self {
        Self { held: FUNCTION.into(), ..Self::default() }
    }

    pub(super) fn push(&mut self, c: char, offered: &Offered, found: &mut Vec<Found>) -> Flow {
        if self.held.is_empty() && c.is_whitespace() && !matches!(self.at, At::Value(_)) {
            return Flow::More;
        }
        self.held.push(c);
        match &self.at {
            At::Function => match tag(&self.held, FUNCTION) {
                Tag::Open => Flow::More,
                Tag::Other => Flow::Broken,
                Tag::Named(name) if !offered.has(name) => Flow::Broken,
                Tag::Named(name) => {
                    self.function = name.to_owned();
                    self.begin(At::Between);
                    found.push(Found::Name(self.function.clone()));
                    found.push(Found::Arguments("{".into()));
                    Flow::More
                }
            },
            At::Between if FUNCTION_END.starts_with(&self.held) => {
                if self.held == FUNCTION_END {
                    end(found, Flow::Done { consumed: true })
                } else {
                    Flow::More
                }
            }
            At::Between => match tag(&self.held, PARAMETER) {
                Tag::Open => Flow::More,
                Tag::Named(name) => {
                    let name = name.to_owned();
                    self.begin(At::Value(name));
                    Flow::More
                }
                // Whatever it is, it is no argument: the call is over, and this is text.
                Tag::Other => end(found, Flow::Behind(std::mem::take(&mut self.held))),
            },
            At::Value(_) => {
                if self.held.ends_with(PARAMETER_END) {
                    self.value(offered, found);
                }
                Flow::More
            }
        }
    }

    /// Ends a call that is broken off: what there is of it is given out.
    pub(super) fn finish(&mut self, offered: &Offered, found: &mut Vec<Found>) {
        if self.at == At::Function {
            return;
        }
        if matches!(self.at, At::Value(_)) {
            self.held.push_str(PARAMETER_END);
            self.value(offered, found);
        }
        found.push(Found::Arguments("}".into()));
    }

    /// Gives out the value that has just ended.
    fn value(&mut self, offered: &Offered, found: &mut Vec<Found>) {
        let At::Value(name) = &self.at else { return };
        let value = self.held.strip_suffix(PARAMETER_END).unwrap_or(&self.held);
        let value = value.strip_prefix('\n').unwrap_or(value);
        let value = typed(value.strip_suffix('\n').unwrap_or(value), offered.types(&self.function, name));
        let comma = if self.arguments > 0 { ", " } else { "" };
        found.push(Found::Arguments(format!("{comma}{}: {value}", Json::from(name.as_str()))));
        self.arguments += 1;
        self.begin(At::Between);
    }

    fn begin(&mut self, at: At) {
        self.at = at;
        self.held.clear();
    }
}

fn end(found: &mut Vec<Found>, flow: Flow) -> Flow {
    found.push(Found::Arguments("}".into()));
    found.push(Found::End);
    flow
}

enum Tag<'a> {
    /// It may become one.
    Open,
    Named(&'a str),
    Other,
}

/// `held` as `<KIND=NAME>`.
fn tag<'a>(held: &'a str, kind: &str) -> Tag<'a> {
    match held.strip_prefix(kind) {
        Some(rest) if rest.ends_with('>') => Tag::Named(rest.trim_end_matches('>').trim()),
        Some(rest) if rest.len() <= LONGEST && !rest.contains('\n') => Tag::Open,
        None if kind.starts_with(held) => Tag::Open,
        _ => Tag::Other,
    }
}

/// A value as its schema has it: text, unless JSON of one of the other types is there.
fn typed(value: &str, types: Option<Vec<&str>>) -> Json {
    let text = || Json::from(value);
    let json = || serde_json::from_str::<Json>(value.trim());
    match types.as_deref() {
        Some([]) | None => json().unwrap_or_else(|_| text()),
        Some(["string"]) => text(),
        Some(types) => match (json(), value.trim()) {
            (Ok(json), _) if types.contains(&kind(&json)) || !types.contains(&"string") => json,
            (Ok(json), _) if json.is_number() && types.contains(&"number") => json,
            (Err(_), "True") if types.contains(&"boolean") => true.into(),
            (Err(_), "False") if types.contains(&"boolean") => false.into(),
            (Err(_), "None") if types.contains(&"null") => Json::Null,
            _ => text(),
        },
    }
}

fn kind(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "boolean",
        Json::Number(number) if number.is_f64() => "number",
        Json::Number(_) => "integer",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    }
}
