//! The offline model over the real graphs of the tiny bundle: with the allocator it is the model, and every
//! arm gives what it says.

#![allow(clippy::unwrap_used)]

#[path = "../../runtime/tests/common/mod.rs"]
mod common;

use arrcoc_bundle::Bundle;
use arrcoc_eval::arms::{Method, Positions};
use arrcoc_eval::offline::{Answer, Example, OfflineError, OfflineModel, VisualTokens};
use arrcoc_runtime::generate::{Budget, Selector};
use arrcoc_runtime::model::Options;
use common::{ask_about, load, options, picture, run, tiny_bundle};

fn offline() -> OfflineModel {
    OfflineModel::load(&Bundle::open(&tiny_bundle("fp32-cpu")).unwrap(), &options()).unwrap()
}

fn example(offline: &OfflineModel, width: u32, height: u32, text: &str) -> Example {
    let file = picture(width, height, 5);
    let image = offline.decode(&file).unwrap();
    let mut example = Example::new(file, image, offline.question(text).unwrap());
    example.other = Some(offline.question("Something else altogether?").unwrap());
    example.first = Some(offline.question("And before?").unwrap());
    example.answer_box = Some([10.0, 10.0, 40.0, 30.0]);
    example
}

fn visual_tokens(offline: &mut OfflineModel, example: &Example, arm: Method, budget: Budget) -> VisualTokens {
    let arm_budget = offline.arm_budget(arm.into(), budget).unwrap();
    offline.visual_tokens(example, arm_budget, Positions::Original).unwrap()
}

fn answer(offline: &mut OfflineModel, visual: &VisualTokens) -> Answer {
    offline.answer(&[visual], 16).unwrap().remove(0)
}

#[test]
fn with_the_allocator_it_is_the_model() {
    let (mut offline, model) = (offline(), load("fp32-cpu", &options()));
    let text = "Where is the square?";
    // A whole picture, and one with padding.
    for (width, height) in [(200, 200), (300, 120)] {
        for budget in [Budget::Tokens(64), Budget::Tokens(160), Budget::Auto] {
            let mut request = ask_about(&picture(width, height, 5), text);
            request.budget = budget;
            let expected = run(&model, request);
            let example = example(&offline, width, height, text);
            let visual = visual_tokens(&mut offline, &example, Method::QueryAware, budget);
            let found = answer(&mut offline, &visual);
            assert_eq!(found.text, expected.texts[0], "{width} x {height}, {budget:?}");
            let (usage, _) = expected.done();
            assert_eq!((found.prompt_tokens, visual.tokens), (usage.prompt_tokens, usage.visual_tokens));
            assert_eq!(Some(found.reason), expected.finished[0]);
        }
    }
}

#[test]
fn every_arm_gives_the_tokens_that_it_says() {
    let mut offline = offline();
    let capacity = offline.capacity().unwrap().clone();
    let cells = capacity.cells();
    let example = example(&offline, 128, 128, "Which?");
    let mut around = None;
    for arm in offline.arms().into_iter().map(|arm| arm.method) {
        for budget in [16, 40, 100] {
            let visual = visual_tokens(&mut offline, &example, arm, Budget::Tokens(budget));
            let expected = match arm {
                Method::Full => capacity.most_fine() + cells,
                Method::Grid | Method::Downsampled => budget.isqrt().pow(2) + cells,
                _ => budget,
            };
            assert_eq!(visual.tokens, expected, "{arm:?} at {budget}");
            assert_eq!(visual.recall.is_none(), matches!(arm, Method::Grid | Method::Downsampled), "{arm:?}");
            if arm == Method::Oracle && budget == 100 {
                assert_eq!(visual.recall, Some(1.0));
            }
            let tier = Some(if arm == Method::Full { 4 } else { usize::from(budget == 100) });
            assert_eq!(visual.tier, tier, "{arm:?} at {budget}");
            let answer = answer(&mut offline, &visual);
            assert!((1..=16).contains(&answer.generated), "{arm:?} at {budget}: {answer:?}");
            // Whatever the arm, the text around its tokens is the same.
            let text = answer.prompt_tokens - visual.tokens;
            assert_eq!(*around.get_or_insert(text), text, "{arm:?} at {budget}");
            assert_eq!(visual.indices.len(), visual.tokens, "{arm:?} at {budget}");
        }
    }
}

