//! The vision side of an offline model: pictures at any size, encoded once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ndarray::{Array2, ArrayView2};
use sha2::{Digest as _, Sha256};

use crate::arms::grid::Neck;
use crate::arms::{Positions, Region};
use crate::times::StageTimes;
use arrcoc_bundle::Bundle;
use arrcoc_bundle::processors::ArrCocOvis;
use arrcoc_runtime::cache::{ByteLru, Key};
use arrcoc_runtime::error::LoadError;
use arrcoc_runtime::generate::NoObserver;
use arrcoc_runtime::image::{DecodedImage, PixelValues};
use arrcoc_runtime::library::{Library, LibraryError};
use arrcoc_runtime::tensor::Tensor;
use arrcoc_runtime::vision::families::arr_coc_ovis::patch_grid::PatchGrid;
use arrcoc_runtime::vision::families::arr_coc_ovis::pipeline::{
    self, Allocation, Pipeline, Selection, Tokens, mask_padding,
};
use arrcoc_runtime::vision::families::arr_coc_ovis::preprocess::Preprocess;
use arrcoc_runtime::vision::families::arr_coc_ovis::{last_rows, longest_query};
use arrcoc_runtime::vision::stages::Stages;

/// The vision graphs, and what they made of the last pictures.
pub(super) struct VisionRunner {
    pub(super) spec: ArrCocOvis,
    pub(super) neck: Neck,
    /// Encoder input, pixels.
    pub(super) size: usize,
    pipeline: Pipeline,
    /// Longest question that the allocator takes, tokens.
    max_query: usize,
    /// Width of a question's embeddings, H.
    query_width: usize,
    preprocess: HashMap<usize, Preprocess>,
    encoded: ByteLru<EncodedImage>,
    /// Per picture: the patches as the decoder sees them, `[P, H]`, and how long that took.
    patch_embeds: ByteLru<(Arc<Array2<f32>>, Duration)>,
}

/// A picture, encoded.
#[derive(Clone)]
pub(super) struct EncodedImage {
    /// `[1, P, C]`.
    pub(super) features: Tensor,
    /// The encoder, when it ran for this picture at this size.
    pub(super) times: StageTimes,
    pub(super) pixels: Arc<PixelValues>,
    pub(super) layout: PatchGrid,
}

impl EncodedImage {
    /// The part of the grid that holds the picture.
    pub(super) fn region(&self) -> Region {
        let valid = self.layout.valid_region(self.pixels.resized);
        Region { side: self.layout.side(), columns: valid.columns, rows: valid.rows }
    }

    fn bytes(&self) -> usize {
        self.features.bytes().len() + self.pixels.tensor.bytes().len()
    }
}

/// Tokens, and the time of the graphs behind the choice.
pub(super) struct Made {
    pub(super) tokens: Tokens,
    pub(super) times: StageTimes,
}

impl VisionRunner {
    pub(super) fn load(
        bundle: &Bundle,
        runtime: &dyn Library,
        size: usize,
        cache_bytes: usize,
    ) -> Result<Self, LoadError> {
        let spec: ArrCocOvis = bundle.manifest().processor()?;
        Ok(Self {
            neck: Neck::mean(spec.feature_size),
            spec,
            size,
            pipeline: Pipeline::load(bundle, runtime)?,
            max_query: longest_query(bundle),
            query_width: bundle.manifest().decoder.hidden_size,
            preprocess: HashMap::new(),
            encoded: ByteLru::new(cache_bytes),
            patch_embeds: ByteLru::new(cache_bytes),
        })
    }

    /// Encodes a picture at a size, or remembers it. Requests may have the bundle's sizes only; here any
    /// multiple of the patch will do, since the encoder's axes are dynamic.
    pub(super) fn encode(&mut self, image: &DecodedImage, size: usize) -> Result<EncodedImage, LibraryError> {
        let key = picture_key(image.sha256, size);
        if let Some(encoded) = self.encoded.get(&key) {
            return Ok(encoded);
        }
        let preprocess = self
            .preprocess
            .entry(size)
            .or_insert_with(|| Preprocess::new(size, self.spec.image_mean, self.spec.image_std));
        let pixels = preprocess.apply(image).map_err(|error| LibraryError::Run {
            graph: pipeline::ENCODER.to_owned(),
            reason: error.to_string(),
        })?;
        let mut stages = Stages::new(&NoObserver);
        let features = self.pipeline.encode(&pixels.tensor, &mut stages)?;
        let encoded = EncodedImage {
            features,
            times: stage_times(stages),
            pixels: Arc::new(pixels),
            layout: PatchGrid::new(size / self.spec.patch_size, self.spec.patch_size, self.spec.gist_grid),
        };
        self.encoded.insert(key, encoded.clone(), encoded.bytes());
        Ok(encoded)
    }

    /// Asks the allocator; with no question at all, one token of zeros. (A mask that leaves out everything
    /// would leave nothing to attend to: every match would be the mask's own value.)
    pub(super) fn allocate(
        &mut self,
        features: &Tensor,
        query: Option<&Tensor>,
    ) -> Result<(Allocation, Duration), LibraryError> {
        let query = match query {
            Some(query) => last_rows(query, self.max_query)?,
            None => Tensor::from_vec(&[1, 1, self.query_width], vec![0.0f32; self.query_width])?,
        };
        let mut stages = Stages::new(&NoObserver);
        let allocation = self.pipeline.allocate(features, &query, &mut stages)?;
        Ok((allocation, total(stages)))
    }

