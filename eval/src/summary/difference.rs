//! Arms against each other, row by row.

use std::collections::{BTreeMap, BTreeSet};

use crate::arms::{Arm, Method, Positions};
use serde::{Deserialize, Serialize};

use super::super::bootstrap::{Interval, interval};
use super::super::journal::AnswerLine;
use super::super::options::Tokens;
use super::{Answers, share};
use arrcoc_runtime::generate::Selector;

/// What the query-aware arm has to beat: other ways to make few tokens that do not know the question.
pub const BASELINES: [Arm; 3] =
    [Arm::of(Method::Grid), Arm::of(Method::Downsampled), Arm::of(Method::Agnostic)];

/// The claim that was registered before any measurement is about rows with at least this many characters per
/// token ...
pub const DENSE_RATIO: f64 = 10.0;

/// ... at budgets of at most this many tokens.
pub const DENSE_BUDGET: usize = 100;

/// What a difference is taken over: questions about one place; against [`Method::FirstQuestion`], all that
/// have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// All of them, at one budget.
    Budget(Tokens),
    /// Dense pages at small budgets: [`DENSE_RATIO`] and [`DENSE_BUDGET`], budgets pooled.
    Dense,
    /// The same at one of these budgets.
    DenseBudget(Tokens),
}

/// One arm less another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Over what.
    pub scope: Scope,
    /// Positions of both.
    pub positions: Positions,
    /// The arm.
    pub arm: Arm,
    /// The one that it is held against.
    pub against: Arm,
    /// Whether that is the best of the baselines here, by its mean on the rows that it shares with the arm.
    pub best_baseline: bool,
    /// Pairs of answers.
    pub pairs: usize,
    /// Difference of exact matches: above 0 where the arm is better.
    pub exact: Interval,
    /// Difference of character error rates: below 0 where the arm is better.
    pub cer: Interval,
}

/// Of a stock model: the default selector against every other arm, and every arm against all tokens.
pub(super) fn stock_differences(answers: &Answers<'_>) -> Vec<Difference> {
    let lines = || answers.lines.iter().copied().filter(|line| line.one_place);
    let budgets: BTreeSet<Tokens> = lines().map(|line| line.budget).collect();
    let (ours, full) = (Arm::of(Method::Selector(Selector::default())), Arm::of(Method::Full));
    let mut differences = Vec::new();
    for budget in budgets {
        // All tokens are all tokens at every budget.
        let of = |arm: Arm| -> ByRow<'_> {
            let here = lines().filter(|line| line.arm == arm && (line.budget == budget || arm == full));
            here.map(|line| ((line.row, budget), line)).collect()
        };
        let arms: BTreeSet<Arm> = lines().filter(|line| line.budget == budget).map(|line| line.arm).collect();
        let scope = (Scope::Budget(budget), Positions::Original);
        let mut pair = |arm: Arm, against: Arm| {
            let held = difference(answers, scope, (arm, &of(arm)), (against, &of(against)));
            differences.extend(held.map(|(difference, _)| difference));
        };
        arms.iter().filter(|arm| **arm != ours && **arm != full).for_each(|arm| pair(ours, *arm));
        arms.iter().filter(|arm| **arm != full).for_each(|arm| pair(*arm, full));
    }
    differences
}

type ByRow<'a> = BTreeMap<(usize, Tokens), &'a AnswerLine>;

