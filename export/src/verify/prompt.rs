//! The recorded prompt: rows, where they stand and what they give to deeper layers, joined as one.

use arrcoc_bundle::names::tensor;
use arrcoc_runtime::decoder::{Position, Positions, Rows};
use arrcoc_runtime::tensor::{Tensor, TensorError};

use crate::tap::{Call, Named};

/// The prompt that the decoder was given in `calls`, all its chunks joined; `None` where it was not run.
///
/// # Errors
/// [`TensorError`] where an input is of another type than the graph contract says.
pub(super) fn joined(calls: &[Call]) -> Result<Option<Rows>, TensorError> {
    let chunks = calls.iter().filter_map(|call| given(&call.inputs));
    let chunks = chunks.collect::<Result<Vec<_>, TensorError>>()?;
    let Some(first) = chunks.first() else { return Ok(None) };
    let each: Vec<Position> = chunks.iter().flat_map(|(_, each, _)| each.iter().copied()).collect();
    let embeds: Vec<&Tensor> = chunks.iter().map(|(embeds, ..)| embeds).collect();
    let deep: Vec<&Tensor> = chunks.iter().filter_map(|(.., deep)| deep.as_ref()).collect();
    Ok(Some(Rows {
        embeds: join(&embeds)?,
        // Text goes on behind the last row and column of a picture, and templates end in text.
        positions: Some(Positions { next: each.iter().flatten().max().map_or(0, |last| last + 1), each }),
        deep: first.2.is_some().then(|| join(&deep)).transpose()?,
    }))
}

/// What one run was given: embeddings, positions, deeper rows.
type Given = (Tensor, Vec<Position>, Option<Tensor>);

/// `None` where embeddings or positions are not among the inputs.
fn given(inputs: &Named) -> Option<Result<Given, TensorError>> {
    let of = |name: &str| inputs.iter().find(|(input, _)| input == name).map(|(_, tensor)| tensor.clone());
    let (embeds, planes, deep) =
        (of(tensor::INPUTS_EMBEDS)?, of(tensor::POSITION_IDS)?, of(tensor::DEEP_EMBEDS));
    Some(positions(&planes).map(|each| (embeds, each, deep)))
}

/// Three planes of positions `[3, 1, S]`, token by token.
fn positions(planes: &Tensor) -> Result<Vec<Position>, TensorError> {
    let numbers = planes.as_slice::<i64>()?;
    let length = numbers.len() / 3;
    let of = |token: usize| [0, 1, 2].map(|plane| numbers[plane * length + token].max(0) as usize);
    Ok((0..length).map(of).collect())
}

/// The last `length` tokens. What was in front of them is gone, so they stand as much further forward: to
/// rotary positions only distances matter, and a shorter context has no others.
///
/// # Errors
/// [`TensorError`] where a tensor is not of 32-bit floats.
pub(super) fn tail(rows: &Rows, length: usize) -> Result<Rows, TensorError> {
    let all = rows.tokens();
    let mut rows = rows.part(all - length..all)?;
    if let Some(Positions { each, next }) = &mut rows.positions {
        let first = each.iter().flatten().min().copied().unwrap_or(0);
        each.iter_mut().flatten().for_each(|at| *at -= first);
        *next -= first;
    }
    Ok(rows)
}

/// Tensors joined along their tokens, the last axis but one.
fn join(parts: &[&Tensor]) -> Result<Tensor, TensorError> {
    let [first, rest @ ..] = parts else { return Tensor::from_vec::<f32>(&[0], Vec::new()) };
    if rest.is_empty() {
        return Ok((*first).clone());
    }
    let mut shape = first.shape().to_vec();
    let axis = shape.len().saturating_sub(2);
    let planes: usize = shape[..axis].iter().product();
    shape[axis] = parts.iter().map(|part| part.shape().get(axis).copied().unwrap_or(0)).sum();
    let mut numbers = Vec::with_capacity(shape.iter().product());
    for plane in 0..planes {
        for part in parts {
            let (length, part) = (part.bytes().len() / 4 / planes, part.as_slice::<f32>()?);
            numbers.extend_from_slice(&part[plane * length..(plane + 1) * length]);
        }
    }
    Tensor::from_vec(&shape, numbers)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::ops::Range;
    use std::time::Duration;

    /// A run with the tokens of `range`: text, a picture of two rows and three columns, text.
    fn call(range: Range<usize>) -> Call {
        let each: Vec<[i64; 3]> = [[0; 3], [1; 3]]
            .into_iter()
            .chain((0..6).map(|at| [2, 2 + at / 3, 2 + at % 3]))
            .chain([[5; 3], [6; 3]])
            .collect();
        let planes = (0..3).flat_map(|plane| each[range.clone()].iter().map(move |at| at[plane])).collect();
        let rows = |level: usize| range.clone().flat_map(move |at| [(10 * level + at) as f32, 0.5]);
        let count = range.len();
        let inputs = [
            (tensor::INPUTS_EMBEDS, Tensor::from_vec(&[1, count, 2], rows(0).collect())),
            (tensor::POSITION_IDS, Tensor::from_vec::<i64>(&[3, 1, count], planes)),
            (tensor::DEEP_EMBEDS, Tensor::from_vec(&[2, 1, count, 2], (1..3).flat_map(rows).collect())),
        ];
        let inputs = inputs.map(|(name, tensor)| (name.to_owned(), tensor.unwrap()));
        Call { graph: "decoder".into(), inputs: inputs.into(), outputs: vec![], took: Duration::ZERO }
    }

    fn same(a: &Rows, b: &Rows) {
        let [x, y] = [a, b].map(|rows| rows.deep.clone().unwrap());
        for (x, y) in [(&a.embeds, &b.embeds), (&x, &y)] {
            assert_eq!((x.shape(), x.bytes()), (y.shape(), y.bytes()));
        }
        assert_eq!(a.positions, b.positions);
    }

    #[test]
    fn chunks_join_to_the_whole() {
        let whole = joined(&[call(0..10)]).unwrap().unwrap();
        assert_eq!(whole.positions.as_ref().unwrap().next, 7);
        same(&joined(&[call(0..3), call(3..4), call(4..10)]).unwrap().unwrap(), &whole);
        assert!(joined(&[]).unwrap().is_none());
    }

    #[test]
    fn parts_are_what_their_tokens_were_given() {
        let whole = joined(&[call(0..10)]).unwrap().unwrap();
        let part = whole.part(4..9).unwrap();
        let mut alone = joined(&[call(4..9)]).unwrap().unwrap();
        alone.positions.as_mut().unwrap().next = 6;
        same(&part, &alone);
    }

    #[test]
    fn a_tail_keeps_its_distances() {
        let whole = joined(&[call(0..10)]).unwrap().unwrap();
        let tail = tail(&whole, 3).unwrap();
        // The picture's last row and column, and the text behind it.
        let expected = Positions { each: vec![[0, 1, 2], [3; 3], [4; 3]], next: 5 };
        assert_eq!(tail.positions, Some(expected));
        assert_eq!(tail.deep.unwrap().as_slice::<f32>().unwrap()[6..8], [27.0, 0.5]);
        assert_eq!(super::tail(&whole, 10).unwrap().tokens(), 10);
    }
}
