//! What the vision towers of Qwen's generations share: sizes and how they are checked, patches as rows, and
//! queries, keys and values that know where their patch stands.

use arrcoc_bundle::names::{axis, tensor};
use arrcoc_bundle::processors::QwenVl;

use crate::bricks::{self, Activation, axial_rope};
use crate::config::{Check, ConfigError};
use crate::dims;
use crate::graph::{Builder, Dim, Element, Init, Value};

/// Section of `config.json` that has the tower.
pub(super) const SECTION: &str = "vision_config";

/// What transformers adds to the variance or mean square in every norm of a tower; no file states another.
pub(super) const NORM_EPSILON: f32 = 1e-6;

/// Sizes of a tower.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Number of layers.
    pub layers: usize,
    /// Width of the transformer, D.
    pub hidden_size: usize,
    /// Hidden width of the MLPs.
    pub intermediate_size: usize,
    /// Attention heads.
    pub heads: usize,
    /// Side of a patch, pixels.
    pub patch_size: usize,
    /// Frames of a patch; the only one of a still picture is repeated.
    pub temporal_patch_size: usize,
    /// Patches on the side of a square that becomes one visual token.
    pub merge_size: usize,
    /// Width of the visual rows: the decoder's, H.
    pub out_hidden_size: usize,
    /// Activation of the MLPs.
    pub activation: Activation,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
}

impl Shape {
    /// The same, where it is one of a tower with `channels` of colour.
    ///
    /// # Errors
    /// [`ConfigError`], naming key, what was expected and what was found.
    pub(super) fn checked(self, check: &Check, channels: usize) -> Result<Self, ConfigError> {
        check.sizes(&[
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_heads", self.heads),
            ("out_hidden_size", self.out_hidden_size),
        ])?;
        check.layers("depth", self.layers)?;
        check.few("patch_size", self.patch_size, QwenVl::MOST_PATCH)?;
        check.few("spatial_merge_size", self.merge_size, QwenVl::MOST_MERGED)?;
        check.few("temporal_patch_size", self.temporal_patch_size, QwenVl::MOST_MERGED)?;
        check.that(channels == 3, "in_channels", "3", channels)?;
        check.divides("hidden_size", self.hidden_size, self.heads, "num_heads")?;
        axial_rope::check_heads(check, "num_heads", self.head())?;
        Ok(self)
    }

    /// Width of a head.
    fn head(&self) -> usize {
        self.hidden_size / self.heads
    }

    /// What products of queries and keys are scaled by.
    pub(super) fn scale(&self) -> f32 {
        (self.head() as f32).sqrt().recip()
    }

    /// Patches of a visual token.
    pub fn merged(&self) -> usize {
        self.merge_size * self.merge_size
    }

    /// Width of the patches of a visual token, joined.
    pub(super) fn merged_width(&self) -> usize {
        self.merged() * self.hidden_size
    }
}

/// The input `pixel_values` \[patches, numbers of a patch\] (channels, then frames, then rows and columns of
/// pixels) as \[P, D\]: a convolution whose windows do not overlap is a product with every window's numbers.
pub(super) fn patches(g: &mut Builder, shape: &Shape, biased: bool) -> Value {
    let (hidden, frames, side) = (shape.hidden_size, shape.temporal_patch_size, shape.patch_size);
    let numbers = 3 * frames * side * side;
    let pixels = g.input(tensor::PIXEL_VALUES, Element::F32, dims![axis::PATCHES, numbers]);
    let g = &mut g.scope("patch_embed.proj");
    let weight = g.param_flat("weight", &[hidden, 3, frames, side, side], Init::fan_in(numbers));
    let bias = biased.then(|| g.param("bias", &[hidden], Init::BIAS));
    g.gemm(&pixels, &weight, bias.as_ref())
}

/// Rotary tables by the input `coordinates` \[2, patches\], \[P, head / 2\] each.
pub(super) fn rope(g: &mut Builder, shape: &Shape) -> axial_rope::Tables {
    let coordinates = g.input(tensor::COORDINATES, Element::I64, dims![2, axis::PATCHES]);
    axial_rope::tables(g, &coordinates, QwenVl::MOST_SIDE, shape.head(), shape.rope_theta)
}

/// Rotated queries, rotated keys and values of rows \[P, D\], \[1, P, heads, width\] each.
pub(super) fn queries_keys_values(
    g: &mut Builder,
    shape: &Shape,
    x: &Value,
    rope: &axial_rope::Tables,
) -> [Value; 3] {
    let hidden = shape.hidden_size;
    let qkv = bricks::linear(g, "qkv", x, 3 * hidden); // [P, 3 * D]
    let parts = g.split(&qkv, &[hidden; 3], -1);
    let [q, k, v] = [0, 1, 2].map(|part| {
        bricks::split_heads(g, &parts[part], &Dim::Fixed(1), &Dim::Axis(axis::PATCHES), shape.heads)
    });
    [rope.rotate(g, &q), rope.rotate(g, &k), v]
}

/// The patches of a square become one row: \[P, D\] to \[rows, merged * D\].
pub(super) fn join(g: &mut Builder, shape: &Shape, x: &Value) -> Value {
    let rows = Dim::Axis(axis::PATCHES).over(shape.merged());
    g.reshape(x, dims![rows, shape.merged_width()])
}
