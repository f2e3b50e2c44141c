//! From messages to what the decoder reads: the chat template, tokens, and the places of the images among
//! them.

use arrcoc_bundle::names::file;
use std::ops::Range;
use std::path::Path;

use tokenizers::Tokenizer;

use crate::error::LoadError;
use crate::generate::{Conversation, GenerateError, Prompt};
use crate::text::{Calls, Markers, Thoughts, Vocabulary};
use crate::tools::{Reader, Syntax};
use crate::vision::{ImagePlan, Span};
use arrcoc_bundle::quote::Brief;
use arrcoc_bundle::small::{LFS_ADVICE, is_lfs_pointer};
use arrcoc_bundle::{Bundle, ToolSyntax};

mod jinja;
mod probe;
mod template;
mod tokenize;
mod turns;

use jinja::{Pieces, Text};
use template::ChatTemplate;
pub use template::default_template;
use tokenize::PromptTokenizer;
use turns::said;

/// The question that tokens are chosen for when the last user message holds no text of its own (an image
/// alone, say).
pub const FALLBACK_QUESTION: &str = "Describe the image.";

/// Text longer than this many times the longest token, per token of context, cannot fit whatever the
/// normaliser does to it (composing a character shortens it to no less than a quarter).
const NORMALISER_FACTOR: usize = 4;

/// Part of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// Token ids, at least one.
    Tokens(Vec<u32>),
    /// Visual rows of an image.
    Rows {
        /// The image's index, in order of appearance.
        image: usize,
        /// Which run of its plan.
        run: usize,
        /// How many at most.
        most: usize,
    },
}

/// A prompt whose images are not embedded yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    /// In decoder order.
    pub segments: Vec<Segment>,
    /// What tokens are chosen for: the text of the last user message, tokenised alone. Empty without images.
    pub question: Vec<u32>,
    /// Number of images.
    pub images: usize,
    /// Most visual rows of all images together.
    pub most_rows: usize,
    /// How answers begin, where the model may think before it answers.
    pub thoughts: Option<Thoughts>,
    /// How calls in answers are read, where the model may call something.
    pub calls: Option<Calls>,
}

impl Layout {
    /// Number of tokens that are not visual.
    pub fn text_tokens(&self) -> usize {
        self.segments.iter().map(|s| if let Segment::Tokens(ids) = s { ids.len() } else { 0 }).sum()
    }

    /// The prompt's ids, one placeholder per run of visual rows: what the repetition penalty counts as seen.
    pub fn ids(&self, image_token_id: u32) -> Vec<u32> {
        let mut ids = Vec::new();
        for segment in &self.segments {
            match segment {
                Segment::Tokens(tokens) => ids.extend_from_slice(tokens),
                Segment::Rows { .. } => ids.push(image_token_id),
            }
        }
        ids
    }
}

/// Reads a `tokenizer.json`.
///
/// # Errors
/// What is wrong with it. The library panics over some damaged files; that is an error here like any other.
pub fn read_tokenizer(json: &[u8]) -> Result<Tokenizer, String> {
    tokenize::bound_searches();
    if is_lfs_pointer(json) {
        return Err(LFS_ADVICE.to_owned());
    }
    let read = std::panic::catch_unwind(|| Tokenizer::from_bytes(json));
    let read = read.map_err(|_| "the tokenizers library cannot make sense of it".to_owned())?;
    read.map_err(|error| Brief(error).to_string())
}

/// Writes prompts for one model.
pub struct Prompter {
    tokenizer: PromptTokenizer,
    template: ChatTemplate,
    vocabulary: Vocabulary,
    markers: Option<Markers>,
    /// How the template shows calls, where it does.
    syntax: Option<&'static Syntax>,
    image_token_id: u32,
    /// The same as templates write it.
    image_token: String,
}