/// Of a composite, all differences: per kind of positions, first at each budget, then over dense pages.
pub(super) fn differences(answers: &Answers<'_>) -> Vec<Difference> {
    let numbered = || answers.lines.iter().copied().filter(|line| line.budget.number().is_some());
    let positions: BTreeSet<Positions> = numbered().map(|line| line.positions).collect();
    let budgets: BTreeSet<Tokens> = numbered().map(|line| line.budget).collect();
    let mut differences = Vec::new();
    for positions in positions {
        let scopes = budgets.iter().map(|&budget| Scope::Budget(budget));
        let scopes =
            scopes.chain([Scope::Dense]).chain(budgets.iter().map(|&budget| Scope::DenseBudget(budget)));
        for scope in scopes {
            let of = |arm: Arm, controls: bool| -> ByRow<'_> {
                let here = |line: &&AnswerLine| {
                    let asked = line.one_place || controls;
                    asked && line.arm == arm && line.positions == positions && within(scope, line)
                };
                numbered().filter(here).map(|line| ((line.row, line.budget), line)).collect()
            };
            let pair = |arm: Arm, against: Arm| {
                // A second question is a control; it is there for this one comparison.
                let controls = against == Arm::of(Method::FirstQuestion);
                let (first, second) = (of(arm, controls), of(against, controls));
                difference(answers, (scope, positions), (arm, &first), (against, &second))
            };
            let mut held: Vec<(Difference, f64)> = BASELINES
                .iter()
                .filter_map(|&baseline| pair(Arm::of(Method::QueryAware), baseline))
                .collect();
            mark_best(&mut held);
            differences.extend(held.into_iter().map(|(difference, _)| difference));
            for (arm, against) in [
                (Arm::of(Method::QueryAware), Arm::of(Method::FirstQuestion)),
                (Arm::of(Method::Shuffled), Arm::of(Method::Agnostic)),
            ] {
                differences.extend(pair(arm, against).map(|(difference, _)| difference));
            }
        }
    }
    differences
}

/// Whether a line counts. Density is that of the budget, so that all arms are compared on the same rows: some
/// have a few tokens more or fewer than their budget.
pub(super) fn within(scope: Scope, line: &AnswerLine) -> bool {
    match (scope, line.budget.number()) {
        (Scope::Budget(budget), _) => line.budget == budget,
        (Scope::DenseBudget(budget), _) => line.budget == budget && within(Scope::Dense, line),
        (Scope::Dense, Some(budget)) => {
            let dense = |characters: f64| characters / budget as f64 >= DENSE_RATIO;
            budget <= DENSE_BUDGET && line.characters.is_some_and(dense)
        }
        (Scope::Dense, None) => false,
    }
}

