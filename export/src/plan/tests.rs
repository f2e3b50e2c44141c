//! Sums by hand, refusals, and that more never needs less.

#![allow(clippy::unwrap_used)]

use arrcoc_bundle::{Meaning, Role, Target};
use arrcoc_models::dims;
use arrcoc_models::families;
use arrcoc_models::graph::{Builder, Element};
use proptest::prelude::*;

use super::activations::peak;
use super::*;

const WORKLOAD: Workload = Workload { slots: 4, context: 4096, image_size: 1024, prefill_chunk: 256 };

const TINY: &str = "arr-coc-ovis-tiny";
const BASE: &str = "arr-coc-ovis-base";

fn compose(name: &str) -> Box<dyn Composition> {
    init::compose(families::preset(name).unwrap(), WeightType::Bfloat16).unwrap()
}

fn model(name: &str, attention: Attention) -> Model {
    Model::new(compose(name), attention, WORKLOAD.context)
}

fn base() -> Model {
    model(BASE, Attention::Materialized)
}

#[test]
fn kv_cache_of_qwen3_0_6b() {
    let model = base();
    // Key and value, 28 layers, 8 KV heads of width 128, two bytes each.
    assert_eq!(model.kv_bytes_per_token(Precision::Fp16), 2 * 28 * 8 * 128 * 2);
    assert_eq!(model.kv_bytes_per_token(Precision::Fp32), 229_376);
    let estimate = model.estimate(Precision::Int4, WORKLOAD);
    assert_eq!(estimate.kv_cache, 4 * 4096 * 114_688, "below 16 bits only weights shrink");
}

#[test]
fn scores_of_sams_global_attention() {
    let estimate = base().estimate(Precision::Fp16, WORKLOAD);
    let encoder = &estimate.peaks[0];
    assert_eq!(encoder.stage, "vision_encoder");
    assert_eq!(encoder.largest, [1, 12, 64 * 64, 64 * 64], "heads, queries, keys");
    let scores = 12 * 4096 * 4096 * 2;
    assert_eq!(encoder.largest_bytes, scores);
    // The softmax reads one of these and writes another; beside them lie a dozen tensors of [4096, 768].
    assert!((2 * scores..2 * scores + (96 << 20)).contains(&encoder.bytes), "{encoder:?}");

    let fused = model(BASE, Attention::Fused).estimate(Precision::Fp16, WORKLOAD);
    assert!(fused.peaks[0].bytes < scores / 2, "{:?}", fused.peaks[0]);
    let half = base().estimate(Precision::Fp16, Workload { image_size: 512, ..WORKLOAD });
    assert_eq!(half.peaks[0].largest_bytes, scores / 16, "half the side, a quarter of the patches");
}

#[test]
fn logits_stay_in_32_bits() {
    let fused = model(BASE, Attention::Fused);
    let workload = Workload { slots: 8, prefill_chunk: 1, ..WORKLOAD };
    let peaks = fused.estimate(Precision::Fp16, workload).peaks;
    let decoder = peaks.into_iter().find(|peak| peak.stage == "decoder").unwrap();
    assert_eq!((decoder.largest.as_slice(), decoder.largest_bytes), (&[8, 151_936][..], 8 * 151_936 * 4));
    // The KV cache, 3.5 GiB here, has a column of its own; what else a step of eight tokens needs is small.
    assert!(decoder.bytes < 8 * 151_936 * 4 + (1 << 20), "{decoder:?}");
}

/// In bundles for CUDA the encoders' attention is that of portable ones, and the decoder's holds no scores.
#[test]
fn cached_attention_is_the_decoders() {
    let [materialized, cached] = [Attention::Materialized, Attention::Cached]
        .map(|attention| model(BASE, attention).estimate(Precision::Fp16, WORKLOAD));
    assert_eq!(cached.peaks[0], materialized.peaks[0]);
    let decoder = |estimate: &Estimate| {
        estimate.peaks.iter().find(|peak| peak.stage == "decoder").map(|peak| peak.bytes)
    };
    assert!(decoder(&cached) < decoder(&materialized), "{cached:?}");
    assert_eq!(cached.kv_cache, materialized.kv_cache);
}

