//! SmolVLM and Idefics3: a picture becomes square tiles and a small view of the whole, and each of them as
//! many rows.
//!
//! Sizes, order and roundings are those of transformers' `Idefics3ImageProcessorPil` and `Idefics3Processor`
//! (5.23; <https://github.com/huggingface/transformers/tree/main/src/transformers/models/idefics3>). Its
//! padding and its masks exist for batches of several conversations only: the tiles of one are always full.

use std::ops::Range;
use std::sync::Arc;

use ::image::RgbImage;
use arrcoc_bundle::names::{axis, tensor};
use arrcoc_bundle::processors::Idefics3 as Section;
use arrcoc_bundle::{Bundle, BundleError, Manifest};

use crate::decoder::Positions;
use crate::error::LoadError;
use crate::generate::{Place, Receipt, Sizing};
use crate::image::resample::brought_to;
use crate::image::{DecodedImage, ImageError};
use crate::library::{Library, LibraryError};
use crate::tensor::{Tensor, try_zeroed};
use crate::vision::VisionOptions;
use crate::vision::blank::Levels;
use crate::vision::family::{
    Ask, Family, Features, Grant, ImagePlan, LoadedFamily, Picture, Pixels, Processor, Refusal, SIZING, Span,
    VisionModel, Visual, check_scale, field,
};
use crate::vision::stages::{Stages, Step};

/// The graph from tiles to rows.
const ENCODER: &str = "vision_encoder";

/// No side is longer before a picture is cut, pixels (`MAX_IMAGE_SIZE` of transformers).
const MOST_SIDE: usize = 4096;
/// Largest tile, pixels.
const MOST_TILE: usize = 4096;
/// Most tiles along a side.
const MOST_TILES: usize = 64;
/// Most rows along a side of a tile.
const MOST_ROWS: usize = 256;
/// How far around a tile is looked whether it is blank, pixels of the picture.
const NEAR: f32 = 16.0;
/// Longest text that frames a tile, bytes.
const MOST_TEXT: usize = 200;

/// The family.
pub(crate) struct Idefics3;

impl Family for Idefics3 {
    fn names(&self) -> &'static [&'static str] {
        &["idefics3", "smolvlm"]
    }

    fn check(&self, manifest: &Manifest) -> Result<(), BundleError> {
        if !manifest.graphs.contains_key(ENCODER) {
            return Err(BundleError::NoGraph { name: ENCODER.to_owned() });
        }
        let Section { tile, rows_per_side, longest_edge, scale, frame, whole, .. } = manifest.processor()?;
        field("tile", "1 to 4096 pixels", (1..=MOST_TILE).contains(&tile), tile)?;
        field("rows_per_side", "1 to 256", (1..=MOST_ROWS).contains(&rows_per_side), rows_per_side)?;
        let edge = longest_edge.unwrap_or(1);
        let few = edge > 0 && edge.min(MOST_SIDE).div_ceil(tile) <= MOST_TILES;
        field("longest_edge", &format!("at most {MOST_TILES} tiles of {tile} pixels"), few, edge)?;
        check_scale(&scale)?;
        let short = frame.len().max(whole.len()) <= MOST_TEXT;
        field("frame", "texts of at most 200 bytes", short, frame.len().max(whole.len()))
    }

    fn longest(&self, manifest: &Manifest, _: &VisionOptions, _: usize) -> Vec<(&'static str, u64)> {
        let Ok(section) = manifest.processor::<Section>() else { return Vec::new() };
        let range = manifest.graphs.get(ENCODER).and_then(|graph| graph.axes.get(axis::TILES));
        let tiles = range.map_or(1, |range| range.max);
        let rows = tiles.saturating_mul((section.rows_per_side as u64).saturating_pow(2));
        vec![(axis::TILES, tiles), (axis::ROWS, rows)]
    }

    fn load(
        &self,
        bundle: &Bundle,
        library: &dyn Library,
        _: &VisionOptions,
    ) -> Result<LoadedFamily, LoadError> {
        let section: Section = bundle.manifest().processor()?;
        let at_once = bundle.axis(ENCODER, axis::TILES).map_or(1, |range| range.max.max(1) as usize);
        let width = bundle.manifest().decoder.hidden_size;
        let encoder = Step::load(bundle, library, ENCODER)?;
        let tiles = Tiles { tables: section.scale.tables(), section };
        let model = Tiled { encoder, at_once, width, tiles: tiles.clone() };
        Ok(LoadedFamily { processor: Arc::new(tiles), model: Box::new(model) })
    }
}

