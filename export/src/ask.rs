//! One question to a loaded model, and the wait for its answer.

use std::time::Duration;

use arrcoc_runtime::generate::{
    Budget, Event, GenerateError, MaxTokens, Message, Part, Prompt, PromptReport, Request, Sampling,
    Selection, Speaker,
};
use arrcoc_runtime::model::Model;

/// Nobody waits at a socket: slow libraries take their time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Asks about a picture and waits until the answer of at most `tokens` tokens has ended. The likeliest tokens
/// are taken.
pub(crate) fn ask(
    model: &Model,
    picture: &[u8],
    question: &str,
    budget: Budget,
    tokens: MaxTokens,
) -> Result<(), GenerateError> {
    let content = vec![Part::Image(picture.to_vec().into()), Part::Text(question.to_owned())];
    let request = Request {
        prompt: Prompt::from(vec![Message::new(Speaker::User, content)]),
        budget,
        selection: Selection::default(),
        explain: false,
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        choices: 1,
        max_tokens: tokens,
        stop: Vec::new(),
        top_logprobs: None,
        prompt_report: PromptReport::Nothing,
        form: None,
    };
    let mut events = model.submit(request)?.events;
    while let Some(event) = events.blocking_recv() {
        match event {
            Event::Done { .. } => return Ok(()),
            Event::Failed(error) => return Err(error),
            Event::Started { .. } | Event::Prompt { .. } | Event::Token { .. } | Event::Finished { .. } => {}
        }
    }
    Err(GenerateError::Internal("the model ended before its answer did".to_owned()))
}

/// The budgets that a picture can be asked about with: every tier, or all that it has where the family has no
/// tiers.
pub(crate) fn budgets(model: &Model) -> Vec<Budget> {
    let tiers = &model.info().token_budgets;
    if tiers.is_empty() {
        return vec![Budget::Full];
    }
    tiers.iter().map(|&tokens| Budget::Tokens(tokens)).collect()
}
