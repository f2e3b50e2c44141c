//! From answers to figures.
//!
//! A *cell* is an arm at a budget with one kind of positions, over one kind of questions or over all that are
//! about one place. Differences are paired: both arms on the same row at the same budget.

use std::collections::BTreeMap;

use crate::arms::{Arm, Positions};
use crate::offline::{Capacity, OfflineModel};
use arrcoc_bundle::Bundle;
use arrcoc_runtime::generate::Budget;
use serde::{Deserialize, Serialize};

use super::bootstrap::{Interval, RESAMPLES, interval};
use super::journal::{AnswerLine, Header, Line};
use super::options::Tokens;
use super::provenance::Circumstances;
use super::times::StageTimes;
use super::variants::Unsupported;
use arrcoc_runtime::dataset::DataSet;

mod claim;
mod difference;

pub use claim::{Claim, DenseBudget, ENOUGH_PAIRS, Verdict};
pub use difference::{BASELINES, DENSE_BUDGET, DENSE_RATIO, Difference, Scope};

/// All figures of an evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Machine and program.
    pub circumstances: Circumstances,
    /// What was run.
    pub run: Header,
    /// On what.
    pub about: About,
    /// Resamples per interval.
    pub resamples: usize,
    /// Rows with answers.
    pub questions: usize,
    /// Images that these rows are about.
    pub images: usize,
    /// Rows whose image does not open, or whose question cannot be put.
    pub skipped: Vec<Skipped>,
    /// What could not be run.
    pub left_out: Vec<Unsupported>,
    /// Figures per arm, budget, positions and kind.
    pub cells: Vec<Cell>,
    /// Arms against each other.
    pub differences: Vec<Difference>,
    /// What became of the claim, per kind of positions; none where no page is dense.
    pub claims: Vec<Claim>,
    /// Accuracy by characters per token, over the questions about one place.
    pub bins: Vec<Bin>,
}

/// Bundle and data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// The model's name.
    pub model: String,
    /// Precision and target, as in `fp32-cpu`.
    pub flavour: String,
    /// Digest of the checkpoint, hex.
    pub checkpoint_sha256: String,
    /// The data set's file name.
    pub data: String,
    /// What there is room for, where patches lie in a fixed grid: in a composite.
    #[serde(flatten)]
    pub room: Option<Room>,
    /// Size of keys and values per token, bytes.
    pub kv_bytes_per_token: usize,
    /// What could not be run at all; the summary has all that could not be run.
    #[serde(skip)]
    left_out: Vec<Unsupported>,
}

/// What a composite has room for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// Patches of an image.
    pub patches: usize,
    /// Cells of the gist, which come first among all tokens.
    pub gist_cells: usize,
    /// Most fine tokens that the compressor gives.
    pub most_fine: usize,
}

impl Room {
    fn of(capacity: &Capacity) -> Self {
        Self { patches: capacity.patches(), gist_cells: capacity.cells(), most_fine: capacity.most_fine() }
    }
}

impl About {
    /// Of what was opened.
    pub fn new(bundle: &Bundle, data: &DataSet, model: &OfflineModel, left_out: Vec<Unsupported>) -> Self {
        let manifest = bundle.manifest();
        let word = |value: serde_json::Result<serde_json::Value>| {
            value.ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
        };
        let (precision, target) =
            (word(serde_json::to_value(manifest.precision)), word(serde_json::to_value(manifest.target)));
        Self {
            model: manifest.model.clone(),
            flavour: format!("{precision}-{target}"),
            checkpoint_sha256: manifest.checkpoint_sha256.clone(),
            data: data.name.clone(),
            room: model.capacity().map(Room::of),
            kv_bytes_per_token: model.info().kv_bytes_per_token,
            left_out,
        }
    }
}

/// A row that could not be put to the model at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Counted from 0.
    pub row: usize,
    /// The image.
    pub image: String,
    /// Why not.
    pub reason: String,
}

