//! `CachedAttention`: attention of new tokens to a cache of keys and values that they join.

use ::ort::Error;
use ::ort::operator::KernelContext;
use ::ort::value::TensorElementType::{self, Float32, Int32, Int64};
use arrcoc_kernels::{Cache, Heads, Past, Rotary, Tokens, cached_attention};

use super::{Call, Kernel, check};

/// The operator: query \[batch, seq, heads * head_dim\], key and value \[batch, seq, kv_heads * head_dim\], past keys and values \[batch, kv_heads,
/// past, head_dim\], lengths minus one \[batch\], the longest length, cosines and sines \[positions, head_dim / 2\] and positions \[batch, seq\] to
/// the attention's output \[batch, seq, heads * head_dim\] and the present keys and values \[batch, kv_heads, max(past, longest), head_dim\].
pub(super) struct CachedAttention {
    heads: usize,
    kv_heads: usize,
    scale: f32,
}

impl Kernel for CachedAttention {
    const NAME: &'static str = "CachedAttention";
    const INPUTS: &'static [(&'static str, TensorElementType)] = &[
        ("query", Float32),
        ("key", Float32),
        ("value", Float32),
        ("past_key", Float32),
        ("past_value", Float32),
        ("seqlens_k", Int32),
        ("total_sequence_length", Int32),
        ("cosines", Float32),
        ("sines", Float32),
        ("position_ids", Int64),
    ];
    const OUTPUTS: usize = 3;
    type Scratch = ();

    fn new(node: &KernelContext<'_>) -> Result<Self, Error> {
        let heads = |name| node.get::<i64>(name).and_then(|heads| usize::try_from(heads).ok());
        let attributes = (heads("num_heads"), heads("kv_num_heads"), node.get::<f32>("scale"));
        let (Some(heads), Some(kv_heads), Some(scale)) = attributes else {
            return Err(Error::new(format!(
                "CachedAttention: expected num_heads, kv_num_heads and scale, found {attributes:?}"
            )));
        };
        check(kv_heads > 0 && heads > 0 && heads.is_multiple_of(kv_heads), || {
            format!("CachedAttention: expected whole groups, found {heads} heads for {kv_heads}")
        })?;
        Ok(Self { heads, kv_heads, scale })
    }

    fn compute(&self, call: &Call<'_>, (): &mut ()) -> Result<(), Error> {
        let [query, key, value, past_key, past_value, lengths, longest, cosines, sines, positions] =
            call.inputs()?;
        let ([batch, tokens, queries], query) = query.tensor::<f32, 3>()?;
        let (key_shape, key) = key.tensor::<f32, 3>()?;
        let (value_shape, value) = value.tensor::<f32, 3>()?;
        let (past_shape, keys_at) = past_key.place::<4>()?;
        let (past_values, values_at) = past_value.place::<4>()?;
        let [_, _, past, width] = past_shape;
        let Self { heads, kv_heads, scale } = *self;
        let new = kv_heads.checked_mul(width).map(|columns| [batch, tokens, columns]);
        let fits =
            heads.checked_mul(width) == Some(queries) && new == Some(key_shape) && new == Some(value_shape);
        check(fits && past_shape == [batch, kv_heads, past, width] && past_values == past_shape, || {
            format!(
                "CachedAttention: a query [{batch}, {tokens}, {queries}] of {heads} heads, keys {key_shape:?} and values {value_shape:?} of {kv_heads} do not go with past keys {past_shape:?} and values {past_values:?}"
            )
        })?;
        let ([], longest) = longest.tensor::<i32, 0>()?;
        let capacity = past.max(longest.first().map_or(0, |&longest| longest.max(0) as usize));
        let held = held(lengths.tensor()?, batch, tokens, capacity)?;
        let (table, cosines) = cosines.tensor::<f32, 2>()?;
        let (sines_of, sines) = sines.tensor::<f32, 2>()?;
        check(width > 0 && table == sines_of && 2 * table[1] == width, || {
            format!(
                "CachedAttention: cosines {table:?} and sines {sines_of:?} do not go with heads of {width}"
            )
        })?;
        let positions = rows_of(positions.tensor()?, [batch, tokens], table[0])?;

        let present = [batch, kv_heads, capacity, width];
        let mut out = call.output(0, [batch, tokens, queries])?;
        let mut keys = call.output(1, present)?;
        let mut values = call.output(2, present)?;
        let (_, out) = out.try_extract_tensor_mut::<f32>()?;
        let (_, keys) = keys.try_extract_tensor_mut::<f32>()?;
        let (_, values) = values.try_extract_tensor_mut::<f32>()?;
        let in_place = keys_at == keys.as_ptr().addr();
        check(in_place == (values_at == values.as_ptr().addr()), || {
            "CachedAttention: expected keys and values both in place or both elsewhere".to_owned()
        })?;
        let read = [query, key, value, cosines, sines];
        let written = [&*out, &*keys, &*values];
        check(!read.iter().any(|read| written.iter().any(|written| overlap(read, written))), || {
            "CachedAttention: expected inputs in other memory than the results".to_owned()
        })?;
        check(in_place || held.iter().all(|&held| held <= past), || {
            format!("CachedAttention: expected at most {past} places that are taken, found {held:?}")
        })?;
        let past = match in_place {
            // The past's memory is what will be written: nobody may look at it as an input.
            true => None,
            false => Some(Past {
                keys: past_key.tensor::<f32, 4>()?.1,
                values: past_value.tensor::<f32, 4>()?.1,
                capacity: past,
            }),
        };
        let heads = Heads { batch, tokens, heads, kv_heads, width, scale };
        let cache = Cache { keys, values, capacity, held: &held, past };
        let rotary = Rotary { cosines, sines, positions: &positions };
        cached_attention(heads, Tokens { query, key, value }, rotary, cache, out, &call.pool);
        Ok(())
    }
}

