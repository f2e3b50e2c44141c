//! The decoder, token by token: the recorded prompt, with its positions and deeper rows, and the reference's
//! choices go to all sides.
//!
//! Bundles for different targets pass their KV cache differently, so the runs are not replayed: each side has
//! a decoder of its own. They speak one after the other.

use arrcoc_bundle::names::tensor;
use std::time::{Duration, Instant};

use arrcoc_bundle::{Manifest, Meaning, Role};
use arrcoc_runtime::decoder::{self, Decoder, Embedder, Logits, Rows};
use serde::Serialize;

use super::compare::{float_cosine, float_distance};
use super::replay::{Side, StageReport};
use super::{Options, VerifyError, prompt, tolerances};
use crate::progress::Waiting;

/// The greedy continuation, token by token.
#[derive(Debug, Clone, Serialize)]
pub struct DecodingReport {
    /// Tokens decoded, the reference's choice fed to all sides.
    pub tokens: usize,
    /// Tokens where the bundle's first choice is the reference's.
    pub agreeing: usize,
    /// Tokens where they differ although the reference's two best are further apart than the logits may be.
    pub differing: usize,
    /// Tokens where the bundle's first choice is that of the checkpoint's own weights.
    pub kept: usize,
}

/// A language model of one side, with one sequence in it, and a shorter one beside it where the target steps
/// several at once: a server would, and what one says may not depend on the other.
struct Speaker {
    decoder: Box<dyn Decoder>,
    embedder: Embedder,
    /// The sequence's, behind its neighbour's and one that nobody has.
    slot: usize,
    neighbour: Option<usize>,
    elapsed: Duration,
}

impl Speaker {
    fn load(side: &Side<'_>, capacity: usize) -> Result<Self, VerifyError> {
        let batches = side.bundle.manifest().target.shares_cache();
        let mut decoder = decoder::load(side.bundle, side.library, if batches { 3 } else { 1 }, capacity)?;
        let embedding = side.library.load_from(side.bundle, side.bundle.manifest().only(Role::Embedding))?;
        let embedder = Embedder::new(embedding, side.bundle.manifest().decoder.hidden_size);
        let slots: Vec<usize> = std::iter::from_fn(|| decoder.slots_mut().allocate()).collect();
        let neighbour = slots.first().copied().filter(|_| batches);
        if let (Some(neighbour), Some(&hole)) = (neighbour, slots.get(1)) {
            decoder.free(hole);
            decoder.prefill(neighbour, &Rows::plain(embedder.embed(&[FIRST])?))?;
        }
        let slot = slots.last().copied().unwrap_or(0);
        Ok(Self { decoder, embedder, slot, neighbour, elapsed: Duration::ZERO })
    }

    /// Feeds a prompt.
    fn prefill(&mut self, chunks: &[Rows]) -> Result<Logits, VerifyError> {
        let started = Instant::now();
        let mut logits = None;
        for chunk in chunks {
            logits = Some(self.decoder.prefill(self.slot, chunk)?);
        }
        self.elapsed += started.elapsed();
        logits.ok_or_else(no_logits)
    }

    /// Feeds one token.
    fn step(&mut self, token: u32) -> Result<Logits, VerifyError> {
        let started = Instant::now();
        let slots: Vec<usize> = self.neighbour.into_iter().chain([self.slot]).collect();
        let embeds = self.embedder.embed(&vec![token; slots.len()])?;
        let logits = self.decoder.step(&slots, &embeds)?.pop();
        self.elapsed += started.elapsed();
        logits.ok_or_else(no_logits)
    }
}

/// What the neighbour begins with.
const FIRST: u32 = 0;

/// A token of the prompt, one of the answer, and the decoder's spare place.
pub(super) const SHORTEST_CONTEXT: usize = 3;

fn no_logits() -> VerifyError {
    VerifyError::Output { stage: Role::Decoder.name().to_owned(), output: tensor::LOGITS.to_owned() }
}

/// Tokens that prompt and answer may have together: the model's limit, or that of the TensorRT plans, where
/// it is smaller.
pub(super) fn context_length(options: &Options, manifest: &Manifest) -> usize {
    options.library.tensorrt.lengths.context_length.min(manifest.decoder.context_length)
}

/// What a side said to a prompt, and to the tokens that followed it.
pub(super) struct Speech {
    /// Logits of every token.
    logits: Vec<Vec<f32>>,
    elapsed: Duration,
}

/// A prompt, and how it is fed.
pub(super) struct Lines {
    /// What is fed at once. As a server would: TensorRT plans take no more.
    chunks: Vec<Rows>,
    /// Tokens to decode.
    tokens: usize,
    /// Rows and tokens.
    capacity: usize,
}