impl Prompter {
    /// Reads `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja` of a bundle.
    ///
    /// # Errors
    /// [`LoadError`] names the file and what is wrong with it.
    pub fn load(bundle: &Bundle) -> Result<Self, LoadError> {
        let tokenizer = read(bundle, file::TOKENIZER)?;
        let config = match bundle.file_path(file::TOKENIZER_CONFIG) {
            Ok(path) => read_path(path, file::TOKENIZER_CONFIG)?,
            Err(_) => "{}".into(),
        };
        let template = match bundle.file_path(file::CHAT_TEMPLATE) {
            Ok(path) => Some(read_path(path, file::CHAT_TEMPLATE)?),
            Err(_) => None,
        };
        let manifest = bundle.manifest();
        let mut prompter = Self::new(&tokenizer, &config, template, manifest.vision.image_token_id)?;
        if let Some(name) = manifest.tool_calls {
            prompter.syntax = Some(Syntax::named(name));
        }
        // The placeholder is never embedded, so it may lie beyond the table.
        let largest = prompter.vocabulary.largest_besides(manifest.vision.image_token_id);
        let rows = manifest.decoder.vocab_size;
        if largest >= rows {
            let reason = format!("expected token ids below the model's {rows}, found {largest}");
            return Err(LoadError::Text { file: file::TOKENIZER, reason });
        }
        Ok(prompter)
    }

    /// As [`Prompter::load`], from the files' text. Without `template`, the one in `config` is taken. A few
    /// conversations are put to template and tokenizer, so that what cannot serve is refused here.
    ///
    /// # Errors
    /// As [`Prompter::load`].
    pub fn new(
        tokenizer: &str,
        config: &str,
        template: Option<String>,
        image_token_id: u32,
    ) -> Result<Self, LoadError> {
        let in_tokenizer = |reason: String| LoadError::Text { file: file::TOKENIZER, reason };
        let tokenizer = read_tokenizer(tokenizer.as_bytes()).map_err(in_tokenizer)?;
        let vocabulary = Vocabulary::new(&tokenizer).map_err(|error| in_tokenizer(error.to_string()))?;
        let image_token = tokenizer.id_to_token(image_token_id).unwrap_or_default();
        let template = ChatTemplate::new(config, template, &image_token)?;
        let markers = Markers::of(&tokenizer);
        let tokenizer = PromptTokenizer::new(&tokenizer, image_token_id).map_err(in_tokenizer)?;
        let syntax = None;
        let mut prompter =
            Self { tokenizer, template, vocabulary, markers, syntax, image_token_id, image_token };
        prompter.probe()?;
        Ok(prompter)
    }

    /// How the model calls tools, where its template shows that.
    pub fn tool_syntax(&self) -> Option<ToolSyntax> {
        self.syntax.map(|syntax| syntax.name)
    }

