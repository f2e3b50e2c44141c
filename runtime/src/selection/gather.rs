//! Some rows of a picture instead of all.

use crate::decoder::Positions;
use crate::generate::{Place, Selected};
use crate::tensor::{Tensor, TensorError, try_with_capacity};
use crate::vision::family::Visual;

/// A row that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Its number among all rows of the picture.
    pub(crate) row: usize,
    /// Its rank in the order of selection, from 0.
    pub(crate) rank: usize,
    /// How many levels of rows for deeper layers it gets, the deepest first.
    pub(crate) levels: usize,
}

/// The kept rows of a picture, in the picture's own order. Each stands where it stood, and text goes on where
/// it would go on behind all of them. `places` are those of all rows; those that are not kept go to the
/// receipt too. `selected` says how they were chosen, where a selector chose.
///
/// # Errors
/// [`TensorError`] when memory is short.
pub(crate) fn gather(
    visual: &Visual,
    kept: &[Kept],
    places: Vec<Place>,
    selected: Option<Selected>,
) -> Result<Visual, TensorError> {
    debug_assert!(kept.is_sorted_by(|one, other| one.row < other.row), "each once, in order");
    let rows = picked(&visual.rows, kept, |_, _| true)?;
    let deep = match &visual.deep {
        None => None,
        Some(deep) => {
            let levels = deep.shape()[0];
            // The deepest come last.
            Some(picked(deep, kept, |level, kept| level + kept.levels >= levels)?)
        }
    };
    let mut receipt = (*visual.receipt).clone();
    receipt.tokens = kept.len();
    receipt.selected = selected;
    let (taken, dropped) = parted(places, kept, visual.deep.is_some());
    receipt.places = taken;
    // Beside those that were never encoded.
    receipt.dropped.extend(dropped);
    let runs = cut(visual, kept);
    let positions = Some(runs.iter().map(|(_, positions)| positions.clone()).collect());
    let runs = runs.into_iter().map(|(run, _)| run).collect();
    Ok(Visual { positions, deep, ..Visual::new(rows, runs, receipt) })
}

/// The kept rows of a tensor `[levels, rows, H]`, zeros where a level is not granted.
fn picked(
    tensor: &Tensor,
    kept: &[Kept],
    granted: impl Fn(usize, &Kept) -> bool,
) -> Result<Tensor, TensorError> {
    let (levels, rows, width) = (tensor.shape()[0], tensor.shape()[1], tensor.shape()[2]);
    let numbers = tensor.as_slice::<f32>()?;
    let mut taken = try_with_capacity(levels * kept.len() * width)?;
    for level in 0..levels {
        for kept in kept {
            let start = (level * rows + kept.row) * width;
            match granted(level, kept) {
                true => taken.extend_from_slice(&numbers[start..start + width]),
                false => taken.resize(taken.len() + width, 0.0),
            }
        }
    }
    Tensor::from_vec(&[levels, kept.len(), width], taken)
}

/// Every run of a picture, as far as it is kept.
fn cut(visual: &Visual, kept: &[Kept]) -> Vec<(std::ops::Range<usize>, Positions)> {
    let of = |(index, run): (usize, &std::ops::Range<usize>)| {
        let start = kept.partition_point(|kept| kept.row < run.start);
        let end = kept.partition_point(|kept| kept.row < run.end);
        let own = visual.positions.as_ref().and_then(|positions| positions.get(index));
        let at = |kept: &Kept| {
            let at = kept.row - run.start;
            // Rows that are counted as text is.
            own.and_then(|own| own.each.get(at).copied()).unwrap_or([at; 3])
        };
        let each = kept[start..end].iter().map(at).collect();
        let next = own.map_or(run.len(), |own| own.next);
        (start..end, Positions { each, next })
    };
    visual.runs.iter().enumerate().map(of).collect()
}

/// The places of the kept rows, and the others.
fn parted(places: Vec<Place>, kept: &[Kept], deep: bool) -> (Vec<Place>, Vec<Place>) {
    let (mut taken, mut dropped) = (Vec::with_capacity(kept.len()), Vec::new());
    let mut next = kept.iter().peekable();
    for (row, place) in places.into_iter().enumerate() {
        match next.next_if(|kept| kept.row == row) {
            Some(kept) => {
                let layers = deep.then_some(kept.levels);
                taken.push(Place { rank: Some(kept.rank), layers, ..place });
            }
            None => dropped.push(place),
        }
    }
    (taken, dropped)
}
