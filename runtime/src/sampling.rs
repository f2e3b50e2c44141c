//! From logits to a token.
//!
//! The logits are processed in this order, which is that of transformers with OpenAI's penalties put where
//! vLLM has them:
//!
//! 0. the form of the answer: tokens that cannot come next are impossible (as in vLLM, before all else);
//! 1. `logit_bias` is added (OpenAI);
//! 2. repetition penalty over prompt and answer: a positive logit is divided by it, a negative one multiplied
//!    (transformers' `RepetitionPenaltyLogitsProcessor`);
//! 3. frequency and presence penalty over the answer: `logit -= count * frequency + (count > 0) * presence`
//!    (OpenAI);
//! 4. `min_tokens`: until so many tokens were picked, those that end an answer cannot be (vLLM);
//! 5. temperature 0: the largest logit wins, the lowest id among equals, and the rest is skipped;
//! 6. temperature: logits are divided by it;
//! 7. `min_p`: only tokens at least this share of the likeliest one's probability stay (vLLM);
//! 8. `top_k`: only that many of the largest stay;
//! 9. `top_p`: only the smallest set of likeliest tokens whose probability, among what stayed, reaches it;
//! 10. one draw from what is left.
//!
//! Probabilities are summed in `f64`. Reported log-probabilities come from the raw logits, before all of
//! this: they say what the model would have, whatever its answer is bound to. vLLM's are those of what the
//! form has left.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

use crate::form::Mask;
use crate::generate::{GenerateError, Sampling};

/// Logits from which no token can be picked: the model is broken, or its arithmetic overflowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SamplingError {
    /// A logit is NaN or positive infinity.
    #[error(
        "the decoder's logit of token {id} is not a finite number; the weights hold NaN or the arithmetic overflowed \
         (run `arrcoc-export verify` on the bundle)"
    )]
    NotFinite {
        /// Token id of the first such logit.
        id: u32,
    },
    /// Every logit is negative infinity, or there is none.
    #[error("the decoder gave no token a probability above 0")]
    Empty,
}

impl From<SamplingError> for GenerateError {
    fn from(error: SamplingError) -> Self {
        Self::Internal(error.to_string())
    }
}

/// Picks the tokens of one answer. Holds what the penalties and the random draws depend on.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    /// Ids in the prompt; kept only where the repetition penalty needs them.
    prompt: HashSet<u32>,
    /// How often each id was generated.
    generated: HashMap<u32, u32>,
    /// Tokens picked so far.
    picked: usize,
    /// Ids that end an answer; kept only where `min_tokens` holds them back.
    ends: Vec<u32>,
    rng: ChaCha12Rng,
    scratch: Vec<f32>,
}

impl Sampler {
    /// A sampler for one choice. The same `sampling`, `seed` and `choice` over the same logits pick the same
    /// tokens; choices draw from different streams of one seed, so the first of several equals a lonely one.
    /// `eos_token_ids` are the model's own end tokens.
    pub fn new(sampling: &Sampling, eos_token_ids: &[u32], prompt: &[u32], seed: u64, choice: usize) -> Self {
        let mut rng = ChaCha12Rng::seed_from_u64(seed);
        rng.set_stream(choice as u64);
        let penalised = sampling.repetition_penalty != 1.0;
        let ends = eos_token_ids.iter().chain(&sampling.stop_token_ids).copied();
        Self {
            sampling: sampling.clone(),
            picked: 0,
            ends: if sampling.min_tokens > 0 { ends.collect() } else { Vec::new() },
            prompt: if penalised { prompt.iter().copied().collect() } else { HashSet::new() },
            generated: HashMap::new(),
            rng,
            scratch: Vec::new(),
        }
    }

    /// Picks the next token from raw logits `[V]` and remembers it. With a `mask`, one that it allows.
    ///
    /// # Errors
    /// [`SamplingError`] when the logits are no distribution, or none of what the mask allows.
    pub fn sample(&mut self, logits: &[f32], mask: Option<&Mask>) -> Result<u32, SamplingError> {
        check(logits)?;
        let mut scratch = std::mem::take(&mut self.scratch);
        let id = if self.untouched() && mask.is_none() {
            self.pick(logits)
        } else {
            scratch.clear();
            scratch.extend_from_slice(logits);
            if let Some(mask) = mask {
                mask.apply(&mut scratch);
            }
            self.bias(&mut scratch);
            self.penalise(&mut scratch);
            self.hold_back_ends(&mut scratch);
            self.pick(&scratch)
        };
        self.scratch = scratch;
        if mask.is_some_and(|mask| !mask.allows(id)) {
            return Err(SamplingError::Empty);
        }
        self.picked += 1;
        *self.generated.entry(id).or_default() += 1;
        Ok(id)
    }

    /// Whether nothing would change any logit.
    fn untouched(&self) -> bool {
        let s = &self.sampling;
        s.repetition_penalty == 1.0
            && s.logit_bias.is_empty()
            && s.frequency_penalty == 0.0
            && s.presence_penalty == 0.0
            && self.picked >= s.min_tokens
    }

    /// Makes the end of the answer impossible while it is shorter than `min_tokens`, unless nothing else is
    /// possible.
    fn hold_back_ends(&self, logits: &mut [f32]) {
        if self.picked >= self.sampling.min_tokens {
            return;
        }
        let others =
            |(id, logit): (usize, &f32)| *logit > f32::NEG_INFINITY && !self.ends.contains(&(id as u32));
        if !logits.iter().enumerate().any(others) {
            return;
        }
        for &id in &self.ends {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }

    fn bias(&self, logits: &mut [f32]) {
        for &(id, bias) in &self.sampling.logit_bias {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit += bias;
            }
        }
    }

