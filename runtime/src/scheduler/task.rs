//! A request that has a slot: its prefill, then its answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::job::{Job, Ready};
use crate::decoder::{Decoder, DecoderError, Embedder, Logits, Mark};
use crate::embeds::{PictureRows, PromptEmbeds};
use crate::form::{Guide, Progress};
use crate::generate::{
    Event, FinishReason, GenerateError, Logprob, PromptReport, PromptToken, Stage, Timings, TokenLogprob,
    Usage,
};
use crate::sampling::{LogSoftmax, Sampler, SamplingError};
use crate::text::{Piece, TextStream, Vocabulary};

/// What the scheduler must know of the model and of the options.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) context_length: usize,
    pub(crate) prefill_chunk: usize,
    /// The same while nobody else is in work.
    pub(crate) solo_chunk: usize,
    pub(crate) eos_token_ids: Vec<u32>,
    pub(crate) image_token_id: u32,
}

/// What a task needs besides the decoder.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) embedder: &'a Embedder,
    pub(super) vocabulary: &'a Vocabulary,
    pub(super) settings: &'a Settings,
}

/// Tokens of a prompt that are scored at a time, one after the other: other answers wait meanwhile.
const MOST_SCORED: usize = 8;

/// A request with at least one KV slot.
pub(super) struct Task {
    pub(super) job: Job,
    phase: Phase,
    prompt_ids: Vec<u32>,
    /// Log-probabilities of the prompt's tokens, as far as it is read, where they are asked for.
    prompt_logprobs: Vec<TokenLogprob>,
    max_tokens: usize,
    usage: Usage,
    queue: Duration,
    first_token: Option<Duration>,
    decoding: Duration,
}

enum Phase {
    Prefill { slot: usize, embeds: PromptEmbeds, took: Duration },
    Decode(Answers),
}

/// The answers of one prompt. Those that found no slot yet inherit the slot of one that ends, rewound to the
/// prompt.
struct Answers {
    prompt: Mark,
    /// Logits after the prompt: every answer's first token is drawn from them.
    first: Logits,
    /// Index of the next answer to begin.
    next: usize,
    running: Vec<Answer>,
}

/// One answer in work.
struct Answer {
    choice: usize,
    slot: usize,
    sampler: Sampler,
    /// Of an answer that has a form.
    guide: Option<Guide>,
    text: TextStream,
    /// Tokens picked, the end token included.
    generated: usize,
    /// The token to feed next.
    last: u32,
}

impl Task {
    /// Begins a request in a slot that was just taken for it.
    pub(super) fn new(ready: Ready, slot: usize, settings: &Settings) -> Self {
        let Ready { mut job, visuals } = ready;
        job.start();
        let pictures: Vec<_> = visuals.iter().map(PictureRows::from).collect();
        let embeds = PromptEmbeds::new(&job.layout, &pictures);
        let usage =
            Usage { prompt_tokens: embeds.tokens(), visual_tokens: embeds.visual(), ..Usage::default() };
        job.send(Event::Started {
            prompt_tokens: usage.prompt_tokens,
            visual_tokens: usage.visual_tokens,
            receipts: match job.request.explain {
                true => visuals.into_iter().map(|visual| Arc::unwrap_or_clone(visual.receipt)).collect(),
                false => Vec::new(),
            },
        });
        // Positions may be ahead of tokens: where some of a picture's rows were kept.
        let room = settings.context_length.saturating_sub(usage.prompt_tokens.max(embeds.end()));
        let staged: Duration = job.stages.iter().map(|(_, took)| *took).sum();
        Self {
            prompt_ids: job.layout.ids(settings.image_token_id),
            prompt_logprobs: Vec::new(),
            max_tokens: job.request.max_tokens.within(room),
            usage,
            queue: job.submitted.elapsed().saturating_sub(staged),
            first_token: None,
            decoding: Duration::ZERO,
            phase: Phase::Prefill { slot, embeds, took: Duration::ZERO },
            job,
        }
    }

