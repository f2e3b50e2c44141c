//! `Content-Encoding`: bodies that a client has compressed, decoded as they arrive into a buffer that the
//! caller bounds.

use std::io::{self, Write};

use axum::http::HeaderMap;
use axum::http::header::CONTENT_ENCODING;
use flate2::write::{MultiGzDecoder, ZlibDecoder};

use arrcoc_bundle::quote::quote;

use crate::error::ApiError;

/// How a body is coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    /// Not at all.
    Identity,
    Gzip,
    /// zlib's format, as HTTP has it.
    Deflate,
}

impl Coding {
    /// What the headers say.
    ///
    /// # Errors
    /// 415 for another coding, or for several.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let mut coding = Self::Identity;
        for value in headers.get_all(CONTENT_ENCODING) {
            for name in value.to_str().unwrap_or("something else").split(',').map(str::trim) {
                let next = match name.to_ascii_lowercase().as_str() {
                    "identity" | "" => continue,
                    "gzip" | "x-gzip" => Self::Gzip,
                    "deflate" => Self::Deflate,
                    _ => return Err(ApiError::content_coding(&quote(name))),
                };
                if coding != Self::Identity {
                    return Err(ApiError::content_coding("several"));
                }
                coding = next;
            }
        }
        Ok(coding)
    }
}

/// A buffer that takes so much and no more.
#[derive(Debug, Default)]
pub(crate) struct Room {
    pub(crate) bytes: Vec<u8>,
    /// How long `bytes` may become for now.
    pub(crate) most: usize,
}

impl Write for Room {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.most.saturating_sub(self.bytes.len()).min(bytes.len());
        if taken == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.bytes.extend_from_slice(bytes.get(..taken).unwrap_or_default());
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a body, decoded, into a [`Room`].
pub(crate) enum Decoder {
    Identity(Room),
    Gzip(MultiGzDecoder<Room>),
    Deflate(ZlibDecoder<Room>),
}

impl Decoder {
    pub(crate) fn new(coding: Coding) -> Self {
        match coding {
            Coding::Identity => Self::Identity(Room::default()),
            Coding::Gzip => Self::Gzip(MultiGzDecoder::new(Room::default())),
            Coding::Deflate => Self::Deflate(ZlibDecoder::new(Room::default())),
        }
    }

    pub(crate) fn room(&mut self) -> &mut Room {
        match self {
            Self::Identity(room) => room,
            Self::Gzip(decoder) => decoder.get_mut(),
            Self::Deflate(decoder) => decoder.get_mut(),
        }
    }

    /// Takes some of `input` in and says how much; [`Step::Full`] when the room must grow first.
    pub(crate) fn step(&mut self, input: &[u8]) -> Step {
        let taken = match self {
            Self::Identity(room) => room.write(input),
            Self::Gzip(decoder) => decoder.write(input),
            Self::Deflate(decoder) => decoder.write(input),
        };
        Step::of(taken)
    }

    /// Brings out what is left when the body has ended; [`Step::Taken`] is the end.
    pub(crate) fn finish(&mut self) -> Step {
        let finished = match self {
            Self::Identity(_) => Ok(()),
            Self::Gzip(decoder) => decoder.try_finish(),
            Self::Deflate(decoder) => decoder.try_finish(),
        };
        Step::of(finished.map(|()| 1))
    }
}

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Taken(usize),
    Full,
    Broken,
}

impl Step {
    fn of(result: io::Result<usize>) -> Self {
        match result {
            // A decoder that takes nothing of what there is has seen its end before the body's.
            Ok(0) => Self::Broken,
            Ok(taken) => Self::Taken(taken),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Self::Full,
            Err(_) => Self::Broken,
        }
    }
}
