//! `GridAttentionBf16`: attention over a grid with decomposed relative positions, in 16-bit floats.

use ::ort::Error;
use ::ort::operator::KernelContext;
use ::ort::value::TensorElementType::{self, Float32};
use arrcoc_bundle::names::operator;
use arrcoc_kernels::{Grid, Tables, grid_attention};

use super::kernel::{Call, Kernel, check};

/// The operator: qkv \[batch, height, width, 3 * heads * head_width\] and the tables of relative positions,
/// \[2 * height - 1, head_width\] and \[2 * width - 1, head_width\], to \[batch * height * width, heads *
/// head_width\].
pub(super) struct GridAttention;

impl Kernel for GridAttention {
    const OPERATOR: arrcoc_kernels::Operator = arrcoc_kernels::Operator::Attention;
    const NAME: &'static str = operator::GRID_ATTENTION_BF16;
    const INPUTS: &'static [(&'static str, TensorElementType)] =
        &[("qkv", Float32), ("vertical", Float32), ("horizontal", Float32)];
    type Scratch = Vec<u32>;

    fn new(_: &KernelContext<'_>) -> Result<Self, Error> {
        Ok(Self)
    }

    fn compute(&self, call: &Call<'_>, scratch: &mut Vec<u32>) -> Result<(), Error> {
        let [qkv, rows, columns] = call.inputs()?;
        let ([batch, height, width, parts], qkv) = qkv.tensor::<f32, 4>()?;
        let ([down, head_width], rows) = rows.tensor::<f32, 2>()?;
        let ([across, also], columns) = columns.tensor::<f32, 2>()?;
        let whole = head_width > 0 && parts > 0 && parts.is_multiple_of(3 * head_width);
        check(whole && also == head_width && down + 1 == 2 * height && across + 1 == 2 * width, || {
            format!(
                "GridAttentionBf16: expected tables [{}, head_width] and [{}, head_width] for qkv [{batch}, {height}, {width}, 3 * heads * head_width], found [{down}, {head_width}], [{across}, {also}] and {parts} columns",
                2 * height.max(1) - 1,
                2 * width.max(1) - 1
            )
        })?;
        let grid = Grid { batch, height, width, heads: parts / (3 * head_width), head_width };
        let shape = [batch * height * width, parts / 3];
        let mut out = call.output(0, shape)?;
        let (_, out) = out.try_extract_tensor_mut::<f32>()?;
        grid_attention(grid, qkv, Tables { rows, columns }, out, scratch, &call.pool);
        Ok(())
    }
}
