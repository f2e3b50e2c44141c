//! Image files to upright 8-bit RGB.

use std::borrow::Cow;
use std::io::Cursor;
use std::sync::Arc;

use ::image::error::LimitErrorKind;
use ::image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};
use sha2::{Digest as _, Sha256};

use super::orientation::Metadata;
use super::{DecodedImage, ImageError, ImageLimits, bmp, gif, jpeg, png, sniff, webp};

/// Decodes an image file: PNG, JPEG, WebP, GIF or BMP, whatever its name says; of an animation the first frame.
///
/// # Errors
/// [`ImageError`] when the file is none of these, larger than `limits`, truncated or damaged.
pub fn decode(bytes: &[u8], limits: &ImageLimits) -> Result<DecodedImage, ImageError> {
    if bytes.len() > limits.max_bytes {
        return Err(ImageError::Bytes { found: bytes.len(), limit: limits.max_bytes });
    }
    let (format, name) = sniff::format(bytes).map_err(|found| ImageError::Format { found })?;
    let (picture, metadata) =
        split(format, bytes).map_err(|reason| ImageError::Truncated { format: name, reason })?;
    if format == ImageFormat::Gif {
        check_frame(name, bytes, limits)?;
    }
    let decoder = open(&picture, format, limits).map_err(|error| explain(error, name))?;
    let (width, height) = decoder.dimensions();
    check_size(name, (width, height), limits)?;
    let image = DynamicImage::from_decoder(decoder).map_err(|error| explain(error, name))?;
    let mut upright = DynamicImage::ImageRgb8(to_rgb8(image));
    upright.apply_orientation(metadata.orientation());
    let pixels = upright.into_rgb8();
    Ok(DecodedImage { sha256: digest(&pixels), pixels: Arc::new(pixels) })
}

/// The file as the decoder gets it, and what may hold its orientation. Colour profiles, texts and other metadata, which
/// nobody uses, stay behind.
fn split(format: ImageFormat, bytes: &[u8]) -> Result<(Cow<'_, [u8]>, Metadata<'_>), String> {
    let owned = |(picture, metadata)| (Cow::Owned(picture), metadata);
    match format {
        ImageFormat::Png => png::split(bytes).map(owned),
        ImageFormat::Jpeg => jpeg::split(bytes).map(owned),
        ImageFormat::WebP => webp::split(bytes).map(owned),
        ImageFormat::Bmp => bmp::split(bytes).map(|picture| (picture, Metadata::default())),
        ImageFormat::Gif => gif::check(bytes).map(|_| (Cow::Borrowed(bytes), Metadata::default())),
        _ => Ok((Cow::Borrowed(bytes), Metadata::default())),
    }
}

/// Judges the size that the header promises.
fn check_size(
    format: &'static str,
    (width, height): (u32, u32),
    limits: &ImageLimits,
) -> Result<(), ImageError> {
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 {
        let reason = format!("expected at least one pixel, found {width} x {height}");
        return Err(ImageError::Decode { format, reason });
    }
    if pixels > limits.max_pixels {
        return Err(ImageError::Pixels { format, width, height, limit: limits.max_pixels });
    }
    let (longer, shorter) = (width.max(height), width.min(height));
    if longer > limits.max_side {
        return Err(ImageError::Side { format, width, height, limit: limits.max_side });
    }
    if u64::from(longer) > u64::from(shorter) * u64::from(limits.max_aspect) {
        return Err(ImageError::Aspect { format, width, height, limit: limits.max_aspect });
    }
    Ok(())
}

/// Judges the first frame of a GIF, which is decoded whole, also where the picture shows only a part of it.
fn check_frame(format: &'static str, bytes: &[u8], limits: &ImageLimits) -> Result<(), ImageError> {
    let (width, height) = gif::check(bytes).map_err(|reason| ImageError::Truncated { format, reason })?;
    if u64::from(width) * u64::from(height) > limits.max_pixels {
        return Err(ImageError::Pixels { format, width, height, limit: limits.max_pixels });
    }
    Ok(())
}

/// Reads the header; what decoding may allocate is bounded by the pixels allowed.
fn open<'a>(
    bytes: &'a [u8],
    format: ImageFormat,
    limits: &ImageLimits,
) -> Result<impl ImageDecoder + 'a, ::image::ImageError> {
    // Four channels of 16 bits, and a frame beside the canvas for animations; what tables may take on top.
    const BYTES_PER_PIXEL: u64 = 16;
    const TABLES: u64 = 16 << 20;
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut bound = Limits::no_limits();
    bound.max_alloc = Some(limits.max_pixels.saturating_mul(BYTES_PER_PIXEL).saturating_add(TABLES));
    reader.limits(bound);
    reader.into_decoder()
}

/// As PIL's `convert("RGB")`: drops alpha, repeats grey, takes the high byte of 16 bits.
fn to_rgb8(image: DynamicImage) -> RgbImage {
    let (width, height) = (image.width(), image.height());
    let high = |value: u16| (value >> 8) as u8;
    let pixels = match image {
        DynamicImage::ImageRgb8(image) => return image,
        DynamicImage::ImageLuma16(image) => image.pixels().flat_map(|p| [high(p[0]); 3]).collect(),
        DynamicImage::ImageLumaA16(image) => image.pixels().flat_map(|p| [high(p[0]); 3]).collect(),
        DynamicImage::ImageRgb16(image) => image.iter().map(|&value| high(value)).collect(),
        DynamicImage::ImageRgba16(image) => {
            image.pixels().flat_map(|p| [high(p[0]), high(p[1]), high(p[2])]).collect()
        }
        // 8-bit kinds: `image` repeats grey and drops alpha too.
        other => return other.into_rgb8(),
    };
    RgbImage::from_raw(width, height, pixels).unwrap_or_default()
}

fn digest(pixels: &RgbImage) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(pixels.width().to_le_bytes());
    hasher.update(pixels.height().to_le_bytes());
    hasher.update(pixels.as_raw());
    hasher.finalize().into()
}

/// Turns the library's error into ours; a file that ends too early is told apart from a damaged one.
fn explain(error: ::image::ImageError, format: &'static str) -> ImageError {
    use ::image::ImageError as E;
    let reason = error.to_string();
    let end = [
        "unexpected end",
        "unexpected EOF",
        "UnexpectedEof",
        "failed to fill whole buffer",
        "corrupt deflate",
    ];
    let truncated = match &error {
        E::IoError(error) => error.kind() == std::io::ErrorKind::UnexpectedEof,
        E::Decoding(_) => end.iter().any(|end| reason.to_lowercase().contains(&end.to_lowercase())),
        E::Limits(limit) => {
            let reason = match limit.kind() {
                LimitErrorKind::InsufficientMemory => {
                    "it needs more memory than the pixels allowed would".to_owned()
                }
                _ => reason,
            };
            return ImageError::Decode { format, reason };
        }
        _ => false,
    };
    if truncated { ImageError::Truncated { format, reason } } else { ImageError::Decode { format, reason } }
}
