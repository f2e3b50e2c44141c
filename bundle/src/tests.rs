use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::*;
use tempfile::TempDir;

use super::manifest::{CacheElement, DecoderSpec, FORMAT, RawGraph, VisionSpec};
use super::*;

mod disk;

const GRAPHS: [(&str, Role); 4] = [
    ("embedding", Role::Embedding),
    ("vision_encoder", Role::Encoder),
    ("refiner", Role::Projector),
    ("decoder", Role::Decoder),
];

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

fn processor() -> processors::ArrCocOvis {
    processors::ArrCocOvis {
        patch_size: 16,
        feature_size: 32,
        image_sizes: vec![64, 128],
        native_size: 128,
        image_mean: [0.5; 3],
        image_std: [0.25; 3],
        gist_grid: 2,
    }
}

/// A bundle whose graphs are empty.
pub(super) fn valid() -> (TempDir, RawManifest) {
    let dir = tempfile::tempdir().unwrap();
    let graphs = GRAPHS.iter().map(|(name, role)| {
        let file = format!("{name}.onnx");
        fs::write(dir.path().join(&file), model(&file)).unwrap();
        let sha256 = digest(&model(&file));
        let axes = BTreeMap::from([("batch".to_owned(), AxisRange { min: 1, opt: 1, max: 8 })]);
        let outputs = BTreeMap::from([("out".to_owned(), Meaning::Network)]);
        ((*name).to_owned(), RawGraph { role: *role, file, sha256, opset: 18, axes, outputs })
    });
    let graphs = graphs.collect();
    fs::create_dir(dir.path().join("text")).unwrap();
    fs::write(dir.path().join("text/tokenizer.json"), "{}").unwrap();
    let raw = RawManifest {
        format: FORMAT,
        model: "tiny".to_owned(),
        family: "arr_coc_ovis".to_owned(),
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
            image_token_id: 3,
            images_first: true,
            token_budgets: vec![8, 12, 16, 24, 32],
            embeds_target: Some(Statistics { mean: 0.0, std: 0.02, sparsity: 0.0 }),
        },
        processor: serde_yaml::to_value(processor()).unwrap(),
        decoder: DecoderSpec {
            layers: 2,
            kv_heads: 1,
            head_dim: 8,
            hidden_size: 16,
            vocab_size: 100,
            context_length: 256,
            eos_token_ids: vec![1, 2],
            cache_element: CacheElement::Fp32,
            deep_levels: 0,
            recurrent: None,
        },
        generation: GenerationSpec::default(),
        tool_calls: None,
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
    assert_eq!(bundle.graph("refiner").unwrap().path, bundle.dir().join("refiner.onnx"));
    assert_eq!(bundle.manifest().only(Role::Decoder), "decoder");
    assert_eq!(bundle.axis("decoder", "batch"), Some(AxisRange { min: 1, opt: 1, max: 8 }));
    assert_eq!(bundle.axis("decoder", "seq"), None);
    assert!(bundle.file_path("text/tokenizer.json").unwrap().is_file());
    assert!(matches!(bundle.file_path("chat_template.jinja"), Err(BundleError::NoFile { .. })));
    assert_eq!(bundle.manifest().vision, raw.vision);
    assert_eq!(bundle.manifest().processor::<processors::ArrCocOvis>().unwrap(), processor());
    assert_eq!(files::hex(&bundle.digest()), digest(&fs::read(dir.path().join(MANIFEST)).unwrap()));
}

#[test]
fn a_section_of_another_family_is_named() {
    let (dir, mut raw) = valid();
    raw.processor["patch_size"] = "many".into();
    let bundle = open(&dir, &raw).unwrap();
    let text = bundle.manifest().processor::<processors::ArrCocOvis>().unwrap_err().to_string();
    assert_mentions(&text, &["`processor`", "arr_coc_ovis", "many"]);
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
        (text.replace("kv_heads: 1", "kv_heads: many"), "kv_heads"),
        (text.replace("kv_heads: 1", "kv_heads: 1\n  colour: blue"), "colour"),
        (text.replace("role: projector", "role: caretaker"), "caretaker"),
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
    assert_mentions(&text, &["expected bundle format 3", "found 7", "export"]);
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
    yaml += "format: 3\n";
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
    let text = error_after(|_, raw| drop(raw.graphs.remove("decoder")));
    assert_mentions(&text, &["`graphs`", "exactly one graph of the role decoder", "found 0"]);
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
    let cases: [(&str, Change); 26] = [
        ("model", |m| m.model = "a\nb".to_owned()),
        ("checkpoint_sha256", |m| m.checkpoint_sha256 = "12".to_owned()),
        ("graphs", |m| drop(m.graphs.insert("a b".to_owned(), m.graphs["refiner"].clone()))),
        ("graphs", |m| drop(m.graphs.insert("extra".to_owned(), m.graphs["decoder"].clone()))),
        ("family", |m| m.family = "Über".to_owned()),
        ("graphs.refiner.opset", |m| m.graphs.get_mut("refiner").unwrap().opset = 0),
        ("graphs.refiner.axes", |m| {
            let range = AxisRange { min: 1, opt: 1, max: 1 };
            m.graphs.get_mut("refiner").unwrap().axes.insert("the colour".to_owned(), range);
        }),
        ("graphs.refiner.axes.batch", |m| {
            let range = AxisRange { min: 2, opt: 1, max: 8 };
            m.graphs.get_mut("refiner").unwrap().axes.insert("batch".to_owned(), range);
        }),
        ("vision.token_budgets", |m| m.vision.token_budgets = vec![8, 8, 16]),
        ("vision.embeds_target", |m| {
            m.vision.embeds_target = Some(Statistics { mean: 0.0, std: f32::INFINITY, sparsity: 0.0 });
        }),
        ("vision.embeds_target", |m| {
            m.vision.embeds_target = Some(Statistics { mean: f32::NAN, std: 1.0, sparsity: 0.0 });
        }),
        ("decoder.layers", |m| m.decoder.layers = usize::MAX),
        ("generation.temperature", |m| {
            m.generation = GenerationSpec { temperature: f32::NAN, ..GenerationSpec::default() };
        }),
        ("generation.top_p", |m| {
            m.generation = GenerationSpec { top_p: 0.0, ..GenerationSpec::default() };
        }),
        ("generation.min_p", |m| {
            m.generation = GenerationSpec { min_p: 1.5, ..GenerationSpec::default() };
        }),
        ("generation.max_new_tokens", |m| {
            m.generation = GenerationSpec { max_new_tokens: Some(0), ..GenerationSpec::default() };
        }),
        ("decoder.eos_token_ids", |m| m.decoder.eos_token_ids = vec![1, u32::MAX]),
        ("decoder.eos_token_ids", |m| m.decoder.eos_token_ids = vec![1; 10_000]),
        ("decoder.vocab_size", |m| m.decoder.vocab_size = 1 << 32),
        ("decoder.context_length", |m| m.decoder.context_length = 1 << 31),
        ("decoder.head_dim", |m| m.decoder.head_dim = 1 << 31),
        ("decoder.kv_heads", |m| m.decoder.kv_heads = 1 << 31),
        ("decoder.hidden_size", |m| m.decoder.hidden_size = 1 << 31),
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
            for graph in bundle.manifest().graphs.values() {
                prop_assert!(graph.path.starts_with(bundle.dir()));
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
            prop_assert_eq!(&bundle.graph("decoder").unwrap().path, &bundle.dir().join("decoder.onnx"));
        }
    }
}