/// Figures of one arm at one budget.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// The arm.
    pub arm: Arm,
    /// What was asked for.
    pub budget: Tokens,
    /// Positions.
    pub positions: Positions,
    /// The kind of questions; none: all about one place.
    pub kind: Option<String>,
    /// Questions.
    pub questions: usize,
    /// Share of answers that are right.
    pub exact: Interval,
    /// Mean character error rate.
    pub cer: Interval,
    /// Mean share of the answer's patches that became tokens.
    pub recall: Option<Interval>,
    /// Mean visual tokens.
    pub tokens: f64,
    /// Mean size of keys and values of a prompt, bytes.
    pub kv_bytes: f64,
    /// Medians per stage.
    pub ms: StageTimes,
}

/// Accuracy of one arm over the answers with a similar number of characters per token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// The arm.
    pub arm: Arm,
    /// Positions.
    pub positions: Positions,
    /// Index into [`BINS`].
    pub bin: usize,
    /// Characters per token, in words.
    pub ratio: String,
    /// Answers.
    pub answers: usize,
    /// Share of answers that are right.
    pub exact: Interval,
}

/// Characters per token: names, and where each bin begins.
pub const BINS: [(&str, f64); 6] =
    [("<2", 0.0), ("2-5", 2.0), ("5-10", 5.0), ("10-20", 10.0), ("20-40", 20.0), ("40+", 40.0)];

/// The bin of a number of characters per token; a border belongs to the upper one.
fn bin_of(ratio: f64) -> usize {
    BINS.iter().filter(|(_, begin)| ratio >= *begin).count().saturating_sub(1)
}

impl Summary {
    /// All figures of a journal's lines; `None` where nothing was answered.
    pub fn new(run: Header, about: About, lines: &[Line]) -> Option<Self> {
        let answers: Vec<&AnswerLine> = lines
            .iter()
            .filter_map(|line| if let Line::Answer(answer) = line { Some(answer.as_ref()) } else { None })
            .collect();
        let answers = Answers::new(answers, run.configuration.seed);
        let rows: std::collections::BTreeSet<usize> = answers.lines.iter().map(|line| line.row).collect();
        let differences = match about.room {
            Some(_) => difference::differences(&answers),
            None => difference::stock_differences(&answers),
        };
        (!rows.is_empty()).then(|| Self {
            circumstances: Circumstances::now(),
            resamples: RESAMPLES,
            questions: rows.len(),
            images: answers.images.len(),
            skipped: skipped(lines),
            left_out: left_out(&about, lines),
            cells: cells(&answers, about.kv_bytes_per_token),
            claims: claim::claims(&answers, &differences),
            differences,
            bins: bins(&answers),
            run,
            about,
        })
    }

    /// The cell over all questions about one place.
    pub fn pooled(&self, arm: Arm, budget: Tokens, positions: Positions) -> Option<&Cell> {
        self.of_kind(None).find(|cell| (cell.arm, cell.budget, cell.positions) == (arm, budget, positions))
    }

    /// The cells of one kind of questions.
    pub fn of_kind<'a>(&'a self, kind: Option<&'a str>) -> impl Iterator<Item = &'a Cell> {
        self.cells.iter().filter(move |cell| cell.kind.as_deref() == kind)
    }
}

/// All answers, with what belongs together.
struct Answers<'a> {
    lines: Vec<&'a AnswerLine>,
    /// Numbers of the images.
    images: BTreeMap<&'a str, usize>,
    seed: u64,
}

impl<'a> Answers<'a> {
    fn new(lines: Vec<&'a AnswerLine>, seed: u64) -> Self {
        let mut images: BTreeMap<&str, usize> = lines.iter().map(|line| (line.image.as_str(), 0)).collect();
        images.values_mut().enumerate().for_each(|(number, image)| *image = number);
        Self { lines, images, seed }
    }

    fn image(&self, line: &AnswerLine) -> usize {
        self.images.get(line.image.as_str()).copied().unwrap_or(0)
    }

    /// The interval of one value of some lines, where they have it.
    fn interval<'b>(
        &self,
        lines: impl IntoIterator<Item = &'b &'a AnswerLine>,
        value: impl Fn(&AnswerLine) -> Option<f64>,
    ) -> Option<Interval>
    where
        'a: 'b,
    {
        let values = lines.into_iter().filter_map(|line| Some((self.image(line), value(line)?)));
        interval(values, self.seed)
    }
}

fn share(right: bool) -> f64 {
    f64::from(u8::from(right))
}

