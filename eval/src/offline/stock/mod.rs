//! The visual tokens of a stock model: its picture is encoded once, and an arm keeps some of the rows, by a
//! selector of the runtime or by rows of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answer_box::{overlap, recall};
use super::arm_budget::{ArmBudget, Unsupported};
use super::vision_side::{Example, Shared, VisionSide, VisualTokens};
use super::{OfflineError, Question};
use crate::arms::{Arm, Method, Positions, Switches, relevance};
use crate::times::StageTimes;
use arrcoc_bundle::Bundle;
use arrcoc_runtime::decoder::Embedder;
use arrcoc_runtime::error::LoadError;
use arrcoc_runtime::generate::{Budget, Depth, Image, Selection, Selector, Sizing, Stage};
use arrcoc_runtime::library::Library;
use arrcoc_runtime::model::Options;
use arrcoc_runtime::prompt::{Layout, Prompter};
use arrcoc_runtime::selection::{self, choose, keep};
use arrcoc_runtime::vision::{Choice, ImagePlan, Pictures, Vision, Visual, Whole};

mod downsample;

/// What prompts are made of.
pub(super) struct Prompts {
    pub(super) prompter: Arc<Prompter>,
    pub(super) embedder: Arc<Embedder>,
    pub(super) context_length: usize,
}

impl Prompts {
    /// The prompt of a question with a picture in it.
    fn layout(&self, question: &Question, plan: &ImagePlan) -> Result<Layout, OfflineError> {
        let prompt = Question::prompt(&question.text);
        Ok(self.prompter.layout(&prompt, std::slice::from_ref(plan), self.context_length)?)
    }
}

/// A stock model's graphs.
pub(super) struct Stock {
    vision: Vision,
    pictures: Arc<Pictures>,
    prompts: Prompts,
    /// Whole pictures, by how the model sees them.
    shared: Shared<Sizing, Seen>,
}

/// A picture of an example as the model sees it.
struct Seen {
    layout: Arc<Layout>,
    whole: Whole,
    times: StageTimes,
}

impl Seen {
    fn rows(&self) -> usize {
        self.whole.visual.rows.shape()[1]
    }

    /// The rows whose places overlap a rectangle of the picture.
    fn inside(&self, rect: [f32; 4]) -> Vec<usize> {
        let places = self.whole.visual.receipt.places.iter().enumerate();
        places.filter(|(_, place)| overlap(place.rect, rect)).map(|(row, _)| row).collect()
    }

    /// Which of the rows were kept.
    fn kept(&self, visual: &Visual) -> Vec<i64> {
        let all = self.whole.visual.receipt.places.iter().enumerate();
        let mut kept = visual.receipt.places.iter().peekable();
        all.filter(|(_, place)| kept.next_if(|kept| kept.cell == place.cell).is_some())
            .map(|(row, _)| row as i64)
            .collect()
    }
}

impl VisionSide for Stock {
    fn arms(&self) -> Vec<Arm> {
        let plain = Method::all().into_iter().map(Arm::of);
        let switched = [
            (Method::Full, Switches { skip_blank: true, depth: false }),
            (Method::Selector(Selector::default()), Switches { skip_blank: true, depth: false }),
            (Method::Selector(Selector::default()), Switches { skip_blank: false, depth: true }),
        ];
        let switched = switched.map(|(method, switches)| Arm { method, switches });
        let mut arms: Vec<Arm> = plain.chain(switched).filter(|arm| self.has(*arm)).collect();
        arms.sort();
        arms
    }

    fn has(&self, Arm { method, switches }: Arm) -> bool {
        let (there, chosen) = match method {
            Method::Selector(selector) => (self.pictures.selectors().contains(&selector), true),
            Method::Shuffled => (true, true),
            Method::Full | Method::Downsampled | Method::Random | Method::Oracle => (true, false),
            _ => (false, false),
        };
        let deep = self.pictures.depths().contains(&Depth::Relevant);
        there && (!switches.depth || (chosen && deep))
    }

    fn positions(&self) -> &'static [Positions] {
        // Kept rows stand where they stood.
        &[Positions::Original]
    }

    fn arm_budget(&self, arm: Arm, budget: Budget) -> Result<ArmBudget, Unsupported> {
        let budget = match (arm.method, budget) {
            (Method::Full, _) => Budget::Full,
            (Method::Selector(_) | Method::Shuffled, budget) => budget,
            (_, Budget::Auto) => return Err(Unsupported::Auto),
            (_, budget) => budget,
        };
        Ok(ArmBudget { arm, budget })
    }

    fn visual_tokens(
        &mut self,
        example: &Example,
        ArmBudget { arm, budget }: ArmBudget,
        _: Positions,
    ) -> Result<VisualTokens, OfflineError> {
        let mut sizing = Sizing { skip_blank: arm.switches.skip_blank, ..example.image.sizing };
        if let (Method::Downsampled, Budget::Tokens(budget)) = (arm.method, budget) {
            sizing = downsample::sizing(&self.vision, &Image { sizing, ..example.image.clone() }, budget)?;
        }
        let seen = self.seen(example, sizing)?;
        let started = Instant::now();
        let visual = self.keep(example, &seen, arm, budget)?;
        let took = started.elapsed();
        let mut times = seen.times.clone();
        if !matches!(arm.method, Method::Full | Method::Downsampled) {
            times.add(Stage::SELECT.name(), took);
        }
        let indices = seen.kept(&visual);
        let whole = arm.method != Method::Downsampled;
        let answer = example.answer_box.filter(|_| whole).map(|answer_box| seen.inside(answer_box));
        Ok(VisualTokens {
            layout: Arc::clone(&seen.layout),
            tokens: visual.rows.shape()[1],
            tier: None,
            recall: answer.and_then(|answer| recall(&answer, &indices)),
            visual,
            indices,
            times,
        })
    }
}

