//! What a chat came to.

use arrcoc_runtime::generate::{CallPiece, Event, FinishReason, Timings, TokenLogprob, Usage};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::generation::Running;

/// One finished answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its text.
    pub text: String,
    /// What the model thought before.
    pub reasoning: Option<String>,
    /// What it calls.
    pub calls: Vec<Called>,
    /// Log-probabilities of its tokens, when asked for.
    pub logprobs: Option<Vec<TokenLogprob>>,
    /// Why it ended.
    pub reason: FinishReason,
}

/// A call of a tool.
#[derive(Debug, Clone)]
pub struct Called {
    /// What its result is told by.
    pub id: String,
    /// The function.
    pub name: String,
    /// Its arguments, JSON as the model wrote it.
    pub arguments: String,
}

impl Called {
    /// What a result is told by: nine letters and digits, as `calls` has them too.
    pub fn new_id() -> String {
        uuid::Uuid::new_v4().simple().to_string()[..9].to_owned()
    }
}

/// Arguments as the object that they are; text that is none stays what it is, since models write such things
/// and clients replay them.
pub(crate) fn arguments(text: &str) -> Value {
    parsed(text).unwrap_or_else(|| text.into())
}

/// The same for APIs that have objects alone; what is none, since it was broken off, as Anthropic has that.
pub(crate) fn object(arguments: &str) -> Value {
    parsed(arguments).unwrap_or_else(|| json!({"INVALID_JSON": arguments}))
}

fn parsed(arguments: &str) -> Option<Value> {
    serde_json::from_str(arguments).ok().filter(Value::is_object)
}

impl Answer {
    fn add(&mut self, text: &str, reasoning: Option<String>, calls: Vec<CallPiece>) {
        self.text.push_str(text);
        if let Some(more) = reasoning {
            self.reasoning.get_or_insert_default().push_str(&more);
        }
        for CallPiece { name, arguments, .. } in calls {
            match (name, self.calls.last_mut()) {
                (Some(name), _) => self.calls.push(Called { id: Called::new_id(), name, arguments }),
                (None, Some(last)) => last.arguments.push_str(&arguments),
                (None, None) => {}
            }
        }
    }
}

/// Waits for all answers of a request; without `with_reasoning` what the model thinks is left out.
///
/// # Errors
/// What broke it off.
pub async fn collect(
    mut running: Running,
    choices: usize,
    with_logprobs: bool,
    with_reasoning: bool,
) -> Result<(Vec<Answer>, Usage, Timings), ApiError> {
    let empty = Answer {
        text: String::new(),
        reasoning: None,
        calls: Vec::new(),
        logprobs: with_logprobs.then(Vec::new),
        reason: FinishReason::Length,
    };
    let mut answers = vec![empty; choices];
    loop {
        match running.next().await {
            Event::Token { reasoning: Some(_), .. } if !with_reasoning => {}
            Event::Token { choice, text, calls, reasoning, logprob, .. } => {
                let Some(answer) = answers.get_mut(choice) else { continue };
                answer.add(&text, reasoning, calls);
                if let (Some(all), Some(logprob)) = (&mut answer.logprobs, logprob) {
                    all.push(logprob);
                }
            }
            Event::Finished { choice, text, calls, reasoning, reason } => {
                let Some(answer) = answers.get_mut(choice) else { continue };
                answer.add(&text, reasoning.filter(|_| with_reasoning), calls);
                answer.reason = reason;
            }
            Event::Done { usage, timings } => return Ok((answers, usage, timings)),
            Event::Failed(error) => return Err(error.into()),
            Event::Started { .. } | Event::Prompt { .. } => {}
        }
    }
}
