//! `GatedDelta`: the gated delta rule of recurrent layers.

use ::ort::Error;
use ::ort::operator::KernelContext;
use ::ort::value::TensorElementType::{self, Float32};
use arrcoc_bundle::names::operator;
use arrcoc_kernels::{DeltaRun, DeltaTokens, gated_delta};

use super::kernel::{Call, Kernel, check};

/// The operator: queries and keys \[batch, seq, key heads * key width\], values \[batch, seq, value heads *
/// value width\], strengths and decays \[batch, seq, value heads\], rates and biases \[value heads\] and
/// matrices \[batch, value heads, key width, value width\] to what the tokens read, \[batch, seq, value heads
/// * value width\], and the matrices behind them.
pub(super) struct GatedDelta {
    key_heads: usize,
    value_heads: usize,
}

impl Kernel for GatedDelta {
    const OPERATOR: arrcoc_kernels::Operator = arrcoc_kernels::Operator::GatedDelta;
    const NAME: &'static str = operator::GATED_DELTA;
    const INPUTS: &'static [(&'static str, TensorElementType)] = &[
        ("query", Float32),
        ("key", Float32),
        ("value", Float32),
        ("strength", Float32),
        ("decay", Float32),
        ("rates", Float32),
        ("biases", Float32),
        ("matrix", Float32),
    ];
    const OUTPUTS: usize = 2;
    type Scratch = ();

    fn new(node: &KernelContext<'_>) -> Result<Self, Error> {
        let heads = |name| node.get::<i64>(name).and_then(|heads| usize::try_from(heads).ok());
        let found = (heads("key_heads"), heads("value_heads"));
        match found {
            (Some(key_heads), Some(value_heads))
                if key_heads > 0 && value_heads > 0 && value_heads.is_multiple_of(key_heads) =>
            {
                Ok(Self { key_heads, value_heads })
            }
            _ => Err(Error::new(format!("GatedDelta: expected whole groups of heads, found {found:?}"))),
        }
    }

    fn compute(&self, call: &Call<'_>, (): &mut ()) -> Result<(), Error> {
        let [query, key, value, strength, decay, rates, biases, matrix] = call.inputs()?;
        let (query_shape, query) = query.tensor::<f32, 3>()?;
        let (key_shape, key) = key.tensor::<f32, 3>()?;
        let (value_shape, value) = value.tensor::<f32, 3>()?;
        let (strength_shape, strength) = strength.tensor::<f32, 3>()?;
        let (decay_shape, decay) = decay.tensor::<f32, 3>()?;
        let ([rate_count], rates) = rates.tensor::<f32, 1>()?;
        let ([bias_count], biases) = biases.tensor::<f32, 1>()?;
        let (matrix_shape, past) = matrix.tensor::<f32, 4>()?;
        let Self { key_heads, value_heads } = *self;
        let ([batch, tokens, _], [_, _, key_width, value_width]) = (query_shape, matrix_shape);
        let row =
            |heads: usize, width: usize| heads.checked_mul(width).map(|columns| [batch, tokens, columns]);
        let fits = row(key_heads, key_width) == Some(query_shape)
            && key_shape == query_shape
            && row(value_heads, value_width) == Some(value_shape)
            && row(value_heads, 1) == Some(strength_shape)
            && decay_shape == strength_shape
            && [rate_count, bias_count] == [value_heads; 2]
            && matrix_shape == [batch, value_heads, key_width, value_width];
        check(fits, || {
            format!(
                "GatedDelta: expected queries and keys [batch, seq, {key_heads} * key width], values [batch, seq, {value_heads} * value width], \
                 strengths and decays [batch, seq, {value_heads}], rates and biases [{value_heads}] and matrices [batch, {value_heads}, key width, \
                 value width], found {query_shape:?}, {key_shape:?}, {value_shape:?}, {strength_shape:?}, {decay_shape:?}, [{rate_count}], \
                 [{bias_count}] and {matrix_shape:?}"
            )
        })?;
        let mut out = call.output(0, value_shape)?;
        let mut present = call.output(1, matrix_shape)?;
        let (_, out) = out.try_extract_tensor_mut::<f32>()?;
        let (_, present) = present.try_extract_tensor_mut::<f32>()?;
        let run = DeltaRun { batch, tokens, key_heads, value_heads, key_width, value_width };
        let tokens = DeltaTokens { query, key, value, strength, decay, rates, biases };
        gated_delta(run, tokens, past, out, present, &call.pool);
        Ok(())
    }
}