/// How a picture is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    /// Width and height before it is cut, pixels.
    size: [usize; 2],
    /// Rows and columns of tiles; none where the view of the whole is all there is.
    grid: Option<[usize; 2]>,
}

#[derive(Clone)]
struct Tiles {
    section: Section,
    /// What each byte becomes, per channel.
    tables: [[f32; 256]; 3],
}

impl Tiles {
    /// The sizes that a picture goes through: brought to the longest edge, then to whole tiles.
    fn sizes(&self, Picture { size, sizing }: Picture) -> ([usize; 2], Cut) {
        let Section { tile, longest_edge, split, .. } = self.section;
        let picture = size.map(|side| side as usize);
        let longest_edge = sizing.longest_edge.map(|edge| edge as usize).or(longest_edge);
        let coarse = sizing.coarse && sizing.longest_edge.is_none();
        let split = sizing.do_image_splitting.unwrap_or(split && !coarse);
        let first = longest_edge.map_or(picture, |longest| to_longest_edge(picture, longest));
        if !split {
            return (first, Cut { size: [tile, tile], grid: None });
        }
        let size = to_whole_tiles(first, tile);
        let [width, height] = size;
        let cut = width > tile || height > tile;
        (first, Cut { size, grid: cut.then(|| [height / tile, width / tile]) })
    }

    /// The tiles of a picture, row by row, and the view of the whole, as squares of bytes.
    fn cut(&self, image: &RgbImage, picture: Picture) -> Result<Vec<RgbImage>, ImageError> {
        let Section { tile, .. } = self.section;
        let (first, cut) = self.sizes(picture);
        let resized = self.resize(image, first)?;
        let resized = self.resize(&resized, cut.size)?;
        let Some([rows, columns]) = cut.grid else { return Ok(vec![resized]) };
        let mut tiles = Vec::with_capacity(rows * columns + 1);
        for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
            let (x, y, side) = ((column * tile) as u32, (row * tile) as u32, tile as u32);
            tiles.push(::image::imageops::crop_imm(&resized, x, y, side, side).to_image());
        }
        tiles.push(self.resize(&resized, [tile, tile])?);
        Ok(tiles)
    }

    fn resize(&self, image: &RgbImage, [width, height]: [usize; 2]) -> Result<RgbImage, ImageError> {
        let pixels = brought_to(image, width, height, self.section.resampling)?;
        Ok(RgbImage::from_raw(width as u32, height as u32, pixels).unwrap_or_default())
    }

    /// Rows of a tile.
    fn rows(&self) -> usize {
        self.section.rows_per_side.pow(2)
    }

    /// Which rows are to be encoded where blank tiles are not; the view of the whole is.
    fn not_blank(&self, image: &RgbImage, picture: Picture) -> Vec<bool> {
        let (_, cut) = self.sizes(picture);
        let places = self.places(picture);
        let tiles = places.chunks(self.rows());
        let last = tiles.len().saturating_sub(1);
        let seen = |(at, tile): (usize, &[Place])| {
            let (first, end) = (tile[0].rect, tile[tile.len() - 1].rect);
            let whole = at == last || cut.grid.is_none();
            let [left, top, right, bottom] = [first[0], first[1], end[2], end[3]];
            let around = [left - NEAR, top - NEAR, right + NEAR, bottom + NEAR];
            whole || !Levels::of(image, around).are_plain()
        };
        tiles.enumerate().flat_map(|(at, tile)| vec![seen((at, tile)); tile.len()]).collect()
    }

    /// Where every row looks.
    fn places(&self, picture: Picture) -> Vec<Place> {
        let (original, (_, cut)) = (picture.size, self.sizes(picture));
        let [rows, columns] = cut.grid.unwrap_or([0, 0]);
        let whole = [0.0, 0.0, original[0] as f32, original[1] as f32];
        let part = |row: usize, column: usize| {
            let edge = |at: usize, of: usize, side: u32| at as f32 / of as f32 * side as f32;
            [
                edge(column, columns, original[0]),
                edge(row, rows, original[1]),
                edge(column + 1, columns, original[0]),
                edge(row + 1, rows, original[1]),
            ]
        };
        let tiles = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
        let mut places = Vec::new();
        for (index, (row, column)) in tiles.enumerate() {
            self.cells(index, part(row, column), false, &mut places);
        }
        self.cells(rows * columns, whole, cut.grid.is_some(), &mut places);
        places
    }

    /// The cells of one tile.
    fn cells(&self, tile: usize, [left, top, right, bottom]: [f32; 4], gist: bool, places: &mut Vec<Place>) {
        let side = self.section.rows_per_side;
        let at = |from: f32, to: f32, cell: usize| from + (to - from) * cell as f32 / side as f32;
        for (row, column) in (0..side).flat_map(|row| (0..side).map(move |column| (row, column))) {
            places.push(Place {
                rect: [
                    at(left, right, column),
                    at(top, bottom, row),
                    at(left, right, column + 1),
                    at(top, bottom, row + 1),
                ],
                cell: [tile as u32, row as u32, column as u32],
                gist,
                ..Place::default()
            });
        }
    }
}

