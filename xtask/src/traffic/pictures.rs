//! Pictures to ask about, and pictures that mean harm.

use std::io::{Cursor, Write as _};
use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

/// A picture of 8-bit RGB.
#[derive(Clone)]
pub(crate) struct Picture {
    width: usize,
    height: usize,
    pixels: Vec<[u8; 3]>,
}

impl Picture {
    /// Reads an RGB PNG.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut reader = png::Decoder::new(Cursor::new(bytes)).read_info()?;
        let mut buffer = vec![0; reader.output_buffer_size().context("too large a picture")?];
        let info = reader.next_frame(&mut buffer)?;
        anyhow::ensure!(info.color_type == png::ColorType::Rgb, "{}: expected RGB", path.display());
        let pixels = buffer.as_chunks::<3>().0.to_vec();
        Ok(Self { width: info.width as usize, height: info.height as usize, pixels })
    }

    /// The same page, shifted around its edges: another picture, which no cache has.
    pub(crate) fn shifted(&self, right: usize, down: usize) -> Self {
        let Self { width, height, .. } = *self;
        let at = |i: usize| {
            let (x, y) = (i % width, i / width);
            self.pixels[(y + height - down % height) % height * width + (x + width - right % width) % width]
        };
        Self { width, height, pixels: (0..width * height).map(at).collect() }
    }

    pub(crate) fn png(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.write_header()?.write_image_data(self.pixels.as_flattened())?;
        Ok(bytes)
    }
}

/// A data URI of a picture, whatever it is.
pub(crate) fn data_uri(bytes: &[u8]) -> String {
    format!("data:image/png;base64,{}", STANDARD.encode(bytes))
}

/// A PNG of one grey level: few bytes, however large.
pub(crate) fn grey_png(width: u32, height: u32) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(width.to_be_bytes());
    header.extend(height.to_be_bytes());
    header.extend([8, 0, 0, 0, 0]);
    let mut left = (width as usize + 1) * height as usize;
    let mut data = ZlibEncoder::new(Vec::new(), Compression::best());
    let zeros = vec![0; left.min(1 << 20)];
    while left > 0 {
        let part = left.min(zeros.len());
        // Writing to memory does not fail.
        data.write_all(&zeros[..part]).unwrap_or_default();
        left -= part;
    }
    [
        &b"\x89PNG\r\n\x1a\n"[..],
        &chunk(b"IHDR", &header),
        &chunk(b"IDAT", &data.finish().unwrap_or_default()),
        &chunk(b"IEND", &[]),
    ]
    .concat()
}

/// A small PNG whose colour profile unpacks to this many bytes.
pub(crate) fn profile_bomb(bytes: usize) -> Vec<u8> {
    let small = grey_png(8, 8);
    let mut data = ZlibEncoder::new(b"bomb\0\0".to_vec(), Compression::best());
    let zeros = vec![0; 1 << 20];
    (0..bytes >> 20).for_each(|_| data.write_all(&zeros).unwrap_or_default());
    let profile = chunk(b"iCCP", &data.finish().unwrap_or_default());
    // Behind the header, which takes 8 + 25 bytes.
    [&small[..33], &profile, &small[33..]].concat()
}

/// A BMP in run lengths with no pixels in it.
pub(crate) fn empty_rle_bmp(side: u32) -> Vec<u8> {
    let mut bmp = b"BM".to_vec();
    let offset: u32 = 14 + 40 + 8;
    bmp.extend((offset + 2).to_le_bytes());
    bmp.extend(0_u32.to_le_bytes());
    bmp.extend(offset.to_le_bytes());
    for word in [40, side, side] {
        bmp.extend(word.to_le_bytes());
    }
    bmp.extend([1, 0, 8, 0]);
    for word in [1_u32, 2, 0, 0, 2, 0] {
        bmp.extend(word.to_le_bytes());
    }
    bmp.extend([0; 8]);
    bmp.extend([0, 1]);
    bmp
}

/// A JPEG that says it has another size than its few bytes hold.
pub(crate) fn stretched_jpeg(jpeg: &[u8], side: u16) -> Vec<u8> {
    let mut jpeg = jpeg.to_vec();
    let frame = jpeg.windows(2).position(|marker| marker == [0xff, 0xc0]);
    if let Some(size) = frame.and_then(|at| jpeg.get_mut(at + 5..at + 9)) {
        let side = side.to_be_bytes();
        size.copy_from_slice(&[side[0], side[1], side[0], side[1]]);
    }
    jpeg
}

/// So many zeros, gzipped.
pub(crate) fn gzip_bomb(bytes: usize) -> Vec<u8> {
    let mut data = GzEncoder::new(Vec::new(), Compression::best());
    let zeros = vec![b' '; 1 << 20];
    (0..bytes >> 20).for_each(|_| data.write_all(&zeros).unwrap_or_default());
    data.finish().unwrap_or_default()
}

fn chunk(name: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(name);
    crc.update(data);
    [&(data.len() as u32).to_be_bytes()[..], name, data, &crc.sum().to_be_bytes()].concat()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_what_it_claims() {
        let png = grey_png(3, 2000);
        let reader = png::Decoder::new(Cursor::new(&png)).read_info().unwrap();
        assert_eq!(reader.info().size(), (3, 2000));
        let bomb = profile_bomb(3 << 20);
        assert!(bomb.len() < 20_000);
        assert!(png::Decoder::new(Cursor::new(&bomb)).read_info().is_ok());
    }

    #[test]
    fn a_shift_around_the_whole_page_changes_nothing() {
        let page = Picture { width: 2, height: 2, pixels: vec![[1; 3], [2; 3], [3; 3], [4; 3]] };
        assert_eq!(page.shifted(2, 2).pixels, page.pixels);
        assert_eq!(page.shifted(1, 0).pixels, [[2; 3], [1; 3], [4; 3], [3; 3]]);
    }
}
