//! Whether a template and a tokenizer can serve: a few conversations are put to them before anybody asks.
//!
//! Templates differ in what they read: strings, lists of parts, or both. One that reads the other form drops
//! the text without a word, so the form is found out here, once, and a template that loses what a user says
//! is refused.

use serde_json::json;

use super::Prompter;
use super::jinja::{Failure, RenderError, Text};
use super::template::{Reads, ReadsTools};
use super::turns;
use crate::error::LoadError;
use crate::generate::{Function, Image, Message, Part, Prompt, Speaker, ToolCall, Tools};
use crate::tools::{EXAMPLE, Syntax};
use crate::vision::ImagePlan;

const FILE: &str = arrcoc_bundle::names::file::CHAT_TEMPLATE;

/// What the probing user says. Templates for models that think cut texts at `</think>`, and keep one side.
const WORDS: [&str; 2] = ["kevuda mirosi", "lutapo</think>kevuda mirosi"];
/// What must come through.
const KEPT: &str = "kevuda mirosi";

/// A part in a rendered list that the template did not take apart: as Python prints it, and as JSON.
const UNREAD: [&str; 2] = ["'type': 'text'", "\"type\": \"text\""];

/// Instructions.
const INSTRUCTIONS: &str = "pofane";
/// The argument of the call of [`EXAMPLE`]; syntaxes have it in their signs.
const ARGUMENT: &str = "mirosi";
/// Its value.
const VALUE: &str = "dunari";
/// What the function does.
const DOES: &str = "gasole";
/// What came of it.
const RESULT: &str = "lutapo";

/// Context for probes, tokens.
const CONTEXT: usize = 1 << 16;

fn text(text: &str) -> Part {
    Part::Text(text.into())
}

fn image() -> Part {
    Part::Image(Image::default())
}

fn says(speaker: Speaker, content: Vec<Part>) -> Message {
    Message::new(speaker, content)
}

/// Conversations that end in what the user says: alone, behind instructions, behind an answer.
fn conversations(words: &str) -> [Vec<Message>; 3] {
    let user = |words: &str| says(Speaker::User, vec![text(words)]);
    let system = says(Speaker::System, vec![text(INSTRUCTIONS)]);
    let answer = says(Speaker::Assistant, vec![text("dunari")]);
    [vec![user(words)], vec![system, user(words)], vec![user(words), answer, user(words)]]
}

fn refused(reason: String) -> LoadError {
    LoadError::Text { file: FILE, reason }
}

impl Prompter {
    /// Finds out how the template reads contents and tools, and that it can serve.
    pub(super) fn probe(&mut self) -> Result<(), LoadError> {
        self.template.reads = self.find_reads()?;
        let [_, instructed, _] = conversations(WORDS[0]);
        let instructed = self.try_render(&instructed);
        self.template.reads_system =
            instructed.is_ok_and(|rendered| rendered.as_str().contains(INSTRUCTIONS));
        self.syntax = self.find_tools();
        self.probe_turns()?;
        self.probe_images(1)?;
        self.probe_images(2)
    }

    fn try_render(&self, conversation: &[Message]) -> Result<Text, RenderError> {
        self.template.try_render(&turns::plain(conversation), &Tools::default(), Vec::new())
    }

