//! The stages, caches and receipts, over graphs that compute something simple and known.
#![allow(clippy::unwrap_used)]

use std::io::Cursor;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ::image::RgbImage;

use super::*;
use crate::generate::{Image, Note, Observer, Receipt, Selection, Sizing, Stage};
use crate::library::{Graph, InPlace};
use crate::vision::{Vision, VisionOptions};
use arrcoc_bundle::manifest::RawManifest;
use arrcoc_tests::bundles;

/// Width of the fake decoder's embeddings.
const H: usize = 2;

/// Runs fakes of the vision graphs: the features of a patch are its mean red, its relevance is that too (the
/// question shifts it), the tokens are gist cells and then patches by relevance, and the embedding of a token
/// is its relevance and its tier.
#[derive(Default)]
struct Fake {
    runs: Arc<[AtomicUsize; 5]>,
}

const GRAPHS: [&str; 5] = ["vision_encoder", "allocator", "compressor", "refiner", "quality_adapter"];

struct FakeGraph {
    name: &'static str,
    runs: Arc<[AtomicUsize; 5]>,
}

impl Library for Fake {
    fn describe(&self) -> String {
        "fake".to_owned()
    }

    fn load(&self, name: &str, _model: &Path) -> Result<Box<dyn Graph>, LibraryError> {
        let name = GRAPHS.iter().find(|known| **known == name).unwrap();
        Ok(Box::new(FakeGraph { name, runs: Arc::clone(&self.runs) }))
    }
}

impl Graph for FakeGraph {
    fn run(&mut self, inputs: &[(&str, Tensor)]) -> Result<Vec<(String, Tensor)>, LibraryError> {
        self.runs[GRAPHS.iter().position(|name| *name == self.name).unwrap()].fetch_add(1, Ordering::SeqCst);
        let input = |name: &str| &inputs.iter().find(|(input, _)| *input == name).unwrap().1;
        let outputs = match self.name {
            "vision_encoder" => vec![("image_features", patch_means(input("pixel_values")))],
            "allocator" => allocate(input("image_features"), input("query_embeds"), input("query_mask")),
            "compressor" => compress(input("relevance"), input("token_slots").shape()[0]),
            "refiner" => vec![("refined_tokens", input("visual_tokens").clone())],
            _ => {
                let tier = input("tier").as_slice::<i64>().unwrap()[0] as f32;
                let tokens = input("refined_tokens").as_slice::<f32>().unwrap();
                let rows: Vec<f32> = tokens.iter().flat_map(|&relevance| [relevance, tier]).collect();
                vec![("visual_embeds", Tensor::from_vec(&[1, tokens.len(), H], rows).unwrap())]
            }
        };
        Ok(outputs.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect())
    }

    fn run_in_place(
        &mut self,
        _inputs: &[(&str, Tensor)],
        _in_place: &mut [InPlace<'_>],
    ) -> Result<Vec<(String, Tensor)>, LibraryError> {
        unreachable!("the vision side has no cache of its own")
    }
}

/// `[1, 3, S, S]` to `[1, P, 1]`, patches of 16 pixels.
fn patch_means(pixels: &Tensor) -> Tensor {
    let size = pixels.shape()[2];
    let side = size / 16;
    let red = &pixels.as_slice::<f32>().unwrap()[..size * size];
    let mean = |patch: usize| {
        let (y, x) = (patch / side * 16, patch % side * 16);
        (0..256).map(|at| red[(y + at / 16) * size + x + at % 16]).sum::<f32>() / 256.0
    };
    Tensor::from_vec(&[1, side * side, 1], (0..side * side).map(mean).collect()).unwrap()
}

fn allocate(features: &Tensor, query: &Tensor, mask: &Tensor) -> Vec<(&'static str, Tensor)> {
    assert_eq!(query.shape()[1], mask.shape()[1]);
    assert!(mask.as_slice::<i64>().unwrap().iter().all(|&set| set == 1));
    let shift: f32 = query.as_slice::<f32>().unwrap().iter().sum();
    let features = features.as_slice::<f32>().unwrap();
    let relevance: Vec<f32> = features.iter().map(|x| 1.0 / (1.0 + (-x - shift).exp())).collect();
    let patches = features.len();
    let knowing: Vec<f32> = (0..3).flat_map(|way| vec![way as f32 / 4.0; patches]).collect();
    let tiers = vec![0.0, 1.0, 5.0, 2.0, 5.0];
    vec![
        ("relevance", Tensor::from_vec(&[1, patches], relevance).unwrap()),
        ("knowing", Tensor::from_vec(&[1, 3, patches], knowing).unwrap()),
        ("tension_weights", Tensor::from_vec(&[1, 3], vec![0.5_f32, 0.25, 0.25]).unwrap()),
        ("tier_logits", Tensor::from_vec(&[1, 5], tiers).unwrap()),
    ]
}

/// 2 x 2 gist cells, then patches by falling relevance.
fn compress(relevance: &Tensor, tokens: usize) -> Vec<(&'static str, Tensor)> {
    let values = relevance.as_slice::<f32>().unwrap();
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]).then(a.cmp(&b)));
    let indices: Vec<i64> =
        (values.len()..values.len() + 4).chain(order).take(tokens).map(|i| i as i64).collect();
    let picked = indices.iter().map(|&i| values.get(i as usize).map_or(0.0, |r| r.max(0.0))).collect();
    vec![
        ("visual_tokens", Tensor::from_vec::<f32>(&[1, tokens, 1], picked).unwrap()),
        ("token_positions", Tensor::from_vec(&[1, tokens, 2], vec![0.5_f32; tokens * 2]).unwrap()),
        ("token_indices", Tensor::from_vec(&[1, tokens], indices).unwrap()),
    ]
}

