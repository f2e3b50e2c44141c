//! What the demo shows: a model, a picture, and questions about it.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::bundles::{Programs, SEED};
use crate::shell::{self, shown};

/// The repository's own trained checkpoint, and a page that it has not seen in training.
const CHECKPOINT: &str = "reference/checkpoints/arr-coc-ledger";
const PAGE: &str = "tests/fixtures/ledger/page.png";
/// What stands on that page.
const PAGE_QUESTIONS: [(&str, &str); 2] =
    [("Which number belongs to DZ?", "284"), ("What is written in the brown diamond?", "07")];
/// Shape of random weights.
const RANDOM: &str = "arr-coc-ovis-tiny";
const PHOTOGRAPH: &str = "tests/fixtures/images/astronaut.jpg";
const PHOTOGRAPH_QUESTION: &str = "What is on the left?";

/// A question, and its answer if that is known.
pub(super) struct Question {
    pub(super) text: String,
    pub(super) expected: Option<&'static str>,
}

pub(super) struct Subject {
    /// Name of the model.
    pub(super) model: String,
    /// The preset to make a random checkpoint of; none for the trained one.
    preset: Option<String>,
    pub(super) picture: PathBuf,
    pub(super) questions: Vec<Question>,
}

impl Subject {
    /// What was asked for: a preset, a picture and questions, or the repository's own. Random weights where
    /// the repository has no trained ones.
    pub(super) fn new(preset: Option<&str>, picture: Option<&Path>, asked: &[String]) -> Self {
        let shipped = shell::root().join(CHECKPOINT).is_dir();
        let preset = preset.map(str::to_owned).or_else(|| (!shipped).then(|| RANDOM.to_owned()));
        let trained = preset.is_none();
        let default_picture = shell::root().join(if trained { PAGE } else { PHOTOGRAPH });
        let questions = match (asked, trained && picture.is_none()) {
            ([], true) => PAGE_QUESTIONS
                .map(|(text, expected)| Question { text: text.to_owned(), expected: Some(expected) })
                .into(),
            ([], false) => vec![Question { text: PHOTOGRAPH_QUESTION.to_owned(), expected: None }],
            (asked, _) => asked.iter().map(|text| Question { text: text.clone(), expected: None }).collect(),
        };
        Self {
            model: preset.clone().unwrap_or_else(|| "arr-coc-ledger".to_owned()),
            preset,
            picture: picture.map_or(default_picture, Path::to_path_buf),
            questions,
        }
    }

    /// Whether answers are gibberish.
    pub(super) fn is_random(&self) -> bool {
        self.preset.is_some()
    }

    /// The checkpoint's directory; a random one is made where there is none yet.
    pub(super) fn checkpoint(&self, programs: &Programs, dir: &Path) -> Result<PathBuf> {
        let Some(preset) = &self.preset else {
            let checkpoint = shell::root().join(CHECKPOINT);
            println!(
                "{}: the one that this repository ships, trained on pages like the one below",
                shown(&checkpoint)
            );
            return Ok(checkpoint);
        };
        let checkpoint = dir.join("checkpoints").join(preset);
        if checkpoint.join("config.json").is_file() {
            println!("{} is there from an earlier demo", shown(&checkpoint));
        } else {
            programs.init(preset, SEED, "bfloat16", &checkpoint)?;
        }
        Ok(checkpoint)
    }
}
