//! Schemas as the library keeps them to the letter.
//!
//! `llguidance` follows most of JSON Schema, and not all: some keywords it refuses without saying where, some
//! it takes for less than they mean in corners. So a schema is written anew here, with the keywords that are
//! kept and no others: annotations and unknown keywords fall away, what earlier drafts wrote otherwise is
//! written as 2020-12 has it, references point at definitions that were found and counted, and what cannot be
//! kept is refused with its place. Every answer that is complete is valid then, and the schema decides how
//! much of it is reachable, not the other way round.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::error::{FormError, limit};
use crate::generate::{JsonStyle, WhiteSpace};

mod apart;
mod finite;
mod pattern;
mod pointer;
mod values;

/// Most values of a schema: objects, lists, numbers, strings, all of them.
const MOST_VALUES: usize = 20_000;
/// Most schemas that a schema comes to, where definitions count once.
const MOST_SCHEMAS: usize = 4_000;
/// Most properties among them: each name is a lexeme, and takes the library a fraction of a millisecond.
const MOST_PROPERTIES: usize = 1_000;

/// Escapes in strings that answers may use. Without `\u` a name can be written in one way only, so that no
/// answer says the same name twice in two spellings.
const ESCAPES: &str = "nrbtf\\\"";

/// Spaces, or a line break and an indentation.
const SOME_SPACE: &str = r"\x20|\r?\n[\x20\t]{0,64}";

/// Keywords that change what is valid, and are not followed.
const REFUSED: [&str; 16] = [
    "not",
    "if",
    "then",
    "else",
    "contains",
    "minContains",
    "maxContains",
    "propertyNames",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "unevaluatedProperties",
    "unevaluatedItems",
    "$dynamicRef",
    "$recursiveRef",
    "disallow",
];

/// A schema as the library is to see it.
pub(super) struct Prepared {
    pub(super) schema: Value,
    /// Where each definition stood.
    places: Vec<String>,
}

impl Prepared {
    /// What the library says of it, in words of the schema that was given.
    pub(super) fn error(&self, said: &str) -> FormError {
        let nothing =
            ["Unsatisfiable schema: ", "NoExtension"].into_iter().find_map(|known| said.strip_prefix(known));
        if let Some(reason) = nothing {
            let reason = if said.starts_with("NoExtension") { "" } else { reason };
            return FormError::schema(
                "#",
                format!("nothing fits the schema: {reason}").trim_end_matches(": "),
            );
        }
        let definition = said
            .split_once("#/$defs/")
            .and_then(|(reason, index)| Some((reason, index.parse::<usize>().ok()?)));
        let place = definition.and_then(|(reason, index)| Some((reason, self.places.get(index)?)));
        match place {
            Some((reason, place)) => FormError::schema(place, reason.trim_end_matches([' ', ':'])),
            None => FormError::schema("#", said),
        }
    }
}

/// Writes a schema for the library.
///
/// # Errors
/// [`FormError`] with the place of what cannot be kept.
pub(super) fn prepare(schema: &Value, style: &JsonStyle) -> Result<Prepared, FormError> {
    limit("values in a schema", MOST_VALUES, pointer::count(schema, MOST_VALUES))?;
    let mut writer = Writer {
        root: schema,
        closed: style.closed,
        targets: HashMap::new(),
        definitions: Vec::new(),
        exclusive: Vec::new(),
        schemas: 0,
        properties: 0,
    };
    let mut written = writer.schema(schema, "#")?;
    for (place, options) in &writer.exclusive {
        apart::check(schema, options, place)?;
    }
    let mut places = vec![String::new(); writer.targets.len()];
    for (place, index) in writer.targets {
        places[index] = place;
    }
    let mut definitions = writer.definitions;
    finite::prune(&mut written, &mut definitions)?;
    let mut root = match written {
        Value::Object(root) => root,
        Value::Bool(true) => Map::new(),
        _ => return Err(FormError::schema("#", "expected a schema that some JSON fits, found false")),
    };
    let definitions = definitions.into_iter().enumerate();
    let definitions: Map<_, _> = definitions.map(|(index, value)| (index.to_string(), value)).collect();
    root.insert("$defs".into(), definitions.into());
    root.insert("x-guidance".into(), options(&style.white_space));
    Ok(Prepared { schema: root.into(), places })
}

/// The library's options.
fn options(white_space: &WhiteSpace) -> Value {
    let mut options = json!({"json_allowed_escapes": ESCAPES});
    match white_space {
        WhiteSpace::Some => options["whitespace_pattern"] = SOME_SPACE.into(),
        WhiteSpace::None => options["whitespace_flexible"] = false.into(),
        WhiteSpace::Pattern(pattern) => options["whitespace_pattern"] = pattern.as_str().into(),
    }
    options
}

