//! Qwen's models with vision: a picture keeps its shape, and as many rows as it has squares of patches.
//!
//! Sizes, order and roundings are those of transformers' `Qwen2VLImageProcessorPil` (5.23;
//! <https://github.com/huggingface/transformers/tree/main/src/transformers/models/qwen2_vl>), places and
//! weights in the table of positions those of its `vision_utils.py`.

use std::sync::Arc;

use arrcoc_bundle::names::{axis, tensor};
use arrcoc_bundle::processors::QwenVl as Section;
use arrcoc_bundle::{Bundle, BundleError, Manifest};

use crate::decoder::Positions;
use crate::error::LoadError;
use crate::generate::{Place, Receipt};
use crate::image::resample::brought_to;
use crate::image::{DecodedImage, ImageError};
use crate::library::{Library, LibraryError};
use crate::tensor::{Tensor, try_zeroed};
use crate::vision::VisionOptions;
use crate::vision::family::{
    Ask, Family, Features, Grant, ImagePlan, LoadedFamily, Pixels, Processor, VisionModel, Visual,
    check_scale, field,
};
use crate::vision::stages::{Stages, Step};

/// The graph from patches to rows.
const ENCODER: &str = "vision_encoder";

/// Rows of the table of positions that are blended for a patch.
const CORNERS: usize = 4;
/// Added to the products with an empty slot of a window; vanishes in a softmax and fits half precision.
const MASKED: f32 = -3e4;

/// The family.
pub(crate) struct QwenVl;

impl Family for QwenVl {
    fn names(&self) -> &'static [&'static str] {
        &["qwen2_5_vl", "qwen3_vl", "qwen3_5"]
    }

    fn check(&self, manifest: &Manifest) -> Result<(), BundleError> {
        if !manifest.graphs.contains_key(ENCODER) {
            return Err(BundleError::NoGraph { name: ENCODER.to_owned() });
        }
        let section: Section = manifest.processor()?;
        let Section { patch_size, temporal_patch_size, merge_size, min_pixels, max_pixels, .. } = section;
        let few = |name, number: usize, most: usize| {
            field(name, &format!("1 to {most}"), (1..=most).contains(&number), number)
        };
        few("patch_size", patch_size, Section::MOST_PATCH)?;
        few("temporal_patch_size", temporal_patch_size, Section::MOST_MERGED)?;
        few("merge_size", merge_size, Section::MOST_MERGED)?;
        few("table_side", section.table_side.unwrap_or(1), Section::MOST_TABLE)?;
        few("window", section.window.unwrap_or(1), Section::MOST_WINDOW)?;
        let bounded = (1..=max_pixels).contains(&min_pixels) && max_pixels <= Section::MOST_PIXELS;
        let expected = format!("1 to max_pixels, and that at most {}", Section::MOST_PIXELS);
        field("min_pixels", &expected, bounded, format!("{min_pixels}, {max_pixels}"))?;
        check_scale(&section.scale)
    }

    fn longest(&self, manifest: &Manifest, _: &VisionOptions, context: usize) -> Vec<(&'static str, u64)> {
        let Ok(section) = manifest.processor::<Section>() else { return Vec::new() };
        let rows = section.most_rows().min(context);
        let patches = rows.saturating_mul(section.merge_size.saturating_pow(2));
        let lengths =
            [(axis::PATCHES, patches), (axis::ROWS, rows), (axis::WINDOWS, section.most_windows(rows))];
        lengths.map(|(axis, length)| (axis, length as u64)).to_vec()
    }

    fn load(
        &self,
        bundle: &Bundle,
        library: &dyn Library,
        _: &VisionOptions,
    ) -> Result<LoadedFamily, LoadError> {
        let section: Section = bundle.manifest().processor()?;
        let decoder = &bundle.manifest().decoder;
        let encoder = Step::load(bundle, library, ENCODER)?;
        let patches = Patches { tables: section.scale.tables(), section };
        let (width, levels) = (decoder.hidden_size, decoder.deep_levels);
        let model = Tower { encoder, width, levels, patches: patches.clone() };
        Ok(LoadedFamily { processor: Arc::new(patches), model: Box::new(model) })
    }
}

