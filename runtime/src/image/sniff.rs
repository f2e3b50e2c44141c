//! Judging a file by its first bytes: which format it is, and what it is when it is no image.

use ::image::ImageFormat;

use arrcoc_bundle::quote::excerpt;

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
        format!("text that begins with `{}`", excerpt(&String::from_utf8_lossy(start)))
    } else {
        format!("a file that begins with the bytes {start:02x?}")
    }
}
