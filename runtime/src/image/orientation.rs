//! How a picture is to be turned, as PIL's `ImageOps.exif_transpose` finds it: the orientation of EXIF, and
//! where EXIF has none, that of XMP.
//!
//! Damaged metadata is no reason to refuse a picture: where PIL raises, the picture stays as it is stored.

use std::borrow::Cow;

use ::image::metadata::Orientation;

use super::allocate::{self, NoMemory};

/// Most bytes of one piece of metadata that are looked at, and most that one compressed text may inflate to.
pub(super) const MOST_METADATA: usize = 1 << 20;

const TAG: u16 = 0x0112;
const PREFIX: &[u8] = b"Exif\0\0";

/// A text or bytes, which PIL tells apart where it expects bytes.
#[derive(Debug)]
pub(super) enum Value<'a> {
    Bytes(Cow<'a, [u8]>),
    /// A text where bytes are expected: PIL raises.
    Text,
}

/// What a file says that may hold an orientation. Later entries of a file replace earlier ones.
#[derive(Debug, Default)]
pub(super) struct Metadata<'a> {
    /// EXIF: a TIFF directory, with or without the prefix that JPEG gives it.
    pub(super) exif: Option<Value<'a>>,
    /// ImageMagick's `Raw profile type exif`: EXIF as a text of hexadecimal digits.
    pub(super) raw_profile: Option<Cow<'a, [u8]>>,
    /// A PNG text under the key of XMP.
    pub(super) xmp_text: Option<Cow<'a, [u8]>>,
    /// XMP.
    pub(super) xmp: Option<Value<'a>>,
}

impl Metadata<'_> {
    /// How the picture is to be turned.
    pub(super) fn orientation(&self) -> Result<Orientation, NoMemory> {
        let value = self.find()?.unwrap_or(1);
        Ok(Orientation::from_exif(value).unwrap_or(Orientation::NoTransforms))
    }

    /// The orientation's number; `None` where there is none, or where PIL gives up.
    fn find(&self) -> Result<Option<u8>, NoMemory> {
        let profile;
        let exif = match (&self.exif, &self.raw_profile) {
            (Some(Value::Bytes(exif)), _) => Some(exif.as_ref()),
            (Some(Value::Text), _) => return Ok(None),
            (None, Some(text)) => {
                let Some(bytes) = unhex(text)? else { return Ok(None) };
                profile = bytes;
                Some(profile.as_slice())
            }
            (None, None) => None,
        };
        if let Some(exif) = exif {
            match orientation_tag(exif) {
                Ok(Some(value)) => return Ok(value),
                Ok(None) => {}
                Err(Malformed) => return Ok(None),
            }
        }
        Ok(match (self.xmp_text.as_deref().filter(|text| !text.is_empty()), &self.xmp) {
            (Some(text), _) => orientation_in_xmp(text),
            (None, Some(Value::Bytes(xmp))) => orientation_in_xmp(xmp),
            (None, _) => None,
        })
    }
}

