#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::*;
use tempfile::TempDir;

use super::manifest::{CacheElement, FORMAT, RawGraph, Statistics};
use super::*;

mod disk;

const GRAPHS: [&str; 7] =
    ["embedding", "vision_encoder", "allocator", "compressor", "refiner", "quality_adapter", "decoder"];

fn digest(bytes: &[u8]) -> String {
    files::hex(&Sha256::digest(bytes))
}

/// A graph without a node, whose producer has a name: the shortest ONNX model that differs from others.
fn model(producer: &str) -> Vec<u8> {
    [&[0x12, producer.len() as u8], producer.as_bytes()].concat()
}

/// A graph with one tensor in another file.
fn model_with_data(location: &str) -> Vec<u8> {
    let field = |tag: u8, content: Vec<u8>| [vec![tag << 3 | 2, content.len() as u8], content].concat();
    let entry = [field(1, b"location".to_vec()), field(2, location.into())].concat();
    field(7, field(5, field(13, entry)))
}

/// A bundle whose graphs are empty.
pub(super) fn valid() -> (TempDir, RawManifest) {
    let dir = tempfile::tempdir().unwrap();
    let graphs = GRAPHS.iter().map(|name| {
        let file = format!("{name}.onnx");
        fs::write(dir.path().join(&file), model(&file)).unwrap();
        let sha256 = digest(&model(&file));
        let axes = BTreeMap::from([("batch".to_owned(), AxisRange { min: 1, opt: 1, max: 8 })]);
        ((*name).to_owned(), RawGraph { file, sha256, opset: 18, axes })
    });
    let graphs = graphs.collect();
    fs::create_dir(dir.path().join("text")).unwrap();
    fs::write(dir.path().join("text/tokenizer.json"), "{}").unwrap();
    let raw = RawManifest {
        format: FORMAT,
        model: "tiny".to_owned(),
        pipeline: PipelineKind::ArrCocOvis,
        precision: Precision::Fp32,
        weights: Vec::new(),
        calibration_sha256: None,
        kept_fp32: Vec::new(),
        target: Target::Portable,
        tool: "test".to_owned(),
        checkpoint_sha256: digest(b"checkpoint"),
        graphs,
        files: BTreeMap::from([("text/tokenizer.json".to_owned(), digest(b"{}"))]),
        vision: VisionSpec {
            patch_size: 16,
            feature_size: 32,
            image_sizes: vec![64, 128],
            native_size: 128,
            image_mean: [0.5; 3],
            image_std: [0.25; 3],
            token_budgets: vec![8, 12, 16, 24, 32],
            gist_grid: 2,
            adapter_target: Statistics { mean: 0.0, std: 0.02, sparsity: 0.0 },
            images_first: true,
        },
        decoder: DecoderSpec {
            layers: 2,
            kv_heads: 1,
            head_dim: 8,
            hidden_size: 16,
            vocab_size: 100,
            context_length: 256,
            eos_token_ids: vec![1, 2],
            image_token_id: 3,
            cache_element: CacheElement::Fp32,
        },
        generation: None,
    };
    (dir, raw)
}

fn write(dir: &TempDir, raw: &RawManifest) {
    fs::write(dir.path().join(MANIFEST), serde_yaml::to_string(raw).unwrap()).unwrap();
}

fn open(dir: &TempDir, raw: &RawManifest) -> Result<Bundle, BundleError> {
    write(dir, raw);
    Bundle::open(dir.path())
}

/// An opened bundle for tests of other modules; its graphs are empty.
pub(crate) fn open_valid() -> (TempDir, Bundle) {
    let (dir, raw) = valid();
    let bundle = open(&dir, &raw).unwrap();
    (dir, bundle)
}

/// Opens a bundle after one change and returns the error's text.
fn error_after(change: impl FnOnce(&TempDir, &mut RawManifest)) -> String {
    let (dir, mut raw) = valid();
    change(&dir, &mut raw);
    open(&dir, &raw).unwrap_err().to_string()
}

fn assert_mentions(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
}

#[test]
fn a_valid_bundle_opens() {
    let (dir, raw) = valid();
    let bundle = open(&dir, &raw).unwrap();
    assert_eq!(bundle.graph_path("refiner").unwrap(), bundle.dir().join("refiner.onnx"));
    assert_eq!(bundle.axis("decoder", "batch"), Some(AxisRange { min: 1, opt: 1, max: 8 }));
    assert_eq!(bundle.axis("decoder", "seq"), None);
    assert!(bundle.file_path("text/tokenizer.json").unwrap().is_file());
    assert!(matches!(bundle.file_path("chat_template.jinja"), Err(BundleError::NoFile { .. })));
    assert_eq!(bundle.manifest().vision, raw.vision);
    assert_eq!(files::hex(&bundle.digest()), digest(&fs::read(dir.path().join(MANIFEST)).unwrap()));
}

