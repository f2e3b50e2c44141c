//! The composite ARR-COC model: one square picture, encoded once, from which an allocator takes the tokens
//! that the question needs.

use std::sync::Arc;

use arrcoc_bundle::names::{axis, tensor};
use arrcoc_bundle::processors::ArrCocOvis as Section;
use arrcoc_bundle::{Bundle, BundleError, Manifest, Statistics};

use crate::error::LoadError;
use crate::generate::{Budget, Selection, Selector, Sizing};
use crate::image::{DecodedImage, ImageError};
use crate::library::{Library, LibraryError};
use crate::tensor::Tensor;
use crate::vision::VisionOptions;
use crate::vision::family::{
    Ask, BUDGET, Family, Features, Grant, ImagePlan, LoadedFamily, Picture, Pixels, Processor, Refusal,
    VisionModel, Visual, field,
};
use crate::vision::stages::Stages;
use patch_grid::PatchGrid;
use pipeline::Pipeline;
use preprocess::{Preprocess, fitted};

pub mod patch_grid;
pub mod pipeline;
pub mod preprocess;
#[cfg(test)]
mod tests;

/// Largest side of the encoder's input, pixels.
const MOST_SIDE: usize = 1 << 14;
/// Most patches a side. Receipts, layouts and caches take memory for every patch; SAM has 64 a side.
const MOST_PATCHES: usize = 256;
/// Most input sizes.
const MOST_SIZES: usize = 64;

/// The family.
pub(crate) struct ArrCocOvis;

impl Family for ArrCocOvis {
    fn names(&self) -> &'static [&'static str] {
        &["arr_coc_ovis"]
    }

    fn check(&self, manifest: &Manifest) -> Result<(), BundleError> {
        for graph in pipeline::GRAPHS {
            if !manifest.graphs.contains_key(graph) {
                return Err(BundleError::NoGraph { name: graph.to_owned() });
            }
        }
        check_section(&manifest.processor()?, &manifest.vision.token_budgets)?;
        let Some(Statistics { .. }) = manifest.vision.embeds_target else {
            return Err(BundleError::Field {
                field: "vision.embeds_target".into(),
                expected: "the statistics that the adapter aims at".into(),
                found: "none".into(),
            });
        };
        Ok(())
    }

    fn has_image_sizes(&self) -> bool {
        true
    }

    fn longest(&self, manifest: &Manifest, options: &VisionOptions, _: usize) -> Vec<(&'static str, u64)> {
        let Ok(section) = manifest.processor::<Section>() else { return Vec::new() };
        let size = options.image_size.unwrap_or(section.native_size) as u64;
        let side = size / (section.patch_size as u64).max(1);
        let patches = side.saturating_mul(side);
        let most = manifest.vision.token_budgets.last().copied().unwrap_or_default() as u64;
        let tokens = most.min(patches.saturating_add((section.gist_grid as u64).saturating_pow(2)));
        vec![(axis::HEIGHT, size), (axis::WIDTH, size), (axis::PATCHES, patches), (axis::TOKENS, tokens)]
    }

    fn load(
        &self,
        bundle: &Bundle,
        library: &dyn Library,
        options: &VisionOptions,
    ) -> Result<LoadedFamily, LoadError> {
        let section: Section = bundle.manifest().processor()?;
        let size = image_size(&section, options.image_size)?;
        let layout = PatchGrid::new(size / section.patch_size, section.patch_size, section.gist_grid);
        let budgets = allowed_budgets(&bundle.manifest().vision.token_budgets, &layout)?;
        let processor = SquareImages {
            preprocess: Preprocess::new(size, section.image_mean, section.image_std),
            budgets: budgets.clone(),
        };
        let model = Allocated {
            pipeline: Pipeline::load(bundle, library)?,
            layout,
            size,
            budgets,
            max_query: longest_query(bundle),
        };
        Ok(LoadedFamily { processor: Arc::new(processor), model: Box::new(model) })
    }
}

