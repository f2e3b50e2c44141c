//! Every graph of the composite against PyTorch, in every flavour, on every library.
//!
//! Each graph is fed the reference's own input, so that an error shows where it arises. The decoder is fed
//! the reference's visual embeddings and then runs alone for 64 tokens.
//!
//! The graphs are run by hand, and not by the pipeline on a tap (`arrcoc_export::tap`), which `verify`
//! records. A tap sees what the pipeline feeds, and here the goldens are fed: the padded question of the
//! reference, two pictures of different shapes in one batch, one tier's own tokens. A server makes none of
//! these inputs. `stock.rs` compares the whole pipeline, on a tap.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use anyhow::{Context, Result, ensure};
use arrcoc_bundle::processors::ArrCocOvis;
use arrcoc_runtime::decoder::{self, Rows};
use arrcoc_runtime::library::LibraryKind::{self, Ort, Tract};
use arrcoc_runtime::sampling::LogSoftmax;
use arrcoc_runtime::tensor::Tensor;
use arrcoc_tests::compare::{LOGPROB_FP32, assert_stage};
use arrcoc_tests::goldens::Goldens;
use arrcoc_tests::graphs::Graphs;

const TINY: &str = "arr-coc-ovis-tiny";
const WIDE: &str = "arr-coc-ovis-wide";
/// Trained weights: the checkpoint that the repository ships.
const LEDGER: &str = "arr-coc-ledger";

/// One test per combination of preset, flavour, runtime and case, so that a failure names it.
macro_rules! parity {
    ($($name:ident: $preset:expr, $target:literal, $runtime:expr, $side:literal;)*) => { $(
        #[test]
        fn $name() -> Result<()> {
            photograph($preset, $target, $runtime, $side)
        }
    )* };
}

parity! {
    tiny_cpu_ort: TINY, "cpu", Ort, 512;
    tiny_cpu_ort_other_size: TINY, "cpu", Ort, 640;
    tiny_cuda_ort: TINY, "cuda", Ort, 512;
    tiny_cuda_ort_other_size: TINY, "cuda", Ort, 640;
    tiny_portable_ort: TINY, "portable", Ort, 512;
    tiny_portable_ort_other_size: TINY, "portable", Ort, 640;
    tiny_portable_tract: TINY, "portable", Tract, 512;
    tiny_portable_tract_other_size: TINY, "portable", Tract, 640;
    real_width_cpu_ort: WIDE, "cpu", Ort, 1024;
    real_width_cuda_ort: WIDE, "cuda", Ort, 1024;
    real_width_portable_ort: WIDE, "portable", Ort, 1024;
    real_width_portable_tract: WIDE, "portable", Tract, 1024;
    trained_cpu_ort: LEDGER, "cpu", Ort, 320;
    trained_cuda_ort: LEDGER, "cuda", Ort, 320;
    trained_portable_ort: LEDGER, "portable", Ort, 320;
    trained_portable_tract: LEDGER, "portable", Tract, 320;
}

#[test]
fn batch_cpu_ort() -> Result<()> {
    batch("cpu", Ort)
}

#[test]
fn batch_cuda_ort() -> Result<()> {
    batch("cuda", Ort)
}

#[test]
fn batch_portable_ort() -> Result<()> {
    batch("portable", Ort)
}

#[test]
fn batch_portable_tract() -> Result<()> {
    batch("portable", Tract)
}

/// One photograph and one question through every stage, at every tier that the goldens have.
fn photograph(preset: &str, target: &str, runtime: LibraryKind, side: usize) -> Result<()> {
    let goldens = Goldens::read(&format!("{preset}/size{side}.safetensors"))?;
    let graphs = Graphs::open(preset, target, runtime)?;
    encoder_and_allocator(&graphs, &goldens, side)?;
    let budgets = graphs.bundle.manifest().vision.token_budgets.clone();
    let mut tiers = 0;
    for (tier, budget) in budgets.into_iter().enumerate() {
        let prefix = format!("tier{budget}.");
        if goldens.has(&format!("{prefix}visual_tokens")) {
            tokens(&graphs, &goldens, &prefix, budget, &[tier as i64])?;
            answer(&graphs, &goldens, &prefix).with_context(|| format!("tier {budget}"))?;
            tiers += 1;
        }
    }
    ensure!(tiers > 0, "the goldens have no tier");
    Ok(())
}

/// Two images of different shapes with two questions of different lengths and two adapter heads, in one run.
fn batch(target: &str, runtime: LibraryKind) -> Result<()> {
    let goldens = Goldens::read(&format!("{TINY}/batch.safetensors"))?;
    let graphs = Graphs::open(TINY, target, runtime)?;
    encoder_and_allocator(&graphs, &goldens, 512)?;
    let heads = goldens.ints("adapter_tier")?;
    ensure!(heads.len() == 2 && heads[0] != heads[1], "the batch is to use two heads, found {heads:?}");
    tokens(&graphs, &goldens, "", 64, &heads)
}