/// A picture's grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Grid {
    /// Rows and columns of visual tokens.
    tokens: [usize; 2],
    /// Patches on the side of a token.
    merge: usize,
}

impl Grid {
    /// Visual tokens.
    fn rows(self) -> usize {
        self.tokens[0] * self.tokens[1]
    }

    /// Row and column of every visual token, in row-major order.
    fn cells(self) -> impl Iterator<Item = [usize; 2]> {
        let [rows, columns] = self.tokens;
        (0..rows).flat_map(move |row| (0..columns).map(move |column| [row, column]))
    }

    /// Row and column of every patch, square by square.
    fn patches(self) -> impl Iterator<Item = [usize; 2]> {
        let merge = self.merge;
        let square = move || (0..merge).flat_map(move |row| (0..merge).map(move |column| [row, column]));
        self.cells().flat_map(move |[row, column]| {
            square().map(move |[down, across]| [row * merge + down, column * merge + across])
        })
    }
}

#[derive(Clone)]
struct Patches {
    section: Section,
    /// What each byte becomes, per channel.
    tables: [[f32; 256]; 3],
}

impl Patches {
    /// The grid of a picture of this width and height, pixels.
    fn grid(&self, size: [u32; 2]) -> Result<Grid, ImageError> {
        let factor = self.section.factor();
        let [height, width] = smart_resize(size, factor, [self.section.min_pixels, self.section.max_pixels])?;
        let (tokens, merge) = ([height / factor, width / factor], self.section.merge_size);
        let longest = tokens[0].max(tokens[1]) * merge;
        let most = Section::MOST_SIDE;
        if longest > most {
            let reason = format!("expected at most {most} patches on a side, found {longest}");
            return Err(ImageError::Shape { width: size[0], height: size[1], reason });
        }
        Ok(Grid { tokens, merge })
    }

    /// Numbers of every patch: channels, frames, rows and columns of pixels.
    fn pixel_values(&self, image: &[u8], grid: Grid) -> Result<Tensor, ImageError> {
        let Section { patch_size: side, temporal_patch_size: frames, .. } = self.section;
        let across = grid.tokens[1] * grid.merge * side;
        let numbers = 3 * frames * side * side;
        let count = grid.rows() * grid.merge * grid.merge;
        let mut values = try_zeroed::<f32>(count * numbers).map_err(|error| ImageError::no_memory(&error))?;
        for (patch, [row, column]) in values.chunks_exact_mut(numbers).zip(grid.patches()) {
            for (plane, values) in patch.chunks_exact_mut(side * side).enumerate() {
                let channel = plane / frames;
                let table = &self.tables[channel];
                for (y, line) in values.chunks_exact_mut(side).enumerate() {
                    let start = ((row * side + y) * across + column * side) * 3 + channel;
                    for (value, byte) in line.iter_mut().zip(image[start..].iter().step_by(3)) {
                        *value = table[usize::from(*byte)];
                    }
                }
            }
        }
        Tensor::from_vec(&[count, numbers], values).map_err(|error| ImageError::no_memory(&error))
    }

    /// Where every patch stands, \[2, patches\].
    fn coordinates(&self, grid: Grid) -> Result<Tensor, ImageError> {
        let axis = |axis: usize| grid.patches().map(move |place| place[axis] as i64);
        let values: Vec<i64> = axis(0).chain(axis(1)).collect();
        Tensor::from_vec(&[2, values.len() / 2], values).map_err(|error| ImageError::no_memory(&error))
    }