    /// Whether the template has places for tools, calls and results, and in which syntax it shows calls. One
    /// that lacks a place, or writes calls as nobody here reads them, gets tools in messages.
    fn find_tools(&mut self) -> Option<&'static Syntax> {
        for objects in [true, false] {
            self.template.reads_tools = Some(ReadsTools { objects });
            if let Some(syntax) = self.shown_syntax() {
                return Some(syntax);
            }
        }
        self.template.reads_tools = None;
        None
    }

    fn shown_syntax(&self) -> Option<&'static Syntax> {
        let parameters =
            json!({"type": "object", "properties": {ARGUMENT: {"type": "string"}}, "required": [ARGUMENT]});
        let function = json!({"name": EXAMPLE, "description": DOES, "parameters": parameters});
        let described = json!({"type": "function", "function": function});
        let function = Function { name: EXAMPLE.into(), parameters: Some(parameters), described };
        let tools = Tools { functions: vec![function], ..Tools::default() };
        let id = Some("kevuda001".to_owned());
        let call = ToolCall { id: id.clone(), name: EXAMPLE.into(), arguments: json!({ARGUMENT: VALUE}) };
        let calls = Message { calls: vec![call], ..says(Speaker::Assistant, vec![text("")]) };
        let name = Some(EXAMPLE.to_owned());
        let result = Message { call_id: id, name, ..says(Speaker::Tool, vec![text(RESULT)]) };
        let asked = says(Speaker::User, vec![text("what")]);
        let called = turns::plain(&[asked.clone(), calls, result]);
        let called = self.template.try_render(&called, &tools, Vec::new()).ok()?;
        let called = called.as_str();
        // Some show what may be called in the last user's turn alone.
        let offered = self.template.try_render(&turns::plain(&[asked]), &tools, Vec::new()).ok()?;
        let through =
            [VALUE, RESULT].iter().all(|word| called.contains(word)) && offered.as_str().contains(DOES);
        Syntax::shown_by(called).filter(|_| through)
    }

    fn find_reads(&mut self) -> Result<Reads, LoadError> {
        let only_strings = Reads { strings: true, lists: false };
        let only_lists = Reads { strings: false, lists: true };
        let strings = self.comes_through(only_strings);
        let lists = self.comes_through(only_lists);
        match (strings, lists) {
            (Err(reason), Err(_)) => Err(refused(reason)),
            (strings, lists) => Ok(Reads { strings: strings.is_ok(), lists: lists.is_ok() }),
        }
    }

    /// Whether what a user says in this form is in some rendering, or why not.
    fn comes_through(&mut self, reads: Reads) -> Result<(), String> {
        self.template.reads = reads;
        let mut reason = None;
        for words in WORDS {
            for conversation in conversations(words) {
                let rendered = match self.try_render(&conversation) {
                    Ok(rendered) => rendered,
                    Err(error) if matches!(error.failure, Failure::Exhausted(_)) => {
                        return Err(format!("it cannot put a question ({error})"));
                    }
                    Err(error) => {
                        reason.get_or_insert(format!("it cannot put a question ({error})"));
                        continue;
                    }
                };
                let rendered = rendered.as_str();
                let unread = reads.lists && UNREAD.iter().any(|part| rendered.contains(part));
                if rendered.contains(KEPT) && !unread {
                    return Ok(());
                }
                let lost = "what a user says is not in the prompt that it writes, neither as a string nor as a list of parts";
                reason = Some(lost.to_owned());
            }
        }
        Err(reason.unwrap_or_default())
    }

    /// Conversations without images: each must be put, or be refused by the template's own words.
    fn probe_turns(&self) -> Result<(), LoadError> {
        let mut turns: Vec<(Vec<Message>, &str)> = Vec::new();
        for conversation in conversations(WORDS[0]) {
            turns.push((conversation, "a conversation"));
        }
        let two = vec![text("kevuda"), text("mirosi")];
        turns.push((vec![says(Speaker::User, two)], "a message of two texts"));
        turns.push((vec![says(Speaker::User, vec![text("")])], "an empty message"));
        for (conversation, what) in turns {
            match self.try_render(&conversation) {
                Err(error) if !matches!(error.failure, Failure::Raised(_)) => {
                    return Err(refused(format!("it cannot put {what} ({error})")));
                }
                Err(_) => {}
                Ok(_) => {
                    let layout = self.layout(&Prompt::from(conversation), &[], CONTEXT);
                    layout.map_err(|error| refused(format!("it cannot put {what} ({error})")))?;
                }
            }
        }
        Ok(())
    }

    /// A question about images, which must have their places. A template may refuse several in its own words.
    fn probe_images(&self, images: usize) -> Result<(), LoadError> {
        let places = || (0..images).map(|_| image());
        let first = places().chain([text(WORDS[0])]).collect();
        let outcome = self.probe_image_message(first, images);
        if outcome.is_ok() || self.template.reads.lists {
            return outcome;
        }
        // In a string an image's place is cut off with the text around it; it need not be, behind what is
        // kept.
        let last = [text(WORDS[1])].into_iter().chain(places()).collect();
        self.probe_image_message(last, images).or(outcome)
    }

    fn probe_image_message(&self, content: Vec<Part>, images: usize) -> Result<(), LoadError> {
        let conversation = vec![says(Speaker::User, content)];
        match self.try_render(&conversation) {
            Err(error) if !matches!(error.failure, Failure::Raised(_)) => {
                Err(refused(format!("it cannot put a question about {images} image(s) ({error})")))
            }
            // Some refuse a conversation without instructions.
            Err(_) => Ok(()),
            Ok(_) => {
                match self.layout(&Prompt::from(conversation), &vec![ImagePlan::rows(1); images], CONTEXT) {
                    Ok(_) => Ok(()),
                    Err(error) => Err(refused(format!("a question about {images} image(s): {error}"))),
                }
            }
        }
    }
}
