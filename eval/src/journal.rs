//! `answers.jsonl`: what was run, every answer, and how far the run has come.
//!
//! The first line says what is run. Then come, row by row, the answers of all variants and a line that closes
//! the row. A run that broke off goes on behind the last closed row, if it is the same run.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::arms::{Arm, Positions};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::options::{Arms, Budgets, PositionKinds, Tokens};
use super::times::StageTimes;

/// The file's name.
pub const FILE: &str = "answers.jsonl";

/// The stage that is one token of an answer: its share of the steps of its batch. Absent where the first
/// token was the last.
pub const DECODE_PER_TOKEN: &str = "decode_per_token";

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum Line {
    /// The first one.
    Header(Box<Header>),
    /// An answer.
    Answer(Box<AnswerLine>),
    /// The end of a row.
    Row(RowLine),
}

/// All that decides about answers: a run with another header is another run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Program and version.
    pub tool: String,
    /// SHA-256 of the bundle's manifest, and so of its files.
    pub bundle_sha256: String,
    /// SHA-256 of the data set's file.
    pub data_sha256: String,
    /// SHA-256 of the grid's neck; without one, the grid takes means.
    pub grid_neck_sha256: Option<String>,
    /// Rows of the data set.
    pub rows: usize,
    /// What was asked for.
    pub configuration: Configuration,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as the options of the same names")]
pub struct Configuration {
    pub arms: Arms,
    pub budgets: Budgets,
    pub positions: PositionKinds,
    pub seed: u64,
    pub max_tokens: usize,
    pub runtime: String,
    pub threads: usize,
    pub slots: usize,
    pub image_size: Option<usize>,
    pub context_length: usize,
    pub prefill_chunk: usize,
}

/// An answer and what it is worth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnswerLine {
    /// Index of the row.
    pub row: usize,
    /// The row's image, as the data set names it.
    pub image: String,
    /// The row's kind.
    pub kind: Option<String>,
    /// Whether it counts among the questions about one place.
    pub one_place: bool,
    /// Characters on the page.
    pub characters: Option<f64>,
    /// The arm.
    pub arm: Arm,
    /// What was asked for.
    pub budget: Tokens,
    /// Positions.
    pub positions: Positions,
    /// Visual tokens that it was answered from.
    pub tokens: usize,
    /// The adapter's tier, where there is one.
    pub tier: Option<usize>,
    /// Tokens of the prompt, visual ones included.
    pub prompt_tokens: usize,
    /// Tokens generated, the end token included.
    pub generated: usize,
    /// Whether the model ended the answer itself.
    pub ended: bool,
    /// The answer.
    pub answer: String,
    /// The right one.
    pub reference: String,
    /// Whether they are the same.
    pub exact: bool,
    /// Character error rate.
    pub cer: f64,
    /// Share of the answer's patches that became tokens.
    pub recall: Option<f64>,
    /// Time per stage; [`DECODE_PER_TOKEN`] is one of them.
    pub ms: StageTimes,
}

/// A row is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RowLine {
    /// Index of the row.
    pub row: usize,
    /// Its image.
    pub image: String,
    /// Why it was skipped, where it was: its image does not open, or its question cannot be put.
    pub skipped: Option<String>,
    /// Arms that it could not be answered with.
    pub omitted: Vec<Omitted>,
    /// Seconds that it took.
    pub seconds: f64,
}

/// An arm that a row could not be answered with: it needs what the row has not, or there is no room for the
/// prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Omitted {
    /// The arm.
    pub arm: Arm,
    /// At which budget; at all of them where there is none.
    pub budget: Option<Tokens>,
    /// Why.
    pub reason: String,
}

/// A journal that cannot be written, or is another run's.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system's.
    #[error("`{}`: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line is none of ours.
    #[error("`{}`, line {line}: {source}; take another --output, or remove the file", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The file holds something else.
    #[error(
        "`{}` is the record of another run: {differences}; take another --output, or remove the file", path.display()
    )]
    OtherRun {
        /// The file.
        path: PathBuf,
        /// What differs.
        differences: String,
    },
}