impl Processor for Tiles {
    fn check(&self, sizing: &Sizing) -> Result<(), Refusal> {
        let Sizing { longest_edge, do_image_splitting, .. } = *sizing;
        let others = Sizing { longest_edge: None, do_image_splitting: None, ..*sizing };
        if let Some(name) = others.set() {
            let expected = "`size.longest_edge` or `do_image_splitting`".to_owned();
            return Err(Refusal { field: SIZING, expected, found: format!("`{name}`") });
        }
        let own = self.section.longest_edge.unwrap_or(MOST_SIDE);
        if let Some(edge) = longest_edge.filter(|edge| !(1..=own as u64).contains(edge)) {
            let expected = format!("`size.longest_edge` from 1 to {own}, the checkpoint's own");
            return Err(Refusal { field: SIZING, expected, found: edge.to_string() });
        }
        if do_image_splitting == Some(true) && !self.section.split {
            let expected = "no `do_image_splitting`: this model was not trained on tiles".to_owned();
            return Err(Refusal { field: SIZING, expected, found: "true".to_owned() });
        }
        Ok(())
    }

    fn plan(&self, picture: Picture, _: Grant) -> Result<ImagePlan, ImageError> {
        let (_, cut) = self.sizes(picture);
        let (Section { frame, whole, .. }, rows) = (&self.section, self.rows());
        let (mut spans, mut text) = (Vec::new(), String::new());
        if let Some([tile_rows, columns]) = cut.grid {
            for row in 1..=tile_rows {
                for column in 1..=columns {
                    text += &format!("{frame}<row_{row}_col_{column}>");
                    spans.extend([Span::Text(std::mem::take(&mut text)), Span::Rows(rows)]);
                }
                text.push('\n');
            }
            text.push('\n');
        }
        text += &format!("{frame}{whole}");
        spans.extend([Span::Text(text), Span::Rows(rows), Span::Text(frame.clone())]);
        Ok(ImagePlan::new(spans))
    }

    fn pixels(&self, image: &DecodedImage, sizing: Sizing) -> Result<Pixels, ImageError> {
        let picture = Picture { size: image.pixels.dimensions().into(), sizing };
        let (mut tiles, side) = (self.cut(&image.pixels, picture)?, self.section.tile);
        let seen = sizing.skip_blank.then(|| self.not_blank(&image.pixels, picture));
        if let Some(seen) = &seen {
            // Of a tile all rows are seen, or none.
            let mut rows = seen.chunks(self.rows());
            tiles.retain(|_| rows.next().is_none_or(|rows| rows.contains(&true)));
        }
        let shape = [tiles.len(), 3, side, side];
        let mut values =
            try_zeroed::<f32>(shape.iter().product()).map_err(|error| ImageError::no_memory(&error))?;
        let planes = values.chunks_exact_mut(side * side);
        for (at, plane) in planes.enumerate() {
            let (tile, channel) = (&tiles[at / 3], at % 3);
            let table = &self.tables[channel];
            for (value, pixel) in plane.iter_mut().zip(tile.as_raw().chunks_exact(3)) {
                *value = table[usize::from(pixel[channel])];
            }
        }
        let tensor = Tensor::from_vec(&shape, values).map_err(|error| ImageError::no_memory(&error))?;
        Ok(Pixels { tensors: vec![(tensor::PIXEL_VALUES, tensor)], picture, seen: seen.map(Into::into) })
    }

    /// A long picture makes the fewest tiles.
    fn extremes(&self, _: usize) -> [[u32; 2]; 2] {
        [[64, 16], [64, 64]]
    }

    fn geometry(&self, picture: Picture) -> String {
        format!("{:?}", self.sizes(picture))
    }

    fn identity(&self) -> String {
        format!("{:?}", self.section)
    }
}

/// The encoder, and what its rows are.
struct Tiled {
    encoder: Step,
    /// Tiles that run together.
    at_once: usize,
    /// Width of a row.
    width: usize,
    tiles: Tiles,
}

impl VisionModel for Tiled {
    fn reads_question(&self) -> bool {
        false
    }

