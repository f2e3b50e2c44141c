//! The embeddings of a whole prompt, made chunk by chunk: for the scheduler, which feeds them to the decoder.

use std::ops::Range;

use crate::decoder::{DecoderError, Embedder, Positions, Rows};
use crate::prompt::{Layout, Segment};
use crate::tensor::Tensor;
use crate::vision::Visual;

/// What stands for one picture.
#[derive(Clone, Copy)]
pub struct PictureRows<'a> {
    /// `[1, rows, H]`.
    pub rows: &'a Tensor,
    /// Which rows each run of the picture's plan has, in order.
    pub runs: &'a [Range<usize>],
    /// As [`Visual::positions`].
    pub positions: Option<&'a [Positions]>,
    /// As [`Visual::deep`].
    pub deep: Option<&'a Tensor>,
}

impl<'a> From<&'a Visual> for PictureRows<'a> {
    fn from(Visual { rows, runs, positions, deep, receipt: _ }: &'a Visual) -> Self {
        Self { rows, runs, positions: positions.as_deref(), deep: deep.as_ref() }
    }
}

/// A prompt with its images embedded.
pub struct PromptEmbeds {
    parts: Vec<Part>,
    /// Position behind the last.
    end: usize,
}

/// A stretch of a prompt.
struct Part {
    source: Source,
    tokens: usize,
    /// Position at which it begins.
    start: usize,
    /// Where its tokens stand, counted from `start`; `None` counts them.
    positions: Option<Positions>,
}

enum Source {
    Tokens(Vec<u32>),
    /// Some rows of a picture.
    Visual {
        /// `[1, rows, H]`.
        rows: Tensor,
        /// `[levels, rows, H]`.
        deep: Option<Tensor>,
        /// Number of the first.
        first: usize,
    },
}

impl Part {
    /// Where the token at `at` stands; behind the last one, where text would go on.
    fn next(&self, at: usize) -> usize {
        match &self.positions {
            None => self.start + at,
            Some(positions) => self.start + positions.each.get(at).map_or(positions.next, |each| each[0]),
        }
    }

    /// Rows `from..to`, `[1, to - from, H]`.
    fn rows(&self, from: usize, to: usize, embedder: &Embedder) -> Result<Tensor, DecoderError> {
        match &self.source {
            Source::Tokens(ids) => embedder.embed(&ids[from..to]),
            Source::Visual { rows, first, .. } => {
                if Some(&(to - from)) == rows.shape().get(1) {
                    return Ok(rows.clone());
                }
                let width = rows.shape().last().copied().unwrap_or(0);
                let taken = rows.as_slice::<f32>()?[(first + from) * width..(first + to) * width].to_vec();
                Ok(Tensor::from_vec(&[1, to - from, width], taken)?)
            }
        }
    }

    /// Adds the rows `from..to` of a level, or zeros.
    fn add_deep(
        &self,
        level: usize,
        (from, to): (usize, usize),
        width: usize,
        rows: &mut Vec<f32>,
    ) -> Result<(), DecoderError> {
        match &self.source {
            Source::Visual { deep: Some(deep), first, .. } => {
                let all = deep.as_slice::<f32>()?;
                let begin = (level * deep.shape()[1] + first) * width;
                rows.extend_from_slice(&all[begin + from * width..begin + to * width]);
            }
            _ => rows.resize(rows.len() + (to - from) * width, 0.0),
        }
        Ok(())
    }

    /// Levels of the rows for deeper layers.
    fn levels(&self) -> usize {
        match &self.source {
            Source::Visual { deep: Some(deep), .. } => deep.shape()[0],
            _ => 0,
        }
    }
}