/// The profile's bytes: hexadecimal digits from the fourth line on. Blanks may stand between bytes.
fn unhex(text: &[u8]) -> Result<Option<Vec<u8>>, NoMemory> {
    let text = &text[..text.len().min(MOST_METADATA)];
    let digits = text.splitn(4, |&byte| byte == b'\n').nth(3).unwrap_or_default();
    let mut bytes = allocate::room(digits.len().div_ceil(2))?;
    // Lines are joined before digits are paired, so a line may end inside a byte.
    let mut digits = digits.iter().copied().filter(|&byte| byte != b'\n');
    while let Some(first) = digits.next() {
        if matches!(first, b' ' | b'\t' | b'\r' | 0x0B | 0x0C) {
            continue;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let Some((high, low)) = digit(first).zip(digits.next().and_then(digit)) else { return Ok(None) };
        bytes.push((high << 4 | low) as u8);
    }
    Ok(Some(bytes))
}

/// The first `tiff:Orientation="N"` or `<tiff:Orientation>N`.
fn orientation_in_xmp(xmp: &[u8]) -> Option<u8> {
    const NAME: &[u8] = b"tiff:Orientation";
    let xmp = &xmp[..xmp.len().min(MOST_METADATA)];
    xmp.windows(NAME.len()).enumerate().filter(|(_, window)| *window == NAME).find_map(|(at, _)| {
        let rest = &xmp[at + NAME.len()..];
        let value = rest.strip_prefix(b"=\"").or_else(|| rest.strip_prefix(b">"))?;
        value.first().filter(|digit| digit.is_ascii_digit()).map(|digit| digit - b'0')
    })
}

/// EXIF that PIL does not read.
#[derive(Debug)]
struct Malformed;

/// The orientation of EXIF's first directory: `None` where the tag is missing, `Some(None)` where it is there
/// and holds no number of eight bits.
fn orientation_tag(exif: &[u8]) -> Result<Option<Option<u8>>, Malformed> {
    let mut tiff = exif;
    for _ in 0..2 {
        tiff = tiff.strip_prefix(PREFIX).unwrap_or(tiff);
    }
    if tiff.is_empty() {
        return Ok(None);
    }
    let little = match tiff.get(..4) {
        // The second of each is wrong, and PIL takes it.
        Some(b"II*\0" | b"II\0*") => true,
        Some(b"MM\0*" | b"MM*\0") => false,
        _ => return Err(Malformed),
    };
    let tiff = Tiff { bytes: tiff, little };
    let Some(directory) = tiff.u32(4) else { return Err(Malformed) };
    Ok(tiff.tag(directory as usize))
}

struct Tiff<'a> {
    bytes: &'a [u8],
    little: bool,
}

impl Tiff<'_> {
    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let mut array: [u8; N] = self.bytes.get(at..at.checked_add(N)?)?.try_into().ok()?;
        if !self.little {
            array.reverse();
        }
        Some(array)
    }

    fn u16(&self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    fn u32(&self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    /// The orientation of the directory at `at`. A directory that ends early holds the entries before its
    /// end.
    fn tag(&self, at: usize) -> Option<Option<u8>> {
        let mut data = 0_u64;
        for index in 0..usize::from(self.u16(at)?) {
            let entry = at + 2 + index * 12;
            self.bytes.get(entry..entry + 12)?;
            let (tag, kind, count) = (self.u16(entry)?, self.u16(entry + 2)?, self.u32(entry + 4)?);
            let Some(unit) = unit_size(kind) else { continue };
            let size = u64::from(count) * unit;
            let mut place = entry + 8;
            if size > 4 {
                data += size;
                if data > self.bytes.len() as u64 {
                    continue;
                }
                place = self.u32(place)? as usize;
                self.bytes.get(place..place.checked_add(size as usize)?)?;
            }
            if tag == TAG && size > 0 {
                return Some(self.number(kind, place));
            }
        }
        None
    }

    /// The first value at `at`, where it is a whole number of eight bits.
    fn number(&self, kind: u16, at: usize) -> Option<u8> {
        let whole =
            |value: f64| (value.fract() == 0.0 && (0.0..256.0).contains(&value)).then_some(value as u8);
        match kind {
            3 | 8 => whole(f64::from(self.u16(at)?)),
            4 | 9 | 13 => whole(f64::from(self.u32(at)?)),
            5 | 10 => whole(f64::from(self.u32(at)?) / f64::from(self.u32(at + 4)?)),
            6 => self.array::<1>(at).map(|[byte]| byte),
            11 => whole(f64::from(f32::from_le_bytes(self.array(at)?))),
            12 => whole(f64::from_le_bytes(self.array(at)?)),
            16 => u8::try_from(u64::from_le_bytes(self.array(at)?)).ok(),
            // Bytes and texts are no numbers.
            _ => None,
        }
    }
}

/// Bytes of one value of a TIFF type.
fn unit_size(kind: u16) -> Option<u64> {
    match kind {
        1 | 2 | 6 | 7 => Some(1),
        3 | 8 => Some(2),
        4 | 9 | 11 | 13 => Some(4),
        5 | 10 | 12 | 16 => Some(8),
        _ => None,
    }
}