    /// Whether its prompt is not through the decoder yet.
    pub(super) fn prefilling(&self) -> bool {
        matches!(self.phase, Phase::Prefill { .. })
    }

    /// Whether each token of its prompt is scored.
    pub(super) fn scores_prompt(&self) -> bool {
        matches!(self.job.request.prompt_report, PromptReport::Logprobs(_))
    }

    /// Feeds at most `longest` tokens of the prompt; returns its tokens, and how long the whole prefill took
    /// when this was the last of it.
    pub(super) fn prefill(
        &mut self,
        longest: usize,
        decoder: &mut dyn Decoder,
        context: Context<'_>,
    ) -> Result<(usize, Option<Duration>), GenerateError> {
        let Phase::Prefill { slot, embeds, took } = &mut self.phase else { return Ok((0, None)) };
        let (slot, started) = (*slot, Instant::now());
        let begin = decoder.slots().mark(slot).length;
        let (end, logits) = match self.job.request.prompt_report {
            PromptReport::Logprobs(top) => {
                let end = embeds.tokens().min(begin + longest.min(MOST_SCORED));
                let mut logits = None;
                for at in begin..end {
                    let chunk = embeds.chunk(at, at + 1, context.embedder).map_err(internal)?;
                    let row = decoder.prefill(slot, &chunk).map_err(internal)?;
                    if let Some(&next) = self.prompt_ids.get(at + 1) {
                        self.prompt_logprobs.push(token_logprob(
                            row.values(),
                            next,
                            top,
                            context.vocabulary,
                        )?);
                    }
                    logits = Some(row);
                }
                (end, logits.ok_or_else(|| GenerateError::Internal("a prompt of no tokens".into()))?)
            }
            _ => {
                let end = embeds.tokens().min(begin + longest);
                let chunk = embeds.chunk(begin, end, context.embedder).map_err(internal)?;
                (end, decoder.prefill(slot, &chunk).map_err(internal)?)
            }
        };
        *took += started.elapsed();
        if end < embeds.tokens() {
            return Ok((end - begin, None));
        }
        let took = *took;
        self.job.stages.push((Stage::PREFILL, took));
        self.report_prompt(context.vocabulary);
        let prompt = decoder.slots().mark(slot);
        self.phase = Phase::Decode(Answers { prompt, first: logits, next: 0, running: Vec::new() });
        self.begin_answers(slot, decoder, context)?;
        Ok((end - begin, Some(took)))
    }

    /// Tells of the prompt, where the request wants that.
    fn report_prompt(&mut self, vocabulary: &Vocabulary) {
        if self.job.request.prompt_report == PromptReport::Nothing {
            return;
        }
        let mut logprobs = std::mem::take(&mut self.prompt_logprobs).into_iter();
        let tokens = self.prompt_ids.iter().enumerate().map(|(at, id)| PromptToken {
            bytes: vocabulary.bytes(*id).to_vec(),
            logprob: if at == 0 { None } else { logprobs.next() },
        });
        self.job.send(Event::Prompt { tokens: tokens.collect() });
    }

    /// Begins the first answer in the slot of the prompt and as many more as there are free slots.
    fn begin_answers(
        &mut self,
        slot: usize,
        decoder: &mut dyn Decoder,
        context: Context<'_>,
    ) -> Result<(), GenerateError> {
        // Forks come first: the answer in `slot` may end at once and give the slot away.
        let mut slots = vec![slot];
        let mut outcome = Ok(());
        let prompt = decoder.slots().mark(slot);
        while outcome.is_ok() && slots.len() < self.job.request.choices {
            match decoder.fork(slot, prompt) {
                Ok(Some(fork)) => slots.push(fork),
                Ok(None) => break,
                Err(error) => outcome = Err(internal(error)),
            }
        }
        for slot in slots {
            match outcome {
                Ok(()) => outcome = self.begin_in(slot, decoder, context),
                Err(_) => decoder.free(slot),
            }
        }
        outcome
    }

