//! The form of one answer, token by token.

use llguidance::Matcher;

use super::error::{FormError, said};
use super::mask::Mask;
use crate::text::Thoughts;

/// Leads one answer through its form. Clones go on independently of each other.
#[derive(Clone)]
pub struct Guide {
    matcher: Matcher,
    /// Tokens that end an answer where its form is complete.
    ends: Vec<u32>,
    stage: Stage,
    next: Next,
}

impl std::fmt::Debug for Guide {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guide").field("stage", &self.stage).field("next", &self.next).finish_non_exhaustive()
    }
}

/// Where in an answer its next token stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// At its beginning, where the model may begin to think.
    Before { begin: u32, end: u32 },
    /// In thoughts, which have no form.
    Within { end: u32 },
    /// In the form.
    Bound,
}

/// What may come next in the form.
#[derive(Debug, Clone)]
enum Next {
    /// Not computed yet.
    Unknown,
    /// These tokens.
    Tokens(Mask),
    /// Nothing: the answer is complete.
    Nothing,
    Failed(FormError),
}

/// What a token has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// More tokens may follow, or must.
    Open,
    /// The answer has its form, and nothing can follow.
    Complete,
}

impl Guide {
    /// At the beginning of a form. `ends` are the tokens that end an answer.
    pub(super) fn new(matcher: Matcher, ends: Vec<u32>) -> Self {
        Self { matcher, ends, stage: Stage::Bound, next: Next::Unknown }
    }

    /// The same, for answers of a model that may think before them.
    #[must_use]
    pub fn behind(mut self, thoughts: Option<Thoughts>) -> Self {
        self.stage = match thoughts {
            None => Stage::Bound,
            Some(thoughts) if thoughts.begun() => Stage::Within { end: thoughts.end() },
            Some(thoughts) => Stage::Before { begin: thoughts.begin(), end: thoughts.end() },
        };
        self
    }

    /// The tokens that may come next; `None` where all may.
    ///
    /// # Errors
    /// [`FormError::Broken`] where that cannot be said.
    pub fn mask(&mut self) -> Result<Option<Mask>, FormError> {
        if matches!(self.stage, Stage::Within { .. }) {
            return Ok(None);
        }
        self.prepare();
        match &self.next {
            Next::Tokens(mask) => {
                let mut mask = mask.clone();
                if let Stage::Before { begin, .. } = self.stage {
                    mask.set(begin, true);
                }
                Ok(Some(mask))
            }
            Next::Failed(error) => Err(error.clone()),
            Next::Nothing | Next::Unknown => Err(FormError::Broken("nothing can follow".into())),
        }
    }

    /// Whether nothing can follow: found out only when that was looked for.
    pub fn is_complete(&self) -> bool {
        self.stage == Stage::Bound && matches!(self.next, Next::Nothing)
    }

    /// Computes what may come next, unless it is known. The slow part of a form: made for another thread,
    /// while the decoder computes.
    pub fn prepare(&mut self) {
        if matches!(self.next, Next::Unknown) {
            self.next = self.compute();
        }
    }

    fn compute(&mut self) -> Next {
        let complete = match self.matcher.is_accepting() {
            Ok(complete) => complete,
            Err(error) => return Next::Failed(FormError::Broken(said(error))),
        };
        let mut mask = match self.matcher.compute_mask() {
            Ok(mask) => Mask::new(mask),
            // Complete, which was recognised late.
            Err(_) if complete && self.matcher.stop_reason().is_ok() => return Next::Nothing,
            Err(error) => return Next::Failed(FormError::Broken(said(error))),
        };
        for &end in self.ends.iter().filter(|_| complete) {
            mask.set(end, true);
        }
        if mask.is_empty() { Next::Nothing } else { Next::Tokens(mask) }
    }

    /// Takes the token that was picked. One that ends the answer is not for a form to take.
    ///
    /// # Errors
    /// [`FormError::Broken`] for one that cannot follow, or beyond the limits.
    pub fn take(&mut self, id: u32) -> Result<Progress, FormError> {
        match self.stage {
            Stage::Within { end } => {
                if id == end {
                    self.stage = Stage::Bound;
                }
                return Ok(Progress::Open);
            }
            Stage::Before { begin, end } if id == begin => {
                self.stage = Stage::Within { end };
                return Ok(Progress::Open);
            }
            Stage::Before { .. } | Stage::Bound => self.stage = Stage::Bound,
        }
        self.next = Next::Unknown;
        self.matcher.consume_token(id).map_err(|error| FormError::Broken(said(error)))?;
        Ok(if self.matcher.is_stopped() { Progress::Complete } else { Progress::Open })
    }
}
