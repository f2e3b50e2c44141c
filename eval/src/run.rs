//! Rows through the model, answers into the journal.

use std::path::PathBuf;
use std::time::Instant;

use crate::arms::{Arm, Method};
use crate::offline::{Answer, ArmBudget, Example, OfflineError, OfflineModel, VisualTokens};
use arrcoc_bundle::{Bundle, hex};
use arrcoc_runtime::error::LoadError;
use arrcoc_runtime::generate::{FinishReason, Stage};
use arrcoc_runtime::model::Options;
use sha2::{Digest as _, Sha256};

use super::journal::{
    AnswerLine, Configuration, DECODE_PER_TOKEN, FILE, Header, Journal, JournalError, Line, Omitted, RowLine,
};
use super::measure;
use super::mismatched_questions::mismatched_questions;
use super::neck::NeckFileError;
use super::options::{Arms, AskedArms, EvalOptions, Tokens};
use super::report::{self, ReportError};
use super::summary::{About, Summary};
use super::times::StageTimes;
use super::variants::{Unsupported, Variant, variants};
use arrcoc_runtime::dataset::{DataError, DataSet, Row};

/// Tokens that an answer may be longer than the longest reference.
const SPARE_TOKENS: usize = 8;

/// An evaluation broke off.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The data set.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The bundle does not load.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The grid's neck.
    #[error(transparent)]
    Neck(#[from] NeckFileError),
    /// A row.
    #[error("row {row}: {source}")]
    Row {
        /// Counted from 0.
        row: usize,
        /// What went wrong.
        source: OfflineError,
    },
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The results.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The output directory.
    #[error("cannot make the directory `{}`: {source}", path.display())]
    Output {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Something that was asked for is none of the bundle's.
    #[error("expected {what} of {model}, found {found}; there are {there}")]
    NotThere {
        /// What was asked for.
        what: &'static str,
        /// The bundle's model.
        model: String,
        /// What was found.
        found: String,
        /// What there is.
        there: String,
    },
    /// Nothing is left to run.
    #[error("none of the arms can be run at any of the budgets: {0}")]
    NoVariants(String),
    /// Not one row has an answer.
    #[error("none of the {rows} rows could be answered; of the first: {reason}")]
    NoAnswers {
        /// Rows of the data set.
        rows: usize,
        /// Why the first was not.
        reason: String,
    },
}

/// What came of it.
#[derive(Debug)]
pub struct Finished {
    /// All figures.
    pub summary: Summary,
    /// The page that was made of them.
    pub page: String,
}

/// Runs a data set, or what is left of it, and writes the results. `progress` is told how many rows are done,
/// of how many.
///
/// # Errors
/// [`EvalError`]; the answers of complete rows stay, and the same call goes on behind them.
pub fn run(
    bundle: &Bundle,
    engine: &Options,
    options: &EvalOptions,
    mut progress: impl FnMut(usize, usize),
) -> Result<Finished, EvalError> {
    let data = DataSet::read(&options.data, options.limit)?;
    let mut model = OfflineModel::load(bundle, engine)?;
    let neck_sha256 = options.grid_neck.as_ref().map(|path| model.read_neck(path)).transpose()?;
    let arms = arms(&model, bundle, &options.arms)?;
    check_positions(&model, bundle, options)?;
    let budgets = |arm, budget| model.arm_budget(arm, budget);
    let (variants, left_out) = variants(budgets, (&arms, &options.budgets, &options.positions));
    if variants.is_empty() {
        return Err(no_variants(&left_out));
    }
    let configuration = configuration(&model, engine, options, (arms, &data))?;
    let header = Header {
        tool: format!("arrcoc-serve {}", env!("CARGO_PKG_VERSION")),
        bundle_sha256: hex(&bundle.digest()),
        data_sha256: data.sha256.clone(),
        grid_neck_sha256: neck_sha256,
        rows: data.rows.len(),
        configuration,
    };
    let output = &options.output;
    std::fs::create_dir_all(output).map_err(|source| EvalError::Output { path: output.clone(), source })?;
    let path = output.join(FILE);
    let mut journal = Journal::open(&path, &header)?;
    let mut runner = Runner {
        model,
        mismatched: mismatched_questions(&data.rows),
        rows: &data.rows,
        variants: &variants,
        max_tokens: header.configuration.max_tokens,
        seed: options.seed,
    };
    for row in journal.done..data.rows.len() {
        progress(row, data.rows.len());
        let lines = runner.row(row).map_err(|source| EvalError::Row { row, source })?;
        journal.append(&lines)?;
    }
    progress(data.rows.len(), data.rows.len());
    let about = About::new(bundle, &data, &runner.model, left_out);
    let lines = Journal::read(&path)?;
    let summary = Summary::new(header, about, &lines).ok_or_else(|| no_answers(&lines, data.rows.len()))?;
    let page = report::write(output, &summary)?;
    Ok(Finished { summary, page })
}

/// The arms that are asked for, all of them the model's.
fn arms(model: &OfflineModel, bundle: &Bundle, asked: &AskedArms) -> Result<Arms, EvalError> {
    let AskedArms::Some(arms) = asked else { return Ok(Arms(model.arms())) };
    match arms.0.iter().find(|arm| !model.has(**arm)) {
        None => Ok(arms.clone()),
        Some(arm) => Err(not_there(bundle, "an arm", arm, &model.arms())),
    }
}

fn check_positions(model: &OfflineModel, bundle: &Bundle, options: &EvalOptions) -> Result<(), EvalError> {
    let there = model.positions();
    match options.positions.0.iter().find(|positions| !there.contains(positions)) {
        None => Ok(()),
        Some(positions) => Err(not_there(bundle, "positions", positions, there)),
    }
}

fn not_there<T: ToString>(bundle: &Bundle, what: &'static str, found: &T, there: &[T]) -> EvalError {
    let there = there.iter().map(T::to_string).collect::<Vec<_>>().join(", ");
    EvalError::NotThere {
        what,
        model: bundle.manifest().model.clone(),
        found: format!("`{}`", found.to_string()),
        there,
    }
}

fn no_variants(left_out: &[Unsupported]) -> EvalError {
    EvalError::NoVariants(
        left_out.first().map_or_else(|| "no arm takes `auto`".into(), |one| one.reason.clone()),
    )
}

fn no_answers(lines: &[Line], rows: usize) -> EvalError {
    let reason = lines.iter().find_map(|line| match line {
        Line::Row(row) => row.skipped.clone().or_else(|| row.omitted.first().map(|one| one.reason.clone())),
        _ => None,
    });
    EvalError::NoAnswers { rows, reason: reason.unwrap_or_else(|| "no arm was run".into()) }
}

fn configuration(
    model: &OfflineModel,
    engine: &Options,
    options: &EvalOptions,
    (arms, data): (Arms, &DataSet),
) -> Result<Configuration, EvalError> {
    let mut longest = 0;
    for (row, item) in data.rows.iter().enumerate() {
        let tokens = match model.count_tokens(&item.answer) {
            Ok(tokens) => tokens,
            // An answer that is no text for this model makes nobody's answer longer.
            Err(OfflineError::Prompt(_)) => 0,
            Err(source) => return Err(EvalError::Row { row, source }),
        };
        longest = longest.max(tokens);
    }
    let info = model.info();
    Ok(Configuration {
        arms,
        budgets: options.budgets.clone(),
        positions: options.positions.clone(),
        seed: options.seed,
        max_tokens: options.max_tokens.unwrap_or(longest + SPARE_TOKENS),
        runtime: info.runtime.clone(),
        threads: engine.library.threads,
        slots: info.slots,
        image_size: info.image_size,
        context_length: info.context_length,
        prefill_chunk: engine.prefill_chunk,
    })
}

/// What every row needs.
struct Runner<'a> {
    model: OfflineModel,
    rows: &'a [Row],
    /// For every row the row whose question the arm `shuffled` takes.
    mismatched: Vec<Option<usize>>,
    variants: &'a [Variant],
    max_tokens: usize,
    seed: u64,
}

