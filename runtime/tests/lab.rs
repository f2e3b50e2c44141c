//! The lab over the real graphs of the tiny bundle: with the allocator it is the model, and every arm gives what it says.

#![allow(clippy::unwrap_used)]

mod common;

use arrcoc_runtime::arms::{Arm, Positions};
use arrcoc_runtime::bundle::Bundle;
use arrcoc_runtime::generate::Budget;
use arrcoc_runtime::lab::{Answer, Asked, Lab, LabError, Look, Subject};
use common::{ask_about, load, options, picture, run, tiny_bundle};

fn lab() -> Lab {
    Lab::load(&Bundle::open(&tiny_bundle("cpu")).unwrap(), &options()).unwrap()
}

fn subject(lab: &Lab, width: u32, height: u32, text: &str) -> Subject {
    let image = lab.decode(&picture(width, height, 5)).unwrap();
    let mut subject = Subject::new(image, lab.question(text).unwrap());
    subject.other = Some(lab.question("Something else altogether?").unwrap());
    subject.first = Some(lab.question("And before?").unwrap());
    subject.place = Some([10.0, 10.0, 40.0, 30.0]);
    subject
}

fn look(lab: &mut Lab, subject: &mut Subject, arm: Arm, budget: Budget) -> Look {
    let plan = lab.room().plan(arm, budget).unwrap();
    lab.look(subject, plan, Positions::Original).unwrap()
}

fn answer(lab: &mut Lab, subject: &Subject, look: &Look) -> Answer {
    lab.answer(&[Asked { question: subject.question(), look }], 16).unwrap().remove(0)
}

#[test]
fn with_the_allocator_it_is_the_model() {
    let (mut lab, model) = (lab(), load("cpu", &options()));
    let text = "Where is the square?";
    // A whole picture, and one with padding.
    for (width, height) in [(200, 200), (300, 120)] {
        for budget in [Budget::Tokens(64), Budget::Tokens(160), Budget::Auto] {
            let mut request = ask_about(&picture(width, height, 5), text);
            request.budget = budget;
            let expected = run(&model, request);
            let mut subject = subject(&lab, width, height, text);
            let look = look(&mut lab, &mut subject, Arm::QueryAware, budget);
            let found = answer(&mut lab, &subject, &look);
            assert_eq!(found.text, expected.texts[0], "{width} x {height}, {budget:?}");
            let (usage, _) = expected.done();
            assert_eq!((found.prompt_tokens, look.tokens), (usage.prompt_tokens, usage.visual_tokens));
            assert_eq!(Some(found.reason), expected.finished[0]);
        }
    }
}

#[test]
fn every_arm_gives_the_tokens_that_it_says() {
    let mut lab = lab();
    let cells = lab.room().cells();
    let mut subject = subject(&lab, 128, 128, "Which?");
    for arm in Arm::ALL {
        for budget in [16, 40, 100] {
            let look = look(&mut lab, &mut subject, arm, Budget::Tokens(budget));
            let expected = match arm {
                Arm::Full => lab.room().most_fine() + cells,
                Arm::Grid | Arm::Downsampled => budget.isqrt().pow(2) + cells,
                _ => budget,
            };
            assert_eq!(look.tokens, expected, "{arm} at {budget}");
            assert_eq!(look.recall.is_none(), matches!(arm, Arm::Grid | Arm::Downsampled), "{arm}");
            if arm == Arm::Oracle && budget == 100 {
                assert_eq!(look.recall, Some(1.0));
            }
            let tier = if arm == Arm::Full { 4 } else { usize::from(budget == 100) };
            assert_eq!(look.tier, tier, "{arm} at {budget}");
            assert!(!answer(&mut lab, &subject, &look).text.contains('\0'));
        }
    }
}

#[test]
fn arms_that_need_more_than_the_row_has_say_so() {
    let mut lab = lab();
    let image = lab.decode(&picture(64, 64, 1)).unwrap();
    let mut subject = Subject::new(image, lab.question("Which?").unwrap());
    for (arm, missing) in [(Arm::Shuffled, "question"), (Arm::FirstQuestion, "pair"), (Arm::Oracle, "box")] {
        let plan = lab.room().plan(arm, Budget::Tokens(64)).unwrap();
        let error = lab.look(&mut subject, plan, Positions::Original).unwrap_err();
        assert!(matches!(error, LabError::Lacks(_)) && error.to_string().contains(missing), "{error}");
    }
    subject.place = Some([1000.0, 1000.0, 1010.0, 1010.0]);
    let plan = lab.room().plan(Arm::Oracle, Budget::Tokens(64)).unwrap();
    assert!(lab.look(&mut subject, plan, Positions::Original).is_err(), "a box outside of the image");
}

#[test]
fn answers_side_by_side_are_those_alone() {
    let mut lab = lab();
    let mut subject = subject(&lab, 160, 160, "What does it say?");
    let arms = [Arm::QueryAware, Arm::Uniform, Arm::Shuffled, Arm::Grid, Arm::Blank];
    let looks: Vec<Look> =
        arms.iter().map(|&arm| look(&mut lab, &mut subject, arm, Budget::Tokens(64))).collect();
    let alone: Vec<String> = looks.iter().map(|look| answer(&mut lab, &subject, look).text).collect();
    // More than there are slots.
    let asked: Vec<Asked<'_>> =
        looks.iter().map(|look| Asked { question: subject.question(), look }).collect();
    let together: Vec<String> =
        lab.answer(&asked, 16).unwrap().into_iter().map(|answer| answer.text).collect();
    assert_eq!(together, alone);
}

#[test]
fn positions_and_orders_make_a_difference() {
    let mut lab = lab();
    let mut subject = subject(&lab, 160, 160, "What does it say?");
    let plan = lab.room().plan(Arm::QueryAware, Budget::Tokens(64)).unwrap();
    let embeds = |look: &Look| format!("{:?}", look.embeds());
    let original = lab.look(&mut subject, plan, Positions::Original).unwrap();
    let repacked = lab.look(&mut subject, plan, Positions::Repacked).unwrap();
    assert_ne!(embeds(&original), embeds(&repacked));
    assert_eq!(original.recall, repacked.recall);
    // The same patches, told apart by the cue alone.
    let choice = look(&mut lab, &mut subject, Arm::QueryAwareChoice, Budget::Tokens(64));
    assert_eq!(choice.recall, original.recall);
    assert_ne!(embeds(&choice), embeds(&original));
}
