//! Whether a template and a tokenizer can serve: a few conversations are put to them before anybody asks.
//!
//! Templates differ in what they read: strings, lists of parts, or both. One that reads the other form drops
//! the text without a word, so the form is found out here, once, and a template that loses what a user says
//! is refused.

use super::Prompter;
use super::jinja::Failure;
use super::template::Reads;
use crate::error::LoadError;
use crate::generate::{Image, Message, Part, Prompt, Speaker};
use crate::vision::ImagePlan;

const FILE: &str = arrcoc_bundle::names::file::CHAT_TEMPLATE;

/// What the probing user says. Templates for models that think cut texts at `</think>`, and keep one side.
const WORDS: [&str; 2] = ["kevuda mirosi", "lutapo</think>kevuda mirosi"];
/// What must come through.
const KEPT: &str = "kevuda mirosi";

/// A part in a rendered list that the template did not take apart: as Python prints it, and as JSON.
const UNREAD: [&str; 2] = ["'type': 'text'", "\"type\": \"text\""];

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
    let system = says(Speaker::System, vec![text("pofane")]);
    let answer = says(Speaker::Assistant, vec![text("dunari")]);
    [vec![user(words)], vec![system, user(words)], vec![user(words), answer, user(words)]]
}

fn refused(reason: String) -> LoadError {
    LoadError::Text { file: FILE, reason }
}

impl Prompter {
    /// Finds out how the template reads contents, and that it can serve.
    pub(super) fn probe(&mut self) -> Result<(), LoadError> {
        self.template.reads = self.find_reads()?;
        self.probe_turns()?;
        self.probe_images(1)?;
        self.probe_images(2)
    }

    fn find_reads(&self) -> Result<Reads, LoadError> {
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
    fn comes_through(&self, reads: Reads) -> Result<(), String> {
        let mut reason = None;
        for words in WORDS {
            for conversation in conversations(words) {
                let rendered = match self.template.try_render(&conversation, Vec::new(), reads) {
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
            match self.template.try_render(&conversation, Vec::new(), self.template.reads) {
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
        match self.template.try_render(&conversation, Vec::new(), self.template.reads) {
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
