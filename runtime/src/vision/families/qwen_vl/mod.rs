//! Qwen's models with vision: a picture keeps its shape, and as many rows as it has squares of patches.
//!
//! Sizes, order and roundings are those of transformers' `Qwen2VLImageProcessorPil` (5.23;
//! <https://github.com/huggingface/transformers/tree/main/src/transformers/models/qwen2_vl>), places and
//! weights in the table of positions those of its `vision_utils.py`.

use std::sync::Arc;

use ::image::RgbImage;
use arrcoc_bundle::names::{axis, tensor};
use arrcoc_bundle::processors::QwenVl as Section;
use arrcoc_bundle::{Bundle, BundleError, Manifest};

use crate::decoder::Positions;
use crate::error::LoadError;
use crate::generate::{Receipt, Sizing};
use crate::image::resample::brought_to;
use crate::image::{DecodedImage, ImageError};
use crate::library::{Library, LibraryError};
use crate::tensor::{Tensor, try_zeroed};
use crate::vision::VisionOptions;
use crate::vision::blank::{self, Levels};
use crate::vision::family::{
    Ask, Family, Features, Grant, ImagePlan, LoadedFamily, Picture, Pixels, Processor, Refusal, SIZING,
    VisionModel, Visual, check_scale, field,
};
use crate::vision::stages::{Stages, Step};

mod grid;

use grid::{Cells, Grid, places, smart_resize, taps, windows};

/// The graph from patches to rows.
const ENCODER: &str = "vision_encoder";

/// Most pixels of a picture that a coarse look is enough for, by area: a square of 512, as at OpenAI.
const COARSE: u64 = 512 * 512;

/// Rows of the table of positions that are blended for a patch.
const CORNERS: usize = 4;

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

#[derive(Clone)]
struct Patches {
    section: Section,
    /// What each byte becomes, per channel.
    tables: [[f32; 256]; 3],
}

impl Patches {
    /// Least and most pixels of a picture, by area.
    fn pixel_range(&self, sizing: Sizing) -> [u64; 2] {
        let Section { min_pixels: least, max_pixels: most, .. } = self.section;
        let coarse = if sizing.coarse { COARSE } else { u64::MAX };
        let [asked_least, asked_most] = asked(&sizing);
        [asked_least.unwrap_or(least.min(coarse)), asked_most.unwrap_or(most.min(coarse))]
    }

