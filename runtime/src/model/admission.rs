//! What is decided about a request before any work is done for it: all that depends on the model.

use std::sync::Arc;

use crate::form::{Calls, Forms, Guide};
use crate::generate::{Budget, GenerateError, Image, MaxTokens, Prompt, Request};
use crate::prompt::{Layout, Prompter};
use crate::selection;
use crate::vision::family::{Choice, Grant, SELECTOR};
use crate::vision::{ImagePlan, Pictures, Refusal};

/// The limits of one loaded model.
pub(super) struct Admission {
    pub(super) prompter: Arc<Prompter>,
    pub(super) context_length: usize,
    pub(super) pictures: Arc<Pictures>,
    pub(super) forms: Forms,
}

impl Admission {
    /// Checks a request against what the model has room for, without decoding an image; returns its prompt
    /// and what its budget means. The ranges of single fields are whose who reads them: the server's, or the
    /// command line's. An image is charged with the most tokens that its header and its budget allow.
    pub(super) fn check(&self, request: &Request) -> Result<(Layout, Grant), GenerateError> {
        let (least, most) = (request.sampling.min_tokens, request.max_tokens.within(self.context_length));
        if least > most {
            let message = format!(
                "expected `min_tokens` of at most {most}, the most tokens of an answer (`max_tokens`), found {least}"
            );
            return Err(invalid("min_tokens", message));
        }
        // The question's words decide nothing else.
        let asks = request.budget == Budget::Auto && request.prompt.images().next().is_some();
        let need = if asks { selection::need(&request.prompt.question()) } else { None };
        let grant = self.pictures.grant(request.budget, &request.selection, need).map_err(refused)?;
        let plans = self.plans(&request.prompt, grant)?;
        let layout = self.prompter.layout(&request.prompt, &plans, self.context_length)?;
        let advance = plans.iter().map(ImagePlan::advance).sum();
        self.check_length(request, &layout, advance)?;
        Ok((layout, grant))
    }

    /// Compiles the form of a request's answers.
    pub(super) fn guide(&self, request: &Request, layout: &Layout) -> Result<Option<Guide>, GenerateError> {
        let tools = match &request.prompt {
            Prompt::Chat(conversation) => {
                Some(&conversation.tools).filter(|tools| !tools.functions.is_empty())
            }
            Prompt::Text(_) | Prompt::Tokens(_) => None,
        };
        let calls = tools.map(|tools| Calls { tools, written: &self.prompter.syntax().bound });
        let vocabulary = self.prompter.vocabulary();
        let guide = self.forms.compile_beside(request.form.as_ref(), calls, vocabulary, &request.sampling)?;
        Ok(guide.map(|guide| guide.behind(layout.thoughts)))
    }

    /// What stands in each image's place.
    fn plans(&self, prompt: &Prompt, grant: Grant) -> Result<Vec<ImagePlan>, GenerateError> {
        let plan = |(index, image): (usize, &Image)| {
            let checked = self.pictures.check(&image.sizing);
            checked.map_err(refused)?;
            let plan =
                self.pictures.plan(image, grant).map_err(|error| GenerateError::image(index, &error))?;
            self.check_rows(index, &plan, grant)?;
            Ok(plan)
        };
        prompt.images().enumerate().map(plan).collect()
    }

    /// A picture is encoded whole, however few of its rows are kept: memory was planned for as many rows as
    /// the context has tokens, and for a few comparisons.
    fn check_rows(&self, index: usize, plan: &ImagePlan, grant: Grant) -> Result<(), GenerateError> {
        let (rows, number) = (plan.all_rows(), index + 1);
        if plan.most_rows() < rows && rows > self.context_length {
            let most = self.context_length;
            let message = format!(
                "image {number}: expected at most {most} tokens before some are chosen, as many as the context has, \
                 found {rows}; send a smaller image"
            );
            return Err(invalid("messages", message));
        }
        let Grant::Choose(Choice { selection, .. }) = grant else { return Ok(()) };
        match selection.selector {
            Some(selector)
                if selector.compares_all() && plan.most_rows() < rows && rows > selection::MOST_COMPARED =>
            {
                let message = format!(
                    "expected images of at most {} tokens for `{selector}`, which compares each with each; image \
                     {number} has {rows}",
                    selection::MOST_COMPARED
                );
                Err(invalid(SELECTOR, message))
            }
            _ => Ok(()),
        }
    }

    /// A prompt takes as many places of the context as it has tokens, and at least as many as it has
    /// positions: kept rows of a picture stand where they stood among all. `advance` is how many positions
    /// pictures take.
    fn check_length(&self, request: &Request, layout: &Layout, advance: usize) -> Result<(), GenerateError> {
        let (context, text, images) = (self.context_length, layout.text_tokens(), layout.images);
        let prompt = text + layout.most_rows.max(advance);
        let found = if images == 0 {
            format!("a prompt of {prompt} tokens")
        } else if advance > layout.most_rows {
            format!(
                "a prompt of {prompt} positions ({text} of text, {advance} for {images} images: tokens that are kept \
                 stand where they stood)"
            )
        } else {
            format!(
                "a prompt of {prompt} tokens ({text} of text, up to {} for {images} images)",
                layout.most_rows
            )
        };
        if prompt >= context {
            let field = match request.prompt {
                Prompt::Chat(_) => "messages",
                Prompt::Text(_) | Prompt::Tokens(_) => "prompt",
            };
            return Err(invalid(
                field,
                format!("expected a prompt shorter than the context of {context} tokens, found {found}"),
            ));
        }
        match request.max_tokens {
            MaxTokens::Exactly(answer) if prompt.saturating_add(answer) > context => Err(invalid(
                "max_tokens",
                format!(
                    "expected prompt and answer to fit the context of {context} tokens, found {found} and an \
                     answer of {answer}; at most {} are left",
                    context - prompt
                ),
            )),
            _ => Ok(()),
        }
    }
}

fn refused(error: Refusal) -> GenerateError {
    invalid(error.field, error.to_string())
}

fn invalid(field: &'static str, message: String) -> GenerateError {
    GenerateError::Invalid { field, message }
}