impl Lines {
    /// As much of a prompt as a model's context leaves room for, beside one token and the decoder's spare
    /// place.
    pub(super) fn new(prompt: &Rows, manifest: &Manifest, options: &Options) -> Result<Self, VerifyError> {
        let context_length = context_length(options, manifest);
        let all = prompt.tokens();
        let length = all.min(context_length - 2);
        let tokens = options.tokens.min(context_length - length - 1);
        let cut = if length < all { Some(prompt::tail(prompt, length)?) } else { None };
        let prompt = cut.as_ref().unwrap_or(prompt);
        let chunk = options.library.tensorrt.lengths.prefill_chunk;
        let chunks = (0..length).step_by(chunk);
        let chunks = chunks.map(|first| prompt.part(first..length.min(first + chunk)));
        Ok(Self { chunks: chunks.collect::<Result<_, _>>()?, tokens, capacity: length + tokens + 1 })
    }

    /// Has a side say them: its own choices, or those of a side that has spoken before. One side's weights
    /// are in memory at a time.
    pub(super) fn speak(
        &self,
        side: &Side<'_>,
        before: Option<&Speech>,
        waiting: &Waiting,
    ) -> Result<Speech, VerifyError> {
        let mut speaker = Speaker::load(side, self.capacity)?;
        let mut logits: Vec<Vec<f32>> = Vec::with_capacity(self.tokens);
        for at in 0..self.tokens {
            waiting.say(&format!("decoding on {}, token {} of {}", side.name, at + 1, self.tokens));
            let said = match at.checked_sub(1) {
                None => speaker.prefill(&self.chunks)?,
                Some(last) => speaker.step(top(&before.map_or(&logits, |speech| &speech.logits)[last]))?,
            };
            logits.push(said.values().to_vec());
        }
        Ok(Speech { logits, elapsed: speaker.elapsed })
    }
}

impl Speech {
    /// How far its logits are from those of another at worst, and their worst cosine.
    fn apart(&self, from: &Self) -> (f64, f64) {
        self.logits.iter().zip(&from.logits).fold((0.0, 1.0), |(distance, cosine), (found, expected)| {
            (float_distance(found, expected).max(distance), float_cosine(found, expected).min(cosine))
        })
    }
}

/// What all sides said. Where the bundle's weights have 32 bits, there are only the first two.
pub(super) struct Speeches<'a> {
    /// The bundle that is verified.
    pub(super) subject: &'a Speech,
    /// Its weights in 32 bits.
    pub(super) reference: &'a Speech,
    /// The same with rounded factors, one for each draw.
    pub(super) rounded: &'a [Speech],
    /// The checkpoint's weights in 32 bits.
    pub(super) checkpoint: Option<&'a Speech>,
}

impl Speeches<'_> {
    /// Compares them.
    pub(super) fn compare(&self, manifest: &Manifest) -> (StageReport, DecodingReport) {
        let Self { subject, reference, rounded, checkpoint } = self;
        let (distance, cosine) = subject.apart(reference);
        let noise = rounded.iter().map(|rounded| rounded.apart(reference).0).reduce(f64::max);
        let name = manifest.only(Role::Decoder);
        let limit = tolerances::limit(manifest, name, Role::Decoder, Meaning::Logits, noise);
        let loss = checkpoint.map(|checkpoint| subject.apart(checkpoint));
        let stage = StageReport {
            stage: name.to_owned(),
            role: Role::Decoder,
            output: tensor::LOGITS.to_owned(),
            meaning: Meaning::Logits,
            distance,
            noise,
            limit,
            loss: loss.map(|(distance, _)| distance),
            cosine: loss.map_or(cosine, |(_, cosine)| cosine),
            seconds: subject.elapsed.as_secs_f64(),
            reference_seconds: reference.elapsed.as_secs_f64(),
        };
        let mut decoding =
            DecodingReport { tokens: subject.logits.len(), agreeing: 0, differing: 0, kept: 0 };
        for (at, (found, expected)) in subject.logits.iter().zip(&reference.logits).enumerate() {
            if top(found) == top(expected) {
                decoding.agreeing += 1;
            } else if margin(expected) > limit * largest(expected) {
                decoding.differing += 1;
            }
            let own = checkpoint.map_or(expected, |checkpoint| &checkpoint.logits[at]);
            decoding.kept += usize::from(top(found) == top(own));
        }
        (stage, decoding)
    }
}

/// Index of the largest logit, the first of equal ones.
fn top(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().rev().max_by(|(_, a), (_, b)| a.total_cmp(b));
    best.map_or(0, |(i, _)| i as u32)
}

/// How far the best logit is ahead of the next one.
fn margin(logits: &[f32]) -> f64 {
    let best = top(logits) as usize;
    let rest = logits.iter().enumerate().filter(|(i, _)| *i != best).map(|(_, &x)| x);
    f64::from(logits.get(best).copied().unwrap_or(0.0)) - f64::from(rest.fold(f32::NEG_INFINITY, f32::max))
}

fn largest(logits: &[f32]) -> f64 {
    logits.iter().fold(0.0, |largest: f64, &x| largest.max(f64::from(x).abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_first_and_have_no_margin() {
        assert_eq!(top(&[0.0, 3.0, 3.0, -1.0]), 1);
        assert_eq!(margin(&[0.0, 3.0, 3.0, -1.0]), 0.0);
        assert_eq!(margin(&[0.0, 3.0, 1.0]), 2.0);
    }
}
