//! `data:image/png;base64,...` (RFC 2397), for [`super::load`]. Read strictly, except that the data may have
//! line breaks. An error names the place of what is wrong.
//!
//! The size is checked here before the data is decoded, to bound what the server holds. The runtime checks
//! the size of every file against the same setting, wherever the file comes from.

use base64::engine::general_purpose::STANDARD;
use base64::{DecodeError, Engine};

use arrcoc_bundle::quote::excerpt;

/// A data URI that is not an image's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DataUriError {
    /// No comma between header and data.
    #[error("expected data:image/TYPE;base64,DATA; found no comma")]
    NoComma,
    /// Not an image.
    #[error("expected the media type image/TYPE, found `{0}`")]
    MediaType(String),
    /// Not base64.
    #[error("expected `;base64` before the comma, found `{0}`")]
    NotBase64(String),
    /// Not the base64 alphabet.
    #[error("invalid base64: byte 0x{byte:02x} at offset {offset} of the data")]
    InvalidByte {
        /// Where.
        offset: usize,
        /// What.
        byte: u8,
    },
    /// Cut off or wrongly padded.
    #[error("invalid base64: the data is cut off or wrongly padded ({0})")]
    Padding(String),
    /// Nothing there.
    #[error("expected image data after the comma, found none")]
    Empty,
    /// Too much there.
    #[error("the image has {found} bytes; at most {limit} are allowed (limits.image_bytes)")]
    TooLarge {
        /// Bytes found.
        found: usize,
        /// Bytes allowed.
        limit: usize,
    },
}

/// Whether a URL is a data URI, whatever it holds.
pub fn is_data_uri(url: &str) -> bool {
    url.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:"))
}

fn is_break(letter: char) -> bool {
    matches!(letter, '\r' | '\n')
}

/// The bytes of a base64 image data URI. Line breaks in the data count for nothing.
///
/// # Errors
/// [`DataUriError`] says what is wrong and where.
pub fn decode(uri: &str, limit: usize) -> Result<Vec<u8>, DataUriError> {
    let (header, data) = uri.split_once(',').ok_or(DataUriError::NoComma)?;
    let header = header.get(5..).unwrap_or_default();
    let (media_type, parameters) = header.split_once(';').unwrap_or((header, ""));
    if !media_type.get(..6).is_some_and(|prefix| prefix.eq_ignore_ascii_case("image/")) {
        return Err(DataUriError::MediaType(excerpt(media_type)));
    }
    let encoding = parameters.rsplit(';').next().unwrap_or_default();
    if !encoding.eq_ignore_ascii_case("base64") {
        return Err(DataUriError::NotBase64(excerpt(parameters)));
    }
    if data.is_empty() {
        return Err(DataUriError::Empty);
    }
    let padding = data.bytes().rev().take(2).filter(|&b| b == b'=').count();
    let found = (data.len() / 4 * 3).saturating_sub(padding);
    if found > limit {
        return Err(DataUriError::TooLarge { found, limit });
    }
    // `base64` and Python's `encodebytes` break lines.
    let joined: String;
    let data = if data.contains(is_break) {
        joined = data.split(is_break).collect();
        &joined
    } else {
        data
    };
    STANDARD.decode(data).map_err(|error| match error {
        DecodeError::InvalidByte(offset, byte) => DataUriError::InvalidByte { offset, byte },
        other => DataUriError::Padding(other.to_string()),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lines_may_be_broken() {
        let whole = decode("data:image/png;base64,iVBORw0KGgo=", 100).unwrap();
        assert_eq!(decode("data:image/png;base64,iVBO\r\nRw0K\nGgo=\n", 100).unwrap(), whole);
    }

    #[test]
    fn reads_what_is_right() {
        assert_eq!(decode("data:image/png;base64,AAEC", 3).unwrap(), [0, 1, 2]);
        assert_eq!(decode("DATA:Image/JPEG;charset=x;BASE64,AAE=", 2).unwrap(), [0, 1]);
        assert!(is_data_uri("DaTa:,") && !is_data_uri("date:") && !is_data_uri("däta:"));
    }

    #[test]
    fn refuses_what_is_wrong_and_says_where() {
        let cases = [
            ("data:image/png;base64", DataUriError::NoComma),
            ("data:text/plain;base64,AAAA", DataUriError::MediaType("text/plain".into())),
            ("data:,AAAA", DataUriError::MediaType(String::new())),
            ("data:image/png,AAAA", DataUriError::NotBase64(String::new())),
            ("data:image/png;base64;x,AAAA", DataUriError::NotBase64("base64;x".into())),
            ("data:image/png;base64,", DataUriError::Empty),
            ("data:image/png;base64,AA*A", DataUriError::InvalidByte { offset: 2, byte: b'*' }),
            ("data:image/png;base64,AAAA AAAA", DataUriError::InvalidByte { offset: 4, byte: b' ' }),
            ("data:image/png;base64,AAAA%3D", DataUriError::InvalidByte { offset: 4, byte: b'%' }),
            ("data:image/png;base64,AA-_", DataUriError::InvalidByte { offset: 2, byte: b'-' }),
            ("data:image/png;base64,AAECAwQFBgc=", DataUriError::TooLarge { found: 8, limit: 7 }),
        ];
        for (uri, expected) in cases {
            assert_eq!(decode(uri, 7).unwrap_err(), expected, "{uri}");
        }
        for uri in ["data:image/png;base64,AAA", "data:image/png;base64,AAE", "data:image/png;base64,AB=="] {
            let error = decode(uri, 7).unwrap_err();
            assert!(
                matches!(error, DataUriError::Padding(_) | DataUriError::InvalidByte { .. }),
                "{uri}: {error}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_survive(bytes in proptest::collection::vec(0_u8.., 1..200)) {
            let uri = format!("data:image/png;base64,{}", STANDARD.encode(&bytes));
            proptest::prop_assert_eq!(decode(&uri, 200), Ok(bytes));
        }

        #[test]
        fn no_text_breaks_it(text in "(data:)?(image/)?[a-zé;=,+/\u{1F600}]{0,20}(;base64)?,?\\PC{0,20}") {
            if is_data_uri(&text) {
                // Whatever comes back fits the limit.
                proptest::prop_assert!(decode(&text, 8).map_or(0, |bytes| bytes.len()) <= 8);
            }
        }
    }
}
