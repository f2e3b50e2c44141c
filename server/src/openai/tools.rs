//! Tools of a request: what the model may call, and what it called in earlier answers.

use arrcoc_runtime::generate::{Function, ToolCall, ToolChoice, Tools};
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use crate::chat::{self, MOST_CALLS, MOST_TOOL_BYTES, MOST_TOOLS};
use crate::config::Limits;
use crate::error::ApiError;
use crate::fields::{by, check_nested, fields, optional_flag, raw};
use crate::json::{Field, Object};

/// Longest name. Names of tools that reach us over MCP hold dots and slashes.
const LONGEST_NAME: usize = 128;

const TOOL: &str = "an object with the `type` `function`, and `function`";
const FUNCTION: &str = "an object with `name`, `description` and `parameters`";
const CHOICE: &str = "none, auto, required, or an object that names a function";
const CALL: &str = "an object with `id`, `type` and `function`";

fields! {
    /// The fields that say what may be called.
    pub(super) struct ToolFields<'a> {
        tools: Vec<Function> = by(tools, tools_schema),
            "What the model may call. Calls come in `tool_calls`, and those that are written otherwise stay text";
        tool_choice: Field<'a> = raw(choice_schema),
            "`required` and names bind the answer to calls whose arguments have the form of `parameters`";
        parallel_tool_calls: Option<bool> = optional_flag(), "Whether an answer may have several calls; it may, unless this is false";
        functions: Vec<Function> = by(functions, functions_schema), "`tools` in its older form";
        function_call: Field<'a> = raw(choice_schema), "`tool_choice` in its older form";
    }
}

impl ToolFields<'_> {
    /// What is offered, and whether in the older form.
    ///
    /// # Errors
    /// 400 where both forms are there, two functions have one name, or something is to be called that is not
    /// there.
    pub(super) fn offered(self) -> Result<(Tools, bool), ApiError> {
        let as_functions = !self.functions.is_empty();
        let (name, functions, choice, other) = match (self.tools.is_empty(), as_functions) {
            (false, true) => {
                let message = "expected either `tools` or `functions`, its older form, found both";
                return Err(ApiError::invalid("functions", message));
            }
            (_, true) => ("functions", self.functions, self.function_call, self.tool_choice),
            _ => ("tools", self.tools, self.tool_choice, self.function_call),
        };
        // One that has nothing to choose from may only say so.
        choose(Vec::new(), &other, false)?;
        let single = as_functions || self.parallel_tool_calls == Some(false);
        different(&functions, name)?;
        Ok((choose(functions, &choice, single)?, as_functions))
    }
}

/// Functions of `tools`, and which of them are to be called.
///
/// # Errors
/// As [`ToolFields::offered`].
pub(crate) fn offered(functions: Vec<Function>, choice: &Field<'_>, single: bool) -> Result<Tools, ApiError> {
    different(&functions, "tools")?;
    choose(functions, choice, single)
}

/// Refuses two functions of one name; they stand in the field `name`.
pub(crate) fn different(functions: &[Function], name: &str) -> Result<(), ApiError> {
    let mut all = functions.iter().enumerate();
    let twice =
        all.find(|(at, function)| functions[..*at].iter().any(|earlier| earlier.name == function.name));
    let Some((at, function)) = twice else { return Ok(()) };
    let message = format!("`{name}[{at}]`: expected different names, found `{}` twice", function.name);
    Err(ApiError::invalid(name, message))
}

/// Functions, and which of them are to be called.
fn choose(functions: Vec<Function>, choice: &Field<'_>, single: bool) -> Result<Tools, ApiError> {
    let auto = |functions| Tools { functions, choice: ToolChoice::Auto, single };
    if !choice.is_set() {
        return Ok(auto(functions));
    }
    let named = if choice.is_text() { choice.text()? } else { None };
    let needed = |tools: Tools| match tools.functions.is_empty() {
        true => {
            let path = choice.path();
            Err(ApiError::invalid(
                path,
                format!("`{path}` asks for a call, and there are no functions to call"),
            ))
        }
        false => Ok(tools),
    };
    match named.as_deref() {
        Some("none") => Ok(Tools::default()),
        Some("auto") => Ok(auto(functions)),
        // `any` is Mistral's word.
        Some("required" | "any") => needed(Tools { functions, choice: ToolChoice::Required, single }),
        Some(_) => Err(choice.wrong(CHOICE)),
        None => {
            let object = choice.object(CHOICE)?.ok_or_else(|| choice.wrong(CHOICE))?;
            if object.field("type").text()?.as_deref() == Some("allowed_tools") {
                return allowed(functions, &object, single).and_then(|tools| match tools.choice {
                    ToolChoice::Auto => Ok(tools),
                    _ => needed(tools),
                });
            }
            let name = chosen_name(choice, &object)?;
            let index = position(&functions, &name, choice.path())?;
            Ok(Tools { functions, choice: ToolChoice::Function(index), single: true })
        }
    }
}

