//! The chat template of a model: what it is given, as transformers' `apply_chat_template` has it, and in
//! which form it reads what messages say.

use super::jinja::{Failure, Limits, Moment, RenderError, Template, Text, Value};
use crate::error::LoadError;
use crate::generate::{GenerateError, Message, Part, Speaker};
use arrcoc_bundle::names::file;

const NAME: &str = file::CHAT_TEMPLATE;
const CONFIG: &str = file::TOKENIZER_CONFIG;

/// The tokens that every tokenizer of transformers names.
const NAMED_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// In which form a template reads the contents of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reads {
    /// A string.
    pub(super) strings: bool,
    /// A list of parts.
    pub(super) lists: bool,
}

/// A chat template and the tokens that it may name.
#[derive(Debug)]
pub(super) struct ChatTemplate {
    template: Template,
    tokens: Vec<(String, String)>,
    /// What stands for an image where a template reads strings only.
    image_token: String,
    pub(super) reads: Reads,
    now: fn() -> Moment,
}

impl ChatTemplate {
    /// Compiles `template`, or the `chat_template` of `config` (the text of `tokenizer_config.json`).
    pub(super) fn new(config: &str, template: Option<String>, image_token: &str) -> Result<Self, LoadError> {
        let config: serde_json::Value = serde_json::from_str(config)
            .map_err(|error| LoadError::Text { file: CONFIG, reason: error.to_string() })?;
        let source = template.or_else(|| default_template(&config["chat_template"])).ok_or_else(|| {
            LoadError::Text {
                file: NAME,
                reason: "expected this file or a `chat_template` in tokenizer_config.json, found neither"
                    .into(),
            }
        })?;
        let template = Template::parse(&source)
            .map_err(|error| LoadError::Text { file: NAME, reason: error.to_string() })?;
        let reads = Reads { strings: true, lists: true };
        let image_token = image_token.to_owned();
        Ok(Self { template, tokens: special_tokens(&config), image_token, reads, now: Moment::now })
    }

    /// The text of a token that the configuration names.
    pub(super) fn token(&self, name: &str) -> Option<&str> {
        self.tokens.iter().find(|(known, _)| known == name).map(|(_, text)| text.as_str())
    }

    /// The clock that templates read.
    #[cfg(test)]
    pub(super) fn set_clock(&mut self, now: fn() -> Moment) {
        self.now = now;
    }

    /// Renders a conversation up to where the assistant begins to speak.
    pub(super) fn render(&self, messages: &[Message]) -> Result<Text, GenerateError> {
        self.try_render(messages, self.reads).map_err(|error| {
            let message = match &error.failure {
                Failure::Raised(message) => {
                    format!("the model's chat template refuses the conversation: {message:.500}")
                }
                _ => format!("the model's chat template cannot put the conversation: {error:.500}"),
            };
            GenerateError::Invalid { field: "messages", message }
        })
    }

    /// The same, with contents in the form that `reads` asks for.
    pub(super) fn try_render(&self, messages: &[Message], reads: Reads) -> Result<Text, RenderError> {
        let bytes = messages.iter().flat_map(|message| &message.content).map(|part| match part {
            Part::Text(text) => text.len(),
            Part::Image(_) => 0,
        });
        let limits = Limits::for_input(bytes.sum());
        let messages = messages.iter().map(|message| self.message(message, reads)).collect();
        self.render_values(messages, limits)
    }

    /// The same, with messages as they are.
    pub(super) fn render_values(&self, messages: Vec<Value>, limits: Limits) -> Result<Text, RenderError> {
        let mut variables: Vec<(&str, Value)> =
            self.tokens.iter().map(|(name, text)| (name.as_str(), Value::string(text))).collect();
        variables.extend([
            ("messages", Value::sequence(messages)),
            ("tools", Value::None),
            ("documents", Value::None),
            ("add_generation_prompt", Value::Bool(true)),
        ]);
        self.template.render(variables, limits, (self.now)())
    }

    /// `{role, content}`. One lone text is a string, where the template reads those, and everything else a
    /// list of parts. A template that reads strings only gets parts as lines, images as image tokens.
    fn message(&self, message: &Message, reads: Reads) -> Value {
        let role = match message.speaker {
            Speaker::System => "system",
            Speaker::User => "user",
            Speaker::Assistant => "assistant",
        };
        let content = match message.content.as_slice() {
            [] if reads.strings => Value::string(""),
            [Part::Text(text)] if reads.strings => Value::said(text),
            parts if reads.lists => Value::sequence(parts.iter().map(part).collect()),
            parts => {
                let lines = parts.iter().map(|part| match part {
                    Part::Text(text) => Text::said(text),
                    Part::Image(_) => Text::own(&self.image_token),
                });
                Value::Str(Text::lines(lines))
            }
        };
        Value::object(vec![("role", Value::string(role)), ("content", content)])
    }
}

fn part(part: &Part) -> Value {
    Value::object(match part {
        Part::Text(text) => vec![("type", Value::string("text")), ("text", Value::said(text))],
        Part::Image(_) => vec![("type", Value::string("image"))],
    })
}

/// The template of a `chat_template` in a configuration: a string, or the one named `default` of several,
/// which are a list of names and templates or a dictionary.
pub fn default_template(template: &serde_json::Value) -> Option<String> {
    let template = match template {
        serde_json::Value::Array(named) => {
            &named.iter().find(|entry| entry["name"] == "default")?["template"]
        }
        serde_json::Value::Object(named) => named.get("default")?,
        template => template,
    };
    template.as_str().map(str::to_owned)
}

/// The tokens that transformers gives to a template by name: the usual ones, other keys that end in `_token`,
/// and those of `extra_special_tokens`, where that has names. What is absent or null is no variable at all.
fn special_tokens(config: &serde_json::Value) -> Vec<(String, String)> {
    let text =
        |token: &serde_json::Value| token.as_str().or_else(|| token["content"].as_str()).map(str::to_owned);
    let Some(keys) = config.as_object() else { return Vec::new() };
    let own = keys.iter().filter(|(key, _)| NAMED_TOKENS.contains(&key.as_str()) || key.ends_with("_token"));
    let extra = ["extra_special_tokens", "model_specific_special_tokens"];
    let extra = extra.iter().filter_map(|key| config[key].as_object()).flatten();
    let named = own.chain(extra).filter_map(|(name, token)| Some((name.clone(), text(token)?)));
    let mut tokens: Vec<(String, String)> = Vec::new();
    for (name, token) in named {
        tokens.retain(|(known, _)| *known != name);
        tokens.push((name, token));
    }
    tokens
}