/// A schema that is being written.
struct Writer<'a> {
    root: &'a Value,
    /// Objects with listed properties have no others, unless they say so.
    closed: bool,
    /// The definition of each place that was referred to.
    targets: HashMap<String, usize>,
    definitions: Vec<Value>,
    /// Lists of `oneOf`, with their places.
    exclusive: Vec<(String, &'a [Value])>,
    schemas: usize,
    properties: usize,
}

impl<'a> Writer<'a> {
    fn schema(&mut self, schema: &'a Value, place: &str) -> Result<Value, FormError> {
        self.schemas += 1;
        limit("schemas in a schema", MOST_SCHEMAS, self.schemas)?;
        match schema {
            Value::Bool(_) => Ok(schema.clone()),
            Value::Object(object) => self.object(object, place),
            _ => Err(wrong(place, "a schema: an object, true or false", schema)),
        }
    }

    fn object(&mut self, schema: &'a Map<String, Value>, place: &str) -> Result<Value, FormError> {
        for (keyword, value) in schema {
            if REFUSED.contains(&keyword.as_str()) && !neutral(keyword, value) {
                let place = pointer::join(place, keyword);
                return Err(FormError::schema(&place, format!("`{keyword}` cannot be kept; leave it out")));
            }
        }
        let mut written = Map::new();
        values::types(schema, place, &mut written)?;
        values::numbers(schema, place, &mut written)?;
        values::strings(schema, place, &mut written)?;
        values::literals(schema, place, &mut written)?;
        self.array(schema, place, &mut written)?;
        self.properties(schema, place, &mut written)?;
        self.combinations(schema, place, &mut written)?;
        Ok(written.into())
    }

    fn array(
        &mut self,
        schema: &'a Map<String, Value>,
        place: &str,
        written: &mut Map<String, Value>,
    ) -> Result<(), FormError> {
        let most = values::sizes(schema, place, ["minItems", "maxItems"], written)?;
        let unique = schema.get("uniqueItems").is_some_and(|unique| *unique != Value::Bool(false));
        if unique && most.is_none_or(|most| most > 1) {
            let place = pointer::join(place, "uniqueItems");
            return Err(FormError::schema(
                &place,
                "`uniqueItems` cannot be kept; leave it out, and look for doubles in the answer",
            ));
        }
        // Until 2019-09 a list of schemas was `items`, and what comes behind it `additionalItems`.
        let listed = matches!(schema.get("items"), Some(Value::Array(_)));
        let names = if listed { ["items", "additionalItems"] } else { ["prefixItems", "items"] };
        for (name, new) in names.into_iter().zip(["prefixItems", "items"]) {
            let Some(value) = schema.get(name) else { continue };
            let place = pointer::join(place, name);
            let value = match (new, value) {
                ("prefixItems", Value::Array(items)) => self.list(items, &place)?.into(),
                ("prefixItems", _) => return Err(wrong(&place, "a list of schemas", value)),
                _ => self.schema(value, &place)?,
            };
            written.insert(new.into(), value);
        }
        Ok(())
    }

    fn properties(
        &mut self,
        schema: &'a Map<String, Value>,
        place: &str,
        written: &mut Map<String, Value>,
    ) -> Result<(), FormError> {
        let required = values::required(schema, place, written)?;
        values::sizes(schema, place, ["minProperties", "maxProperties"], written)?;
        for name in ["properties", "patternProperties"] {
            let Some(value) = schema.get(name) else { continue };
            let place = pointer::join(place, name);
            let Value::Object(properties) = value else { return Err(wrong(&place, "an object", value)) };
            self.properties += properties.len();
            limit("properties in a schema", MOST_PROPERTIES, self.properties)?;
            let mut all = Map::new();
            for (key, value) in properties {
                let place = pointer::join(&place, key);
                let key =
                    if name == "patternProperties" { pattern::prepare(key, &place)? } else { key.clone() };
                if all.insert(key, self.schema(value, &place)?).is_some() {
                    return Err(FormError::schema(
                        &place,
                        "expected different expressions, found the same in two spellings",
                    ));
                }
            }
            written.insert(name.into(), all.into());
        }
        if let Some(value) = schema.get("additionalProperties") {
            let value = self.schema(value, &pointer::join(place, "additionalProperties"))?;
            written.insert("additionalProperties".into(), value);
        } else if self.closed
            && (written.contains_key("properties") || written.contains_key("patternProperties"))
        {
            written.insert("additionalProperties".into(), false.into());
        }
        check_count(written, required, place)
    }