    fn encode(&mut self, pixels: &Pixels, stages: &mut Stages<'_>) -> Result<Features, LibraryError> {
        let [(name, tiles)] = pixels.tensors.as_slice() else { unreachable!("`Tiles` makes one tensor") };
        let count = tiles.shape()[0];
        let mut rows = Vec::new();
        for start in (0..count).step_by(self.at_once) {
            let end = count.min(start + self.at_once);
            let part = tiles.part(start..end)?;
            let expected = [(end - start) * self.tiles.rows(), self.width];
            let mut outputs = self.encoder.run(&[(name, &part)], stages)?;
            let found = outputs.take_shaped(tensor::VISUAL_ROWS, &expected)?;
            if (start, end) == (0, count) {
                return Ok(Features {
                    tensors: vec![found],
                    picture: pixels.picture,
                    seen: pixels.seen.clone(),
                });
            }
            rows.extend_from_slice(found.as_slice::<f32>()?);
        }
        let tensor = Tensor::from_vec(&[count * self.tiles.rows(), self.width], rows)?;
        Ok(Features { tensors: vec![tensor], picture: pixels.picture, seen: pixels.seen.clone() })
    }

    fn embed(
        &mut self,
        features: &Features,
        _: &Ask<'_>,
        _: &mut Stages<'_>,
    ) -> Result<Visual, LibraryError> {
        let [rows] = features.tensors.as_slice() else { unreachable!("`encode` makes one tensor") };
        let (count, each) = (rows.shape()[0], self.tiles.rows());
        let rows = rows.reshaped(&[1, count, self.width])?;
        let (seen, dropped) = features.parted(self.tiles.places(features.picture));
        let mut runs = Vec::new();
        let mut start = 0;
        for tile in 0..(seen.len() + dropped.len()) / each {
            let end = if features.sees(tile * each) { start + each } else { start };
            runs.push(start..end);
            start = end;
        }
        let receipt = Receipt { dropped, ..Receipt::of_all(features.picture.size, seen) };
        Ok(Visual::new(rows, runs, receipt))
    }

    /// Rows are counted as text is. A tile that was left out takes its room all the same.
    fn positions(&self, features: &Features, visual: &Visual) -> Option<Vec<Positions>> {
        features.seen.as_ref()?;
        let run = |run: &Range<usize>| Positions {
            each: (0..run.len()).map(|at| [at; 3]).collect(),
            next: self.tiles.rows(),
        };
        Some(visual.runs.iter().map(run).collect())
    }
}

/// The longer side becomes `longest`, the other follows and is made even; neither is more than [`MOST_SIDE`].
fn to_longest_edge([width, height]: [usize; 2], longest: usize) -> [usize; 2] {
    let aspect = width as f64 / height as f64;
    let even = |side: usize| side + side % 2;
    let [width, height] = if width >= height {
        [longest, even((longest as f64 / aspect) as usize)]
    } else {
        [even((longest as f64 * aspect) as usize), longest]
    };
    let [width, height] = [width.max(1), height.max(1)];
    let aspect = width as f64 / height as f64;
    let [width, height] = if width >= height && width > MOST_SIDE {
        [MOST_SIDE, (MOST_SIDE as f64 / aspect) as usize]
    } else if height > width && height > MOST_SIDE {
        [(MOST_SIDE as f64 * aspect) as usize, MOST_SIDE]
    } else {
        [width, height]
    };
    [width.max(1), height.max(1)]
}

/// Both sides up to whole tiles, the longer one first.
fn to_whole_tiles([width, height]: [usize; 2], tile: usize) -> [usize; 2] {
    let aspect = width as f64 / height as f64;
    let whole = |side: usize| side.div_ceil(tile) * tile;
    if width >= height {
        let width = whole(width);
        [width, whole((width as f64 / aspect) as usize)]
    } else {
        let height = whole(height);
        [whole((height as f64 * aspect) as usize), height]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_transformers() {
        // Sizes after the first and the second step of transformers' own functions.
        let cases = [
            ([1, 1], 112, 56, [112, 112], [112, 112]),
            ([2000, 300], 112, 56, [112, 16], [112, 56]),
            ([5, 109], 96, 48, [4, 96], [48, 96]),
            ([333, 1024], 2048, 512, [666, 2048], [1024, 2048]),
            ([1536, 1152], 2048, 512, [2048, 1536], [2048, 1536]),
        ];
        for (picture, longest, tile, first, second) in cases {
            let found = to_longest_edge(picture, longest);
            assert_eq!((found, to_whole_tiles(found, tile)), (first, second), "{picture:?}");
        }
    }
}
