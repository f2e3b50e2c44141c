//! Whether a workload fits a GPU, and what to change where it does not.

use std::fmt;

use serde::Serialize;

use super::devices::Device;
use super::memory::{Model, Workload};
use super::precision::{Precision, Refusal};
use super::units::gib;

/// Contexts are offered in multiples of this many tokens.
const CONTEXT_STEP: usize = 64;
/// Shortest context that is worth offering: the largest usual budget of visual tokens and a short question.
const SHORTEST_CONTEXT: usize = 512;

/// A precision on a GPU.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// GPU.
    pub device: Device,
    /// Precision.
    pub precision: Precision,
    /// Yes, no, or not at all.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// What to know even if it fits.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub caveats: Vec<&'static str>,
}

/// Whether it fits.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// It does.
    Fits {
        /// Bytes left.
        left: u64,
    },
    /// It does not.
    TooLarge {
        /// Bytes that are missing.
        missing: u64,
        /// The first change that makes it fit.
        change: Change,
    },
    /// The GPU should not run the precision, whatever its size.
    Refused(Refusal),
}

/// What makes a workload fit; each with the bytes that are then left.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
#[allow(missing_docs, reason = "the fields say what they are: the new value, and the bytes left with it")]
pub enum Change {
    /// A smaller precision.
    Precision { precision: Precision, left: u64 },
    /// A shorter context, tokens.
    Context { tokens: usize, left: u64 },
    /// Fewer answers at a time.
    Slots { slots: usize, left: u64 },
    /// A smaller image, pixels.
    ImageSize { pixels: usize, left: u64 },
    /// All of these together.
    Together { precision: Precision, tokens: usize, slots: usize, pixels: usize, left: u64 },
    /// Nothing; even the least workload in the smallest precision needs this many bytes.
    LargerDevice { needed: u64 },
}

impl Model {
    /// Judges a precision on a GPU.
    pub fn judge(&self, device: Device, precision: Precision, workload: Workload) -> Verdict {
        let compute = device.compute();
        let outcome = match precision.refusal(compute) {
            Some(refusal) => Outcome::Refused(refusal),
            None => self.fit(device, precision, workload),
        };
        let refused = matches!(outcome, Outcome::Refused(_));
        let own = precision.caveat(compute).into_iter().chain(precision.unbuilt()).filter(|_| !refused);
        let caveats = own.chain(device.caveat()).collect();
        Verdict { device, precision, outcome, caveats }
    }

    fn fit(&self, device: Device, precision: Precision, workload: Workload) -> Outcome {
        let total = self.estimate(precision, workload).total;
        match device.memory().checked_sub(total) {
            Some(left) => Outcome::Fits { left },
            None => {
                let missing = total - device.memory();
                Outcome::TooLarge { missing, change: self.change(device, precision, workload) }
            }
        }
    }

    /// The first single change that is enough, in the order in which they cost quality or service; else all
    /// of them together.
    fn change(&self, device: Device, precision: Precision, workload: Workload) -> Change {
        let smaller = self.smaller_precisions(device, precision, workload);
        let fitting = smaller.iter().find_map(|&p| Some((p, self.left(device, p, workload)?)));
        let fitting = fitting.map(|(precision, left)| Change::Precision { precision, left });
        let shorter = || {
            let tokens = self.longest_context(device, precision, workload)?;
            let left = self.left(device, precision, Workload { context: tokens, ..workload })?;
            Some(Change::Context { tokens, left })
        };
        let fewer = || {
            let slots = largest(1, workload.slots.saturating_sub(1), |slots| {
                self.left(device, precision, Workload { slots, ..workload }).is_some()
            })?;
            let left = self.left(device, precision, Workload { slots, ..workload })?;
            Some(Change::Slots { slots, left })
        };
        let lower = || {
            let sizes = self.smaller_images(workload.image_size);
            sizes.into_iter().find_map(|pixels| {
                let left = self.left(device, precision, Workload { image_size: pixels, ..workload })?;
                Some(Change::ImageSize { pixels, left })
            })
        };
        let least =
            smaller.iter().copied().min_by_key(|&p| self.estimate(p, workload).total).unwrap_or(precision);
        fitting
            .or_else(shorter)
            .or_else(fewer)
            .or_else(lower)
            .unwrap_or_else(|| self.everything(device, least, workload))
    }

