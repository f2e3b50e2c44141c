//! Hostile pictures: what a file may cost, whatever it holds. Allocations of the decoding thread are counted.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use arrcoc_runtime::image::decode::decode;
use arrcoc_runtime::image::{ImageError, ImageLimits};
use arrcoc_tests::allocated::{Counting, most_of};
use arrcoc_tests::fuzz::{Mutator, assert_presentable, cases};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use serde_json::Value;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MIB: usize = 1 << 20;

fn images() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/images")
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(images().join(name)).unwrap()
}

/// Zeros that inflate to `megabytes`.
fn bomb(megabytes: usize) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    for _ in 0..megabytes {
        encoder.write_all(&[0; MIB]).unwrap();
    }
    encoder.finish().unwrap()
}

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut checksum = flate2::Crc::new();
    checksum.update(kind);
    checksum.update(data);
    [&(data.len() as u32).to_be_bytes()[..], kind, data, &checksum.sum().to_be_bytes()].concat()
}

/// A PNG with one more chunk before or behind its data.
fn png_with(chunk: &[u8], behind: bool) -> Vec<u8> {
    let base = fixture("line.png");
    let mark: &[u8] = if behind { b"IEND" } else { b"IDAT" };
    let at = base.windows(4).position(|window| window == mark).unwrap() - 4;
    [&base[..at], chunk, &base[at..]].concat()
}

#[test]
fn metadata_that_nobody_uses_costs_nothing() {
    let limits = ImageLimits { max_aspect: 300, ..ImageLimits::default() };
    let zeros = bomb(200);
    assert!(zeros.len() < MIB);
    let mut files = Vec::new();
    let text = |key: &[u8], rest: &[u8]| [key, rest, &zeros].concat();
    for behind in [false, true] {
        for (name, chunk) in [
            ("iCCP", chunk(b"iCCP", &text(b"profile", b"\0\0"))),
            ("zTXt", chunk(b"zTXt", &text(b"Comment", b"\0\0"))),
            ("iTXt", chunk(b"iTXt", &text(b"Comment", b"\0\x01\0\0\0"))),
            ("zTXt with EXIF", chunk(b"zTXt", &text(b"Raw profile type exif", b"\0\0"))),
            ("iTXt with XMP", chunk(b"iTXt", &text(b"XML:com.adobe.xmp", b"\0\x01\0\0\0"))),
        ] {
            files.push((name, png_with(&chunk, behind)));
        }
        let many = chunk(b"zTXt", &text(b"XML:com.adobe.xmp", b"\0\0")).repeat(50);
        files.push(("many zTXt with XMP", png_with(&many, behind)));
    }
    let profile = [&[0xFF, 0xE2, 0xFF, 0xFF][..], b"ICC_PROFILE\0\x01\x01", &[7; 65_533 - 14]].concat();
    let jpeg = fixture("baseline.jpg");
    files.push(("ICC_PROFILE", [&jpeg[..2], &profile.repeat(200), &jpeg[2..]].concat()));
    let exif = [&[0xFF, 0xE1, 0xFF, 0xFF][..], b"Exif\0\0", &[7; 65_533 - 6]].concat();
    files.push(("EXIF", [&jpeg[..2], &exif.repeat(200), &jpeg[2..]].concat()));
    for (name, file) in files {
        let (image, peak) = most_of(|| decode(&file, &limits));
        assert!(image.is_ok(), "{name}: {image:?}");
        // A JPEG is copied without its metadata, and read into the decoder; a text of a key that is read may
        // take 1 MiB.
        assert!(peak < file.len() + 8 * MIB, "{name}: {peak} bytes for a file of {}", file.len());
    }
}

