//! The segments of a JPEG: what the decoder needs, with the colours decided as libjpeg decides them; what may
//! hold the orientation; and whether there is enough data for a picture at all.

use std::borrow::Cow;

use super::allocate::NoMemory;
use super::orientation::{MOST_METADATA, Metadata, Value};
use super::{Unusable, allocate};

const START_OF_SCAN: u8 = 0xDA;
const END_OF_IMAGE: u8 = 0xD9;
const EXIF: &[u8] = b"Exif\0\0";
const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";

/// What the numbers of a picture stand for.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Colours {
    /// One component, or three of luma and chroma: what the decoder takes unless told otherwise.
    Usual,
    /// Three components: red, green and blue.
    Rgb,
    /// Four components, the first three as luma and chroma.
    Ycck,
}

/// What the segments before the first scan say.
#[derive(Debug, Default)]
struct Header {
    jfif: bool,
    /// Colour transform of the last Adobe segment.
    adobe: Option<u8>,
    frame: Option<Frame>,
}

/// The frame's header.
#[derive(Debug)]
struct Frame {
    progressive: bool,
    width: u64,
    height: u64,
    /// Id, and sampling factors across and down.
    components: Vec<(u8, u64, u64)>,
}

/// Splits a file into what the decoder needs and what orientation may be found in.
///
/// # Errors
/// [`Unusable`] says what is missing of a file that ends too early, or that has too little data for its
/// picture.
pub(super) fn split(bytes: &[u8]) -> Result<(Vec<u8>, Metadata<'_>), Unusable> {
    let mut walk = Walk { bytes, at: 2, entropy: 0 };
    let (mut header, mut metadata) = (Header::default(), Metadata::default());
    let mut segments = allocate::room(bytes.len() + 16)?;
    loop {
        match walk.next()? {
            Segment::Marker(END_OF_IMAGE) => {
                return Err("it ends before any image data".to_owned().into());
            }
            Segment::Marker(_) => {}
            Segment::Content(marker @ 0xE0..=0xEF, content) => {
                header.application(marker, content);
                note(&mut metadata, marker, content)?;
            }
            Segment::Content(0xFE, _) => {}
            Segment::Content(marker, content) => {
                if matches!(marker, 0xC0..=0xCF) && !matches!(marker, 0xC4 | 0xC8 | 0xCC) {
                    header.frame = Frame::read(marker, content);
                }
                push_segment(&mut segments, marker, content);
                if marker == START_OF_SCAN {
                    break;
                }
            }
        }
    }
    walk.scans(&mut segments)?;
    header.check_data(walk.entropy)?;
    let colours = header.colours();
    if colours == Colours::Usual {
        header.hide_letters(&mut segments);
    }
    let mut picture = allocate::room(segments.len() + 18)?;
    picture.extend_from_slice(b"\xFF\xD8");
    let transform = match colours {
        Colours::Usual => None,
        Colours::Rgb => Some(0),
        Colours::Ycck => Some(2),
    };
    if let Some(transform) = transform {
        push_segment(&mut picture, 0xEE, &[b'A', b'd', b'o', b'b', b'e', 0, 100, 0, 0, 0, 0, transform]);
    }
    picture.append(&mut segments);
    Ok((picture, metadata))
}

fn push_segment(out: &mut Vec<u8>, marker: u8, content: &[u8]) {
    out.extend_from_slice(&[0xFF, marker]);
    // A segment that was read has a length of 16 bits.
    out.extend_from_slice(&(content.len() as u16 + 2).to_be_bytes());
    out.extend_from_slice(content);
}

/// Keeps what may hold an orientation.
fn note<'a>(metadata: &mut Metadata<'a>, marker: u8, content: &'a [u8]) -> Result<(), NoMemory> {
    if marker != 0xE1 {
        return Ok(());
    }
    if let Some(tiff) = content.strip_prefix(EXIF) {
        match &mut metadata.exif {
            // A directory of more than 64 KiB continues in the next segment.
            Some(Value::Bytes(exif)) if exif.len() < MOST_METADATA => {
                let mut joined = match std::mem::take(exif) {
                    Cow::Owned(exif) => exif,
                    Cow::Borrowed(exif) => allocate::copied(exif)?,
                };
                allocate::reserve(&mut joined, tiff.len())?;
                joined.extend_from_slice(tiff);
                *exif = Cow::Owned(joined);
            }
            Some(_) => {}
            None => metadata.exif = Some(Value::Bytes(Cow::Borrowed(content))),
        }
    } else if let Some(xmp) = content.strip_prefix(XMP) {
        metadata.xmp = Some(Value::Bytes(Cow::Borrowed(xmp)));
    }
    Ok(())
}

impl Header {
    fn application(&mut self, marker: u8, content: &[u8]) {
        match marker {
            0xE0 if content.len() >= 14 && content.starts_with(b"JFIF\0") => self.jfif = true,
            0xEE if content.len() >= 12 && content.starts_with(b"Adobe") => self.adobe = Some(content[11]),
            _ => {}
        }
    }

    /// As libjpeg's `default_decompress_parms`: of three components JFIF decides before Adobe, and Adobe
    /// before the ids.
    fn colours(&self) -> Colours {
        let components = self.frame.as_ref().map_or(&[][..], |frame| &frame.components);
        let letters = components.iter().map(|(id, ..)| *id).eq(*b"RGB");
        match (components.len(), self.jfif, self.adobe) {
            (3, false, Some(0)) => Colours::Rgb,
            (3, false, None) if letters => Colours::Rgb,
            (4, _, Some(transform)) if transform != 0 => Colours::Ycck,
            _ => Colours::Usual,
        }
    }