    /// The rows of the table of positions that are blended for every patch, and how much of each,
    /// \[patches, 4\]: as `torch.nn.functional.interpolate` does with aligned corners.
    fn blend(&self, grid: Grid, side: usize) -> Result<[(&'static str, Tensor); 2], ImageError> {
        let taps = |count: usize| (0..count).map(|at| taps(at, count, side)).collect::<Vec<_>>();
        let [down, across] = grid.tokens.map(|tokens| taps(tokens * grid.merge));
        let (mut rows, mut weights) = (Vec::new(), Vec::new());
        for [row, column] in grid.patches() {
            for (y, share) in down[row] {
                for (x, other) in across[column] {
                    rows.push((y * side + x) as i64);
                    weights.push(share * other);
                }
            }
        }
        let shape = [rows.len() / CORNERS, CORNERS];
        let rows = Tensor::from_vec(&shape, rows).map_err(|error| ImageError::no_memory(&error))?;
        let weights = Tensor::from_vec(&shape, weights).map_err(|error| ImageError::no_memory(&error))?;
        Ok([(tensor::TABLE_ROWS, rows), (tensor::TABLE_WEIGHTS, weights)])
    }
}

impl Processor for Patches {
    fn plan(&self, size: [u32; 2], _: Grant) -> Result<ImagePlan, ImageError> {
        Ok(ImagePlan::rows(self.grid(size)?.rows()))
    }

    fn pixels(&self, image: &DecodedImage) -> Result<Pixels, ImageError> {
        let (width, height) = image.pixels.dimensions();
        let grid = self.grid([width, height])?;
        let [down, across] = grid.tokens.map(|tokens| tokens * self.section.factor());
        let resized = brought_to(&image.pixels, across, down, self.section.resampling)?;
        let mut tensors = vec![
            (tensor::PIXEL_VALUES, self.pixel_values(&resized, grid)?),
            (tensor::COORDINATES, self.coordinates(grid)?),
        ];
        if let Some(side) = self.section.table_side {
            tensors.extend(self.blend(grid, side)?);
        }
        if let Some(side) = self.section.window {
            tensors.extend(windows(grid, side)?);
        }
        Ok(Pixels { tensors, original: [width, height] })
    }

    fn extremes(&self, context: usize) -> [[u32; 2]; 2] {
        let factor = self.section.factor() as u64;
        let most = self.section.max_pixels / (factor * factor);
        let side = most.min(context as u64).isqrt().max(1) * factor;
        let side = u32::try_from(side).unwrap_or(u32::MAX);
        [[1, 1], [side, side]]
    }

    fn identity(&self) -> String {
        format!("{:?}", self.section)
    }
}

/// The encoder, and what its rows are.
struct Tower {
    encoder: Step,
    /// Width of a row.
    width: usize,
    /// Levels of rows for the decoder's first layers.
    levels: usize,
    patches: Patches,
}

impl Tower {
    /// The grid of a picture that was encoded.
    fn grid(&self, original: [u32; 2]) -> Grid {
        self.patches.grid(original).unwrap_or(Grid { tokens: [0, 0], merge: 1 })
    }
}

impl VisionModel for Tower {
    fn reads_question(&self) -> bool {
        false
    }

    fn encode(&mut self, pixels: &Pixels, stages: &mut Stages<'_>) -> Result<Features, LibraryError> {
        let rows = self.grid(pixels.original).rows();
        let inputs: Vec<_> = pixels.tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
        let mut outputs = self.encoder.run(&inputs, stages)?;
        let mut tensors = vec![outputs.take_shaped(tensor::VISUAL_ROWS, &[rows, self.width])?];
        if self.levels > 0 {
            tensors.push(outputs.take_shaped(tensor::DEEP_ROWS, &[self.levels, rows, self.width])?);
        }
        Ok(Features { tensors, original: pixels.original })
    }

    fn embed(
        &mut self,
        features: &Features,
        _: &Ask<'_>,
        _: &mut Stages<'_>,
    ) -> Result<Visual, LibraryError> {
        let (rows, deep) = match features.tensors.as_slice() {
            [rows] => (rows, None),
            [rows, deep] => (rows, Some(deep.clone())),
            _ => unreachable!("`encode` makes one tensor or two"),
        };
        let count = rows.shape()[0];
        let rows = rows.reshaped(&[1, count, self.width])?;
        let places = places(self.grid(features.original), features.original);
        let receipt = Receipt { tokens: count, image_size: features.original, allocation: None, places };
        // One run, the whole picture: an array of one range is meant.
        #[allow(clippy::single_range_in_vec_init)]
        let runs = vec![0..count];
        Ok(Visual { deep, ..Visual::new(rows, runs, receipt) })
    }

