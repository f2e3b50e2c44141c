//! Numbers that weights are multiplied with on their way into a bundle.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Factors of a checkpoint's numbers on their way into a bundle. Two are equal when their bits
/// are.
#[derive(Debug, Clone)]
pub struct Factors(Arc<[f32]>);

impl Factors {
    /// Takes the numbers.
    pub fn new(numbers: Vec<f32>) -> Self {
        Self(numbers.into())
    }

    /// The numbers.
    pub fn numbers(&self) -> &[f32] {
        &self.0
    }

    fn bits(&self) -> impl Iterator<Item = u32> {
        self.0.iter().map(|x| x.to_bits())
    }
}

impl PartialEq for Factors {
    fn eq(&self, other: &Self) -> bool {
        self.bits().eq(other.bits())
    }
}

impl Eq for Factors {}

impl Hash for Factors {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bits().for_each(|bits| bits.hash(state));
    }
}