#[test]
fn arms_that_need_more_than_the_row_has_say_so() {
    let mut offline = offline();
    let file = picture(64, 64, 1);
    let image = offline.decode(&file).unwrap();
    let mut example = Example::new(file, image, offline.question("Which?").unwrap());
    for (arm, missing) in
        [(Method::Shuffled, "question"), (Method::FirstQuestion, "pair"), (Method::Oracle, "box")]
    {
        let arm_budget = offline.arm_budget(arm.into(), Budget::Tokens(64)).unwrap();
        let error = offline.visual_tokens(&example, arm_budget, Positions::Original).unwrap_err();
        assert!(
            matches!(error, OfflineError::MissingInput(_)) && error.to_string().contains(missing),
            "{error}"
        );
    }
    example.answer_box = Some([1000.0, 1000.0, 1010.0, 1010.0]);
    let arm_budget = offline.arm_budget(Method::Oracle.into(), Budget::Tokens(64)).unwrap();
    assert!(
        offline.visual_tokens(&example, arm_budget, Positions::Original).is_err(),
        "a box outside of the image"
    );
}

#[test]
fn answers_side_by_side_are_those_alone() {
    let mut offline = offline();
    let example = example(&offline, 160, 160, "What does it say?");
    let arms = [
        Method::QueryAware,
        Method::Selector(Selector::Uniform),
        Method::Shuffled,
        Method::Grid,
        Method::Blank,
    ];
    let visuals: Vec<VisualTokens> =
        arms.iter().map(|&arm| visual_tokens(&mut offline, &example, arm, Budget::Tokens(64))).collect();
    let alone: Vec<String> = visuals.iter().map(|visual| answer(&mut offline, visual).text).collect();
    // More than there are slots.
    let requests: Vec<&VisualTokens> = visuals.iter().collect();
    let together: Vec<String> =
        offline.answer(&requests, 16).unwrap().into_iter().map(|answer| answer.text).collect();
    assert_eq!(together, alone);
}

#[test]
fn positions_and_orders_make_a_difference() {
    let mut offline = offline();
    let example = example(&offline, 160, 160, "What does it say?");
    let arm_budget = offline.arm_budget(Method::QueryAware.into(), Budget::Tokens(64)).unwrap();
    let embeds = |visual: &VisualTokens| format!("{:?}", visual.embeds());
    let original = offline.visual_tokens(&example, arm_budget, Positions::Original).unwrap();
    let repacked = offline.visual_tokens(&example, arm_budget, Positions::Repacked).unwrap();
    assert_ne!(embeds(&original), embeds(&repacked));
    assert_eq!(original.indices, repacked.indices);
    // The same patches, told apart by the cue alone.
    let selection = visual_tokens(&mut offline, &example, Method::QueryAwareChoice, Budget::Tokens(64));
    assert_eq!(selection.indices, original.indices);
    assert_ne!(embeds(&selection), embeds(&original));
    let uniform =
        visual_tokens(&mut offline, &example, Method::Selector(Selector::Uniform), Budget::Tokens(64));
    assert_ne!(uniform.indices, original.indices);
}

#[test]
fn prompts_that_do_not_fit_are_told_before_they_are_run() {
    let bundle = Bundle::open(&tiny_bundle("fp32-cpu")).unwrap();
    let short = Options { context_length: Some(64), ..options() };
    let mut offline = OfflineModel::load(&bundle, &short).unwrap();
    let example = example(&offline, 128, 128, "Which?");
    for (budget, fits) in [(16, true), (64, false)] {
        let visual = visual_tokens(&mut offline, &example, Method::QueryAware, Budget::Tokens(budget));
        match offline.check(&visual) {
            Ok(()) => assert!(fits, "{budget}"),
            Err(error) => {
                assert!(!fits && matches!(error, OfflineError::Context { context: 64, .. }), "{error}")
            }
        }
        assert_eq!(offline.answer(&[&visual], 4).is_ok(), fits, "{budget}");
    }
}
