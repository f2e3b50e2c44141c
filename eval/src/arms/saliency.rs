//! Texture: how much the brightness of a patch changes from pixel to pixel, and how unevenly.

use super::Region;

/// Weights of red, green and blue in brightness (ITU-R BT.601).
const LUMINANCE: [f32; 3] = [0.299, 0.587, 0.114];

/// Per patch the standard deviation of the differences between neighbouring pixels' luminance, across and
/// down taken together and both pixels inside the patch: `[P]`. `pixels` is the encoder's input, `[3, S, S]`;
/// padding scores 0.
pub fn scores(pixels: &[f32], region: Region, patch: usize) -> Vec<f32> {
    let size = region.side * patch;
    let plane = size * size;
    let luminance: Vec<f32> = (0..plane)
        .map(|at| {
            LUMINANCE.iter().enumerate().map(|(channel, weight)| weight * pixels[channel * plane + at]).sum()
        })
        .collect();
    let mut scores = vec![0.0; region.patches()];
    for index in region.filled() {
        let (top, left) = (index / region.side * patch, index % region.side * patch);
        scores[index] = texture(&luminance, size, (top, left), patch);
    }
    scores
}

fn texture(luminance: &[f32], size: usize, (top, left): (usize, usize), patch: usize) -> f32 {
    let at = |y: usize, x: usize| f64::from(luminance[(top + y) * size + left + x]);
    let (mut sum, mut squares, mut count) = (0.0, 0.0, 0.0);
    let mut add = |difference: f64| {
        sum += difference;
        squares += difference * difference;
        count += 1.0;
    };
    for y in 0..patch {
        for x in 0..patch {
            if x + 1 < patch {
                add(at(y, x + 1) - at(y, x));
            }
            if y + 1 < patch {
                add(at(y + 1, x) - at(y, x));
            }
        }
    }
    if count == 0.0 {
        return 0.0;
    }
    let mean: f64 = sum / count;
    (squares / count - mean * mean).max(0.0).sqrt() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `[3, S, S]` with the same value in every channel.
    fn grey(rows: &[&[f32]]) -> Vec<f32> {
        let plane: Vec<f32> = rows.iter().flat_map(|row| row.iter().copied()).collect();
        [plane.clone(), plane.clone(), plane].concat()
    }

    #[test]
    fn flat_patches_and_even_slopes_score_by_their_differences() {
        // Four patches of 2 x 2: flat, a step across, a checkerboard, flat at another level.
        let pixels = grey(&[
            &[1.0, 1.0, 0.0, 2.0],
            &[1.0, 1.0, 0.0, 2.0],
            &[0.0, 3.0, 5.0, 5.0],
            &[3.0, 0.0, 5.0, 5.0],
        ]);
        let scores = scores(&pixels, Region::whole(2), 2);
        // A step: differences 2, 2 across and 0, 0 down, hence a deviation of 1. A checkerboard: 3, -3, 3,
        // -3.
        for (found, expected) in scores.iter().zip([0.0, 1.0, 3.0, 0.0]) {
            assert!((found - expected).abs() < 1e-5, "{scores:?}");
        }
    }

    #[test]
    fn padding_scores_nothing_and_channels_weigh_as_the_eye_does() {
        let mut pixels = vec![0.0; 3 * 16];
        // Green only, and once in the padding of the lower half.
        for at in [0, 10] {
            pixels[16 + at] = 1.0;
        }
        let scores = scores(&pixels, Region { side: 2, columns: 2, rows: 1 }, 2);
        assert_eq!(scores[1..], [0.0, 0.0, 0.0]);
        // Differences -w, -w, 0, 0: a deviation of w / 2.
        assert!((scores[0] - 0.587 / 2.0).abs() < 1e-6, "{scores:?}");
    }
}