/// The difference on rows that both have, and the second arm's mean there.
fn difference(
    answers: &Answers<'_>,
    (scope, positions): (Scope, Positions),
    (arm, first): (Arm, &ByRow<'_>),
    (against, second): (Arm, &ByRow<'_>),
) -> Option<(Difference, f64)> {
    let pairs: Vec<(&AnswerLine, &AnswerLine)> =
        first.iter().filter_map(|(key, line)| Some((*line, *second.get(key)?))).collect();
    let of = |value: fn(&AnswerLine) -> f64| {
        let values = pairs.iter().map(|(a, b)| (answers.image(a), value(a) - value(b)));
        interval(values, answers.seed)
    };
    let (exact, cer) = (of(|line| share(line.exact))?, of(|line| line.cer)?);
    let mean = pairs.iter().map(|(_, b)| share(b.exact)).sum::<f64>() / pairs.len() as f64;
    let pairs = pairs.len();
    Some((Difference { scope, positions, arm, against, best_baseline: false, pairs, exact, cer }, mean))
}

/// Marks the difference to the baseline with the highest mean, the first of equals.
fn mark_best(held: &mut [(Difference, f64)]) {
    let mut best: Option<(usize, f64)> = None;
    for (at, &(_, mean)) in held.iter().enumerate() {
        if best.is_none_or(|(_, highest)| mean > highest) {
            best = Some((at, mean));
        }
    }
    if let Some((at, _)) = best {
        held[at].0.best_baseline = true;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::super::journal::tests::answer;
    use super::super::tests::{stock_summary, summary};
    use super::*;
    use arrcoc_runtime::generate::Budget;

    fn lines(arm: Arm, tokens: usize, right: &[usize], rows: usize) -> Vec<AnswerLine> {
        (0..rows).map(|row| answer(row, arm, tokens, right.contains(&row))).collect()
    }

    fn find(all: &[Difference], scope: Scope, against: Arm) -> Difference {
        let is = |one: &&Difference| {
            one.scope == scope && one.against == against && one.arm == Arm::of(Method::QueryAware)
        };
        all.iter().find(is).unwrap().clone()
    }

    #[test]
    fn pairs_are_rows_that_both_have() {
        let budget = Scope::Budget(answer(0, Arm::of(Method::Grid), 64, true).budget);
        let all = [
            lines(Arm::of(Method::QueryAware), 64, &[0, 1, 2], 4),
            // One row fewer, and the best.
            lines(Arm::of(Method::Grid), 64, &[0, 1], 3),
            lines(Arm::of(Method::Agnostic), 64, &[3], 4),
            lines(Arm::of(Method::Shuffled), 64, &[], 4),
        ];
        let found = summary(all.concat()).differences;
        let grid = find(&found, budget, Arm::of(Method::Grid));
        assert_eq!(grid.pairs, 3);
        assert!((grid.exact.mean - 1.0 / 3.0).abs() < 1e-12 && (grid.cer.mean + 1.0 / 3.0).abs() < 1e-12);
        assert!(grid.best_baseline);
        let agnostic = find(&found, budget, Arm::of(Method::Agnostic));
        assert_eq!((agnostic.exact.mean, agnostic.best_baseline), (0.5, false));
        let shuffled = found.iter().find(|one| one.arm == Arm::of(Method::Shuffled)).unwrap();
        assert_eq!((shuffled.against, shuffled.exact.mean), (Arm::of(Method::Agnostic), -0.25));
        assert_eq!(found.len(), 3, "no row says how dense it is: {found:?}");
    }

    #[test]
    fn the_claim_pools_dense_rows_and_small_budgets() {
        let mut all = Vec::new();
        for arm in [Arm::of(Method::QueryAware), Arm::of(Method::Grid)] {
            for tokens in [64, 100, 160] {
                let right: &[usize] = if arm == Arm::of(Method::Grid) { &[] } else { &[0, 1] };
                let mut lines = lines(arm, tokens, right, 3);
                // Row 0 is dense at 64 only, row 1 at both, row 2 at none.
                for (line, characters) in lines.iter_mut().zip([640.0, 1000.0, 630.0]) {
                    line.characters = Some(characters);
                    // The grid's gist comes on top of its budget; the rows are the same all the same.
                    line.tokens += if arm == Arm::of(Method::Grid) { 16 } else { 0 };
                }
                all.extend(lines);
            }
        }
        let found = summary(all).differences;
        let dense = find(&found, Scope::Dense, Arm::of(Method::Grid));
        assert_eq!((dense.pairs, dense.exact.mean), (3, 1.0));
        assert!(dense.best_baseline && dense.exact.low == 1.0);
        let at = |tokens| Scope::DenseBudget(answer(0, Arm::of(Method::Grid), tokens, true).budget);
        assert_eq!(find(&found, at(64), Arm::of(Method::Grid)).pairs, 2);
        assert_eq!(find(&found, at(100), Arm::of(Method::Grid)).pairs, 1);
        assert!(found.iter().all(|one| one.scope != at(160)), "{found:?}");
    }

    #[test]
    fn second_questions_are_held_against_the_first() {
        let mut all = lines(Arm::of(Method::QueryAware), 64, &[0, 1, 2], 4);
        let mut asked_before = lines(Arm::of(Method::FirstQuestion), 64, &[2], 4).split_off(2);
        for line in all.iter_mut().skip(2).chain(&mut asked_before) {
            line.one_place = false;
        }
        all.extend(asked_before);
        let found = summary(all).differences;
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(
            (found[0].arm, found[0].against),
            (Arm::of(Method::QueryAware), Arm::of(Method::FirstQuestion))
        );
        assert_eq!((found[0].pairs, found[0].exact.mean), (2, 0.0));
    }

    #[test]
    fn a_stock_model_is_held_against_its_default_and_against_all_tokens() {
        let [ours, other] = [Selector::Balanced, Selector::MmTok].map(Method::Selector).map(Arm::of);
        let mut full = lines(Method::Full.into(), 400, &[0, 1, 2, 3], 4);
        full.iter_mut().for_each(|line| line.budget = Tokens(Budget::Full));
        let all = [full, lines(ours, 64, &[0, 1, 2], 4), lines(other, 64, &[0], 4)].concat();
        let found = stock_summary(all).differences;
        let found: Vec<_> =
            found.iter().map(|one| (one.arm, one.against, one.exact.mean, one.pairs)).collect();
        let all_tokens = Arm::of(Method::Full);
        assert_eq!(
            found,
            [(ours, other, 0.5, 4), (ours, all_tokens, -0.25, 4), (other, all_tokens, -0.75, 4)]
        );
    }
}