#[test]
fn sides_and_strips_are_refused_by_their_header() {
    let png = |width: u32, height: u32| {
        let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
        let data = chunk(b"IDAT", &bomb(1));
        [b"\x89PNG\r\n\x1a\n", &chunk(b"IHDR", &header)[..], &data, &chunk(b"IEND", b"")].concat()
    };
    let limits = ImageLimits::default();
    let cases = [
        (1, 50_000_000, "a side longer than the 32768 allowed"),
        (40_000, 1_000, "a side longer than the 32768 allowed"),
        (1, 201, "one side more than 200 times the other"),
        (20_001, 100, "one side more than 200 times the other"),
        (10_000, 10_000, "more than the 50000000 allowed in all"),
    ];
    for (width, height, expected) in cases {
        let file = png(width, height);
        let (found, peak) = most_of(|| decode(&file, &limits));
        let error = found.unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains(&format!("{width} x {height}")), "{error}");
        assert!(peak < 4 * MIB, "{width} x {height}: {peak} bytes");
    }
    for (width, height) in [(200, 1), (1, 200), (700, 400)] {
        decode(&png(width, height), &limits).unwrap();
    }
}

#[test]
fn a_header_without_data_costs_nothing() {
    let rows: Vec<Value> = serde_json::from_slice(&fixture("pil/lengths.json")).unwrap();
    let row = rows.iter().find(|row| row["name"] == "jpeg-7000-few-bytes").unwrap();
    let jpeg = STANDARD.decode(row["file"].as_str().unwrap()).unwrap();
    // Run-length encoded, 7000 x 7000 pixels, and none of them.
    let mut bmp = b"BM".to_vec();
    for number in [0_u32, 0, 1078, 40, 7000, 7000, 1 | 8 << 16, 1, 0, 0, 0, 256, 0] {
        bmp.extend_from_slice(&number.to_le_bytes());
    }
    bmp.resize(1078, 0);
    bmp.extend_from_slice(&[0, 1]);
    for file in [jpeg, bmp] {
        let (found, peak) = most_of(|| decode(&file, &ImageLimits::default()));
        assert!(matches!(found, Err(ImageError::Truncated { .. })), "{found:?}");
        assert!(peak < MIB, "{peak} bytes");
    }
}

/// A GIF shows a part of its frame, but the frame is decoded whole.
#[test]
fn a_frame_larger_than_its_picture_is_within_the_limits_too() {
    let mut gif = fixture("animated.gif");
    // The first frame lies at (0, 0) and is as large as the picture.
    let descriptor = [b",\0\0\0\0", &gif[6..10]].concat();
    let frame = gif.windows(9).position(|bytes| bytes == descriptor).unwrap();
    gif[frame + 5..frame + 9].copy_from_slice(&[0xFF; 4]);
    let (found, peak) = most_of(|| decode(&gif, &ImageLimits::default()));
    let error = found.unwrap_err().to_string();
    assert!(error.contains("65535 x 65535") && error.contains("50000000"), "{error}");
    assert!(peak < MIB, "{peak} bytes");
}

/// Files of one format to begin from: small fixtures, and those that were made for PIL's tables.
fn seeds(magic: &[u8], fixtures: &[&str]) -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = fixtures.iter().map(|name| fixture(name)).collect();
    for table in ["orientation.json", "colours.json", "lengths.json"] {
        let rows: Vec<Value> = serde_json::from_slice(&fixture(&format!("pil/{table}"))).unwrap();
        let files = rows.iter().filter_map(|row| STANDARD.decode(row["file"].as_str()?).ok());
        seeds.extend(files.filter(|file| file.starts_with(magic)));
    }
    seeds
}

/// Values that lengths, counts and sizes go wrong at.
const EDGES: [u32; 10] = [0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FFFF];

