//! Answers that keep a form: JSON of a schema, an expression, one of several texts, a grammar.
//!
//! The crate `llguidance` computes, token by token, what may come next ([`Guide`]). A form is compiled when
//! its request is admitted ([`Forms::compile`]), within limits of size, time and memory. A schema is
//! rewritten before that ([`schema`]), so that the library is asked only for what it keeps to the letter,
//! and what cannot be kept is refused with its place.
//!
//! What a form sees of a token are its bytes. Control tokens have none here: no form can ask for one.

use std::sync::{Arc, OnceLock};

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{
    ApproximateTokEnv, INVALID_TOKEN, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie,
};
use llguidance::{Matcher, ParserFactory};

use crate::generate::{Form, Sampling, ToolChoice};
use crate::text::Vocabulary;
use error::{limit, said};

mod calls;
mod error;
mod expression;
mod grammar;
mod guide;
mod mask;
mod schema;

pub(crate) use calls::Calls;
pub use error::FormError;
pub use guide::{Guide, Progress};
pub use mask::Mask;

/// Most texts of a choice.
const MOST_CHOICES: usize = 10_000;
/// Longest expression or grammar, and longest texts of a choice together, bytes.
const MOST_TEXT: usize = 64 << 10;
/// Longest token that the library knows, bytes. Longer ones are runs of spaces or rules, and never needed.
const LONGEST_TOKEN: usize = 512;
/// Stack of the thread that compiles, bytes: schemas and grammars refer to each other in long chains, and the
/// library follows them call by call. Only what is used is taken of the system.
const STACK: usize = 256 << 20;

/// What the library may spend. Fuel is its own measure.
fn limits() -> ParserLimits {
    ParserLimits {
        // 50,000 a millisecond: 20 ms to compile, and a tenth of that for a mask.
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 100_000,
        step_max_items: 50_000,
        max_items_in_row: 2_000,
        // One or two KiB each.
        max_lexer_states: 20_000,
        max_grammar_size: 200_000,
        precompute_large_lexemes: false,
        verbose_errors: false,
    }
}

/// Compiles forms for one model.
pub struct Forms {
    eos_token_ids: Vec<u32>,
    /// Made when the first form comes: it takes a while, and some memory.
    factory: OnceLock<Result<ParserFactory, FormError>>,
}

impl Forms {
    /// For a model with these end tokens.
    pub fn new(eos_token_ids: Vec<u32>) -> Self {
        Self { eos_token_ids, factory: OnceLock::new() }
    }

    /// Compiles a form over the model's vocabulary, always the same one, and finds the tokens that may come
    /// first. `sampling` says which tokens end an answer.
    ///
    /// # Errors
    /// [`FormError`] when the form cannot be kept or is too large.
    pub fn compile(
        &self,
        form: &Form,
        vocabulary: &Vocabulary,
        sampling: &Sampling,
    ) -> Result<Guide, FormError> {
        self.compile_wanted(Wanted::Form(form), vocabulary, sampling)
    }

    /// The same for answers that may call tools, or must; `None` where they may look like anything. Where a
    /// call is no must and there is a form, answers are either.
    pub(crate) fn compile_beside(
        &self,
        form: Option<&Form>,
        calls: Option<Calls<'_>>,
        vocabulary: &Vocabulary,
        sampling: &Sampling,
    ) -> Result<Option<Guide>, FormError> {
        let wanted = match (form, calls) {
            (_, Some(calls)) if calls.tools.choice != ToolChoice::Auto => Wanted::Calls(calls, None),
            (Some(form), Some(calls)) => Wanted::Calls(calls, Some(form)),
            (Some(form), None) => Wanted::Form(form),
            (None, _) => return Ok(None),
        };
        self.compile_wanted(wanted, vocabulary, sampling).map(Some)
    }

    fn compile_wanted(
        &self,
        wanted: Wanted<'_>,
        vocabulary: &Vocabulary,
        sampling: &Sampling,
    ) -> Result<Guide, FormError> {
        let factory = self.factory.get_or_init(|| self.factory(vocabulary)).as_ref().map_err(Clone::clone)?;
        let own = self.eos_token_ids.iter().filter(|_| !sampling.ignore_eos);
        let ends: Vec<u32> = own.chain(&sampling.stop_token_ids).copied().collect();
        std::thread::scope(|scope| {
            let compile = || compile(factory, wanted, ends);
            let thread = std::thread::Builder::new().name("arrcoc-form".into()).stack_size(STACK);
            let thread = thread.spawn_scoped(scope, compile);
            let thread = thread.map_err(|error| FormError::Broken(said(error)))?;
            thread.join().map_err(|_| FormError::Broken("the compiler panicked".into()))?
        })
    }

