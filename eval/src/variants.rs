//! What is run for every row: arms, budgets and positions, less what the bundle has no room for.

use crate::arms::{Arm, Positions};
use crate::offline::{ArmBudget, Unsupported as Reason};
use arrcoc_runtime::generate::Budget;
use serde::{Deserialize, Serialize};

use super::options::{Arms, Budgets, PositionKinds, Tokens};

/// One way to answer a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Arm and budget.
    pub arm_budget: ArmBudget,
    /// Positions.
    pub positions: Positions,
}

/// An arm that was asked for and cannot be had at a budget, or not for some rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsupported {
    /// The arm.
    pub arm: Arm,
    /// At which budget; at all of them where there is none.
    pub budget: Option<Tokens>,
    /// For how many rows; for all of them where there is no number.
    pub rows: Option<usize>,
    /// Why.
    pub reason: String,
}

/// All variants in the order of arms, budgets and positions, and the ones that cannot be had.
pub fn variants(
    arm_budget: impl Fn(Arm, Budget) -> Result<ArmBudget, Reason>,
    (arms, budgets, positions): (&Arms, &Budgets, &PositionKinds),
) -> (Vec<Variant>, Vec<Unsupported>) {
    let (mut variants, mut left_out): (Vec<Variant>, Vec<Unsupported>) = Default::default();
    for &arm in &arms.0 {
        for &Tokens(budget) in &budgets.0 {
            match arm_budget(arm, budget) {
                Ok(arm_budget) => {
                    let with = |&positions| Variant { arm_budget, positions };
                    let new = positions.0.iter().map(with).filter(|one| !variants.contains(one));
                    variants.extend(new.collect::<Vec<_>>());
                }
                // Few arms can decide how many tokens there are; nobody expects it of the others.
                Err(Reason::Auto) => {}
                Err(error) => {
                    let budget = Some(Tokens(budget));
                    left_out.push(Unsupported { arm, budget, rows: None, reason: error.to_string() });
                }
            }
        }
    }
    (variants, left_out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::arms::Method;
    use crate::offline::Capacity;

    #[test]
    fn every_arm_gets_its_budgets_and_full_only_one() {
        let capacity = Capacity { side: 20, patch: 16, gist: 4, budgets: vec![64, 100, 160, 256, 400] };
        let arms = [Method::Full, Method::Grid, Method::QueryAware].map(Arm::of).to_vec();
        let (budgets, positions) = ("9,64,auto".parse().unwrap(), "original,repacked".parse().unwrap());
        let (variants, left_out) =
            variants(|arm, budget| capacity.arm_budget(arm, budget), (&Arms(arms), &budgets, &positions));
        let found: Vec<String> = variants
            .iter()
            .map(|one| format!("{} {} {}", one.arm_budget.arm, Tokens(one.arm_budget.budget), one.positions))
            .collect();
        let expected = [
            "full full original",
            "full full repacked",
            "grid 64 original",
            "grid 64 repacked",
            "query_aware 64 original",
            "query_aware 64 repacked",
            "query_aware auto original",
            "query_aware auto repacked",
        ];
        assert_eq!(found, expected);
        let reasons: Vec<_> = left_out.iter().map(|one| (one.arm, one.budget.unwrap().number())).collect();
        assert_eq!(reasons, [(Method::Grid.into(), Some(9)), (Method::QueryAware.into(), Some(9))]);
        assert!(left_out[1].reason.contains("gist"), "{left_out:?}");
    }
}
