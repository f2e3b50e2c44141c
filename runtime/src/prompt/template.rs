//! The chat template of a model: what it is given, as transformers' `apply_chat_template` has it, and in
//! which form it reads what messages say.

use super::jinja::{Failure, Limits, Moment, RenderError, Template, Text, Value};
use crate::error::LoadError;
use crate::generate::{Conversation, GenerateError, Message, Part, Speaker};
use arrcoc_bundle::names::file;

const NAME: &str = file::CHAT_TEMPLATE;
const CONFIG: &str = file::TOKENIZER_CONFIG;

/// The tokens that every tokenizer of transformers names.
const NAMED_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// What every template is given, besides tokens.
const OURS: [&str; 4] = ["messages", "tools", "documents", "add_generation_prompt"];

/// What every template may call; a variable of that name would break it.
const FUNCTIONS: [&str; 5] = ["range", "dict", "namespace", "raise_exception", "strftime_now"];

/// The field that holds a template's own variables.
const VARIABLES: &str = "chat_template_kwargs";

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
    pub(super) fn render(&self, conversation: &Conversation) -> Result<Text, GenerateError> {
        let given = |name: &str| OURS.contains(&name) || FUNCTIONS.contains(&name);
        let ours = |name: &str| given(name) || self.token(name).is_some();
        if let Some(name) = conversation.variables.keys().find(|name| ours(name)) {
            let message = format!(
                "expected variables of the chat template's own, found `{name}`, which it is given with every prompt"
            );
            return Err(GenerateError::Invalid { field: VARIABLES, message });
        }
        let variables = conversation.variables.iter().map(|(name, json)| {
            let value = Value::said_json(json).map_err(|failure| {
                let error = RenderError { line: 0, failure };
                let message = format!("`{name:.80}` cannot be given to the chat template ({error})");
                GenerateError::Invalid { field: VARIABLES, message }
            })?;
            Ok((name.as_str(), value))
        });
        let variables = variables.collect::<Result<_, GenerateError>>()?;
        self.try_render(&conversation.messages, variables, self.reads).map_err(|error| {
            let message = match &error.failure {
                Failure::Raised(message) => {
                    format!("the model's chat template refuses the conversation: {message:.500}")
                }
                _ => format!("the model's chat template cannot put the conversation: {error:.500}"),
            };
            GenerateError::Invalid { field: "messages", message }
        })
    }

    /// The same, with contents in the form that `reads` asks for, and variables of the template's own.
    pub(super) fn try_render<'a>(
        &'a self,
        messages: &[Message],
        mut variables: Vec<(&'a str, Value)>,
        reads: Reads,
    ) -> Result<Text, RenderError> {
        let limits = Limits::for_input(messages.iter().flat_map(said).map(str::len).sum());
        let messages = messages.iter().map(|message| self.message(message, reads)).collect();
        variables.extend(self.tokens.iter().map(|(name, text)| (name.as_str(), Value::string(text))));
        let given = [Value::sequence(messages), Value::None, Value::None, Value::Bool(true)];
        variables.extend(OURS.into_iter().zip(given));
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
        let mut fields = vec![("role", Value::string(role)), ("content", content)];
        if let Some(thoughts) = &message.reasoning {
            // Templates in the manner of gpt-oss read the other name.
            fields.insert(0, ("thinking", Value::said(thoughts)));
            fields.push(("reasoning_content", Value::said(thoughts)));
        }
        Value::object(fields)
    }
}

/// All that a message says.
pub(super) fn said(message: &Message) -> impl Iterator<Item = &str> {
    message.texts().chain(message.reasoning.as_deref())
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
