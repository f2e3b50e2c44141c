//! The way back: weights as the operators that read them understand what is stored.
//!
//! For `verify`, which must not take the quantizer's word: each form's file has its reading beside its
//! writing, by the operator's specification. Nothing is shared between the two but the layout's constants.

use arrcoc_models::graph::quantized::Scheme;

use super::stored::{Restored, Stored};
use super::{blocks, fp8, int4, rows, tiles};

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
            // Scales are floats here, of whatever width they were.
            Scheme::Packed(of) => blocks::restore(self, of.blocks(), row, column),
        };
        out.extend((0..self.columns).map(read));
    }
}
