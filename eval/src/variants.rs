//! What is run for every row: arms, budgets and positions, less what the bundle has no room for.

use crate::arms::{Arm, Positions};
use crate::offline::{ArmBudget, Capacity};
use arrcoc_runtime::generate::Budget;
use serde::{Deserialize, Serialize};

use super::options::{EvalOptions, Tokens};

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
pub fn variants(capacity: &Capacity, options: &EvalOptions) -> (Vec<Variant>, Vec<Unsupported>) {
    let (mut variants, mut left_out): (Vec<Variant>, Vec<Unsupported>) = Default::default();
    for &arm in &options.arms.0 {
        for &Tokens(budget) in &options.budgets.0 {
            // Only one arm has a tier head to ask; nobody expects it of the others.
            if budget == Budget::Auto && !matches!(arm, Arm::QueryAware | Arm::Full) {
                continue;
            }
            match capacity.arm_budget(arm, budget) {
                Ok(arm_budget) => {
                    let with = |&positions| Variant { arm_budget, positions };
                    let new = options.positions.0.iter().map(with).filter(|one| !variants.contains(one));
                    variants.extend(new.collect::<Vec<_>>());
                }
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

    #[test]
    fn every_arm_gets_its_budgets_and_full_only_one() {
        let capacity = Capacity { side: 20, patch: 16, gist: 4, budgets: vec![64, 100, 160, 256, 400] };
        let options = EvalOptions {
            data: "set.json".into(),
            arms: "full,grid,query_aware".parse().unwrap(),
            budgets: "9,64,auto".parse().unwrap(),
            positions: "original,repacked".parse().unwrap(),
            limit: None,
            grid_neck: None,
            seed: 0,
            max_tokens: None,
            output: "out".into(),
        };
        let (variants, left_out) = variants(&capacity, &options);
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
        assert_eq!(reasons, [(Arm::Grid, Some(9)), (Arm::QueryAware, Some(9))]);
        assert!(left_out[1].reason.contains("gist"), "{left_out:?}");
    }
}