#[test]
fn bundles_of_before_the_defaults_open_with_openais() {
    let (dir, raw) = valid();
    let yaml = serde_yaml::to_string(&raw).unwrap().replace("  images_first: true\n", "");
    assert!(!yaml.contains("generation") && !yaml.contains("images_first"), "{yaml}");
    fs::write(dir.path().join(MANIFEST), yaml).unwrap();
    let bundle = Bundle::open(dir.path()).unwrap();
    assert_eq!(bundle.manifest().generation.sampling(), crate::generate::Sampling::default());
    assert!(bundle.manifest().vision.images_first);
}

#[test]
fn a_greedy_checkpoint_is_greedy_whatever_its_temperature() {
    let (dir, mut raw) = valid();
    let greedy =
        GenerationSpec { do_sample: false, temperature: 0.7, top_p: 0.8, ..GenerationSpec::default() };
    raw.generation = Some(greedy);
    let sampling = open(&dir, &raw).unwrap().manifest().generation.sampling();
    assert_eq!((sampling.temperature, sampling.top_p), (0.0, 0.8));
}

#[test]
fn a_missing_directory_or_manifest_says_what_a_bundle_is() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().to_path_buf(), dir.path().join("none")] {
        let text = Bundle::open(&path).unwrap_err().to_string();
        assert_mentions(&text, &["is not a bundle", "arrcoc-export build"]);
    }
}

#[test]
fn yaml_errors_name_the_field_and_the_line() {
    let (dir, raw) = valid();
    let text = serde_yaml::to_string(&raw).unwrap();
    let cases = [
        (text.replace("patch_size: 16", "patch_size: many"), "patch_size"),
        (text.replace("patch_size: 16", "patch_size: 16\n  colour: blue"), "colour"),
        (text.replace("model: tiny\n", ""), "model"),
        (text.replace("portable", "toaster"), "toaster"),
        ("- just\n- a list\n".to_owned(), "does not parse"),
        ("\u{0}\u{1}binary".to_owned(), "does not parse"),
    ];
    for (yaml, part) in cases {
        fs::write(dir.path().join(MANIFEST), yaml).unwrap();
        assert_mentions(&Bundle::open(dir.path()).unwrap_err().to_string(), &[part]);
    }
}

#[test]
fn another_format_is_named_before_its_fields_are_judged() {
    let (dir, _) = valid();
    fs::write(dir.path().join(MANIFEST), "format: 7\nsomething: new\n").unwrap();
    let text = Bundle::open(dir.path()).unwrap_err().to_string();
    assert_mentions(&text, &["expected bundle format 2", "found 7", "export"]);
}

#[test]
fn an_endless_manifest_is_not_read() {
    let (dir, _) = valid();
    fs::write(dir.path().join(MANIFEST), vec![b' '; crate::yaml::MOST_BYTES + 1]).unwrap();
    assert_mentions(&Bundle::open(dir.path()).unwrap_err().to_string(), &["at most 1048576 bytes"]);
}

#[test]
fn nested_aliases_do_not_explode() {
    let (dir, _) = valid();
    let mut yaml = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for (this, last) in ('b'..='i').zip('a'..) {
        yaml += &format!("{this}: &{this} [{}]\n", vec![format!("*{last}"); 9].join(","));
    }
    yaml += "format: 2\n";
    fs::write(dir.path().join(MANIFEST), yaml).unwrap();
    assert!(matches!(Bundle::open(dir.path()), Err(BundleError::Yaml { .. })));
}

#[test]
fn changed_and_missing_files_are_named() {
    let text = error_after(|dir, _| fs::write(dir.path().join("refiner.onnx"), "tampered").unwrap());
    assert_mentions(
        &text,
        &["refiner.onnx", "changed", &digest(&model("refiner.onnx")), &digest(b"tampered")],
    );
    let text = error_after(|dir, _| fs::remove_file(dir.path().join("text/tokenizer.json")).unwrap());
    assert_mentions(&text, &["text/tokenizer.json", "cannot be read"]);
    let text = error_after(|_, raw| drop(raw.graphs.remove("compressor")));
    assert_mentions(&text, &["no graph `compressor`"]);
}

#[test]
fn paths_cannot_leave_the_bundle() {
    for bad in ["../x", "/etc/passwd", "text/../../x", "./decoder.onnx", "", "..", "a\\b", "text"] {
        let text = error_after(|_, raw| raw.graphs.get_mut("decoder").unwrap().file = bad.to_owned());
        assert_mentions(&text, &["graphs.decoder.file", "inside the bundle"]);
        let text = error_after(|_, raw| drop(raw.files.insert(bad.to_owned(), digest(b""))));
        assert_mentions(&text, &["files.", "inside the bundle"]);
    }
}

