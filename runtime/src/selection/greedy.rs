//! The kernel of every selector, and of the arms of an evaluation that choose so: take what gains most, again
//! and again.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// What a selection is worth.
pub trait Objective {
    /// What a candidate adds to those that were taken. It must not grow as more are taken (that is what makes
    /// coverage, determinants and least distances cheap to maximise); what is not a number counts as nothing.
    fn gain(&self, candidate: usize) -> f32;

    /// Takes a candidate.
    fn take(&mut self, candidate: usize);
}

/// A candidate, and what it gained when it was last looked at.
struct Bound {
    gain: f32,
    candidate: usize,
    /// How many were taken then.
    taken: usize,
}

impl Ord for Bound {
    /// Of equal ones the first candidate is the greater.
    fn cmp(&self, other: &Self) -> Ordering {
        self.gain.total_cmp(&other.gain).then(other.candidate.cmp(&self.candidate))
    }
}

impl PartialOrd for Bound {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Bound {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Bound {}

/// Takes `count` of `candidates` one by one, each the one that gains most at its time, of equal ones the
/// first; in the order in which they were taken. `first` begins, where there is one. No candidate is taken
/// twice; those that gain nothing come last.
///
/// Gains that were computed before are upper bounds of those now (Minoux 1978), so that few are computed
/// again; the outcome is that of computing all.
pub fn maximise(
    objective: &mut dyn Objective,
    candidates: usize,
    count: usize,
    first: Option<usize>,
) -> Vec<usize> {
    let mut taken: Vec<usize> = first.into_iter().filter(|_| count > 0).collect();
    taken.iter().for_each(|&candidate| objective.take(candidate));
    let rest = (0..candidates).filter(|candidate| !taken.contains(candidate));
    let bound = |objective: &dyn Objective, candidate: usize, taken: usize| {
        let gain = objective.gain(candidate);
        // Zero has two signs, and they must be equal.
        let gain = if gain.is_nan() { f32::NEG_INFINITY } else { gain + 0.0 };
        Bound { gain, candidate, taken }
    };
    let mut heap: BinaryHeap<Bound> =
        rest.map(|candidate| bound(objective, candidate, taken.len())).collect();
    while taken.len() < count.min(candidates) {
        let Some(best) = heap.pop() else { break };
        if best.taken == taken.len() {
            objective.take(best.candidate);
            taken.push(best.candidate);
        } else {
            heap.push(bound(objective, best.candidate, taken.len()));
        }
    }
    taken
}
