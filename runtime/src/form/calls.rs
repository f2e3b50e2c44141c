//! Answers that are calls of tools: a grammar in the syntax of the model, with the schemas of arguments in
//! it.

use serde_json::{Value, json};

use super::error::{FormError, limit};
use super::grammar::literal;
use super::schema;
use crate::generate::{Function, JsonStyle, ToolChoice, Tools};
use crate::tools::{Arguments, Written};

/// Most functions.
const MOST_FUNCTIONS: usize = 128;
/// Longest grammar, bytes.
const MOST_TEXT: usize = 1 << 20;

/// Text of an argument up to its end, which stands there once. `TEXT` of [`xml_arguments`].
const TEXT: &str = r"TEXT: /(?s:.*)\n<\/parameter>\n/ & ~/(?s:.*)<\/parameter(?s:.*)<\/parameter>\n/";

/// Calls that an answer must be, or may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Calls<'a> {
    /// What may be called.
    pub(crate) tools: &'a Tools,
    /// How.
    pub(crate) written: &'static Written,
}

impl Calls<'_> {
    /// The grammar of calls, in Lark's form. `otherwise` is the schema of answers that are none.
    ///
    /// # Errors
    /// [`FormError::Tool`] for a schema of arguments that cannot be kept.
    pub(super) fn grammar(self, otherwise: Option<&Value>) -> Result<String, FormError> {
        let functions = &self.tools.functions;
        limit("functions", MOST_FUNCTIONS, functions.len())?;
        let wanted = |index: &usize| match self.tools.choice {
            ToolChoice::Function(only) => *index == only,
            _ => true,
        };
        let indices: Vec<usize> = (0..functions.len()).filter(wanted).collect();
        let mut rules = match otherwise {
            Some(schema) => format!("start: calls | answer\nanswer: %json {schema}\n"),
            None => "start: calls\n".to_owned(),
        };
        let single = self.tools.single || matches!(self.tools.choice, ToolChoice::Function(_));
        let more = match single {
            true => String::new(),
            false => format!(" ({} call)*", literal(self.written.between)),
        };
        let [before, behind] = self.written.around.map(optional_literal);
        rules += &format!("calls: {before} call{more} {behind}\n");
        let names: Vec<String> = indices.iter().map(|index| format!("call_{index}")).collect();
        rules += &format!("call: {}\n", names.join(" | "));
        let mut text = false;
        for index in indices {
            let function = &functions[index];
            let wrong = |source| FormError::Tool { name: function.name.clone(), source: Box::new(source) };
            let (name, arguments) = match self.written.arguments {
                Arguments::Json => {
                    let name = Value::from(function.name.as_str()).to_string();
                    (name, json_arguments(index, function).map_err(wrong)?)
                }
                Arguments::Xml => {
                    text = true;
                    (function.name.clone(), xml_arguments(index, function).map_err(wrong)?)
                }
            };
            let [before, between, behind] = self.written.call;
            let before = literal(&format!("{before}{name}{between}"));
            rules += &format!("call_{index}: {before} arguments_{index} {}\n{arguments}", literal(behind));
            limit("bytes of all functions", MOST_TEXT, rules.len())?;
        }
        if text {
            rules += TEXT;
            rules.push('\n');
        }
        Ok(rules)
    }
}

fn optional_literal(text: &str) -> String {
    if text.is_empty() { String::new() } else { literal(text) }
}

/// Objects have the properties that are listed and no others, unless the schema says so.
fn style() -> JsonStyle {
    JsonStyle { closed: true, ..JsonStyle::default() }
}

/// The schema of arguments, which are an object.
fn parameters(function: &Function) -> Value {
    match &function.parameters {
        None | Some(Value::Bool(true)) => json!({"type": "object"}),
        Some(Value::Object(schema)) if !schema.contains_key("type") => {
            let mut schema = schema.clone();
            schema.insert("type".into(), "object".into());
            schema.into()
        }
        Some(schema) => schema.clone(),
    }
}

fn json_arguments(index: usize, function: &Function) -> Result<String, FormError> {
    let schema = schema::prepare(&parameters(function), &style())?.schema;
    Ok(format!("arguments_{index}: %json {schema}\n"))
}

/// An element for each property that is required, and for those of the others that the model wants, in the
/// order of the schema. Strings are written as they are; of what a schema asks of them, only a list of values
/// is kept.
fn xml_arguments(index: usize, function: &Function) -> Result<String, FormError> {
    let schema = parameters(function);
    let required =
        |name: &str| schema["required"].as_array().is_some_and(|all| all.iter().any(|one| one == name));
    let (mut elements, mut rules) = (String::new(), String::new());
    let properties = schema["properties"].as_object();
    for (at, (name, property)) in properties.into_iter().flatten().enumerate() {
        let rule = format!("argument_{index}_{at}");
        elements += &format!(" {rule}{}", if required(name) { "" } else { "?" });
        let before = literal(&format!("<parameter={name}>\n"));
        let behind = literal("\n</parameter>\n");
        let value = match texts(property) {
            Some(texts) if !texts.is_empty() => {
                let texts: Vec<String> = texts.iter().map(|text| literal(text)).collect();
                format!("({}) {behind}", texts.join(" | "))
            }
            Some(_) => "TEXT".to_owned(),
            None => {
                let place = format!("#/properties/{name}");
                let written = schema::prepare(&within(property, &schema), &style());
                let written = written.map_err(|error| error.within(&place))?.schema;
                rules += &format!("{rule}_value: %json {written}\n");
                format!("{rule}_value {behind}")
            }
        };
        rules += &format!("{rule}: {before} {value}\n");
    }
    let elements = if elements.is_empty() { " \"\"" } else { &elements };
    Ok(format!("arguments_{index}:{elements}\n{rules}"))
}

/// The texts that a property may be, where it is a string; none where it may be any.
fn texts(property: &Value) -> Option<Vec<&str>> {
    let listed = property["enum"].as_array();
    let listed = listed.map(|all| all.iter().map(Value::as_str).collect::<Option<Vec<&str>>>());
    match (listed, property["const"].as_str(), property["type"].as_str()) {
        (Some(Some(all)), _, _) => Some(all),
        (None, Some(only), _) => Some(vec![only]),
        (None, None, Some("string")) => Some(Vec::new()),
        _ => None,
    }
}

/// A property's schema with the definitions that it may refer to.
fn within(property: &Value, schema: &Value) -> Value {
    let mut property = property.clone();
    if let Some(object) = property.as_object_mut() {
        for name in ["$defs", "definitions"] {
            if let Some(definitions) = schema.get(name) {
                object.entry(name).or_insert_with(|| definitions.clone());
            }
        }
    }
    property
}