fn encoder_and_allocator(graphs: &Graphs, goldens: &Goldens, side: usize) -> Result<()> {
    let processor = graphs.bundle.manifest().processor::<ArrCocOvis>()?;
    let pixels = goldens.pixel_values(side, processor.image_mean, processor.image_std)?;
    assert_stage("pixel_values", &every_eighth(&pixels)?, &goldens.floats("pixel_values.stride8")?)?;

    let outputs = graphs.load("vision_encoder")?.run(&[("pixel_values", pixels)])?;
    assert_stage("image_features", outputs.floats("image_features")?, &goldens.floats("image_features")?)?;

    let ids: Vec<u32> = goldens.ints("query_ids")?.iter().map(|&id| id as u32).collect();
    let mask = goldens.tensor("query_mask")?;
    let embeds = graphs.embed(&ids)?.reshaped(goldens.tensor("query_embeds")?.shape())?;
    // Padding ids are the reference's affair: what they embed to is masked.
    if mask.shape()[0] == 1 {
        assert_stage("query_embeds", embeds.as_slice()?, &goldens.floats("query_embeds")?)?;
    }
    let outputs = graphs.load("allocator")?.run(&[
        ("image_features", goldens.tensor("image_features")?),
        ("query_embeds", goldens.tensor("query_embeds")?),
        ("query_mask", mask),
    ])?;
    for name in ["relevance", "knowing", "tension_weights", "tier_logits"] {
        assert_stage(name, outputs.floats(name)?, &goldens.floats(name)?)?;
    }
    Ok(())
}

/// Compressor, refiner and quality adapter.
fn tokens(graphs: &Graphs, goldens: &Goldens, prefix: &str, budget: usize, heads: &[i64]) -> Result<()> {
    let golden = |name: &str| format!("{prefix}{name}");
    let outputs = graphs.load("compressor")?.run(&[
        ("image_features", goldens.tensor("image_features")?),
        ("relevance", goldens.tensor("masked_relevance")?),
        ("token_slots", Tensor::from_vec(&[budget], vec![0i64; budget])?),
    ])?;
    let indices = outputs.tensor("token_indices")?.as_slice::<i64>()?.to_vec();
    ensure!(indices == goldens.ints(&golden("token_indices"))?, "{prefix}: other patches were chosen");
    for name in ["visual_tokens", "token_positions"] {
        assert_stage(&golden(name), outputs.floats(name)?, &goldens.floats(&golden(name))?)?;
    }

    let outputs = graphs.load("refiner")?.run(&[
        ("visual_tokens", goldens.tensor(&golden("visual_tokens"))?),
        ("token_positions", goldens.tensor(&golden("token_positions"))?),
    ])?;
    let name = golden("refined_tokens");
    assert_stage(&name, outputs.floats("refined_tokens")?, &goldens.floats(&name)?)?;

    let outputs = graphs.load("quality_adapter")?.run(&[
        ("refined_tokens", goldens.tensor(&golden("refined_tokens"))?),
        ("tier", Tensor::from_vec(&[heads.len()], heads.to_vec())?),
    ])?;
    let name = golden("visual_embeds");
    assert_stage(&name, outputs.floats("visual_embeds")?, &goldens.floats(&name)?)
}

/// Prefill, then greedy decoding: logits, every token, every log-probability.
fn answer(graphs: &Graphs, goldens: &Goldens, prefix: &str) -> Result<()> {
    let golden = |name: &str| format!("{prefix}{name}");
    let expected_ids = goldens.ints(&golden("greedy_ids"))?;
    let expected_logprobs = goldens.floats(&golden("greedy_logprobs"))?;
    ensure!(expected_ids.len() == 64, "expected 64 golden tokens, found {}", expected_ids.len());
    let prompt = graphs.prompt(goldens, &goldens.tensor(&golden("visual_embeds"))?)?;

    let capacity = prompt.shape()[1] + expected_ids.len() + 1;
    let mut decoder = decoder::load(&graphs.bundle, graphs.runtime.as_ref(), 1, capacity)?;
    let slot = decoder.slots_mut().allocate().context("a fresh decoder has a free slot")?;
    let mut logits = decoder.prefill(slot, &Rows::plain(prompt))?;
    assert_stage(&golden("prefill_logits"), logits.values(), &goldens.floats(&golden("prefill_logits"))?)?;
    let mut worst = 0.0f32;
    for (step, (&expected, expected_logprob)) in expected_ids.iter().zip(expected_logprobs).enumerate() {
        let best =
            (0..logits.values().len()).max_by(|&a, &b| logits.values()[a].total_cmp(&logits.values()[b]));
        let best = best.context("the vocabulary is empty")?;
        ensure!(best as i64 == expected, "{prefix} step {step}: expected token {expected}, found {best}");
        let logprob = LogSoftmax::new(logits.values())?.of(best as u32);
        worst = worst.max((logprob - expected_logprob).abs());
        let embeds = graphs.embed(&[best as u32])?;
        logits = decoder.step(&[slot], &embeds)?.remove(0);
    }
    println!("{:<40} {worst:.1e}", golden("greedy_logprobs"));
    ensure!(worst <= LOGPROB_FP32, "{prefix}: log-probabilities off by {worst:.1e}");
    Ok(())
}

/// Every eighth row and column of \[batch, 3, side, side\].
fn every_eighth(pixels: &Tensor) -> Result<Vec<f32>> {
    let &[batch, channels, side, _] = pixels.shape() else { anyhow::bail!("not an image batch") };
    let values = pixels.as_slice::<f32>()?;
    let rows =
        (0..batch * channels).flat_map(|plane| (0..side).step_by(8).map(move |y| (plane * side + y) * side));
    Ok(rows.flat_map(|start| (0..side).step_by(8).map(move |x| values[start + x])).collect())
}
