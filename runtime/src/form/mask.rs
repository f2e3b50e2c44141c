//! Which tokens may come next.

use llguidance::toktrie::SimpleVob;

/// A set of token ids: one bit for each.
#[derive(Debug, Clone)]
pub struct Mask(SimpleVob);

/// Ids in a word of the set.
const WORD: usize = 32;

impl Mask {
    pub(super) fn new(ids: SimpleVob) -> Self {
        Self(ids)
    }

    /// Whether a token may come.
    pub fn allows(&self, id: u32) -> bool {
        (id as usize) < self.0.len() && self.0.is_allowed(id)
    }

    /// Whether none may.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_zero()
    }

    /// Adds or removes a token; one beyond the vocabulary is none.
    pub(super) fn set(&mut self, id: u32, allowed: bool) {
        if (id as usize) < self.0.len() {
            self.0.set(id as usize, allowed);
        }
    }

    /// Makes all other tokens impossible. Logits `[V]` beyond the vocabulary are other ones.
    pub fn apply(&self, logits: &mut [f32]) {
        let words = self.0.as_slice().iter().copied().chain(std::iter::repeat(0));
        for (logits, word) in logits.chunks_mut(WORD).zip(words) {
            if word == u32::MAX {
                continue;
            }
            for (bit, logit) in logits.iter_mut().enumerate() {
                if word & (1 << bit) == 0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_in_the_set_becomes_impossible() {
        let mut mask = Mask::new(SimpleVob::alloc(70));
        assert!(mask.is_empty());
        for id in [0, 31, 32, 69] {
            mask.set(id, true);
        }
        mask.set(70, true);
        let mut logits = vec![1.0; 100];
        mask.apply(&mut logits);
        let left: Vec<usize> = (0..100).filter(|&id| logits[id] == 1.0).collect();
        assert_eq!(left, [0, 31, 32, 69]);
        assert!(mask.allows(69) && !mask.allows(70) && !mask.allows(1000));
        let mut all = Mask::new(SimpleVob::alloc_ones(64));
        all.set(5, false);
        let mut logits = vec![1.0; 64];
        all.apply(&mut logits);
        assert_eq!(logits.iter().filter(|logit| **logit == 1.0).count(), 63);
    }
}
