//! A random checkpoint to damage, and the program to run on it.

#![allow(clippy::unwrap_used, dead_code, missing_docs, unreachable_pub)]

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use arrcoc_bundle::{Precision, Target, hex};
use arrcoc_export::build::{self, BuildError, Summary};
use arrcoc_export::calibrate::{self, Calibration, RangeMethod};
use arrcoc_export::init::{self, SHARD_BYTES, WeightType};
use arrcoc_export::progress::Progress;
use arrcoc_export::verify;
use arrcoc_models::families;
use arrcoc_runtime::library::{LibraryError, LibraryKind, LibraryOptions};
use arrcoc_tests::require::can_run;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// A directory with `tiny`, a checkpoint of the tiny preset.
pub struct Workshop {
    dir: TempDir,
}

impl Workshop {
    pub fn new() -> Self {
        Self::with(WeightType::Bfloat16, SHARD_BYTES)
    }

    pub fn with(dtype: WeightType, shard_bytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("tiny");
        let preset = families::preset("arr-coc-ovis-tiny").unwrap();
        let options = init::Options { preset, seed: 3, dtype, shard_bytes, out, force: false };
        init::init(&options, Progress::Silent).unwrap();
        Self { dir }
    }

    /// A directory with a copy of a stock checkpoint in the place of the tiny preset's.
    pub fn stock(family: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        copy(&stock(family), &dir.path().join("tiny"));
        Self { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn checkpoint(&self) -> PathBuf {
        self.path("tiny")
    }

    /// Where `build` puts the cpu bundle.
    pub fn bundle(&self) -> PathBuf {
        self.path("engines/tiny/fp32-cpu")
    }

    pub fn options(&self, target: Target) -> build::Options {
        build::Options {
            out: self.path("engines"),
            precision: Precision::Fp32,
            target,
            weight_rules: Vec::new(),
            calibration: None,
            range: RangeMethod::Absmax,
            name: None,
            max_context: Some(512),
            force: false,
        }
    }

    /// Builds the cpu bundle of another precision; returns its directory.
    pub fn quantize(&self, precision: Precision) -> PathBuf {
        let options = build::Options { precision, ..self.options(Target::Cpu) };
        build::build(&self.checkpoint(), &options, Progress::Silent).unwrap().bundle
    }

    pub fn build(&self, target: Target) -> Result<Summary, BuildError> {
        build::build(&self.checkpoint(), &self.options(target), Progress::Silent)
    }

    /// Changes a JSON file of the checkpoint.
    pub fn edit_json(&self, name: &str, edit: impl FnOnce(&mut Value)) {
        let path = self.checkpoint().join(name);
        let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        edit(&mut value);
        fs::write(path, value.to_string()).unwrap();
    }

    /// Changes header and data of a weight file.
    pub fn edit_weights(&self, name: &str, edit: impl FnOnce(&mut Value, &mut Vec<u8>)) {
        let path = self.checkpoint().join(name);
        let (mut header, mut data) = split(&fs::read(&path).unwrap());
        edit(&mut header, &mut data);
        fs::write(path, join(&header, &data)).unwrap();
    }
}

/// Header and data of a safetensors file.
pub fn split(file: &[u8]) -> (Value, Vec<u8>) {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&file[8..8 + length]).unwrap(), file[8 + length..].to_vec())
}

/// The inverse of [`split`].
pub fn join(header: &Value, data: &[u8]) -> Vec<u8> {
    let json = header.to_string();
    [&(json.len() as u64).to_le_bytes(), json.as_bytes(), data].concat()
}

/// An error and all its causes, as the program prints them.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!("\n{cause}");
        source = cause.source();
    }
    text
}

/// The program.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_arrcoc-export"));
    // The width of help texts must not depend on who runs the tests.
    command.env_remove("COLUMNS");
    command
}

/// Runs the program; returns its exit status, standard output and standard error.
pub fn run(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

/// A photograph.
pub const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/images/astronaut.jpg");

fn questions(workshop: &Workshop, rows: &str) -> PathBuf {
    let path = workshop.path("questions.json");
    fs::write(&path, rows).unwrap();
    fs::copy(PAGE, workshop.path("page.jpg")).unwrap();
    path
}

const ROWS: &str = r#"[{"image": "page.jpg", "query": "Which number belongs to DZ?", "answer": "1"},
    {"image": "page.jpg", "query": "How many records are there?", "answer": "2"}]"#;

/// What is asked of a photograph.
pub fn calibration_options(workshop: &Workshop, rows: &str) -> calibrate::Options {
    calibrate::Options {
        data: questions(workshop, rows),
        output: workshop.path("calibration.json"),
        limit: None,
        image_size: None,
        tokens: 4,
        threads: 2,
    }
}

/// What the checkpoint's tensors reach on two questions.
pub fn calibrated(workshop: &Workshop) -> Calibration {
    let options = calibration_options(workshop, ROWS);
    calibrate::calibrate(&workshop.checkpoint(), &options, Progress::Silent).unwrap()
}

/// A bundle on ONNX Runtime against the portable fp32 one beside it.
pub fn verify_options() -> verify::Options {
    verify::Options {
        reference: None,
        checkpoint: None,
        image: None,
        image_size: None,
        tokens: 16,
        seed: 1,
        runtime: LibraryKind::Ort,
        library: LibraryOptions { threads: 2, ..LibraryOptions::default() },
    }
}

/// The outcome of that.
pub fn verified(bundle: &Path) -> verify::Report {
    verify::verify(bundle, &verify_options(), Progress::Silent).unwrap()
}

/// Changes a file of a bundle, and its hash in the manifest.
pub fn mended(bundle: &Path, name: &str, edit: impl FnOnce(&mut Vec<u8>)) {
    let hash = |bytes: &[u8]| hex(&Sha256::digest(bytes));
    let mut bytes = fs::read(bundle.join(name)).unwrap();
    let before = hash(&bytes);
    edit(&mut bytes);
    fs::write(bundle.join(name), &bytes).unwrap();
    let manifest = fs::read_to_string(bundle.join("manifest.yaml")).unwrap();
    assert!(manifest.contains(&before));
    fs::write(bundle.join("manifest.yaml"), manifest.replace(&before, &hash(&bytes))).unwrap();
}

/// A checkpoint of a stock family, as transformers saved it.
pub fn stock(family: &str) -> PathBuf {
    arrcoc_tests::repository("tests/fixtures/stock").join(family).join("checkpoint")
}

/// Copies the files of a directory.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for (name, bytes) in contents(from) {
        fs::write(to.join(name), bytes).unwrap();
    }
}

/// Every file below a directory, with its contents.
pub fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<_> = entries
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

/// Whether ONNX Runtime can be had; named (by its path, or as `ort` in `ARRCOC_REQUIRE`) and absent is a
/// failure, not a reason to skip.
pub fn has_onnx_runtime() -> bool {
    let runtime = LibraryKind::Ort.open(2);
    if let Err(error) = &runtime {
        assert!(matches!(error, LibraryError::Unavailable { .. }), "{error}");
    }
    can_run("ort", &runtime)
}
