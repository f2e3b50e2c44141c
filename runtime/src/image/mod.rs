//! Images in: any common file format to upright 8-bit RGB ([`decode`]), and from there, family by family, to
//! what a vision encoder reads ([`crate::vision::families`]).
//!
//! The yardstick is what the reference does, PIL's `exif_transpose` and `convert("RGB")`: an alpha channel is
//! dropped, not composited; colour profiles are not applied; of 16 bits the high byte counts. (One exception:
//! PIL clips 16-bit *grey* to white, which nobody wants; here it is treated like 16-bit colour.) A file that
//! PIL refuses as truncated is refused, and so is one that has too little data for its pixels, which PIL
//! fills with grey or black.
//!
//! Each format's module takes the file apart before it is decoded: what makes the picture goes to the
//! decoder, what may hold an orientation to [`orientation`], and nothing else is read.
//!
//! Memory whose size follows from a picture is asked for through [`allocate`]: a picture for which there is
//! none fails alone.

use std::sync::Arc;

use ::image::RgbImage;

use crate::tensor::{Tensor, TensorError};

pub(crate) mod allocate;
mod bmp;
pub mod decode;
mod gif;
mod jpeg;
mod orientation;
#[cfg(test)]
mod pil_tests;
mod png;
pub(crate) mod resample;
mod sniff;
#[cfg(test)]
mod tests;
mod webp;

/// What an image may cost, checked before anything is allocated for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageLimits {
    /// Most pixels (width times height) of one image.
    pub max_pixels: u64,
    /// Longest side of one image, pixels.
    pub max_side: u32,
    /// Most times that an image may be longer than it is wide, or wider than long: what is left of the
    /// shorter side of a longer one when it is scaled to the encoder's input is no picture.
    pub max_aspect: u32,
    /// Most bytes of one encoded file.
    pub max_bytes: usize,
}

impl Default for ImageLimits {
    /// 50 megapixels, sides of 32,768 pixels, 200 to 1, 20 MiB, 8 images.
    fn default() -> Self {
        Self { max_pixels: 50_000_000, max_side: 32_768, max_aspect: 200, max_bytes: 20 << 20 }
    }
}

/// An image file that cannot be used, and why.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum ImageError {
    /// Not one of the formats that we read, judged by content.
    #[error("expected a PNG, JPEG, WebP, GIF or BMP image, found {found}")]
    Format {
        /// What the first bytes look like.
        found: String,
    },
    /// The encoded file is too long.
    #[error("expected an image file of at most {limit} bytes, found {found}; send a smaller one")]
    Bytes {
        /// Its size.
        found: usize,
        /// [`ImageLimits::max_bytes`].
        limit: usize,
    },
    /// The header promises too many pixels.
    #[error(
        "the {format} image has {width} x {height} pixels, more than the {limit} allowed in all; scale it down"
    )]
    Pixels {
        /// The file's format.
        format: &'static str,
        /// Width in its header.
        width: u32,
        /// Height in its header.
        height: u32,
        /// [`ImageLimits::max_pixels`].
        limit: u64,
    },
    /// The header promises a side that is too long.
    #[error(
        "the {format} image has {width} x {height} pixels, a side longer than the {limit} allowed; scale it down"
    )]
    Side {
        /// The file's format.
        format: &'static str,
        /// Width in its header.
        width: u32,
        /// Height in its header.
        height: u32,
        /// [`ImageLimits::max_side`].
        limit: u32,
    },
    /// The header promises a strip.
    #[error(
        "the {format} image has {width} x {height} pixels, one side more than {limit} times the other; crop it"
    )]
    Aspect {
        /// The file's format.
        format: &'static str,
        /// Width in its header.
        width: u32,
        /// Height in its header.
        height: u32,
        /// [`ImageLimits::max_aspect`].
        limit: u32,
    },
    /// The model takes no pictures of this shape.
    #[error("the image has {width} x {height} pixels: {reason}")]
    Shape {
        /// Width, pixels.
        width: u32,
        /// Height, pixels.
        height: u32,
        /// What was expected, and what was found.
        reason: String,
    },
    /// The file ends too early.
    #[error("the {format} image is truncated: {reason}; send the whole file")]
    Truncated {
        /// The file's format.
        format: &'static str,
        /// What is missing.
        reason: String,
    },
    /// The decoder gave up.
    #[error("the {format} image cannot be decoded: {reason}")]
    Decode {
        /// The file's format.
        format: &'static str,
        /// The decoder's reason.
        reason: String,
    },
    /// The system gave no memory.
    #[error(
        "the image takes {bytes} bytes of memory, which are not to be had now; send it again later, or a smaller one"
    )]
    Memory {
        /// How much was asked for at once.
        bytes: usize,
    },
}

/// Why a file goes to no decoder.
#[derive(Debug)]
enum Unusable {
    /// What is missing of it.
    Truncated(String),
    Memory(allocate::NoMemory),
}

impl Unusable {
    fn of(self, format: &'static str) -> ImageError {
        match self {
            Self::Truncated(reason) => ImageError::Truncated { format, reason },
            Self::Memory(memory) => memory.into(),
        }
    }
}

impl From<String> for Unusable {
    fn from(reason: String) -> Self {
        Self::Truncated(reason)
    }
}

impl From<allocate::NoMemory> for ImageError {
    fn from(allocate::NoMemory { bytes }: allocate::NoMemory) -> Self {
        Self::Memory { bytes }
    }
}

impl From<allocate::NoMemory> for Unusable {
    fn from(memory: allocate::NoMemory) -> Self {
        Self::Memory(memory)
    }
}

impl ImageError {
    /// There is no memory for what becomes of a picture.
    pub(crate) fn no_memory(error: &TensorError) -> Self {
        match *error {
            TensorError::Memory { bytes } => Self::Memory { bytes },
            // The shapes are our own.
            _ => Self::Decode { format: "decoded", reason: error.to_string() },
        }
    }
}

/// An upright 8-bit RGB image.
#[derive(Clone)]
pub struct DecodedImage {
    /// The pixels.
    pub pixels: Arc<RgbImage>,
    /// SHA-256 of width, height and pixels: the image's identity for the caches.
    pub sha256: [u8; 32],
}

impl std::fmt::Debug for DecodedImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DecodedImage({} x {})", self.pixels.width(), self.pixels.height())
    }
}

/// An image as the vision encoder reads it.
#[derive(Debug, Clone)]
pub struct PixelValues {
    /// `[1, 3, size, size]`, normalised, zero to the right of and below the picture.
    pub tensor: Tensor,
    /// SHA-256 of the decoded pixels ([`DecodedImage::sha256`]).
    pub sha256: [u8; 32],
    /// Width and height of the decoded image, pixels.
    pub original: [u32; 2],
    /// Width and height of the picture inside the tensor, pixels.
    pub resized: [u32; 2],
}