    /// The decoder takes components of the ids R, G and B for these colours whatever the markers say: gives
    /// them others.
    fn hide_letters(&self, segments: &mut [u8]) {
        let Some(frame) = &self.frame else { return };
        if !frame.components.iter().map(|(id, ..)| *id).eq(*b"RGB") {
            return;
        }
        let rename =
            |id: &mut u8| *id = b"RGB".iter().position(|letter| letter == id).map_or(*id, |i| i as u8 + 1);
        let mut at = 0;
        while let Some(marker) = next_marker(segments, at) {
            at = marker + 1;
            let code = segments[marker];
            if matches!(code, 0x01 | 0xD0..=0xD9) {
                continue;
            }
            let Some(&[high, low]) = segments.get(marker + 1..marker + 3) else { return };
            at += usize::from(u16::from_be_bytes([high, low])).max(2);
            let (first, step) = match code {
                0xC0..=0xC2 => (marker + 9, 3),
                START_OF_SCAN => (marker + 4, 2),
                _ => continue,
            };
            let count = segments.get(first - 1).map_or(0, |&count| usize::from(count));
            let end = at.min(segments.len());
            segments.get_mut(first..end).into_iter().flatten().step_by(step).take(count).for_each(rename);
        }
    }

    /// Every block of a picture takes at least one bit of data, and two unless it comes in several passes:
    /// what has less is no picture, but decoders fill what is missing with grey.
    fn check_data(&self, entropy: usize) -> Result<(), String> {
        let Some(frame) = &self.frame else { return Ok(()) };
        let most =
            |pick: fn(&(u8, u64, u64)) -> u64| frame.components.iter().map(pick).max().unwrap_or(1).max(1);
        let (across, down) = (most(|(_, h, _)| *h), most(|(.., v)| *v));
        let blocks = frame.components.iter().map(|(_, h, v)| {
            (frame.width * h).div_ceil(across).div_ceil(8) * (frame.height * v).div_ceil(down).div_ceil(8)
        });
        let bits = blocks.sum::<u64>() * if frame.progressive { 1 } else { 2 };
        if (entropy as u64) < bits.div_ceil(8) {
            let Frame { width, height, .. } = frame;
            return Err(format!("its {entropy} bytes of image data cannot hold {width} x {height} pixels"));
        }
        Ok(())
    }
}

impl Frame {
    fn read(marker: u8, content: &[u8]) -> Option<Self> {
        let side =
            |at: usize| Some(u64::from(u16::from_be_bytes([*content.get(at)?, *content.get(at + 1)?])));
        let count = usize::from(*content.get(5)?);
        let components = content.get(6..6 + count * 3)?.chunks_exact(3);
        Some(Self {
            progressive: marker == 0xC2,
            height: side(1)?,
            width: side(3)?,
            components: components.map(|c| (c[0], u64::from(c[1] >> 4), u64::from(c[1] & 15))).collect(),
        })
    }
}

enum Segment<'a> {
    /// A marker that stands alone.
    Marker(u8),
    Content(u8, &'a [u8]),
}

/// From marker to marker.
struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Bytes of entropy-coded data so far.
    entropy: usize,
}

impl<'a> Walk<'a> {
    fn next(&mut self) -> Result<Segment<'a>, String> {
        let bytes = self.bytes;
        let ends = |at: usize| {
            format!("it ends after {} bytes, before the end-of-image marker (byte {at})", bytes.len())
        };
        let at = next_marker(bytes, self.at).ok_or_else(|| ends(bytes.len()))?;
        let marker = bytes[at];
        // Restarts (inside scans), TEM, and a repeated start of image.
        if matches!(marker, 0x01 | 0xD0..=0xD9) {
            self.at = at + 1;
            return Ok(Segment::Marker(marker));
        }
        let length = bytes.get(at + 1..at + 3).ok_or_else(|| ends(at))?;
        let length = usize::from(u16::from_be_bytes([length[0], length[1]])).max(2);
        self.at = at + 1 + length;
        let content = bytes.get(at + 3..self.at).ok_or_else(|| {
            let kind = if marker == START_OF_SCAN { "scan header" } else { "segment" };
            format!("it ends inside the {kind} with marker {marker:02X}")
        })?;
        Ok(Segment::Content(marker, content))
    }

    /// Copies what follows the header of the first scan up to the end of the image, but for application
    /// segments and comments. Decoders fill what is missing of a file with grey, and a half picture would get
    /// half an answer.
    fn scans(&mut self, out: &mut Vec<u8>) -> Result<(), String> {
        loop {
            let start = self.at;
            let segment = self.next()?;
            let length = match segment {
                Segment::Marker(_) => 2,
                Segment::Content(_, content) => content.len() + 4,
            };
            let data = &self.bytes[start..self.at - length];
            self.entropy += data.len();
            out.extend_from_slice(data);
            match segment {
                Segment::Marker(marker) => {
                    out.extend_from_slice(&[0xFF, marker]);
                    if marker == END_OF_IMAGE {
                        return Ok(());
                    }
                }
                Segment::Content(0xE0..=0xEF | 0xFE, _) => {}
                Segment::Content(marker, content) => push_segment(out, marker, content),
            }
        }
    }
}

/// Index of the next marker's code. Between markers stands entropy-coded data, in which `FF 00` is an escaped
/// `FF`.
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
