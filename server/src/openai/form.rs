//! The form of the answer: `response_format` as OpenAI has it, and vLLM's `structured_outputs` and
//! `guided_*`. Whether a form can be kept is the runtime's to say.

use std::borrow::Cow;

use arrcoc_runtime::generate::{Form, JsonStyle, WhiteSpace};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;

use crate::config::Limits;
use crate::error::ApiError;
use crate::fields::{self, by, check_nested, check_own, fields, flag, nested, text};
use crate::json::Field;

/// Longest schema, bytes of JSON.
const MOST_SCHEMA: usize = 256 << 10;
/// Most texts of a choice.
const MOST_CHOICES: usize = 10_000;

const FORMAT: &str = "an object with the `type` `text`, `json_object` or `json_schema`";
const SCHEMA: &str = "a JSON schema";

fields! {
    /// The fields that say what the answer must look like. At most one of them may.
    pub(super) struct Forms {
        response_format: Option<Bound> = by(response_format, response_format_schema),
            "What the answer must look like, behind what the model thinks; a schema that cannot be kept is refused with its place";
        structured_outputs: Option<Bound> = nested::<Outputs, _>(Outputs::of),
            "The same with vLLM: one of `json`, `regex`, `choice`, `grammar` and `json_object`";
        guided_json: Option<Value> = by(schema, schema_schema), "`structured_outputs.json` under its older name";
        guided_regex: Option<String> = text(), "`structured_outputs.regex` under its older name";
        guided_choice: Vec<String> = by(choice, choice_schema),
            "`structured_outputs.choice` under its older name";
        guided_grammar: Option<String> = text(), "`structured_outputs.grammar` under its older name";
        guided_whitespace_pattern: Option<String> = text(),
            "`structured_outputs.whitespace_pattern` under its older name";
    }
}

/// A form, and the field that says so.
#[derive(Debug, Clone, PartialEq)]
pub struct Bound {
    /// What the answers must look like.
    pub form: Form,
    /// The field, for errors.
    pub field: &'static str,
}

/// The form that one of several fields asks for.
///
/// # Errors
/// 400 where two of them do.
fn only(asked: impl IntoIterator<Item = Option<Bound>>) -> Result<Option<Bound>, ApiError> {
    let mut asked = asked.into_iter().flatten();
    let first = asked.next();
    match (&first, asked.next()) {
        (Some(first), Some(second)) => {
            let message =
                format!("expected one form of the answer, found `{}` and `{}`", first.field, second.field);
            Err(ApiError::invalid(second.field, message))
        }
        _ => Ok(first),
    }
}

impl Forms {
    /// The form that a request asks for.
    ///
    /// # Errors
    /// 400 where it asks for two.
    pub(super) fn bound(self) -> Result<Option<Bound>, ApiError> {
        let white_space = self.guided_whitespace_pattern.map_or(WhiteSpace::Some, WhiteSpace::Pattern);
        let style = JsonStyle { white_space, closed: false };
        let outputs = Parts {
            json: self.guided_json,
            regex: self.guided_regex,
            choice: self.guided_choice,
            grammar: self.guided_grammar,
        };
        let [json, regex, choice, grammar] = outputs.forms(style);
        only([
            self.response_format,
            self.structured_outputs,
            json.map(|form| Bound { form, field: "guided_json" }),
            regex.map(|form| Bound { form, field: "guided_regex" }),
            choice.map(|form| Bound { form, field: "guided_choice" }),
            grammar.map(|form| Bound { form, field: "guided_grammar" }),
        ])
    }
}

/// The ways of vLLM to say what an answer must look like.
struct Parts {
    json: Option<Value>,
    regex: Option<String>,
    choice: Vec<String>,
    grammar: Option<String>,
}

impl Parts {
    /// Each as a form; what is empty asks for nothing.
    fn forms(self, style: JsonStyle) -> [Option<Form>; 4] {
        let text = |text: Option<String>| text.filter(|text| !text.is_empty());
        [
            self.json.map(|schema| Form::Json { schema, style }),
            text(self.regex).map(Form::Regex),
            Some(self.choice).filter(|choice| !choice.is_empty()).map(Form::Choice),
            text(self.grammar).map(Form::Grammar),
        ]
    }
}

fields! {
    /// `structured_outputs`.
    pub(super) struct Outputs {
        json: Option<Value> = by(schema, schema_schema), "JSON schema, or one as text";
        regex: Option<String> = text(), "Expression that the whole answer matches";
        choice: Vec<String> = by(choice, choice_schema), "Texts of which the answer is one";
        grammar: Option<String> = text(), "Grammar in Lark's form or in GBNF";
        json_object: bool = flag(), "Any JSON object";
        whitespace_pattern: Option<String> = text(), "Expression of the white space between the parts of JSON";
        disable_any_whitespace: bool = flag(), "No white space between the parts of JSON";
        disable_additional_properties: bool = flag(),
            "Objects have the properties that their schema lists and no others, unless it says so";
    }
}

