//! What became of the claim that was registered before anything was measured: on dense pages, choosing by the
//! question beats every other way to make few tokens.

use std::collections::{BTreeMap, BTreeSet};

use crate::arms::{Arm, Method, Positions};
use serde::{Deserialize, Serialize};

use super::super::options::Tokens;
use super::Answers;
use super::difference::{BASELINES, Difference, Scope, within};

/// Fewer pairs than these test nothing: an interval over a handful of images is an accident.
pub const ENOUGH_PAIRS: usize = 100;

/// What became of the claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Against every baseline the whole interval lies above 0.
    Holds,
    /// Against one at least it does not.
    DoesNotHold,
    /// A baseline is missing, or has too few pairs.
    NotTested,
}

/// The claim with one kind of positions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    /// Positions.
    pub positions: Positions,
    /// What became of it.
    pub verdict: Verdict,
    /// Differences to the baselines over dense pages, budgets pooled.
    pub against: Vec<Difference>,
    /// Baselines without a single pair.
    pub missing: Vec<Arm>,
    /// Budgets at which there are dense pages.
    pub budgets: Vec<DenseBudget>,
}

/// What there is of dense pages at one budget.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenseBudget {
    /// The budget.
    pub budget: Tokens,
    /// Questions about them that the query-aware arm answered.
    pub questions: usize,
    /// Of these, how many the baseline with the fewest answered too.
    pub pairs: usize,
}

/// The claim for every kind of positions with which the query-aware arm answered questions about dense pages.
pub(super) fn claims(answers: &Answers<'_>, differences: &[Difference]) -> Vec<Claim> {
    let dense = || {
        answers.lines.iter().filter(|line| {
            line.arm == Arm::of(Method::QueryAware) && line.one_place && within(Scope::Dense, line)
        })
    };
    let positions: BTreeSet<Positions> = dense().map(|line| line.positions).collect();
    let claim = |positions| {
        let held = |scope: Scope| {
            differences.iter().filter(move |one| {
                let baseline = one.arm == Arm::of(Method::QueryAware) && BASELINES.contains(&one.against);
                baseline && one.scope == scope && one.positions == positions
            })
        };
        let against: Vec<Difference> = held(Scope::Dense).cloned().collect();
        let has = |arm: Arm| against.iter().any(|one| one.against == arm);
        let missing: Vec<Arm> = BASELINES.into_iter().filter(|&arm| !has(arm)).collect();
        let mut questions: BTreeMap<Tokens, usize> = BTreeMap::new();
        for line in dense().filter(|line| line.positions == positions) {
            *questions.entry(line.budget).or_default() += 1;
        }
        let budget = |(budget, questions)| {
            let pairs = |arm: Arm| {
                held(Scope::DenseBudget(budget)).find(|one| one.against == arm).map_or(0, |one| one.pairs)
            };
            let pairs = BASELINES.into_iter().map(pairs).min().unwrap_or(0);
            DenseBudget { budget, questions, pairs }
        };
        let budgets = questions.into_iter().map(budget).collect();
        Claim { positions, verdict: verdict(&against, &missing), against, missing, budgets }
    };
    positions.into_iter().map(claim).collect()
}

fn verdict(against: &[Difference], missing: &[Arm]) -> Verdict {
    if !missing.is_empty() || against.iter().any(|one| one.pairs < ENOUGH_PAIRS) {
        return Verdict::NotTested;
    }
    if against.iter().all(|one| one.exact.low > 0.0) { Verdict::Holds } else { Verdict::DoesNotHold }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::super::journal::tests::answer;
    use super::super::tests::summary;
    use super::*;

    /// The only claim of a run in which the arms, each with its number of right answers, had `rows` dense
    /// rows.
    fn claim(rows: usize, arms: &[(Arm, usize)]) -> Claim {
        let mut lines = Vec::new();
        for &(arm, right) in arms {
            lines.extend((0..rows).map(|row| {
                let mut line = answer(row, arm, 64, row < right);
                line.characters = Some(1000.0);
                line
            }));
        }
        let claims = summary(lines).claims;
        assert_eq!(claims.len(), 1);
        claims[0].clone()
    }

    const ALL: [(Arm, usize); 4] = [
        (Arm::of(Method::QueryAware), 90),
        (Arm::of(Method::Grid), 20),
        (Arm::of(Method::Downsampled), 30),
        (Arm::of(Method::Agnostic), 40),
    ];

    #[test]
    fn it_holds_against_all_three_or_not_at_all() {
        assert_eq!(claim(100, &ALL).verdict, Verdict::Holds);
        for at in 1..4 {
            let mut arms = ALL;
            // As good as the arm: the interval holds 0. The best by its mean may be another.
            arms[at].1 = 90;
            assert_eq!(claim(100, &arms).verdict, Verdict::DoesNotHold, "{arms:?}");
        }
    }

    #[test]
    fn it_is_not_tested_without_all_three_or_with_few_pairs() {
        for at in 1..4 {
            let mut arms = ALL.to_vec();
            let (gone, _) = arms.remove(at);
            let found = claim(100, &arms);
            assert_eq!((found.verdict, found.missing), (Verdict::NotTested, vec![gone]));
            assert_eq!(found.against.len(), 2);
        }
        let few = claim(99, &ALL);
        assert_eq!((few.verdict, few.missing), (Verdict::NotTested, vec![]));
        let budget = answer(0, Arm::of(Method::Grid), 64, true).budget;
        assert_eq!(few.budgets, [DenseBudget { budget, questions: 99, pairs: 99 }]);
        // Where no page is dense there is no claim.
        assert!(summary(vec![answer(0, Arm::of(Method::QueryAware), 64, true)]).claims.is_empty());
    }
}
