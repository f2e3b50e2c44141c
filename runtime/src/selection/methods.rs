//! The selectors: each says what it maximises, and the same kernel does it.

use super::greedy::{Objective, maximise};
use super::knowing::{Knowing, spread};
use super::matrix::Matrix;
use super::objectives::{Coverage, Determinant, LeastDistance, Worth};
use super::survey::Survey;
use crate::generate::{Place, Selector, Tensions};
use crate::tensor::{TensorError, try_with_capacity};

/// Rows up to here are compared with each other; of more, cells of the picture stand for them.
const MOST_LANDMARKS: usize = 1024;
/// Cells along a side of a picture that has more rows.
const CELLS: usize = 16;
/// Width of a sketch of few and of many rows.
const SKETCH: [usize; 2] = [256, 64];
/// Temperature from cosines of rows to the question's attention, as MMTok has it.
const QUESTION_TEMPERATURE: f32 = 0.02;
/// Temperature from cosines of rows to their attention to each other, as MMTok has it.
const PICTURE_TEMPERATURE: f32 = 0.2;
/// How much covering the picture counts beside covering the question, as MMTok has it.
const PICTURE_SHARE: f32 = 0.5;

/// How wide a sketch of so many rows is.
pub(crate) fn sketch_width(rows: usize) -> usize {
    SKETCH[usize::from(rows > MOST_LANDMARKS)]
}

/// What a selector may look at.
pub(crate) struct Seen<'a> {
    /// The rows, as the decoder reads them.
    pub(crate) numbers: &'a [f32],
    /// Rows of length one.
    pub(crate) question: &'a Matrix,
    pub(crate) survey: &'a Survey,
    pub(crate) knowing: &'a Knowing,
    pub(crate) relevance: &'a [f32],
    pub(crate) places: &'a [Place],
}

impl Seen<'_> {
    fn rows(&self) -> usize {
        self.relevance.len()
    }

    /// The rows, of length one.
    fn directions(&self) -> Result<Matrix, TensorError> {
        Ok(Matrix::copied(self.numbers, self.question.width())?.normalised())
    }
}

/// The rows that a selector takes, in its order.
///
/// # Errors
/// [`TensorError`] when memory is short.
pub(crate) fn order(
    selector: Selector,
    seen: &Seen<'_>,
    tensions: &Tensions,
    count: usize,
) -> Result<Vec<usize>, TensorError> {
    let by = |objective: &mut dyn Objective| maximise(objective, seen.rows(), count, None);
    Ok(match selector {
        Selector::Balanced => by(&mut balanced(seen, tensions, count)?),
        Selector::MmTok => by(&mut mmtok(seen)?),
        Selector::Scope => by(&mut scope(seen)?),
        Selector::CdPruner => {
            let directions = seen.directions()?;
            let relevance = mean_cosines(&directions, seen.question)?;
            by(&mut Determinant::new(&directions, &relevance, count)?)
        }
        Selector::DivPrune => {
            let directions = seen.directions()?;
            let (mut objective, first) = LeastDistance::new(&directions)?;
            maximise(&mut objective, seen.rows(), count, first)
        }
        Selector::TopK => by(&mut Worth(seen.relevance)),
        Selector::Uniform => by(&mut Worth(&evenly(seen.places))),
    })
}

