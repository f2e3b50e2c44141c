//! Pixel shuffle: neighbouring places of a grid become one place with more channels
//! (<https://arxiv.org/abs/1609.05158>, the other way round).

use crate::bricks::width;
use crate::dims;
use crate::graph::{Builder, Value};

/// Squares of `factor` by `factor` places become one: rows \[batch * height * width, C\] to rows \[batch *
/// height / factor * width / factor, factor * factor * C\], channels by row in the square, column in it, and
/// channel before. That is the order of transformers' `pixel_shuffle` in Idefics3 (`scale_factor`) and in
/// InternVL (whose 0.5 is a factor of 2).
pub fn space_to_depth(g: &mut Builder, x: &Value, grid: [usize; 2], factor: usize) -> Value {
    let [height, across] = grid.map(|side| side / factor);
    let channels = factor * width(x);
    let bands = x.dim(0).over(grid[0] * grid[1]).times(height);
    let squares = bands.times(across);
    let x = g.reshape(x, dims![&bands, factor, across, channels]);
    let x = g.transpose(&x, &[0, 2, 1, 3]); // [bands, across, factor, factor * C]
    g.reshape(&x, dims![squares, factor * channels])
}
