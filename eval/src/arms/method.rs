//! What decides which parts of a picture become tokens.

use arrcoc_runtime::generate::Selector;

/// What decides which parts of a picture become tokens. Which of them there are for a bundle depends on
/// whether it has an allocator: [`crate::offline`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Method {
    /// Nothing: every patch becomes a token; with an allocator, up to what the compressor takes.
    Full,
    /// A fixed strided grid with a neck of its own (DeepSeek-OCR's 16x); see [`super::grid`].
    Grid,
    /// A smaller picture, all of whose patches become tokens.
    Downsampled,
    /// A selector of the runtime. Composites have `uniform` alone: patches spread evenly, the same for every
    /// picture; see [`super::relevance::spread`].
    Selector(Selector),
    /// Patches at random.
    Random,
    /// Texture alone; see [`super::saliency`].
    Saliency,
    /// The allocator, given no question.
    Agnostic,
    /// Greedy coverage of question and picture, without training; see [`super::coverage`].
    Coverage,
    /// The allocator as it is.
    QueryAware,
    /// The allocator's order of patches, without the cue that its relevances are.
    QueryAwareChoice,
    /// The allocator, or the default selector, given the question of another row; the decoder gets the true
    /// one.
    Shuffled,
    /// The allocator, given the question that was asked before; the decoder gets the true one.
    FirstQuestion,
    /// The patches where the answer is, from the data set.
    Oracle,
    /// The allocator on a picture of mid-grey: what the decoder knows without seeing.
    Blank,
}

impl Method {
    /// Those that are no selectors.
    const OTHERS: [Self; 13] = [
        Self::Full,
        Self::Grid,
        Self::Downsampled,
        Self::Random,
        Self::Saliency,
        Self::Agnostic,
        Self::Coverage,
        Self::QueryAware,
        Self::QueryAwareChoice,
        Self::Shuffled,
        Self::FirstQuestion,
        Self::Oracle,
        Self::Blank,
    ];

    /// All that there are for one bundle or another, baselines first: the order of reports.
    pub fn all() -> Vec<Self> {
        let mut all = Self::OTHERS.to_vec();
        all.extend(Selector::ALL.map(Self::Selector));
        all.sort();
        all
    }

    /// Its name on the command line and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Grid => "grid",
            Self::Downsampled => "downsampled",
            Self::Selector(selector) => selector.name(),
            Self::Random => "random",
            Self::Saliency => "saliency",
            Self::Agnostic => "agnostic",
            Self::Coverage => "coverage",
            Self::QueryAware => "query_aware",
            Self::QueryAwareChoice => "query_aware_choice",
            Self::Shuffled => "shuffled",
            Self::FirstQuestion => "first_question",
            Self::Oracle => "oracle",
            Self::Blank => "blank",
        }
    }
}