/// The open file.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    /// Rows that are done.
    pub done: usize,
}

impl Journal {
    /// Begins a run, or goes on with one that broke off: what follows the last closed row is cut off.
    ///
    /// # Errors
    /// [`JournalError`]; a file of another run is left as it is.
    pub fn open(path: &Path, header: &Header) -> Result<Self, JournalError> {
        let error = |source| JournalError::File { path: path.to_path_buf(), source };
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path).map_err(error)?;
        let mut journal = Self { path: path.to_path_buf(), file, done: 0 };
        let kept = journal.scan(header)?;
        journal.file.set_len(kept).map_err(error)?;
        journal.file.seek(SeekFrom::End(0)).map_err(error)?;
        if kept == 0 {
            journal.append(&[Line::Header(Box::new(header.clone()))])?;
        }
        Ok(journal)
    }

    /// Checks the header and counts closed rows; returns the length of what is complete, bytes.
    fn scan(&mut self, header: &Header) -> Result<u64, JournalError> {
        let (mut at, mut kept, mut number) = (0, 0, 0);
        let mut reader = BufReader::new(&self.file);
        // Bytes and not text: a line that was cut off may end inside a character.
        let mut text = Vec::new();
        loop {
            text.clear();
            let length = match reader.read_until(b'\n', &mut text) {
                Ok(length) => length,
                Err(source) => return Err(JournalError::File { path: self.path.clone(), source }),
            };
            // A line without an end was being written when the run broke off.
            if length == 0 || text.last() != Some(&b'\n') {
                return Ok(kept);
            }
            at += length as u64;
            number += 1;
            match (number, self.parse(&text, number)?) {
                (1, Line::Header(found)) => self.check(header, &found)?,
                (1, _) => return Err(self.other_run("it has no header")),
                (_, Line::Header(_)) => return Err(self.other_run("it has two headers")),
                (_, Line::Answer(_)) => continue,
                (_, Line::Row(_)) => self.done += 1,
            }
            kept = at;
        }
    }

    fn parse(&self, text: &[u8], line: usize) -> Result<Line, JournalError> {
        serde_json::from_slice(text).map_err(|source| JournalError::Line {
            path: self.path.clone(),
            line,
            source,
        })
    }

    fn check(&self, expected: &Header, found: &Header) -> Result<(), JournalError> {
        if expected == found {
            return Ok(());
        }
        let values = |header| serde_json::to_value(header).unwrap_or_default();
        let mut differences = Vec::new();
        differing("", &values(found), &values(expected), &mut differences);
        Err(self.other_run(&differences.join(", ")))
    }

    fn other_run(&self, differences: &str) -> JournalError {
        JournalError::OtherRun { path: self.path.clone(), differences: differences.to_owned() }
    }

    /// Writes lines in one go.
    ///
    /// # Errors
    /// [`JournalError::File`].
    pub fn append(&mut self, lines: &[Line]) -> Result<(), JournalError> {
        let error = |source| JournalError::File { path: self.path.clone(), source };
        let mut text = String::new();
        for line in lines {
            text += &serde_json::to_string(line).map_err(|source| error(source.into()))?;
            text.push('\n');
        }
        self.file.write_all(text.as_bytes()).map_err(error)?;
        self.file.flush().map_err(error)
    }

    /// Reads the whole file.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn read(path: &Path) -> Result<Vec<Line>, JournalError> {
        let error = |source| JournalError::File { path: path.to_path_buf(), source };
        let file = BufReader::new(File::open(path).map_err(error)?);
        let mut lines = Vec::new();
        for (number, text) in file.lines().enumerate() {
            let line = serde_json::from_str(&text.map_err(error)?);
            let path = || path.to_path_buf();
            lines.push(line.map_err(|source| JournalError::Line {
                path: path(),
                line: number + 1,
                source,
            })?);
        }
        Ok(lines)
    }
}

