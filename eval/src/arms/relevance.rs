//! From an order of patches to relevances, and the orders that need nothing but the grid.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha12Rng;

use super::Region;

/// Relevance of every patch for arms that keep all of them.
pub const NEUTRAL: f32 = 0.5;

/// The lowest relevance of an arm that only orders patches, and how much higher the highest lies.
const ORDER: [f32; 2] = [0.45, 0.1];

/// Relevance of a patch that holds the answer, and of any other: not 1 and 0, which a sigmoid never reaches.
const ORACLE: [f32; 2] = [0.98, 0.02];

/// Relevances `[P]` that say nothing but an order, given best first: 0.45 + 0.1 s, where s falls evenly from
/// 1 to 0. Patches that are not in the order get the lowest.
pub fn from_order(order: &[usize], patches: usize) -> Vec<f32> {
    let [lowest, spread] = ORDER;
    let mut relevance = vec![lowest; patches];
    let last = order.len().saturating_sub(1).max(1) as f32;
    for (rank, &patch) in order.iter().enumerate() {
        relevance[patch] = lowest + spread * (1.0 - rank as f32 / last);
    }
    relevance
}

/// The picture's patches by falling score; the lower index goes first among equals, as in the compressor.
pub fn by_score(scores: &[f32], region: Region) -> Vec<usize> {
    let mut order: Vec<usize> = region.filled().collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order
}

/// The order that takes, each time, the patch farthest from all before it, beginning in the middle. Any
/// beginning of it is spread evenly over the picture. Of equals the first is taken.
pub fn spread(region: Region) -> Vec<usize> {
    let places: Vec<(i64, i64)> =
        region.filled().map(|patch| ((patch / region.side) as i64, (patch % region.side) as i64)).collect();
    let middle = (region.rows as i64 - 1, region.columns as i64 - 1);
    // In halves, since the middle may lie between two patches; a minus, since the nearest goes first.
    let from_middle = |&(row, column): &(i64, i64)| {
        let (dy, dx) = (2 * row - middle.0, 2 * column - middle.1);
        -(dy * dy + dx * dx)
    };
    let mut next = first_largest(&places.iter().map(from_middle).collect::<Vec<_>>());
    let mut nearest = vec![i64::MAX; places.len()];
    let mut order = Vec::with_capacity(places.len());
    for _ in 0..places.len() {
        let (row, column) = places[next];
        order.push(row as usize * region.side + column as usize);
        for (distance, place) in nearest.iter_mut().zip(&places) {
            let (dy, dx) = (place.0 - row, place.1 - column);
            *distance = (*distance).min(dy * dy + dx * dx);
        }
        nearest[next] = -1;
        // Those taken before stay below every distance.
        next = first_largest(&nearest);
    }
    order
}

fn first_largest(values: &[i64]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}

/// The picture's patches in an order that a seed decides.
pub fn random(region: Region, seed: u64) -> Vec<usize> {
    shuffled(region.filled().collect(), seed)
}

/// Patches in an order that a seed decides.
pub fn shuffled(mut order: Vec<usize>, seed: u64) -> Vec<usize> {
    order.shuffle(&mut ChaCha12Rng::seed_from_u64(seed));
    order
}

/// High relevance where the answer is, low elsewhere, `[P]`.
pub fn oracle(answer: &[usize], patches: usize) -> Vec<f32> {
    let [here, elsewhere] = ORACLE;
    let mut relevance = vec![elsewhere; patches];
    for &patch in answer {
        relevance[patch] = here;
    }
    relevance
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}");
    }

    #[test]
    fn an_order_becomes_evenly_spaced_relevances() {
        close(&from_order(&[2, 0, 1], 4), &[0.5, 0.45, 0.55, 0.45]);
        close(&from_order(&[1], 2), &[0.45, 0.55]);
        close(&from_order(&[], 1), &[0.45]);
    }

    #[test]
    fn scores_order_the_picture_and_leave_padding_out() {
        let region = Region { side: 2, columns: 2, rows: 1 };
        assert_eq!(by_score(&[0.1, 0.3, 9.0, 9.0], region), [1, 0]);
        assert_eq!(by_score(&[0.3, 0.3, 0.3, 0.4], Region::whole(2)), [3, 0, 1, 2], "ties go by index");
    }

    #[test]
    fn the_spread_begins_in_the_middle_and_goes_to_the_corners() {
        let order = spread(Region::whole(5));
        assert_eq!(order[..5], [12, 0, 4, 20, 24]);
        // Of four in the middle the first; then the farthest from it.
        assert_eq!(spread(Region::whole(4))[..2], [5, 15]);
    }

    #[test]
    fn orders_hold_every_patch_of_the_picture_once() {
        for region in [Region::whole(7), Region { side: 6, columns: 6, rows: 2 }, Region::whole(1)] {
            for mut order in
                [spread(region), random(region, 3), by_score(&vec![0.0; region.patches()], region)]
            {
                order.sort_unstable();
                assert_eq!(order, region.filled().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn any_beginning_of_the_spread_is_spread() {
        // Of 16 patches of an 8 x 8 grid, no quarter gets more than half or fewer than a tenth.
        let region = Region::whole(8);
        let mut quarters = [0; 4];
        for patch in &spread(region)[..16] {
            quarters[patch / 8 / 4 * 2 + patch % 8 / 4] += 1;
        }
        assert!(quarters.iter().all(|&count| (2..=8).contains(&count)), "{quarters:?}");
    }

    #[test]
    fn seeds_decide() {
        let region = Region::whole(6);
        assert_eq!(random(region, 1), random(region, 1));
        assert_ne!(random(region, 1), random(region, 2));
    }

    #[test]
    fn the_oracle_knows_where() {
        close(&oracle(&[1, 2], 4), &[0.02, 0.98, 0.98, 0.02]);
    }
}