    /// All tokens of a picture have the time at which it begins; text goes on behind its longer side.
    fn positions(&self, visual: &Visual) -> Option<Vec<Positions>> {
        let grid = self.grid(visual.receipt.image_size);
        let each = grid.cells().map(|[row, column]| [0, row, column]).collect();
        Some(vec![Positions { each, next: grid.tokens[0].max(grid.tokens[1]) }])
    }
}

/// The patches of every window of `side` by `side` visual tokens, in row-major order of the windows: which
/// patch sits in a slot, which slots are empty, both \[windows, slots\], and the slot of every patch
/// \[patches\].
fn windows(grid: Grid, side: usize) -> Result<[(&'static str, Tensor); 3], ImageError> {
    let merged = grid.merge * grid.merge;
    let [down, across] = grid.tokens.map(|tokens| tokens.div_ceil(side));
    let shape = [down * across, side * side * merged];
    let (mut slots, mut mask) = (vec![0; shape[0] * shape[1]], vec![MASKED; shape[0] * shape[1]]);
    let mut places = Vec::with_capacity(grid.rows() * merged);
    for [row, column] in grid.cells() {
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
fn places(grid: Grid, original: [u32; 2]) -> Vec<Place> {
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
        gist: false,
        score: None,
    };
    grid.cells().map(place).collect()
}

/// The two entries of a table of `side` between which place `at` of `count` falls, and their shares.
fn taps(at: usize, count: usize, side: usize) -> [(usize, f32); 2] {
    let source = at as f32 * (side - 1) as f32 / count.saturating_sub(1).max(1) as f32;
    let low = source.floor();
    [0.0, 1.0].map(|offset| {
        let share = (1.0 - (source - low - offset).abs()).max(0.0);
        (((low + offset) as usize).min(side - 1), share)
    })
}

/// Height and width that a picture of `size` (width, height) is brought to: multiples of `factor`, with an
/// area between the two numbers of pixels where that is possible (`smart_resize` of transformers).
fn smart_resize(size: [u32; 2], factor: usize, [least, most]: [u64; 2]) -> Result<[usize; 2], ImageError> {
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
    fn no_picture_has_more_rows_or_windows_than_was_planned() {
        let scale = arrcoc_bundle::processors::PixelScale { factor: None, normalise: None };
        let resampling = arrcoc_bundle::processors::Resampling::Bicubic;
        for (patch_size, min_pixels, max_pixels) in
            [(14, 15_680_001, 15_680_001), (16, 65_536, 16_777_216), (8, 1, 40_000), (14, 3136, 12_845_056)]
        {
            let (merge_size, window) = (2, Some(4));
            let section = Section {
                patch_size,
                temporal_patch_size: 2,
                merge_size,
                min_pixels,
                max_pixels,
                resampling,
                scale,
                table_side: None,
                window,
            };
            let patches = Patches { tables: [[0.0; 256]; 3], section: section.clone() };
            let sides = [1, 2, 3, 7, 50, 199, 200, 333, 1000, 4000, 9999];
            for size in sides.iter().flat_map(|&width| sides.map(|height| [width, height])) {
                let Ok(grid) = patches.grid(size) else { continue };
                assert!(grid.rows() <= section.most_rows(), "{section:?} {size:?}: {grid:?}");
                let [(_, slots), ..] = windows(grid, 4).unwrap();
                assert!(slots.shape()[0] <= section.most_windows(grid.rows()), "{size:?}: {grid:?}");
            }
        }
    }

    #[test]
    fn patches_come_square_by_square() {
        let grid = Grid { tokens: [1, 2], merge: 2 };
        let expected = [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2], [0, 3], [1, 2], [1, 3]];
        assert_eq!(grid.patches().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn windows_at_the_border_have_empty_slots() {
        let grid = Grid { tokens: [1, 3], merge: 1 };
        let [(_, slots), (_, mask), (_, places)] = windows(grid, 2).unwrap();
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
