//! How many tokens a picture keeps.
//!
//! `auto` counts the tokens that stand out of the question's attention: 1 where one has all of it, so many
//! where so many have alike, all where nothing stands out. It takes the least tier that holds them, stretched
//! by the tension between compressing and particularizing.
//! Three kinds of questions are known by their words to need more: see [`mod@super::need`].

use crate::generate::{Budget, Need, Reason};

/// What `auto` chooses from, ascending: the tiers of the documents that the system comes from.
pub(crate) const TIERS: [usize; 5] = [64, 100, 160, 256, 400];
const LARGEST: usize = TIERS[TIERS.len() - 1];

/// What a budget comes to, before the picture is looked at.
enum Rule {
    /// So many.
    Exactly(usize, Reason),
    /// As many as relevance lies on, a tier.
    Concentration,
}

fn rule(budget: Budget, rows: usize, need: Option<Need>) -> Rule {
    match (budget, need) {
        (Budget::Full, _) => Rule::Exactly(rows, Reason::Asked),
        (Budget::Tokens(tokens), _) => Rule::Exactly(tokens, Reason::Asked),
        (Budget::Share(share), _) => Rule::Exactly(share.of(rows), Reason::Asked),
        // All that is written may be anywhere.
        (Budget::Auto, Some(need @ Need::Reading)) => Rule::Exactly(rows, Reason::Need(need)),
        (Budget::Auto, Some(need)) => Rule::Exactly(LARGEST, Reason::Need(need)),
        (Budget::Auto, None) => Rule::Concentration,
    }
}

/// How many of `rows` tokens to keep, and why. `coupling` is the question's attention.
pub(crate) fn granted(
    budget: Budget,
    rows: usize,
    need: Option<Need>,
    coupling: &[f32],
    particularize: f32,
) -> (usize, Reason) {
    let (count, reason) = match rule(budget, rows, need) {
        Rule::Exactly(count, reason) => (count, reason),
        Rule::Concentration => {
            let tokens = concentration(coupling);
            (tier(tokens * (0.5 + particularize)), Reason::Concentration(tokens))
        }
    };
    (count.clamp(rows.min(1), rows), reason)
}

/// The most tokens that a budget can come to.
pub(crate) fn most(budget: Budget, rows: usize, need: Option<Need>) -> usize {
    match rule(budget, rows, need) {
        Rule::Exactly(count, _) => count.min(rows),
        Rule::Concentration => LARGEST.min(rows),
    }
}

/// The least tier of so many tokens, rounded, or the largest.
fn tier(tokens: f32) -> usize {
    let tier = TIERS.into_iter().find(|&tier| tier as f32 >= tokens.round());
    tier.unwrap_or(LARGEST)
}

/// How many tokens stand out of the attention: the exponential of the entropy of what lies above its mean,
/// squared. Squares, since of what is spread evenly at random a half lies above the mean.
fn concentration(attention: &[f32]) -> f32 {
    let mean = attention.iter().sum::<f32>() / attention.len().max(1) as f32;
    let above: Vec<f32> = attention.iter().map(|share| (share - mean).max(0.0).powi(2)).collect();
    let sum: f32 = above.iter().sum();
    if sum <= 0.0 {
        return attention.len() as f32;
    }
    let shares = above.iter().map(|above| above / sum).filter(|share| *share > 0.0);
    shares.map(|share| -share * share.ln()).sum::<f32>().exp()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::generate::Share;

    #[test]
    fn auto_takes_as_many_as_relevance_lies_on() {
        let auto = |attention: &[f32], particularize| {
            granted(Budget::Auto, attention.len(), None, attention, particularize).0
        };
        let even = |on: usize| (0..1024).map(|at| if at < on { 1.0 } else { 0.0 }).collect::<Vec<f32>>();
        assert_eq!([1, 64, 65, 130, 300, 1024].map(|on| auto(&even(on), 0.5)), [64, 64, 100, 160, 400, 400]);
        assert_eq!([0.0, 0.5, 1.0].map(|tension| auto(&even(100), tension)), [64, 100, 160]);
        assert_eq!(auto(&[1.0; 50], 0.5), 50, "no more than there are");
        // What lies a little above nothing everywhere does not count beside what stands out.
        let faint: Vec<f32> = (0..1024).map(|at| if at < 40 { 1.0 } else { 0.1 * (at % 3) as f32 }).collect();
        assert_eq!(auto(&faint, 0.5), 64);
        let (count, reason) = granted(Budget::Auto, 1024, None, &even(130), 0.5);
        let Reason::Concentration(tokens) = reason else { panic!("{count} {reason:?}") };
        assert!((tokens - 130.0).abs() < 0.01, "{tokens}");
    }

    #[test]
    fn some_questions_need_more() {
        let auto = |need| granted(Budget::Auto, 1024, Some(need), &[1.0], 0.5);
        assert_eq!(auto(Need::Reading), (1024, Reason::Need(Need::Reading)));
        assert_eq!(auto(Need::Counting), (400, Reason::Need(Need::Counting)));
        assert_eq!(auto(Need::Grounding), (400, Reason::Need(Need::Grounding)));
        assert_eq!(granted(Budget::Tokens(70), 1024, Some(Need::Reading), &[], 0.5), (70, Reason::Asked));
    }

    #[test]
    fn no_budget_is_exceeded() {
        let budgets =
            [Budget::Auto, Budget::Full, Budget::Tokens(7), Budget::Share(Share::new(0.3).unwrap())];
        let needs = [None, Some(Need::Counting), Some(Need::Reading), Some(Need::Grounding)];
        for rows in [0, 1, 7, 64, 1000] {
            let attention = vec![0.5; rows];
            for (budget, need) in budgets.into_iter().flat_map(|budget| needs.map(|need| (budget, need))) {
                let (count, _) = granted(budget, rows, need, &attention, 1.0);
                assert!(count <= most(budget, rows, need), "{rows} {budget:?} {need:?}: {count}");
                assert!(count > 0 || rows == 0, "{rows} {budget:?} {need:?}");
            }
        }
    }
}
