//! Parts of a picture that hold nothing, which need not be encoded: `arrcoc.skip_blank`.
//!
//! A place is plain where no channel changes by more than [`FLAT`] of 256 levels: paper, a clear sky, a
//! margin. A token is blank where its place and all places around it are plain, so that what an outline
//! stands on is seen. What a network makes of the others changes, since they cannot look at blank ones any
//! more: off unless a request says so.

use image::RgbImage;

/// How far a channel of a plain place changes at most: less than what JPEG adds beside an edge.
const FLAT: u8 = 8;

/// Least and largest level of each channel in a part of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Levels([[u8; 2]; 3]);

impl Levels {
    const NONE: Self = Self([[u8::MAX, u8::MIN]; 3]);

    /// Of a rectangle (left, top, right, bottom, pixels) of an upright picture. As soon as it is not plain,
    /// the rest of it is not looked at.
    pub(super) fn of(picture: &RgbImage, [left, top, right, bottom]: [f32; 4]) -> Self {
        // `as` saturates, and turns NaN into 0.
        let x = [left.floor() as u32, (right.ceil() as u32).min(picture.width())];
        let y = [top.floor() as u32, (bottom.ceil() as u32).min(picture.height())];
        let mut levels = Self::NONE;
        for row in y[0]..y[1] {
            for column in x[0]..x[1] {
                levels = levels.and(Self(picture.get_pixel(column, row).0.map(|level| [level; 2])));
            }
            if !levels.are_plain() {
                break;
            }
        }
        levels
    }

    /// Of both parts.
    fn and(self, other: Self) -> Self {
        let mut both = self;
        for ([least, most], other) in both.0.iter_mut().zip(other.0) {
            (*least, *most) = ((*least).min(other[0]), (*most).max(other[1]));
        }
        both
    }

    /// Whether no channel changes much.
    pub(super) fn are_plain(self) -> bool {
        self.0.iter().all(|[least, most]| most.saturating_sub(*least) <= FLAT)
    }
}

/// Which cells of a grid are not blank, row by row, from the levels of each; all of them where nothing would
/// be left.
pub(super) fn seen(levels: &[Levels], columns: usize) -> Vec<bool> {
    let rows = levels.len().checked_div(columns).unwrap_or(0);
    let around = |at: usize, most: usize| at.saturating_sub(1)..(at + 2).min(most);
    let blank = |cell: usize| {
        let (row, column) = (cell / columns, cell % columns);
        let lines = around(row, rows);
        let near = lines.flat_map(|row| around(column, columns).map(move |column| row * columns + column));
        near.fold(Levels::NONE, |all, cell| all.and(levels[cell])).are_plain()
    };
    let seen: Vec<bool> = (0..levels.len()).map(|cell| !blank(cell)).collect();
    if seen.contains(&true) { seen } else { vec![true; levels.len()] }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn plain_is_what_hardly_changes() {
        let mut picture = RgbImage::from_fn(40, 20, |x, _| Rgb([200 + (x / 10) as u8 * 2; 3]));
        let is_plain = |picture: &RgbImage, rect| Levels::of(picture, rect).are_plain();
        assert!(is_plain(&picture, [0.0, 0.0, 40.0, 20.0]), "a slow gradient");
        picture.put_pixel(35, 5, Rgb([200, 200, 220]));
        assert!(!is_plain(&picture, [30.0, 0.0, 40.0, 10.0]), "one channel of one pixel");
        assert!(is_plain(&picture, [0.0, 0.0, 35.0, 20.0]));
        assert!(is_plain(&picture, [90.0, 90.0, 99.0, 99.0]) && is_plain(&picture, [f32::NAN; 4]));
    }

    #[test]
    fn what_touches_something_is_seen() {
        // Five columns and rows of one colour each. One cell has another, and no edge inside of any cell.
        let levels = |other: usize| {
            let level = |cell| if cell == other { 30 } else { 255 };
            (0..25).map(|cell| Levels([[level(cell); 2]; 3])).collect::<Vec<_>>()
        };
        let expected: Vec<bool> = (0..25).map(|cell| cell / 5 <= 2 && cell % 5 <= 2).collect();
        assert_eq!(seen(&levels(6), 5), expected);
        assert_eq!(seen(&levels(99), 5), [true; 25], "of a blank picture all is seen");
        assert_eq!(seen(&[], 3), [true; 0]);
    }
}
