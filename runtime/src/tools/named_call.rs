//! A call as a name, a separator and arguments in JSON.

use super::body::{Flow, Found, Offered};
use super::value::{End, Value};

/// Between name and arguments: Mistral's and DeepSeek's.
pub(super) const SEPARATORS: [&str; 2] = ["[ARGS]", "<｜tool▁sep｜>"];
/// Before the name, where there are several calls.
const BEGIN: &str = "<｜tool▁call▁begin｜>";
/// Mistral's identifier of a call, between name and separator.
const CALL_ID: &str = "[CALL_ID]";
/// What DeepSeek V3 writes in the place of the name, which follows with fenced JSON.
const FUNCTION: &str = "function";
const FENCE: &str = "\n```json\n";
/// Longest name that is waited for, with what stands around it, bytes.
const LONGEST: usize = 512;

/// Reads it, character by character.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct NamedCall {
    at: At,
    held: String,
    value: Value,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum At {
    #[default]
    Name,
    /// DeepSeek V3: in the line of the name and the fence behind it.
    Fenced,
    Arguments,
}

impl NamedCall {
    pub(super) fn push(&mut self, c: char, offered: &Offered, found: &mut Vec<Found>) -> Flow {
        if self.at == At::Arguments {
            return self.argue(c, found);
        }
        self.held.push(c);
        let (name, next) = match self.at {
            At::Name => {
                let ends = SEPARATORS.iter().find_map(|separator| self.held.strip_suffix(separator));
                let Some(name) = ends else { return self.wait() };
                let name = name.trim_start().strip_prefix(BEGIN).unwrap_or(name);
                let name = name.split(CALL_ID).next().unwrap_or(name).trim();
                let fenced = name == FUNCTION && !offered.has(name);
                (name.to_owned(), if fenced { At::Fenced } else { At::Arguments })
            }
            _ => {
                let Some(name) = self.held.strip_suffix(FENCE) else { return self.wait() };
                (name.trim().to_owned(), At::Arguments)
            }
        };
        self.held.clear();
        self.at = next;
        if next == At::Fenced {
            return Flow::More;
        }
        if !offered.has(&name) {
            return Flow::Broken;
        }
        found.push(Found::Name(name));
        Flow::More
    }

    fn wait(&self) -> Flow {
        if self.held.len() > LONGEST { Flow::Broken } else { Flow::More }
    }

    fn argue(&mut self, c: char, found: &mut Vec<Found>) -> Flow {
        let end = self.value.push(c);
        if end != End::Before && self.value.begun() {
            match found.last_mut() {
                Some(Found::Arguments(more)) => more.push(c),
                _ => found.push(Found::Arguments(c.into())),
            }
        }
        if end == End::No {
            return Flow::More;
        }
        if !self.value.begun() {
            found.push(Found::Arguments("{}".into()));
        }
        found.push(Found::End);
        Flow::Done { consumed: end == End::With }
    }
}