    fn combinations(
        &mut self,
        schema: &'a Map<String, Value>,
        place: &str,
        written: &mut Map<String, Value>,
    ) -> Result<(), FormError> {
        if let Some(reference) = schema.get("$ref") {
            let place = pointer::join(place, "$ref");
            let Value::String(reference) = reference else {
                return Err(wrong(&place, "a string", reference));
            };
            let definition = self.definition(reference, &place)?;
            written.insert("$ref".into(), format!("#/$defs/{definition}").into());
        }
        let mut all = Vec::new();
        for name in ["allOf", "anyOf", "oneOf"] {
            let Some(value) = schema.get(name) else { continue };
            let place = pointer::join(place, name);
            let Value::Array(options) = value else { return Err(wrong(&place, "a list of schemas", value)) };
            let list = self.list(options, &place)?;
            match name {
                "allOf" => all.extend(list),
                "anyOf" => _ = written.insert("anyOf".into(), list.into()),
                // The same, where no two of them can hold at once.
                _ => {
                    all.push(json!({"anyOf": list}));
                    self.exclusive.push((place, options));
                }
            }
        }
        if all.len() == 1
            && !written.contains_key("anyOf")
            && all[0].get("anyOf").is_some()
            && all[0].as_object().is_some_and(|only| only.len() == 1)
        {
            written.insert("anyOf".into(), all[0]["anyOf"].take());
        } else if !all.is_empty() {
            written.insert("allOf".into(), all.into());
        }
        Ok(())
    }

    fn list(&mut self, schemas: &'a [Value], place: &str) -> Result<Vec<Value>, FormError> {
        let item = |(index, schema)| self.schema(schema, &pointer::join(place, &usize::to_string(&index)));
        schemas.iter().enumerate().map(item).collect()
    }

    /// The definition that a reference leads to.
    fn definition(&mut self, reference: &str, place: &str) -> Result<usize, FormError> {
        let (target, schema) = pointer::follow(self.root, reference, place)?;
        if let Some(index) = self.targets.get(&target) {
            return Ok(*index);
        }
        let index = self.definitions.len();
        self.definitions.push(Value::Bool(true));
        self.targets.insert(target.clone(), index);
        self.definitions[index] = self.schema(schema, &target)?;
        Ok(index)
    }
}

/// Whether a keyword that is not followed asks for nothing.
fn neutral(keyword: &str, value: &Value) -> bool {
    let anything = *value == Value::Bool(true) || value.as_object().is_some_and(Map::is_empty);
    match keyword {
        "propertyNames" => anything || *value == json!({"type": "string"}),
        "unevaluatedProperties" | "unevaluatedItems" => anything,
        "dependencies" | "dependentRequired" | "dependentSchemas" => {
            value.as_object().is_some_and(Map::is_empty)
        }
        // Without `if` they mean nothing, and `if` is refused.
        "then" | "else" => true,
        // Without `contains` they mean nothing, and `contains` is refused.
        "minContains" | "maxContains" => true,
        _ => false,
    }
}

/// Refuses counts of properties that the library does not keep. It counts names as they are written, and may
/// write one twice where names are open; of several optional ones it keeps a count only where that is one.
fn check_count(written: &Map<String, Value>, required: usize, place: &str) -> Result<(), FormError> {
    let size = |name: &str| written.get(name).and_then(Value::as_u64).map(|size| size as usize);
    let beyond = |name: &str| size(name).map(|size| size.saturating_sub(required));
    let (least, most) = (beyond("minProperties").unwrap_or(0), beyond("maxProperties"));
    let closed = written.get("additionalProperties") == Some(&Value::Bool(false));
    let open = !closed || written.contains_key("patternProperties");
    let listed = written.get("properties").and_then(Value::as_object);
    let names: Vec<&str> = written
        .get("required")
        .and_then(Value::as_array)
        .map_or_else(Vec::new, |names| names.iter().filter_map(Value::as_str).collect());
    let optional = listed.is_some_and(|listed| listed.keys().any(|name| !names.contains(&name.as_str())));
    let refuse = |name: &str, reason: String| Err(FormError::schema(&pointer::join(place, name), reason));
    if least > 1 && open {
        return refuse(
            "minProperties",
            format!("a least count of {least} beyond the required ones cannot be kept: names may come twice"),
        );
    }
    let one = !open && least <= 1 && most.is_none_or(|most| most == 1);
    if optional && (least > 0 || most.is_some()) && !one {
        let name = if most.is_some() { "maxProperties" } else { "minProperties" };
        return refuse(
            name,
            "beside optional properties it is kept only as one, and only where there are no others".into(),
        );
    }
    Ok(())
}

fn wrong(place: &str, expected: &str, found: &Value) -> FormError {
    let found = arrcoc_bundle::quote::one_line(&found.to_string(), 80);
    FormError::schema(place, format!("expected {expected}, found {found}"))
}
