//! One question, put to the reference by the runtime's own pipeline, and all that its graphs did.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrcoc_bundle::{Bundle, Role, Statistics};
use arrcoc_runtime::decoder::Rows;
use arrcoc_runtime::generate::{GenerateError, MaxTokens, Note, Observer};
use arrcoc_runtime::library::{Library, LibraryError, LibraryKind};
use arrcoc_runtime::model::{self, Model};
use arrcoc_runtime::tensor::Tensor;
use arrcoc_runtime::vision::VisionOptions;

use super::question::{Question, smallest_size};
use super::{AdapterReport, Options, VerifyError, prompt};
use crate::ask::{PATIENCE, ask, budgets};
use crate::progress::{Progress, Waiting};
use crate::tap::{Call, Listener, Named, Recording, Run, Tap};

/// What the reference did.
pub(super) struct Record {
    /// Runs of all graphs but the decoder, each input once, in order.
    pub(super) calls: Vec<Call>,
    /// What the decoder was given at the largest budget, with positions and deeper rows.
    pub(super) prompt: Rows,
    /// What visual tokens look like at every tier, where the family says what they should look like.
    pub(super) adapter: Vec<AdapterReport>,
}

/// Asks the reference at every budget that it has room for.
pub(super) fn record(
    reference: &Bundle,
    library: Box<dyn Library>,
    options: &Options,
    progress: Progress,
) -> Result<Record, VerifyError> {
    let question = Question::new(options.image.as_deref(), options.seed)?;
    let waiting = progress.wait("loading the reference");
    let witness = Arc::new(Witness { recording: Recording::default(), waiting });
    let tap = Tap::new(library, Arc::clone(&witness));
    let watch = Arc::new(Embeds::default());
    let context = reference.manifest().decoder.context_length;
    let model_options = model::Options {
        runtime: Some(LibraryKind::Tract),
        slots: 1,
        context_length: Some(context),
        // Few runs are recorded faster than many.
        prefill_chunk: context,
        vision: VisionOptions {
            image_size: options.image_size.or_else(|| smallest_size(reference)),
            ..VisionOptions::default()
        },
        timeout: PATIENCE,
        ..model::Options::default()
    };
    let model = Model::load_on(reference.clone(), &tap, &model_options, Arc::<Embeds>::clone(&watch))?;
    // What was recorded is the first run, of a grey picture.
    witness.recording.take();
    let decoder = reference.manifest().only(Role::Decoder);
    let (mut calls, mut prompts) = (Vec::new(), Vec::new());
    let mut refused = None;
    for budget in budgets(&model) {
        progress.note(&format!("asking the reference, budget {budget:?}"));
        witness.waiting.say(&format!("asking the reference, budget {budget:?}"));
        match ask(&model, &question.picture, &question.text, budget, MaxTokens::Exactly(1)) {
            Ok(()) => {
                let all = witness.recording.take();
                let (runs, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|run| run.graph == decoder);
                calls.extend(others);
                prompts.extend(prompt::joined(&runs)?);
            }
            Err(error @ GenerateError::Invalid { .. }) => {
                progress.note(&format!("budget {budget:?} is left out: {error}"));
                refused = Some(error);
            }
            Err(error) => return Err(VerifyError::Question(error)),
        }
    }
    let Some(prompt) = prompts.into_iter().max_by_key(Rows::tokens) else {
        let nothing = || GenerateError::Internal("the decoder was not run".to_owned());
        return Err(VerifyError::Question(refused.unwrap_or_else(nothing)));
    };
    Ok(Record { calls: once(calls), prompt, adapter: watch.report(&model, reference) })
}

/// Keeps every run, and says so to whoever waits.
struct Witness {
    recording: Recording,
    waiting: Waiting,
}

impl Listener for Witness {
    fn ran(&self, run: &Run<'_>, outputs: Named) -> Result<Named, LibraryError> {
        self.waiting.say(&format!("asking the reference, {} ran", run.graph));
        self.recording.ran(run, outputs)
    }
}

/// Leaves out runs whose inputs an earlier run of the graph had already.
fn once(calls: Vec<Call>) -> Vec<Call> {
    let same = |a: &Tensor, b: &Tensor| {
        a.shape() == b.shape() && a.element() == b.element() && a.bytes() == b.bytes()
    };
    let equal = |a: &Call, b: &Call| {
        let mut inputs = a.inputs.iter().zip(&b.inputs);
        a.graph == b.graph && inputs.all(|(a, b)| a.0 == b.0 && same(&a.1, &b.1))
    };
    let mut kept: Vec<Call> = Vec::new();
    for call in calls {
        if !kept.iter().any(|earlier| equal(earlier, &call)) {
            kept.push(call);
        }
    }
    kept
}

/// What visual tokens looked like, by tier.
#[derive(Default)]
struct Embeds(Mutex<BTreeMap<usize, Statistics>>);

impl Observer for Embeds {
    fn note(&self, note: Note<'_>) {
        if let Note::Embeds { tier, statistics } = note {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(tier, statistics);
        }
    }
}

impl Embeds {
    fn report(&self, model: &Model, reference: &Bundle) -> Vec<AdapterReport> {
        let (budgets, target) = (&model.info().token_budgets, reference.manifest().vision.embeds_target);
        let tiers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let report = |(&tier, &statistics): (&usize, &Statistics)| {
            let drift = target.and_then(|target| statistics.drift(&target));
            Some(AdapterReport { tokens: *budgets.get(tier)?, statistics, drift })
        };
        tiers.iter().filter_map(report).collect()
    }
}
