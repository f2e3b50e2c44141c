//! The chunks of a WebP: those that make the picture, for the decoder, and what may hold its orientation.

use std::borrow::Cow;

use super::orientation::{Metadata, Value};
use super::{Unusable, allocate};

/// Bits of the header of an extended file.
const PROFILE: u8 = 0x20;
const EXIF: u8 = 0x08;
const XMP: u8 = 0x04;

/// Splits a file into what the decoder needs and what orientation may be found in.
///
/// # Errors
/// [`Unusable`] says what is missing of a file that ends too early.
pub(super) fn split(bytes: &[u8]) -> Result<(Vec<u8>, Metadata<'_>), Unusable> {
    let length = bytes.get(4..8).map_or(4, |b| u64::from(u32::from_le_bytes([b[0], b[1], b[2], b[3]])));
    let promised = length + 8;
    if (bytes.len() as u64) < promised.max(12) {
        return Err(format!("its header promises {promised} bytes, but it ends after {}", bytes.len()).into());
    }
    let file = &bytes[..promised.max(12) as usize];
    // The last chunk may lack the byte that makes its length even.
    let mut picture = allocate::room(file.len() + 1)?;
    picture.extend_from_slice(&file[..12]);
    let mut metadata = Metadata::default();
    let (mut at, mut flags) = (12, 0);
    while let Some((kind, content)) = chunk(file, at) {
        match kind {
            b"VP8X" if at == 12 => {
                flags = content.first().copied().unwrap_or_default();
                let start = picture.len();
                push(&mut picture, kind, content);
                if let Some(flags) = picture.get_mut(start + 8) {
                    *flags &= !(PROFILE | EXIF | XMP);
                }
            }
            b"VP8 " | b"VP8L" | b"ALPH" | b"ANIM" | b"ANMF" => push(&mut picture, kind, content),
            // The first of its kind counts, and only where the header announces it.
            b"EXIF" if flags & EXIF != 0 && metadata.exif.is_none() => {
                metadata.exif = Some(Value::Bytes(Cow::Borrowed(content)));
            }
            b"XMP " if flags & XMP != 0 && metadata.xmp.is_none() => {
                metadata.xmp = Some(Value::Bytes(Cow::Borrowed(content)));
            }
            _ => {}
        }
        at += 8 + content.len() + content.len() % 2;
    }
    let length = (picture.len() as u32).saturating_sub(8);
    picture[4..8].copy_from_slice(&length.to_le_bytes());
    Ok((picture, metadata))
}

/// The chunk at `at`; `None` where the file ends, or ends inside of it.
fn chunk(file: &[u8], at: usize) -> Option<(&[u8; 4], &[u8])> {
    let header = file.get(at..at + 8)?;
    let (kind, length) = header.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
    Some((kind, file.get(at + 8..(at + 8).checked_add(length)?)?))
}

fn push(out: &mut Vec<u8>, kind: &[u8; 4], content: &[u8]) {
    out.extend_from_slice(kind);
    out.extend_from_slice(&(content.len() as u32).to_le_bytes());
    out.extend_from_slice(content);
    if content.len() % 2 == 1 {
        out.push(0);
    }
}