    fn penalise(&self, logits: &mut [f32]) {
        let repetition = self.sampling.repetition_penalty;
        if repetition != 1.0 {
            let fresh = self.generated.keys().filter(|id| !self.prompt.contains(id));
            for &id in self.prompt.iter().chain(fresh) {
                if let Some(logit) = logits.get_mut(id as usize) {
                    *logit = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
                }
            }
        }
        for (&id, &count) in &self.generated {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit -= self.sampling.frequency_penalty * count as f32 + self.sampling.presence_penalty;
            }
        }
    }

    fn pick(&mut self, logits: &[f32]) -> u32 {
        if self.sampling.temperature == 0.0 {
            return argmax(logits);
        }
        let candidates = candidates(logits, &self.sampling);
        draw(&candidates, self.rng.random::<f64>())
    }
}

/// Refuses logits that are no distribution.
fn check(logits: &[f32]) -> Result<(), SamplingError> {
    if let Some(id) = logits.iter().position(|l| l.is_nan() || *l == f32::INFINITY) {
        return Err(SamplingError::NotFinite { id: id as u32 });
    }
    if logits.iter().all(|l| *l == f32::NEG_INFINITY) {
        return Err(SamplingError::Empty);
    }
    Ok(())
}

/// The id of the largest logit, the lowest among equals.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best as u32
}

/// A token that may still be drawn, with its unnormalised probability.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    weight: f64,
}

/// Likeliest first, the lowest id among equals: a total order, so that selections are reproducible.
fn likelier(a: &Candidate, b: &Candidate) -> Ordering {
    b.weight.total_cmp(&a.weight).then(a.id.cmp(&b.id))
}

/// Temperature, `min_p`, `top_k` and `top_p`; at least one candidate is left.
fn candidates(logits: &[f32], sampling: &Sampling) -> Vec<Candidate> {
    let max = f64::from(logits[argmax(logits) as usize]);
    let temperature = f64::from(sampling.temperature);
    let mut all: Vec<Candidate> = logits
        .iter()
        .enumerate()
        .map(|(id, &logit)| Candidate {
            id: id as u32,
            weight: ((f64::from(logit) - max) / temperature).exp(),
        })
        .collect();
    if sampling.min_p > 0.0 {
        // The likeliest token weighs 1, so that a weight is a share of its probability.
        let least = f64::from(sampling.min_p);
        all.retain(|candidate| candidate.weight >= least);
    }
    if sampling.top_k > 0 && sampling.top_k < all.len() {
        all.select_nth_unstable_by(sampling.top_k - 1, likelier);
        all.truncate(sampling.top_k);
    }
    if sampling.top_p < 1.0 {
        let keep = nucleus(&mut all, f64::from(sampling.top_p));
        all.truncate(keep);
    }
    all.sort_unstable_by_key(|candidate| candidate.id);
    all
}

/// Moves the nucleus to the front and returns its size. Sorts in growing portions: nuclei are small,
/// vocabularies not.
fn nucleus(all: &mut [Candidate], top_p: f64) -> usize {
    let target = top_p * all.iter().map(|candidate| candidate.weight).sum::<f64>();
    let (mut sum, mut sorted, mut portion) = (0.0, 0, 64);
    while sorted < all.len() {
        let rest = &mut all[sorted..];
        let take = portion.min(rest.len());
        if take < rest.len() {
            rest.select_nth_unstable_by(take - 1, likelier);
        }
        rest[..take].sort_unstable_by(likelier);
        for candidate in &rest[..take] {
            sum += candidate.weight;
            sorted += 1;
            if sum >= target {
                return sorted;
            }
        }
        portion *= 8;
    }
    sorted
}

/// The candidate at `at` (0..1) of the cumulative distribution.
fn draw(candidates: &[Candidate], at: f64) -> u32 {
    let mut left = at * candidates.iter().map(|candidate| candidate.weight).sum::<f64>();
    let mut last = 0;
    for candidate in candidates.iter().filter(|candidate| candidate.weight > 0.0) {
        last = candidate.id;
        left -= candidate.weight;
        if left < 0.0 {
            break;
        }
    }
    last
}

/// Natural log-probabilities of raw logits `[V]`.
#[derive(Debug, Clone, Copy)]
pub struct LogSoftmax<'a> {
    logits: &'a [f32],
    normaliser: f64,
}

impl<'a> LogSoftmax<'a> {
    /// Sums the distribution once.
    ///
    /// # Errors
    /// [`SamplingError`] when the logits are no distribution.
    pub fn new(logits: &'a [f32]) -> Result<Self, SamplingError> {
        check(logits)?;
        let max = f64::from(logits[argmax(logits) as usize]);
        let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - max).exp()).sum();
        Ok(Self { logits, normaliser: max + sum.ln() })
    }

    /// Log-probability of a token; negative infinity for an id outside the vocabulary.
    pub fn of(&self, id: u32) -> f32 {
        self.logits
            .get(id as usize)
            .map_or(f32::NEG_INFINITY, |&logit| (f64::from(logit) - self.normaliser) as f32)
    }

    /// The `count` likeliest tokens, likeliest first, the lowest id among equals.
    pub fn top(&self, count: usize) -> Vec<(u32, f32)> {
        let order =
            |a: &u32, b: &u32| self.logits[*b as usize].total_cmp(&self.logits[*a as usize]).then(a.cmp(b));
        let mut ids: Vec<u32> = (0..self.logits.len() as u32).collect();
        let count = count.min(ids.len());
        if count == 0 {
            return Vec::new();
        }
        if count < ids.len() {
            ids.select_nth_unstable_by(count - 1, order);
            ids.truncate(count);
        }
        ids.sort_unstable_by(order);
        ids.into_iter().map(|id| (id, self.of(id))).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
