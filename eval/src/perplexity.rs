//! `arrcoc-serve perplexity`: how surprised a bundle's decoder is by a text.
//!
//! Windows of token ids are read side by side, one KV slot each, token after token. The first token of a
//! window is given; every other one is scored by the logits before it. That is the measure of llama.cpp's and
//! of transformers' tutorials, without a stride.

use arrcoc_bundle::{Bundle, Role};
use arrcoc_runtime::decoder::{self, DecoderError, Embedder};
use arrcoc_runtime::error::LoadError;
use arrcoc_runtime::generate::GenerateError;
use arrcoc_runtime::library::Library;
use arrcoc_runtime::model::{Options, load};
use arrcoc_runtime::prompt::Prompter;
use arrcoc_runtime::sampling::{LogSoftmax, SamplingError};
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
    /// Windows that were read.
    pub windows: usize,
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
    /// An id of another model.
    #[error("expected ids of the model's {vocabulary} tokens, found {found}")]
    Id {
        /// Size of the vocabulary.
        vocabulary: usize,
        /// The id.
        found: u32,
    },
}

/// Reads a text with a bundle's decoder. `progress` is told how many windows are done, of how many.
///
/// # Errors
/// [`PerplexityError`].
pub fn perplexity(
    bundle: &Bundle,
    options: &Options,
    source: Source,
    mut progress: impl FnMut(usize, usize),
) -> Result<Perplexity, PerplexityError> {
    let library = load::open_library(bundle.manifest().target, options)?;
    let windows = windows(bundle, source)?;
    let (mut sum, mut tokens) = (0.0, 0);
    for (batch, side_by_side) in windows.chunks(SIDE_BY_SIDE).enumerate() {
        progress(batch * SIDE_BY_SIDE, windows.len());
        let (batch_sum, batch_tokens) = read(bundle, library.as_ref(), side_by_side)?;
        sum += batch_sum;
        tokens += batch_tokens;
    }
    progress(windows.len(), windows.len());
    let nll = sum / tokens as f64;
    let (windows, runtime) = (windows.len(), library.describe());
    Ok(Perplexity { perplexity: nll.exp(), nll, tokens, windows, runtime })
}

/// The windows of a source, checked against the model.
fn windows(bundle: &Bundle, source: Source) -> Result<Vec<Vec<u32>>, PerplexityError> {
    let decoder = &bundle.manifest().decoder;
    let windows = match source {
        Source::Windows(windows) => windows,
        Source::Text { text, window } => {
            let ids = Prompter::load(bundle)?.tokenize(&text)?;
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

/// Reads windows side by side: the sum of negative log-likelihoods, and how many there are.
fn read(
    bundle: &Bundle,
    library: &dyn Library,
    windows: &[Vec<u32>],
) -> Result<(f64, usize), PerplexityError> {
    let manifest = bundle.manifest();
    let embedding = library.load_from(bundle, manifest.only(Role::Embedding))?;
    let embedder = Embedder::new(embedding, manifest.decoder.hidden_size);
    let longest = windows.iter().map(Vec::len).max().unwrap_or(0);
    let mut decoder = decoder::load(bundle, library, windows.len(), longest + 1)?;
    let slots: Vec<usize> = windows.iter().filter_map(|_| decoder.slots_mut().allocate()).collect();
    let (mut sum, mut tokens) = (0.0, 0);
    for at in 0..longest.saturating_sub(1) {
        let open = windows.iter().zip(&slots).filter(|(window, _)| at + 1 < window.len());
        let (ids, open): (Vec<u32>, Vec<(usize, u32)>) =
            open.map(|(window, slot)| (window[at], (*slot, window[at + 1]))).unzip();
        let rows: Vec<usize> = open.iter().map(|(slot, _)| *slot).collect();
        let logits = decoder.step(&rows, &embedder.embed(&ids)?)?;
        for (logits, (_, next)) in logits.iter().zip(&open) {
            sum -= f64::from(LogSoftmax::new(logits.values())?.of(*next));
            tokens += 1;
        }
    }
    Ok((sum, tokens))
}