/// One to six changes of a seed.
fn mutate(mutator: &mut Mutator, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut file = mutator.pick(seeds).clone();
    for _ in 0..1 + mutator.below(6) {
        if file.is_empty() {
            break;
        }
        let at = mutator.below(file.len());
        let end = (at + 1 + mutator.below(63)).min(file.len());
        match mutator.below(8) {
            0 => file[at] ^= 1 << mutator.below(8),
            1 => file[at] = mutator.below(256) as u8,
            2 | 3 => {
                let edge = *mutator.pick(&EDGES);
                let width = *mutator.pick(&[1, 2, 4]);
                let bytes = if mutator.once_in(2) {
                    edge.to_le_bytes()
                } else {
                    edge.rotate_right(8 * width as u32).to_be_bytes()
                };
                let end = (at + width).min(file.len());
                file[at..end].copy_from_slice(&bytes[..end - at]);
            }
            4 => drop(file.drain(at..end)),
            5 => {
                let copy = file[at..end].to_vec();
                drop(file.splice(at..at, copy));
            }
            6 => {
                let other = mutator.pick(seeds);
                let from = mutator.below(other.len());
                let until = (from + 200).min(other.len());
                drop(file.splice(at..end, other[from..until].iter().copied()));
            }
            _ => file.truncate(at),
        }
    }
    file
}

/// Gives the chunks of a PNG right checksums, so that changes reach what is behind them.
fn mend_checksums(file: &mut [u8]) {
    let mut at = 8;
    while let Some(length) = file.get(at..at + 4) {
        let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
        let end = at.saturating_add(8).saturating_add(length);
        if end.saturating_add(4) > file.len() {
            return;
        }
        let mut checksum = flate2::Crc::new();
        checksum.update(&file[at + 4..end]);
        let sum = checksum.sum().to_be_bytes();
        file[end..end + 4].copy_from_slice(&sum);
        at = end + 4;
    }
}

/// Time that this thread has computed, where the system tells: a busy machine does not count.
fn computed() -> std::time::Duration {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = stat.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(0);
    std::time::Duration::from_nanos(nanoseconds)
}

fn fuzz(name: &str, magic: &[u8], fixtures: &[&str]) {
    let limits = ImageLimits { max_pixels: 4096, ..ImageLimits::default() };
    let seeds = seeds(magic, fixtures);
    let (mut taken, mut tried, mut begun) = (0_u64, 0_u64, computed());
    cases(name, |mutator| {
        let mut file = mutate(mutator, &seeds);
        if magic == b"\x89PNG" && mutator.once_in(2) {
            mend_checksums(&mut file);
        }
        let (found, peak) = most_of(|| decode(&file, &limits));
        // What a decoder may take for its tables, and the file.
        assert!(peak < 20 * MIB + 4 * file.len(), "{peak} bytes");
        match found {
            Ok(image) => {
                let (width, height) = image.pixels.dimensions();
                let pixels = u64::from(width) * u64::from(height);
                assert!((1..=4096).contains(&pixels), "{width} x {height}");
                taken += 1;
            }
            Err(error) => assert_presentable(&error.to_string()),
        }
        tried += 1;
        if tried.is_multiple_of(100) {
            let now = computed();
            assert!((now - begun).as_secs() < 30, "a hundred cases took {:?}", now - begun);
            begun = now;
        }
    });
    // A fuzzer whose files are all refused at once finds nothing.
    assert!(taken > tried / 50 || tried == 1, "{taken} of {tried} are pictures");
}

#[test]
fn mutated_png_files_are_bounded() {
    fuzz("PNG files", b"\x89PNG", &["grey16.png", "line.png", "grey_alpha16.png", "tall.png"]);
}

#[test]
fn mutated_jpeg_files_are_bounded() {
    fuzz("JPEG files", b"\xff\xd8", &["grey.jpg", "orientation_6.jpg"]);
}

#[test]
fn mutated_webp_files_are_bounded() {
    fuzz("WebP files", b"RIFF", &["lossy.webp", "lossless.webp"]);
}

#[test]
fn mutated_gif_files_are_bounded() {
    fuzz("GIF files", b"GIF8", &["animated.gif"]);
}

#[test]
fn mutated_bmp_files_are_bounded() {
    fuzz("BMP files", b"BM", &["rgb.bmp"]);
}
