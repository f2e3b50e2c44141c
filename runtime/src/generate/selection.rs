//! How the visual tokens of a picture are chosen, where a request asks for fewer than there are: what a
//! request may say about it, and what its receipt answers.

use std::fmt;

use serde::{Serialize, Serializer};

/// How many visual tokens an image gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Budget {
    /// The model decides, or the question does.
    Auto,
    /// This many; one of the bundle's `token_budgets`, where there are any. An image that has fewer keeps
    /// them all.
    Tokens(usize),
    /// This share of what the model has for the image.
    Share(Share),
    /// All that the model has for a picture: nothing chooses.
    Full,
}

/// As requests write it.
impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.pad("auto"),
            Self::Full => f.pad("full"),
            Self::Tokens(tokens) => f.pad(&tokens.to_string()),
            Self::Share(share) => f.pad(&share.get().to_string()),
        }
    }
}

/// As requests write it: numbers are numbers.
impl Serialize for Budget {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Tokens(tokens) => tokens.serialize(serializer),
            Self::Share(share) => share.get().serialize(serializer),
            word => serializer.collect_str(word),
        }
    }
}

/// A share above 0 and below 1, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share(u32);

impl Share {
    const WHOLE: u32 = 1_000_000;

    /// The share nearest to a number; `None` unless it is above 0 and below 1.
    pub fn new(share: f64) -> Option<Self> {
        let millionths = (share * f64::from(Self::WHOLE)).round();
        let fits = millionths >= 1.0 && millionths < f64::from(Self::WHOLE);
        // In range, so nothing is cut off.
        fits.then_some(Self(millionths as u32))
    }

    /// So many of a number, rounded up; what rounding to millionths added does not count.
    pub fn of(self, number: usize) -> usize {
        let number = number as u128;
        let part = number * u128::from(self.0) - number / 2;
        usize::try_from(part.div_ceil(u128::from(Self::WHOLE))).unwrap_or(usize::MAX)
    }

    /// As a number between 0 and 1.
    pub fn get(self) -> f64 {
        f64::from(self.0) / f64::from(Self::WHOLE)
    }
}

/// How tokens are chosen. What is said here does nothing where all are kept.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Selection {
    /// The method.
    pub selector: Option<Selector>,
    /// What is weighed against what.
    pub tensions: Option<Tensions>,
    /// Which levels of rows for deeper layers a kept token gets.
    pub depth: Option<Depth>,
}

impl Selection {
    /// The first thing that is set, by the field of a request that says it.
    pub fn set(&self) -> Option<&'static str> {
        let Self { selector, tensions, depth } = self;
        let fields = [
            ("arrcoc.selector", selector.is_some()),
            ("arrcoc.tensions", tensions.is_some()),
            ("arrcoc.depth", depth.is_some()),
        ];
        fields.into_iter().find(|(_, set)| *set).map(|(field, _)| field)
    }

    /// What images get whose request says how tokens are chosen, and not how many: what a request gets that
    /// says nothing, unless that is all of them. Then the question decides.
    pub fn budget(&self, default: Budget) -> Budget {
        match (self.set(), default) {
            (Some(_), Budget::Full) => Budget::Auto,
            (_, default) => default,
        }
    }
}

/// A method of choosing tokens. Those with a paper are as published, as far as they need nothing but the rows
/// that the decoder reads and the question's embeddings; `docs/selection.md` says what stands for the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Selector {
    /// Our own: relevance by three ways of knowing, coverage of question and picture.
    #[default]
    Balanced,
    /// Coverage of the question and of the picture (MMTok, <https://arxiv.org/abs/2508.18264>).
    MmTok,
    /// Coverage of the picture, weighed by salience (SCOPE, <https://arxiv.org/abs/2510.24214>).
    Scope,
    /// Determinantal point process, conditioned on the question (CDPruner,
    /// <https://arxiv.org/abs/2506.10967>).
    CdPruner,
    /// The largest of least distances (DivPrune, <https://arxiv.org/abs/2503.02175>).
    DivPrune,
    /// The most relevant, one by one.
    TopK,
    /// Evenly spread, whatever is there.
    Uniform,
}

