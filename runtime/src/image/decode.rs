//! Image files to upright 8-bit RGB.

use std::borrow::Cow;
use std::io::Cursor;
use std::sync::{Arc, Mutex, PoisonError};

use ::image::error::LimitErrorKind;
use ::image::metadata::Orientation;
use ::image::{ColorType, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage, imageops};
use sha2::{Digest as _, Sha256};

use super::allocate::{self, NoMemory};
use super::orientation::Metadata;
use super::{DecodedImage, ImageError, ImageLimits, Unusable, bmp, gif, jpeg, png, sniff, webp};

/// What a decoder may hold for itself, bytes per pixel: the coefficients of a progressive JPEG, or a frame
/// beside an animation's canvas.
const OWN_BYTES: u64 = 8;

/// What it is decoded to, bytes per pixel: four channels. (16 bits make twice that, in PNGs, whose decoder
/// needs nothing else.) Turning a picture and drawing it smaller take less, and the decoder has gone by then.
const RESULT_BYTES: u64 = 4;

/// What tables may take on top, bytes.
const TABLES: u64 = 16 << 20;

/// What they take in most formats.
const FEW_TABLES: u64 = 1 << 20;

/// Pictures of more than this part of the pixels allowed are decoded one at a time, whoever sent them: else
/// every worker would need the memory of the largest.
const LARGE: u64 = 4;

/// Held while a large picture is decoded.
static ONE_LARGE: Mutex<()> = Mutex::new(());

/// Most bytes that `workers` hold together while they decode and prepare pictures: one of the largest is
/// decoded, and each other worker has a smaller one at hand, or the result of a large one.
pub(crate) fn most_bytes(max_pixels: u64, workers: u64) -> u64 {
    let decoding = |pixels: u64| pixels.saturating_mul(OWN_BYTES + RESULT_BYTES).saturating_add(TABLES);
    let others = decoding(max_pixels / LARGE).max(max_pixels.saturating_mul(RESULT_BYTES));
    decoding(max_pixels).saturating_add(others.saturating_mul(workers.saturating_sub(1)))
}

/// Width and height of an image file, upright, in pixels; nothing is decoded.
///
/// # Errors
/// As [`decode`], as far as a header tells.
pub fn size(bytes: &[u8], limits: &ImageLimits) -> Result<[u32; 2], ImageError> {
    if bytes.len() > limits.max_bytes {
        return Err(ImageError::Bytes { found: bytes.len(), limit: limits.max_bytes });
    }
    let (format, name) = sniff::format(bytes).map_err(|found| ImageError::Format { found })?;
    let (picture, metadata) = split(format, bytes).map_err(|unusable| unusable.of(name))?;
    allocate::expect(whole(own_bytes(format, 0)))?;
    let decoder = open(&picture, format, limits).map_err(|error| explain(error, name, picture.len()))?;
    let (width, height) = decoder.dimensions();
    check_size(name, (width, height), limits)?;
    // The orientations from the fifth on turn a picture by a right angle.
    let turned = metadata.orientation()?.to_exif() >= 5;
    Ok(if turned { [height, width] } else { [width, height] })
}

/// Decodes an image file: PNG, JPEG, WebP, GIF or BMP, whatever its name says; of an animation the first
/// frame.
///
/// # Errors
/// [`ImageError`] when the file is none of these, larger than `limits`, truncated or damaged.
pub fn decode(bytes: &[u8], limits: &ImageLimits) -> Result<DecodedImage, ImageError> {
    if bytes.len() > limits.max_bytes {
        return Err(ImageError::Bytes { found: bytes.len(), limit: limits.max_bytes });
    }
    let (format, name) = sniff::format(bytes).map_err(|found| ImageError::Format { found })?;
    let (picture, metadata) = split(format, bytes).map_err(|unusable| unusable.of(name))?;
    let frame = if format == ImageFormat::Gif { check_frame(name, bytes, limits)? } else { 0 };
    // Decoders do not ask whether they get their memory; without it the process would end.
    allocate::expect(whole(own_bytes(format, 0)))?;
    let decoder = open(&picture, format, limits).map_err(|error| explain(error, name, picture.len()))?;
    let (width, height) = decoder.dimensions();
    check_size(name, (width, height), limits)?;
    let pixels = u64::from(width) * u64::from(height);
    let large = pixels > limits.max_pixels / LARGE;
    // A decoder that panicked has left nothing behind.
    let _alone = large.then(|| ONE_LARGE.lock().unwrap_or_else(PoisonError::into_inner));
    let image = read(decoder, own_bytes(format, pixels.max(frame)))?;
    let image = image.map_err(|error| explain(error, name, picture.len()))?;
    drop(picture);
    let pixels = turned(image, metadata.orientation()?)?;
    Ok(DecodedImage { sha256: digest(&pixels), pixels: Arc::new(pixels) })
}

