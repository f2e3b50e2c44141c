use proptest::prelude::*;

use super::*;

fn sampler(sampling: Sampling, seed: u64) -> Sampler {
    Sampler::new(&sampling, &[], &[], seed, 0)
}

fn greedy() -> Sampling {
    Sampling { temperature: 0.0, ..Sampling::default() }
}

#[test]
fn greedy_takes_the_lowest_id_among_equals() {
    let logits = [0.5, 2.0, -1.0, 2.0];
    assert_eq!(sampler(greedy(), 0).sample(&logits, None), Ok(1));
}

#[test]
fn broken_logits_are_errors() {
    let mut sampler = sampler(greedy(), 0);
    assert_eq!(sampler.sample(&[0.0, f32::NAN], None), Err(SamplingError::NotFinite { id: 1 }));
    assert_eq!(sampler.sample(&[f32::INFINITY, 0.0], None), Err(SamplingError::NotFinite { id: 0 }));
    assert_eq!(sampler.sample(&[f32::NEG_INFINITY; 3], None), Err(SamplingError::Empty));
    assert_eq!(sampler.sample(&[], None), Err(SamplingError::Empty));
    assert_eq!(sampler.sample(&[f32::NEG_INFINITY, 0.0], None), Ok(1));
}

#[test]
fn repetition_penalty_covers_prompt_and_answer() {
    let sampling = Sampling { repetition_penalty: 2.0, ..greedy() };
    let mut sampler = Sampler::new(&sampling, &[], &[0, 0, 3], 0, 0);
    // 0 is in the prompt: 3 / 2 < 2, so 1 wins; then 1 is in the answer too: 2 / 2 < 1.5. The negative
    // logit of 3 is doubled.
    let logits = [3.0, 2.0, -0.3, -0.2];
    assert_eq!(sampler.sample(&logits, None), Ok(1));
    assert_eq!(sampler.sample(&logits, None), Ok(0));
    let mut scratch = logits.to_vec();
    sampler.penalise(&mut scratch);
    assert_eq!(scratch, [1.5, 1.0, -0.3, -0.4]);
}

#[test]
fn presence_and_frequency_penalties_cover_the_answer_only() {
    let sampling = Sampling { presence_penalty: 0.5, frequency_penalty: 0.25, ..greedy() };
    let mut sampler = Sampler::new(&sampling, &[], &[1], 0, 0);
    let logits = [2.0, 1.0];
    assert_eq!(sampler.sample(&logits, None), Ok(0));
    let mut scratch = logits.to_vec();
    sampler.penalise(&mut scratch);
    assert_eq!(scratch, [1.25, 1.0]);
    assert_eq!(sampler.sample(&logits, None), Ok(0));
    assert_eq!(
        sampler.sample(&logits, None),
        Ok(0),
        "at 2 counts: 2 - 0.5 - 0.5 = 1, equal to id 1, and lower"
    );
    assert_eq!(sampler.sample(&logits, None), Ok(1));
}

#[test]
fn min_p_keeps_what_is_likely_enough_beside_the_likeliest() {
    // Shares of the likeliest: 1, 0.5, 0.2 at temperature 1; their square roots at temperature 2.
    let logits = [0.0, 0.5f32.ln(), 0.2f32.ln()];
    let kept = |min_p, temperature| {
        let sampling = Sampling { min_p, temperature, ..Sampling::default() };
        candidates(&logits, &sampling).iter().map(|candidate| candidate.id).collect::<Vec<_>>()
    };
    assert_eq!(kept(0.0, 1.0), [0, 1, 2]);
    assert_eq!(kept(0.3, 1.0), [0, 1]);
    assert_eq!(kept(0.6, 1.0), [0]);
    assert_eq!(kept(0.6, 2.0), [0, 1]);
    assert_eq!(kept(1.0, 1.0), [0]);
}

#[test]
fn ends_are_held_back_until_min_tokens() {
    let sampling = Sampling { min_tokens: 2, stop_token_ids: vec![1], ..greedy() };
    let mut sampler = Sampler::new(&sampling, &[0], &[], 0, 0);
    let logits = [9.0, 8.0, 1.0];
    let picked: Vec<_> = (0..3).map(|_| sampler.sample(&logits, None)).collect();
    assert_eq!(picked, [Ok(2), Ok(2), Ok(0)]);
    // Where nothing but an end is possible, it is picked: no answer can go on from nothing.
    let mut sampler = Sampler::new(&sampling, &[0], &[], 0, 0);
    assert_eq!(sampler.sample(&[0.0, 1.0, f32::NEG_INFINITY], None), Ok(1));
}

