//! An arm at a budget, and why there may be none.

use crate::arms::Arm;
use arrcoc_runtime::generate::Budget;

/// An arm at a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ArmBudget {
    /// The arm.
    pub arm: Arm,
    /// What was asked for; `Full` for the arm that keeps everything.
    pub budget: Budget,
}

/// Why an arm has no such budget.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsupported {
    /// Nothing decides how many: the tier head only where the arm asks it, `auto` only with a selector.
    #[error("the arm does not decide how many tokens there are")]
    Auto,
    /// The gist alone takes more.
    #[error("{budget} tokens are fewer than the {cells} cells of the gist")]
    Gist {
        /// What was asked for.
        budget: usize,
        /// Gist cells.
        cells: usize,
    },
    /// There are no more patches, or the compressor takes no more of them.
    #[error("an input of this size has {most} tokens at most, of {patches} patches and the gist")]
    TooMany {
        /// Most tokens.
        most: usize,
        /// Patches in the grid.
        patches: usize,
    },
    /// The square root of the budget is smaller than the side of the gist, whose cells would be empty.
    #[error("a grid of {side} x {side} is coarser than the gist's {gist} x {gist}")]
    Coarse {
        /// Side of the arm's grid.
        side: usize,
        /// Side of the gist grid.
        gist: usize,
    },
    /// More cells than patches, or than the compressor takes.
    #[error(
        "a grid of {side} x {side} has more cells than there are patches, {patches}, or than are taken, {most}"
    )]
    Fine {
        /// Side of the arm's grid.
        side: usize,
        /// Patches in the grid.
        patches: usize,
        /// Most fine tokens of the compressor.
        most: usize,
    },
}