    /// How calls are written and read: as the template shows them, else in the manner in which tools are
    /// written into messages.
    pub(crate) fn syntax(&self) -> &'static Syntax {
        self.syntax.unwrap_or_else(|| Syntax::named(ToolSyntax::Hermes))
    }

    /// The tokens that the tokenizer's configuration names, with their texts.
    pub fn named_tokens(&self) -> &[(String, String)] {
        self.template.tokens()
    }

    /// The bytes of every token.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Tokenises text in which nothing is a control token.
    ///
    /// # Errors
    /// [`GenerateError::Internal`] when the tokenizer fails.
    pub fn tokenize(&self, text: &str) -> Result<Vec<u32>, GenerateError> {
        self.tokenizer.encode_plain(text)
    }

    /// Renders and tokenises a prompt of at most about `context_length` tokens.
    ///
    /// Control tokens are recognised where the template writes them, and not in what a message says: a user
    /// who types `<|im_end|>` or `<|image_pad|>` sends those characters. In the place of each image stands
    /// what its plan says, in the order of `plans`. A raw prompt ([`Prompt::Text`]) is the caller's own
    /// template, so control tokens in it count.
    ///
    /// # Errors
    /// [`GenerateError::Invalid`] when the template refuses the messages or cannot put them, or they cannot
    /// fit; [`GenerateError::Internal`] when the tokenizer fails.
    pub fn layout(
        &self,
        prompt: &Prompt,
        plans: &[ImagePlan],
        context_length: usize,
    ) -> Result<Layout, GenerateError> {
        self.check_size(prompt, context_length)?;
        match prompt {
            Prompt::Text(text) => self.raw_layout(self.tokenizer.encode_raw(text)?),
            Prompt::Tokens(ids) => {
                let known = |id: u32| (id as usize) < self.vocabulary.ids() && id != self.image_token_id;
                if let Some(id) = ids.iter().find(|id| !known(**id)) {
                    let most = self.vocabulary.ids();
                    let message = format!(
                        "expected ids of the model's tokens, below {most} and none of an image's place, found {id}"
                    );
                    return Err(invalid("prompt", message));
                }
                self.raw_layout(ids.clone())
            }
            Prompt::Chat(conversation) => self.chat_layout(conversation, plans, context_length),
        }
    }

    fn raw_layout(&self, ids: Vec<u32>) -> Result<Layout, GenerateError> {
        if ids.is_empty() {
            return Err(invalid("prompt", "expected a prompt of at least one token, found none".into()));
        }
        let segments = vec![Segment::Tokens(ids)];
        let (question, thoughts, calls) = (Vec::new(), None, None);
        Ok(Layout { segments, question, images: 0, most_rows: 0, thoughts, calls })
    }

    fn chat_layout(
        &self,
        conversation: &Conversation,
        plans: &[ImagePlan],
        context_length: usize,
    ) -> Result<Layout, GenerateError> {
        let messages = conversation.messages.as_slice();
        if messages.is_empty() {
            return Err(invalid("messages", "expected at least one message, found none".into()));
        }
        let rendered = self.template.render(conversation)?;
        self.check_length("messages", rendered.as_str().len(), context_length)?;
        // As transformers' processors do: the tokenizer adds its own tokens, unless the template has begun
        // with them.
        let begun = self.template.token("bos_token").is_some_and(|bos| rendered.as_str().starts_with(bos));
        let places = self.image_places(&rendered);
        if places.len() != plans.len() {
            let (found, images) = (places.len(), plans.len());
            return Err(invalid(
                "messages",
                format!(
                    "the model's chat template writes {found} image places for {images} images; expected exactly one \
                     image token for each"
                ),
            ));
        }
        let expanded = expand(&rendered, &places, plans, &self.image_token);
        let ids = self.tokenizer.encode_rendered(expanded.as_str(), expanded.ranges(), !begun)?;
        let segments = split_images(&ids, self.image_token_id, plans);
        let question = match plans {
            [] => Vec::new(),
            _ => match self.tokenize(&question(conversation))? {
                // Some tokenizers make nothing of what is something to others.
                ids if ids.is_empty() => self.tokenize(FALLBACK_QUESTION)?,
                ids => ids,
            },
        };
        let most_rows = plans.iter().map(ImagePlan::most_rows).sum();
        let thoughts = self.markers.map(|markers| markers.behind(&ids));
        let calls = self.calls(conversation);
        Ok(Layout { segments, question, images: plans.len(), most_rows, thoughts, calls })
    }

    /// How calls in answers are read, where something may be called.
    fn calls(&self, conversation: &Conversation) -> Option<Calls> {
        let tools = &conversation.tools;
        if tools.functions.is_empty() {
            return None;
        }
        let syntax = self.syntax();
        let markers = syntax.markers().filter_map(|marker| self.tokenizer.control_token(marker)).collect();
        Some(Calls { reader: Reader::new(syntax, tools), markers })
    }

    /// Where the template has put image tokens; what messages say does not count.
    fn image_places(&self, rendered: &Text) -> Vec<Range<usize>> {
        let said = rendered.ranges();
        let places = rendered.as_str().match_indices(&self.image_token);
        let places = places.map(|(start, token)| start..start + token.len());
        let own = |place: &Range<usize>| {
            let first = said.partition_point(|said| said.end <= place.start);
            said.get(first).is_none_or(|said| said.start >= place.end)
        };
        places.filter(own).collect()
    }

    /// Refuses text that is far too long before time is spent on it.
    fn check_size(&self, prompt: &Prompt, context_length: usize) -> Result<(), GenerateError> {
        let (field, bytes) = match prompt {
            Prompt::Text(text) => ("prompt", text.len()),
            Prompt::Tokens(ids) => ("prompt", ids.len()),
            Prompt::Chat(Conversation { messages, .. }) => {
                ("messages", messages.iter().flat_map(said).map(str::len).sum())
            }
        };
        self.check_length(field, bytes, context_length)
    }

    fn check_length(
        &self,
        field: &'static str,
        bytes: usize,
        context_length: usize,
    ) -> Result<(), GenerateError> {
        let most = context_length.saturating_mul(self.vocabulary.longest()).saturating_mul(NORMALISER_FACTOR);
        if bytes > most {
            return Err(invalid(
                field,
                format!(
                    "expected at most {context_length} tokens of context, found {bytes} bytes of text, which \
                         are more tokens than that; shorten the text"
                ),
            ));
        }
        Ok(())
    }
}

