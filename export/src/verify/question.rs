//! The question that a bundle is verified with: a picture and a few words about it.

use std::path::Path;

use arrcoc_bundle::Bundle;
use arrcoc_bundle::names::axis;
use arrcoc_runtime::image::{ImageLimits, decode};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::VerifyError;

/// Words of the random question.
const WORDS: [&str; 16] = [
    "what", "is", "the", "of", "left", "colour", "many", "table", "42", "where", "name", "small", "and",
    "behind", "read", "line",
];

/// How many of them: few enough for a tokenizer of bytes and a context of 512.
const LENGTH: usize = 5;

/// Width and height of the random picture, pixels. Families scale pictures to what their encoders take.
/// Some give a visual token its row and column: both must vary, and must not be mistaken for each other.
const SIZE: [usize; 2] = [512, 320];

/// A picture file, and what is asked about it.
pub(super) struct Question {
    pub(super) picture: Vec<u8>,
    pub(super) text: String,
}

impl Question {
    /// The user's picture, or a random one, with random words. The same seed gives the same question.
    pub(super) fn new(picture: Option<&Path>, seed: u64) -> Result<Self, VerifyError> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let words: Vec<&str> = (0..LENGTH).map(|_| WORDS[rng.next_u32() as usize % WORDS.len()]).collect();
        let text = words.join(" ") + "?";
        let picture = match picture {
            Some(path) => read(path)?,
            None => random_picture(&mut rng),
        };
        Ok(Self { picture, text })
    }
}

/// A picture file that can be decoded.
fn read(path: &Path) -> Result<Vec<u8>, VerifyError> {
    let bytes = std::fs::read(path).map_err(|source| VerifyError::Read { path: path.to_owned(), source })?;
    match decode::decode(&bytes, &ImageLimits::default()) {
        Ok(_) => Ok(bytes),
        Err(source) => Err(VerifyError::Image { path: path.to_owned(), source }),
    }
}

/// The smallest input size of a bundle whose encoder has several, where even that has a patch for every token
/// of the largest budget; `None` for the native one.
pub(super) fn smallest_size(bundle: &Bundle) -> Option<usize> {
    let graphs = &bundle.manifest().graphs;
    let least = |axis: &str| graphs.values().find_map(|graph| graph.axes.get(axis)).map(|range| range.min);
    let (height, patches) = (least(axis::HEIGHT)?, least(axis::PATCHES)?);
    let largest = *bundle.manifest().vision.token_budgets.last()?;
    (patches >= largest as u64).then_some(height as usize)
}

/// A bitmap file: a coarse random pattern, as pictures are smooth, with noise on it, as they are not quite.
fn random_picture(rng: &mut ChaCha8Rng) -> Vec<u8> {
    const CELLS: usize = 16;
    let [width, height] = SIZE;
    let coarse: Vec<u32> = (0..3 * CELLS * CELLS).map(|_| rng.next_u32() % 230).collect();
    let mut pixels = Vec::with_capacity(3 * width * height);
    for y in 0..height {
        for x in 0..width {
            for channel in 0..3 {
                let cell = (channel * CELLS + y * CELLS / height) * CELLS + x * CELLS / width;
                pixels.push((coarse[cell] + rng.next_u32() % 26) as u8);
            }
        }
    }
    bitmap(SIZE.map(|side| side as u32), &pixels)
}

/// A Windows bitmap of interleaved 24-bit pixels, whose rows need no padding
/// (<https://learn.microsoft.com/en-us/windows/win32/gdi/bitmap-storage>).
fn bitmap([width, height]: [u32; 2], pixels: &[u8]) -> Vec<u8> {
    const HEADERS: u32 = 14 + 40;
    let length = pixels.len() as u32;
    let mut file = b"BM".to_vec();
    // File header: size, reserved, where the pixels begin. Then the size of the second header, width and
    // height.
    for number in [HEADERS + length, 0, HEADERS, 40, width, height] {
        file.extend(number.to_le_bytes());
    }
    // One plane of 24 bits.
    file.extend([1, 0, 24, 0]);
    // Uncompressed, size of the pixels, resolution, and no palette.
    for number in [0, length, 2835, 2835, 0, 0] {
        file.extend(number.to_le_bytes());
    }
    file.extend(pixels);
    file
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn random_pictures_can_be_read_and_follow_the_seed() {
        let question = |seed| Question::new(None, seed).unwrap();
        let (first, again, other) = (question(1), question(1), question(2));
        assert!(first.picture == again.picture && first.text == again.text);
        assert!(first.picture != other.picture && first.text != other.text);
        let image = decode::decode(&first.picture, &ImageLimits::default()).unwrap();
        assert_eq!(image.pixels.dimensions(), (SIZE[0] as u32, SIZE[1] as u32));
    }
}