impl Runner<'_> {
    /// The lines of one row; where it cannot be put to the model, they say why.
    fn row(&mut self, index: usize) -> Result<Vec<Line>, OfflineError> {
        let row = &self.rows[index];
        let started = Instant::now();
        let mut close = RowLine {
            row: index,
            image: row.image.clone(),
            skipped: None,
            omitted: Vec::new(),
            seconds: 0.0,
        };
        let mut lines = Vec::new();
        match self.example(index, &mut close.omitted)? {
            Ok(example) => {
                // In batches, so that few visual tokens are in memory however many variants there are.
                for batch in self.variants.chunks(self.model.info().slots) {
                    self.batch(index, &example, batch, &mut lines, &mut close.omitted)?;
                }
            }
            Err(reason) => close.skipped = Some(reason),
        }
        close.seconds = started.elapsed().as_secs_f64();
        lines.push(Line::Row(close));
        Ok(lines)
    }

    /// The picture with all that the arms may need, or why the row cannot be put to the model.
    fn example(
        &self,
        index: usize,
        omitted: &mut Vec<Omitted>,
    ) -> Result<Result<Example, String>, OfflineError> {
        let row = &self.rows[index];
        let read = match std::fs::read(&row.path) {
            Ok(bytes) => {
                self.model.decode(&bytes).map(|image| (bytes, image)).map_err(|error| error.to_string())
            }
            Err(error) => Err(format!("cannot read it: {error}")),
        };
        let (bytes, image) = match read {
            Ok(read) => read,
            Err(reason) => return Ok(Err(reason)),
        };
        let mut example = match self.model.question(&row.query) {
            Ok(question) => Example::new(bytes, image, question),
            Err(OfflineError::Prompt(error)) => return Ok(Err(format!("`query`: {error}"))),
            Err(error) => return Err(error),
        };
        let mut other = |method: Method, query: Option<&String>| match query
            .map(|query| self.model.question(query))
        {
            None => Ok(None),
            Some(Ok(question)) => Ok(Some(question)),
            Some(Err(OfflineError::Prompt(error))) => {
                let arm = Arm::of(method);
                omitted.push(Omitted { arm, budget: None, reason: format!("the other question: {error}") });
                Ok(None)
            }
            Some(Err(error)) => Err(error),
        };
        example.other = other(Method::Shuffled, self.mismatched[index].map(|at| &self.rows[at].query))?;
        example.first = other(Method::FirstQuestion, row.first.as_ref())?;
        example.answer_box = row.answer_box;
        example.seed = seed_of(self.seed, index);
        Ok(Ok(example))
    }

    /// Visual tokens and answers of some variants.
    fn batch(
        &mut self,
        index: usize,
        example: &Example,
        batch: &[Variant],
        lines: &mut Vec<Line>,
        omitted: &mut Vec<Omitted>,
    ) -> Result<(), OfflineError> {
        let mut made: Vec<(Variant, VisualTokens)> = Vec::new();
        for &variant in batch {
            let ArmBudget { arm, budget } = variant.arm_budget;
            // Why the whole arm is left out is known already.
            if omitted.iter().any(|one| one.arm == arm && one.budget.is_none()) {
                continue;
            }
            let visual = match self.model.visual_tokens(example, variant.arm_budget, variant.positions) {
                Ok(visual) => visual,
                Err(error @ OfflineError::MissingInput(_)) => {
                    omitted.push(Omitted { arm, budget: None, reason: error.to_string() });
                    continue;
                }
                Err(error) => return Err(error),
            };
            match self.model.check(&visual) {
                Ok(()) => made.push((variant, visual)),
                Err(error @ OfflineError::Context { .. }) => {
                    let one = Omitted { arm, budget: Some(Tokens(budget)), reason: error.to_string() };
                    if !omitted.contains(&one) {
                        omitted.push(one);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        let requests: Vec<&VisualTokens> = made.iter().map(|(_, visual)| visual).collect();
        let answers = self.model.answer(&requests, self.max_tokens)?;
        for ((variant, visual), answer) in made.iter().zip(answers) {
            lines.push(Line::Answer(Box::new(line(index, &self.rows[index], variant, visual, answer))));
        }
        Ok(())
    }
}

/// Every row's own seed, whatever rows come before it.
fn seed_of(seed: u64, row: usize) -> u64 {
    let digest =
        Sha256::new().chain_update(seed.to_le_bytes()).chain_update((row as u64).to_le_bytes()).finalize();
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn line(index: usize, row: &Row, variant: &Variant, visual: &VisualTokens, answer: Answer) -> AnswerLine {
    AnswerLine {
        row: index,
        image: row.image.clone(),
        kind: row.kind.clone(),
        one_place: row.one_place(),
        characters: row.characters,
        arm: variant.arm_budget.arm,
        budget: Tokens(variant.arm_budget.budget),
        positions: variant.positions,
        tokens: visual.tokens,
        tier: visual.tier,
        prompt_tokens: answer.prompt_tokens,
        generated: answer.generated,
        ended: answer.reason == FinishReason::Stop,
        exact: measure::exact(&answer.text, &row.answer),
        cer: measure::character_error_rate(&answer.text, &row.answer),
        recall: visual.recall,
        ms: stage_times(visual, &answer),
        answer: answer.text,
        reference: row.answer.clone(),
    }
}

fn stage_times(visual: &VisualTokens, answer: &Answer) -> StageTimes {
    let mut times = visual.times.clone();
    times.add(Stage::PREFILL.name(), answer.prefill);
    let steps = answer.generated.saturating_sub(1);
    if steps > 0 {
        times.add(DECODE_PER_TOKEN, answer.decode / steps as u32);
    }
    times
}
