//! The stages, caches and receipts, over graphs that compute something simple and known.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use ::image::RgbImage;

use super::*;
use crate::bundle::tests::open_valid;
use crate::engine::{Graph, InPlace};

/// Width of the fake decoder's embeddings.
const H: usize = 2;

/// Runs fakes of the vision graphs: the features of a patch are its mean red, its relevance is that too (the question
/// shifts it), the tokens are gist cells and then patches by relevance, and the embedding of a token is its relevance and
/// its tier.
#[derive(Default)]
struct Fake {
    runs: Arc<[AtomicUsize; 5]>,
}

const GRAPHS: [&str; 5] = ["vision_encoder", "allocator", "compressor", "refiner", "quality_adapter"];

struct FakeGraph {
    name: &'static str,
    runs: Arc<[AtomicUsize; 5]>,
}

impl Runtime for Fake {
    fn describe(&self) -> String {
        "fake".to_owned()
    }

    fn load(&self, name: &str, _model: &Path) -> Result<Box<dyn Graph>, EngineError> {
        let name = GRAPHS.iter().find(|known| **known == name).unwrap();
        Ok(Box::new(FakeGraph { name, runs: Arc::clone(&self.runs) }))
    }
}

impl Graph for FakeGraph {
    fn run(&mut self, inputs: &[(&str, Tensor)]) -> Result<Vec<(String, Tensor)>, EngineError> {
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
    ) -> Result<Vec<(String, Tensor)>, EngineError> {
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
    fn stage(&self, stage: Stage, _took: Duration) {
        self.note(format!("{stage:?}"));
    }

    fn visual_tokens(&self, tier: usize, tokens: usize) {
        self.note(format!("tier {tier}: {tokens}"));
    }

    fn cache(&self, cache: Cache, hit: bool) {
        self.note(format!("{cache:?} {}", if hit { "hit" } else { "miss" }));
    }

    fn adapter_output(&self, tier: usize, statistics: Statistics) {
        assert!(statistics.mean.is_finite() && statistics.std >= 0.0);
        self.note(format!("adapter {tier}"));
    }

    fn iteration(&self, _: usize, _: usize, _: usize, _: f64) {}
}

struct Setup {
    vision: Vision,
    notes: Arc<Notes>,
    runs: Arc<[AtomicUsize; 5]>,
    _dir: tempfile::TempDir,
}

/// A model of 128 pixels (8 x 8 patches) with 2 x 2 gist cells and budgets of 8, 12, 16, 24 and 32 tokens.
fn setup(options: &VisionOptions) -> Setup {
    let (dir, bundle) = open_valid();
    let (runtime, notes) = (Fake::default(), Arc::new(Notes::default()));
    let observer: Arc<dyn Observer> = Arc::clone(&notes) as _;
    let vision = Vision::load(&bundle, &runtime, options, observer).unwrap();
    Setup { vision, notes, runs: runtime.runs, _dir: dir }
}

/// A picture that is brighter to the right; `shade` tells pictures apart.
fn picture(setup: &Setup, width: u32, height: u32, shade: u8) -> PixelValues {
    let pixels = RgbImage::from_fn(width, height, |x, _| ::image::Rgb([(x * 200 / width) as u8, shade, 0]));
    let file = picture::to_png(&pixels).unwrap();
    let preprocessor = setup.vision.preprocessor();
    preprocessor.preprocess(&preprocessor.decode(&file).unwrap())
}

fn ask(setup: &mut Setup, image: &PixelValues, question: &[u32], budget: Budget) -> VisualEmbeds {
    let embeds = question.iter().flat_map(|&id| [id as f32 / 10.0; H]).collect();
    let embeds = Tensor::from_vec(&[1, question.len(), H], embeds).unwrap();
    setup.vision.embed(image, &embeds, question, budget, true).unwrap()
}

const MISS: [&str; 9] = [
    "VisualTokens miss",
    "ImageFeatures miss",
    "VisionEncoder",
    "Allocator",
    "Compressor",
    "Refiner",
    "QualityAdapter",
    "adapter 0",
    "tier 0: 8",
];

#[test]
fn stages_run_once_and_caches_answer_afterwards() {
    let mut setup = setup(&VisionOptions::default());
    let image = picture(&setup, 128, 128, 0);
    assert_eq!(setup.notes.take(), ["DecodeImage", "Preprocess"]);

    let fresh = ask(&mut setup, &image, &[1, 2], Budget::Tokens(8));
    assert_eq!(setup.notes.take(), MISS);
    let stages: Vec<_> = fresh.stages.iter().map(|(stage, _)| *stage).collect();
    use Stage::{Allocator, Compressor, QualityAdapter, Refiner, VisionEncoder};
    assert_eq!(stages, [VisionEncoder, Allocator, Compressor, Refiner, QualityAdapter]);

    let cached = ask(&mut setup, &image, &[1, 2], Budget::Tokens(8));
    assert_eq!(setup.notes.take(), ["VisualTokens hit", "tier 0: 8"]);
    assert!(cached.stages.is_empty());
    assert_eq!(cached.embeds.bytes(), fresh.embeds.bytes());
    assert_eq!(cached.receipt.unwrap().places.len(), 8);

    // Another question, another budget: the image is not encoded again. Another image is.
    ask(&mut setup, &image, &[1, 3], Budget::Tokens(8));
    ask(&mut setup, &image, &[1, 2], Budget::Tokens(12));
    assert_eq!(setup.runs[0].load(Ordering::SeqCst), 1);
    assert_eq!(setup.runs[1].load(Ordering::SeqCst), 3);
    let other = picture(&setup, 128, 128, 1);
    ask(&mut setup, &other, &[1, 2], Budget::Tokens(8));
    assert_eq!(setup.runs[0].load(Ordering::SeqCst), 2);
}

#[test]
fn caches_of_no_size_keep_nothing() {
    let options = VisionOptions { feature_cache_bytes: 0, token_cache_bytes: 0, ..VisionOptions::default() };
    let mut setup = setup(&options);
    let image = picture(&setup, 128, 128, 0);
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
    let image = picture(&setup, 64, 32, 0);
    let receipt = ask(&mut setup, &image, &[1], Budget::Tokens(12)).receipt.unwrap();
    assert_eq!((receipt.tier, receipt.tokens, receipt.image_size), (1, 12, [64, 32]));
    assert_eq!(receipt.tension_weights, [0.5, 0.25, 0.25]);
    let (gist, fine) = receipt.places.split_at(4);
    assert!(gist.iter().all(|place| place.gist) && fine.iter().all(|place| !place.gist));
    assert_eq!(gist[1].rect, [32.0, 0.0, 64.0, 32.0]);
    assert_eq!(gist[3].rect, [32.0, 32.0, 64.0, 32.0], "a cell of padding has no area");
    assert_eq!(gist[3].relevance, 0.0);
    // The brightest patches are those of the last columns, top to bottom; padding comes last.
    let rects: Vec<_> = fine.iter().map(|place| place.rect).collect();
    let column = |left: f32| [0.0, 8.0, 16.0, 24.0].map(|top| [left, top, left + 8.0, top + 8.0]);
    assert_eq!(rects, [column(56.0), column(48.0)].concat());
    assert!(
        fine.iter().all(|place| place.relevance > gist[0].relevance && place.knowing == [0.0, 0.25, 0.5])
    );
}

#[test]
fn auto_takes_the_likeliest_tier_that_the_picture_can_fill() {
    let mut setup = setup(&VisionOptions::default());
    // Tiers 2 and 4 tie: the first wins.
    let whole = picture(&setup, 128, 128, 0);
    assert_eq!(ask(&mut setup, &whole, &[1], Budget::Auto).tier, 2);
    // 8 x 1 patches and 4 cells: only the first two tiers fit.
    let strip = picture(&setup, 128, 16, 0);
    assert_eq!(ask(&mut setup, &strip, &[1], Budget::Auto).tier, 1);
    // 8 tokens do not fit into 1 x 1 patches and 4 cells either, but something must be shown.
    let mut narrow = strip.clone();
    narrow.sha256 = [1; 32];
    narrow.resized = [1, 1];
    let embeds = ask(&mut setup, &narrow, &[1], Budget::Auto);
    assert_eq!((embeds.tier, embeds.embeds.shape()), (0, [1, 8, H].as_slice()));
}

#[test]
fn budgets_and_sizes_are_checked() {
    let small = VisionOptions { image_size: Some(64), ..VisionOptions::default() };
    let setup = setup(&small);
    // 4 x 4 patches and 4 cells make 20 tokens at most.
    assert_eq!(setup.vision.check_budget(Budget::Tokens(16)).unwrap(), Some(2));
    assert_eq!(setup.vision.check_budget(Budget::Auto).unwrap(), None);
    for (budget, found) in
        [(Budget::Tokens(24), "found 24"), (Budget::Tokens(0), "found 0"), (Budget::Full, "`full`")]
    {
        let text = setup.vision.check_budget(budget).unwrap_err().to_string();
        assert!(text.contains("[8, 12, 16]") && text.contains(found), "{text}");
    }
    let (_dir, bundle) = open_valid();
    let wrong = VisionOptions { image_size: Some(100), ..VisionOptions::default() };
    let error =
        Vision::load(&bundle, &Fake::default(), &wrong, Arc::new(crate::generate::NoObserver)).err().unwrap();
    assert_eq!(error.to_string(), "image_size: expected one of [64, 128], found 100");
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