#[test]
fn draws_follow_the_distribution() {
    // exp: 1 : 2 : 5 of 8.
    let logits = [0.0, 2f32.ln(), 5f32.ln()];
    let mut sampler = sampler(Sampling::default(), 7);
    let mut counts = [0u32; 3];
    for _ in 0..8000 {
        counts[sampler.sample(&logits, None).unwrap() as usize] += 1;
    }
    for (count, expected) in counts.iter().zip([1000.0, 2000.0, 5000.0]) {
        // Five standard deviations of the widest binomial here.
        assert!((f64::from(*count) - expected).abs() < 220.0, "{counts:?}");
    }
}

#[test]
fn log_softmax_is_stable_and_exact() {
    let logits = [1000.0, 999.0, -1000.0];
    let logprobs = LogSoftmax::new(&logits).unwrap();
    let expected = -(1.0 + (-1f64).exp()).ln();
    assert!((f64::from(logprobs.of(0)) - expected).abs() < 1e-6);
    assert!((f64::from(logprobs.of(1)) - (expected - 1.0)).abs() < 1e-6);
    assert_eq!(logprobs.of(9), f32::NEG_INFINITY);
    assert_eq!(logprobs.top(2).iter().map(|t| t.0).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(logprobs.top(0), []);
    assert_eq!(logprobs.top(50).len(), 3);
}

fn logits() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(-20f32..20.0, 1..300)
}

proptest! {
    #[test]
    fn same_seed_same_tokens(logits in logits(), seed: u64, top_p in 0.05f32..1.0, top_k in 0usize..40) {
        let sampling = Sampling { top_p, top_k, temperature: 0.8, ..Sampling::default() };
        let (mut a, mut b) = (sampler(sampling.clone(), seed), sampler(sampling, seed));
        for _ in 0..8 {
            prop_assert_eq!(a.sample(&logits, None), b.sample(&logits, None));
        }
    }

    #[test]
    fn a_tiny_nucleus_or_top_1_is_greedy(logits in logits(), seed: u64) {
        let best = argmax(&logits);
        for sampling in [
            Sampling { top_k: 1, ..Sampling::default() },
            Sampling { top_p: 0.0, ..Sampling::default() },
            Sampling { temperature: 1e-6, top_k: 1, ..Sampling::default() },
        ] {
            prop_assert_eq!(sampler(sampling, seed).sample(&logits, None), Ok(best));
        }
    }

    /// Against the definition: sort everything, cut at `top_k`, then at the first prefix that reaches
    /// `top_p`.
    #[test]
    fn candidates_match_a_full_sort(logits in logits(), top_k in 0usize..80, top_p in 0f32..1.0) {
        let sampling = Sampling { top_k, top_p, ..Sampling::default() };
        let mut sorted: Vec<u32> = (0..logits.len() as u32).collect();
        sorted.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
        if top_k > 0 {
            sorted.truncate(top_k);
        }
        let weight = |id: &u32| (f64::from(logits[*id as usize]) - f64::from(logits[sorted[0] as usize])).exp();
        let total: f64 = sorted.iter().map(weight).sum();
        let mut sum = 0.0;
        let keep = sorted.iter().position(|id| { sum += weight(id); sum >= f64::from(top_p) * total });
        // A sum may differ in its last bit between the two orders of addition; skip borders that close.
        prop_assume!((sum - f64::from(top_p) * total).abs() > 1e-9 * total || keep == Some(0));
        let mut expected = sorted[..keep.map_or(sorted.len(), |k| k + 1)].to_vec();
        expected.sort_unstable();
        let found: Vec<u32> = candidates(&logits, &sampling).iter().map(|c| c.id).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn log_probabilities_sum_to_one(logits in logits()) {
        let logprobs = LogSoftmax::new(&logits).unwrap();
        let sum: f64 = (0..logits.len() as u32).map(|id| f64::from(logprobs.of(id)).exp()).sum();
        prop_assert!((sum - 1.0).abs() < 1e-5);
        let top = logprobs.top(5);
        prop_assert!(top.windows(2).all(|w| w[0].1 >= w[1].1));
        prop_assert_eq!(top[0].0, argmax(&logits));
    }
}