fn skipped(lines: &[Line]) -> Vec<Skipped> {
    let of = |line: &Line| match line {
        Line::Row(row) => {
            let reason = row.skipped.clone()?;
            Some(Skipped { row: row.row, image: row.image.clone(), reason })
        }
        _ => None,
    };
    lines.iter().filter_map(of).collect()
}

/// What could not be run at all, and what could not be run for some rows.
fn left_out(about: &About, lines: &[Line]) -> Vec<Unsupported> {
    let mut counts: BTreeMap<(Arm, Option<Tokens>, &str), usize> = BTreeMap::new();
    for line in lines {
        let Line::Row(row) = line else { continue };
        for one in &row.omitted {
            *counts.entry((one.arm, one.budget, one.reason.as_str())).or_default() += 1;
        }
    }
    let counted = counts.into_iter().map(|((arm, budget, reason), rows)| Unsupported {
        arm,
        budget,
        rows: Some(rows),
        reason: reason.to_owned(),
    });
    about.left_out.iter().cloned().chain(counted).collect()
}

fn cells(answers: &Answers<'_>, kv_bytes_per_token: usize) -> Vec<Cell> {
    type Key<'a> = (Option<&'a str>, Positions, Arm, Tokens);
    let mut groups: BTreeMap<Key<'_>, Vec<&AnswerLine>> = BTreeMap::new();
    for &line in &answers.lines {
        let kinds = [line.one_place.then_some(None), line.kind.as_deref().map(Some)];
        for kind in kinds.into_iter().flatten() {
            groups.entry((kind, line.positions, line.arm, line.budget)).or_default().push(line);
        }
    }
    let cell = |((kind, positions, arm, budget), lines): (Key<'_>, Vec<&AnswerLine>)| {
        let mean = |value: fn(&AnswerLine) -> usize| {
            lines.iter().map(|line| value(line) as f64).sum::<f64>() / lines.len() as f64
        };
        Some(Cell {
            arm,
            budget,
            positions,
            kind: kind.map(str::to_owned),
            questions: lines.len(),
            exact: answers.interval(&lines, |line| Some(share(line.exact)))?,
            cer: answers.interval(&lines, |line| Some(line.cer))?,
            recall: answers.interval(&lines, |line| line.recall),
            tokens: mean(|line| line.tokens),
            kv_bytes: mean(|line| line.prompt_tokens) * kv_bytes_per_token as f64,
            ms: StageTimes::medians(lines.iter().map(|line| &line.ms)),
        })
    };
    groups.into_iter().filter_map(cell).collect()
}