/// `{"type": "allowed_tools", "allowed_tools": {"mode": ..., "tools": [...]}}`; its parts may stand beside
/// `type` too.
fn allowed(functions: Vec<Function>, object: &Object<'_>, single: bool) -> Result<Tools, ApiError> {
    let inner = object.field("allowed_tools");
    let expected = "an object with `mode` and `tools`";
    let nested = inner.object(expected)?;
    let object = nested.as_ref().unwrap_or(object);
    let mode = object.field("mode");
    let choice = match mode.text()?.as_deref() {
        None | Some("auto") => ToolChoice::Auto,
        Some("required") => ToolChoice::Required,
        Some(_) => return Err(mode.wrong("auto or required")),
    };
    let list = object.field("tools").list("a list of tools", MOST_TOOLS, "")?.unwrap_or_default();
    let mut kept = Vec::new();
    for tool in list {
        let object = tool.object(TOOL)?.ok_or_else(|| tool.wrong(TOOL))?;
        let name = chosen_name(&tool, &object)?;
        kept.push(position(&functions, &name, "tool_choice")?);
    }
    let functions = functions.into_iter().enumerate().filter(|(at, _)| kept.contains(at));
    Ok(Tools { functions: functions.map(|(_, function)| function).collect(), choice, single })
}

/// The name in `{"type": "function", "function": {"name": ...}}`, or beside `type`.
fn chosen_name(field: &Field<'_>, object: &Object<'_>) -> Result<String, ApiError> {
    let nested = object.field("function").object("an object with `name`")?;
    let name = nested.as_ref().unwrap_or(object).field("name").text()?;
    Ok(name.ok_or_else(|| field.wrong("an object with the name of a function"))?.into_owned())
}

fn position(functions: &[Function], name: &str, path: &str) -> Result<usize, ApiError> {
    if functions.is_empty() {
        return Err(ApiError::invalid(
            path,
            format!("`{path}` asks for a call, and there are no functions to call"),
        ));
    }
    functions.iter().position(|function| function.name == name).ok_or_else(|| {
        let known: Vec<&str> = functions.iter().map(|function| function.name.as_str()).collect();
        let message = format!(
            "expected one of the functions that are offered ({}), found {}",
            known.join(", "),
            arrcoc_bundle::quote::quote(name)
        );
        ApiError::invalid(path, message)
    })
}

/// `tools`.
pub(crate) fn tools(field: &Field<'_>, _: &Limits) -> Result<Vec<Function>, ApiError> {
    let list = field.list("a list of tools", MOST_TOOLS, "")?.unwrap_or_default();
    let tool = |field: &Field<'_>| {
        let tool = field.object(TOOL)?.ok_or_else(|| field.wrong(TOOL))?;
        let kind = tool.field("type");
        match kind.text()?.as_deref() {
            Some("function") => {}
            Some(_) => {
                return Err(ApiError::unsupported(kind.path(), "tools are functions; the caller runs them"));
            }
            None => return Err(field.wrong(TOOL)),
        }
        check_nested(&tool, field.path(), &["type", "function"])?;
        let function = tool.field("function");
        let described = field.value(TOOL, MOST_TOOL_BYTES)?.unwrap_or_default();
        self::function(&function, described, &[])
    };
    list.iter().map(tool).collect()
}

fn functions(field: &Field<'_>, _: &Limits) -> Result<Vec<Function>, ApiError> {
    let list = field.list("a list of functions", MOST_TOOLS, "")?.unwrap_or_default();
    let read = |field: &Field<'_>| {
        let described = field.value(FUNCTION, MOST_TOOL_BYTES)?.unwrap_or_default();
        function(field, json!({"type": "function", "function": described}), &[])
    };
    list.iter().map(read).collect()
}

