//! Answers that are bound to a form, among others that are not.

use super::*;
use crate::generate::Form;

fn bound(expression: &str, prompt: &str) -> Request {
    Request { form: Some(Form::Regex(expression.into())), ..ask(prompt) }
}

#[test]
fn an_answer_has_its_form_and_ends_with_it() {
    for target in [Target::Cpu, Target::Portable] {
        let (model, _jobs) = model(&Setup { target, ..Setup::default() });
        let outcome = run(&model, bound("[a-c]{3}-(yes|no)", "the cat"));
        let text = &outcome.texts[0];
        let (head, tail) = text.split_once('-').unwrap();
        assert!(head.len() == 3 && head.chars().all(|char| ('a'..='c').contains(&char)), "{text}");
        assert!(["yes", "no"].contains(&tail), "{text}");
        assert_eq!(outcome.finished[0], Some(FinishReason::Stop));
        let usage = outcome.done.unwrap().0;
        assert_eq!(usage.completion_tokens, outcome.tokens[0].len(), "no step for an end that is certain");
        eventually("idle", || idle(&model));
    }
}

#[test]
fn one_that_is_cut_says_so() {
    let (model, _jobs) = model(&Setup::default());
    let outcome = run(&model, Request { max_tokens: MaxTokens::Exactly(4), ..bound("[a-c]{9}", "the cat") });
    assert_eq!((outcome.texts[0].len(), outcome.finished[0]), (4, Some(FinishReason::Length)));
    let whole = run(&model, Request { max_tokens: MaxTokens::Exactly(9), ..bound("[a-c]{9}", "the cat") });
    assert_eq!(
        (whole.texts[0].len(), whole.finished[0]),
        (9, Some(FinishReason::Stop)),
        "complete with the last token"
    );
}

#[test]
fn neighbours_are_what_they_are_alone() {
    let requests = || {
        let hot =
            Sampling { temperature: 2.0, seed: Some(5), repetition_penalty: 1.3, ..Sampling::default() };
        let drawn = |request| Request { sampling: hot.clone(), ..request };
        vec![
            ask("the cat"),
            bound("[a-z ]{5,12}", "the cat"),
            drawn(ask("on the mat")),
            drawn(bound("([0-9]{2}\\.){3}", "on the mat")),
            drawn(Request { choices: 3, ..bound("(ab|cd|ef)+", "zzzz") }),
        ]
    };
    let lonely: Vec<Outcome> = {
        let (model, _jobs) = model(&Setup { slots: 1, ..Setup::default() });
        requests().into_iter().map(|request| run(&model, request)).collect()
    };
    for (target, slots) in [(Target::Cpu, 3), (Target::Cpu, 8), (Target::Portable, 4)] {
        let (model, _jobs) = model(&Setup { target, slots, ..Setup::default() });
        let all = [requests(), requests(), requests()].into_iter().flatten();
        let generations: Vec<Generation> = all.map(|request| model.submit(request).unwrap()).collect();
        for (index, generation) in generations.into_iter().enumerate() {
            let (found, alone) = (collect(generation), &lonely[index % lonely.len()]);
            assert_eq!(
                (&found.tokens, &found.texts),
                (&alone.tokens, &alone.texts),
                "{target:?} {slots} {index}"
            );
        }
    }
    let choices = &lonely[4].texts;
    assert!(choices.iter().any(|text| *text != choices[0]), "choices differ: {choices:?}");
}

#[test]
fn probabilities_are_the_models_own() {
    let (model, _jobs) = model(&Setup::default());
    let logprobs = |request| run(&model, Request { top_logprobs: Some(2), ..request }).logprobs;
    let (free, bound) = (logprobs(ask("the cat")), logprobs(bound("[a-c]{3}", "the cat")));
    let top = |token: &TokenLogprob| (token.top[0].id, token.top[0].logprob);
    assert_eq!(top(&free[0]), top(&bound[0]), "the first token is drawn from the same");
    assert!(bound.iter().all(|token| token.token.logprob < 0.0), "{bound:?}");
    assert!(bound[0].token.id != bound[0].top[0].id, "the toy would have said something else");
}

#[test]
fn stops_and_ends_go_on_working() {
    let (model, _jobs) = model(&Setup::default());
    let stop = Request { stop: vec!["bb".into()], ..bound("a{2}b{5}c", "the cat") };
    let stopped = run(&model, stop);
    assert_eq!((stopped.texts[0].as_str(), stopped.finished[0]), ("aa", Some(FinishReason::Stop)));

    let ending = |sampling: Sampling| {
        run(&model, Request { sampling, max_tokens: MaxTokens::Exactly(12), ..bound("[a-z]{0,8}", "the") })
    };
    let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
    let hot = |seed| Sampling { temperature: 30.0, seed: Some(seed), ..Sampling::default() };
    let early = (0..200).find(|&seed| ending(hot(seed)).texts[0].len() < 4).unwrap();
    let least = ending(Sampling { min_tokens: 8, ..hot(early) });
    assert_eq!((least.texts[0].len(), least.finished[0]), (8, Some(FinishReason::Stop)));
    let past = ending(Sampling { ignore_eos: true, ..hot(early) });
    assert_eq!((past.texts[0].len(), past.finished[0]), (8, Some(FinishReason::Stop)), "nothing can follow");
    let never =
        run(&model, Request { sampling: Sampling { min_tokens: 9, ..greedy }, ..bound("a{3}", "the") });
    assert_eq!((never.texts[0].as_str(), never.finished[0]), ("aaa", Some(FinishReason::Stop)));
    // A control token ends an answer only where its form lets it.
    let by_token = Sampling { stop_token_ids: vec![toy::VISION_START], ignore_eos: true, ..hot(early) };
    let found = ending(by_token);
    assert!(found.texts[0].chars().all(|char| char.is_ascii_lowercase()), "{:?}", found.texts);
}

#[test]
fn what_cannot_be_kept_is_refused_at_once() {
    let (model, _jobs) = model(&Setup::default());
    let refused = model.submit(bound("(", "the cat")).unwrap_err();
    assert!(matches!(&refused, GenerateError::Invalid { field: "response_format", .. }), "{refused}");
    let schema = serde_json::json!({"properties": {"x": {"not": {}}}});
    let form = Some(Form::Json { schema, style: Default::default() });
    let refused = model.submit(Request { form, ..ask("the cat") }).unwrap_err();
    assert!(refused.to_string().contains("#/properties/x/not"), "{refused}");
    assert!(idle(&model));
}