/// Pictures, resized into a square.
struct SquareImages {
    preprocess: Preprocess,
    /// Budgets that an encoder input of this size has patches for, ascending.
    budgets: Vec<usize>,
}

impl Processor for SquareImages {
    fn budgets(&self) -> &[usize] {
        &self.budgets
    }

    /// The allocator chooses.
    fn selectors(&self) -> &'static [Selector] {
        &[]
    }

    fn default_budget(&self) -> Budget {
        Budget::Auto
    }

    fn grant(&self, budget: Budget, _: &Selection) -> Result<Grant, Refusal> {
        let found = match budget {
            Budget::Auto => return Ok(Grant::Auto),
            Budget::Full => {
                "`full`, which turns allocation off: the decoder was trained on allocated tokens only"
                    .to_owned()
            }
            Budget::Tokens(tokens) => match self.budgets.iter().position(|&allowed| allowed == tokens) {
                Some(tier) => return Ok(Grant::Tier(tier)),
                None => tokens.to_string(),
            },
            Budget::Share(share) => format!("the share {}", share.get()),
        };
        Err(Refusal { field: BUDGET, expected: format!("`auto` or one of {:?}", self.budgets), found })
    }

    fn plan(&self, _: Picture, grant: Grant) -> Result<ImagePlan, ImageError> {
        let most = match grant {
            Grant::Tier(tier) => self.budgets.get(tier).copied(),
            Grant::Auto | Grant::Full | Grant::Choose(_) => self.budgets.last().copied(),
        };
        Ok(ImagePlan::rows(most.unwrap_or_default()))
    }

    fn pixels(&self, image: &DecodedImage, sizing: Sizing) -> Result<Pixels, ImageError> {
        let pixels = self.preprocess.apply(image)?;
        let picture = Picture { size: pixels.original, sizing };
        Ok(Pixels { tensors: vec![(tensor::PIXEL_VALUES, pixels.tensor)], picture, seen: None })
    }

    fn identity(&self) -> String {
        format!("square {}", self.preprocess.size())
    }
}

/// The graphs, and what they do with a picture of one size.
struct Allocated {
    pipeline: Pipeline,
    layout: PatchGrid,
    /// Encoder input, pixels.
    size: usize,
    budgets: Vec<usize>,
    /// Longest question that the allocator takes, tokens.
    max_query: usize,
}

impl VisionModel for Allocated {
    fn reads_question(&self) -> bool {
        true
    }

    fn encode(&mut self, pixels: &Pixels, stages: &mut Stages<'_>) -> Result<Features, LibraryError> {
        let [(_, pixel_values)] = pixels.tensors.as_slice() else {
            unreachable!("`SquareImages` makes one tensor");
        };
        let features = self.pipeline.encode(pixel_values, stages)?;
        Ok(Features { tensors: vec![features], picture: pixels.picture, seen: None })
    }

    fn embed(
        &mut self,
        features: &Features,
        ask: &Ask<'_>,
        stages: &mut Stages<'_>,
    ) -> Result<Visual, LibraryError> {
        let [image_features] = features.tensors.as_slice() else {
            unreachable!("`encode` makes one tensor");
        };
        let query = last_rows(ask.question, self.max_query)?;
        let original = features.picture.size;
        let (width, height) = fitted(original.into(), self.size);
        let view = pipeline::View { original, resized: [width, height] };
        let valid = self.layout.valid_region(view.resized);
        let allocation = self.pipeline.allocate(image_features, &query, stages)?;
        let tier = match ask.grant {
            Grant::Tier(tier) => tier,
            Grant::Auto | Grant::Full | Grant::Choose(_) => {
                allocation.best_tier(&self.budgets, valid.patches() + self.layout.cells())
            }
        };
        let tier = (tier, self.budgets[tier]);
        self.pipeline.select(image_features, allocation, &self.layout, &view, tier, stages)
    }
}

