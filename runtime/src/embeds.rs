//! The embeddings of a whole prompt, made chunk by chunk.

use std::ops::Range;

use crate::decoder::{DecoderError, Embedder};
use crate::prompt::{Layout, Segment};
use crate::tensor::Tensor;

/// A prompt with its images embedded.
pub struct PromptEmbeds {
    parts: Vec<Part>,
}

enum Part {
    Tokens(Vec<u32>),
    /// Some rows of `[1, tokens, H]`.
    Visual(Tensor, Range<usize>),
}

impl Part {
    fn len(&self) -> usize {
        match self {
            Self::Tokens(ids) => ids.len(),
            Self::Visual(_, rows) => rows.len(),
        }
    }

    /// Rows `from..to`, `[1, to - from, H]`.
    fn rows(&self, from: usize, to: usize, embedder: &Embedder) -> Result<Tensor, DecoderError> {
        match self {
            Self::Tokens(ids) => embedder.embed(&ids[from..to]),
            Self::Visual(tensor, rows) => {
                let (from, to) = (rows.start + from, rows.start + to);
                if Some(&(to - from)) == tensor.shape().get(1) {
                    return Ok(tensor.clone());
                }
                let width = tensor.shape().last().copied().unwrap_or(0);
                let rows = tensor.as_slice::<f32>()?[from * width..to * width].to_vec();
                Ok(Tensor::from_vec(&[1, to - from, width], rows)?)
            }
        }
    }
}

impl PromptEmbeds {
    /// `visuals`: the rows of each image, and which of them each run of its plan has.
    pub fn new(layout: &Layout, visuals: &[(&Tensor, &[Range<usize>])]) -> Self {
        let parts = layout.segments.iter().map(|segment| match segment {
            Segment::Tokens(ids) => Part::Tokens(ids.clone()),
            Segment::Rows { image, run, .. } => {
                let (rows, runs) = visuals[*image];
                Part::Visual(rows.clone(), runs[*run].clone())
            }
        });
        Self { parts: parts.collect() }
    }

    /// Tokens in all.
    pub fn tokens(&self) -> usize {
        self.parts.iter().map(Part::len).sum()
    }

    /// Visual tokens among them.
    pub fn visual(&self) -> usize {
        self.parts.iter().filter(|part| matches!(part, Part::Visual(..))).map(Part::len).sum()
    }

    /// Tokens `start..end` as `[1, end - start, H]`; copies only where a chunk spans several parts or cuts an image.
    ///
    /// # Errors
    /// [`DecoderError`] when the embedding fails.
    pub fn chunk(&self, start: usize, end: usize, embedder: &Embedder) -> Result<Tensor, DecoderError> {
        let mut pieces = Vec::new();
        let mut offset = 0;
        for part in &self.parts {
            let (from, to) = (start.max(offset), end.min(offset + part.len()));
            if from < to {
                pieces.push(part.rows(from - offset, to - offset, embedder)?);
            }
            offset += part.len();
        }
        if let [piece] = pieces.as_slice() {
            return Ok(piece.clone());
        }
        let mut rows = Vec::new();
        for piece in &pieces {
            rows.extend_from_slice(piece.as_slice::<f32>()?);
        }
        let width = rows.len() / (end - start).max(1);
        Ok(Tensor::from_vec(&[1, end - start, width], rows)?)
    }
}