/// Whether two slices share memory: a graph may hand over the same twice, in another shape.
fn overlap(a: &[f32], b: &[f32]) -> bool {
    let (a, b) = (a.as_ptr_range(), b.as_ptr_range());
    a.start < b.end && b.start < a.end
}

/// How many keys each row holds before `tokens` more, from lengths minus one. A row that is not as long as the tokens holds none: in a first
/// prompt, ONNX Runtime's operator lets shorter rows begin at the first place too.
fn held(
    ([rows], lengths): ([usize; 1], &[i32]),
    batch: usize,
    tokens: usize,
    capacity: usize,
) -> Result<Vec<usize>, Error> {
    let longest = lengths.iter().map(|&length| i64::from(length) + 1);
    let (least, most) = (longest.clone().min().unwrap_or(0), longest.max().unwrap_or(0));
    check(rows == batch && least >= 0 && most <= capacity as i64 && tokens <= capacity, || {
        format!(
            "CachedAttention: expected {batch} lengths and {tokens} tokens within {capacity} places, found {rows} from {least} to {most}"
        )
    })?;
    Ok(lengths.iter().map(|&length| ((i64::from(length) + 1) as usize).saturating_sub(tokens)).collect())
}

/// Positions as rows of a table.
fn rows_of(
    (shape, positions): ([usize; 2], &[i64]),
    expected: [usize; 2],
    rows: usize,
) -> Result<Vec<usize>, Error> {
    let row = |&position: &i64| usize::try_from(position).ok().filter(|row| *row < rows);
    let found: Option<Vec<usize>> = positions.iter().map(row).collect();
    let found = found.filter(|_| shape == expected);
    found.ok_or_else(|| {
        let (least, most) = (positions.iter().min(), positions.iter().max());
        Error::new(format!(
            "CachedAttention: expected positions {expected:?} below {rows}, found {shape:?} from {least:?} to {most:?}"
        ))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lengths_say_what_is_held() {
        let held = |lengths: &[i32], batch, tokens, capacity| {
            held(([lengths.len()], lengths), batch, tokens, capacity).map_err(|error| error.to_string())
        };
        assert_eq!(held(&[4, 0, 9], 3, 1, 10), Ok(vec![4, 0, 9]));
        assert_eq!(held(&[4, 2, 9], 3, 5, 10), Ok(vec![0, 0, 5]));
        for (lengths, batch, tokens) in [(&[10][..], 1, 1), (&[-2], 1, 1), (&[3], 2, 1), (&[3], 1, 11)] {
            let error = held(lengths, batch, tokens, 10).unwrap_err();
            assert!(error.contains("within 10 places"), "{error}");
        }
    }

    #[test]
    fn positions_are_in_the_table() {
        assert_eq!(rows_of(([1, 2], &[0, 6]), [1, 2], 7).ok(), Some(vec![0, 6]));
        for (shape, positions) in [([1, 2], [0, 7]), ([1, 2], [-1, 0]), ([2, 1], [0, 1])] {
            let error = rows_of((shape, &positions), [1, 2], 7).unwrap_err().to_string();
            assert!(error.contains("below 7"), "{error}");
        }
    }
}