fn bins(answers: &Answers<'_>) -> Vec<Bin> {
    let mut groups: BTreeMap<(Positions, Arm, usize), Vec<&AnswerLine>> = BTreeMap::new();
    // `auto` answers with one of the budgets once more.
    let counts = |line: &&&AnswerLine| line.one_place && line.budget != Tokens(Budget::Auto);
    for &line in answers.lines.iter().filter(counts) {
        if let Some(characters) = line.characters {
            let bin = bin_of(characters / line.tokens.max(1) as f64);
            groups.entry((line.positions, line.arm, bin)).or_default().push(line);
        }
    }
    let bin = |((positions, arm, bin), lines): ((Positions, Arm, usize), Vec<&AnswerLine>)| {
        let exact = answers.interval(&lines, |line| Some(share(line.exact)))?;
        Some(Bin { arm, positions, bin, ratio: BINS[bin].0.to_owned(), answers: lines.len(), exact })
    };
    groups.into_iter().filter_map(bin).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use std::time::Duration;

    use super::super::journal::tests::{answer, closed, header};
    use super::super::journal::{Omitted, RowLine};
    use super::*;
    use crate::arms::Method;

    pub(crate) fn about() -> About {
        About {
            model: "m".into(),
            flavour: "fp32-cpu".into(),
            checkpoint_sha256: "c".into(),
            data: "set.json".into(),
            room: Some(Room { patches: 400, gist_cells: 4, most_fine: 400 }),
            kv_bytes_per_token: 100,
            left_out: Vec::new(),
        }
    }

    pub(crate) fn summary(answers: Vec<AnswerLine>) -> Summary {
        Summary::new(header(), about(), &journal(answers)).unwrap()
    }

    /// Of a model without an allocator.
    pub(crate) fn stock_summary(answers: Vec<AnswerLine>) -> Summary {
        Summary::new(header(), About { room: None, ..about() }, &journal(answers)).unwrap()
    }

    fn journal(answers: Vec<AnswerLine>) -> Vec<Line> {
        answers.into_iter().map(|line| Line::Answer(Box::new(line))).collect()
    }

    #[test]
    fn borders_belong_to_the_upper_bin() {
        for (ratio, bin) in
            [(0.0, 0), (1.99, 0), (2.0, 1), (9.9, 2), (10.0, 3), (39.0, 4), (40.0, 5), (1e9, 5)]
        {
            assert_eq!(bin_of(ratio), bin, "{ratio}");
        }
    }

    #[test]
    fn cells_hold_means_per_kind_and_over_one_place_questions() {
        let mut answers: Vec<AnswerLine> =
            (0..4).map(|row| answer(row, Arm::of(Method::Grid), 64, row < 3)).collect();
        answers[0].kind = Some("record".into());
        answers[1].kind = Some("count".into());
        answers[1].one_place = false;
        answers[2].recall = Some(0.5);
        answers[3].tokens = 66;
        for (line, ms) in answers.iter_mut().zip([1, 9, 2, 5]) {
            line.ms.add("prefill", Duration::from_millis(ms));
        }
        let summary = summary(answers);
        let budget = summary.cells[0].budget;
        // Rows 0, 2 and 3: row 1 is a control.
        let pooled = summary.pooled(Arm::of(Method::Grid), budget, Positions::Original).unwrap();
        assert_eq!(pooled.questions, 3);
        assert!((pooled.exact.mean - 2.0 / 3.0).abs() < 1e-12 && (pooled.cer.mean - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(pooled.recall.unwrap().mean, 0.5);
        assert!((pooled.tokens - 194.0 / 3.0).abs() < 1e-9);
        assert_eq!(pooled.kv_bytes, 74.0 * 100.0);
        assert_eq!((pooled.ms.get("prefill"), pooled.ms.get("decode_per_token")), (Some(2.0), None));
        let kinds: Vec<_> = summary.cells.iter().map(|cell| cell.kind.as_deref()).collect();
        assert_eq!(kinds, [None, Some("count"), Some("record")]);
        assert_eq!(summary.of_kind(Some("count")).next().unwrap().exact.mean, 1.0);
        assert_eq!((summary.questions, summary.images), (4, 4));
    }

    #[test]
    fn bins_go_by_the_tokens_that_there_were() {
        let mut answers: Vec<AnswerLine> =
            (0..3).map(|row| answer(row, Arm::of(Method::Grid), 50, row == 0)).collect();
        answers[0].characters = Some(99.0);
        answers[1].characters = Some(500.0);
        answers[2].characters = Some(700.0);
        let bins = summary(answers).bins;
        let found: Vec<_> =
            bins.iter().map(|bin| (bin.ratio.as_str(), bin.answers, bin.exact.mean)).collect();
        assert_eq!(found, [("<2", 1, 1.0), ("10-20", 2, 0.0)]);
    }

    #[test]
    fn what_is_missing_is_counted() {
        let one_missing = Omitted { arm: Arm::of(Method::Oracle), budget: None, reason: "no box".into() };
        let row = |row, skipped: Option<&str>| {
            Line::Row(RowLine {
                row,
                image: "a.png".into(),
                skipped: skipped.map(str::to_owned),
                omitted: vec![one_missing.clone(); usize::from(skipped.is_none())],
                seconds: 0.0,
            })
        };
        let one = Line::Answer(Box::new(answer(0, Arm::of(Method::Grid), 64, true)));
        let lines = [one, row(0, None), row(1, Some("broken")), row(2, None), closed(3)];
        let summary = Summary::new(header(), about(), &lines).unwrap();
        assert_eq!(summary.skipped.len(), 1);
        assert_eq!((summary.skipped[0].row, summary.skipped[0].reason.as_str()), (1, "broken"));
        assert_eq!((summary.left_out[0].arm, summary.left_out[0].rows), (Arm::of(Method::Oracle), Some(2)));
        assert!(Summary::new(header(), about(), &[closed(0)]).is_none());
    }
}