/// Names of the fields that differ, with both values.
fn differing(name: &str, found: &Value, expected: &Value, into: &mut Vec<String>) {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            for (key, value) in expected {
                differing(key, found.get(key).unwrap_or(&Value::Null), value, into);
            }
        }
        _ if found == expected => {}
        _ => into.push(format!("{name} was {found} and is {expected}")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;
    use crate::arms::Method;

    pub(crate) fn header() -> Header {
        Header {
            tool: "arrcoc-serve 0".into(),
            bundle_sha256: "b".into(),
            data_sha256: "d".into(),
            grid_neck_sha256: None,
            rows: 3,
            configuration: Configuration {
                arms: Arms(Method::all().into_iter().map(Arm::of).collect()),
                budgets: "64,auto".parse().unwrap(),
                positions: "original".parse().unwrap(),
                seed: 1,
                max_tokens: 9,
                runtime: "none".into(),
                threads: 1,
                slots: 4,
                image_size: Some(320),
                context_length: 4096,
                prefill_chunk: 256,
            },
        }
    }

    pub(crate) fn answer(row: usize, arm: impl Into<Arm>, tokens: usize, exact: bool) -> AnswerLine {
        AnswerLine {
            row,
            image: format!("{row}.png"),
            kind: None,
            one_place: true,
            characters: None,
            arm: arm.into(),
            budget: Tokens(arrcoc_runtime::generate::Budget::Tokens(tokens)),
            positions: Positions::Original,
            tokens,
            tier: Some(0),
            prompt_tokens: tokens + 10,
            generated: 2,
            ended: true,
            answer: String::new(),
            reference: "x".into(),
            exact,
            cer: f64::from(u8::from(!exact)),
            recall: None,
            ms: StageTimes::default(),
        }
    }

    pub(crate) fn closed(row: usize) -> Line {
        Line::Row(RowLine {
            row,
            image: format!("{row}.png"),
            skipped: None,
            omitted: Vec::new(),
            seconds: 0.1,
        })
    }

    #[test]
    fn a_broken_run_goes_on_behind_its_last_closed_row() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let line = |row| Line::Answer(Box::new(answer(row, Method::Grid, 64, true)));
        let mut journal = Journal::open(&path, &header()).unwrap();
        journal.append(&[line(0), closed(0)]).unwrap();
        let kept = std::fs::read(&path).unwrap();
        journal.append(&[line(1)]).unwrap();
        std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"{\"line\":\"ans\xC3")
            .unwrap();

        let mut journal = Journal::open(&path, &header()).unwrap();
        assert_eq!(journal.done, 1);
        assert_eq!(std::fs::read(&path).unwrap(), kept);
        journal.append(&[line(1), closed(1)]).unwrap();
        let lines = Journal::read(&path).unwrap();
        assert_eq!(lines[1..], [line(0), closed(0), line(1), closed(1)]);
        assert_eq!(Journal::open(&path, &header()).unwrap().done, 2);
    }

    #[test]
    fn a_header_alone_and_half_a_header_are_beginnings() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        std::fs::write(&path, "{\"line\":\"hea").unwrap();
        for _ in 0..2 {
            assert_eq!(Journal::open(&path, &header()).unwrap().done, 0);
            assert_eq!(Journal::read(&path).unwrap(), [Line::Header(Box::new(header()))]);
        }
    }

    #[test]
    fn another_run_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        drop(Journal::open(&path, &header()).unwrap());
        let before = std::fs::read(&path).unwrap();
        let mut other = header();
        other.configuration.seed = 2;
        other.data_sha256 = "e".into();
        let text = Journal::open(&path, &other).unwrap_err().to_string();
        for part in ["seed was 1 and is 2", "data_sha256", "--output"] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(std::fs::read(&path).unwrap(), before);
        std::fs::write(&path, "something else\n").unwrap();
        assert!(matches!(Journal::open(&path, &header()), Err(JournalError::Line { line: 1, .. })));
    }
}
