//! `arrcoc-serve perplexity`: how surprised a bundle's decoder is by a text.
//!
//! Windows of token ids are read side by side, one KV slot each, token after token. The first token of a
//! window is given; every other one, or the last few, are scored by the logits before them. That is the
//! measure of llama.cpp's and of transformers' tutorials, without a stride.

use std::num::NonZeroUsize;

use arrcoc_bundle::{Bundle, Role};
use arrcoc_runtime::decoder::{self, Decoder, DecoderError, Embedder};
use arrcoc_runtime::error::LoadError;
use arrcoc_runtime::generate::GenerateError;
use arrcoc_runtime::library::Library;
use arrcoc_runtime::model::{Options, load};
use arrcoc_runtime::prompt::Prompter;
use arrcoc_runtime::sampling::{LogSoftmax, SamplingError, argmax};
use serde::Serialize;

/// Windows that are read side by side.
const SIDE_BY_SIDE: usize = 16;

/// What to read.
#[derive(Debug, Clone)]
pub enum Source {
    /// A text, cut into windows of this many tokens; what is left over at its end is not read.
    Text {
        /// The text.
        text: String,
        /// Tokens of a window.
        window: usize,
    },
    /// Token ids of another tool's windows.
    Windows(Vec<Vec<u32>>),
}

/// How surprising a text was.
#[derive(Debug, Clone, Serialize)]
pub struct Perplexity {
    /// exp of the mean negative log-likelihood.
    pub perplexity: f64,
    /// That mean, natural logarithm.
    pub nll: f64,
    /// Tokens that were scored.
    pub tokens: usize,
    /// Scored tokens that the decoder holds for the likeliest: where another model picked the tokens
    /// greedily, this is how often the two agree.
    pub likeliest: usize,
    /// Windows that were read.
    pub windows: usize,
    /// Windows in which every scored token is the likeliest: an answer in one of them comes out the same.
    pub windows_likeliest: usize,
    /// The inference library.
    pub runtime: String,
}

/// A text cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PerplexityError {
    /// The bundle does not load.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] GenerateError),
    /// The decoder failed.
    #[error(transparent)]
    Decoder(#[from] DecoderError),
    /// The decoder gave no distribution.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// There is nothing to score.
    #[error("expected windows of 2 to {most} tokens, as the model's context allows, found {found}")]
    Window {
        /// The longest.
        most: usize,
        /// What was found.
        found: String,
    },
    /// The text has less than a window.
    #[error(
        "expected a text of at least one window of {window} tokens, found {found}; take a longer text, or `--window {found}`"
    )]
    Short {
        /// Tokens of a window.
        window: usize,
        /// Tokens of the text.
        found: usize,
    },
    /// More is to be scored than there is.
    #[error("expected `last` below the {shortest} tokens of the shortest window, found {found}")]
    Last {
        /// Tokens of the shortest window.
        shortest: usize,
        /// What was asked for.
        found: usize,
    },
    /// An id of another model.
    #[error("expected ids of the model's {vocabulary} tokens, found {found}")]
    Id {
        /// Size of the vocabulary.
        vocabulary: usize,
        /// The id.
        found: u32,
    },
}

/// Reads a text with a bundle's decoder. Of every window the `last` tokens are scored, or all after the
/// first. `progress` is told how many windows are done, of how many.
///
/// # Errors
/// [`PerplexityError`].
pub fn perplexity(
    bundle: &Bundle,
    options: &Options,
    source: Source,
    last: Option<NonZeroUsize>,
    mut progress: impl FnMut(usize, usize),
) -> Result<Perplexity, PerplexityError> {
    let library = load::open_library(bundle.manifest(), options)?;
    let windows = windows(bundle, source)?;
    let shortest = windows.iter().map(Vec::len).min().unwrap_or(0);
    if let Some(found) = last.map(NonZeroUsize::get).filter(|&last| last >= shortest) {
        return Err(PerplexityError::Last { shortest, found });
    }
    let mut reader = Reader::load(bundle, library.as_ref(), &windows)?;
    let last = last.map_or(usize::MAX, NonZeroUsize::get);
    let mut scores = Vec::new();
    for side_by_side in windows.chunks(SIDE_BY_SIDE) {
        progress(scores.len(), windows.len());
        scores.extend(reader.read(side_by_side, last)?);
    }
    progress(windows.len(), windows.len());
    let tokens = scores.iter().map(|score| score.tokens).sum();
    let nll = scores.iter().map(|score| score.nll).sum::<f64>() / tokens as f64;
    Ok(Perplexity {
        perplexity: nll.exp(),
        nll,
        tokens,
        likeliest: scores.iter().map(|score| score.likeliest).sum(),
        windows: windows.len(),
        windows_likeliest: scores.iter().filter(|score| score.likeliest == score.tokens).count(),
        runtime: library.describe(),
    })
}