    fn factory(&self, vocabulary: &Vocabulary) -> Result<ParserFactory, FormError> {
        let words: Vec<Vec<u8>> = (0..vocabulary.ids() as u32).map(|id| self.word(vocabulary, id)).collect();
        // The end tokens are ours to add: each request has its own.
        let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, INVALID_TOKEN), &words);
        let tokens: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&tokens, InferenceCapabilities::default(), &slices)
            .map_err(|error| FormError::Broken(said(error)))?;
        factory.quiet();
        *factory.limits_mut() = limits();
        Ok(factory)
    }

    /// What a token stands for in a form; nothing for one that is no text.
    fn word(&self, vocabulary: &Vocabulary, id: u32) -> Vec<u8> {
        let bytes = vocabulary.bytes(id);
        // The library takes 0xFF for the beginning of a control token's name. No text has it.
        let plain = bytes.len() <= LONGEST_TOKEN && bytes.first() != Some(&0xff);
        match plain && vocabulary.is_text(id) && !self.eos_token_ids.contains(&id) {
            true => bytes.to_vec(),
            false => Vec::new(),
        }
    }
}

/// What answers are to look like.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    Form(&'a Form),
    /// Calls, or the form.
    Calls(Calls<'a>, Option<&'a Form>),
}

fn compile(factory: &ParserFactory, wanted: Wanted<'_>, ends: Vec<u32>) -> Result<Guide, FormError> {
    let text = |reason: &str| FormError::Text(reason.to_owned());
    let form = match wanted {
        Wanted::Form(form) => form,
        Wanted::Calls(calls, form) => {
            let otherwise = form.map(|form| match form {
                Form::Json { schema, style } => schema::prepare(schema, style),
                _ => Err(text("beside `tools` an answer's form is JSON, or there is none")),
            });
            let otherwise = otherwise.transpose()?.map(|prepared| prepared.schema);
            let grammar = TopLevelGrammar::from_lark(calls.grammar(otherwise.as_ref())?);
            return begin(factory, grammar, ends, |reason| FormError::Tools(reason.to_owned()));
        }
    };
    match form {
        Form::Json { schema, style } => {
            let mut prepared = schema::prepare(schema, style)?;
            let grammar = TopLevelGrammar::from_json_schema(std::mem::take(&mut prepared.schema));
            begin(factory, grammar, ends, |reason| prepared.error(reason))
        }
        Form::Regex(expression) => {
            begin(factory, TopLevelGrammar::from_regex(&whole(expression)?), ends, text)
        }
        Form::Choice(texts) => begin(factory, TopLevelGrammar::from_lark(choice(texts)?), ends, text),
        Form::Grammar(grammar) => {
            limit("bytes of a grammar", MOST_TEXT, grammar.len())?;
            begin(factory, TopLevelGrammar::from_lark(grammar::prepare(grammar)?), ends, text)
        }
    }
}

/// Compiles a grammar and finds the tokens that may come first; `error` puts what the library says in words
/// of the form.
fn begin(
    factory: &ParserFactory,
    grammar: TopLevelGrammar,
    ends: Vec<u32>,
    error: impl Fn(&str) -> FormError,
) -> Result<Guide, FormError> {
    let matcher = Matcher::new(factory.create_parser(grammar));
    if let Some(reason) = matcher.get_error() {
        return Err(error(&said(reason)));
    }
    let mut guide = Guide::new(matcher, ends);
    guide.prepare();
    match guide.mask() {
        Ok(_) => Ok(guide),
        Err(FormError::Broken(reason)) => Err(error(&reason)),
        Err(other) => Err(other),
    }
}

/// A grammar of these texts.
fn choice(texts: &[String]) -> Result<String, FormError> {
    limit("texts of a choice", MOST_CHOICES, texts.len())?;
    limit("bytes of a choice", MOST_TEXT, texts.iter().map(String::len).sum())?;
    if texts.is_empty() {
        return Err(FormError::Text("expected a text to choose, found none".into()));
    }
    let texts: Vec<String> = texts.iter().map(|text| grammar::literal(text)).collect();
    Ok(format!("start: CHOICE\nCHOICE: {}\n", texts.join(" | ")))
}

/// An expression for the library, which matches the whole answer.
fn whole(text: &str) -> Result<String, FormError> {
    limit("bytes of an expression", MOST_TEXT, text.len())?;
    if text.is_empty() {
        return Err(FormError::Text("expected an expression, found none".into()));
    }
    let read = expression::parse(text);
    let read = read.map_err(|reason| FormError::Text(format!("the expression cannot be kept: {reason}")))?;
    Ok(read.to_string())
}

#[cfg(test)]
mod tests;