/// Ours: the most relevant (focus) against coverage (diversify); and of coverage, what is relevant (exploit)
/// against everything alike (explore). The question's share of coverage is its weight in relevance.
fn balanced(seen: &Seen<'_>, tensions: &Tensions, count: usize) -> Result<Coverage, TensorError> {
    let Tensions { explore, diversify, knowing, .. } = *tensions;
    let sum: f32 = knowing.iter().sum();
    let asked = if sum > 0.0 { knowing[2] / sum } else { 0.0 };
    let (landmarks, weights) = landmarks(seen, explore);
    let picture = seen.survey.sketch.products(&landmarks)?;
    let attention = &seen.knowing.attention;
    let tokens = attention.width();
    // Each side counts as if all rows together covered it whole.
    let all = best(attention).iter().sum::<f32>();
    let question_scale = if all > 0.0 { diversify * asked / all } else { 0.0 };
    let all: f32 = best(&picture).iter().zip(&weights).map(|(best, weight)| best * weight).sum();
    let picture_scale = if all > 0.0 { diversify * (1.0 - asked) / all } else { 0.0 };
    let picture_scale: Vec<f32> = weights.iter().map(|weight| picture_scale * weight).collect();
    let mut covers = try_with_capacity(seen.rows() * (tokens + landmarks.rows()))?;
    for (attention, cosines) in attention.iter().zip(picture.iter()) {
        covers.extend(attention.iter().map(|share| share * question_scale));
        covers.extend(cosines.iter().zip(&picture_scale).map(|(cosine, scale)| cosine.max(0.0) * scale));
    }
    // So that the most relevant `count` rows sum to 1.
    let mut sorted = seen.relevance.to_vec();
    sorted.sort_by(|one, other| other.total_cmp(one));
    let most: f32 = sorted.iter().take(count).sum();
    let scale = if most > 0.0 { (1.0 - diversify) / most } else { 0.0 };
    let worth = seen.relevance.iter().map(|relevance| relevance * scale).collect();
    Ok(Coverage::new(Matrix::new(covers, tokens + landmarks.rows())).plus(worth))
}

/// The largest number of each column, 0 at least.
fn best(matrix: &Matrix) -> Vec<f32> {
    let mut best = vec![0.0f32; matrix.width()];
    for row in matrix.iter() {
        best.iter_mut().zip(row).for_each(|(best, number)| *best = best.max(*number));
    }
    best
}

/// What stands for the picture: its rows, or of many the cells that they lie in, each of length one; and how
/// much each counts, 1 together.
fn landmarks(seen: &Seen<'_>, explore: f32) -> (Matrix, Vec<f32>) {
    let sketch = &seen.survey.sketch;
    let (all, weights) =
        if seen.rows() <= MOST_LANDMARKS { (sketch.clone(), seen.relevance.to_vec()) } else { cells(seen) };
    let all = all.normalised();
    // Cells in which no row lies stand for nothing.
    let met: Vec<bool> = all.iter().map(|row| row.iter().any(|number| *number != 0.0)).collect();
    let explored = explore / met.iter().filter(|met| **met).count().max(1) as f32;
    let sum: f32 = weights.iter().sum();
    let exploited = if sum > 0.0 { (1.0 - explore) / sum } else { 0.0 };
    let weigh = |(met, weight): (&bool, &f32)| if *met { explored + exploited * weight } else { 0.0 };
    let weights = met.iter().zip(&weights).map(weigh).collect();
    (all, weights)
}

/// Sums of the sketches and relevances of the rows in each cell of a lattice over the picture.
fn cells(seen: &Seen<'_>) -> (Matrix, Vec<f32>) {
    let (width, lattice) = (seen.survey.sketch.width(), CELLS * CELLS);
    let (mut sums, mut weights) = (vec![0.0; lattice * width], vec![0.0; lattice]);
    let centres = centres(seen.places);
    for ((row, relevance), [x, y]) in seen.survey.sketch.iter().zip(seen.relevance).zip(centres) {
        let [column, line] = [x, y].map(|share| ((share * CELLS as f32) as usize).min(CELLS - 1));
        let cell = line * CELLS + column;
        weights[cell] += relevance;
        sums[cell * width..(cell + 1) * width].iter_mut().zip(row).for_each(|(sum, number)| *sum += number);
    }
    (Matrix::new(sums, width), weights)
}

/// Where the middle of each place lies, as a share of what the places span.
fn centres(places: &[Place]) -> Vec<[f32; 2]> {
    let most = places.iter().fold([f32::MIN_POSITIVE; 2], |[right, bottom], place| {
        [right.max(place.rect[2]), bottom.max(place.rect[3])]
    });
    let centre = |place: &Place| {
        let [left, top, right, bottom] = place.rect;
        [(left + right) / 2.0 / most[0], (top + bottom) / 2.0 / most[1]]
    };
    places.iter().map(centre).collect()
}

