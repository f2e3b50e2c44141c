//! Manifests as nobody wrote them: seeded mutations of a real one. 20,000 cases, or as many as `ARRCOC_FUZZ_CASES` says.

use std::time::{Duration, Instant};

use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::tests::valid;
use super::*;
use crate::model::load::kv_bytes;

/// No case may take longer, on however busy a machine: what this would catch takes minutes, or never ends.
const LONGEST: Duration = Duration::from_secs(30);

const NUMBERS: [&str; 14] = [
    "0",
    "-1",
    "1",
    "3.5",
    "1e300",
    ".nan",
    ".inf",
    "255",
    "65536",
    "2147483648",
    "4294967295",
    "9223372036854775807",
    "18446744073709551615",
    "340282366920938463463374607431768211456",
];
const PIECES: [&str; 20] = [
    "[",
    "]",
    "{",
    "}",
    "- ",
    "? ",
    ": ",
    "&a ",
    "*a",
    "!!binary ",
    "!x ",
    "|",
    ">",
    "\"",
    "'",
    "#",
    "%",
    "\t",
    "\u{0}",
    "---\n",
];

fn cases() -> usize {
    std::env::var("ARRCOC_FUZZ_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(20_000)
}

/// One change to a text.
fn mutate(text: &mut Vec<u8>, rng: &mut ChaCha8Rng) {
    if text.is_empty() {
        return text.extend_from_slice(b"format: 2\n");
    }
    let at = rng.random_range(0..text.len());
    let word = |at: usize| -> (usize, usize) {
        let end = |c: &u8| !c.is_ascii_alphanumeric() && *c != b'.';
        let start = text[..at].iter().rposition(end).map_or(0, |before| before + 1);
        (start, text[at..].iter().position(end).map_or(text.len(), |length| at + length))
    };
    match rng.random_range(0..9) {
        0 => text[at] = rng.random(),
        1 => drop(text.remove(at)),
        2 => text.truncate(at),
        3 => {
            let piece = PIECES.choose(rng).copied().unwrap_or_default();
            let times = *[1, 1, 2, 40, 3000].choose(rng).unwrap_or(&1);
            text.splice(at..at, piece.repeat(times).bytes());
        }
        4 | 5 => {
            let digits: Vec<usize> = (0..text.len()).filter(|&at| text[at].is_ascii_digit()).collect();
            let (start, end) = word(digits.choose(rng).copied().unwrap_or(at));
            text.splice(start..end.max(start), NUMBERS.choose(rng).copied().unwrap_or_default().bytes());
        }
        6 => {
            let (start, end) = word(at);
            let other = word(rng.random_range(0..text.len()));
            let other = text[other.0..other.1.max(other.0)].to_vec();
            text.splice(start..end.max(start), other);
        }
        7 => {
            let mut lines: Vec<Vec<u8>> = text.split(|&c| c == b'\n').map(<[u8]>::to_vec).collect();
            let (from, to) = (rng.random_range(0..lines.len()), rng.random_range(0..lines.len()));
            match rng.random_range(0..3) {
                0 => lines.swap(from, to),
                1 => lines.insert(to, lines[from].clone()),
                _ => drop(lines.remove(from)),
            }
            *text = lines.join(&b'\n');
        }
        _ => {
            let indent = " ".repeat(rng.random_range(0..12));
            let line = text[..at].iter().rposition(|&c| c == b'\n').map_or(0, |before| before + 1);
            text.splice(line..line, indent.bytes());
        }
    }
}

#[test]
fn mutated_manifests_neither_panic_nor_take_long() {
    let (dir, raw) = valid();
    let dir = dir.path().canonicalize().unwrap();
    let text = serde_yaml::to_string(&raw).unwrap().into_bytes();
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let (mut accepted, mut refused) = (0, 0);
    for case in 0..cases() {
        let mut text = text.clone();
        for _ in 0..rng.random_range(1..4) {
            mutate(&mut text, &mut rng);
        }
        let started = Instant::now();
        let manifest = yaml::parse::<RawManifest>(&text).ok().map(|raw| validate::validate(raw, &dir));
        match manifest {
            Some(Ok((manifest, files))) => {
                accepted += 1;
                assert!(files.iter().all(|file| file.path.starts_with(&dir)));
                assert!(kv_bytes(&manifest.decoder, usize::MAX, usize::MAX) >= 2);
                let vision = &manifest.vision;
                let layout = crate::vision::layout::Layout::new(
                    vision.native_size / vision.patch_size,
                    vision.patch_size,
                    vision.gist_grid,
                );
                assert!(layout.patches() <= 1 << 16);
            }
            Some(Err(error)) => {
                refused += 1;
                // A stranger's file does not fill the log.
                assert!(error.to_string().len() < 4000, "case {case}: {error}");
            }
            None => refused += 1,
        }
        assert!(started.elapsed() < LONGEST, "case {case}: {}", String::from_utf8_lossy(&text));
    }
    println!("{accepted} accepted, {refused} refused");
    assert!(refused > accepted, "{accepted} accepted, {refused} refused");
}
