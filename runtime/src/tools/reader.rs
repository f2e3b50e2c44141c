//! Tells the calls of an answer from its text, while it arrives.

use super::body::{Flow, Found, Offered};
use super::json_calls::JsonCalls;
use super::named_call::NamedCall;
use super::xml_call::XmlCall;
use super::{Body, Syntax};
use crate::generate::{CallPiece, ToolChoice, Tools};

/// What an answer has become richer by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    /// Text that is certain.
    pub(crate) text: String,
    /// Calls, in order.
    pub(crate) calls: Vec<CallPiece>,
    /// The answer has the one call that it may have.
    pub(crate) complete: bool,
}

/// Reads one answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reader {
    syntax: &'static Syntax,
    offered: Offered,
    /// Calls may begin the answer without a marker.
    bare: bool,
    single: bool,
    state: State,
    /// In text: what may yet be a marker, or white space before one.
    held: String,
    /// In a body: what has come since the last complete call.
    raw: String,
    /// Length of the marker in it, with white space before it.
    opened: usize,
    /// Of the call that is read, or comes next.
    index: usize,
    /// Its name was given out.
    open: bool,
    /// Nothing but white space and markers has come since a call.
    behind_call: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum State {
    Text,
    Json(JsonCalls),
    Named(NamedCall),
    Xml(XmlCall),
}

/// What stands in held text.
enum Marker {
    /// A call begins: where its marker does, and where its body does.
    Opening(usize, usize),
    /// What means nothing: where it ends.
    Closing(usize),
}

impl Reader {
    /// Reads an answer that may call these tools, or must.
    pub(crate) fn new(syntax: &'static Syntax, tools: &Tools) -> Self {
        Self {
            syntax,
            offered: Offered::of(tools),
            bare: syntax.bare,
            single: tools.single || matches!(tools.choice, ToolChoice::Function(_)),
            state: State::Text,
            held: String::new(),
            raw: String::new(),
            opened: 0,
            index: 0,
            open: false,
            behind_call: false,
        }
    }

    /// The same for an answer that is bound to calls, or to a form beside them.
    #[must_use]
    pub(crate) fn bound(self) -> Self {
        Self { bare: self.syntax.bound.bare, ..self }
    }

    /// Adds text.
    pub(crate) fn push(&mut self, text: &str) -> Heard {
        let (mut heard, mut rest) = (Heard::default(), text.to_owned());
        while !heard.complete {
            let more = match self.state {
                State::Text => self.read_text(&rest, &mut heard),
                _ => self.read_body(&rest, &mut heard),
            };
            match more {
                Some(more) => rest = more,
                None => break,
            }
        }
        heard
    }

    /// Ends the answer: what was held back is text, unless it is part of a call that has begun.
    pub(crate) fn finish(&mut self) -> Heard {
        let held = std::mem::take(&mut self.held);
        let raw = std::mem::take(&mut self.raw);
        let mut heard = Heard::default();
        if let State::Xml(body) = &mut self.state {
            let mut found = Vec::new();
            body.finish(&self.offered, &mut found);
            self.note(&mut found, &mut heard);
        }
        let held = if matches!(self.state, State::Text) { held } else { raw };
        // Syntax of a call that was given out, or the end of a line behind one.
        let silent = self.open || self.behind_call && held.trim().is_empty();
        Heard { text: if silent { String::new() } else { held }, ..heard }
    }

    /// Takes text up to a marker; returns what stands behind it.
    fn read_text(&mut self, text: &str, heard: &mut Heard) -> Option<String> {
        self.held.push_str(text);
        match self.marker() {
            Some(Marker::Opening(from, to)) => {
                let before = self.held[..from].trim_end();
                // With white space before the marker: it is text where this is no call.
                self.raw = self.held[before.len()..to].to_owned();
                self.opened = self.raw.len();
                let before = if self.behind_call { before.trim_start() } else { before };
                self.bare &= before.is_empty();
                heard.text.push_str(before);
                self.state = self.body(&self.held[from..to]);
                let rest = self.held.split_off(to);
                self.held.clear();
                Some(rest)
            }
            Some(Marker::Closing(to)) => {
                let rest = self.held.split_off(to);
                self.held.clear();
                Some(rest)
            }
            None => {
                let certain = self.certain();
                let held = self.held.split_off(certain);
                let text = std::mem::replace(&mut self.held, held);
                let text = if self.behind_call { text.trim_start() } else { text.as_str() };
                if !text.is_empty() {
                    self.bare = false;
                    self.behind_call = false;
                }
                heard.text.push_str(text);
                None
            }
        }
    }