#[test]
fn weights_by_precision() {
    use WeightKind::{DecoderLinear, Linear, Table, Vector};
    let bytes = |precision: Precision, kind| precision.weight_bytes(kind, 2048, 1024);
    assert_eq!(bytes(Precision::Fp32, DecoderLinear), 2048 * 1024 * 4);
    assert_eq!(bytes(Precision::Bf16, Linear), 2048 * 1024 * 2);
    assert_eq!(bytes(Precision::Int8, Linear), 2048 * (1024 + 4), "a scale per output channel");
    assert_eq!(bytes(Precision::Fp8, Table), 2048 * 1024 * 2);
    assert_eq!(
        bytes(Precision::Int4, DecoderLinear),
        2048 * 32 * 18,
        "32 blocks of 16 bytes and an fp16 scale"
    );
    assert_eq!(bytes(Precision::Int4, Linear), 2048 * 1024 * 2, "int4 is the decoder's alone");
    assert_eq!(bytes(Precision::Int4, Vector), 2048 * 1024 * 4);
    assert_eq!(Precision::Int4.weight_bytes(DecoderLinear, 3, 33), 3 * 2 * 18, "the last block is padded");
}

#[test]
fn fp32_weights_are_the_parameters_that_graphs_read() {
    let used = compose(BASE).parameters().into_iter().filter(|parameter| parameter.used);
    let used: u64 = used.map(|parameter| parameter.shape.iter().product::<usize>() as u64).sum();
    let sum: u64 = base().estimate(Precision::Fp32, WORKLOAD).weights.values().sum();
    // Beyond the parameters there are constants: rotary tables of 4096 x 64 sines and cosines (2 MiB),
    // resampling matrices.
    assert!((used * 4..used * 4 + (4 << 20)).contains(&sum), "{used} parameters, {sum} bytes");
}

#[test]
fn prefill_of_64_tokens() {
    let costs = base().budgets(Precision::Fp16, WORKLOAD);
    assert_eq!(costs.iter().map(|cost| cost.tokens).collect::<Vec<_>>(), [64, 100, 160, 256, 400, 4096 + 16]);
    // q and o 1024 x 2048, k and v 1024 x 1024, three of 1024 x 3072; 28 layers.
    let weights = 28 * (2 * 1024 * 2048 + 2 * 1024 * 1024 + 3 * 1024 * 3072);
    // 64 * 65 / 2 pairs, 16 heads of width 128.
    let attention = 4 * 28 * 16 * 128 * (64 * 65 / 2);
    assert_eq!(costs[0].prefill_flops, 2 * weights * 64 + attention);
    assert_eq!(costs[0].kv_cache, 64 * 114_688);
    assert!(costs[5].full && costs[5].context_share > 1.0 && (costs[5].prefill_share - 1.0).abs() < 1e-12);
}

#[test]
fn gpus_refuse_what_they_cannot_compute() {
    let refusing = |precision: Precision| {
        let refuses = |device: &Device| precision.refusal(device.compute()).is_some();
        Device::ALL.into_iter().filter(refuses).collect::<Vec<_>>()
    };
    use Device::{A10, A100, A6000, T4, V100};
    assert_eq!(refusing(Precision::Fp32), []);
    assert_eq!(refusing(Precision::Fp16), []);
    assert_eq!(refusing(Precision::Int4), []);
    assert_eq!(refusing(Precision::Bf16), [T4, V100]);
    assert_eq!(refusing(Precision::Fp8), [T4, A10, V100, A6000, A100]);
    assert_eq!(refusing(Precision::Int8), [V100]);
    for device in Device::ALL {
        for refusal in Precision::ALL.iter().filter_map(|precision| precision.refusal(device.compute())) {
            assert_eq!(
                refusal.instead.refusal(device.compute()),
                None,
                "{device}: an alternative that it runs"
            );
        }
    }
    let bf16 = Precision::Bf16.refusal(T4.compute()).unwrap();
    assert!(bf16.reason.contains("sm_75") && bf16.instead == Precision::Fp16);
}

