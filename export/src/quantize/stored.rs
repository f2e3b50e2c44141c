//! What lies in a file for a quantized weight, and one weight of it as its operator understands it: for those
//! who read weights back.

use arrcoc_models::graph::quantized::{Blocks, Scheme};

/// What is stored of a matrix \[rows, columns\].
#[derive(Debug)]
pub(crate) struct Stored {
    /// How it is quantized.
    pub(crate) scheme: Scheme,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// As they lie in the file.
    pub(crate) values: Vec<u8>,
    /// In the order of the file.
    pub(crate) scales: Vec<f32>,
    /// As they lie in the file; empty where the form has none.
    pub(crate) zero_points: Vec<u8>,
}

/// A weight that was read back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Restored {
    pub(crate) value: f32,
    /// What one step of the integer is worth here: an integer's neighbours lie so far away.
    pub(crate) step: f32,
    /// The side on which no neighbour is: `value` is the largest that the form has (1.0), the smallest
    /// (-1.0), or between (0.0).
    pub(crate) end: f32,
}

impl Restored {
    /// `scale * integer`, where integers go from `low` to `high`.
    pub(super) fn new(scale: f32, integer: i32, low: i32, high: i32) -> Self {
        let end = match integer {
            _ if integer <= low => -scale.signum(),
            _ if integer >= high => scale.signum(),
            _ => 0.0,
        };
        Self { value: scale * integer as f32, step: scale.abs(), end }
    }
}

impl Stored {
    /// The scale of a place in the order of the file.
    pub(super) fn scale(&self, at: usize) -> f32 {
        self.scales.get(at).copied().unwrap_or(0.0)
    }

    /// A byte of the values.
    pub(super) fn byte(&self, at: usize) -> u8 {
        self.values.get(at).copied().unwrap_or(0)
    }

    /// How many weights of a row share a scale.
    pub(crate) fn group(&self) -> usize {
        match self.scheme {
            Scheme::PerRow | Scheme::Fp8 => self.columns,
            Scheme::Blocks(of) => of.size,
            Scheme::Tiles(_) => Blocks::TILE_BLOCK,
            Scheme::Int4(of) | Scheme::Packed(of) => of.size,
        }
    }
}

/// Number `at` of integers of four bits, two a byte, the first in the lower half.
pub(super) fn four_bits(bytes: &[u8], at: usize) -> u8 {
    let byte = bytes.get(at / 2).copied().unwrap_or(0);
    if at.is_multiple_of(2) { byte & 15 } else { byte >> 4 }
}
