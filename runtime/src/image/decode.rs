//! Image files to upright 8-bit RGB.

use std::borrow::Cow;
use std::io::Cursor;
use std::sync::{Arc, Mutex, PoisonError};

use ::image::error::LimitErrorKind;
use ::image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};
use sha2::{Digest as _, Sha256};

use super::orientation::Metadata;
use super::{DecodedImage, ImageError, ImageLimits, bmp, gif, jpeg, png, sniff, webp};

/// What a decoder may hold for itself, bytes per pixel: the coefficients of a progressive JPEG, or a frame beside an animation's canvas.
const OWN_BYTES: u64 = 8;

/// What it is decoded to, bytes per pixel: four channels. (16 bits make twice that, in PNGs, whose decoder needs nothing else.) Turning a picture
/// and drawing it smaller take less, and the decoder has gone by then.
const RESULT_BYTES: u64 = 4;

/// What tables may take on top, bytes.
const TABLES: u64 = 16 << 20;

/// Pictures of more than this part of the pixels allowed are decoded one at a time, whoever sent them: else every worker would need the memory of
/// the largest.
const LARGE: u64 = 4;

/// Held while a large picture is decoded.
static ONE_LARGE: Mutex<()> = Mutex::new(());

/// Most bytes that `workers` hold together while they decode and prepare pictures: one of the largest is decoded, and each other worker has a smaller
/// one at hand, or the result of a large one.
pub(crate) fn most_bytes(max_pixels: u64, workers: u64) -> u64 {
    let decoding = |pixels: u64| pixels.saturating_mul(OWN_BYTES + RESULT_BYTES).saturating_add(TABLES);
    let others = decoding(max_pixels / LARGE).max(max_pixels.saturating_mul(RESULT_BYTES));
    decoding(max_pixels).saturating_add(others.saturating_mul(workers.saturating_sub(1)))
}

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
    let large = u64::from(width) * u64::from(height) > limits.max_pixels / LARGE;
    // A decoder that panicked has left nothing behind.
    let _alone = large.then(|| ONE_LARGE.lock().unwrap_or_else(PoisonError::into_inner));
    let image = read(decoder).map_err(|error| explain(error, name))?;
    let mut upright = DynamicImage::ImageRgb8(image);
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
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut bound = Limits::no_limits();
    bound.max_alloc = Some(limits.max_pixels.saturating_mul(OWN_BYTES).saturating_add(TABLES));
    reader.limits(bound);
    reader.into_decoder()
}

/// Decodes, and converts where the decoded bytes lie.
fn read(decoder: impl ImageDecoder) -> Result<RgbImage, ::image::ImageError> {
    let ((width, height), kind) = (decoder.dimensions(), decoder.color_type());
    let mut bytes = vec![0; usize::try_from(decoder.total_bytes()).unwrap_or(usize::MAX)];
    decoder.read_image(&mut bytes)?;
    Ok(RgbImage::from_raw(width, height, to_rgb8(kind, bytes)).unwrap_or_default())
}

/// As PIL's `convert("RGB")`: drops alpha, repeats grey, takes the high byte of 16 bits.
fn to_rgb8(kind: ColorType, mut bytes: Vec<u8>) -> Vec<u8> {
    let (pixel, channels) = (usize::from(kind.bytes_per_pixel()), usize::from(kind.channel_count()));
    let sample = pixel / channels;
    let high = if cfg!(target_endian = "little") { sample - 1 } else { 0 };
    let pixels = bytes.len() / pixel;
    match (channels, pixel) {
        (_, 3) => bytes,
        (1 | 2, _) => {
            let mut grey = Vec::with_capacity(pixels * 3);
            grey.extend(bytes.chunks_exact(pixel).flat_map(|pixel| [pixel[high]; 3]));
            grey
        }
        _ => {
            for at in 0..pixels {
                for channel in 0..3 {
                    bytes[at * 3 + channel] = bytes[at * pixel + channel * sample + high];
                }
            }
            bytes.truncate(pixels * 3);
            bytes.shrink_to_fit();
            bytes
        }
    }
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