    /// Runs answers in a slot until one needs the decoder, or none is left and the slot is given back.
    fn begin_in(
        &mut self,
        slot: usize,
        decoder: &mut dyn Decoder,
        context: Context<'_>,
    ) -> Result<(), GenerateError> {
        let Phase::Decode(answers) = &mut self.phase else { return Ok(()) };
        while answers.next < self.job.request.choices {
            if self.max_tokens == 0 {
                let (choice, reason) = (answers.next, FinishReason::Length);
                answers.next += 1;
                self.first_token.get_or_insert_with(|| self.job.submitted.elapsed());
                let (text, calls, reasoning) = (String::new(), Vec::new(), None);
                self.job.send(Event::Finished { choice, text, calls, reasoning, reason });
                continue;
            }
            let choice = answers.next;
            answers.next += 1;
            let text = TextStream::new(&self.job.request.stop, self.job.layout.thoughts)
                .calling(self.job.layout.calls.clone());
            let guide = self.job.guide.clone();
            let mut answer = Answer {
                choice,
                slot,
                sampler: Sampler::new(
                    &self.job.request.sampling,
                    &context.settings.eos_token_ids,
                    &self.prompt_ids,
                    self.job.seed,
                    choice,
                ),
                text: if guide.is_some() { text.exact() } else { text },
                guide,
                generated: 0,
                last: 0,
            };
            let accepted =
                answer.accept(&answers.first, &self.job, self.max_tokens, &mut self.usage, context);
            self.first_token.get_or_insert_with(|| self.job.submitted.elapsed());
            match accepted {
                Ok(true) => {
                    answers.running.push(answer);
                    return Ok(());
                }
                Ok(false) => {}
                Err(error) => {
                    decoder.free(slot);
                    return Err(error);
                }
            }
        }
        decoder.free(slot);
        Ok(())
    }

    /// The guides of answers in work that have a form.
    pub(super) fn guides(&mut self) -> impl Iterator<Item = &mut Guide> {
        let running = match &mut self.phase {
            Phase::Prefill { .. } => &mut [],
            Phase::Decode(answers) => answers.running.as_mut_slice(),
        };
        running.iter_mut().filter_map(|answer| answer.guide.as_mut())
    }

    /// Slot and next token of every answer in work.
    pub(super) fn next_tokens(&self) -> impl Iterator<Item = (usize, u32)> {
        let running = match &self.phase {
            Phase::Prefill { .. } => &[],
            Phase::Decode(answers) => answers.running.as_slice(),
        };
        running.iter().map(|answer| (answer.slot, answer.last))
    }