#[test]
fn first_change_that_is_enough() {
    let model = base();
    let change = |precision, workload| match model.judge(Device::T4, precision, workload).outcome {
        Outcome::TooLarge { change, .. } => change,
        other => panic!("{other:?}"),
    };
    // 12 slots hold 10.5 GiB of KV cache in fp32, and weights take 3.7 more; half of that fits.
    let wide = Workload { slots: 12, ..WORKLOAD };
    assert!(matches!(change(Precision::Fp32, wide), Change::Precision { precision: Precision::Fp16, .. }));
    // 64 slots hold 28 GiB in 16 bits: no precision helps.
    let crowd = Workload { slots: 64, ..WORKLOAD };
    let Change::Context { tokens, left } = change(Precision::Fp16, crowd) else {
        panic!("a shorter context")
    };
    let fits = |context| {
        let total = model.estimate(Precision::Fp16, Workload { context, ..crowd }).total;
        Device::T4.memory().checked_sub(total)
    };
    assert_eq!(fits(tokens), Some(left));
    assert_eq!(fits(tokens + 64), None, "the longest that fits");
    // 400 slots: even 512 tokens each are too many.
    let Change::Slots { slots, .. } = change(Precision::Fp16, Workload { slots: 400, ..WORKLOAD }) else {
        panic!("fewer slots")
    };
    assert!((16..64).contains(&slots), "{slots}");
}

#[test]
fn impossible_requests_say_what_is_possible() {
    let options = Options {
        source: ModelSource::Preset(families::preset(TINY).unwrap()),
        precision: None,
        device: None,
        slots: 1,
        context: None,
        image_size: None,
        prefill_chunk: 256,
        attention: Attention::Materialized,
    };
    assert_eq!(plan(&options).unwrap().workload.context, 4096);
    let error = plan(&Options { image_size: Some(700), ..options.clone() }).unwrap_err().to_string();
    assert!(error.contains("512, 640, 800, 1024, 1280") && error.contains("700"), "{error}");
    let error = plan(&Options { context: Some(4097), ..options.clone() }).unwrap_err().to_string();
    assert!(error.contains("4096") && error.contains("4097"), "{error}");
    assert!(matches!(plan(&Options { slots: 0, ..options }), Err(PlanError::Zero { .. })));
}

#[test]
fn tensors_live_until_their_last_reader() {
    let mut builder = Builder::new("test", Role::Encoder, "test", Target::Portable);
    let g = &mut builder;
    let x = g.input("x", Element::F32, dims!["n", 2]);
    let a = g.relu(&x); // x, a
    let view = g.reshape(&a, dims![2, "n"]); // a view: nothing more
    let b = g.relu(&view); // x, a, b
    let c = g.relu(&b); // x, b, c: a is gone
    let joined = g.concat(&[&b, &c], 1); // x, b, c, joined, which is twice as large
    g.output("y", Meaning::Network, &joined, dims![2, joined.dim(1)]);
    let graph = builder.finish();
    let one = 10 * 2 * 4;
    let found = peak(&graph, &[("n", 10)], 4);
    // The size of the axis is computed too: a few bytes of integers.
    assert!((5 * one..5 * one + 64).contains(&found.bytes), "{found:?}");
    assert_eq!((found.largest.as_slice(), found.largest_bytes), (&[2, 20][..], 2 * one));
    let half = peak(&graph, &[("n", 10)], 2);
    assert_eq!(half.largest_bytes, one);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn more_never_needs_less(
        (context, more_context) in (1usize..4096, 0usize..4096),
        (slots, more_slots) in (1usize..32, 0usize..32),
        (size, larger) in (0usize..5, 0usize..5),
        precision in prop::sample::select(&Precision::ALL[..]),
    ) {
        let model = model(TINY, Attention::Materialized);
        let sizes = [512, 640, 800, 1024, 1280];
        let less = Workload { slots, context, image_size: sizes[size], prefill_chunk: 256 };
        let least = model.estimate(precision, less).total;
        let image_size = sizes[(size + larger).min(4)];
        for more in [
            Workload { context: context + more_context, ..less },
            Workload { slots: slots + more_slots, ..less },
            Workload { image_size, ..less },
            Workload { prefill_chunk: 512, ..less },
        ] {
            prop_assert!(model.estimate(precision, more).total >= least, "{:?} {:?}", less, more);
        }
        prop_assert!(model.estimate(Precision::Fp32, less).total >= least);
    }
}
