//! Judging a file by its bytes: what it is when it is no image, and whether a JPEG is complete.

use ::image::ImageFormat;

/// The formats that we read, by content; otherwise a description of what the bytes look like.
pub(super) fn format(bytes: &[u8]) -> Result<(ImageFormat, &'static str), String> {
    let found = ::image::guess_format(bytes).ok();
    match found {
        Some(ImageFormat::Png) => Ok((ImageFormat::Png, "PNG")),
        Some(ImageFormat::Jpeg) => Ok((ImageFormat::Jpeg, "JPEG")),
        Some(ImageFormat::WebP) => Ok((ImageFormat::WebP, "WebP")),
        Some(ImageFormat::Gif) => Ok((ImageFormat::Gif, "GIF")),
        Some(ImageFormat::Bmp) => Ok((ImageFormat::Bmp, "BMP")),
        Some(other) => Err(format!("a file in {} format", other.extensions_str()[0].to_uppercase())),
        None => Err(describe(bytes)),
    }
}

fn describe(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(16)];
    if bytes.is_empty() {
        "an empty file".to_owned()
    } else if bytes.starts_with(b"%PDF") {
        "a PDF document".to_owned()
    } else if start.get(4..8) == Some(b"ftyp") {
        "a HEIF or video file".to_owned()
    } else if bytes.iter().take(512).all(|c| c.is_ascii_graphic() || c.is_ascii_whitespace()) {
        format!("text that begins with `{}`", String::from_utf8_lossy(start).escape_debug())
    } else {
        format!("a file that begins with the bytes {start:02x?}")
    }
}

/// Checks that a file is as long as its container says, for the formats whose decoders do not tell a missing end from
/// damage, or paper over it.
pub(super) fn check_length(format: ImageFormat, bytes: &[u8]) -> Result<(), String> {
    match format {
        ImageFormat::Jpeg => check_jpeg(bytes),
        ImageFormat::WebP => check_webp(bytes),
        _ => Ok(()),
    }
}

/// A WebP file is one RIFF chunk with its length in the header.
fn check_webp(bytes: &[u8]) -> Result<(), String> {
    let length = bytes.get(4..8).and_then(|length| <[u8; 4]>::try_from(length).ok());
    let expected = length.map_or(12, |length| u64::from(u32::from_le_bytes(length)) + 8);
    if (bytes.len() as u64) < expected {
        return Err(format!("its header promises {expected} bytes, but it ends after {}", bytes.len()));
    }
    Ok(())
}

/// Walks a JPEG from marker to marker up to its end-of-image marker.
///
/// Decoders fill what is missing of a truncated file with grey; a half picture would get half an answer.
fn check_jpeg(bytes: &[u8]) -> Result<(), String> {
    const START_OF_SCAN: u8 = 0xDA;
    const END_OF_IMAGE: u8 = 0xD9;
    let ends = |at: usize| {
        format!("it ends after {} bytes, before the end-of-image marker (byte {at})", bytes.len())
    };
    let mut at = 2;
    loop {
        at = next_marker(bytes, at).ok_or_else(|| ends(bytes.len()))?;
        match bytes[at] {
            END_OF_IMAGE => return Ok(()),
            // Markers without a segment: restarts (inside scans), TEM, and a repeated start of image.
            0x01 | 0xD0..=0xD8 => at += 1,
            marker => {
                let length = bytes.get(at + 1..at + 3).ok_or_else(|| ends(at))?;
                let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
                at += 1 + length.max(2);
                if at > bytes.len() {
                    let kind = if marker == START_OF_SCAN { "scan header" } else { "segment" };
                    return Err(format!("it ends inside the {kind} with marker {marker:02X}"));
                }
            }
        }
    }
}

/// Index of the next marker's code. Between markers stands entropy-coded data, in which `FF 00` is an escaped `FF`.
fn next_marker(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += bytes.get(at..)?.iter().position(|&byte| byte == 0xFF)?;
        while *bytes.get(at)? == 0xFF {
            at += 1;
        }
        if bytes[at] != 0 {
            return Some(at);
        }
    }
}
