//! What is decided about a request before any work is done for it.

use std::sync::Arc;

use crate::generate::{Budget, GenerateError, MaxTokens, Part, Prompt, Request, Sampling};
use crate::image::ImageLimits;
use crate::prompt::{Layout, Prompter};

/// Most answers per request, as in OpenAI's API.
const MAX_CHOICES: usize = 128;

/// The limits of one loaded model.
pub(super) struct Admission {
    pub(super) prompter: Arc<Prompter>,
    pub(super) context_length: usize,
    pub(super) token_budgets: Vec<usize>,
    pub(super) limits: ImageLimits,
}

impl Admission {
    /// Checks a request against every limit that can be checked without decoding an image; returns its prompt. An image
    /// is charged with the most tokens that its budget allows.
    pub(super) fn check(&self, request: &Request) -> Result<Layout, GenerateError> {
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
        let charge = self.charge(request.budget)?;
        self.check_images(&request.prompt)?;
        let layout = self.prompter.layout(&request.prompt, self.context_length)?;
        self.check_length(request, &layout, charge)?;
        Ok(layout)
    }

    /// The most tokens that one image may get.
    fn charge(&self, budget: Budget) -> Result<usize, GenerateError> {
        let budgets = &self.token_budgets;
        let refuse = |message| Err(invalid("arrcoc.budget", message));
        match budget {
            Budget::Auto => Ok(budgets.iter().copied().max().unwrap_or(0)),
            Budget::Tokens(tokens) if budgets.contains(&tokens) => Ok(tokens),
            Budget::Tokens(tokens) => {
                refuse(format!("expected `auto` or one of {budgets:?}, found {tokens}"))
            }
            Budget::Full => refuse(format!(
                "`full` turns allocation off, which this model cannot do: its decoder was trained on allocated tokens \
                 only; expected `auto` or one of {budgets:?}"
            )),
        }
    }

    fn check_images(&self, prompt: &Prompt) -> Result<(), GenerateError> {
        let Prompt::Chat(messages) = prompt else { return Ok(()) };
        let mut count = 0;
        for part in messages.iter().flat_map(|message| &message.content) {
            let Part::Image(file) = part else { continue };
            count += 1;
            if file.len() > self.limits.max_bytes {
                let (most, found) = (self.limits.max_bytes, file.len());
                let message =
                    format!("image {count}: expected a file of at most {most} bytes, found {found}");
                return Err(invalid("messages", message));
            }
        }
        if count > self.limits.max_images {
            let most = self.limits.max_images;
            return Err(invalid("messages", format!("expected at most {most} images, found {count}")));
        }
        Ok(())
    }

    fn check_length(&self, request: &Request, layout: &Layout, charge: usize) -> Result<(), GenerateError> {
        let (context, text, images) = (self.context_length, layout.text_tokens(), layout.images());
        let prompt = text + images * charge;
        let found = if images == 0 {
            format!("a prompt of {prompt} tokens")
        } else {
            format!(
                "a prompt of {prompt} tokens ({text} of text, up to {charge} for each of {images} images)"
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
