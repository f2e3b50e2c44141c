//! The stages of the composite pipeline (design 4.1), one after the other on both runtimes.
//!
//! Each stage gets the reference's outputs of the ones before it, on both sides; only one stage's weights are in memory
//! at a time.

use std::path::Path;
use std::time::{Duration, Instant};

use arrcoc_runtime::bundle::manifest::{Drift, Precision, Statistics, Target, VisionSpec};
use arrcoc_runtime::bundle::{Bundle, Manifest};
use arrcoc_runtime::decoder::{self, Decoder, Embedder, Logits};
use arrcoc_runtime::engine::{Graph, Runtime};
use arrcoc_runtime::image::preprocess::Preprocess;
use arrcoc_runtime::image::{ImageLimits, decode};
use arrcoc_runtime::tensor::Tensor;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::Serialize;

use super::compare::{cosine, distance, float_cosine, float_distance};
use super::{Options, VerifyError, tolerances};
use crate::progress::Progress;

/// Length of the random question, tokens, and of the padding behind it that must not matter.
const QUESTION: usize = 12;
const PADDING: usize = 4;

/// One bundle on one runtime.
pub(super) struct Side<'a> {
    pub(super) bundle: &'a Bundle,
    pub(super) runtime: &'a dyn Runtime,
}

/// One output of one stage, the worst of its runs.
#[derive(Debug, Clone, Serialize)]
pub struct StageReport {
    /// The graph.
    pub stage: String,
    /// Its output.
    pub output: String,
    /// max |a - b| / max |b|; `null` in JSON when it is infinite.
    pub distance: f64,
    /// What it may be.
    pub limit: f64,
    /// Cosine of the angle between the two, the worst of the runs.
    pub cosine: f64,
    /// Time that the bundle took for the stage's runs, seconds.
    pub seconds: f64,
    /// Time that the reference took.
    pub reference_seconds: f64,
}

impl StageReport {
    /// Whether the output is within its limit.
    pub fn passed(&self) -> bool {
        self.distance <= self.limit
    }
}

/// The greedy continuation, token by token.
#[derive(Debug, Clone, Serialize)]
pub struct DecodingReport {
    /// Tokens decoded, the reference's choice fed to both sides.
    pub tokens: usize,
    /// Tokens where both sides' first choice is the same.
    pub agreeing: usize,
    /// Tokens where they differ although the reference's two best are further apart than the logits may be.
    pub differing: usize,
}

/// What the quality adapter makes of one tier's tokens. It normalises each image, so that a random one will do.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct AdapterReport {
    /// The tier, by its budget.
    pub tokens: usize,
    /// Of the adapter's output.
    pub statistics: Statistics,
    /// What of it has left the statistics that the decoder was trained on.
    pub drift: Option<Drift>,
}

/// What the stages said.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) stages: Vec<StageReport>,
    pub(super) adapter: Vec<AdapterReport>,
    pub(super) decoding: Option<DecodingReport>,
}

/// A stage loaded on both sides, and the worst that its outputs did so far.
struct Pair {
    stage: &'static str,
    graphs: [Box<dyn Graph>; 2],
    elapsed: [Duration; 2],
    precision: Precision,
    target: Target,
    worst: Vec<Worst>,
}

/// How far an output was off at worst.
struct Worst {
    output: String,
    distance: f64,
    cosine: f64,
}

impl Pair {
    fn load(stage: &'static str, sides: &[Side<'_>; 2]) -> Result<Self, VerifyError> {
        let [subject, reference] = sides;
        let graphs = [
            subject.bundle.load_graph(subject.runtime, stage)?,
            reference.bundle.load_graph(reference.runtime, stage)?,
        ];
        let Manifest { precision, target, .. } = *subject.bundle.manifest();
        Ok(Self { stage, graphs, elapsed: [Duration::ZERO; 2], precision, target, worst: Vec::new() })
    }

    /// Runs both sides on the same inputs; returns the reference's outputs.
    fn run(&mut self, inputs: &[(&str, Tensor)]) -> Result<Outputs, VerifyError> {
        let mut outputs = Vec::new();
        for (graph, elapsed) in self.graphs.iter_mut().zip(&mut self.elapsed) {
            let started = Instant::now();
            outputs.push(graph.run(inputs)?);
            *elapsed += started.elapsed();
        }
        let reference = outputs.pop().unwrap_or_default();
        let subject = Outputs { stage: self.stage, values: outputs.pop().unwrap_or_default() };
        for (name, expected) in &reference {
            let found = subject.get(name)?;
            let (distance, cosine) = (distance(&found, expected), cosine(&found, expected));
            match self.worst.iter_mut().find(|worst| worst.output == *name) {
                Some(worst) => {
                    worst.distance = worst.distance.max(distance);
                    worst.cosine = worst.cosine.min(cosine);
                }
                None => self.worst.push(Worst { output: name.clone(), distance, cosine }),
            }
        }
        Ok(Outputs { stage: self.stage, values: reference })
    }

    fn report(self, findings: &mut Findings) {
        let [seconds, reference_seconds] = self.elapsed.map(|elapsed| elapsed.as_secs_f64());
        let report = |Worst { output, distance, cosine }: Worst| StageReport {
            stage: self.stage.to_owned(),
            limit: tolerances::limit(self.precision, self.target, self.stage, &output),
            output,
            distance,
            cosine,
            seconds,
            reference_seconds,
        };
        findings.stages.extend(self.worst.into_iter().map(report));
    }
}