/// What a chooser of tokens is asked.
fn question(conversation: &Conversation) -> String {
    let question = conversation.question();
    if question.trim().is_empty() { FALLBACK_QUESTION.into() } else { question }
}

/// Puts each image's plan in its place: texts as they are, a run of visual rows as one image token.
fn expand(rendered: &Text, places: &[Range<usize>], plans: &[ImagePlan], image_token: &str) -> Text {
    let plain = |plan: &ImagePlan| matches!(plan.spans.as_slice(), [Span::Rows(_)]);
    if plans.iter().all(plain) {
        return rendered.clone();
    }
    let (mut expanded, mut from) = (Pieces::default(), 0);
    for (place, plan) in places.iter().zip(plans) {
        expanded.push(&rendered.slice(from..place.start));
        for span in &plan.spans {
            match span {
                Span::Text(text) => expanded.push(&Text::own(text)),
                Span::Rows(_) => expanded.push(&Text::own(image_token)),
            }
        }
        from = place.end;
    }
    expanded.push(&rendered.slice(from..rendered.as_str().len()));
    expanded.finish()
}

/// Cuts ids at the image placeholders, one for each run of the plans.
fn split_images(ids: &[u32], image_token_id: u32, plans: &[ImagePlan]) -> Vec<Segment> {
    let mut runs = plans.iter().enumerate().flat_map(|(image, plan)| {
        let rows =
            plan.spans.iter().filter_map(|span| if let Span::Rows(most) = span { Some(*most) } else { None });
        rows.enumerate().map(move |(run, most)| Segment::Rows { image, run, most })
    });
    let mut segments = Vec::new();
    for (index, tokens) in ids.split(|id| *id == image_token_id).enumerate() {
        if index > 0 {
            segments.extend(runs.next());
        }
        if !tokens.is_empty() {
            segments.push(Segment::Tokens(tokens.to_vec()));
        }
    }
    segments
}

fn invalid(field: &'static str, message: String) -> GenerateError {
    GenerateError::Invalid { field, message }
}

fn read(bundle: &Bundle, file: &'static str) -> Result<String, LoadError> {
    read_path(bundle.file_path(file)?, file)
}

fn read_path(path: &Path, file: &'static str) -> Result<String, LoadError> {
    std::fs::read_to_string(path).map_err(|error| LoadError::Text { file, reason: error.to_string() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod table;
#[cfg(test)]
mod tests;
