//! A stored bundle of the current format: it loads and answers as recorded, and a new build of its checkpoint
//! gives the same bytes.
//!
//! For whoever changes the exporter or the format: the test says what a build writes differently from before.
//! The bundle is `tests/fixtures/bundle/one-layer/fp32-portable`, its answer is
//! `tests/fixtures/bundle/answer.json`. The checkpoint is `tests/fixtures/stock/idefics3/checkpoint` with the
//! first layer of each network alone. Both are made by
//!
//! ```text
//! ARRCOC_BLESS=1 cargo test --workspace --test stored_bundle
//! ```

#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use arrcoc_bundle::manifest::{FORMAT, RawManifest};
use arrcoc_bundle::{Bundle, MANIFEST, Precision, Target};
use arrcoc_export::build::{self, Options};
use arrcoc_export::calibrate::RangeMethod;
use arrcoc_export::progress::Progress;
use arrcoc_runtime::generate::{
    Budget, Event, MaxTokens, Message, NoObserver, Part, Prompt, PromptReport, Request, Sampling, Selection,
    Speaker,
};
use arrcoc_runtime::library::LibraryKind;
use arrcoc_runtime::model::{self, Model};
use arrcoc_tests::repository;
use safetensors::SafeTensors;
use serde_json::Value;

const MODEL: &str = "one-layer";
const ANEW: &str = "make it anew with `ARRCOC_BLESS=1 cargo test --workspace --test stored_bundle`";

/// Where the bundle is stored, and what it is to answer.
fn stored() -> (PathBuf, PathBuf) {
    let dir = repository("tests/fixtures/bundle");
    (dir.join(MODEL).join("fp32-portable"), dir.join("answer.json"))
}

#[test]
fn the_stored_bundle_is_what_a_build_writes_and_answers_as_recorded() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let checkpoint = scratch.path().join(MODEL);
    one_layer(&repository("tests/fixtures/stock/idefics3/checkpoint"), &checkpoint)?;
    let (bundle, answer) = stored();
    if std::env::var_os("ARRCOC_BLESS").is_some() {
        build(&checkpoint, &repository("tests/fixtures/bundle"))?;
        fs::write(&answer, serde_json::to_string(&ask(&bundle, LibraryKind::Tract)?)? + "\n")?;
    }
    let expected: Vec<u32> = serde_json::from_slice(&fs::read(&answer)?)?;
    for library in [LibraryKind::Tract, LibraryKind::Ort] {
        let found = ask(&bundle, library).with_context(|| ANEW)?;
        ensure!(found == expected, "{}: expected {expected:?}, found {found:?}", library.name());
    }
    let built = build(&checkpoint, &scratch.path().join("engines"))?;
    same_exporter(&manifest(&bundle)?, &manifest(&built)?)?;
    let names = |dir: &Path| -> Result<Vec<String>> {
        let entries = fs::read_dir(dir)?;
        let mut names: Vec<String> = entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<Result<_>>()?;
        names.sort();
        Ok(names)
    };
    let (expected, found) = (names(&bundle)?, names(&built)?);
    ensure!(expected == found, "expected the files {expected:?}, found {found:?}");
    let differs =
        |name: &&String| fs::read(bundle.join(name)).unwrap() != fs::read(built.join(name)).unwrap();
    let differing: Vec<&String> = expected.iter().filter(differs).collect();
    ensure!(differing.is_empty(), "a new build writes other bytes: {differing:?}. If that is meant, {ANEW}");
    Ok(())
}

#[test]
fn another_exporter_is_told_from_drift() {
    let now = manifest(&stored().0).unwrap();
    same_exporter(&now, &now).unwrap();
    let newer = RawManifest { tool: "arrcoc-export 99.0.0".to_owned(), ..now.clone() };
    let later = RawManifest { format: FORMAT + 1, ..now.clone() };
    for other in [newer, later] {
        let error = same_exporter(&now, &other).unwrap_err().to_string();
        assert!(error.contains("ARRCOC_BLESS=1") && error.contains(&other.tool), "{error}");
    }
}

/// What another version or format writes is no drift.
fn same_exporter(stored: &RawManifest, built: &RawManifest) -> Result<()> {
    let [stored, built] =
        [stored, built].map(|manifest| format!("{}, format {}", manifest.tool, manifest.format));
    ensure!(stored == built, "the stored bundle is of {stored}, and this is {built}: {ANEW}");
    Ok(())
}

fn manifest(bundle: &Path) -> Result<RawManifest> {
    Ok(serde_yaml::from_slice(&fs::read(bundle.join(MANIFEST))?)?)
}

fn build(checkpoint: &Path, out: &Path) -> Result<PathBuf> {
    let options = Options {
        out: out.to_owned(),
        precision: Precision::Fp32,
        target: Target::Portable,
        weight_rules: Vec::new(),
        calibration: None,
        range: RangeMethod::Absmax,
        name: Some(MODEL.to_owned()),
        max_context: Some(512),
        force: true,
    };
    Ok(build::build(checkpoint, &options, Progress::Silent)?.bundle)
}

/// A checkpoint with the first layer of each network alone.
fn one_layer(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    let mut config: Value = serde_json::from_slice(&fs::read(from.join("config.json"))?)?;
    for network in ["text_config", "vision_config"] {
        config[network]["num_hidden_layers"] = 1.into();
    }
    fs::write(to.join("config.json"), config.to_string())?;
    let weights = fs::read(from.join("model.safetensors"))?;
    let tensors = SafeTensors::deserialize(&weights)?.tensors();
    let kept = tensors.iter().filter(|(name, _)| !name.contains(".layers.1."));
    let kept: Vec<_> = kept.map(|(name, tensor)| (name.as_str(), tensor)).collect();
    ensure!(kept.len() < tensors.len(), "nothing was left out");
    safetensors::serialize_to_file(kept, None, &to.join("model.safetensors"))?;
    Ok(())
}

/// The 16 likeliest tokens that follow a picture and a question.
fn ask(bundle: &Path, library: LibraryKind) -> Result<Vec<u32>> {
    let options = model::Options { slots: 1, ..model::Options::default() };
    let library = library.open(2)?;
    let model = Model::load_on(Bundle::open(bundle)?, library.as_ref(), &options, Arc::new(NoObserver))?;
    let picture = fs::read(repository("tests/fixtures/stock/idefics3/images/square.png"))?;
    let content = vec![Part::Image(picture.into()), Part::Text("What is it?".to_owned())];
    let request = Request {
        prompt: Prompt::from(vec![Message::new(Speaker::User, content)]),
        budget: Budget::Full,
        selection: Selection::default(),
        explain: false,
        sampling: Sampling { temperature: 0.0, ignore_eos: true, ..Sampling::default() },
        choices: 1,
        max_tokens: MaxTokens::Exactly(16),
        stop: Vec::new(),
        top_logprobs: None,
        prompt_report: PromptReport::Nothing,
        form: None,
    };
    let mut events = model.submit(request)?.events;
    let mut tokens = Vec::new();
    while let Some(event) = events.blocking_recv() {
        match event {
            Event::Token { id, .. } => tokens.push(id),
            Event::Failed(error) => bail!("{error}"),
            _ => {}
        }
    }
    Ok(tokens)
}