impl PromptEmbeds {
    /// `pictures`: one per picture of the layout, in order.
    pub fn new(layout: &Layout, pictures: &[PictureRows<'_>]) -> Self {
        let mut parts = Vec::with_capacity(layout.segments.len());
        let mut start = 0;
        for segment in &layout.segments {
            let (source, tokens, positions) = match segment {
                Segment::Tokens(ids) => (Source::Tokens(ids.clone()), ids.len(), None),
                Segment::Rows { image, run, .. } => {
                    let picture = pictures[*image];
                    let range = picture.runs[*run].clone();
                    let (rows, deep) = (picture.rows.clone(), picture.deep.cloned());
                    let positions = picture.positions.and_then(|runs| runs.get(*run)).cloned();
                    (Source::Visual { rows, deep, first: range.start }, range.len(), positions)
                }
            };
            let part = Part { source, tokens, start, positions };
            start = part.next(tokens);
            parts.push(part);
        }
        Self { parts, end: start }
    }

    /// Tokens in all.
    pub fn tokens(&self) -> usize {
        self.parts.iter().map(|part| part.tokens).sum()
    }

    /// Where text would go on behind it.
    pub fn end(&self) -> usize {
        self.end
    }

    /// Visual tokens among them.
    pub fn visual(&self) -> usize {
        let visual = self.parts.iter().filter(|part| matches!(part.source, Source::Visual { .. }));
        visual.map(|part| part.tokens).sum()
    }

    /// Tokens `start..end`; copies only where a chunk spans several parts or cuts an image.
    ///
    /// # Errors
    /// [`DecoderError`] when the embedding fails.
    pub fn chunk(&self, start: usize, end: usize, embedder: &Embedder) -> Result<Rows, DecoderError> {
        let mut taken = Vec::new();
        let mut offset = 0;
        for part in &self.parts {
            let (from, to) = (start.max(offset), end.min(offset + part.tokens));
            if from < to {
                taken.push((part, from - offset, to - offset));
            }
            offset += part.tokens;
        }
        let embeds = embeds(&taken, embedder)?;
        let deep = deep(&taken, end - start, embeds.shape().last().copied().unwrap_or(0))?;
        Ok(Rows { deep, positions: self.positions(&taken, end), embeds })
    }

    /// Positions of a chunk; `None` where the whole prompt is counted, as most are.
    fn positions(&self, taken: &[(&Part, usize, usize)], end: usize) -> Option<Positions> {
        if self.parts.iter().all(|part| part.positions.is_none()) {
            return None;
        }
        let mut each = Vec::new();
        for &(part, from, to) in taken {
            match &part.positions {
                None => each.extend((part.start + from..part.start + to).map(|at| [at; 3])),
                Some(own) => each.extend(own.each[from..to].iter().map(|at| at.map(|at| part.start + at))),
            }
        }
        // What ends the prompt may be a picture of which nothing was kept.
        let next = if end == self.tokens() {
            self.end
        } else {
            taken.last().map_or(0, |(part, _, to)| part.next(*to))
        };
        Some(Positions { each, next })
    }
}

fn embeds(taken: &[(&Part, usize, usize)], embedder: &Embedder) -> Result<Tensor, DecoderError> {
    let pieces = taken.iter().map(|&(part, from, to)| part.rows(from, to, embedder));
    let pieces = pieces.collect::<Result<Vec<_>, _>>()?;
    if let [piece] = pieces.as_slice() {
        return Ok(piece.clone());
    }
    let mut rows = Vec::new();
    for piece in &pieces {
        rows.extend_from_slice(piece.as_slice::<f32>()?);
    }
    let tokens: usize = taken.iter().map(|(_, from, to)| to - from).sum();
    let width = rows.len() / tokens.max(1);
    Ok(Tensor::from_vec(&[1, tokens, width], rows)?)
}

/// Rows for the decoder's first layers, `[levels, 1, tokens, H]`: those of the pictures, zeros for text.
/// `None` where no picture has any.
fn deep(
    taken: &[(&Part, usize, usize)],
    tokens: usize,
    width: usize,
) -> Result<Option<Tensor>, DecoderError> {
    let levels = taken.iter().map(|(part, ..)| part.levels()).max().unwrap_or(0);
    if levels == 0 {
        return Ok(None);
    }
    let mut rows = Vec::with_capacity(levels * tokens * width);
    for level in 0..levels {
        for &(part, from, to) in taken {
            part.add_deep(level, (from, to), width, &mut rows)?;
        }
    }
    Ok(Some(Tensor::from_vec(&[levels, 1, tokens, width], rows)?))
}

#[cfg(test)]
mod tests;
