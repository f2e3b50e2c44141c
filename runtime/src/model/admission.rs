//! What is decided about a request before any work is done for it.

use std::sync::Arc;

use bytes::Bytes;

use crate::generate::{GenerateError, MaxTokens, Prompt, Request, Sampling};
use crate::image::ImageLimits;
use crate::prompt::{Layout, Prompter};
use crate::vision::family::Grant;
use crate::vision::{ImagePlan, Pictures};

/// Most answers per request, as in OpenAI's API.
const MAX_CHOICES: usize = 128;

/// The limits of one loaded model.
pub(super) struct Admission {
    pub(super) prompter: Arc<Prompter>,
    pub(super) context_length: usize,
    pub(super) pictures: Arc<Pictures>,
    pub(super) limits: ImageLimits,
}

impl Admission {
    /// Checks a request against every limit that can be checked without decoding an image; returns its prompt and what its budget means.
    /// An image is charged with the most tokens that its header and its budget allow.
    pub(super) fn check(&self, request: &Request) -> Result<(Layout, Grant), GenerateError> {
        check_sampling(&request.sampling)?;
        if !(1..=MAX_CHOICES).contains(&request.choices) {
            return Err(invalid(
                "n",
                format!("expected 1 to {MAX_CHOICES} answers, found {}", request.choices),
            ));
        }
        if request.max_tokens.within(1) == 0 {
            return Err(invalid("max_tokens", "expected at least 1, found 0".into()));
        }
        let (least, most) = (request.sampling.min_tokens, request.max_tokens.within(self.context_length));
        if least > most {
            let message = format!(
                "expected `min_tokens` of at most {most}, the most tokens of an answer (`max_tokens`), found {least}"
            );
            return Err(invalid("min_tokens", message));
        }
        if request.stop.iter().any(String::is_empty) {
            return Err(invalid(
                "stop",
                "expected stop strings of at least one character, found an empty one".into(),
            ));
        }
        let grant = self.pictures.grant(request.budget);
        let grant = grant.map_err(|error| invalid("arrcoc.budget", error.to_string()))?;
        let plans = self.plans(&request.prompt, grant)?;
        let layout = self.prompter.layout(&request.prompt, &plans, self.context_length)?;
        self.check_length(request, &layout)?;
        Ok((layout, grant))
    }

    /// What stands in each image's place.
    fn plans(&self, prompt: &Prompt, grant: Grant) -> Result<Vec<ImagePlan>, GenerateError> {
        let files: Vec<_> = prompt.images().collect();
        if files.len() > self.limits.max_images {
            let (most, found) = (self.limits.max_images, files.len());
            return Err(invalid("messages", format!("expected at most {most} images, found {found}")));
        }
        let plan = |(index, file): (usize, &&Bytes)| {
            self.pictures.plan(file, grant).map_err(|error| GenerateError::image(index, &error))
        };
        files.iter().enumerate().map(plan).collect()
    }

    fn check_length(&self, request: &Request, layout: &Layout) -> Result<(), GenerateError> {
        let (context, text, images) = (self.context_length, layout.text_tokens(), layout.images);
        let prompt = text + layout.most_rows;
        let found = if images == 0 {
            format!("a prompt of {prompt} tokens")
        } else {
            format!(
                "a prompt of {prompt} tokens ({text} of text, up to {} for {images} images)",
                layout.most_rows
            )
        };
        if prompt >= context {
            let field = match request.prompt {
                Prompt::Chat(_) => "messages",
                Prompt::Text(_) => "prompt",
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

fn check_sampling(sampling: &Sampling) -> Result<(), GenerateError> {
    let ranges: [(&'static str, f32, bool, &str); 6] = [
        ("temperature", sampling.temperature, sampling.temperature >= 0.0, "0 or more"),
        ("top_p", sampling.top_p, (0.0..=1.0).contains(&sampling.top_p), "0 to 1"),
        ("min_p", sampling.min_p, (0.0..=1.0).contains(&sampling.min_p), "0 to 1"),
        ("repetition_penalty", sampling.repetition_penalty, sampling.repetition_penalty > 0.0, "more than 0"),
        ("presence_penalty", sampling.presence_penalty, true, "a finite number"),
        ("frequency_penalty", sampling.frequency_penalty, true, "a finite number"),
    ];
    for (field, value, in_range, expected) in ranges {
        if !value.is_finite() || !in_range {
            return Err(invalid(field, format!("expected {expected}, found {value}")));
        }
    }
    Ok(())
}

fn invalid(field: &'static str, message: String) -> GenerateError {
    GenerateError::Invalid { field, message }
}
