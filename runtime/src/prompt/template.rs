//! The chat template of a model: what it is given, as transformers' `apply_chat_template` has it, and in
//! which form it reads what messages say.

use super::jinja::{Failure, Limits, Moment, RenderError, Template, Text, Value};
use super::turns::{self, Turn};
use crate::error::LoadError;
use crate::generate::{Conversation, GenerateError, ToolCall, Tools};
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

/// How a template reads tools, calls and results, where it has places for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReadsTools {
    /// Arguments of calls are objects; else JSON in strings.
    pub(super) objects: bool,
}

/// A chat template and the tokens that it may name.
#[derive(Debug)]
pub(super) struct ChatTemplate {
    template: Template,
    tokens: Vec<(String, String)>,
    /// What stands for an image where a template reads strings only.
    image_token: String,
    pub(super) reads: Reads,
    /// Instructions have a place.
    pub(super) reads_system: bool,
    /// `None`: tools are written into messages.
    pub(super) reads_tools: Option<ReadsTools>,
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
        let tokens = special_tokens(&config);
        let (reads_system, reads_tools) = (true, None);
        Ok(Self { template, tokens, image_token, reads, reads_system, reads_tools, now: Moment::now })
    }

    /// The tokens that the configuration names.
    pub(super) fn tokens(&self) -> &[(String, String)] {
        &self.tokens
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
        let turns = match self.reads_tools {
            Some(_) => turns::plain(&conversation.messages),
            None => turns::with_tools_written(&conversation.messages, &conversation.tools, self.reads_system),
        };
        self.try_render(&turns, &conversation.tools, variables).map_err(|error| {
            let message = match &error.failure {
                Failure::Raised(message) => {
                    format!("the model's chat template refuses the conversation: {message:.500}")
                }
                _ => format!("the model's chat template cannot put the conversation: {error:.500}"),
            };
            GenerateError::Invalid { field: "messages", message }
        })
    }

    /// The same from turns, with variables of the template's own.
    pub(super) fn try_render<'a>(
        &'a self,
        turns: &[Turn],
        tools: &Tools,
        mut variables: Vec<(&'a str, Value)>,
    ) -> Result<Text, RenderError> {
        let tools = if self.reads_tools.is_some() { tools.functions.as_slice() } else { &[] };
        let described: usize = tools.iter().map(|tool| turns::size(&tool.described)).sum();
        let limits = Limits::for_input(described + turns.iter().map(Turn::said).sum::<usize>());
        let unread = |failure| RenderError { line: 0, failure };
        let turns = turns.iter().map(|turn| self.turn(turn)).collect::<Result<_, _>>().map_err(unread)?;
        let tools = tools.iter().map(|tool| Value::said_json(&tool.described)).collect::<Result<Vec<_>, _>>();
        let tools = tools.map_err(unread)?;
        let tools = if tools.is_empty() { Value::None } else { Value::sequence(tools) };
        variables.extend(self.tokens.iter().map(|(name, text)| (name.as_str(), Value::string(text))));
        let given = [Value::sequence(turns), tools, Value::None, Value::Bool(true)];
        variables.extend(OURS.into_iter().zip(given));
        self.template.render(variables, limits, (self.now)())
    }

    /// `{role, content}`. One lone text is a string, where the template reads those, and everything else a
    /// list of parts. A template that reads strings only gets parts as lines, images as image tokens.
    fn turn(&self, turn: &Turn) -> Result<Value, Failure> {
        let content = match turn.content.as_slice() {
            [] if self.reads.strings => Value::string(""),
            [turns::Part::Text(text)] if self.reads.strings => Value::Str(text.clone()),
            parts if self.reads.lists => Value::sequence(parts.iter().map(part).collect()),
            parts => {
                let lines = parts.iter().map(|part| match part {
                    turns::Part::Text(text) => text.clone(),
                    turns::Part::Image => Text::own(&self.image_token),
                });
                Value::Str(Text::lines(lines))
            }
        };
        let mut fields = vec![("role", Value::string(turn.role)), ("content", content)];
        if let Some(thoughts) = &turn.reasoning {
            // Templates in the manner of gpt-oss read the other name.
            fields.insert(0, ("thinking", Value::said(thoughts)));
            fields.push(("reasoning_content", Value::said(thoughts)));
        }
        if !turn.calls.is_empty() {
            let calls = turn.calls.iter().map(|call| self.call(call)).collect::<Result<_, _>>()?;
            fields.push(("tool_calls", Value::sequence(calls)));
        }
        let named = [("tool_call_id", &turn.call_id), ("name", &turn.name)];
        let named = named.into_iter().filter_map(|(name, text)| Some((name, Value::said(text.as_ref()?))));
        fields.extend(named);
        Ok(Value::object(fields))
    }

    /// `{id, type, function: {name, arguments}}`.
    fn call(&self, call: &ToolCall) -> Result<Value, Failure> {
        let objects = self.reads_tools.is_none_or(|reads| reads.objects);
        let arguments = match (&call.arguments, objects) {
            (arguments, true) => Value::said_json(arguments)?,
            (serde_json::Value::String(text), false) => Value::said(text),
            (arguments, false) => Value::said(&turns::json(arguments)),
        };
        let function = vec![("name", Value::said(&call.name)), ("arguments", arguments)];
        let id = call.id.iter().map(|id| ("id", Value::said(id)));
        let rest = [("type", Value::string("function")), ("function", Value::object(function))];
        Ok(Value::object(id.chain(rest).collect()))
    }
}

fn part(part: &turns::Part) -> Value {
    Value::object(match part {
        turns::Part::Text(text) => vec![("type", Value::string("text")), ("text", Value::Str(text.clone()))],
        turns::Part::Image => vec![("type", Value::string("image"))],
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