impl Outputs {
    fn of(field: &Field<'_>, limits: &Limits) -> Result<Option<Bound>, ApiError> {
        let expected = "an object with one of `json`, `regex`, `choice`, `grammar` and `json_object`";
        let Some(object) = field.object(expected)? else { return Ok(None) };
        if object.field("structural_tag").is_set() {
            return Err(ApiError::unsupported("structured_outputs.structural_tag", "write a `grammar`"));
        }
        // The last two choose among vLLM's ways to do it.
        check_own(&object, field.path(), &[Self::NAMES, &["disable_fallback", "backend"]].concat())?;
        let read = Self::read(&object, limits)?;
        let white_space = match (read.disable_any_whitespace, read.whitespace_pattern) {
            (true, _) => WhiteSpace::None,
            (false, Some(pattern)) => WhiteSpace::Pattern(pattern),
            (false, None) => WhiteSpace::Some,
        };
        let style = JsonStyle { white_space, closed: read.disable_additional_properties };
        let object = read.json_object.then(Form::json_object).map(|form| match form {
            Form::Json { schema, .. } => Form::Json { schema, style: style.clone() },
            form => form,
        });
        let parts = Parts { json: read.json, regex: read.regex, choice: read.choice, grammar: read.grammar };
        let [json, regex, choice, grammar] = parts.forms(style);
        let bound = |form: Option<Form>, field| form.map(|form| Bound { form, field });
        only([
            bound(json, "structured_outputs.json"),
            bound(regex, "structured_outputs.regex"),
            bound(choice, "structured_outputs.choice"),
            bound(grammar, "structured_outputs.grammar"),
            bound(object, "structured_outputs.json_object"),
        ])
    }
}

impl JsonSchema for Outputs {
    fn schema_name() -> Cow<'static, str> {
        "StructuredOutputs".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        fields::object(generator, &[Self::describe])
    }
}

/// `response_format`.
fn response_format(field: &Field<'_>, limits: &Limits) -> Result<Option<Bound>, ApiError> {
    let Some(object) = field.object(FORMAT)? else { return Ok(None) };
    check_nested(&object, field.path(), &["type", "json_schema", "schema"])?;
    let (form, field) = match object.field("type").text()?.as_deref() {
        Some("text") => return Ok(None),
        // Some servers take a schema here.
        Some("json_object") => match schema(&object.field("schema"), limits)? {
            Some(schema) => (json(schema), "response_format.schema"),
            None => (Form::json_object(), "response_format"),
        },
        Some("json_schema") => {
            let named = object.field("json_schema");
            let expected = "an object with `name` and `schema`";
            let parts = named.object(expected)?.ok_or_else(|| named.wrong(expected))?;
            check_nested(&parts, named.path(), &["name", "description", "strict", "schema"])?;
            parts.field("name").text()?;
            // An answer keeps its schema, whether it is asked to be strict or not.
            parts.field("strict").flag()?;
            let field = parts.field("schema");
            let schema = schema(&field, limits)?.ok_or_else(|| field.wrong(SCHEMA))?;
            (json(schema), "response_format.json_schema.schema")
        }
        _ => return Err(field.wrong(FORMAT)),
    };
    Ok(Some(Bound { form, field }))
}

/// `text.format` of a response, whose parts stand beside the type.
pub(crate) fn text_format(field: &Field<'_>, limits: &Limits) -> Result<Option<Form>, ApiError> {
    let Some(object) = field.object(FORMAT)? else { return Ok(None) };
    check_nested(&object, field.path(), &["type", "name", "description", "strict", "schema"])?;
    match object.field("type").text()?.as_deref() {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(Form::json_object())),
        Some("json_schema") => {
            object.field("name").text()?;
            object.field("strict").flag()?;
            let field = object.field("schema");
            let schema = schema(&field, limits)?.ok_or_else(|| field.wrong(SCHEMA))?;
            Ok(Some(json(schema)))
        }
        _ => Err(field.wrong(FORMAT)),
    }
}

/// JSON of a schema that a field holds, as itself or as text.
pub(crate) fn json_of(field: &Field<'_>, limits: &Limits) -> Result<Option<Form>, ApiError> {
    Ok(schema(field, limits)?.map(json))
}

fn json(schema: Value) -> Form {
    Form::Json { schema, style: JsonStyle::default() }
}

fn response_format_schema(_: &mut SchemaGenerator) -> Schema {
    let schema = json_schema!({"type": ["object", "boolean"]});
    json_schema!({"oneOf": [
        {"type": "null"},
        {"type": "object", "required": ["type"], "properties": {"type": {"const": "text"}}},
        {
            "type": "object",
            "required": ["type"],
            "properties": {"type": {"const": "json_object"}, "schema": schema},
        },
        {
            "type": "object",
            "required": ["type", "json_schema"],
            "properties": {
                "type": {"const": "json_schema"},
                "json_schema": {
                    "type": "object",
                    "required": ["schema"],
                    "properties": {
                        "name": {"type": ["string", "null"]},
                        "description": {"type": ["string", "null"]},
                        "strict": {"type": ["boolean", "null"]},
                        "schema": schema,
                    },
                },
            },
        },
    ]})
}

/// A JSON schema, or one as text.
fn schema(field: &Field<'_>, _: &Limits) -> Result<Option<Value>, ApiError> {
    let Some(schema) = field.value(SCHEMA, MOST_SCHEMA)? else { return Ok(None) };
    let schema = match schema {
        Value::String(text) => {
            serde_json::from_str(&text).map_err(|_| field.wrong("a JSON schema, or one as text"))?
        }
        schema => schema,
    };
    if schema.is_object() || schema.is_boolean() { Ok(Some(schema)) } else { Err(field.wrong(SCHEMA)) }
}

fn schema_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["object", "boolean", "string", "null"]})
}

fn choice(field: &Field<'_>, _: &Limits) -> Result<Vec<String>, ApiError> {
    let texts = field.list("a list of strings", MOST_CHOICES, "")?.unwrap_or_default();
    let text = |field: &Field<'_>| Ok(field.text()?.ok_or_else(|| field.wrong("a string"))?.into_owned());
    texts.iter().map(text).collect()
}

fn choice_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["array", "null"], "maxItems": MOST_CHOICES, "items": {"type": "string"}})
}
