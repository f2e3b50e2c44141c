//! The decoder, token by token: the same prompt and the reference's choices go to both sides.
//!
//! Bundles for different targets pass their KV cache differently, so the runs are not replayed: each side has
//! a decoder of its own.

use arrcoc_bundle::names::tensor;
use std::time::{Duration, Instant};

use arrcoc_bundle::{Bundle, Manifest, Meaning, Role};
use arrcoc_runtime::decoder::{self, Decoder, Embedder, Logits, Rows};
use arrcoc_runtime::library::Library;
use arrcoc_runtime::tensor::Tensor;
use serde::Serialize;

use super::compare::{float_cosine, float_distance};
use super::replay::StageReport;
use super::{Options, VerifyError, tolerances};

/// One bundle on one library.
pub(super) struct Side<'a> {
    pub(super) bundle: &'a Bundle,
    pub(super) library: &'a dyn Library,
}

/// The greedy continuation, token by token.
#[derive(Debug, Clone, Serialize)]
pub struct DecodingReport {
    /// Tokens decoded, the reference's choice fed to both sides.
    pub tokens: usize,
    /// Tokens where both sides' first choice is the same.
    pub agreeing: usize,
    /// Tokens where they differ although the reference's two best are further apart than the logits may be.
    pub differing: usize,
}

/// A language model of one side, with one sequence in it.
struct Speaker {
    decoder: Box<dyn Decoder>,
    embedder: Embedder,
    slot: usize,
    elapsed: Duration,
}

impl Speaker {
    fn load(side: &Side<'_>, capacity: usize) -> Result<Self, VerifyError> {
        let mut decoder = decoder::load(side.bundle, side.library, 1, capacity)?;
        let embedding = side.library.load_from(side.bundle, side.bundle.manifest().only(Role::Embedding))?;
        let embedder = Embedder::new(embedding, side.bundle.manifest().decoder.hidden_size);
        let slot = decoder.slots_mut().allocate().unwrap_or(0);
        Ok(Self { decoder, embedder, slot, elapsed: Duration::ZERO })
    }

    /// Feeds a prompt of rows of `width`, `chunk` rows at a time.
    fn prefill(&mut self, prompt: &[f32], width: usize, chunk: usize) -> Result<Logits, VerifyError> {
        let started = Instant::now();
        let mut logits = None;
        for chunk in prompt.chunks(chunk * width) {
            let embeds = Tensor::from_vec(&[1, chunk.len() / width, width], chunk.to_vec())?;
            logits = Some(self.decoder.prefill(self.slot, &Rows::plain(embeds))?);
        }
        self.elapsed += started.elapsed();
        logits.ok_or_else(no_logits)
    }

    /// Feeds one token.
    fn step(&mut self, token: u32) -> Result<Logits, VerifyError> {
        let started = Instant::now();
        let embeds = self.embedder.embed(&[token])?;
        let logits = self.decoder.step(&[self.slot], &embeds)?.pop();
        self.elapsed += started.elapsed();
        logits.ok_or_else(no_logits)
    }
}

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

/// Feeds a prompt `[1, S, H]`, then decodes greedily: the reference's choices go to both sides.
pub(super) fn decode(
    sides: &[Side<'_>; 2],
    prompt: &Tensor,
    options: &Options,
) -> Result<(StageReport, DecodingReport), VerifyError> {
    let spec = &sides[0].bundle.manifest().decoder;
    let context_length = context_length(options, sides[0].bundle.manifest());
    // As a server would: TensorRT plans take no more.
    let prefill_chunk = options.library.tensorrt.lengths.prefill_chunk;
    let prompt = prompt.as_slice::<f32>()?;
    // A model of short context takes as much of the prompt as leaves room for one token and the decoder's
    // spare place.
    let length = (prompt.len() / spec.hidden_size).min(context_length - 2);
    let tokens = options.tokens.min(context_length - length - 1);
    let prompt = &prompt[prompt.len() - length * spec.hidden_size..];
    let capacity = length + tokens + 1;
    let mut speakers = [Speaker::load(&sides[0], capacity)?, Speaker::load(&sides[1], capacity)?];
    let manifest = sides[0].bundle.manifest();
    let limit = tolerances::limit(manifest, manifest.only(Role::Decoder), Role::Decoder, Meaning::Logits);
    let mut decoding = DecodingReport { tokens, agreeing: 0, differing: 0 };
    let (mut worst, mut cosine) = (0.0f64, 1.0f64);
    let mut token = None;
    for _ in 0..tokens {
        let [subject, reference] = &mut speakers;
        let [found, expected] = match token {
            None => [
                subject.prefill(prompt, spec.hidden_size, prefill_chunk)?,
                reference.prefill(prompt, spec.hidden_size, prefill_chunk)?,
            ],
            Some(token) => [subject.step(token)?, reference.step(token)?],
        };
        let (found, expected) = (found.values(), expected.values());
        worst = worst.max(float_distance(found, expected));
        cosine = cosine.min(float_cosine(found, expected));
        let choice = top(expected);
        if top(found) == choice {
            decoding.agreeing += 1;
        } else if margin(expected) > limit * largest(expected) {
            decoding.differing += 1;
        }
        token = Some(choice);
    }
    let [seconds, reference_seconds] = speakers.map(|speaker| speaker.elapsed.as_secs_f64());
    let stage = StageReport {
        stage: sides[0].bundle.manifest().only(Role::Decoder).to_owned(),
        role: Role::Decoder,
        output: tensor::LOGITS.to_owned(),
        meaning: Meaning::Logits,
        distance: worst,
        limit,
        cosine,
        seconds,
        reference_seconds,
    };
    Ok((stage, decoding))
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
