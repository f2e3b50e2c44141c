//! Compares the tensors that a checkpoint has with those that its configuration asks for.

use std::collections::BTreeMap;
use std::fmt;

use arrcoc_models::families::Ignored;
use arrcoc_models::graph::Parameter;
use serde::Serialize;

use super::header::Dtype;
use super::{Checkpoint, CheckpointError, convert};
use crate::progress::human_bytes;

/// Differences shown in full; the rest is counted.
const LISTED: usize = 12;

/// One difference between what a network needs and what a checkpoint has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// A tensor is not there.
    Missing {
        /// Its name.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
        /// A tensor that is there, unasked, under a similar name.
        similar: Option<String>,
    },
    /// A tensor is there that nothing asks for.
    Extra {
        /// Its name.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A tensor has another shape.
    Shape {
        /// Its name.
        tensor: String,
        /// The shape that the configuration implies.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tensor is not of a float type.
    Dtype {
        /// Its name.
        tensor: String,
        /// Its type.
        found: Dtype,
    },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { tensor, shape, similar } => {
                write!(f, "missing `{tensor}`: expected shape {shape:?}, found no such tensor")?;
                similar.as_ref().map_or(Ok(()), |similar| write!(f, "; did you mean `{similar}`?"))
            }
            Self::Extra { tensor, shape } => {
                write!(f, "extra `{tensor}`: shape {shape:?}, but no network of this model uses that name")
            }
            Self::Shape { tensor, expected, found } => {
                write!(f, "wrong shape of `{tensor}`: expected {expected:?}, found {found:?}")
            }
            Self::Dtype { tensor, found } => {
                write!(f, "wrong dtype of `{tensor}`: expected F32, BF16 or F16, found {found}")
            }
        }
    }
}

/// Shows the first few mismatches, one on a line.
pub(super) struct Listed<'a>(pub(super) &'a [Mismatch]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mismatch in self.0.iter().take(LISTED) {
            write!(f, "\n  {mismatch}")?;
        }
        match self.0.len().saturating_sub(LISTED) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

/// Tensors that no network reads, and that may be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// How their names begin.
    pub prefix: &'static str,
    /// Why they are not needed.
    pub reason: &'static str,
    /// How many there are.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { prefix, reason, tensors, bytes } = self;
        write!(f, "{tensors} tensor(s) `{prefix}*`, {}, left out: {reason}", human_bytes(*bytes))
    }
}

impl Checkpoint {
    /// Checks that the checkpoint has exactly the tensors of `parameters`, in shape and of a float type, and
    /// besides at most those of `ignored`, by their names in the files or to the networks. Returns which of
    /// the latter it has.
    ///
    /// # Errors
    /// [`CheckpointError::Mismatches`] with every difference.
    pub fn expect(
        &self,
        parameters: &[Parameter],
        ignored: &[Ignored],
    ) -> Result<Vec<LeftOut>, CheckpointError> {
        let expected: BTreeMap<&str, &Parameter> =
            parameters.iter().map(|parameter| (parameter.name.as_str(), parameter)).collect();
        let found: BTreeMap<&str, &str> = self.names().collect();
        let mut left_out: BTreeMap<&str, LeftOut> = BTreeMap::new();
        let mut extra: Vec<(&str, &str)> = Vec::new();
        for (&name, &stored) in found.iter().filter(|(name, _)| !expected.contains_key(*name)) {
            let fits = |of: &&Ignored| name.starts_with(of.prefix) || stored.starts_with(of.prefix);
            let Some(&Ignored { prefix, reason }) = ignored.iter().find(fits) else {
                extra.push((name, stored));
                continue;
            };
            let empty = || LeftOut { prefix, reason, tensors: 0, bytes: 0 };
            let group = left_out.entry(prefix).or_insert_with(empty);
            group.tensors += 1;
            group.bytes += self.tensors[stored].size();
        }
        let mismatches = self.mismatches(&expected, &found, &extra);
        if mismatches.is_empty() {
            return Ok(left_out.into_values().collect());
        }
        Err(CheckpointError::Mismatches(mismatches))
    }

