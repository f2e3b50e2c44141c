//! What ends an answer: the model's own end tokens, a request's, and how long both are held back.

use super::*;

/// Long enough a run of greedy tokens to cut somewhere.
fn whole(model: &Model) -> Vec<u32> {
    let tokens = run(model, ask("the cat")).tokens[0].clone();
    assert!(tokens.len() > 5, "{tokens:?}");
    tokens
}

#[test]
fn a_stop_token_ends_the_answer_before_its_text() {
    let (model, _jobs) = model(&Setup::default());
    let whole = whole(&model);
    let stop = whole[3];
    let first = whole.iter().position(|&id| id == stop).unwrap();
    let sampling = Sampling { temperature: 0.0, stop_token_ids: vec![stop], ..Sampling::default() };
    let stopped = run(&model, Request { sampling: sampling.clone(), ..ask("the cat") });
    assert_eq!(stopped.tokens[0], whole[..first]);
    assert_eq!(stopped.finished[0], Some(FinishReason::Stop));
    assert_eq!(stopped.done.unwrap().0.completion_tokens, first + 1, "it counts, and is no text");

    let held_back = Sampling { min_tokens: 6, ..sampling };
    let longer = run(&model, Request { sampling: held_back, ..ask("the cat") });
    assert!(longer.tokens[0].len() >= 6, "{:?}", longer.tokens[0]);
    assert!(!longer.tokens[0].contains(&stop));
}

#[test]
fn answers_go_on_past_the_models_end_where_asked_to() {
    let (model, _jobs) = model(&Setup::default());
    // Hot enough that some seed ends early.
    let hot = |seed, ignore_eos, min_tokens| {
        let (seed, temperature) = (Some(seed), 20.0);
        let sampling = Sampling { temperature, seed, ignore_eos, min_tokens, ..Sampling::default() };
        run(&model, Request { sampling, ..ask("the") })
    };
    let early = (0..200).find(|&seed| hot(seed, false, 0).finished[0] == Some(FinishReason::Stop)).unwrap();
    let past = hot(early, true, 0);
    assert_eq!((past.tokens[0].len(), past.finished[0]), (20, Some(FinishReason::Length)));
    let least = hot(early, false, 20);
    assert_eq!((least.tokens[0].len(), least.finished[0]), (20, Some(FinishReason::Length)));
}

#[test]
fn more_tokens_than_an_answer_may_have_are_refused() {
    let (model, _jobs) = model(&Setup::default());
    let sampling = Sampling { min_tokens: 21, ..Sampling::default() };
    let refused = model.submit(Request { sampling, ..ask("the") }).unwrap_err();
    assert!(matches!(refused, GenerateError::Invalid { field: "min_tokens", .. }), "{refused}");
}

#[test]
fn broken_logits_fail_the_request_and_not_the_model() {
    for choices in [1, 5] {
        let (model, _jobs) = model(&Setup { nan_from: Some(9), ..Setup::default() });
        let outcome = run(&model, Request { choices, ..ask("abcde") });
        assert!(
            matches!(&outcome.failed, Some(GenerateError::Internal(reason)) if reason.contains("finite"))
        );
        eventually("every slot is free again", || model.occupancy() == Occupancy::default());
        assert!(model.healthy());
        assert!(run(&model, Request { max_tokens: MaxTokens::Exactly(2), ..ask("abcde") }).done.is_some());
    }
}