/// The file as the decoder gets it, and what may hold its orientation. Colour profiles, texts and other
/// metadata, which nobody uses, stay behind.
fn split(format: ImageFormat, bytes: &[u8]) -> Result<(Cow<'_, [u8]>, Metadata<'_>), Unusable> {
    let owned = |(picture, metadata)| (Cow::Owned(picture), metadata);
    match format {
        ImageFormat::Png => png::split(bytes).map(owned),
        ImageFormat::Jpeg => jpeg::split(bytes).map(owned),
        ImageFormat::WebP => webp::split(bytes).map(owned),
        ImageFormat::Bmp => bmp::split(bytes).map(|picture| (picture, Metadata::default())),
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
/// Returns how many pixels it has.
fn check_frame(format: &'static str, bytes: &[u8], limits: &ImageLimits) -> Result<u64, ImageError> {
    let (width, height) = gif::check(bytes).map_err(|reason| ImageError::Truncated { format, reason })?;
    let pixels = u64::from(width) * u64::from(height);
    if pixels > limits.max_pixels {
        return Err(ImageError::Pixels { format, width, height, limit: limits.max_pixels });
    }
    Ok(pixels)
}

/// What the decoder of a format may take for itself besides the result, bytes. Those of PNG and BMP hold a
/// few lines; the tables of a lossless WebP are as many as the file says.
fn own_bytes(format: ImageFormat, pixels: u64) -> u64 {
    match format {
        ImageFormat::Png | ImageFormat::Bmp => FEW_TABLES,
        ImageFormat::WebP => pixels.saturating_mul(OWN_BYTES).saturating_add(TABLES),
        _ => pixels.saturating_mul(OWN_BYTES).saturating_add(FEW_TABLES),
    }
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

/// Decodes, and converts where the decoded bytes lie. `own` is what the decoder takes for itself.
fn read(decoder: impl ImageDecoder, own: u64) -> Result<Result<RgbImage, ::image::ImageError>, NoMemory> {
    let ((width, height), kind) = (decoder.dimensions(), decoder.color_type());
    let mut bytes = allocate::filled(whole(decoder.total_bytes()), 0)?;
    // As above; now the size is known.
    allocate::expect(whole(own))?;
    if let Err(error) = decoder.read_image(&mut bytes) {
        return Ok(Err(error));
    }
    Ok(Ok(RgbImage::from_raw(width, height, to_rgb8(kind, bytes)?).unwrap_or_default()))
}

fn whole(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// The picture as its orientation says that it is to be seen.
fn turned(image: RgbImage, orientation: Orientation) -> Result<RgbImage, NoMemory> {
    use Orientation as O;
    if matches!(orientation, O::NoTransforms) {
        return Ok(image);
    }
    if matches!(orientation, O::Rotate180 | O::FlipHorizontal | O::FlipVertical) {
        let mut image = image;
        match orientation {
            O::FlipHorizontal => imageops::flip_horizontal_in_place(&mut image),
            O::FlipVertical => imageops::flip_vertical_in_place(&mut image),
            _ => imageops::rotate180_in_place(&mut image),
        }
        return Ok(image);
    }
    let bytes = allocate::filled(image.len(), 0)?;
    let mut target = RgbImage::from_raw(image.height(), image.width(), bytes).unwrap_or_default();
    // The target has the sides, so neither can fail.
    let _ = match orientation {
        O::Rotate90 | O::Rotate90FlipH => imageops::rotate90_in(&image, &mut target),
        _ => imageops::rotate270_in(&image, &mut target),
    };
    if matches!(orientation, O::Rotate90FlipH | O::Rotate270FlipH) {
        imageops::flip_horizontal_in_place(&mut target);
    }
    Ok(target)
}

/// As PIL's `convert("RGB")`: drops alpha, repeats grey, takes the high byte of 16 bits.
fn to_rgb8(kind: ColorType, mut bytes: Vec<u8>) -> Result<Vec<u8>, NoMemory> {
    let (pixel, channels) = (usize::from(kind.bytes_per_pixel()), usize::from(kind.channel_count()));
    let sample = pixel / channels;
    let high = if cfg!(target_endian = "little") { sample - 1 } else { 0 };
    let pixels = bytes.len() / pixel;
    Ok(match (channels, pixel) {
        (_, 3) => bytes,
        (1 | 2, _) => {
            let mut grey = allocate::room(pixels * 3)?;
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
    })
}

fn digest(pixels: &RgbImage) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(pixels.width().to_le_bytes());
    hasher.update(pixels.height().to_le_bytes());
    hasher.update(pixels.as_raw());
    hasher.finalize().into()
}

/// Turns the library's error about a file of `size` bytes into ours; a file that ends too early is told apart
/// from a damaged one.
fn explain(error: ::image::ImageError, format: &'static str, size: usize) -> ImageError {
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
        E::IoError(error) if error.kind() == std::io::ErrorKind::OutOfMemory => {
            // It copies the file before it decodes it.
            return ImageError::Memory { bytes: size };
        }
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

#[cfg(test)]
mod tests {
    use arrcoc_tests::allocated::refusing;

    use super::*;

    #[test]
    fn what_becomes_of_decoded_pixels_asks_for_its_memory_too() {
        const REFUSED: NoMemory = NoMemory { bytes: 30_000 };
        for (kind, pixel) in
            [(ColorType::L8, 1), (ColorType::La8, 2), (ColorType::L16, 2), (ColorType::La16, 4)]
        {
            let bytes = vec![0; 10_000 * pixel];
            assert_eq!(refusing(29_999, || to_rgb8(kind, bytes)), Err(REFUSED), "{kind:?}");
        }
        for kind in [ColorType::Rgb8, ColorType::Rgba8, ColorType::Rgb16, ColorType::Rgba16] {
            let bytes = vec![0; 10_000 * usize::from(kind.bytes_per_pixel())];
            assert_eq!(refusing(100, || to_rgb8(kind, bytes)), Ok(vec![0; 30_000]), "{kind:?}");
        }
        for number in 1..=8 {
            let orientation = Orientation::from_exif(number).unwrap_or(Orientation::NoTransforms);
            let image = RgbImage::new(100, 100);
            let found = refusing(29_999, || turned(image, orientation)).map(|image| image.dimensions());
            let expected = if number < 5 { Ok((100, 100)) } else { Err(REFUSED) };
            assert_eq!(found, expected, "orientation {number}");
        }
    }
}
