//! The safetensors header: an 8-byte little-endian length, then that many bytes of JSON, then the tensors'
//! bytes.
//!
//! Format: <https://github.com/huggingface/safetensors#format>. Only the header is read here, and nothing in
//! it is believed before it is checked: the result covers the rest of the file exactly, without holes or
//! overlaps.

use std::fmt;
use std::io::Read;
use std::ops::Range;

use arrcoc_bundle::quote::{Brief, excerpt, one_line};
use arrcoc_bundle::small::{LFS_ADVICE, is_lfs_pointer};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

/// The longest header that is read, bytes: the limit of the reference implementation.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Longest name of a tensor, bytes: it stands in messages. PyTorch's are seldom longer than 100.
const MOST_NAME: usize = 500;

/// Element types of the safetensors format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Dtype {
    Bool,
    U8,
    I8,
    U16,
    I16,
    F16,
    Bf16,
    U32,
    I32,
    F32,
    U64,
    I64,
    F64,
    F8E4m3,
    F8E5m2,
}

/// Every dtype with its name in the file and its size in bytes.
const DTYPES: [(Dtype, &str, usize); 15] = [
    (Dtype::Bool, "BOOL", 1),
    (Dtype::U8, "U8", 1),
    (Dtype::I8, "I8", 1),
    (Dtype::U16, "U16", 2),
    (Dtype::I16, "I16", 2),
    (Dtype::F16, "F16", 2),
    (Dtype::Bf16, "BF16", 2),
    (Dtype::U32, "U32", 4),
    (Dtype::I32, "I32", 4),
    (Dtype::F32, "F32", 4),
    (Dtype::U64, "U64", 8),
    (Dtype::I64, "I64", 8),
    (Dtype::F64, "F64", 8),
    (Dtype::F8E4m3, "F8_E4M3", 1),
    (Dtype::F8E5m2, "F8_E5M2", 1),
];

impl Dtype {
    /// The dtype of a name as the format writes it.
    pub fn parse(name: &str) -> Option<Self> {
        DTYPES.iter().find(|(_, known, _)| *known == name).map(|(dtype, _, _)| *dtype)
    }

    /// The name as the format writes it.
    pub fn name(self) -> &'static str {
        DTYPES[self as usize].1
    }

    /// Bytes per element.
    pub fn size(self) -> usize {
        DTYPES[self as usize].2
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorEntry {
    /// Name.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Shape, outermost axis first; empty for a scalar.
    pub shape: Vec<usize>,
    /// Its bytes, from the start of the file.
    pub bytes: Range<u64>,
}

/// Why a file is not a sound safetensors file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The file could not be read.
    #[error("it cannot be read")]
    Io(#[from] std::io::Error),
    /// Too short for the length field.
    #[error(
        "expected at least 8 bytes, found {found}: the file is empty or truncated; copy or download it again"
    )]
    TooShort {
        /// Bytes in the file.
        found: u64,
    },
    /// The file itself is not there.
    #[error("{LFS_ADVICE}")]
    Pointer,
    /// The header does not fit the file.
    #[error(
        "its header claims {header} bytes, but only {available} follow: the file is truncated, or not safetensors at all"
    )]
    LargerThanFile {
        /// Bytes that the length field claims.
        header: u64,
        /// Bytes after the length field.
        available: u64,
    },
    /// Beyond [`MAX_HEADER_BYTES`].
    #[error(
        "its header claims {header} bytes; the limit is {MAX_HEADER_BYTES}: the file is damaged or hostile"
    )]
    TooLong {
        /// Bytes that the length field claims.
        header: u64,
    },
    /// Not the JSON that the format asks for.
    #[error("its header is not the JSON of a safetensors file")]
    Json(#[source] Brief<serde_json::Error>),
    /// A name appears twice.
    #[error("tensor `{tensor}` appears twice in the header")]
    Duplicate {
        /// The name.
        tensor: String,
    },
    /// A name that no message could repeat.
    #[error(
        "a tensor's name begins with `{found}`; expected at most {MOST_NAME} bytes, and no control characters: the file is \
         damaged or hostile"
    )]
    Name {
        /// The beginning of the name.
        found: String,
    },
    /// A dtype that this reader does not know.
    #[error(
        "tensor `{tensor}` has dtype `{dtype}`; known are BOOL, U8 to U64, I8 to I64, F8_E4M3, F8_E5M2, F16, BF16, F32, F64"
    )]
    UnknownDtype {
        /// The tensor.
        tensor: String,
        /// The beginning of its dtype.
        dtype: String,
    },
    /// Shape and byte range contradict each other.
    #[error("tensor `{tensor}`: {dtype} {shape} needs {expected}, but its data_offsets are [{begin}, {end}]")]
    Size {
        /// The tensor.
        tensor: String,
        /// Its dtype.
        dtype: Dtype,
        /// The beginning of its shape.
        shape: String,
        /// What the shape needs, in words: a number of bytes, or that there is no such number.
        expected: String,
        /// Start of its range.
        begin: u64,
        /// End of its range.
        end: u64,
    },
    /// A tensor's bytes lie beyond the end of the file.
    #[error(
        "tensor `{tensor}` ends at byte {end} of the data, but the file holds {available}: it is truncated; copy or download it again"
    )]
    Truncated {
        /// The tensor.
        tensor: String,
        /// End of its range.
        end: u64,
        /// Bytes of data in the file.
        available: u64,
    },
    /// Two tensors share bytes.
    #[error("tensors `{first}` and `{second}` overlap at byte {at} of the data")]
    Overlap {
        /// The one that starts earlier.
        first: String,
        /// The other.
        second: String,
        /// First shared byte.
        at: u64,
    },
    /// Bytes that belong to no tensor.
    #[error("bytes {from} to {to} of the data belong to no tensor: the format allows no holes")]
    Hole {
        /// First byte of the hole.
        from: u64,
        /// First byte after it.
        to: u64,
    },
}