impl Selector {
    /// All, the default first.
    pub const ALL: [Self; 7] =
        [Self::Balanced, Self::MmTok, Self::Scope, Self::CdPruner, Self::DivPrune, Self::TopK, Self::Uniform];

    /// As requests name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Balanced => "balanced",
            Self::MmTok => "mmtok",
            Self::Scope => "scope",
            Self::CdPruner => "cdpruner",
            Self::DivPrune => "divprune",
            Self::TopK => "top-k",
            Self::Uniform => "uniform",
        }
    }

    /// The selector of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|selector| selector.name() == name)
    }

    /// Whether it compares each token with each other, which takes memory by the square of their number.
    pub const fn compares_all(self) -> bool {
        matches!(self, Self::MmTok | Self::Scope | Self::CdPruner | Self::DivPrune)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Opponents that [`Selector::Balanced`] and the budget `auto` hold in balance, each number in 0..=1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tensions {
    /// Weights of the three ways of knowing: propositional (how much there is to read), perspectival (how far
    /// it stands out), participatory (how near it is to the question). Only their ratios count.
    pub knowing: [f32; 3],
    /// Exploit (0) against explore (1): how much of the coverage asks for relevant places, and how much for
    /// all places alike.
    pub explore: f32,
    /// Focus (0) against diversify (1): the most relevant tokens, or those that say what no other does.
    pub diversify: f32,
    /// Compress (0) against particularize (1): how many tokens `auto` takes.
    pub particularize: f32,
}

impl Default for Tensions {
    fn default() -> Self {
        Self { knowing: [0.2, 0.2, 0.6], explore: 0.25, diversify: 0.25, particularize: 0.5 }
    }
}

/// Which levels of rows for deeper layers (DeepStack) a kept token gets; nothing where the family has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Depth {
    /// All of them, as the model was trained.
    #[default]
    All,
    /// All for the more relevant half of the kept tokens, only the deepest for the others.
    Relevant,
}

impl Depth {
    /// Both, the default first.
    pub const ALL: [Self; 2] = [Self::All, Self::Relevant];

    /// As requests name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Relevant => "relevant",
        }
    }

    /// The depth of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|depth| depth.name() == name)
    }
}

/// What a question asks of a picture that few tokens may not give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Need {
    /// How many of something there are.
    Counting,
    /// All that is written.
    Reading,
    /// Where something is.
    Grounding,
}

impl Need {
    /// As receipts name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counting => "counting",
            Self::Reading => "reading",
            Self::Grounding => "grounding",
        }
    }
}

/// How a picture's tokens were chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Selected {
    /// The method.
    pub selector: Selector,
    /// Tokens that there were.
    pub of: usize,
    /// Why so many were kept.
    pub reason: Reason,
    /// Weights of the propositional, perspectival and participatory scores in the relevance; they sum to 1.
    pub weights: [f32; 3],
}

/// Why a picture got as many tokens as it did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reason {
    /// The request says so.
    Asked,
    /// `auto`: the question's relevance lies on about this many tokens.
    Concentration(f32),
    /// `auto`: what the question asks for.
    Need(Need),
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_rounded_up_and_never_whole() {
        let half = Share::new(0.5).unwrap();
        assert_eq!((half.of(0), half.of(1), half.of(5), half.of(64)), (0, 1, 3, 32));
        assert_eq!(Share::new(1e-6).unwrap().of(1), 1);
        for number in 1..500usize {
            for part in 1..number {
                let share = Share::new(part as f64 / number as f64).unwrap();
                assert_eq!(share.of(number), part, "{part} of {number}");
            }
        }
        for wrong in [0.0, -0.5, 1.0, 2.0, f64::NAN, f64::INFINITY, 1e-9] {
            assert_eq!(Share::new(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for selector in Selector::ALL {
            assert_eq!(Selector::named(selector.name()), Some(selector));
        }
        for depth in Depth::ALL {
            assert_eq!(Depth::named(depth.name()), Some(depth));
        }
        assert_eq!(Selector::named("best"), None);
    }
}