    /// The first marker of what is held.
    fn marker(&self) -> Option<Marker> {
        let start = self.held.len() - self.held.trim_start().len();
        if self.behind_call {
            let closing = |marker: &&&str| self.held[start..].starts_with(**marker);
            if let Some(marker) = self.syntax.closing.iter().find(closing) {
                return Some(Marker::Closing(start + marker.len()));
            }
        }
        if self.bare && self.held[start..].starts_with(['{', '[']) {
            return Some(Marker::Opening(start, start));
        }
        let found = self.syntax.opening.iter().filter_map(|marker| {
            let at = self.held.find(marker)?;
            Some((at, at + marker.len()))
        });
        let (from, to) = found.min_by_key(|(at, end)| (*at, std::cmp::Reverse(*end)))?;
        Some(Marker::Opening(from, to))
    }

    /// Length of held text that belongs to no marker, and is no white space before one.
    fn certain(&self) -> usize {
        if self.behind_call {
            let begun = self.held.trim_start();
            if begun.is_empty() || self.syntax.closing.iter().any(|marker| marker.starts_with(begun)) {
                return 0;
            }
        }
        let longest = self.syntax.opening.iter().map(|marker| marker.len()).max().unwrap_or(0);
        let first = (self.held.len() + 1).saturating_sub(longest);
        let boundaries = (first..self.held.len()).filter(|at| self.held.is_char_boundary(*at));
        let mut marked = boundaries
            .filter(|at| self.syntax.opening.iter().any(|marker| marker.starts_with(&self.held[*at..])));
        let end = marked.next().unwrap_or(self.held.len());
        self.held[..end].trim_end().len()
    }

    fn body(&self, marker: &str) -> State {
        match self.syntax.body {
            Body::Xml if marker == "<function=" => State::Xml(XmlCall::within()),
            Body::Xml => State::Xml(XmlCall::default()),
            Body::Named if !marker.is_empty() => State::Named(NamedCall::default()),
            // Without a marker it is JSON.
            Body::Named | Body::Json => State::Json(JsonCalls::default()),
        }
    }

    /// Takes the body of calls; returns what stands behind it.
    fn read_body(&mut self, text: &str, heard: &mut Heard) -> Option<String> {
        let mut found = Vec::new();
        for (at, c) in text.char_indices() {
            let flow = match &mut self.state {
                State::Json(body) => body.push(c, &self.offered, &mut found),
                State::Xml(body) => body.push(c, &self.offered, &mut found),
                State::Named(body) => match c {
                    // Mistral's older form.
                    '[' | '{' if self.raw.trim_end().ends_with("[TOOL_CALLS]") => {
                        let mut body = JsonCalls::default();
                        let flow = body.push(c, &self.offered, &mut found);
                        self.state = State::Json(body);
                        flow
                    }
                    c => body.push(c, &self.offered, &mut found),
                },
                State::Text => Flow::Broken,
            };
            self.raw.push(c);
            let next = at + c.len_utf8();
            self.note(&mut found, heard);
            if heard.complete {
                return None;
            }
            let rest = match flow {
                Flow::More => continue,
                Flow::Done { consumed } => text[if consumed { next } else { at }..].to_owned(),
                Flow::Behind(held) => held + &text[next..],
                Flow::Broken => {
                    // The marker was none; what stands behind it may hold one.
                    let behind = self.raw.split_off(self.opened.min(self.raw.len()));
                    heard.text.push_str(&std::mem::take(&mut self.raw));
                    self.bare = false;
                    self.index += usize::from(std::mem::take(&mut self.open));
                    self.behind_call = false;
                    behind + &text[next..]
                }
            };
            self.raw.clear();
            self.state = State::Text;
            return Some(rest);
        }
        None
    }

    /// Gives out what a body has.
    fn note(&mut self, found: &mut Vec<Found>, heard: &mut Heard) {
        for found in found.drain(..) {
            let index = self.index;
            let (name, arguments) = match found {
                Found::Name(name) => {
                    self.open = true;
                    (Some(name), String::new())
                }
                Found::Arguments(arguments) => (None, arguments),
                Found::End => {
                    self.index += 1;
                    self.open = false;
                    self.raw.clear();
                    self.opened = 0;
                    self.behind_call = true;
                    heard.complete = self.single;
                    continue;
                }
            };
            // From here on it is a call and no text, even where it is broken off.
            self.raw.clear();
            self.opened = 0;
            match heard.calls.last_mut() {
                Some(last) if name.is_none() && last.index == index => last.arguments.push_str(&arguments),
                _ => heard.calls.push(CallPiece { index, name, arguments }),
            }
        }
    }
}
