//! A smaller picture instead of some rows of the whole one.

use super::super::OfflineError;
use arrcoc_runtime::generate::{Image, Sizing};
use arrcoc_runtime::vision::{Vision, WholeError};

/// How a model sees a picture in as many rows as possible, and at most `budget`. Families that can see a
/// picture at any area are asked by area, the others by its longest side.
///
/// # Errors
/// [`OfflineError::MissingInput`] where the model sees it in no size that is small enough.
pub(super) fn sizing(vision: &Vision, image: &Image, budget: usize) -> Result<Sizing, OfflineError> {
    let own = image.sizing;
    let rows = |sizing: Sizing| match vision.whole_plan(&Image { sizing, ..image.clone() }) {
        Ok(plan) => Ok(Some(plan.all_rows())),
        Err(WholeError::Refused(_)) => Ok(None),
        Err(error) => Err(OfflineError::from(error)),
    };
    if rows(own)?.is_some_and(|count| count <= budget) {
        return Ok(own);
    }
    let by_area = |most: u64| Sizing { min_pixels: Some(1), max_pixels: Some(most), ..own };
    let by_side = |most: u64| Sizing { longest_edge: Some(most), ..own };
    let ways: [(&dyn Fn(u64) -> Sizing, u64); 2] = [(&by_area, 1 << 26), (&by_side, 1 << 13)];
    for (way, largest) in ways {
        // What is refused is outside of what the family takes: too small first, then too large.
        let (mut least, mut end, mut best) = (1, largest, None);
        while least < end {
            let middle = least.midpoint(end);
            match rows(way(middle))? {
                Some(count) if count <= budget => {
                    best = Some(way(middle));
                    least = middle + 1;
                }
                _ => end = middle,
            }
        }
        if let Some(sizing) = best {
            return Ok(sizing);
        }
    }
    Err(OfflineError::MissingInput("size in which the model sees it in so few tokens"))
}
