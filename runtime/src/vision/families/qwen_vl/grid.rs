//! The grid of visual tokens and patches that a picture becomes, and what follows from it: sizes, windows,
//! places in the table of positions.

use arrcoc_bundle::names::tensor;
use arrcoc_bundle::processors::QwenVl as Section;

use crate::generate::Place;
use crate::image::ImageError;
use crate::tensor::Tensor;

/// Added to the products with an empty slot of a window; vanishes in a softmax and fits half precision.
const MASKED: f32 = -3e4;

/// A picture's grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grid {
    /// Rows and columns of visual tokens.
    pub(super) tokens: [usize; 2],
    /// Patches on the side of a token.
    pub(super) merge: usize,
}

impl Grid {
    /// Visual tokens.
    pub(super) fn rows(self) -> usize {
        self.tokens[0] * self.tokens[1]
    }

    /// How far the text behind it moves, positions.
    pub(super) fn advance(self) -> usize {
        self.tokens[0].max(self.tokens[1])
    }

    /// Row and column of every visual token, in row-major order.
    pub(super) fn cells(self) -> impl Iterator<Item = [usize; 2]> {
        let [rows, columns] = self.tokens;
        (0..rows).flat_map(move |row| (0..columns).map(move |column| [row, column]))
    }

    /// All of it is encoded.
    #[cfg(test)]
    pub(super) fn whole(self) -> Cells {
        Cells { grid: self, cells: self.cells().collect() }
    }
}

/// The visual tokens of a picture that are encoded.
#[derive(Debug, Clone)]
pub(super) struct Cells {
    pub(super) grid: Grid,
    /// Row and column of each, in row-major order.
    cells: Vec<[usize; 2]>,
}

impl Cells {
    /// Those of a grid that `seen` has, all of them unless it says.
    pub(super) fn of(grid: Grid, seen: Option<&[bool]>) -> Self {
        let sees = |at: usize| seen.is_none_or(|seen| seen[at]);
        let cells = grid.cells().enumerate().filter(|(at, _)| sees(*at)).map(|(_, cell)| cell);
        Self { grid, cells: cells.collect() }
    }

    /// How many.
    pub(super) fn rows(&self) -> usize {
        self.cells.len()
    }

    /// Row and column of every patch, square by square.
    pub(super) fn patches(&self) -> impl Iterator<Item = [usize; 2]> {
        let merge = self.grid.merge;
        let square = move || (0..merge).flat_map(move |row| (0..merge).map(move |column| [row, column]));
        self.cells.iter().flat_map(move |&[row, column]| {
            square().map(move |[down, across]| [row * merge + down, column * merge + across])
        })
    }
}