fn check_section(section: &Section, budgets: &[usize]) -> Result<(), BundleError> {
    let Section { patch_size, feature_size, image_sizes, native_size, gist_grid, .. } = section;
    field("patch_size", "1 to 256", (1..=256).contains(patch_size), patch_size)?;
    field("feature_size", "1 to 65536", (1..=1 << 16).contains(feature_size), feature_size)?;
    let found = format!("{image_sizes:?}");
    let ascending =
        image_sizes.first().is_some_and(|&first| first > 0) && image_sizes.is_sorted_by(|a, b| a < b);
    let few = ascending && image_sizes.len() <= MOST_SIZES;
    field("image_sizes", "up to 64 ascending sizes", few, &found)?;
    let multiples = image_sizes.iter().all(|&size| size % patch_size == 0 && size <= MOST_SIDE);
    field("image_sizes", &format!("multiples of {patch_size} up to {MOST_SIDE}"), multiples, &found)?;
    let patches = image_sizes.iter().all(|&size| size / patch_size <= MOST_PATCHES);
    field("image_sizes", &format!("at most {MOST_PATCHES} patches a side"), patches, &found)?;
    field("native_size", &format!("one of {found}"), image_sizes.contains(native_size), native_size)?;
    let finite = section.image_mean.iter().all(|mean| mean.is_finite());
    field("image_mean", "finite numbers", finite, format!("{:?}", section.image_mean))?;
    let positive = section.image_std.iter().all(|std| std.is_finite() && *std > 0.0);
    field("image_std", "finite numbers above 0", positive, format!("{:?}", section.image_std))?;
    let side = native_size / patch_size;
    field("gist_grid", &format!("1 to {side}"), (1..=side).contains(gist_grid), gist_grid)?;
    let gist = gist_grid * gist_grid;
    let enough = !budgets.is_empty() && budgets.iter().all(|&budget| budget >= gist);
    let (name, expected) = ("vision.token_budgets", format!("at least the {gist} gist tokens each"));
    field(name, &expected, enough, format!("{budgets:?}"))
}

/// The encoder's input that was asked for, or the native one.
///
/// # Errors
/// [`LoadError::Options`] where the bundle has none of that size.
pub fn image_size(section: &Section, asked: Option<usize>) -> Result<usize, LoadError> {
    let size = asked.unwrap_or(section.native_size);
    if section.image_sizes.contains(&size) {
        return Ok(size);
    }
    let expected = format!("one of {:?}", section.image_sizes);
    Err(LoadError::Options { what: "image_size", expected, found: size.to_string() })
}

/// Budgets that an input of this size can fill.
fn allowed_budgets(budgets: &[usize], layout: &PatchGrid) -> Result<Vec<usize>, LoadError> {
    let room = layout.patches() + layout.cells();
    let allowed: Vec<_> = budgets.iter().copied().filter(|&budget| budget <= room).collect();
    if allowed.is_empty() {
        let expected = format!("an input size with at least {:?} patches and gist cells", budgets.first());
        return Err(LoadError::Options { what: "image_size", expected, found: format!("{room} of them") });
    }
    Ok(allowed)
}

/// Longest question that the allocator takes, tokens.
pub fn longest_query(bundle: &Bundle) -> usize {
    let range = bundle.axis(pipeline::ALLOCATOR, axis::QUERY_LEN);
    range.and_then(|range| usize::try_from(range.max).ok()).unwrap_or(usize::MAX)
}

/// The last `most` rows of a `[1, rows, width]` tensor.
///
/// # Errors
/// [`LibraryError::Tensor`] when it is no such tensor of floats.
pub fn last_rows(tensor: &Tensor, most: usize) -> Result<Tensor, LibraryError> {
    let (rows, width) = match *tensor.shape() {
        [1, rows, width] => (rows, width),
        _ => (0, 0),
    };
    if rows <= most {
        return Ok(tensor.clone());
    }
    let kept = tensor.as_slice::<f32>()?[(rows - most) * width..].to_vec();
    Ok(Tensor::from_vec(&[1, most, width], kept)?)
}
