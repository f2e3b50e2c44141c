//! Against tables of what PIL makes of unusual, cut and empty files (`tests/fixtures/make_pil_tables.py`).
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;

use ::image::DynamicImage;
use ::image::metadata::Orientation;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::decode::decode;
use super::*;

fn images() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/images")
}

fn table(name: &str) -> Vec<Value> {
    serde_json::from_slice(&fs::read(images().join("pil").join(name)).unwrap()).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap()).unwrap()
}

fn taken(file: &[u8]) -> Result<DecodedImage, ImageError> {
    decode(file, &ImageLimits::default())
}

/// The picture of the orientation table, before it is turned: 8 x 4 pixels.
fn stored(turned: &DecodedImage, orientation: Orientation) -> RgbImage {
    let back = match orientation {
        Orientation::Rotate90 => Orientation::Rotate270,
        Orientation::Rotate270 => Orientation::Rotate90,
        itself => itself,
    };
    let mut image = DynamicImage::ImageRgb8(RgbImage::clone(&turned.pixels));
    image.apply_orientation(back);
    image.into_rgb8()
}

#[test]
fn orientation_is_found_where_pil_finds_it() {
    let mut failures = Vec::new();
    for row in table("orientation.json") {
        let name = row["name"].as_str().unwrap();
        // Where PIL raises, a picture with damaged metadata is taken as it is stored.
        let expected = row["orientation"].as_u64().unwrap_or(1) as u8;
        let orientation = Orientation::from_exif(expected).unwrap();
        let turned = match taken(&bytes(&row["file"])) {
            Ok(turned) => turned,
            Err(error) => {
                failures.push(format!("{name}: {error}"));
                continue;
            }
        };
        let picture = stored(&turned, orientation);
        // Red rises from left to right and from line to line; lossy files stray by a few levels.
        let red = |x, y| i32::from(picture.get_pixel(x, y)[0]);
        let upright = picture.dimensions() == (8, 4) && red(0, 0) < 12 && red(7, 3) > 236 && {
            let (below, beside) = (red(0, 3), red(7, 0));
            (180..204).contains(&below) && (44..68).contains(&beside)
        };
        if !upright {
            failures.push(format!(
                "{name}: expected orientation {expected}, found {:?}",
                turned.pixels.dimensions()
            ));
        }
    }
    assert!(failures.is_empty(), "{} of them: {failures:#?}", failures.len());
}

#[test]
fn colours_of_jpeg_files_are_libjpegs() {
    // What two correct decoders may differ by: inverse DCT, colour conversion, chroma upsampling.
    const ALLOWED: u8 = 4;
    let mut failures = Vec::new();
    for row in table("colours.json") {
        let (name, expected) = (row["name"].as_str().unwrap(), bytes(&row["pixels"]));
        match taken(&bytes(&row["file"])) {
            Ok(found) => {
                let differs = |(a, b): (&u8, &u8)| a.abs_diff(*b);
                let worst = found.pixels.iter().zip(&expected).map(differs).max().unwrap();
                if found.pixels.len() != expected.len() || worst > ALLOWED {
                    failures.push(format!("{name}: differs by {worst}"));
                }
            }
            Err(error) => failures.push(format!("{name}: {error}")),
        }
    }
    assert!(failures.is_empty(), "{} of them: {failures:#?}", failures.len());
}

/// Files that PIL takes and we refuse: most of their pixels would be made up, or their checksum says that
/// they are damaged.
const STRICTER: [&str; 6] = [
    "png-one-row",
    "png-wrong-checksum-of-data",
    "jpeg-few-bytes",
    "jpeg-progressive-few-bytes",
    "jpeg-7000-few-bytes",
    "rle8-delta-over",
];

/// Files that PIL refuses and we take: the decoder reads zeros for up to 14 bytes behind the end of lossy
/// data whose container agrees with its length. (A file that was cut off has a container that does not
/// agree.)
const LENIENT: [&str; 1] = ["webp-lossy-short-data"];

/// Lengths at which PIL has all rows, and we miss the end of the compressed data.
const STRICTER_LENGTHS: [(&str, usize); 1] = [("palette.png", 3294)];

#[test]
fn files_without_their_data_are_refused_as_pil_refuses_them() {
    let rows = table("lengths.json");
    let mut failures = Vec::new();
    for row in rows.iter().filter(|row| row["name"].is_string()) {
        let name = row["name"].as_str().unwrap();
        let accepted = row["accepted"].as_bool().unwrap();
        let expected = (accepted && !STRICTER.contains(&name)) || LENIENT.contains(&name);
        let found = taken(&bytes(&row["file"]));
        if found.is_ok() != expected {
            failures.push(format!("{name}: expected {expected}, found {found:?}"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn every_truncation_is_refused_as_pil_refuses_it() {
    let rows = table("lengths.json");
    let mut failures = Vec::new();
    let mut lengths = 0;
    for row in rows.iter().filter(|row| row["fixture"].is_string()) {
        let name = row["fixture"].as_str().unwrap();
        let file = fs::read(images().join(name)).unwrap();
        let accepted: Vec<[usize; 2]> = serde_json::from_value(row["accepted"].clone()).unwrap();
        let whole = taken(&file).unwrap();
        let near = |length: usize| accepted.iter().flatten().any(|edge| edge.abs_diff(length) < 40);
        for length in (0..=file.len()).filter(|length| length % 7 == 0 || near(*length)) {
            lengths += 1;
            let expected = accepted.iter().any(|[from, to]| (*from..=*to).contains(&length))
                && !STRICTER_LENGTHS.contains(&(name, length));
            match taken(&file[..length]) {
                Ok(_) if !expected => failures.push(format!("{name} of {length} bytes is taken")),
                Ok(found) if found.sha256 != whole.sha256 => {
                    failures.push(format!("{name} of {length} bytes has other pixels"));
                }
                Err(error) if expected => {
                    failures.push(format!("{name} of {length} bytes is refused: {error}"))
                }
                _ => {}
            }
        }
    }
    assert!(lengths > 3000, "{lengths}");
    assert!(failures.is_empty(), "{} of {lengths}: {failures:#?}", failures.len());
}