impl Stock {
    /// Loads the vision graphs of a bundle.
    ///
    /// # Errors
    /// [`LoadError`].
    pub(super) fn load(
        bundle: &Bundle,
        library: &dyn Library,
        prompts: Prompts,
        options: &Options,
    ) -> Result<Self, LoadError> {
        let vision = Vision::load(bundle, library, &options.vision)?;
        Ok(Self { pictures: vision.pictures(), vision, prompts, shared: Shared::new() })
    }

    /// All rows of an example's picture.
    fn seen(&mut self, example: &Example, sizing: Sizing) -> Result<Arc<Seen>, OfflineError> {
        if let Some(seen) = self.shared.of(example).get(&sizing) {
            return Ok(Arc::clone(seen));
        }
        let image = Image { sizing, ..example.image.clone() };
        let plan = self.vision.whole_plan(&image)?;
        let layout = Arc::new(self.prompts.layout(&example.question, &plan)?);
        let whole = self.vision.whole(&image)?;
        let mut times = StageTimes::default();
        whole.stages.iter().for_each(|(stage, took): &(Stage, Duration)| times.add(stage.name(), *took));
        let seen = Arc::new(Seen { layout, whole, times });
        self.shared.of(example).insert(sizing, Arc::clone(&seen));
        Ok(seen)
    }

    /// The rows that an arm keeps.
    fn keep(&self, example: &Example, seen: &Seen, arm: Arm, budget: Budget) -> Result<Visual, OfflineError> {
        let depth = arm.switches.depth.then_some(Depth::Relevant);
        let all = seen.rows();
        let count = match budget {
            Budget::Tokens(tokens) => tokens.min(all),
            Budget::Share(share) => share.of(all),
            Budget::Auto | Budget::Full => all,
        };
        let visual = &seen.whole.visual;
        match arm.method {
            Method::Selector(selector) => self.chosen(seen, &example.question, (selector, depth), budget),
            Method::Shuffled => {
                let other = example.other.as_ref();
                let other = other.ok_or(OfflineError::MissingInput("question of another row"))?;
                self.chosen(seen, other, (Selector::default(), depth), budget)
            }
            Method::Random => {
                let order = relevance::shuffled((0..all).collect(), example.seed);
                Ok(keep(visual, &order[..count])?)
            }
            Method::Oracle => {
                let answer_box = example.answer_box.ok_or(OfflineError::MissingInput("`box`"))?;
                let mut order = seen.inside(answer_box);
                if order.is_empty() {
                    return Err(OfflineError::MissingInput("`box` inside its image"));
                }
                // Filled up evenly, by a method that looks at nothing.
                let even = self.chosen(seen, &example.question, (Selector::Uniform, None), budget)?;
                order.extend(
                    in_order(seen, &even).into_iter().filter(|row| !order.contains(row)).collect::<Vec<_>>(),
                );
                order.truncate(count);
                Ok(keep(visual, &order)?)
            }
            _ => Ok(visual.clone()),
        }
    }

    /// The rows that a selector takes for a question, as in a request.
    fn chosen(
        &self,
        seen: &Seen,
        question: &Question,
        (selector, depth): (Selector, Option<Depth>),
        budget: Budget,
    ) -> Result<Visual, OfflineError> {
        let asks = budget == Budget::Auto;
        let need = if asks { selection::need(&question.text) } else { None };
        let selection = Selection { selector: Some(selector), depth, ..Selection::default() };
        let choice = Choice { budget, selection, need };
        let question = self.prompts.embedder.embed(question.ids())?;
        Ok(choose(&seen.whole.visual, &question, seen.whole.evidence.as_ref(), &choice)?)
    }
}

/// Kept rows in the order in which they were taken.
fn in_order(seen: &Seen, visual: &Visual) -> Vec<usize> {
    let ranks = visual.receipt.places.iter().map(|place| place.rank);
    let mut rows: Vec<_> = ranks.zip(seen.kept(visual)).collect();
    rows.sort_unstable();
    rows.into_iter().filter_map(|(_, row)| usize::try_from(row).ok()).collect()
}
