//! What each family's runtime must know to turn a picture into tensors: the `processor` section of a
//! manifest.
//!
//! The exporter fills one of these structs from the checkpoint's own files, the runtime's file of the family
//! reads it and checks its ranges.

use serde::{Deserialize, Serialize};

/// `arr_coc_ovis`: one square input, padded, of one of several sizes.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct ArrCocOvis {
    /// Side of a square patch, pixels.
    pub patch_size: usize,
    /// Width of `image_features`.
    pub feature_size: usize,
    /// Square input sizes that the encoder takes, pixels; the native one is `native_size`.
    pub image_sizes: Vec<usize>,
    /// The size that the checkpoint was trained at, pixels.
    pub native_size: usize,
    /// Per-channel mean and standard deviation of pixels in 0..1.
    pub image_mean: [f32; 3],
    /// See `image_mean`.
    pub image_std: [f32; 3],
    /// Side of the gist grid; the first `gist_grid * gist_grid` tokens are its cells.
    pub gist_grid: usize,
}

/// `smolvlm`, `idefics3`: square tiles of a picture, and a small view of the whole.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Idefics3 {
    /// Side of a tile, pixels.
    pub tile: usize,
    /// Visual rows along a side of a tile.
    pub rows_per_side: usize,
    /// Length that the longer side is brought to first; `None` leaves the picture as it is.
    pub longest_edge: Option<usize>,
    /// Whether larger pictures are cut into tiles; else all of them are squeezed into one.
    pub split: bool,
    /// How pictures are resized.
    pub resampling: Resampling,
    /// From bytes to what the encoder reads.
    pub scale: PixelScale,
    /// What stands before and behind the rows of a tile.
    pub frame: String,
    /// What stands before the rows of the view of the whole.
    pub whole: String,
}

/// `qwen3_vl`, `qwen2_5_vl`, `qwen3_5`: the patches of a picture that keeps its shape, in the order of the
/// squares that become one visual token.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct QwenVl {
    /// Side of a patch, pixels.
    pub patch_size: usize,
    /// Frames of a patch; the only one of a still picture is repeated.
    pub temporal_patch_size: usize,
    /// Patches on the side of a square that becomes one visual token.
    pub merge_size: usize,
    /// Pixels that a picture is brought to at least, by its area.
    pub min_pixels: u64,
    /// Pixels that a picture is brought to at most, by its area.
    pub max_pixels: u64,
    /// How pictures are resized.
    pub resampling: Resampling,
    /// From bytes to what the encoder reads.
    pub scale: PixelScale,
    /// Side of the square grid that the encoder's table of positions was made for; `None` without a table.
    pub table_side: Option<usize>,
    /// Side of the windows that most layers attend in, visual tokens; `None` where all layers see all.
    pub window: Option<usize>,
}

impl QwenVl {
    /// A side may be so many times the other (`smart_resize` of transformers).
    pub const MOST_ASPECT: u64 = 200;
    /// Longest side of a patch, pixels.
    pub const MOST_PATCH: usize = 256;
    /// Most frames of a patch, and most patches on the side of a visual token.
    pub const MOST_MERGED: usize = 16;
    /// Most pixels that a picture may be brought to.
    pub const MOST_PIXELS: u64 = 1 << 32;
    /// Longest side of the table of positions.
    pub const MOST_TABLE: usize = 1000;
    /// Longest side of a window, visual tokens.
    pub const MOST_WINDOW: usize = 128;
    /// Most patches along a side of a picture: the encoder's rotary tables end there.
    pub const MOST_SIDE: usize = 4096;

    /// Both sides of a picture become multiples of this, pixels.
    pub fn factor(&self) -> usize {
        self.patch_size * self.merge_size
    }

    /// No picture has more visual tokens.
    pub fn most_rows(&self) -> usize {
        let (factor, most) = (self.factor().max(1) as f64, self.max_pixels.max(self.min_pixels) as f64);
        let (area, aspect) = (most / (factor * factor), (Self::MOST_ASPECT as f64).sqrt());
        // Each side is rounded up by less than a token, so the area grows by less than both sides and one.
        // Their sum is largest at the largest aspect.
        (area + area.sqrt() * (aspect + aspect.recip()) + 1.0).floor() as usize
    }

    /// No picture of so many visual tokens has more windows.
    pub fn most_windows(&self, rows: usize) -> usize {
        let Some(side) = self.window.map(|side| side.max(1)) else { return 1 };
        // Both sides rounded up to whole windows; they are longest together where one of them is one token.
        rows / (side * side) + rows.saturating_add(1) / side + 2
    }
}

/// Filters of PIL's `resize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resampling {
    /// A triangle.
    Bilinear,
    /// Keys' cubic.
    Bicubic,
    /// A windowed sinc of three lobes.
    Lanczos,
}

impl Resampling {
    /// The filter of a number of PIL, as image processors write it.
    pub fn of_pil(number: u64) -> Option<Self> {
        match number {
            1 => Some(Self::Lanczos),
            2 => Some(Self::Bilinear),
            3 => Some(Self::Bicubic),
            _ => None,
        }
    }
}

/// `(byte * factor - mean) / std`, in the order and the roundings of transformers.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct PixelScale {
    /// What a byte is multiplied by, where it is.
    pub factor: Option<f64>,
    /// Mean and standard deviation per channel, where pixels are normalised.
    pub normalise: Option<[[f32; 3]; 2]>,
}

impl PixelScale {
    /// What each byte becomes, per channel.
    pub fn tables(&self) -> [[f32; 256]; 3] {
        std::array::from_fn(|channel| {
            std::array::from_fn(|byte| {
                // The product is of 64 bits, everything after it of 32.
                let x = self.factor.map_or(byte as f32, |factor| (byte as f64 * factor) as f32);
                self.normalise.map_or(x, |[mean, std]| (x - mean[channel]) / std[channel])
            })
        })
    }
}