/// MMTok: for each token of the question and for each row, the best attention that one of the taken rows gets
/// from it. The authors take the second from the tower's rows before they are merged; here they are merged.
fn mmtok(seen: &Seen<'_>) -> Result<Coverage, TensorError> {
    let directions = seen.directions()?;
    let question = softmax_columns(directions.products(seen.question)?, QUESTION_TEMPERATURE);
    let picture = softmax_columns(directions.products(&directions)?, PICTURE_TEMPERATURE);
    let (tokens, rows) = (question.width(), picture.width());
    let mut covers = try_with_capacity(rows * (tokens + rows))?;
    for (question, picture) in question.iter().zip(picture.iter()) {
        covers.extend(question.iter().map(|share| share / tokens as f32));
        covers.extend(picture.iter().map(|share| share * PICTURE_SHARE / rows as f32));
    }
    Ok(Coverage::new(Matrix::new(covers, tokens + rows)))
}

/// Softmax down the columns.
pub(crate) fn softmax_columns(mut cosines: Matrix, temperature: f32) -> Matrix {
    let width = cosines.width();
    let (mut largest, mut sums) = (vec![f32::NEG_INFINITY; width], vec![0.0f32; width]);
    for row in cosines.iter() {
        largest.iter_mut().zip(row).for_each(|(largest, cosine)| *largest = largest.max(*cosine));
    }
    for row in cosines.iter_mut() {
        for ((cosine, largest), sum) in row.iter_mut().zip(&largest).zip(&mut sums) {
            *cosine = ((*cosine - largest) / temperature).exp();
            *sum += *cosine;
        }
    }
    for row in cosines.iter_mut() {
        row.iter_mut().zip(&sums).for_each(|(share, sum)| *share /= sum);
    }
    cosines
}

/// SCOPE: how well all rows are covered, times the salience of the row that covers. The authors take the
/// salience from the attention of the tower's class token; here it is the attention that a row gets from all.
fn scope(seen: &Seen<'_>) -> Result<Coverage, TensorError> {
    let directions = seen.directions()?;
    let attention = softmax_columns(directions.products(&directions)?, PICTURE_TEMPERATURE);
    let salience = attention.iter().map(|row| row.iter().sum::<f32>() / row.len().max(1) as f32).collect();
    drop(attention);
    Ok(Coverage::new(directions.products(&directions)?).times(salience))
}

/// CDPruner's relevance: the mean cosine to the question, spread over 0..=1. The authors take it from CLIP
/// and turn its sign round; here both sides are the decoder's own embeddings.
fn mean_cosines(directions: &Matrix, question: &Matrix) -> Result<Vec<f32>, TensorError> {
    let cosines = directions.products(question)?;
    let mean = |row: &[f32]| row.iter().sum::<f32>() / row.len().max(1) as f32;
    Ok(spread(cosines.iter().map(mean).collect()))
}

/// A worth for every place such that the first so many are spread evenly over the picture, however many they
/// are: places in the order of a Morton curve whose bits are turned round.
fn evenly(places: &[Place]) -> Vec<f32> {
    let keys: Vec<u32> = centres(places)
        .into_iter()
        .map(|centre| {
            let [x, y] = centre.map(|share| ((share * 65_536.0) as u32).min(65_535).reverse_bits() >> 16);
            (spaced(x) << 1) | spaced(y)
        })
        .collect();
    let mut order: Vec<usize> = (0..places.len()).collect();
    order.sort_by_key(|&at| keys[at]);
    let mut worth = vec![0.0; places.len()];
    for (rank, at) in order.into_iter().enumerate() {
        worth[at] = -(rank as f32);
    }
    worth
}

/// The bits of a number of 16 bits, with a zero before each.
fn spaced(number: u32) -> u32 {
    let mut bits = number & 0xffff;
    for (shift, mask) in [(8, 0x00ff_00ff), (4, 0x0f0f_0f0f), (2, 0x3333_3333), (1, 0x5555_5555)] {
        bits = (bits | (bits << shift)) & mask;
    }
    bits
}