/// Named outputs of a stage.
struct Outputs {
    stage: &'static str,
    values: Vec<(String, Tensor)>,
}

impl Outputs {
    fn get(&self, name: &str) -> Result<Tensor, VerifyError> {
        let found = self.values.iter().find(|(candidate, _)| candidate == name);
        found
            .map(|(_, tensor)| tensor.clone())
            .ok_or_else(|| VerifyError::Output { stage: self.stage, output: name.to_owned() })
    }
}

/// Runs every stage on both sides.
pub(super) fn run(
    sides: &[Side<'_>; 2],
    options: &Options,
    progress: Progress,
) -> Result<Findings, VerifyError> {
    let spec = sides[0].bundle.manifest();
    let size = options.image_size.unwrap_or_else(|| test_size(&spec.vision));
    if !spec.vision.image_sizes.contains(&size) {
        return Err(VerifyError::ImageSize { found: size, sizes: spec.vision.image_sizes.clone() });
    }
    let context = context_length(options, spec);
    if context < SHORTEST_CONTEXT {
        return Err(VerifyError::Context { found: context });
    }
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let mut findings = Findings::default();
    let announce = |stage: &str| progress.note(&format!("running {stage}"));

    announce("embedding");
    let ids: Vec<i64> =
        (0..QUESTION + PADDING).map(|_| i64::from(rng.next_u32()) % spec.decoder.vocab_size as i64).collect();
    let mut pair = Pair::load("embedding", sides)?;
    let query = pair.run(&[("input_ids", Tensor::from_vec(&[1, ids.len()], ids)?)])?.get("inputs_embeds")?;
    pair.report(&mut findings);

    announce("vision_encoder");
    let mut pair = Pair::load("vision_encoder", sides)?;
    let pixels = match &options.image {
        Some(path) => read_image(path, size, &spec.vision)?,
        None => Tensor::from_vec(&[1, 3, size, size], random_image(&mut rng, size))?,
    };
    let features = pair.run(&[("pixel_values", pixels)])?.get("image_features")?;
    pair.report(&mut findings);

    announce("allocator");
    let mut pair = Pair::load("allocator", sides)?;
    let mask = [vec![1i64; QUESTION], vec![0; PADDING]].concat();
    let relevance = pair
        .run(&[
            ("image_features", features.clone()),
            ("query_embeds", query.clone()),
            ("query_mask", Tensor::from_vec(&[1, mask.len()], mask)?),
        ])?
        .get("relevance")?;
    pair.report(&mut findings);

    let embeds = visual_tokens(sides, &features, &relevance, &mut findings, &announce)?;
    announce("decoder");
    decode(sides, &embeds, &query, options, &mut findings)?;
    Ok(findings)
}

/// The smallest size that fills every tier; the native one where none does.
fn test_size(vision: &VisionSpec) -> usize {
    let largest = vision.token_budgets.last().copied().unwrap_or(0);
    let fills = |&&size: &&usize| (size / vision.patch_size).pow(2) + vision.gist_grid.pow(2) >= largest;
    vision.image_sizes.iter().find(fills).copied().unwrap_or(vision.native_size)
}

/// Compressor, refiner and adapter at every tier that the image has tokens for; returns the largest tier's embeddings.
fn visual_tokens(
    sides: &[Side<'_>; 2],
    features: &Tensor,
    relevance: &Tensor,
    findings: &mut Findings,
    announce: &dyn Fn(&str),
) -> Result<Option<Tensor>, VerifyError> {
    let vision = &sides[0].bundle.manifest().vision;
    let available = relevance.shape().last().copied().unwrap_or(0) + vision.gist_grid * vision.gist_grid;
    let tiers: Vec<usize> =
        vision.token_budgets.iter().copied().filter(|&tokens| tokens <= available).collect();

    announce("compressor");
    let mut pair = Pair::load("compressor", sides)?;
    let mut compressed = Vec::new();
    for &tokens in &tiers {
        compressed.push(pair.run(&[
            ("image_features", features.clone()),
            ("relevance", relevance.clone()),
            ("token_slots", Tensor::from_vec(&[tokens], vec![0i64; tokens])?),
        ])?);
    }
    pair.report(findings);

    announce("refiner");
    let mut pair = Pair::load("refiner", sides)?;
    let mut refined = Vec::new();
    for outputs in &compressed {
        let inputs =
            ["visual_tokens", "token_positions"].map(|name| outputs.get(name).map(|value| (name, value)));
        let [tokens, positions] = inputs;
        refined.push(pair.run(&[tokens?, positions?])?.get("refined_tokens")?);
    }
    pair.report(findings);

    announce("quality_adapter");
    let mut pair = Pair::load("quality_adapter", sides)?;
    let mut embeds = None;
    for (tier, tokens) in refined.into_iter().enumerate() {
        let index = Tensor::from_vec(&[1], vec![tier as i64])?;
        let found = pair.run(&[("refined_tokens", tokens), ("tier", index)])?.get("visual_embeds")?;
        let statistics = Statistics::of(found.as_slice()?);
        findings.adapter.push(AdapterReport {
            tokens: tiers[tier],
            statistics,
            drift: statistics.drift(&vision.adapter_target),
        });
        embeds = Some(found);
    }
    pair.report(findings);
    Ok(embeds)
}

/// A language model of one side, with one sequence in it.
struct Speaker {
    decoder: Box<dyn Decoder>,
    embedder: Embedder,
    slot: usize,
    elapsed: Duration,
}

impl Speaker {
    fn load(side: &Side<'_>, capacity: usize) -> Result<Self, VerifyError> {
        let mut decoder = decoder::load(side.bundle, side.runtime, 1, capacity)?;
        let embedding = side.bundle.load_graph(side.runtime, "embedding")?;
        let embedder = Embedder::new(embedding, side.bundle.manifest().decoder.hidden_size);
        let slot = decoder.slots_mut().allocate().unwrap_or(0);
        Ok(Self { decoder, embedder, slot, elapsed: Duration::ZERO })
    }

    /// Feeds a prompt of rows of `width`, `chunk` rows at a time.
    fn prefill(&mut self, prompt: &[f32], width: usize, chunk: usize) -> Result<Logits, VerifyError> {
        let started = Instant::now();
        let mut logits = None;
        for chunk in prompt.chunks(chunk * width) {
            let embeds = Tensor::from_vec(&[1, chunk.len() / width, width], chunk.to_vec())?;
            logits = Some(self.decoder.prefill(self.slot, &embeds)?);
        }
        self.elapsed += started.elapsed();
        logits.ok_or(VerifyError::Output { stage: "decoder", output: "logits".to_owned() })
    }

    /// Feeds one token.
    fn step(&mut self, token: u32) -> Result<Logits, VerifyError> {
        let started = Instant::now();
        let embeds = self.embedder.embed(&[token])?;
        let logits = self.decoder.step(&[self.slot], &embeds)?.pop();
        self.elapsed += started.elapsed();
        logits.ok_or(VerifyError::Output { stage: "decoder", output: "logits".to_owned() })
    }
}

/// A token of the prompt, one of the answer, and the decoder's spare place.
const SHORTEST_CONTEXT: usize = 3;

/// Tokens that prompt and answer may have together: the model's limit, or that of the engines, where it is smaller.
fn context_length(options: &Options, manifest: &Manifest) -> usize {
    options.library.tensorrt.workload.context_length.min(manifest.decoder.context_length)
}

/// Prefills image and question, then decodes greedily: the reference's choices go to both sides.
fn decode(
    sides: &[Side<'_>; 2],
    image: &Option<Tensor>,
    query: &Tensor,
    options: &Options,
    findings: &mut Findings,
) -> Result<(), VerifyError> {
    let spec = &sides[0].bundle.manifest().decoder;
    let context_length = context_length(options, sides[0].bundle.manifest());
    // As a server would: engines for GPUs take no more.
    let prefill_chunk = options.library.tensorrt.workload.prefill_chunk;
    let mut prompt = Vec::new();
    for part in image.iter().chain([query]) {
        prompt.extend_from_slice(part.as_slice::<f32>()?);
    }
    // A model of short context takes as much of the prompt as leaves room for one token and the decoder's spare place.
    let length = (prompt.len() / spec.hidden_size).min(context_length - 2);
    let tokens = options.tokens.min(context_length - length - 1);
    let prompt = prompt.split_off(prompt.len() - length * spec.hidden_size);
    let capacity = length + tokens + 1;
    let mut speakers = [Speaker::load(&sides[0], capacity)?, Speaker::load(&sides[1], capacity)?];
    let &Manifest { precision, target, .. } = sides[0].bundle.manifest();
    let limit = tolerances::limit(precision, target, "decoder", "logits");
    let mut decoding = DecodingReport { tokens, agreeing: 0, differing: 0 };
    let (mut worst, mut cosine) = (0.0f64, 1.0f64);
    let mut token = None;
    for _ in 0..tokens {
        let [subject, reference] = &mut speakers;
        let [found, expected] = match token {
            None => [
                subject.prefill(&prompt, spec.hidden_size, prefill_chunk)?,
                reference.prefill(&prompt, spec.hidden_size, prefill_chunk)?,
            ],
            Some(token) => [subject.step(token)?, reference.step(token)?],
        };
        let (found, expected) = (found.values(), expected.values());
        worst = worst.max(float_distance(found, expected));
        cosine = cosine.min(float_cosine(found, expected));
        let choice = top(expected);
        if top(found) == choice {
            decoding.agreeing += 1;
        } else if margin(expected) > limit * largest(expected) {
            decoding.differing += 1;
        }
        token = Some(choice);
    }
    let [seconds, reference_seconds] = speakers.map(|speaker| speaker.elapsed.as_secs_f64());
    findings.stages.push(StageReport {
        stage: "decoder".to_owned(),
        output: "logits".to_owned(),
        distance: worst,
        limit,
        cosine,
        seconds,
        reference_seconds,
    });
    findings.decoding = Some(decoding);
    Ok(())
}

/// Index of the largest logit, the first of equal ones.
fn top(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().rev().max_by(|(_, a), (_, b)| a.total_cmp(b));
    best.map_or(0, |(i, _)| i as u32)
}

/// How far the best logit is ahead of the next one.
fn margin(logits: &[f32]) -> f64 {
    let best = top(logits) as usize;
    let rest = logits.iter().enumerate().filter(|(i, _)| *i != best).map(|(_, &x)| x);
    f64::from(logits.get(best).copied().unwrap_or(0.0)) - f64::from(rest.fold(f32::NEG_INFINITY, f32::max))
}

fn largest(logits: &[f32]) -> f64 {
    logits.iter().fold(0.0, |largest: f64, &x| largest.max(f64::from(x).abs()))
}

/// Normalised pixels of an image file.
fn read_image(path: &Path, size: usize, spec: &VisionSpec) -> Result<Tensor, VerifyError> {
    let bytes = std::fs::read(path).map_err(|source| VerifyError::Read { path: path.to_owned(), source })?;
    let image = decode::decode(&bytes, &ImageLimits::default())
        .map_err(|source| VerifyError::Image { path: path.to_owned(), source })?;
    Ok(Preprocess::new(size, spec).apply(&image).tensor)
}

/// Normalised pixels: a coarse random pattern, as images are smooth, with noise on it, as they are not quite.
fn random_image(rng: &mut ChaCha8Rng, size: usize) -> Vec<f32> {
    const CELLS: usize = 16;
    let mut uniform = || rng.next_u32() as f32 / u32::MAX as f32 * 2.0 - 1.0;
    let coarse: Vec<f32> = (0..3 * CELLS * CELLS).map(|_| 2.0 * uniform()).collect();
    let mut pixels = Vec::with_capacity(3 * size * size);
    for channel in 0..3 {
        for y in 0..size {
            for x in 0..size {
                let cell = (channel * CELLS + y * CELLS / size) * CELLS + x * CELLS / size;
                pixels.push(coarse[cell] + 0.2 * uniform());
            }
        }
    }
    pixels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_first_and_have_no_margin() {
        assert_eq!(top(&[0.0, 3.0, 3.0, -1.0]), 1);
        assert_eq!(margin(&[0.0, 3.0, 3.0, -1.0]), 0.0);
        assert_eq!(margin(&[0.0, 3.0, 1.0]), 2.0);
    }
}