/// Reads and checks the header of a file of `file_bytes` bytes; tensors come back in the order of their
/// bytes.
///
/// # Errors
/// [`HeaderError`], before any allocation that the file's size does not justify.
pub fn read_header(source: &mut impl Read, file_bytes: u64) -> Result<Vec<TensorEntry>, HeaderError> {
    let Some(available) = file_bytes.checked_sub(8) else {
        return Err(HeaderError::TooShort { found: file_bytes });
    };
    let mut length = [0; 8];
    source.read_exact(&mut length)?;
    if is_lfs_pointer(&length) {
        return Err(HeaderError::Pointer);
    }
    let header = u64::from_le_bytes(length);
    if header > available {
        return Err(HeaderError::LargerThanFile { header, available });
    }
    if header > MAX_HEADER_BYTES {
        return Err(HeaderError::TooLong { header });
    }
    let mut json = Vec::new();
    source.take(header).read_to_end(&mut json)?;
    let RawHeader(raw) = serde_json::from_slice(&json).map_err(|error| HeaderError::Json(Brief(error)))?;
    drop(json);
    let mut tensors = raw
        .into_iter()
        .map(|(name, tensor)| check_tensor(name, tensor, available - header))
        .collect::<Result<Vec<_>, _>>()?;
    check_cover(&mut tensors, available - header)?;
    for tensor in &mut tensors {
        tensor.bytes = tensor.bytes.start + 8 + header..tensor.bytes.end + 8 + header;
    }
    Ok(tensors)
}

/// Checks one tensor by itself; its range stays relative to the data.
fn check_tensor(name: String, raw: RawTensor, available: u64) -> Result<TensorEntry, HeaderError> {
    if one_line(&name, MOST_NAME) != name {
        return Err(HeaderError::Name { found: excerpt(&name) });
    }
    let Some(dtype) = Dtype::parse(&raw.dtype) else {
        return Err(HeaderError::UnknownDtype { tensor: name, dtype: excerpt(&raw.dtype) });
    };
    let [begin, end] = raw.data_offsets;
    let shown = || excerpt(&format!("{:?}", raw.shape));
    let bytes = raw.shape.iter().try_fold(dtype.size() as u64, |bytes, &n| bytes.checked_mul(n));
    if bytes.is_none() || end.checked_sub(begin) != bytes {
        let expected =
            bytes.map_or("more bytes than there are numbers for".to_owned(), |n| format!("{n} bytes"));
        return Err(HeaderError::Size { tensor: name, dtype, shape: shown(), expected, begin, end });
    }
    if end > available {
        return Err(HeaderError::Truncated { tensor: name, end, available });
    }
    // The product fits a u64, but with a zero among the factors a single one might not fit a 32-bit usize.
    let shape = raw.shape.iter().map(|&n| usize::try_from(n)).collect::<Result<Vec<_>, _>>();
    let Ok(shape) = shape else {
        let expected = "an axis longer than this machine can address".to_owned();
        return Err(HeaderError::Size { tensor: name, dtype, shape: shown(), expected, begin, end });
    };
    Ok(TensorEntry { name, dtype, shape, bytes: begin..end })
}

/// Sorts the tensors by place, and checks that they cover the data exactly and that no name repeats.
fn check_cover(tensors: &mut [TensorEntry], available: u64) -> Result<(), HeaderError> {
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(pair) = tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(HeaderError::Duplicate { tensor: pair[0].name.clone() });
    }
    tensors.sort_by_key(|tensor| (tensor.bytes.start, tensor.bytes.end));
    let mut covered = 0;
    for (i, tensor) in tensors.iter().enumerate() {
        let begin = tensor.bytes.start;
        if begin > covered {
            return Err(HeaderError::Hole { from: covered, to: begin });
        }
        if begin < covered {
            // Sorted and gapless so far, so the tensor before this one is the one that reaches into it.
            let first = tensors[i - 1].name.clone();
            return Err(HeaderError::Overlap { first, second: tensor.name.clone(), at: begin });
        }
        covered = tensor.bytes.end;
    }
    if covered < available {
        return Err(HeaderError::Hole { from: covered, to: available });
    }
    Ok(())
}

#[derive(Deserialize)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// The header's entries in file order; a map type would drop duplicate names without a word.
struct RawHeader(Vec<(String, RawTensor)>);

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<serde::de::IgnoredAny>()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(RawHeader(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn dtype_table_is_in_the_order_of_the_enum() {
        for (i, (dtype, name, _)) in DTYPES.iter().enumerate() {
            assert_eq!(*dtype as usize, i);
            assert_eq!(Dtype::parse(name), Some(*dtype));
        }
    }

    #[test]
    fn offsets_are_made_absolute() {
        let json = br#"{"b":{"dtype":"BF16","shape":[2],"data_offsets":[4,8]},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#;
        let mut file = (json.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(json);
        file.extend_from_slice(&[0; 8]);
        let tensors = read_header(&mut file.as_slice(), file.len() as u64).unwrap();
        assert_eq!(tensors[0].name, "a");
        assert_eq!(tensors[1].bytes, file.len() as u64 - 4..file.len() as u64);
        assert_eq!((tensors[1].dtype, tensors[1].shape.as_slice()), (Dtype::Bf16, [2].as_slice()));
    }
}
