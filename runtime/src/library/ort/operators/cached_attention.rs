//! `CachedAttention`: attention of new tokens to a cache of keys and values that they join.

use ::ort::Error;
use ::ort::operator::KernelContext;
use ::ort::value::TensorElementType::{self, Float32, Int32, Int64};
use ::ort::value::ValueRefMut;
use arrcoc_bundle::names::operator;
use arrcoc_kernels::{Cache, Heads, Past, Rotary, Tokens, cached_attention};

use super::kernel::{Call, Kernel, Span, check, span};

/// The operator: query \[batch, seq, heads * head_dim\], key and value \[batch, seq, kv_heads * head_dim\],
/// past keys and values \[batch, kv_heads, past, head_dim\], lengths minus one \[batch\], the longest length,
/// cosines and sines \[positions, head_dim / 2\] and positions \[batch, seq\] to the attention's output
/// \[batch, seq, heads * head_dim\] and the present keys and values \[batch, kv_heads, max(past, longest),
/// head_dim\].
pub(super) struct CachedAttention {
    heads: usize,
    kv_heads: usize,
    scale: f32,
}

impl Kernel for CachedAttention {
    const OPERATOR: arrcoc_kernels::Operator = arrcoc_kernels::Operator::CachedAttention;
    const NAME: &'static str = operator::CACHED_ATTENTION;
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
        let (query_shape, query) = query.tensor::<f32, 3>()?;
        let (key_shape, key) = key.tensor::<f32, 3>()?;
        let (value_shape, value) = value.tensor::<f32, 3>()?;
        let (past_shape, past_keys) = past_key.span::<4>()?;
        let (past_values_shape, past_values) = past_value.span::<4>()?;
        let heads = self.heads([query_shape, key_shape, value_shape], [past_shape, past_values_shape])?;
        let (batch, tokens, past) = (heads.batch, heads.tokens, past_shape[2]);
        let ([], longest) = longest.tensor::<i32, 0>()?;
        let capacity = past.max(longest.first().map_or(0, |&longest| longest.max(0) as usize));
        let held = held(lengths.tensor()?, batch, tokens, capacity)?;
        let (table, cosines) = cosines.tensor::<f32, 2>()?;
        let (sines_shape, sines) = sines.tensor::<f32, 2>()?;
        check(heads.width > 0 && table == sines_shape && 2 * table[1] == heads.width, || {
            let half = heads.width / 2;
            format!(
                "CachedAttention: expected cosines and sines [positions, {half}], found {table:?} and {sines_shape:?}"
            )
        })?;
        let positions = rows_of(positions.tensor()?, [batch, tokens], table[0])?;

        let present = [batch, heads.kv_heads, capacity, heads.width];
        let mut out = call.output(0, query_shape)?;
        let mut keys = call.output(1, present)?;
        let mut values = call.output(2, present)?;
        // Addresses first: nobody may hold on to memory that is going to be written.
        let written = [span_of(&out)?, span_of(&keys)?, span_of(&values)?];
        let in_place = past_keys.start == written[1].start;
        check(in_place == (past_values.start == written[2].start), || {
            "CachedAttention: expected keys and values both in place or both elsewhere".to_owned()
        })?;
        check(in_place || held.iter().all(|&held| held <= past), || {
            format!("CachedAttention: expected at most {past} places that are taken, found {held:?}")
        })?;
        let read = [query, key, value, cosines, sines].map(span);
        let pasts = if in_place { vec![] } else { vec![past_keys, past_values] };
        check(apart(read.into_iter().chain(pasts), &written), || {
            "CachedAttention: expected every result in memory of its own".to_owned()
        })?;
        let past = match in_place {
            true => None,
            false => Some(Past {
                keys: past_key.tensor::<f32, 4>()?.1,
                values: past_value.tensor::<f32, 4>()?.1,
                capacity: past,
            }),
        };
        let (_, out) = out.try_extract_tensor_mut::<f32>()?;
        let (_, keys) = keys.try_extract_tensor_mut::<f32>()?;
        let (_, values) = values.try_extract_tensor_mut::<f32>()?;
        let cache = Cache { keys, values, capacity, held: &held, past };
        let rotary = Rotary { cosines, sines, positions: &positions };
        cached_attention(heads, Tokens { query, key, value }, rotary, cache, out, &call.pool);
        Ok(())
    }
}

impl CachedAttention {
    /// What attends to what, by the shapes of query, key and value and of the past's keys and values.
    fn heads(
        &self,
        [query, key, value]: [[usize; 3]; 3],
        [past_keys, past_values]: [[usize; 4]; 2],
    ) -> Result<Heads, Error> {
        let Self { heads, kv_heads, scale } = *self;
        let ([batch, tokens, columns], [_, _, past, width]) = (query, past_keys);
        let new = kv_heads.checked_mul(width).map(|columns| [batch, tokens, columns]);
        let fits = heads.checked_mul(width) == Some(columns) && new == Some(key) && new == Some(value);
        check(fits && past_keys == [batch, kv_heads, past, width] && past_values == past_keys, || {
            format!(
                "CachedAttention: expected a query [batch, seq, {heads} * width], keys and values [batch, seq, {kv_heads} * width] and past ones \
                 [batch, {kv_heads}, past, width], found {query:?}, {key:?}, {value:?}, {past_keys:?} and {past_values:?}"
            )
        })?;
        Ok(Heads { batch, tokens, heads, kv_heads, width, scale })
    }
}

fn span_of(output: &ValueRefMut<'_>) -> Result<Span, Error> {
    Ok(span(output.try_extract_tensor::<f32>()?.1))
}

/// Whether results share no memory with what is read, nor with each other: a graph may hand over the same
/// twice, in another shape.
fn apart(mut read: impl Iterator<Item = Span>, written: &[Span; 3]) -> bool {
    let overlap = |a: &Span, b: &Span| a.start < b.end && b.start < a.end;
    let [out, keys, values] = written;
    let among = [(out, keys), (out, values), (keys, values)];
    !among.iter().any(|(a, b)| overlap(a, b))
        && !read.any(|read| written.iter().any(|written| overlap(&read, written)))
}

/// How many keys each row holds before `tokens` more, from lengths minus one. A row that is not as long as
/// the tokens holds none: in a first prompt, ONNX Runtime's operator lets shorter rows begin at the first
/// place too.
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
    use arrcoc_tests::require::can_run;

    use super::*;
    use crate::library::LibraryKind;

    /// Errors of its operators are ONNX Runtime's own.
    fn has_errors() -> bool {
        can_run("ort", &LibraryKind::Ort.open(1))
    }

    #[test]
    fn lengths_say_what_is_held() {
        if !has_errors() {
            return;
        }
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
        if !has_errors() {
            return;
        }
        assert_eq!(rows_of(([1, 2], &[0, 6]), [1, 2], 7).ok(), Some(vec![0, 6]));
        for (shape, positions) in [([1, 2], [0, 7]), ([1, 2], [-1, 0]), ([2, 1], [0, 1])] {
            let error = rows_of((shape, &positions), [1, 2], 7).unwrap_err().to_string();
            assert!(error.contains("below 7"), "{error}");
        }
    }
}