    /// One slot, the smallest image and the longest context that then fits.
    fn everything(&self, device: Device, precision: Precision, workload: Workload) -> Change {
        let pixels = self.smaller_images(workload.image_size).last().copied().unwrap_or(workload.image_size);
        let least = Workload { slots: 1, image_size: pixels, ..workload };
        let whole = self.left(device, precision, least).map(|_| workload.context);
        let tokens = whole.or_else(|| self.longest_context(device, precision, least));
        let tokens = tokens.unwrap_or(workload.context.min(SHORTEST_CONTEXT));
        let needed = self.estimate(precision, Workload { context: tokens, ..least }).total;
        match device.memory().checked_sub(needed) {
            Some(left) => Change::Together { precision, tokens, slots: 1, pixels, left },
            None => Change::LargerDevice { needed },
        }
    }

    /// Bytes left, where it fits.
    fn left(&self, device: Device, precision: Precision, workload: Workload) -> Option<u64> {
        device.memory().checked_sub(self.estimate(precision, workload).total)
    }

    /// Precisions that the GPU runs and that need fewer bytes, in order of precision. Fewer bits need not be
    /// fewer bytes: int4 is the decoder's alone, int8 every network's.
    fn smaller_precisions(&self, device: Device, precision: Precision, workload: Workload) -> Vec<Precision> {
        let total = |precision| self.estimate(precision, workload).total;
        let now = total(precision);
        let runs = |other: &Precision| other.refusal(device.compute()).is_none();
        Precision::ALL.into_iter().filter(runs).filter(|&other| total(other) < now).collect()
    }

    fn longest_context(&self, device: Device, precision: Precision, workload: Workload) -> Option<usize> {
        let steps = |tokens: usize| tokens / CONTEXT_STEP;
        let most = steps(workload.context.saturating_sub(1));
        let fits = |steps| {
            let context = steps * CONTEXT_STEP;
            self.left(device, precision, Workload { context, ..workload }).is_some()
        };
        largest(steps(SHORTEST_CONTEXT), most, fits).map(|steps| steps * CONTEXT_STEP)
    }

    /// The configuration's image sizes below `size`, the largest first.
    fn smaller_images(&self, size: usize) -> Vec<usize> {
        // No encoder has an input without a pixel: the refusal lists those that it has.
        let sizes = self.composition.picture(Some(0)).err().map(|error| error.expected);
        let mut sizes: Vec<_> = sizes.into_iter().flatten().filter(|&other| other < size).collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        sizes
    }
}

/// The largest number of `least..=most` that fits, where a smaller one always fits better.
fn largest(least: usize, most: usize, fits: impl Fn(usize) -> bool) -> Option<usize> {
    if least > most || !fits(least) {
        return None;
    }
    let (mut yes, mut no) = (least, most + 1);
    while no - yes > 1 {
        let middle = yes + (no - yes) / 2;
        if fits(middle) { yes = middle } else { no = middle }
    }
    Some(yes)
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Precision { precision, left } => write!(f, "take {precision}, which leaves {}", gib(*left)),
            Self::Context { tokens, left } => {
                write!(f, "shorten the context to {tokens} tokens, which leaves {}", gib(*left))
            }
            Self::Slots { slots, left } => {
                write!(f, "answer {slots} at a time, which leaves {}", gib(*left))
            }
            Self::ImageSize { pixels, left } => {
                write!(f, "encode images at {pixels} px, which leaves {}", gib(*left))
            }
            Self::Together { precision, tokens, slots, pixels, left } => write!(
                f,
                "no single change is enough; {precision}, a context of {tokens} tokens, {slots} answer at a time and images \
                 of {pixels} px together leave {}",
                gib(*left)
            ),
            Self::LargerDevice { needed } => {
                write!(
                    f,
                    "nothing helps: the least workload needs {}; take a larger GPU or a smaller model",
                    gib(*needed)
                )
            }
        }
    }
}