#[test]
fn numbers_that_make_no_sense_are_refused_by_field() {
    type Change = fn(&mut RawManifest);
    let cases: [(&str, Change); 37] = [
        ("model", |m| m.model = "a\nb".to_owned()),
        ("checkpoint_sha256", |m| m.checkpoint_sha256 = "12".to_owned()),
        ("graphs", |m| drop(m.graphs.insert("extra".to_owned(), m.graphs["refiner"].clone()))),
        ("graphs.refiner.opset", |m| m.graphs.get_mut("refiner").unwrap().opset = 0),
        ("graphs.refiner.axes", |m| {
            let range = AxisRange { min: 1, opt: 1, max: 1 };
            m.graphs.get_mut("refiner").unwrap().axes.insert("colour".to_owned(), range);
        }),
        ("graphs.refiner.axes.batch", |m| {
            let range = AxisRange { min: 2, opt: 1, max: 8 };
            m.graphs.get_mut("refiner").unwrap().axes.insert("batch".to_owned(), range);
        }),
        ("vision.patch_size", |m| m.vision.patch_size = 0),
        ("vision.image_sizes", |m| m.vision.image_sizes = vec![128, 64]),
        ("vision.image_sizes", |m| m.vision.image_sizes = vec![100, 128]),
        ("vision.image_sizes", |m| m.vision.image_sizes.clear()),
        ("vision.native_size", |m| m.vision.native_size = 96),
        ("vision.image_mean", |m| m.vision.image_mean[1] = f32::NAN),
        ("vision.image_std", |m| m.vision.image_std[2] = 0.0),
        ("vision.token_budgets", |m| m.vision.token_budgets = vec![8, 8, 16]),
        ("vision.token_budgets", |m| m.vision.token_budgets[0] = 3),
        ("vision.gist_grid", |m| m.vision.gist_grid = usize::MAX),
        ("vision.adapter_target", |m| m.vision.adapter_target.std = f32::INFINITY),
        ("vision.adapter_target", |m| m.vision.adapter_target.mean = f32::NAN),
        ("decoder.layers", |m| m.decoder.layers = usize::MAX),
        ("decoder.image_token_id", |m| m.decoder.image_token_id = 100),
        ("generation.temperature", |m| {
            m.generation = Some(GenerationSpec { temperature: f32::NAN, ..GenerationSpec::default() });
        }),
        ("generation.top_p", |m| {
            m.generation = Some(GenerationSpec { top_p: 0.0, ..GenerationSpec::default() });
        }),
        ("generation.min_p", |m| {
            m.generation = Some(GenerationSpec { min_p: 1.5, ..GenerationSpec::default() });
        }),
        ("generation.max_new_tokens", |m| {
            m.generation = Some(GenerationSpec { max_new_tokens: Some(0), ..GenerationSpec::default() });
        }),
        ("decoder.image_token_id", |m| m.decoder.image_token_id = u32::MAX),
        ("decoder.eos_token_ids", |m| m.decoder.eos_token_ids = vec![1, u32::MAX]),
        ("decoder.eos_token_ids", |m| m.decoder.eos_token_ids = vec![1; 10_000]),
        ("decoder.vocab_size", |m| m.decoder.vocab_size = 1 << 32),
        ("decoder.context_length", |m| m.decoder.context_length = 1 << 31),
        ("decoder.head_dim", |m| m.decoder.head_dim = 1 << 31),
        ("decoder.kv_heads", |m| m.decoder.kv_heads = 1 << 31),
        ("decoder.hidden_size", |m| m.decoder.hidden_size = 1 << 31),
        ("vision.feature_size", |m| m.vision.feature_size = 1 << 40),
        ("vision.image_sizes", |m| {
            (m.vision.patch_size, m.vision.image_sizes, m.vision.native_size) = (1, vec![16384], 16384);
        }),
        ("vision.token_budgets", |m| m.vision.token_budgets = (8..100_000).collect()),
        ("model", |m| m.model = "m".repeat(100_000)),
        ("graphs.refiner.axes.batch", |m| {
            let range = AxisRange { min: 1, opt: 1, max: u64::MAX };
            m.graphs.get_mut("refiner").unwrap().axes.insert("batch".to_owned(), range);
        }),
    ];
    for (field, change) in cases {
        let text = error_after(|_, raw| change(raw));
        assert_mentions(&text, &[&format!("`{field}`"), "expected", "found"]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever a line of the manifest is replaced with: no panic, and a bundle only when nothing was lost.
    #[test]
    fn hostile_manifests_never_panic(line in 0_usize..120, junk in "\\PC{0,40}", indent in 0_usize..6) {
        let (dir, raw) = valid();
        let mut lines: Vec<String> =
            serde_yaml::to_string(&raw).unwrap().lines().map(str::to_owned).collect();
        let line = line % lines.len();
        lines[line] = format!("{}{junk}", " ".repeat(indent));
        fs::write(dir.path().join(MANIFEST), lines.join("\n")).unwrap();
        if let Ok(bundle) = Bundle::open(dir.path()) {
            for name in GRAPHS {
                prop_assert!(bundle.graph_path(name).unwrap().starts_with(bundle.dir()));
            }
        }
    }

    /// Any path: it is refused, or it resolves to a file inside the bundle.
    #[test]
    fn any_path_stays_inside(path in "[./\\\\a-z]{0,12}|decoder\\.onnx|text/tokenizer\\.json") {
        let (dir, mut raw) = valid();
        raw.graphs.get_mut("decoder").unwrap().file = path;
        raw.graphs.get_mut("decoder").unwrap().sha256 = digest(&model("decoder.onnx"));
        if let Ok(bundle) = open(&dir, &raw) {
            prop_assert_eq!(bundle.graph_path("decoder").unwrap(), bundle.dir().join("decoder.onnx"));
        }
    }
}
