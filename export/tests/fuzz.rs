//! Files that the exporter reads, mutated: it may refuse them, in words that can be shown; it must not panic,
//! nor take more memory than a few times the file.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::path::Path;

use arrcoc_export::calibrate::Calibration;
use arrcoc_export::checkpoint::read_header;
use arrcoc_tests::allocated::{Counting, most_of};
use arrcoc_tests::fuzz::{Mutator, assert_presentable, cases};
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Memory that reading a file of this many bytes may take. JSON's shortest numbers become floats of a vector
/// that grows by doubling.
fn bound(file: usize) -> usize {
    (1 << 20) + 100 * file
}

/// An error and its causes, as the program prints them.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

fn header() -> Value {
    json!({
        "__metadata__": {"format": "pt"},
        "model.embed.weight": {"dtype": "BF16", "shape": [4, 8], "data_offsets": [0, 64]},
        "model.norm.weight": {"dtype": "F32", "shape": [8], "data_offsets": [64, 96]},
        "model.empty": {"dtype": "I8", "shape": [0, 3], "data_offsets": [96, 96]},
    })
}

/// JSON as a file, sometimes damaged behind its structure's back.
fn damaged(mutator: &mut Mutator, sound: &Value) -> Vec<u8> {
    let json = mutator.json(sound).to_string().into_bytes();
    let words: [&[u8]; 6] = [b"{", b"]", b"99999999999999999999", b"1e999", b"\xff", b"\\u0000"];
    if mutator.once_in(3) { mutator.bytes(&json, &words) } else { json }
}

#[test]
fn safetensors_headers() {
    let sound = header();
    let mut accepted = 0;
    cases("safetensors headers", |mutator| {
        let json = damaged(mutator, &sound);
        let length = match mutator.below(8) {
            0 => mutator.below(200) as u64,
            1 => *mutator.pick(&[0, 1, u64::MAX, 1 << 40, 100_000_001]),
            _ => json.len() as u64,
        };
        let mut file = [&length.to_le_bytes()[..], &json, &[7; 96]].concat();
        if mutator.once_in(8) {
            file = mutator.bytes(&file, &[]);
        }
        let (result, memory) = most_of(|| read_header(&mut &file[..], file.len() as u64));
        assert!(memory <= bound(file.len()), "{memory} bytes for a file of {}", file.len());
        match result {
            Ok(tensors) => {
                accepted += 1;
                let inside = |end: u64| end <= file.len() as u64;
                assert!(
                    tensors
                        .iter()
                        .all(|tensor| inside(tensor.bytes.end) && tensor.bytes.start <= tensor.bytes.end)
                );
            }
            Err(error) => assert_presentable(&chain(&error)),
        }
    });
    assert!(
        accepted > 0 || std::env::var("ARRCOC_FUZZ_CASE").is_ok(),
        "every file was refused: nothing was tested"
    );
}

fn calibration() -> Value {
    let activation =
        json!({"channels": [0.5, 1.25], "largest": 1.25, "bin_width": 0.01, "bins": vec![3; 126]});
    json!({
        "format": 1,
        "checkpoint_sha256": "ab".repeat(32),
        "circumstances": {
            "tool": "arrcoc-export 0.1.0", "runtime": "ort", "data_sha256": "cd".repeat(32),
            "image_size": 320, "images": 2, "questions": 3, "skipped": [{"image": "a.png", "reason": "gone"}],
        },
        "adapter": [{"tokens": 64, "statistics": {"mean": 0.0, "std": 0.02, "sparsity": 0.1}}],
        "graphs": {"decoder": {
            "structure": "ef".repeat(32), "magnitudes": {"hidden": 12.5},
            "activations": {"hidden": activation}, "products": {"layer.weight": "hidden"},
        }},
        "weights": {"layer.weight": [1.0, 2.0]},
    })
}

#[test]
fn calibration_files() {
    let (sound, dir) = (calibration(), tempfile::tempdir().unwrap());
    let path = dir.path().join("calibration.json");
    let read = |file: &[u8], path: &Path| {
        fs::write(path, file).unwrap();
        Calibration::read(path)
    };
    read(sound.to_string().as_bytes(), &path).unwrap();
    cases("calibration files", |mutator| {
        let file = damaged(mutator, &sound);
        let (result, memory) = most_of(|| read(&file, &path));
        assert!(memory <= bound(file.len()), "{memory} bytes for a file of {}", file.len());
        match result {
            Ok(calibration) => {
                let finite = |columns: &Vec<f32>| columns.iter().all(|x| x.is_finite() && *x >= 0.0);
                assert!(calibration.weights.values().all(finite), "numbers that no weight has were accepted");
            }
            Err(error) => assert_presentable(&chain(&error)),
        }
    });
}