/// Writes down what it is told.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Notes {
    fn note(&self, text: String) {
        self.0.lock().unwrap().push(text);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Observer for Notes {
    fn note(&self, note: Note<'_>) {
        let text = match note {
            Note::Stage(stage, _) => stage.name().to_owned(),
            Note::Image { tier, tokens } => format!("tier {}: {tokens}", tier.unwrap()),
            Note::Cache { cache, hit } => format!("{} {}", cache.name(), if hit { "hit" } else { "miss" }),
            Note::Embeds { tier, statistics } => {
                assert!(statistics.mean.is_finite() && statistics.std >= 0.0);
                format!("adapter {tier}")
            }
            Note::Iteration { .. } => return,
        };
        self.note(text);
    }
}

struct Setup {
    vision: Vision,
    notes: Notes,
    runs: Arc<[AtomicUsize; 5]>,
    _dir: tempfile::TempDir,
}

/// A model of 128 pixels (8 x 8 patches) with 2 x 2 gist cells and budgets of 8, 12, 16, 24 and 32 tokens.
fn setup(options: &VisionOptions) -> Setup {
    let dir = tempfile::tempdir().unwrap();
    let bundle = bundles::open(dir.path(), &bundles::composite(dir.path()));
    let library = Fake::default();
    let vision = Vision::load(&bundle, &library, options).unwrap();
    Setup { vision, notes: Notes::default(), runs: library.runs, _dir: dir }
}

/// A picture that is brighter to the right; `shade` tells pictures apart.
fn picture(width: u32, height: u32, shade: u8) -> Vec<u8> {
    let pixels = RgbImage::from_fn(width, height, |x, _| ::image::Rgb([(x * 200 / width) as u8, shade, 0]));
    let mut file = Cursor::new(Vec::new());
    pixels.write_to(&mut file, ::image::ImageFormat::Png).unwrap();
    file.into_inner()
}

/// What became of a picture.
struct Shown {
    visual: Visual,
    receipt: Receipt,
    tier: usize,
    stages: Vec<String>,
}

fn ask(setup: &mut Setup, image: &[u8], question: &[u32], budget: Budget) -> Shown {
    let embeds = question.iter().flat_map(|&id| [id as f32 / 10.0; H]).collect();
    let embeds = Tensor::from_vec(&[1, question.len(), H], embeds).unwrap();
    let pictures = setup.vision.pictures();
    let grant = pictures.grant(budget, &Selection::default(), None).unwrap();
    let prepared = pictures.prepare(&image.to_vec().into(), question, grant, &setup.notes).unwrap();
    let (visual, stages) = setup.vision.embed(prepared, &embeds, &setup.notes).unwrap();
    let receipt = Receipt::clone(&visual.receipt);
    let tier = receipt.allocation.as_ref().unwrap().tier;
    let stages = stages.iter().map(|(stage, _): &(Stage, _)| stage.name().to_owned()).collect();
    Shown { visual, receipt, tier, stages }
}

const MISS: [&str; 11] = [
    "decode_image",
    "preprocess",
    "visual_tokens miss",
    "image_features miss",
    "vision_encoder",
    "allocator",
    "compressor",
    "refiner",
    "quality_adapter",
    "adapter 0",
    "tier 0: 8",
];

#[test]
fn stages_run_once_and_caches_answer_afterwards() {
    let mut setup = setup(&VisionOptions::default());
    let image = picture(128, 128, 0);
    let fresh = ask(&mut setup, &image, &[1, 2], Budget::Tokens(8));
    assert_eq!(setup.notes.take(), MISS);
    assert_eq!(fresh.stages, [&MISS[..2], &MISS[4..9]].concat());

    // A known picture is not even decoded.
    let cached = ask(&mut setup, &image, &[1, 2], Budget::Tokens(8));
    assert_eq!(setup.notes.take(), ["visual_tokens hit", "tier 0: 8"]);
    assert!(cached.stages.is_empty());
    assert_eq!(cached.visual.rows.bytes(), fresh.visual.rows.bytes());
    assert_eq!(cached.receipt.places.len(), 8);

    // Another question, another budget: the image is neither decoded nor encoded again. Another image is.
    ask(&mut setup, &image, &[1, 3], Budget::Tokens(8));
    assert_eq!(setup.notes.take()[..3], ["visual_tokens miss", "image_features hit", "allocator"]);
    ask(&mut setup, &image, &[1, 2], Budget::Tokens(12));
    assert_eq!(setup.runs[0].load(Ordering::SeqCst), 1);
    assert_eq!(setup.runs[1].load(Ordering::SeqCst), 3);
    ask(&mut setup, &picture(128, 128, 1), &[1, 2], Budget::Tokens(8));
    assert_eq!(setup.runs[0].load(Ordering::SeqCst), 2);
}

#[test]
fn a_coarse_look_comes_to_the_same_here_and_is_encoded_once() {
    let mut setup = setup(&VisionOptions::default());
    let question = Tensor::from_vec(&[1, 1, H], vec![0.1; H]).unwrap();
    let pictures = setup.vision.pictures();
    for coarse in [false, true] {
        let sizing = Sizing { coarse, ..Sizing::default() };
        let image = Image { sizing, ..picture(128, 128, 0).into() };
        let prepared = pictures.prepare(&image, &[1], Grant::Tier(0), &setup.notes).unwrap();
        setup.vision.embed(prepared, &question, &setup.notes).unwrap();
    }
    assert_eq!(setup.runs[0].load(Ordering::SeqCst), 1);
    // And what nothing here does is refused.
    let refused = pictures.check(&Sizing { max_pixels: Some(100), ..Sizing::default() }).unwrap_err();
    assert!(refused.to_string().contains("max_pixels"), "{refused}");
}

#[test]
fn a_picture_that_was_encoded_meanwhile_is_not_encoded_again() {
    let mut setup = setup(&VisionOptions::default());
    let (image, question) = (picture(128, 128, 0), Tensor::from_vec(&[1, 1, H], vec![0.1; H]).unwrap());
    let pictures = setup.vision.pictures();
    let image = image.into();
    let prepare = || pictures.prepare(&image, &[1], Grant::Tier(0), &setup.notes).unwrap();
    let both = [prepare(), prepare()];
    for prepared in both {
        setup.vision.embed(prepared, &question, &setup.notes).unwrap();
    }
    assert_eq!(setup.runs[0].load(Ordering::SeqCst), 1);
}

#[test]
fn caches_of_no_size_keep_nothing() {
    let options = VisionOptions { feature_cache_bytes: 0, token_cache_bytes: 0, ..VisionOptions::default() };
    let mut setup = setup(&options);
    let image = picture(128, 128, 0);
    for _ in 0..2 {
        setup.notes.take();
        ask(&mut setup, &image, &[1], Budget::Tokens(8));
        assert_eq!(setup.notes.take(), MISS);
    }
}

#[test]
fn the_receipt_says_where_each_token_looks() {
    let mut setup = setup(&VisionOptions::default());
    // 64 x 32 pixels fill the upper half of the input: 8 x 4 patches of 8 x 8 original pixels.
    let shown = ask(&mut setup, &picture(64, 32, 0), &[1], Budget::Tokens(12));
    assert_eq!(shown.visual.runs, [0..12]);
    let receipt = shown.receipt;
    assert_eq!((shown.tier, receipt.tokens, receipt.image_size), (1, 12, [64, 32]));
    assert_eq!(receipt.allocation.unwrap().tension_weights, [0.5, 0.25, 0.25]);
    let (gist, fine) = receipt.places.split_at(4);
    assert!(gist.iter().all(|place| place.gist) && fine.iter().all(|place| !place.gist));
    assert_eq!(gist[1].rect, [32.0, 0.0, 64.0, 32.0]);
    assert_eq!(gist[3].rect, [32.0, 32.0, 64.0, 32.0], "a cell of padding has no area");
    let relevance = |place: &crate::generate::Place| place.score.unwrap().relevance;
    assert_eq!((relevance(&gist[3]), gist[3].cell), (0.0, [0, 1, 1]));
    // The brightest patches are those of the last columns, top to bottom; padding comes last.
    let rects: Vec<_> = fine.iter().map(|place| place.rect).collect();
    let column = |left: f32| [0.0, 8.0, 16.0, 24.0].map(|top| [left, top, left + 8.0, top + 8.0]);
    assert_eq!(rects, [column(56.0), column(48.0)].concat());
    assert!(fine.iter().all(|place| {
        relevance(place) > relevance(&gist[0]) && place.score.unwrap().knowing == [0.0, 0.25, 0.5]
    }));
}

#[test]
fn auto_takes_the_likeliest_tier_that_the_picture_can_fill() {
    let mut setup = setup(&VisionOptions::default());
    // Tiers 2 and 4 tie: the first wins.
    assert_eq!(ask(&mut setup, &picture(128, 128, 0), &[1], Budget::Auto).tier, 2);
    // 8 x 1 patches and 4 cells: only the first two tiers fit.
    assert_eq!(ask(&mut setup, &picture(128, 16, 0), &[1], Budget::Auto).tier, 1);
}

#[test]
fn budgets_and_sizes_are_checked() {
    let small = VisionOptions { image_size: Some(64), ..VisionOptions::default() };
    let setup = setup(&small);
    // 4 x 4 patches and 4 cells make 20 tokens at most.
    let pictures = setup.vision.pictures();
    assert_eq!(pictures.grant(Budget::Tokens(16), &Selection::default(), None).unwrap(), Grant::Tier(2));
    assert_eq!(pictures.grant(Budget::Auto, &Selection::default(), None).unwrap(), Grant::Auto);
    let most = |grant| pictures.plan(&picture(100, 50, 0).into(), grant).unwrap().most_rows();
    assert_eq!((most(Grant::Tier(1)), most(Grant::Auto)), (12, 16));
    for (budget, found) in
        [(Budget::Tokens(24), "found 24"), (Budget::Tokens(0), "found 0"), (Budget::Full, "`full`")]
    {
        let text = pictures.grant(budget, &Selection::default(), None).unwrap_err().to_string();
        assert!(text.contains("[8, 12, 16]") && text.contains(found), "{text}");
    }
    let dir = tempfile::tempdir().unwrap();
    let bundle = bundles::open(dir.path(), &bundles::composite(dir.path()));
    let wrong = VisionOptions { image_size: Some(100), ..VisionOptions::default() };
    let error = Vision::load(&bundle, &Fake::default(), &wrong).err().unwrap();
    assert_eq!(error.to_string(), "image_size: expected one of [64, 128], found 100");
}

/// What the family says of a manifest after one change.
fn refused(change: impl FnOnce(&mut RawManifest)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut manifest = bundles::composite(dir.path());
    change(&mut manifest);
    let bundle = bundles::open(dir.path(), &manifest);
    Vision::load(&bundle, &Fake::default(), &VisionOptions::default()).err().unwrap().to_string()
}

#[test]
fn sections_that_make_no_sense_are_refused_by_field() {
    let numbers = |sizes: &[u64]| serde_yaml::to_value(sizes).unwrap();
    let cases = [
        ("patch_size", 0.into()),
        ("patch_size", "many".into()),
        ("image_sizes", numbers(&[128, 64])),
        ("image_sizes", numbers(&[100, 128])),
        ("image_sizes", numbers(&[])),
        ("image_sizes", numbers(&[16 << 10])),
        ("native_size", 96.into()),
        ("image_mean", serde_yaml::to_value([0.5, f32::NAN, 0.5]).unwrap()),
        ("image_std", serde_yaml::to_value([0.5, 0.5, 0.0]).unwrap()),
        ("gist_grid", u64::MAX.into()),
        ("feature_size", (1_u64 << 40).into()),
        ("colour", "blue".into()),
    ];
    for (field, value) in cases {
        let text = refused(|manifest| manifest.processor[field] = value);
        assert!(text.contains("`processor") && text.contains("expected") && text.contains("found"), "{text}");
    }
    let text = refused(|manifest| manifest.vision.token_budgets[0] = 3);
    assert!(text.contains("`vision.token_budgets`") && text.contains("4 gist tokens"), "{text}");
    assert!(refused(|manifest| manifest.vision.embeds_target = None).contains("`vision.embeds_target`"));
    assert!(refused(|manifest| drop(manifest.graphs.remove("compressor"))).contains("no graph `compressor`"));
    let text = refused(|manifest| manifest.family = "gpt_5".to_owned());
    assert!(text.contains("arr_coc_ovis") && text.contains("`gpt_5`"), "{text}");
}

#[test]
fn of_a_long_question_the_end_counts() {
    let query = Tensor::from_vec(&[1, 3, 2], vec![1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
    assert_eq!(last_rows(&query, 2).unwrap().as_slice::<f32>().unwrap(), [3.0, 4.0, 5.0, 6.0]);
    assert_eq!(last_rows(&query, 3).unwrap().bytes().as_ptr(), query.bytes().as_ptr());
}

#[test]
fn statistics_are_those_of_the_population() {
    let Statistics { mean, std, sparsity } = Statistics::of(&[0.0, 2.0, 0.0, 2.0]);
    assert_eq!((mean, std, sparsity), (1.0, 1.0, 0.5));
}
