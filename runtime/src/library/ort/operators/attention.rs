//! `AttentionBf16`: attention of a sequence with itself, in 16-bit floats.

use ::ort::Error;
use ::ort::operator::KernelContext;
use ::ort::value::TensorElementType::{self, Float32};
use arrcoc_bundle::names::operator;
use arrcoc_kernels::{Grid, attention};

use super::kernel::{Call, Kernel, check};

/// The operator: q, k and v to a result, all \[batch, seq, num_heads * head_width\].
pub(super) struct Attention {
    heads: usize,
}

impl Kernel for Attention {
    const OPERATOR: arrcoc_kernels::Operator = arrcoc_kernels::Operator::Attention;
    const NAME: &'static str = operator::ATTENTION_BF16;
    const INPUTS: &'static [(&'static str, TensorElementType)] =
        &[("q", Float32), ("k", Float32), ("v", Float32)];
    type Scratch = Vec<u32>;

    fn new(node: &KernelContext<'_>) -> Result<Self, Error> {
        let found = node.get::<i64>("num_heads");
        let heads = found.and_then(|heads| usize::try_from(heads).ok()).filter(|&heads| heads > 0);
        let heads = heads.ok_or_else(|| {
            Error::new(format!("AttentionBf16: expected num_heads of at least 1, found {found:?}"))
        })?;
        Ok(Self { heads })
    }

    fn compute(&self, call: &Call<'_>, scratch: &mut Vec<u32>) -> Result<(), Error> {
        let heads = self.heads;
        let [q, k, v] = call.inputs()?;
        let (shape, q) = q.tensor::<f32, 3>()?;
        let (of_keys, k) = k.tensor::<f32, 3>()?;
        let (of_values, v) = v.tensor::<f32, 3>()?;
        let [batch, seq, columns] = shape;
        check(of_keys == shape && of_values == shape && columns.is_multiple_of(heads), || {
            format!(
                "AttentionBf16: expected q, k and v of one shape with columns for {heads} heads, found {shape:?}, {of_keys:?} and {of_values:?}"
            )
        })?;
        let grid = Grid { batch, height: 1, width: seq, heads, head_width: columns / heads };
        let mut out = call.output(0, shape)?;
        let (_, out) = out.try_extract_tensor_mut::<f32>()?;
        attention(grid, [q, k, v], out, scratch, &call.pool);
        Ok(())
    }
}