    fn mismatches(
        &self,
        expected: &BTreeMap<&str, &Parameter>,
        found: &BTreeMap<&str, &str>,
        extra: &[(&str, &str)],
    ) -> Vec<Mismatch> {
        let candidates: Vec<&str> = extra.iter().map(|(name, _)| *name).collect();
        let mut mismatches = Vec::new();
        for (&name, parameter) in expected {
            let tensor = name.to_owned();
            let Some(found) = found.get(name).map(|stored| &self.tensors[*stored]) else {
                // Beyond what is shown, a search would only cost time.
                let similar = if mismatches.len() < LISTED { most_similar(name, &candidates) } else { None };
                mismatches.push(Mismatch::Missing { tensor, shape: parameter.shape.clone(), similar });
                continue;
            };
            if found.shape != parameter.shape {
                let (expected, found) = (parameter.shape.clone(), found.shape.clone());
                mismatches.push(Mismatch::Shape { tensor, expected, found });
            } else if convert::to_f32(found.dtype).is_none() {
                mismatches.push(Mismatch::Dtype { tensor, found: found.dtype });
            }
        }
        mismatches.extend(extra.iter().map(|(_, stored)| Mismatch::Extra {
            tensor: (*stored).to_owned(),
            shape: self.tensors[*stored].shape.clone(),
        }));
        mismatches
    }
}

/// The candidate nearest to `name`, unless even that differs in more than a third of the name.
fn most_similar(name: &str, candidates: &[&str]) -> Option<String> {
    let (distance, best) = candidates.iter().take(1000).map(|other| (distance(name, other), other)).min()?;
    (distance <= name.len() / 3).then(|| (*best).to_owned())
}

/// Levenshtein distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrcoc_models::graph::Init;

    use super::*;

    #[test]
    fn what_a_family_ignores_is_listed_and_everything_else_is_an_error() {
        const IGNORED: [Ignored; 2] = [
            Ignored { prefix: "mtp.", reason: "drafts are not used" },
            Ignored { prefix: "text.rotary", reason: "computed anew" },
        ];
        let parameter = |name: &str| Parameter {
            name: name.to_owned(),
            shape: vec![1],
            init: Init::normal(1.0),
            used: true,
        };
        let parameters = [parameter("text.norm"), parameter("lm_head")];
        let mut checkpoint =
            Checkpoint::of_tensors(&["model.norm", "model.rotary.inv_freq", "lm_head", "mtp.0", "mtp.1"]);
        checkpoint.rename(&[("model.", "text.")]).unwrap();
        let left_out = checkpoint.expect(&parameters, &IGNORED).unwrap();
        let found: Vec<_> = left_out.iter().map(|group| (group.prefix, group.tensors, group.bytes)).collect();
        assert_eq!(found, [("mtp.", 2, 8), ("text.rotary", 1, 4)]);
        assert!(left_out[0].to_string().contains("`mtp.*`") && left_out[0].to_string().ends_with("not used"));

        let error = checkpoint.expect(&parameters, &IGNORED[..1]).unwrap_err().to_string();
        assert!(
            error.contains("extra `model.rotary.inv_freq`"),
            "the name in the file is not given: {error}"
        );
    }

    #[test]
    fn nearest_name_is_suggested_and_far_ones_are_not() {
        assert_eq!(distance("kitten", "sitting"), 3);
        let have = ["sam_encoder.neck.conv_1.weight", "ovis_llm.lm_head.weight"];
        assert_eq!(most_similar("sam_encoder.neck.conv1.weight", &have).as_deref(), Some(have[0]));
        assert_eq!(most_similar("clip_vision_model.pre_layrnorm.bias", &have), None);
    }
}
