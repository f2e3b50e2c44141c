//! Answers, greedily, several side by side, for the evaluation alone.
//!
//! The runtime's `Model` cannot do this. A request brings picture files, and the model's own allocator
//! chooses their tokens; here an arm has chosen them already, often a number that no tier has. An evaluation
//! also marks each answer with its own share of the steps, and the picture's file is decoded once for all
//! arms. So this is a plain loop over the same decoder, sampler and text stream. It has no queue, no
//! cancelling and no time limit.

use std::time::{Duration, Instant};

use super::{OfflineError, OfflineModel, VisualTokens};
use arrcoc_runtime::decoder::{DecoderError, Logits};
use arrcoc_runtime::embeds::{PictureRows, PromptEmbeds};
use arrcoc_runtime::generate::{FinishReason, Sampling};
use arrcoc_runtime::sampling::Sampler;
use arrcoc_runtime::text::TextStream;

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its text.
    pub text: String,
    /// Why it ended.
    pub reason: FinishReason,
    /// Tokens of the prompt, visual ones included.
    pub prompt_tokens: usize,
    /// Tokens picked, the end token included.
    pub generated: usize,
    /// Feeding the prompt.
    pub prefill: Duration,
    /// This answer's share of all decode steps that it took part in.
    pub decode: Duration,
}

/// An answer in work.
struct Running {
    slot: usize,
    sampler: Sampler,
    text: TextStream,
    last: u32,
    done: bool,
    /// Tokens that the context has left for it.
    room: usize,
    answer: Answer,
}

impl OfflineModel {
    /// Answers the questions that visual tokens were made for, in at most `max_tokens` tokens each, as many
    /// at a time as there are slots; the order is kept.
    ///
    /// # Errors
    /// [`OfflineError`]; no slot stays taken.
    pub fn answer(
        &mut self,
        requests: &[&VisualTokens],
        max_tokens: usize,
    ) -> Result<Vec<Answer>, OfflineError> {
        let mut answers = Vec::with_capacity(requests.len());
        for batch in requests.chunks(self.decoder.slots().total().max(1)) {
            let mut running = Vec::new();
            let outcome = self.answer_batch(batch, max_tokens, &mut running);
            running.iter().for_each(|one| self.decoder.free(one.slot));
            outcome?;
            answers.extend(running.into_iter().map(|one| one.answer));
        }
        Ok(answers)
    }

    fn answer_batch(
        &mut self,
        batch: &[&VisualTokens],
        max_tokens: usize,
        running: &mut Vec<Running>,
    ) -> Result<(), OfflineError> {
        for request in batch {
            let slots = self.decoder.slots_mut();
            let full = DecoderError::Full { slot: slots.total(), length: 0, adding: 1, capacity: 0 };
            let slot = slots.allocate().ok_or(full)?;
            running.push(Running::new(slot));
            if let Some(one) = running.last_mut() {
                self.prefill(request, one, max_tokens)?;
            }
        }
        loop {
            let active: Vec<usize> = (0..running.len()).filter(|&at| !running[at].done).collect();
            if active.is_empty() {
                return Ok(());
            }
            let (slots, ids): (Vec<_>, Vec<_>) =
                active.iter().map(|&at| (running[at].slot, running[at].last)).unzip();
            let started = Instant::now();
            let rows = self.decoder.step(&slots, &self.embedder.embed(&ids)?)?;
            let share = started.elapsed() / active.len() as u32;
            for (&at, logits) in active.iter().zip(&rows) {
                running[at].answer.decode += share;
                self.accept(logits, &mut running[at], max_tokens)?;
            }
        }
    }

    /// Whether there is room for a prompt and at least one token of an answer.
    ///
    /// # Errors
    /// [`OfflineError::Context`] where there is not.
    pub fn check(&self, request: &VisualTokens) -> Result<(), OfflineError> {
        self.prompt(request).map(|_| ())
    }

    /// The prompt.
    fn prompt(&self, request: &VisualTokens) -> Result<PromptEmbeds, OfflineError> {
        let embeds = PromptEmbeds::new(&request.layout, &[PictureRows::from(&request.visual)]);
        // Kept rows stand where they stood: a prompt may reach further than it has tokens.
        let (prompt, context) = (embeds.tokens().max(embeds.end()), self.info.context_length);
        if prompt >= context {
            return Err(OfflineError::Context { context, prompt });
        }
        Ok(embeds)
    }

    fn prefill(
        &mut self,
        request: &VisualTokens,
        one: &mut Running,
        max_tokens: usize,
    ) -> Result<(), OfflineError> {
        let embeds = self.prompt(request)?;
        let prompt = embeds.tokens();
        one.answer.prompt_tokens = prompt;
        one.room = self.info.context_length - prompt.max(embeds.end());
        let started = Instant::now();
        let (mut begin, mut last) = (0, None);
        while begin < prompt {
            let end = prompt.min(begin + self.prefill_chunk);
            let chunk = embeds.chunk(begin, end, &self.embedder)?;
            last = Some(self.decoder.prefill(one.slot, &chunk)?);
            begin = end;
        }
        one.answer.prefill = started.elapsed();
        match last {
            Some(logits) => self.accept(&logits, one, max_tokens),
            None => Ok(()),
        }
    }

    /// Picks a token, as the scheduler does for a request of temperature 0.
    fn accept(&self, logits: &Logits, one: &mut Running, max_tokens: usize) -> Result<(), OfflineError> {
        let id = one.sampler.sample(logits.values(), None)?;
        one.answer.generated += 1;
        if self.decoder_spec.eos_token_ids.contains(&id) {
            one.finish(FinishReason::Stop);
            return Ok(());
        }
        let piece = one.text.push(self.prompter.vocabulary(), id);
        one.answer.text.push_str(&piece.text);
        one.last = id;
        if one.answer.generated >= max_tokens.min(one.room) {
            one.finish(FinishReason::Length);
        }
        Ok(())
    }
}

impl Running {
    fn new(slot: usize) -> Self {
        let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
        Self {
            slot,
            sampler: Sampler::new(&greedy, &[], &[], 0, 0),
            text: TextStream::new(&[], None),
            last: 0,
            done: false,
            room: 0,
            answer: Answer {
                text: String::new(),
                reason: FinishReason::Length,
                prompt_tokens: 0,
                generated: 0,
                prefill: Duration::ZERO,
                decode: Duration::ZERO,
            },
        }
    }

    fn finish(&mut self, reason: FinishReason) {
        let rest = self.text.finish();
        self.answer.text.push_str(&rest.text);
        self.answer.reason = reason;
        self.done = true;
    }
}