/// The windows of a source, checked against the model.
fn windows(bundle: &Bundle, source: Source) -> Result<Vec<Vec<u32>>, PerplexityError> {
    let decoder = &bundle.manifest().decoder;
    let windows = match source {
        Source::Windows(windows) => windows,
        Source::Text { text, window } => {
            let ids = Prompter::load(bundle)?.tokenize(&text)?;
            if ids.len() < window {
                return Err(PerplexityError::Short { window, found: ids.len() });
            }
            ids.chunks_exact(window.max(1)).map(<[u32]>::to_vec).collect()
        }
    };
    let most = decoder.context_length - 1;
    let odd = windows.iter().map(Vec::len).find(|length| !(2..=most).contains(length));
    if let Some(found) = odd.map(|length| length.to_string()).or(windows.is_empty().then(|| "none".into())) {
        return Err(PerplexityError::Window { most, found });
    }
    let stranger = windows.iter().flatten().find(|&&id| id as usize >= decoder.vocab_size);
    match stranger {
        Some(&found) => Err(PerplexityError::Id { vocabulary: decoder.vocab_size, found }),
        None => Ok(windows),
    }
}

/// What a window's tokens came to.
#[derive(Debug, Clone, Copy, Default)]
struct Score {
    /// Sum of the negative log-likelihoods.
    nll: f64,
    tokens: usize,
    likeliest: usize,
}

/// The decoder, with a slot for each of the windows that are read side by side.
struct Reader {
    embedder: Embedder,
    decoder: Box<dyn Decoder>,
}

impl Reader {
    fn load(bundle: &Bundle, library: &dyn Library, windows: &[Vec<u32>]) -> Result<Self, PerplexityError> {
        let manifest = bundle.manifest();
        let embedding = library.load_from(bundle, manifest.only(Role::Embedding))?;
        let embedder = Embedder::new(embedding, manifest.decoder.hidden_size);
        let longest = windows.iter().map(Vec::len).max().unwrap_or(0);
        let decoder = decoder::load(bundle, library, windows.len().min(SIDE_BY_SIDE), longest + 1)?;
        Ok(Self { embedder, decoder })
    }

    /// Reads windows side by side, and scores the `last` tokens of each.
    fn read(&mut self, windows: &[Vec<u32>], last: usize) -> Result<Vec<Score>, PerplexityError> {
        let longest = windows.iter().map(Vec::len).max().unwrap_or(0);
        let slots: Vec<usize> = windows.iter().filter_map(|_| self.decoder.slots_mut().allocate()).collect();
        assert_eq!(slots.len(), windows.len(), "a slot for each window");
        let mut scores = vec![Score::default(); windows.len()];
        for at in 0..longest.saturating_sub(1) {
            let open: Vec<usize> =
                (0..windows.len()).filter(|&window| at + 1 < windows[window].len()).collect();
            let ids: Vec<u32> = open.iter().map(|&window| windows[window][at]).collect();
            let rows: Vec<usize> = open.iter().map(|&window| slots[window]).collect();
            let logits = self.decoder.step(&rows, &self.embedder.embed(&ids)?)?;
            for (logits, &window) in logits.iter().zip(&open) {
                let (next, after) = (windows[window][at + 1], windows[window].len() - at - 1);
                if after <= last {
                    scores[window].add(logits.values(), next)?;
                }
            }
        }
        slots.into_iter().for_each(|slot| self.decoder.free(slot));
        Ok(scores)
    }
}

impl Score {
    fn add(&mut self, logits: &[f32], next: u32) -> Result<(), SamplingError> {
        self.nll -= f64::from(LogSoftmax::new(logits)?.of(next));
        self.tokens += 1;
        self.likeliest += usize::from(argmax(logits) == next);
        Ok(())
    }
}
