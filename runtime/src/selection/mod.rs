//! Which visual tokens of a picture a question gets, in families that have no chooser of their own. For
//! whoever asks why a token was kept, or adds a selector.
//!
//! A picture is encoded whole, once. For each question [`choose`] looks at the rows that the decoder would
//! read and at the question's embeddings ([`survey`]), says of every row what it is worth ([`knowing`]) and
//! how many to keep ([`budget`]), and takes them one by one ([`greedy`], on one of the [`objectives`]). What
//! is kept stands where it stood ([`mod@gather`]). Nothing is trained and no graph is run.

mod budget;
mod evidence;
mod gather;
pub mod greedy;
mod knowing;
mod matrix;
mod methods;
mod need;
mod objectives;
mod survey;

pub(crate) use budget::most;
pub use evidence::Evidence;
pub use need::need;

use crate::generate::{Depth, Place, Score, Selected, Selection};
use crate::tensor::{Tensor, TensorError};
use crate::vision::family::{Choice, Visual};
use gather::{Kept, gather};
use knowing::Knowing;
use matrix::Matrix;
use survey::Survey;

/// Most tokens that are compared with each other, pair by pair: 16 MiB of cosines.
pub(crate) const MOST_COMPARED: usize = 2048;

/// Tokens of a question that are asked for, the last ones.
const MOST_QUESTION: usize = 64;

/// Chooses among the rows of a picture. `question` is `[1, Q, H]`, token embeddings. With a budget of all
/// that there is, the picture stays as it is, to the bit.
///
/// # Errors
/// [`TensorError`] when memory is short, or rows and question are of different widths.
pub fn choose(
    visual: &Visual,
    question: &Tensor,
    evidence: Option<&Evidence>,
    choice: &Choice,
) -> Result<Visual, TensorError> {
    let rows = visual.rows.shape()[1];
    let Choice { budget, selection: Selection { selector, tensions, depth }, need } = *choice;
    let (selector, tensions) = (selector.unwrap_or_default(), tensions.unwrap_or_default());
    let question = asked(question)?;
    let survey = Survey::of(visual.rows.as_slice()?, &question, methods::sketch_width(rows))?;
    let knowing = Knowing::of(&survey, &visual.receipt.places, evidence);
    let (relevance, weights) = knowing.relevance(tensions.knowing);
    let (count, reason) = budget::granted(budget, rows, need, &knowing.coupling, tensions.particularize);
    let selected = Selected { selector, of: rows, reason, weights };
    let scored = |(place, (scores, relevance)): (&Place, (&[f32; 3], &f32))| {
        let score = Score { relevance: *relevance, knowing: *scores };
        Place { score: Some(score), ..*place }
    };
    let scores = knowing.scores.iter().zip(&relevance);
    let places: Vec<Place> = visual.receipt.places.iter().zip(scores).map(scored).collect();
    if count >= rows {
        let mut receipt = (*visual.receipt).clone();
        (receipt.places, receipt.selected) = (places, Some(selected));
        return Ok(Visual { receipt: receipt.into(), ..visual.clone() });
    }
    let seen = methods::Seen {
        numbers: visual.rows.as_slice()?,
        question: &question,
        survey: &survey,
        knowing: &knowing,
        relevance: &relevance,
        places: &places,
    };
    let order = methods::order(selector, &seen, &tensions, count)?;
    let levels = visual.deep.as_ref().map_or(0, |deep| deep.shape()[0]);
    gather(visual, &kept(&order, &relevance, depth.unwrap_or_default(), levels), places, Some(selected))
}

/// Keeps given rows of a picture, in the order in which somebody else chose them; what is no row, or comes a
/// second time, is left out. No request can say rows: this is for evaluations, which hold other ways to
/// choose against the selectors.
///
/// # Errors
/// [`TensorError`] when memory is short.
pub fn keep(visual: &Visual, order: &[usize]) -> Result<Visual, TensorError> {
    let levels = visual.deep.as_ref().map_or(0, |deep| deep.shape()[0]);
    let rows = visual.rows.shape()[1];
    let mut first = vec![true; rows];
    let once = |row: &&usize| first.get_mut(**row).is_some_and(std::mem::take);
    let order: Vec<usize> = order.iter().filter(once).copied().collect();
    let kept = kept(&order, &vec![0.0; rows], Depth::All, levels);
    gather(visual, &kept, visual.receipt.places.clone(), None)
}

/// The rows of a question, of length one.
fn asked(question: &Tensor) -> Result<Matrix, TensorError> {
    let width = question.shape().last().copied().unwrap_or(0);
    let numbers = question.as_slice::<f32>()?;
    if numbers.is_empty() {
        // Asks nothing: all rows are as near to it.
        return Ok(Matrix::new(vec![0.0; width], width));
    }
    let start = numbers.len().saturating_sub(MOST_QUESTION * width);
    Ok(Matrix::new(numbers[start..].to_vec(), width).normalised())
}

/// Rows in the picture's order, with their ranks and levels.
fn kept(order: &[usize], relevance: &[f32], depth: Depth, levels: usize) -> Vec<Kept> {
    let mut by_relevance: Vec<usize> = order.to_vec();
    by_relevance.sort_by(|one, other| relevance[*other].total_cmp(&relevance[*one]).then(one.cmp(other)));
    let shallow = match depth {
        Depth::All => &[],
        // The deepest level only.
        Depth::Relevant => &by_relevance[order.len().div_ceil(2)..],
    };
    let mut kept: Vec<Kept> =
        order.iter().enumerate().map(|(rank, &row)| Kept { row, rank, levels }).collect();
    kept.sort_by_key(|kept| kept.row);
    for row in shallow {
        if let Ok(at) = kept.binary_search_by_key(row, |kept| kept.row) {
            kept[at].levels = levels.min(1);
        }
    }
    kept
}

#[cfg(test)]
mod tests;
