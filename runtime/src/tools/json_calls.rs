//! Calls as objects of JSON: `{"name": ..., "arguments": {...}}`, alone or in a list.

use serde_json::Value as Json;

use super::body::{Flow, Found, Offered};
use super::value::{End, Value};

/// Longest name of a key or of a function that is waited for, bytes.
const LONGEST: usize = 512;

/// Reads them, character by character.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct JsonCalls {
    at: At,
    list: bool,
    /// An object has come.
    called: bool,
    object: Object,
}

#[derive(Debug, Clone, Default, PartialEq)]
enum At {
    /// Before an object.
    #[default]
    Outside,
    /// Before a key, or behind a value.
    Inside,
    /// In a key.
    Key,
    /// Behind a key.
    Colon,
    /// In a value.
    Value(Role, Value),
}

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Name,
    Arguments,
    Other,
}

/// What is known of an object.
#[derive(Debug, Clone, Default, PartialEq)]
struct Object {
    key: String,
    named: bool,
    /// The value that is being read, unless it is given out as it comes.
    held: String,
    /// Arguments that came before the name.
    early: Option<String>,
    /// Arguments were given out.
    argued: bool,
}

impl JsonCalls {
    pub(super) fn push(&mut self, c: char, offered: &Offered, found: &mut Vec<Found>) -> Flow {
        match &mut self.at {
            At::Outside => self.outside(c),
            At::Inside => self.inside(c, found),
            At::Key => {
                match c {
                    '"' => self.at = At::Colon,
                    _ if self.object.key.len() > LONGEST => return Flow::Broken,
                    _ => self.object.key.push(c),
                }
                Flow::More
            }
            At::Colon => {
                match c {
                    ':' => self.at = At::Value(self.role(), Value::default()),
                    c if c.is_whitespace() => {}
                    _ => return Flow::Broken,
                }
                Flow::More
            }
            At::Value(role, value) => {
                let (role, ends) = (*role, value.push(c));
                if !value.begun() && ends == End::No {
                    return Flow::More;
                }
                if ends != End::Before {
                    self.record(role, c, found);
                }
                if ends == End::No {
                    let long = role == Role::Name && self.object.held.len() > LONGEST;
                    return if long { Flow::Broken } else { Flow::More };
                }
                self.at = At::Inside;
                if !self.object.end_value(role, offered, found) {
                    return Flow::Broken;
                }
                if ends == End::Before { self.inside(c, found) } else { Flow::More }
            }
        }
    }

    fn outside(&mut self, c: char) -> Flow {
        match c {
            '{' => self.at = At::Inside,
            '[' if !self.list => self.list = true,
            ']' if self.list && self.called => return Flow::Done { consumed: true },
            ',' if self.list => {}
            c if c.is_whitespace() => {}
            _ => return Flow::Broken,
        }
        Flow::More
    }

    fn inside(&mut self, c: char, found: &mut Vec<Found>) -> Flow {
        match c {
            '"' => {
                self.object.key.clear();
                self.at = At::Key;
            }
            '}' => {
                let object = std::mem::take(&mut self.object);
                if !object.named {
                    return Flow::Broken;
                }
                if !object.argued {
                    found.push(Found::Arguments("{}".into()));
                }
                found.push(Found::End);
                self.at = At::Outside;
                self.called = true;
                return if self.list { Flow::More } else { Flow::Done { consumed: true } };
            }
            ',' => {}
            c if c.is_whitespace() => {}
            _ => return Flow::Broken,
        }
        Flow::More
    }

    fn role(&self) -> Role {
        match self.object.key.as_str() {
            "name" if !self.object.named => Role::Name,
            "arguments" | "parameters" if !self.object.argued && self.object.early.is_none() => {
                Role::Arguments
            }
            _ => Role::Other,
        }
    }

    /// Objects are given out as they come, once the name is known.
    fn record(&mut self, role: Role, c: char, found: &mut Vec<Found>) {
        let object = &mut self.object;
        match role {
            Role::Arguments if object.named && (object.argued || (c == '{' && object.held.is_empty())) => {
                object.argued = true;
                match found.last_mut() {
                    Some(Found::Arguments(more)) => more.push(c),
                    _ => found.push(Found::Arguments(c.into())),
                }
            }
            Role::Other => {}
            Role::Name | Role::Arguments => object.held.push(c),
        }
    }
}

impl Object {
    /// Ends a value; false for what no call has.
    fn end_value(&mut self, role: Role, offered: &Offered, found: &mut Vec<Found>) -> bool {
        let held = std::mem::take(&mut self.held);
        match role {
            Role::Name => {
                let Ok(name) = serde_json::from_str::<String>(&held) else { return false };
                if !offered.has(&name) {
                    return false;
                }
                self.named = true;
                found.push(Found::Name(name));
                if let Some(early) = self.early.take() {
                    self.argued = true;
                    found.push(Found::Arguments(early));
                }
            }
            Role::Arguments if !self.argued => {
                let arguments = match serde_json::from_str::<Json>(&held) {
                    Ok(Json::Null) => "{}".to_owned(),
                    // Some models write the object as a string.
                    Ok(Json::String(text)) => text,
                    _ => held,
                };
                if self.named {
                    self.argued = true;
                    found.push(Found::Arguments(arguments));
                } else {
                    self.early = Some(arguments);
                }
            }
            Role::Arguments | Role::Other => {}
        }
        true
    }
}