    /// The grid of a picture.
    fn grid(&self, Picture { size, sizing }: Picture) -> Result<Grid, ImageError> {
        let factor = self.section.factor();
        let [height, width] = smart_resize(size, factor, self.pixel_range(sizing))?;
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
    fn pixel_values(&self, image: &[u8], seen: &Cells) -> Result<Tensor, ImageError> {
        let Section { patch_size: side, temporal_patch_size: frames, .. } = self.section;
        let across = seen.grid.tokens[1] * seen.grid.merge * side;
        let numbers = 3 * frames * side * side;
        let count = seen.rows() * seen.grid.merge * seen.grid.merge;
        let mut values = try_zeroed::<f32>(count * numbers).map_err(|error| ImageError::no_memory(&error))?;
        for (patch, [row, column]) in values.chunks_exact_mut(numbers).zip(seen.patches()) {
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
    fn coordinates(&self, seen: &Cells) -> Result<Tensor, ImageError> {
        let axis = |axis: usize| seen.patches().map(move |place| place[axis] as i64);
        let values: Vec<i64> = axis(0).chain(axis(1)).collect();
        Tensor::from_vec(&[2, values.len() / 2], values).map_err(|error| ImageError::no_memory(&error))
    }

    /// The rows of the table of positions that are blended for every patch, and how much of each,
    /// \[patches, 4\]: as `torch.nn.functional.interpolate` does with aligned corners.
    fn blend(&self, seen: &Cells, side: usize) -> Result<[(&'static str, Tensor); 2], ImageError> {
        let taps = |count: usize| (0..count).map(|at| taps(at, count, side)).collect::<Vec<_>>();
        let [down, across] = seen.grid.tokens.map(|tokens| taps(tokens * seen.grid.merge));
        let (mut rows, mut weights) = (Vec::new(), Vec::new());
        for [row, column] in seen.patches() {
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
    fn check(&self, sizing: &Sizing) -> Result<(), Refusal> {
        let own = self.section.max_pixels;
        let areas = [
            ("min_pixels", sizing.min_pixels),
            ("max_pixels", sizing.max_pixels),
            ("size.shortest_edge", sizing.shortest_edge),
            ("size.longest_edge", sizing.longest_edge),
        ];
        let outside = |area: Option<u64>| area.is_some_and(|area| !(1..=own).contains(&area));
        if let Some((name, Some(area))) = areas.into_iter().find(|(_, area)| outside(*area)) {
            let expected = format!("`{name}` from 1 to {own}, the checkpoint's own limit");
            return Err(Refusal { field: SIZING, expected, found: area.to_string() });
        }
        if let [Some(least), Some(most)] = asked(sizing)
            && least > most
        {
            let expected =
                format!("a least number of pixels of at most {most}, the largest that is asked for");
            return Err(Refusal { field: SIZING, expected, found: least.to_string() });
        }
        if let Some(split) = sizing.do_image_splitting {
            let expected = "`min_pixels`, `max_pixels` or `size`: this model has no tiles".to_owned();
            return Err(Refusal { field: SIZING, expected, found: format!("`do_image_splitting`: {split}") });
        }
        Ok(())
    }

    fn plan(&self, picture: Picture, _: Grant) -> Result<ImagePlan, ImageError> {
        let grid = self.grid(picture)?;
        Ok(ImagePlan::rows(grid.rows()).advancing(grid.advance()))
    }

    fn pixels(&self, image: &DecodedImage, sizing: Sizing) -> Result<Pixels, ImageError> {
        let picture = Picture { size: image.pixels.dimensions().into(), sizing };
        let grid = self.grid(picture)?;
        let [down, across] = grid.tokens.map(|tokens| tokens * self.section.factor());
        let resized = brought_to(&image.pixels, across, down, self.section.resampling)?;
        let seen = sizing.skip_blank.then(|| not_blank(&image.pixels, grid));
        let cells = Cells::of(grid, seen.as_deref());
        let mut tensors = vec![
            (tensor::PIXEL_VALUES, self.pixel_values(&resized, &cells)?),
            (tensor::COORDINATES, self.coordinates(&cells)?),
        ];
        if let Some(side) = self.section.table_side {
            tensors.extend(self.blend(&cells, side)?);
        }
        if let Some(side) = self.section.window {
            tensors.extend(windows(&cells, side)?);
        }
        Ok(Pixels { tensors, picture, seen: seen.map(Into::into) })
    }

    fn extremes(&self, context: usize) -> [[u32; 2]; 2] {
        let factor = self.section.factor() as u64;
        let most = self.section.max_pixels / (factor * factor);
        let side = most.min(context as u64).isqrt().max(1) * factor;
        let side = u32::try_from(side).unwrap_or(u32::MAX);
        [[1, 1], [side, side]]
    }

    fn geometry(&self, picture: Picture) -> String {
        self.grid(picture).map_or_else(|_| String::new(), |grid| format!("{:?}", grid.tokens))
    }

    fn identity(&self) -> String {
        format!("{:?}", self.section)
    }
}

/// The least and the most pixels that a request asks for, by area. As in transformers, the older names
/// outrank `size`.
fn asked(sizing: &Sizing) -> [Option<u64>; 2] {
    [sizing.min_pixels.or(sizing.shortest_edge), sizing.max_pixels.or(sizing.longest_edge)]
}

/// Which visual tokens of a grid are to be encoded where blank ones are not.
fn not_blank(picture: &RgbImage, grid: Grid) -> Vec<bool> {
    let places = places(grid, picture.dimensions().into());
    let levels: Vec<Levels> = places.iter().map(|place| Levels::of(picture, place.rect)).collect();
    blank::seen(&levels, grid.tokens[1])
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
    fn grid(&self, picture: Picture) -> Grid {
        self.patches.grid(picture).unwrap_or(Grid { tokens: [0, 0], merge: 1 })
    }
}

impl VisionModel for Tower {
    fn reads_question(&self) -> bool {
        false
    }

    fn encode(&mut self, pixels: &Pixels, stages: &mut Stages<'_>) -> Result<Features, LibraryError> {
        let all = self.grid(pixels.picture).rows();
        let rows = pixels.seen.as_ref().map_or(all, |seen| seen.iter().filter(|seen| **seen).count());
        let inputs: Vec<_> = pixels.tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
        let mut outputs = self.encoder.run(&inputs, stages)?;
        let mut tensors = vec![outputs.take_shaped(tensor::VISUAL_ROWS, &[rows, self.width])?];
        if self.levels > 0 {
            tensors.push(outputs.take_shaped(tensor::DEEP_ROWS, &[self.levels, rows, self.width])?);
        }
        Ok(Features { tensors, picture: pixels.picture, seen: pixels.seen.clone() })
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
        let image_size = features.picture.size;
        let (seen, dropped) = features.parted(places(self.grid(features.picture), image_size));
        let receipt = Receipt { dropped, ..Receipt::of_all(image_size, seen) };
        // One run, the whole picture: an array of one range is meant.
        #[allow(clippy::single_range_in_vec_init)]
        let runs = vec![0..count];
        Ok(Visual { deep, ..Visual::new(rows, runs, receipt) })
    }

    /// All tokens of a picture have the time at which it begins; text goes on behind its longer side.
    fn positions(&self, features: &Features, _: &Visual) -> Option<Vec<Positions>> {
        let grid = self.grid(features.picture);
        let seen = grid.cells().enumerate().filter(|(row, _)| features.sees(*row));
        let each = seen.map(|(_, [row, column])| [0, row, column]).collect();
        Some(vec![Positions { each, next: grid.advance() }])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn patches(patch_size: usize, min_pixels: u64, max_pixels: u64, window: Option<usize>) -> Patches {
        let section = Section {
            patch_size,
            temporal_patch_size: 2,
            merge_size: 2,
            min_pixels,
            max_pixels,
            resampling: arrcoc_bundle::processors::Resampling::Bicubic,
            scale: arrcoc_bundle::processors::PixelScale { factor: None, normalise: None },
            table_side: None,
            window,
        };
        Patches { tables: [[0.0; 256]; 3], section }
    }

    #[test]
    fn no_picture_has_more_rows_or_windows_than_was_planned() {
        for (patch_size, min_pixels, max_pixels) in
            [(14, 15_680_001, 15_680_001), (16, 65_536, 16_777_216), (8, 1, 40_000), (14, 3136, 12_845_056)]
        {
            let patches = patches(patch_size, min_pixels, max_pixels, Some(4));
            let section = patches.section.clone();
            let sides = [1, 2, 3, 7, 50, 199, 200, 333, 1000, 4000, 9999];
            for size in sides.iter().flat_map(|&width| sides.map(|height| [width, height])) {
                let picture = Picture { size, sizing: Sizing::default() };
                let Ok(grid) = patches.grid(picture) else { continue };
                assert!(grid.rows() <= section.most_rows(), "{section:?} {size:?}: {grid:?}");
                let [(_, slots), ..] = windows(&grid.whole(), 4).unwrap();
                assert!(slots.shape()[0] <= section.most_windows(grid.rows()), "{size:?}: {grid:?}");
            }
        }
    }

    #[test]
    fn a_request_may_have_its_pictures_smaller() {
        let patches = patches(16, 65_536, 16_777_216, None);
        let size = |sizing: Sizing| {
            let grid = patches.grid(Picture { size: [800, 600], sizing }).unwrap();
            grid.tokens.map(|tokens| tokens * 32)
        };
        let none = Sizing::default();
        // Height and width of transformers' own function.
        assert_eq!(size(Sizing { coarse: true, ..none }), [416, 576]);
        assert_eq!(size(Sizing { max_pixels: Some(100_000), coarse: true, ..none }), [256, 352]);
        let smaller = Sizing { shortest_edge: Some(1), longest_edge: Some(50_000), ..none };
        assert_eq!(size(smaller), [192, 256]);
        let older = Sizing { max_pixels: Some(100_000), min_pixels: Some(1), ..smaller };
        assert_eq!(size(older), [256, 352], "the older names outrank `size`");
        let geometry = |sizing| patches.geometry(Picture { size: [800, 600], sizing });
        assert_eq!(geometry(older), geometry(Sizing { max_pixels: Some(100_001), ..none }));
        assert_ne!(geometry(older), geometry(none));

        for (sizing, name) in [
            (Sizing { max_pixels: Some(16_777_217), ..none }, "max_pixels"),
            (Sizing { shortest_edge: Some(0), ..none }, "size.shortest_edge"),
            (Sizing { do_image_splitting: Some(false), ..none }, "do_image_splitting"),
            (Sizing { shortest_edge: Some(50_001), ..smaller }, "at most 50000"),
        ] {
            let error = patches.check(&sizing).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        assert!(patches.check(&smaller).is_ok());
    }
}
