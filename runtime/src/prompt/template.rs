//! Chat templates in Hugging Face's dialect of Jinja.
//!
//! As in transformers: blocks are trimmed, `messages`, `add_generation_prompt`, `bos_token` and `eos_token` are given,
//! `raise_exception` refuses a conversation, `tojson` writes JSON as Python does (no HTML escapes), loops may `break`
//! and `continue`, and the Python methods that templates call on strings and dictionaries exist.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, context};
use serde::Serialize;

use crate::error::LoadError;
use crate::generate::{GenerateError, Message, Part, Role};

const NAME: &str = "chat_template.jinja";

/// A compiled chat template and the tokens that it may name.
#[derive(Debug)]
pub(super) struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: Option<String>,
    eos_token: Option<String>,
}

/// What `raise_exception` was called with.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

impl ChatTemplate {
    /// Compiles `template`, or the `chat_template` of `config` (the text of `tokenizer_config.json`).
    pub(super) fn new(config: &str, template: Option<String>) -> Result<Self, LoadError> {
        let config: serde_json::Value = serde_json::from_str(config)
            .map_err(|error| LoadError::Text { file: "tokenizer_config.json", reason: error.to_string() })?;
        let template = template.or_else(|| default_template(&config)).ok_or_else(|| LoadError::Text {
            file: NAME,
            reason: "expected this file or a `chat_template` in tokenizer_config.json, found neither".into(),
        })?;
        let mut environment = environment();
        environment
            .add_template_owned(NAME, template)
            .map_err(|error| LoadError::Text { file: NAME, reason: format!("{error:#}") })?;
        let token = |name| token_text(&config, name);
        Ok(Self { environment, bos_token: token("bos_token"), eos_token: token("eos_token") })
    }

    /// Renders a conversation up to where the assistant begins to speak. `quote` is applied to every text of every
    /// message.
    pub(super) fn render(
        &self,
        messages: &[Message],
        quote: impl Fn(&str) -> String,
    ) -> Result<String, GenerateError> {
        let messages: Vec<Value> = messages.iter().map(|message| message_value(message, &quote)).collect();
        let template = self.environment.get_template(NAME).map_err(|error| broken(&error))?;
        let values = context! {
            messages,
            add_generation_prompt => true,
            bos_token => self.bos_token,
            eos_token => self.eos_token,
        };
        template.render(values).map_err(|error| {
            let raised = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<Raised>());
            match raised {
                Some(Raised(message)) => GenerateError::Invalid {
                    field: "messages",
                    message: format!("the model's chat template refuses the conversation: {message}"),
                },
                None => broken(&error),
            }
        })
    }
}

fn broken(error: &Error) -> GenerateError {
    GenerateError::Engine(format!("the model's chat template failed: {error:#}"))
}

/// `chat_template` of a tokenizer config: a string, or a list of named ones of which `default` counts.
fn default_template(config: &serde_json::Value) -> Option<String> {
    let template = config.get("chat_template")?;
    let named = |list: &Vec<serde_json::Value>| {
        let default = list.iter().find(|entry| entry["name"] == "default")?;
        default["template"].as_str().map(str::to_owned)
    };
    template.as_str().map(str::to_owned).or_else(|| template.as_array().and_then(named))
}

/// A token of a tokenizer config: a string, or an object with `content`.
fn token_text(config: &serde_json::Value, name: &str) -> Option<String> {
    let token = config.get(name)?;
    token.as_str().or_else(|| token["content"].as_str()).map(str::to_owned)
}

/// `{role, content}`, where one lone text is a string and everything else a list of parts.
fn message_value(message: &Message, quote: &impl Fn(&str) -> String) -> Value {
    let role = match message.role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
    };
    let content = match message.content.as_slice() {
        [] => Value::from(""),
        [Part::Text(text)] => Value::from(quote(text)),
        parts => Value::from_iter(parts.iter().map(|part| match part {
            Part::Text(text) => context! { type => "text", text => quote(text) },
            Part::Image(_) => context! { type => "image" },
        })),
    };
    context! { role, content }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(python_method);
    environment.add_filter("tojson", python_json);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
    });
    environment
}

/// `json.dumps(value, ensure_ascii=False, indent=indent)`.
fn python_json(value: &Value, kwargs: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    kwargs.assert_all_used()?;
    let failed = |error: serde_json::Error| Error::new(ErrorKind::BadSerialization, error.to_string());
    let mut bytes = Vec::new();
    match indent {
        Some(width) => {
            let indent = " ".repeat(width.min(16));
            let formatter = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
            value.serialize(&mut serializer).map_err(failed)?;
        }
        None => {
            let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, PythonSeparators);
            value.serialize(&mut serializer).map_err(failed)?;
        }
    }
    Ok(Value::from_safe_string(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Python's `", "` and `": "`.
struct PythonSeparators;

impl serde_json::ser::Formatter for PythonSeparators {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}

/// The methods of Python's `str` and `dict` that chat templates call.
fn python_method(_: &State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        return string_method(text, method, args);
    }
    if value.kind() == ValueKind::Map {
        return map_method(value, method, args);
    }
    Err(Error::from(ErrorKind::UnknownMethod))
}

fn string_method(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let arg = |index: usize| args.get(index).and_then(Value::as_str);
    let required = |index: usize| {
        let missing = || Error::new(ErrorKind::MissingArgument, format!("`{method}` takes a string"));
        arg(index).ok_or_else(missing)
    };
    let stripped = |c: char| arg(0).map_or(c.is_whitespace(), |set| set.contains(c));
    Ok(match method {
        "strip" => Value::from(text.trim_matches(stripped)),
        "lstrip" => Value::from(text.trim_start_matches(stripped)),
        "rstrip" => Value::from(text.trim_end_matches(stripped)),
        "upper" => Value::from(text.to_uppercase()),
        "lower" => Value::from(text.to_lowercase()),
        "startswith" => Value::from(text.starts_with(required(0)?)),
        "endswith" => Value::from(text.ends_with(required(0)?)),
        "replace" => Value::from(text.replace(required(0)?, required(1)?)),
        "split" if arg(0).is_none() => Value::from_iter(text.split_whitespace()),
        "split" => Value::from_iter(text.split(required(0)?)),
        "splitlines" => Value::from_iter(text.lines()),
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    })
}

fn map_method(map: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let keys = || map.try_iter();
    Ok(match method {
        "keys" => Value::from_iter(keys()?),
        "values" => Value::from_iter(keys()?.map(|key| map.get_item(&key)).collect::<Result<Vec<_>, _>>()?),
        "items" => {
            let pair = |key: Value| Ok(Value::from(vec![key.clone(), map.get_item(&key)?]));
            Value::from_iter(keys()?.map(pair).collect::<Result<Vec<_>, Error>>()?)
        }
        "get" => {
            let key = args.first().ok_or_else(|| Error::from(ErrorKind::MissingArgument))?;
            let found = map.get_item(key)?;
            let default = || args.get(1).cloned().unwrap_or_else(|| Value::from(()));
            if found.is_undefined() { default() } else { found }
        }
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    })
}
