//! Against PIL and transformers (`tests/fixtures/make_images.py`), and against hostile files.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;

use arrcoc_tests::allocated::refusing;
use proptest::prelude::*;

use super::decode::{decode, size};
use super::resample::resize;
use super::*;
use crate::vision::families::arr_coc_ovis::preprocess::Preprocess;
use arrcoc_bundle::processors::Resampling;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/images").join(name)
}

fn read(name: &str) -> Vec<u8> {
    fs::read(fixture(name)).unwrap()
}

fn decode_fixture(name: &str) -> DecodedImage {
    // One of the pictures is a line.
    let limits = ImageLimits { max_aspect: 300, ..ImageLimits::default() };
    decode(&read(name), &limits).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn error(bytes: &[u8]) -> ImageError {
    decode(bytes, &ImageLimits::default()).unwrap_err()
}

/// Largest difference of any byte.
#[track_caller]
fn difference(found: &RgbImage, expected: &RgbImage) -> u8 {
    assert_eq!(found.dimensions(), expected.dimensions());
    found.iter().zip(expected.iter()).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

/// Every fixture, with the largest difference from PIL that its format may have: lossless ones none, lossy
/// ones what two correct decoders may differ by (inverse DCT, chroma upsampling, colour conversion).
const PICTURES: [(&str, u8); 30] = [
    ("rgb.png", 0),
    ("tall.png", 0),
    ("line.png", 0),
    ("grey.png", 0),
    ("bilevel.png", 0),
    ("palette.png", 0),
    ("rgba.png", 0),
    ("grey_alpha.png", 0),
    ("grey16.png", 0),
    ("rgb16.png", 0),
    ("grey_alpha16.png", 0),
    ("rgba16.png", 0),
    ("rgb.bmp", 0),
    ("lossless.webp", 0),
    ("animated.webp", 0),
    ("animated.gif", 0),
    ("orientation_6.png", 0),
    ("orientation_6.webp", 0),
    ("lossy.webp", 4),
    ("baseline.jpg", 4),
    ("progressive.jpg", 4),
    ("grey.jpg", 1),
    ("cmyk.jpg", 2),
    ("orientation_1.jpg", 4),
    ("orientation_2.jpg", 4),
    ("orientation_3.jpg", 4),
    ("orientation_4.jpg", 4),
    ("orientation_5.jpg", 4),
    ("orientation_7.jpg", 4),
    ("orientation_8.jpg", 4),
];

#[test]
fn every_kind_of_file_decodes_as_pil_decodes_it() {
    let mut failures = Vec::new();
    for (name, allowed) in PICTURES {
        let found = decode_fixture(name);
        let expected = decode_fixture(&format!("decoded/{}.png", name.replace('.', "_")));
        let found = difference(&found.pixels, &expected.pixels);
        if found > allowed {
            failures.push(format!("{name}: differs by {found}, allowed {allowed}"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn the_name_does_not_matter_and_equal_pixels_are_the_same_image() {
    let lossless = decode_fixture("lossless.webp");
    let rgba = decode_fixture("rgba.png");
    assert_eq!(lossless.sha256, rgba.sha256);
    assert_ne!(rgba.sha256, decode_fixture("grey.png").sha256);
}

#[test]
fn what_is_no_image_is_named() {
    let cases: [(&[u8], &str); 6] = [
        (b"", "an empty file"),
        (b"This is a letter, not a picture.", "text that begins with `This is a letter`"),
        (b"%PDF-1.7", "a PDF document"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIF or video file"),
        (b"II*\0\x08\0\0\0", "a file in TIFF format"),
        (&[0xFE, 0xED, 0xFA, 0xCE], "begins with the bytes [fe, ed, fa, ce]"),
    ];
    for (bytes, part) in cases {
        let text = error(bytes).to_string();
        assert!(text.contains("expected a PNG, JPEG, WebP, GIF or BMP") && text.contains(part), "{text}");
    }
}

#[test]
fn limits_are_judged_by_the_header() {
    let huge = read("huge.png");
    assert!(huge.len() < 10_000);
    let limit = ImageLimits::default().max_pixels;
    assert_eq!(error(&huge), ImageError::Pixels { format: "PNG", width: 60_000, height: 60_000, limit });
    let limits = ImageLimits { max_pixels: 56 * 42, ..ImageLimits::default() };
    decode(&read("rgb.png"), &limits).unwrap();
    for name in ["rgb.png", "baseline.jpg", "lossy.webp", "rgb.bmp", "animated.gif"] {
        let limits = ImageLimits { max_pixels: 32 * 24 - 1, ..limits };
        assert!(matches!(decode(&read(name), &limits), Err(ImageError::Pixels { .. })), "{name}");
        let limits = ImageLimits { max_bytes: 100, ..limits };
        assert!(matches!(decode(&read(name), &limits), Err(ImageError::Bytes { limit: 100, .. })), "{name}");
    }
}

#[test]
fn a_truncated_file_is_an_error_and_never_half_a_picture() {
    let names = [
        "rgb.png",
        "baseline.jpg",
        "progressive.jpg",
        "lossy.webp",
        "lossless.webp",
        "rgb.bmp",
        "animated.gif",
    ];
    for name in names {
        let (bytes, whole) = (read(name), decode_fixture(name));
        for keep in (0..bytes.len()).step_by(7) {
            match decode(&bytes[..keep], &ImageLimits::default()) {
                // What ends a file, and the later frames of an animation, may be missing.
                Ok(image) => assert_eq!(image.sha256, whole.sha256, "{name} cut at {keep}"),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
        // The first third of the animation ends inside its first frame.
        let found = error(&bytes[..bytes.len() / 3]);
        assert!(matches!(found, ImageError::Truncated { .. }), "{name}: {found}");
    }
}

#[test]
fn a_photograph_decodes_and_its_truncation_says_where() {
    let bytes = read("rocket.jpg");
    assert_eq!(decode_fixture("rocket.jpg").pixels.dimensions(), (640, 427));
    let text = error(&bytes[..60_000]).to_string();
    assert!(text.contains("JPEG image is truncated") && text.contains("60000 bytes"), "{text}");
}

#[test]
fn resizing_matches_pil_byte_for_byte() {
    for name in ["rgb", "tall"] {
        let image = decode_fixture(&format!("{name}.png"));
        for size in [32, 64, 96] {
            let expected = decode_fixture(&format!("resized/{name}_{size}.png")).pixels;
            let (width, height) = expected.dimensions();
            let values = preprocess(size).apply(&image).unwrap();
            assert_eq!(values.resized, [width, height], "the size itself must be transformers'");
            let found = resize(&image.pixels, width as usize, height as usize, Resampling::Bilinear).unwrap();
            assert_eq!(found, *expected.as_raw(), "{name} at {size}");
        }
    }
}

/// ImageNet statistics, transformers' default for SAM.
fn preprocess(size: usize) -> Preprocess {
    Preprocess::new(size, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
}

#[test]
fn normalisation_matches_transformers_for_every_byte() {
    let file = read("normalised.npy");
    let expected: Vec<f32> = file[file.len() - 256 * 3 * 4..]
        .chunks(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    let pixels = RgbImage::from_fn(16, 16, |x, y| ::image::Rgb([(y * 16 + x) as u8; 3]));
    let image = DecodedImage { pixels: Arc::new(pixels), sha256: [0; 32] };
    let values = preprocess(16).apply(&image).unwrap();
    let found = values.tensor.as_slice::<f32>().unwrap();
    for (byte, expected) in expected.chunks(3).enumerate() {
        for (channel, expected) in expected.iter().enumerate() {
            let found = found[channel * 256 + byte];
            assert!((found - expected).abs() <= 2e-6, "byte {byte}, channel {channel}: {found}, {expected}");
        }
    }
}

#[test]
fn padding_is_zero_to_the_right_and_below() {
    let image = decode_fixture("tall.png");
    let values = preprocess(64).apply(&image).unwrap();
    assert_eq!(values.tensor.shape(), [1, 3, 64, 64]);
    let [width, height] = values.resized.map(|side| side as usize);
    assert_eq!((width, height), (37, 64));
    for (at, value) in values.tensor.as_slice::<f32>().unwrap().iter().enumerate() {
        let (x, y) = (at % 64, at / 64 % 64);
        assert_eq!(*value == 0.0, x >= width || y >= height, "at {x}, {y}");
    }
}

#[test]
fn a_side_never_vanishes() {
    let values = preprocess(64).apply(&decode_fixture("line.png")).unwrap();
    assert_eq!((values.original, values.resized), ([300, 1], [64, 1]));
}

/// Sizes from 4 KiB, which is less than any picture here takes, to more than one takes.
fn sizes() -> impl Iterator<Item = usize> {
    (12..28).map(|bit| 1 << bit)
}

#[test]
fn a_picture_for_which_there_is_no_memory_fails_and_says_how_much_it_takes() {
    let limits = ImageLimits { max_aspect: 300, ..ImageLimits::default() };
    let photographs = ["astronaut.jpg", "rocket.jpg"];
    for name in PICTURES.map(|(name, _)| name).into_iter().chain(photographs) {
        let (file, mut outcomes) = (read(name), Vec::new());
        for most in sizes() {
            let found = refusing(most, || decode(&file, &limits));
            match &found {
                Ok(_) => {}
                Err(ImageError::Memory { bytes }) => assert!(*bytes > most, "{name}: {bytes} of {most}"),
                Err(error) => panic!("{name}: {error}"),
            }
            outcomes.push(found.is_ok());
        }
        assert!(outcomes.is_sorted() && !outcomes[0] && outcomes[outcomes.len() - 1], "{name}: {outcomes:?}");
    }
}

#[test]
fn preparing_a_picture_without_memory_fails_and_says_how_much_it_takes() {
    // As large as the input, smaller, wider, higher.
    for (width, height) in [(512, 512), (300, 200), (2000, 100), (100, 2000), (512, 40), (1000, 512)] {
        let image = DecodedImage { pixels: Arc::new(RgbImage::new(width, height)), sha256: [0; 32] };
        let preprocess = preprocess(512);
        let mut outcomes = Vec::new();
        for most in sizes() {
            match refusing(most, || preprocess.apply(&image)) {
                Ok(_) => outcomes.push(true),
                Err(ImageError::Memory { bytes }) => {
                    assert!(bytes > most, "{width} x {height}: {bytes} of {most}");
                    outcomes.push(false);
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert!(outcomes.is_sorted() && !outcomes[0] && outcomes[15], "{width} x {height}: {outcomes:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Flipped bytes anywhere in any format: no panic, and never more pixels than allowed.
    #[test]
    fn damaged_files_never_panic(
        picture in 0..PICTURES.len(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        truncate in prop::bool::weighted(0.3),
    ) {
        let mut bytes = read(PICTURES[picture].0);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if truncate {
            bytes.truncate(cut.index(bytes.len()));
        }
        let limits = ImageLimits { max_pixels: 1 << 16, ..ImageLimits::default() };
        if let Ok(image) = decode(&bytes, &limits) {
            let (width, height) = image.pixels.dimensions();
            prop_assert!(width * height <= 1 << 16 && width * height > 0);
            prop_assert_eq!(size(&bytes, &limits), Ok([width, height]), "the header said otherwise");
        }
    }

    /// Bytes that only begin like an image.
    #[test]
    fn junk_behind_a_signature_never_panics(signature in 0_usize..5, junk in prop::collection::vec(any::<u8>(), 0..200)) {
        let signatures: [&[u8]; 5] =
            [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBPVP8 ", b"GIF89a", b"BM"];
        let bytes = [signatures[signature], &junk].concat();
        let limits = ImageLimits { max_pixels: 1 << 16, ..ImageLimits::default() };
        prop_assert!(decode(&bytes, &limits).is_err());
    }
}