/// A function, which `described` has for the template; names of `beside` may stand there too.
pub(super) fn function(
    field: &Field<'_>,
    described: Value,
    beside: &[&'static str],
) -> Result<Function, ApiError> {
    let function = field.object(FUNCTION)?.ok_or_else(|| field.wrong(FUNCTION))?;
    check_nested(
        &function,
        field.path(),
        &[&["name", "description", "parameters", "strict"], beside].concat(),
    )?;
    function.field("description").text()?;
    function.field("strict").flag()?;
    let name = name(&function.field("name"))?;
    let parameters = function.field("parameters");
    let schema = parameters.value("a JSON schema", MOST_TOOL_BYTES)?;
    match &schema {
        None | Some(Value::Object(_) | Value::Bool(true)) => {}
        Some(_) => return Err(parameters.wrong("a JSON schema: an object")),
    }
    Ok(Function { name, parameters: schema, described })
}

/// The name of a function.
pub(crate) fn name(field: &Field<'_>) -> Result<String, ApiError> {
    let known = |c: char| c.is_ascii_alphanumeric() || "_-.:/".contains(c);
    let name =
        field.text()?.filter(|name| (1..=LONGEST_NAME).contains(&name.len()) && name.chars().all(known));
    let expected =
        format_args!("a name of 1 to {LONGEST_NAME} letters, digits and any of `_-.:/`").to_string();
    Ok(name.ok_or_else(|| field.wrong(expected))?.into_owned())
}

/// `tool_calls` of a message.
pub(super) fn calls(field: &Field<'_>) -> Result<Vec<ToolCall>, ApiError> {
    let list = field.list("a list of calls", MOST_CALLS, "")?.unwrap_or_default();
    let call = |field: &Field<'_>| {
        let call = field.object(CALL)?.ok_or_else(|| field.wrong(CALL))?;
        check_nested(&call, field.path(), &["id", "type", "function", "index"])?;
        let id = call.field("id").text()?.map(std::borrow::Cow::into_owned);
        let function = call.field("function");
        let called = function_call(&function)?
            .ok_or_else(|| function.wrong("an object with `name` and `arguments`"))?;
        Ok(ToolCall { id, ..called })
    };
    list.iter().map(call).collect()
}

/// `{"name": ..., "arguments": ...}`.
pub(super) fn function_call(field: &Field<'_>) -> Result<Option<ToolCall>, ApiError> {
    let expected = "an object with `name` and `arguments`";
    let Some(object) = field.object(expected)? else { return Ok(None) };
    check_nested(&object, field.path(), &["name", "arguments"])?;
    let name = name(&object.field("name"))?;
    Ok(Some(ToolCall { id: None, name, arguments: arguments(&object.field("arguments"))? }))
}

/// Arguments: JSON as text, as OpenAI has them, or the object itself.
pub(super) fn arguments(field: &Field<'_>) -> Result<Value, ApiError> {
    match field.value("the arguments, as JSON in a string", MOST_TOOL_BYTES)? {
        None => Ok(json!({})),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(json!({})),
        Some(Value::String(text)) => Ok(chat::arguments(&text)),
        Some(object @ Value::Object(_)) => Ok(object),
        Some(_) => Err(field.wrong("the arguments, as JSON in a string")),
    }
}

fn function_schema() -> Schema {
    json_schema!({
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"type": "string", "pattern": "^[A-Za-z0-9_.:/-]{1,128}$"},
            "description": {"type": ["string", "null"]},
            "parameters": {"type": ["object", "boolean", "null"], "description": "JSON schema of the arguments"},
            "strict": {"type": ["boolean", "null"]},
        },
    })
}

pub(crate) fn tools_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["array", "null"], "maxItems": MOST_TOOLS, "items": {
        "type": "object",
        "required": ["type", "function"],
        "properties": {"type": {"const": "function"}, "function": function_schema()},
    }})
}

fn functions_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["array", "null"], "maxItems": MOST_TOOLS, "items": function_schema()})
}

fn choice_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"oneOf": [{"enum": ["none", "auto", "required", "any", null]}, {"type": "object"}]})
}

/// The schema of `tool_calls` of a message.
pub(super) fn calls_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["array", "null"], "maxItems": MOST_CALLS, "items": {
        "type": "object",
        "required": ["function"],
        "properties": {
            "id": {"type": ["string", "null"]},
            "type": {"const": "function"},
            "function": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string"}, "arguments": {"type": ["string", "object", "null"]}},
            },
        },
    }})
}
