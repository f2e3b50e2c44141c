//! The arms of the comparison: ways to decide which parts of a picture become visual tokens.
//!
//! An [`Arm`] is a [`Method`] with some [`Switches`].
//!
//! Of a composite, all arms feed the same compressor, refiner, adapter and decoder. The compressor takes a
//! map of relevances, so an arm is a way to make one, and for some other features. The compressor also adds
//! `relevance_embed * relevance` to every token: relevance is a cue for the decoder. An arm that does not
//! know the question must neither give such a cue nor garble it, so its order of patches becomes relevances
//! that lie close together ([`relevance::from_order`]). The decoder of a stock model gets some of the
//! picture's own rows, as they are.
//!
//! The makers here are plain functions of numbers; [`crate::offline`] runs them on a bundle's graphs. Those
//! arms that the decoder meets in training are defined a second time in `reference/arrcoc_reference/arms.py`.

use std::fmt;
use std::str::FromStr;

use names::named;
use serde::{Deserialize, Serialize};

mod arm;
pub mod coverage;
pub mod grid;
mod method;
mod names;
pub mod relevance;
pub mod saliency;

pub use arm::{Arm, Switches};
pub use method::Method;
pub use names::UnknownName;

/// Which places the refiner is told for the tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// Where the tokens come from.
    Original,
    /// The cells of a square grid, in the order of the tokens: as if they had never been elsewhere.
    Repacked,
}

impl Positions {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Original, Self::Repacked];

    /// Its name on the command line and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Original => "original",
            Self::Repacked => "repacked",
        }
    }

    /// The centres of a square grid of side ceil(sqrt(tokens)), row by row: `[tokens, 2]`, y and x in 0..1.
    pub fn repacked(tokens: usize) -> Vec<f32> {
        let root = tokens.isqrt();
        let side = if root * root == tokens { root } else { root + 1 };
        let centre = |cell: usize| (cell as f32 + 0.5) / side as f32;
        (0..tokens).flat_map(|token| [centre(token / side), centre(token % side)]).collect()
    }
}

impl fmt::Display for Positions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Positions {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        named(&Self::ALL, Self::name, text)
    }
}

/// A square grid of patches whose upper left part is a picture; the rest is padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Patches per side of the grid.
    pub side: usize,
    /// Columns that hold a piece of the picture.
    pub columns: usize,
    /// Rows that do.
    pub rows: usize,
}

impl Region {
    /// A grid without padding.
    pub fn whole(side: usize) -> Self {
        Self { side, columns: side, rows: side }
    }

    /// Patches in the grid, padding included.
    pub fn patches(self) -> usize {
        self.side * self.side
    }

    /// Whether a patch holds a piece of the picture.
    pub fn contains(self, patch: usize) -> bool {
        patch / self.side < self.rows && patch % self.side < self.columns
    }

    /// The patches that hold a piece of the picture, ascending.
    pub fn filled(self) -> impl Iterator<Item = usize> {
        (0..self.rows).flat_map(move |row| (0..self.columns).map(move |column| row * self.side + column))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for positions in Positions::ALL {
            assert_eq!(positions.to_string().parse(), Ok(positions));
            assert_eq!(serde_json::to_value(positions).unwrap(), positions.name());
        }
    }

    #[test]
    fn repacked_positions_fill_a_square_row_by_row() {
        assert_eq!(Positions::repacked(1), [0.5, 0.5]);
        // Five tokens lie in a grid of three by three.
        let sixth = 1.0 / 6.0;
        let expected = [sixth, sixth, sixth, 0.5, sixth, 5.0 * sixth, 0.5, sixth, 0.5, 0.5];
        let found = Positions::repacked(5);
        assert_eq!(found.len(), expected.len());
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}");
        assert_eq!(Positions::repacked(4), [0.25, 0.25, 0.25, 0.75, 0.75, 0.25, 0.75, 0.75]);
    }

    #[test]
    fn a_region_knows_its_padding() {
        let region = Region { side: 4, columns: 3, rows: 2 };
        assert_eq!(region.patches(), 16);
        assert_eq!(region.filled().collect::<Vec<_>>(), [0, 1, 2, 4, 5, 6]);
        assert!((0..16).all(|patch| region.contains(patch) == region.filled().any(|other| other == patch)));
    }
}