    /// Compresses, refines and adapts.
    pub(super) fn tokens(
        &mut self,
        selection: &Selection<'_>,
        positions: Positions,
    ) -> Result<Made, LibraryError> {
        let repacked = match positions {
            Positions::Original => None,
            Positions::Repacked => {
                let tokens = selection.tokens;
                Some(Tensor::from_vec(&[1, tokens, 2], Positions::repacked(tokens))?)
            }
        };
        let selection = &Selection { positions: repacked.as_ref(), ..*selection };
        let mut stages = Stages::new(&NoObserver);
        let tokens = self.pipeline.tokens(selection, &mut stages)?;
        Ok(Made { tokens, times: stage_times(stages) })
    }

    /// The grid's features, `[1, n * n, C]`.
    pub(super) fn grid(&self, encoded: &EncodedImage, n: usize) -> Result<Tensor, LibraryError> {
        let features = self.neck.apply(matrix(&encoded.features)?.view(), n);
        let shape = [1, n * n, features.ncols()];
        Ok(Tensor::from_vec(&shape, features.into_raw_vec_and_offset().0)?)
    }

    /// Every patch as the decoder would see it, `[P, H]`: a pass in which all are tokens. Where the
    /// compressor takes fewer than there are, several passes, each with patches from all over the picture;
    /// all patches have the same relevance but for a hair, which decides whose pass it is.
    pub(super) fn all_patch_embeds(
        &mut self,
        encoded: &EncodedImage,
        most: usize,
        tier: impl Fn(usize) -> usize,
    ) -> Result<(Arc<Array2<f32>>, Duration), LibraryError> {
        const HAIR: f32 = 1e-4;
        let key = picture_key(encoded.pixels.sha256, encoded.layout.side());
        if let Some(all_patch_embeds) = self.patch_embeds.get(&key) {
            return Ok(all_patch_embeds);
        }
        let started = Instant::now();
        let (patches, cells) = (encoded.layout.patches(), encoded.layout.cells());
        let passes = patches.div_ceil(most);
        let mut rows: Option<Array2<f32>> = None;
        for pass in 0..passes {
            let mine = |patch: usize| patch % passes == pass;
            let relevance = (0..patches).map(|patch| if mine(patch) { 0.5 } else { 0.5 - HAIR }).collect();
            let relevance = Tensor::from_vec(&[1, patches], relevance)?;
            let tokens = (0..patches).filter(|&patch| mine(patch)).count() + cells;
            let selection = Selection {
                image_features: &encoded.features,
                relevance: &relevance,
                tokens,
                tier: tier(tokens),
                positions: None,
            };
            let made = self.tokens(&selection, Positions::Original)?.tokens;
            let width = made.embeds.shape().last().copied().unwrap_or(0);
            let rows = rows.get_or_insert_with(|| Array2::zeros((patches, width)));
            let embeds = made.embeds.as_slice::<f32>()?.chunks_exact(width.max(1));
            for (&index, embed) in made.indices.as_slice::<i64>()?.iter().zip(embeds) {
                if let Some(mut row) = usize::try_from(index)
                    .ok()
                    .filter(|&patch| patch < patches)
                    .map(|patch| rows.row_mut(patch))
                {
                    row.iter_mut().zip(embed).for_each(|(to, from)| *to = *from);
                }
            }
        }
        let rows = Arc::new(rows.unwrap_or_default());
        let all_patch_embeds = (Arc::clone(&rows), started.elapsed());
        self.patch_embeds.insert(key, all_patch_embeds.clone(), rows.len() * size_of::<f32>());
        Ok(all_patch_embeds)
    }
}

/// Relevances as the compressor takes them.
pub(super) fn masked(relevance: Vec<f32>, encoded: &EncodedImage) -> Result<Tensor, LibraryError> {
    let relevance = Tensor::from_vec(&[1, relevance.len()], relevance)?;
    mask_padding(&relevance, &encoded.layout, encoded.pixels.resized)
}

/// `[1, rows, width]` as a matrix.
pub(super) fn matrix(tensor: &Tensor) -> Result<Array2<f32>, LibraryError> {
    let width = tensor.shape().last().copied().unwrap_or(0).max(1);
    let values = tensor.as_slice::<f32>()?;
    let view = ArrayView2::from_shape((values.len() / width, width), values);
    Ok(view.expect("a tensor's length is a multiple of its width").to_owned())
}

fn total(stages: Stages<'_>) -> Duration {
    stages.into_ran().iter().map(|(_, took)| *took).sum()
}

fn stage_times(stages: Stages<'_>) -> StageTimes {
    let mut times = StageTimes::default();
    stages.into_ran().iter().for_each(|(stage, took)| times.add(stage.name(), *took));
    times
}

fn picture_key(sha256: [u8; 32], size: usize) -> Key {
    Sha256::new().chain_update(sha256).chain_update((size as u64).to_le_bytes()).finalize().into()
}
