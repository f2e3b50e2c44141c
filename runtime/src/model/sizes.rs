//! Options resolved against a bundle, for loading and for planning memory.

use arrcoc_bundle::Bundle;
use arrcoc_bundle::names::axis;

use super::Options;
use crate::error::LoadError;
use crate::library::DEFAULT_CONTEXT_LENGTH;

/// Threads that decode and preprocess image files: enough to keep the encoder busy, few enough to leave it
/// the cores.
pub(super) const IMAGE_THREADS: usize = 2;

/// Options resolved against the bundle.
pub struct Sizes {
    /// Positions per slot.
    pub context_length: usize,
    /// Most prompt tokens between two steps.
    pub prefill_chunk: usize,
    /// The same while nobody waits for a step.
    pub solo_chunk: usize,
}

/// Most KV slots: each has an entry in tables whatever the context is.
const MOST_SLOTS: usize = 1 << 16;
/// Most threads of the inference library; every graph starts this many.
const MOST_THREADS: usize = 1 << 10;

/// While nobody waits for a step, this many chunks of a prompt go through the decoder at once: every run
/// reads all weights. Longer runs would only make a request that comes meanwhile wait longer.
pub(super) const SOLO_CHUNKS: usize = 2;

/// Checks options against a bundle.
///
/// # Errors
/// [`LoadError::Options`] names the option.
pub fn sizes(bundle: &Bundle, options: &Options) -> Result<Sizes, LoadError> {
    let at_least_1 = [
        ("slots", options.slots),
        ("prefill_chunk", options.prefill_chunk),
        ("queue_limit", options.queue_limit),
    ];
    for (what, value) in at_least_1 {
        if value == 0 {
            return Err(LoadError::Options { what, expected: "at least 1".into(), found: "0".into() });
        }
    }
    for (what, value, most) in
        [("slots", options.slots, MOST_SLOTS), ("threads", options.library.threads, MOST_THREADS)]
    {
        if value > most {
            return Err(LoadError::Options {
                what,
                expected: format!("at most {most}"),
                found: value.to_string(),
            });
        }
    }
    let most = |axis| bundle.axis("decoder", axis).map_or(usize::MAX, |range| range.max as usize);
    if bundle.manifest().target.shares_cache() && options.slots > most(axis::BATCH) {
        let expected = format!("at most {}, the largest batch of the bundle's decoder", most(axis::BATCH));
        return Err(LoadError::Options { what: "slots", expected, found: options.slots.to_string() });
    }
    let longest = bundle.manifest().decoder.context_length;
    let context_length = context_length(longest, options);
    if !(2..=longest).contains(&context_length) {
        let expected = format!("2 to {longest} tokens, which the bundle's decoder covers");
        return Err(LoadError::Options {
            what: "context_length",
            expected,
            found: context_length.to_string(),
        });
    }
    let prefill_chunk = options.prefill_chunk.min(most(axis::SEQ));
    let solo_chunk = match bundle.manifest().target.has_longer_chunks() {
        true => prefill_chunk.saturating_mul(SOLO_CHUNKS).min(most(axis::SEQ)),
        false => prefill_chunk,
    };
    Ok(Sizes { context_length, prefill_chunk, solo_chunk })
}

/// The context that the options ask for, or as much of the default one as the model covers.
pub(super) fn context_length(longest: usize, options: &Options) -> usize {
    options.context_length.unwrap_or(DEFAULT_CONTEXT_LENGTH.min(longest))
}
