//! Parts of a picture that hold nothing, which need not be encoded: `arrcoc.skip_blank`.
//!
//! A place is plain where no channel changes by more than [`FLAT`] of 256 levels: paper, a clear sky, a
//! margin. A token is blank where its place and all places around it are plain, so that what an outline
//! stands on is seen. What a network makes of the others changes, since they cannot look at blank ones any
//! more: off unless a request says so.

use image::RgbImage;

/// How far a channel of a plain place changes at most: less than what JPEG adds beside an edge.
const FLAT: u8 = 8;

/// Whether a rectangle (left, top, right, bottom, pixels) of an upright picture is plain.
pub(super) fn is_plain(picture: &RgbImage, [left, top, right, bottom]: [f32; 4]) -> bool {
    // `as` saturates, and turns NaN into 0.
    let x = [left.floor() as u32, (right.ceil() as u32).min(picture.width())];
    let y = [top.floor() as u32, (bottom.ceil() as u32).min(picture.height())];
    let (mut least, mut most) = ([u8::MAX; 3], [u8::MIN; 3]);
    for row in y[0]..y[1] {
        for column in x[0]..x[1] {
            let pixel = picture.get_pixel(column, row).0;
            for channel in 0..3 {
                least[channel] = least[channel].min(pixel[channel]);
                most[channel] = most[channel].max(pixel[channel]);
            }
            if most.iter().zip(least).any(|(most, least)| most.saturating_sub(least) > FLAT) {
                return false;
            }
        }
    }
    true
}

/// Which cells of a grid are not blank, row by row; all of them where nothing would be left.
pub(super) fn seen(plain: &[bool], columns: usize) -> Vec<bool> {
    let rows = plain.len().checked_div(columns).unwrap_or(0);
    let around = |at: usize, most: usize| at.saturating_sub(1)..(at + 2).min(most);
    let blank = |cell: usize| {
        let (row, column) = (cell / columns, cell % columns);
        let mut near = around(row, rows)
            .flat_map(|row| around(column, columns).map(move |column| row * columns + column));
        near.all(|cell| plain[cell])
    };
    let seen: Vec<bool> = (0..plain.len()).map(|cell| !blank(cell)).collect();
    if seen.contains(&true) { seen } else { vec![true; plain.len()] }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn plain_is_what_hardly_changes() {
        let mut picture = RgbImage::from_fn(40, 20, |x, _| Rgb([200 + (x / 10) as u8 * 2; 3]));
        assert!(is_plain(&picture, [0.0, 0.0, 40.0, 20.0]), "a slow gradient");
        picture.put_pixel(35, 5, Rgb([200, 200, 220]));
        assert!(!is_plain(&picture, [30.0, 0.0, 40.0, 10.0]), "one channel of one pixel");
        assert!(is_plain(&picture, [0.0, 0.0, 35.0, 20.0]));
        assert!(is_plain(&picture, [90.0, 90.0, 99.0, 99.0]) && is_plain(&picture, [f32::NAN; 4]));
    }

    #[test]
    fn what_touches_something_is_seen() {
        // Something in the second of five columns and rows.
        let plain: Vec<bool> = (0..25).map(|cell| cell != 6).collect();
        let found = seen(&plain, 5);
        let expected: Vec<bool> = (0..25).map(|cell| cell / 5 <= 2 && cell % 5 <= 2).collect();
        assert_eq!(found, expected);
        assert_eq!(seen(&[true; 6], 3), [true; 6], "of a blank picture all is seen");
        assert_eq!(seen(&[], 3), [true; 0]);
    }
}
