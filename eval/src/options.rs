//! What the command line says, checked.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::arms::{Arm, Positions, UnknownName};
use arrcoc_runtime::generate::{Budget, Share};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What to run.
#[derive(Debug, Clone)]
pub struct EvalOptions {
    /// The data set.
    pub data: PathBuf,
    /// Arms.
    pub arms: AskedArms,
    /// Budgets, ascending, `auto` last.
    pub budgets: Budgets,
    /// Positions.
    pub positions: PositionKinds,
    /// At most this many rows, from the first.
    pub limit: Option<usize>,
    /// A trained neck for the grid.
    pub grid_neck: Option<PathBuf>,
    /// For everything that is drawn.
    pub seed: u64,
    /// Most tokens of an answer; the longest reference and 8 more unless given.
    pub max_tokens: Option<usize>,
    /// Directory for the results.
    pub output: PathBuf,
}

/// A list that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// Nothing is in it.
    #[error("expected at least one, found none")]
    Empty,
    /// A name is unknown.
    #[error(transparent)]
    Name(#[from] UnknownName),
    /// Not a budget.
    #[error("expected auto or a number of tokens of at least 1, found `{0}`")]
    Budget(String),
}

/// Arms of a run, in the order of reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arms(pub Vec<Arm>);

/// Arms that are asked for, before it is known which there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AskedArms {
    /// As many as the bundle has.
    All,
    /// These.
    Some(Arms),
}

impl FromStr for AskedArms {
    type Err = ListError;

    fn from_str(text: &str) -> Result<Self, ListError> {
        if text == "all" {
            return Ok(Self::All);
        }
        list(text, |name| Ok(name.parse::<Arm>()?)).map(|arms| Self::Some(Arms(arms)))
    }
}

/// Positions of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PositionKinds(pub Vec<Positions>);

impl FromStr for PositionKinds {
    type Err = ListError;

    fn from_str(text: &str) -> Result<Self, ListError> {
        list(text, |name| Ok(name.parse::<Positions>()?)).map(Self)
    }
}

/// Budgets of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budgets(pub Vec<Tokens>);

impl FromStr for Budgets {
    type Err = ListError;

    fn from_str(text: &str) -> Result<Self, ListError> {
        list(text, |name| match name {
            "auto" => Ok(Tokens(Budget::Auto)),
            number => match number.parse() {
                Ok(tokens) if tokens > 0 => Ok(Tokens(Budget::Tokens(tokens))),
                _ => Err(ListError::Budget(number.to_owned())),
            },
        })
        .map(Self)
    }
}

/// Items between commas, in order, each once.
fn list<T: Ord>(text: &str, parse: impl Fn(&str) -> Result<T, ListError>) -> Result<Vec<T>, ListError> {
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    let mut items = names.map(parse).collect::<Result<Vec<T>, _>>()?;
    items.sort();
    items.dedup();
    if items.is_empty() { Err(ListError::Empty) } else { Ok(items) }
}

/// A budget as it is written: a number of tokens, `auto` or `full`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tokens(pub Budget);

impl Tokens {
    /// The number, where it is one.
    pub fn number(self) -> Option<usize> {
        match self.0 {
            Budget::Tokens(tokens) => Some(tokens),
            Budget::Auto | Budget::Share(_) | Budget::Full => None,
        }
    }

    /// Numbers first, then shares, `auto`, `full`.
    fn rank(self) -> (u8, usize) {
        match self.0 {
            Budget::Tokens(tokens) => (0, tokens),
            Budget::Share(share) => (1, share.of(usize::MAX)),
            Budget::Auto => (2, 0),
            Budget::Full => (3, 0),
        }
    }
}

impl Ord for Tokens {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl PartialOrd for Tokens {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// As JSON has it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(usize),
    Share(f64),
    Word(Word),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Auto,
    Full,
}

impl Serialize for Tokens {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Tokens {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(match Written::deserialize(deserializer)? {
            Written::Number(tokens) => Budget::Tokens(tokens),
            Written::Share(share) => {
                let expected = || D::Error::custom("expected a share above 0 and below 1");
                Budget::Share(Share::new(share).ok_or_else(expected)?)
            }
            Written::Word(Word::Auto) => Budget::Auto,
            Written::Word(Word::Full) => Budget::Full,
        }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sorted_and_hold_everything_once() {
        assert_eq!("all".parse::<AskedArms>().unwrap(), AskedArms::All);
        let arms: AskedArms = "balanced+depth,query_aware, grid,,query_aware,balanced".parse().unwrap();
        let expected = ["grid", "balanced", "balanced+depth", "query_aware"].map(|arm| arm.parse().unwrap());
        assert_eq!(arms, AskedArms::Some(Arms(expected.to_vec())));
        let budgets: Budgets = "400,auto,16,400".parse().unwrap();
        let expected = [Budget::Tokens(16), Budget::Tokens(400), Budget::Auto].map(Tokens);
        assert_eq!(budgets.0, expected);
        assert_eq!("repacked".parse::<PositionKinds>().unwrap().0, [Positions::Repacked]);
    }

    #[test]
    fn wrong_lists_say_what_is_wrong() {
        assert_eq!(",".parse::<AskedArms>().unwrap_err(), ListError::Empty);
        assert!("grid,none".parse::<AskedArms>().unwrap_err().to_string().contains("`none`"));
        for text in ["0", "-1", "many", "1.5"] {
            assert!(matches!(text.parse::<Budgets>(), Err(ListError::Budget(_))), "{text}");
        }
    }

    #[test]
    fn budgets_are_numbers_or_words_in_json() {
        let budgets = [Budget::Tokens(64), Budget::Auto, Budget::Full].map(Tokens);
        let json = serde_json::to_string(&budgets).unwrap();
        assert_eq!(json, r#"[64,"auto","full"]"#);
        assert_eq!(serde_json::from_str::<Vec<Tokens>>(&json).unwrap(), budgets);
    }
}
