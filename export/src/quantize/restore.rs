//! The way back: weights as the operators that read them understand what is stored.
//!
//! For `verify`, which must not take the quantizer's word: each form's file has its reading beside its
//! writing, by the operator's specification. Nothing is shared between the two but the layout's constants.

use arrcoc_models::graph::quantized::{Blocks, Scheme};

use super::{blocks, fp8, int4, rows, tiles};

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
    /// Reads a row, in place of what `out` held. Weights beyond the stored bytes are zero.
    pub(crate) fn row(&self, row: usize, out: &mut Vec<Restored>) {
        out.clear();
        let read = |column| match self.scheme {
            Scheme::PerRow => rows::restore(self, row, column),
            Scheme::Fp8 => fp8::restore(self, row, column),
            Scheme::Blocks(of) => blocks::restore(self, of, row, column),
            Scheme::Tiles(bits) => tiles::restore(self, bits, row, column),
            Scheme::Int4(of) => int4::restore(self, of, row, column),
        };
        out.extend((0..self.columns).map(read));
    }

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
            Scheme::Int4(of) => of.size,
        }
    }
}

/// Number `at` of integers of four bits, two a byte, the first in the lower half.
pub(super) fn four_bits(bytes: &[u8], at: usize) -> u8 {
    let byte = bytes.get(at / 2).copied().unwrap_or(0);
    if at.is_multiple_of(2) { byte & 15 } else { byte >> 4 }
}