    /// Takes the logits of one step, one row per item of [`Task::next_tokens`], in its order.
    pub(super) fn accept(
        &mut self,
        rows: &[Logits],
        took: Duration,
        decoder: &mut dyn Decoder,
        context: Context<'_>,
    ) -> Result<(), GenerateError> {
        self.decoding += took;
        let Phase::Decode(answers) = &mut self.phase else { return Ok(()) };
        let prompt = answers.prompt;
        let mut vacated = Vec::new();
        for (index, row) in rows.iter().enumerate() {
            let answer = &mut answers.running[index];
            let goes_on = answer.accept(row, &self.job, self.max_tokens, &mut self.usage, context)?;
            if !goes_on {
                vacated.push(answer.slot);
            }
        }
        answers.running.retain(|answer| !vacated.contains(&answer.slot));
        while let Some(slot) = vacated.pop() {
            let begun = decoder.rewind(slot, prompt).map_err(internal);
            let begun = begun.inspect_err(|_| decoder.free(slot));
            let begun = begun.and_then(|()| self.begin_in(slot, decoder, context));
            if let Err(error) = begun {
                vacated.iter().for_each(|slot| decoder.free(*slot));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Tells the caller when every answer is complete.
    pub(super) fn finish_if_done(&mut self) {
        let Phase::Decode(answers) = &self.phase else { return };
        if !answers.running.is_empty() || self.job.ended() {
            return;
        }
        if !self.decoding.is_zero() {
            self.job.stages.push((Stage::DECODE_STEP, self.decoding));
        }
        let timings = Timings {
            queue: self.queue,
            stages: std::mem::take(&mut self.job.stages),
            first_token: self.first_token.unwrap_or_default(),
            total: self.job.submitted.elapsed(),
        };
        self.job.finish(Event::Done { usage: self.usage, timings });
    }

    /// Ends the request early and gives its slots back.
    pub(super) fn release(&mut self, decoder: &mut dyn Decoder) {
        match &mut self.phase {
            Phase::Prefill { slot, .. } => decoder.free(*slot),
            Phase::Decode(answers) => answers.running.drain(..).for_each(|answer| decoder.free(answer.slot)),
        }
    }
}

impl Answer {
    /// Picks a token and reports it; returns whether the answer goes on.
    fn accept(
        &mut self,
        logits: &Logits,
        job: &Job,
        max_tokens: usize,
        usage: &mut Usage,
        context: Context<'_>,
    ) -> Result<bool, GenerateError> {
        let mask = match &mut self.guide {
            Some(guide) => {
                guide.prepare();
                if guide.is_complete() {
                    self.finish(job, FinishReason::Stop);
                    return Ok(false);
                }
                guide.mask()?
            }
            None => None,
        };
        let id = self.sampler.sample(logits.values(), mask.as_ref())?;
        self.generated += 1;
        usage.completion_tokens += 1;
        let sampling = &job.request.sampling;
        let own_end = !sampling.ignore_eos && context.settings.eos_token_ids.contains(&id);
        if own_end || sampling.stop_token_ids.contains(&id) {
            self.finish(job, FinishReason::Stop);
            return Ok(false);
        }
        let top = job.request.top_logprobs;
        let logprob =
            top.map(|top| token_logprob(logits.values(), id, top, context.vocabulary)).transpose()?;
        let Piece { text, calls, reasoning, stopped } = self.text.push(context.vocabulary, id);
        usage.reasoning_tokens += usize::from(reasoning.is_some());
        let progress = self.guide.as_mut().map(|guide| guide.take(id)).transpose()?;
        self.last = id;
        let choice = self.choice;
        job.send(Event::Token { choice, text, calls, reasoning, logprob, id });
        if stopped {
            let (text, reason) = (String::new(), FinishReason::Stop);
            job.send(Event::Finished { choice, text, calls: Vec::new(), reasoning: None, reason });
        } else if progress == Some(Progress::Complete) {
            self.finish(job, FinishReason::Stop);
        } else if self.generated >= max_tokens {
            self.finish(job, FinishReason::Length);
        } else {
            return Ok(true);
        }
        Ok(false)
    }

    fn finish(&mut self, job: &Job, reason: FinishReason) {
        let Piece { text, calls, reasoning, stopped } = self.text.finish();
        let reason = if stopped { FinishReason::Stop } else { reason };
        job.send(Event::Finished { choice: self.choice, text, calls, reasoning, reason });
    }
}

fn token_logprob(
    logits: &[f32],
    id: u32,
    top: usize,
    vocabulary: &Vocabulary,
) -> Result<TokenLogprob, SamplingError> {
    let logprobs = LogSoftmax::new(logits)?;
    let entry = |id: u32, logprob: f32| Logprob { id, bytes: vocabulary.bytes(id).to_vec(), logprob };
    Ok(TokenLogprob {
        token: entry(id, logprobs.of(id)),
        top: logprobs.top(top).into_iter().map(|(id, logprob)| entry(id, logprob)).collect(),
    })
}

pub(super) fn internal(error: DecoderError) -> GenerateError {
    GenerateError::Internal(error.to_string())
}
