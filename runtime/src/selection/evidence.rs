//! What can be told from a picture's pixels alone: how much there is to read in each part of it.

use image::RgbImage;

/// Cells along a side, at most.
const MOST_CELLS: usize = 128;
/// Pixels along a cell's side, at least: fewer make no histogram.
const LEAST_CELL: usize = 8;
/// Pixels of a cell that are looked at along a side, at most.
const MOST_SAMPLES: usize = 16;
/// Bins of a cell's histogram of brightness.
const BINS: usize = 16;

/// A lattice of cells over a picture, and how much there is to read in each.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    /// Width and height of the picture, pixels.
    size: [usize; 2],
    /// Width and height of a cell, pixels.
    cell: [usize; 2],
    /// Cells across.
    columns: usize,
    /// Shannon entropy of the brightness in each cell, as a share of the most that it can be, row by row.
    information: Vec<f32>,
}

impl Evidence {
    /// Looks at an upright picture.
    pub fn of(picture: &RgbImage) -> Self {
        let size = [picture.width(), picture.height()].map(|side| side as usize);
        let cell = size.map(|side| side.div_ceil(MOST_CELLS).max(LEAST_CELL));
        let [columns, rows] = [0, 1].map(|axis| size[axis].div_ceil(cell[axis]));
        let cells = (0..rows).flat_map(|row| (0..columns).map(move |column| [column, row]));
        let information = cells.map(|at| entropy(picture, size, cell, at)).collect();
        Self { size, cell, columns, information }
    }

    /// How much there is to read in a rectangle (left, top, right, bottom, pixels), 0..=1: the mean of the
    /// cells that it touches.
    pub(crate) fn information(&self, [left, top, right, bottom]: [f32; 4]) -> f32 {
        let cells = |from: f32, to: f32, axis: usize| {
            let (side, cell) = (self.size[axis], self.cell[axis]);
            let last = side.saturating_sub(1);
            // `as` saturates, and turns NaN into 0.
            let first = (from.floor() as usize).min(last) / cell;
            let end = (to.ceil() as usize).saturating_sub(1).min(last) / cell;
            first..=end.max(first)
        };
        let (mut sum, mut count) = (0.0, 0);
        for row in cells(top, bottom, 1) {
            for column in cells(left, right, 0) {
                sum += self.information.get(row * self.columns + column).copied().unwrap_or(0.0);
                count += 1;
            }
        }
        sum / count.max(1) as f32
    }

    /// Memory that it holds, bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.information.len() * size_of::<f32>()
    }
}

/// The entropy of one cell's brightness, as a share of the most that it can be.
fn entropy(picture: &RgbImage, size: [usize; 2], cell: [usize; 2], at: [usize; 2]) -> f32 {
    let samples = |axis: usize| {
        let start = at[axis] * cell[axis];
        let end = size[axis].min(start + cell[axis]);
        (start..end).step_by((end - start).div_ceil(MOST_SAMPLES).max(1))
    };
    let (mut histogram, mut count) = ([0u32; BINS], 0u32);
    let bytes = picture.as_raw();
    for y in samples(1) {
        for x in samples(0) {
            let place = (y * size[0] + x) * 3;
            let [red, green, blue] = [0, 1, 2].map(|channel| u32::from(bytes[place + channel]));
            // Rec. 601, in 256ths.
            let brightness = (77 * red + 150 * green + 29 * blue) >> 8;
            histogram[brightness as usize * BINS / 256] += 1;
            count += 1;
        }
    }
    let share = |bin: u32| bin as f32 / count.max(1) as f32;
    let bits: f32 =
        histogram.into_iter().filter(|bin| *bin > 0).map(|bin| -share(bin) * share(bin).log2()).sum();
    (bits / (BINS as f32).log2()).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn what_is_blank_holds_nothing_and_noise_much() {
        let noisy = |x: u32, y: u32| (x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(40_503)) % 256;
        let picture =
            RgbImage::from_fn(100, 60, |x, y| Rgb([if x < 48 { 200 } else { noisy(x, y) as u8 }; 3]));
        let evidence = Evidence::of(&picture);
        assert_eq!(evidence.information([0.0, 0.0, 48.0, 60.0]), 0.0);
        assert!(evidence.information([56.0, 0.0, 100.0, 60.0]) > 0.7);
        let both = evidence.information([0.0, 0.0, 100.0, 60.0]);
        assert!(both > 0.2 && both < 0.7, "{both}");
    }

    #[test]
    fn rectangles_beyond_the_picture_are_its_edge() {
        for size in [[1, 1], [7, 300], [4000, 3]] {
            let evidence = Evidence::of(&RgbImage::from_pixel(size[0], size[1], Rgb([9; 3])));
            for rect in [[-5.0, -5.0, 1e9, 1e9], [f32::NAN; 4], [1e9, 1e9, 2e9, 2e9], [0.0; 4]] {
                assert_eq!(evidence.information(rect), 0.0, "{size:?} {rect:?}");
            }
        }
    }
}