/// The patches of every window of `side` by `side` visual tokens, in row-major order of the windows: which
/// patch sits in a slot, which slots are empty, both \[windows, slots\], and the slot of every patch
/// \[patches\].
pub(super) fn windows(seen: &Cells, side: usize) -> Result<[(&'static str, Tensor); 3], ImageError> {
    let grid = seen.grid;
    let merged = grid.merge * grid.merge;
    let [down, across] = grid.tokens.map(|tokens| tokens.div_ceil(side));
    let shape = [down * across, side * side * merged];
    let (mut slots, mut mask) = (vec![0; shape[0] * shape[1]], vec![MASKED; shape[0] * shape[1]]);
    let mut places = Vec::with_capacity(seen.rows() * merged);
    for &[row, column] in &seen.cells {
        let window = row / side * across + column / side;
        let token = row % side * side + column % side;
        for part in 0..merged {
            let place = (window * side * side + token) * merged + part;
            slots[place] = places.len() as i64;
            mask[place] = 0.0;
            places.push(place as i64);
        }
    }
    let no_memory = |error| ImageError::no_memory(&error);
    Ok([
        (tensor::WINDOW_SLOTS, Tensor::from_vec(&shape, slots).map_err(no_memory)?),
        (tensor::WINDOW_MASK, Tensor::from_vec(&shape, mask).map_err(no_memory)?),
        (tensor::WINDOW_PLACES, Tensor::from_vec(&[places.len()], places).map_err(no_memory)?),
    ])
}

/// Where every row looks.
pub(super) fn places(grid: Grid, original: [u32; 2]) -> Vec<Place> {
    let [width, height] = original.map(|side| side as f32);
    let [rows, columns] = grid.tokens.map(|count| count as f32);
    let place = |[row, column]: [usize; 2]| Place {
        rect: [
            column as f32 / columns * width,
            row as f32 / rows * height,
            (column + 1) as f32 / columns * width,
            (row + 1) as f32 / rows * height,
        ],
        cell: [0, row as u32, column as u32],
        ..Place::default()
    };
    grid.cells().map(place).collect()
}

/// The two entries of a table of `side` between which place `at` of `count` falls, and their shares.
pub(super) fn taps(at: usize, count: usize, side: usize) -> [(usize, f32); 2] {
    let source = at as f32 * (side - 1) as f32 / count.saturating_sub(1).max(1) as f32;
    let low = source.floor();
    [0.0, 1.0].map(|offset| {
        let share = (1.0 - (source - low - offset).abs()).max(0.0);
        (((low + offset) as usize).min(side - 1), share)
    })
}

/// Height and width that a picture of `size` (width, height) is brought to: multiples of `factor`, with an
/// area between the two numbers of pixels where that is possible (`smart_resize` of transformers).
pub(super) fn smart_resize(
    size: [u32; 2],
    factor: usize,
    [least, most]: [u64; 2],
) -> Result<[usize; 2], ImageError> {
    let [width, height] = size.map(f64::from);
    let aspect = width.max(height) / width.min(height);
    if aspect > Section::MOST_ASPECT as f64 {
        let most = Section::MOST_ASPECT;
        let reason = format!(
            "expected a longer side of at most {most} times the shorter one, found {aspect:.1} times"
        );
        return Err(ImageError::Shape { width: size[0], height: size[1], reason });
    }
    let step = factor as f64;
    // Halves go to the even number, as in Python.
    let [down, across] = [height, width].map(|side| (side / step).round_ties_even() * step);
    let area = down * across;
    let sides = if area > most as f64 {
        let shrink = (height * width / most as f64).sqrt();
        [height, width].map(|side| step.max((side / shrink / step).floor() * step))
    } else if area < least as f64 {
        let grow = (least as f64 / (height * width)).sqrt();
        [height, width].map(|side| (side * grow / step).ceil() * step)
    } else {
        [down, across]
    };
    Ok(sides.map(|side| side as usize))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_transformers() {
        // Height and width of transformers' own function.
        let cases = [
            ([1, 1], 32, [65_536, 16_777_216], [256, 256]),
            ([2000, 300], 32, [65_536, 16_777_216], [288, 1984]),
            ([48, 80], 32, [1024, 16_777_216], [64, 64]),
            ([1093, 7], 28, [3136, 12_845_056], [28, 700]),
            ([8000, 6000], 32, [65_536, 16_777_216], [3520, 4704]),
        ];
        for (size, factor, pixels, expected) in cases {
            assert_eq!(smart_resize(size, factor, pixels).unwrap(), expected, "{size:?}");
        }
        assert!(
            smart_resize([1093, 5], 32, [65_536, 16_777_216]).unwrap_err().to_string().contains("200 times")
        );
    }

    #[test]
    fn patches_come_square_by_square() {
        let grid = Grid { tokens: [1, 2], merge: 2 };
        let expected = [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2], [0, 3], [1, 2], [1, 3]];
        assert_eq!(grid.whole().patches().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn windows_at_the_border_have_empty_slots() {
        let grid = Grid { tokens: [1, 3], merge: 1 };
        let [(_, slots), (_, mask), (_, places)] = windows(&grid.whole(), 2).unwrap();
        assert_eq!(
            (slots.shape(), slots.as_slice::<i64>().unwrap()),
            (&[2, 4][..], &[0, 1, 0, 0, 2, 0, 0, 0][..])
        );
        let seen: Vec<_> = mask.as_slice::<f32>().unwrap().iter().map(|x| *x == 0.0).collect();
        assert_eq!(seen, [true, true, false, false, true, false, false, false]);
        assert_eq!(places.as_slice::<i64>().unwrap(), [0, 1, 4]);
    }

    #[test]
    fn corners_of_the_table_are_corners_of_the_picture() {
        assert_eq!(taps(0, 7, 48)[0], (0, 1.0));
        assert_eq!(taps(6, 7, 48)[0], (47, 1.0));
        assert_eq!(taps(0, 1, 48), [(0, 1.0), (1, 0.0)]);
        let [(low, share), (high, rest)] = taps(1, 3, 4);
        assert_eq!((low, high, share, rest), (1, 2, 0.5, 0.5));
    }
}
