//! Which arms can have which budgets, and how many tokens and which tier they then get.

use super::arm_budget::{ArmBudget, Unsupported};
use crate::arms::{Arm, Method};
use arrcoc_bundle::processors::ArrCocOvis;
use arrcoc_runtime::generate::Budget;

/// What a bundle has room for at one input size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capacity {
    /// Patches per side of the encoder's grid.
    pub side: usize,
    /// Side of a patch, pixels.
    pub patch: usize,
    /// Side of the gist grid; its cells come before all fine tokens.
    pub gist: usize,
    /// Token budgets of the tiers, ascending.
    pub budgets: Vec<usize>,
}

impl Capacity {
    pub(crate) fn new(spec: &ArrCocOvis, budgets: &[usize], size: usize) -> Self {
        Self {
            side: size / spec.patch_size,
            patch: spec.patch_size,
            gist: spec.gist_grid,
            budgets: budgets.to_vec(),
        }
    }

    /// Patches of the encoder's grid.
    pub fn patches(&self) -> usize {
        self.side * self.side
    }

    /// Gist cells.
    pub fn cells(&self) -> usize {
        self.gist * self.gist
    }

    /// Most fine tokens that the compressor gives, whatever the number of patches.
    pub fn most_fine(&self) -> usize {
        self.budgets.last().copied().unwrap_or(0)
    }

    /// Checks that an arm can have a budget. [`Method::Full`] takes any, and means the same by all of them.
    ///
    /// # Errors
    /// [`Unsupported`] says why it cannot.
    pub fn arm_budget(&self, arm: Arm, budget: Budget) -> Result<ArmBudget, Unsupported> {
        let budget = match (arm.method, budget) {
            (Method::Full, _) => Budget::Full,
            (Method::QueryAware, Budget::Auto) => {
                // The smallest tier must fit; the head chooses among the tiers that fit.
                self.check_tokens(self.budgets.first().copied().unwrap_or(0), budget)?
            }
            (_, Budget::Auto | Budget::Share(_) | Budget::Full) => return Err(Unsupported::Auto),
            (Method::Grid | Method::Downsampled, Budget::Tokens(tokens)) => {
                self.check_square(tokens.isqrt(), budget)?
            }
            (_, Budget::Tokens(tokens)) => self.check_tokens(tokens, budget)?,
        };
        Ok(ArmBudget { arm, budget })
    }

    fn check_tokens(&self, tokens: usize, budget: Budget) -> Result<Budget, Unsupported> {
        let (patches, cells) = (self.patches(), self.cells());
        let most = patches.min(self.most_fine()) + cells;
        match tokens {
            _ if tokens < cells => Err(Unsupported::Gist { budget: tokens, cells }),
            _ if tokens > most => Err(Unsupported::TooMany { most, patches }),
            _ => Ok(budget),
        }
    }

    fn check_square(&self, side: usize, budget: Budget) -> Result<Budget, Unsupported> {
        let (patches, most, gist) = (self.patches(), self.most_fine(), self.gist);
        match side {
            _ if side < gist => Err(Unsupported::Coarse { side, gist }),
            _ if side > self.side || side * side > most => Err(Unsupported::Fine { side, patches, most }),
            _ => Ok(budget),
        }
    }

    /// The tier whose budget is nearest to a number of tokens in log scale; the lower one of two as near.
    /// Training does the same.
    pub fn nearest_tier(&self, tokens: usize) -> usize {
        // ln t - ln a > ln b - ln t exactly when t * t > a * b, and integers do not round.
        self.budgets.windows(2).take_while(|pair| tokens * tokens > pair[0] * pair[1]).count()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn capacity() -> Capacity {
        Capacity { side: 20, patch: 16, gist: 4, budgets: vec![64, 100, 160, 256, 400] }
    }

    #[test]
    fn the_nearest_tier_is_that_in_log_scale() {
        let tiers =
            [(1, 0), (64, 0), (79, 0), (80, 0), (81, 1), (126, 1), (127, 2), (202, 2), (203, 3), (9999, 4)];
        for (tokens, tier) in tiers {
            assert_eq!(capacity().nearest_tier(tokens), tier, "{tokens}");
        }
        assert_eq!(capacity().nearest_tier(80), 0, "80 is as far from 64 as from 100: the lower one");
    }

    #[test]
    fn arms_have_the_budgets_that_fit() {
        let arm_budget = |method, budget| capacity().arm_budget(Arm::of(method), budget);
        assert_eq!(arm_budget(Method::Full, Budget::Tokens(7)).unwrap().budget, Budget::Full);
        assert_eq!(arm_budget(Method::QueryAware, Budget::Auto).unwrap().budget, Budget::Auto);
        assert_eq!(arm_budget(Method::Blank, Budget::Auto).unwrap_err(), Unsupported::Auto);
        let small = Capacity { side: 6, ..capacity() };
        let most = Unsupported::TooMany { most: 52, patches: 36 };
        assert_eq!(small.arm_budget(Arm::of(Method::QueryAware), Budget::Auto).unwrap_err(), most);
        for tokens in [16, 17, 100, 416] {
            assert_eq!(
                arm_budget(Method::Random, Budget::Tokens(tokens)).unwrap().budget,
                Budget::Tokens(tokens)
            );
        }
        assert_eq!(
            arm_budget(Method::Random, Budget::Tokens(15)).unwrap_err(),
            Unsupported::Gist { budget: 15, cells: 16 }
        );
        assert_eq!(
            arm_budget(Method::Oracle, Budget::Tokens(417)).unwrap_err(),
            Unsupported::TooMany { most: 416, patches: 400 }
        );
        for method in [Method::Grid, Method::Downsampled] {
            assert_eq!(
                arm_budget(method, Budget::Tokens(15)).unwrap_err(),
                Unsupported::Coarse { side: 3, gist: 4 }
            );
            assert!(
                arm_budget(method, Budget::Tokens(16)).is_ok()
                    && arm_budget(method, Budget::Tokens(440)).is_ok()
            );
            let fine = Unsupported::Fine { side: 21, patches: 400, most: 400 };
            assert_eq!(arm_budget(method, Budget::Tokens(441)).unwrap_err(), fine);
        }
    }
}
