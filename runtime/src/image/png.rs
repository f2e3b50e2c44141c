//! The chunks of a PNG: those that make the picture, for the decoder, and what may hold its orientation.
//! Everything else, such as colour profiles and texts, never reaches the decoder, and compressed texts are
//! not inflated unless their key is one that holds an orientation.

use std::borrow::Cow;
use std::io::{ErrorKind, Read as _};

use flate2::read::ZlibDecoder;

use super::allocate::NoMemory;
use super::orientation::{MOST_METADATA, Metadata, Value};
use super::{Unusable, allocate};

const SIGNATURE: usize = 8;

/// The chunk that ends a file.
const END: &[u8] = b"\0\0\0\0IEND\xAE\x42\x60\x82";

/// Length, kind and checksum of a chunk.
const AROUND: usize = 12;

/// Most bytes that all texts of one file may inflate to: what comes behind is ignored.
const MOST_INFLATED: usize = 4 * MOST_METADATA;

const RAW_PROFILE: &[u8] = b"Raw profile type exif";
const XMP: &[u8] = b"XML:com.adobe.xmp";

/// Where the walk stands: image data must stand together.
#[derive(PartialEq)]
enum Place {
    Before,
    Data,
    Behind,
}

/// Splits a file into what the decoder needs and what orientation may be found in.
///
/// # Errors
/// [`Unusable`] says what is missing of a file that ends too early.
pub(super) fn split(bytes: &[u8]) -> Result<(Vec<u8>, Metadata<'_>), Unusable> {
    // What is copied, an end for the last chunk of data, and the end of the file.
    let mut picture = allocate::room(bytes.len() + AROUND + END.len())?;
    picture.extend_from_slice(&bytes[..SIGNATURE.min(bytes.len())]);
    let (mut metadata, mut inflatable) = (Metadata::default(), MOST_INFLATED);
    let (mut at, mut place) = (SIGNATURE, Place::Before);
    while let Some(header) = bytes.get(at..at + 8) {
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = &header[4..8];
        if !kind.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_') {
            break;
        }
        let data = at + 8;
        let end = data.saturating_add(length);
        if kind == b"IDAT" && place != Place::Behind {
            place = Place::Data;
            copy_data(&mut picture, bytes, at, end);
        } else if let Some(content) = bytes.get(data..end) {
            if place == Place::Data {
                place = Place::Behind;
            }
            match kind {
                b"IEND" => break,
                b"IHDR" | b"PLTE" if place == Place::Before => {
                    picture.extend_from_slice(bytes.get(at..end + 4).unwrap_or_default());
                }
                _ => note(&mut metadata, kind, content, &mut inflatable)?,
            }
        } else {
            let kind = String::from_utf8_lossy(kind);
            return Err(format!("it ends inside the chunk {kind} of {length} bytes (byte {at})").into());
        }
        at = end.saturating_add(4);
    }
    if place == Place::Before {
        return Err(format!("it ends after {} bytes without image data", bytes.len()).into());
    }
    picture.extend_from_slice(END);
    Ok((picture, metadata))
}

/// Copies a chunk of image data. The last one of a file may end early: whether the picture is whole is for
/// the decoder to find out, for which the chunk needs a length and a checksum.
fn copy_data(picture: &mut Vec<u8>, bytes: &[u8], at: usize, end: usize) {
    if let Some(whole) = bytes.get(at..end.saturating_add(4)) {
        picture.extend_from_slice(whole);
        return;
    }
    let content = &bytes[at + 8..end.min(bytes.len())];
    picture.extend_from_slice(&(content.len() as u32).to_be_bytes());
    let start = picture.len();
    picture.extend_from_slice(b"IDAT");
    picture.extend_from_slice(content);
    let mut checksum = flate2::Crc::new();
    checksum.update(&picture[start..]);
    picture.extend_from_slice(&checksum.sum().to_be_bytes());
}

