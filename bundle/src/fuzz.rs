//! Manifests as nobody wrote them: mutations of a real one. What `cargo xtask fuzz` runs besides the tests
//! named `fuzz`.

use std::time::{Duration, Instant};

use arrcoc_tests::fuzz::{Mutator, assert_presentable, cases};

use super::tests::valid;
use super::*;
use crate::quote::Brief;

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

/// One change to a text.
fn mutate(text: &mut Vec<u8>, rng: &mut Mutator) {
    if text.is_empty() {
        return text.extend_from_slice(b"format: 2\n");
    }
    let at = rng.below(text.len());
    let word = |at: usize| -> (usize, usize) {
        let end = |c: &u8| !c.is_ascii_alphanumeric() && *c != b'.';
        let start = text[..at].iter().rposition(end).map_or(0, |before| before + 1);
        (start, text[at..].iter().position(end).map_or(text.len(), |length| at + length))
    };
    match rng.below(9) {
        0 => text[at] = rng.below(256) as u8,
        1 => drop(text.remove(at)),
        2 => text.truncate(at),
        3 => {
            let piece = *rng.pick(&PIECES);
            let times = *rng.pick(&[1, 1, 2, 40, 3000]);
            text.splice(at..at, piece.repeat(times).bytes());
        }
        4 | 5 => {
            let digits: Vec<usize> = (0..text.len()).filter(|&at| text[at].is_ascii_digit()).collect();
            let (start, end) = word(if digits.is_empty() { at } else { *rng.pick(&digits) });
            text.splice(start..end.max(start), rng.pick(&NUMBERS).bytes());
        }
        6 => {
            let (start, end) = word(at);
            let other = word(rng.below(text.len()));
            let other = text[other.0..other.1.max(other.0)].to_vec();
            text.splice(start..end.max(start), other);
        }
        7 => {
            let mut lines: Vec<Vec<u8>> = text.split(|&c| c == b'\n').map(<[u8]>::to_vec).collect();
            let (from, to) = (rng.below(lines.len()), rng.below(lines.len()));
            match rng.below(3) {
                0 => lines.swap(from, to),
                1 => lines.insert(to, lines[from].clone()),
                _ => drop(lines.remove(from)),
            }
            *text = lines.join(&b'\n');
        }
        _ => {
            let indent = " ".repeat(rng.below(12));
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
    let (mut accepted, mut refused) = (0, 0);
    cases("manifests", |mutator| {
        let mut text = text.clone();
        for _ in 0..1 + mutator.below(3) {
            mutate(&mut text, mutator);
        }
        let started = Instant::now();
        let checked = yaml::parse::<RawManifest>(&text).map(|raw| validate::validate(raw, &dir));
        match checked {
            Ok(Ok((manifest, files))) => {
                accepted += 1;
                assert!(files.iter().all(|file| file.path.starts_with(&dir)));
                // Another section than the family's is an error, never a panic.
                let section = manifest.processor::<crate::processors::ArrCocOvis>();
                if let Err(error) = section {
                    assert_presentable(&error.to_string());
                }
            }
            Ok(Err(error)) => {
                refused += 1;
                // A stranger's file does not fill the log.
                assert_presentable(&error.to_string());
            }
            Err(error) => {
                refused += 1;
                assert_presentable(&Brief(error).to_string());
            }
        }
        assert!(started.elapsed() < LONGEST, "{}", String::from_utf8_lossy(&text));
    });
    println!("{accepted} accepted, {refused} refused");
    assert!(refused >= accepted || accepted == 1, "{accepted} accepted, {refused} refused");
}