/// Keeps what may hold an orientation.
fn note<'a>(
    metadata: &mut Metadata<'a>,
    kind: &[u8],
    content: &'a [u8],
    inflatable: &mut usize,
) -> Result<(), NoMemory> {
    match kind {
        b"eXIf" => metadata.exif = Some(Value::Bytes(Cow::Borrowed(content))),
        b"tEXt" => {
            let (key, text) = halves(content).unwrap_or((content, &[]));
            match key {
                // PIL leaves this one text as bytes.
                b"exif" => metadata.exif = Some(Value::Bytes(Cow::Borrowed(text))),
                _ => note_text(metadata, key, |_| Ok(Some(Cow::Borrowed(text))), inflatable)?,
            }
        }
        b"zTXt" => {
            let (key, text) = halves(content).unwrap_or((content, &[]));
            let text = text.get(1..).unwrap_or_default();
            let read = |most| Ok(Some(inflate(text, most)?.unwrap_or_default().into()));
            note_text(metadata, key, read, inflatable)?;
        }
        b"iTXt" => note_international(metadata, content, inflatable)?,
        _ => {}
    }
    Ok(())
}

/// A text that counts as one even where it holds bytes; `read` inflates at most as many bytes as it is told.
fn note_text<'a>(
    metadata: &mut Metadata<'a>,
    key: &[u8],
    read: impl FnOnce(usize) -> Result<Option<Cow<'a, [u8]>>, NoMemory>,
    inflatable: &mut usize,
) -> Result<(), NoMemory> {
    match key {
        b"exif" => metadata.exif = Some(Value::Text),
        b"xmp" => metadata.xmp = Some(Value::Text),
        RAW_PROFILE | XMP => {
            let Some(text) = read((*inflatable).min(MOST_METADATA))? else { return Ok(()) };
            if let Cow::Owned(text) = &text {
                *inflatable = inflatable.saturating_sub(text.len());
            }
            let place = if key == XMP { &mut metadata.xmp_text } else { &mut metadata.raw_profile };
            *place = Some(text);
        }
        _ => {}
    }
    Ok(())
}

/// An iTXt chunk: key, compression, language, translated key, text. One that is not UTF-8 counts only as XMP.
fn note_international<'a>(
    metadata: &mut Metadata<'a>,
    content: &'a [u8],
    inflatable: &mut usize,
) -> Result<(), NoMemory> {
    let parts = || {
        let (key, rest) = halves(content)?;
        let (&[compressed, method], rest) = rest.split_first_chunk::<2>()?;
        let (language, rest) = halves(rest)?;
        let (translated, text) = halves(rest)?;
        let valid = std::str::from_utf8(language).is_ok() && std::str::from_utf8(translated).is_ok();
        (compressed == 0 || method == 0).then_some((key, compressed != 0, valid, text))
    };
    let Some((key, compressed, valid, text)) = parts() else { return Ok(()) };
    let read = |most: usize| match compressed {
        true => inflate(text, most).map(|inflated| inflated.map(Cow::Owned)),
        false => Ok(Some(Cow::Borrowed(text))),
    };
    if key == XMP {
        let Some(text) = read((*inflatable).min(MOST_METADATA))? else { return Ok(()) };
        if compressed {
            *inflatable = inflatable.saturating_sub(text.len());
        }
        if valid && std::str::from_utf8(&text).is_ok() {
            metadata.xmp_text = Some(match &text {
                Cow::Owned(text) => allocate::copied(text)?.into(),
                Cow::Borrowed(text) => Cow::Borrowed(text),
            });
        }
        metadata.xmp = Some(Value::Bytes(text));
    } else if valid {
        note_text(metadata, key, read, inflatable)?;
    }
    Ok(())
}

/// What stands before and behind the first zero.
fn halves(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&byte| byte == 0)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// Inflates a text of at most `most` bytes; one that ends early is what there is of it, as for PIL.
fn inflate(text: &[u8], most: usize) -> Result<Option<Vec<u8>>, NoMemory> {
    let mut inflated = Vec::new();
    let mut reader = ZlibDecoder::new(text).take(most as u64 + 1);
    match reader.read_to_end(&mut inflated) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {}
        Err(error) if error.kind() == ErrorKind::OutOfMemory => return Err(NoMemory { bytes: most }),
        Err(_) => return Ok(None),
    }
    Ok((inflated.len() <= most).then_some(inflated))
}
