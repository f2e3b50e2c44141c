//! `GridAttentionBf16`: attention over a grid with decomposed relative positions, in 16-bit floats.

use ::ort::Error;
use ::ort::operator::{BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput};
use ::ort::value::TensorElementType::Float32;
use arrcoc_kernels::{Grid, Tables, grid_attention};

use super::{Input, Pool, Scratch, VERSION, check, guarded, lock};

/// The operator: qkv \[batch, height, width, 3 * heads * head_width\] and the tables of relative positions,
/// \[2 * height - 1, head_width\] and \[2 * width - 1, head_width\], to \[batch * height * width, heads * head_width\].
#[derive(Default)]
pub(super) struct GridAttention {
    scratch: Scratch<u32>,
}

impl Operator for GridAttention {
    type Kernel<'a> = BoxedKernel<'a>;

    fn name(&self) -> &str {
        "GridAttentionBf16"
    }

    fn versions(&self) -> std::ops::RangeInclusive<u32> {
        VERSION
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [Float32; 3].map(OperatorInput::required)
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(Float32)]
    }

    fn create_kernel<'a>(&self, _: &KernelContext<'a>) -> Result<BoxedKernel<'a>, Error> {
        let scratch = self.scratch.clone();
        Ok(guarded(move |context, pool| compute(context, pool, &mut lock(&scratch))))
    }
}

fn compute(context: &ComputeContext, pool: &Pool, scratch: &mut Vec<u32>) -> Result<(), Error> {
    let [qkv, rows, columns] = Input::all(context, ["qkv", "vertical", "horizontal"])?;
    let ([batch, height, width, parts], qkv) = qkv.tensor::<f32, 4>()?;
    let ([down, head_width], rows) = rows.tensor::<f32, 2>()?;
    let ([across, also], columns) = columns.tensor::<f32, 2>()?;
    let whole = head_width > 0 && parts > 0 && parts.is_multiple_of(3 * head_width);
    check(whole && also == head_width && down + 1 == 2 * height && across + 1 == 2 * width, || {
        format!(
            "GridAttentionBf16: qkv [{batch}, {height}, {width}, {parts}] does not go with tables [{down}, {head_width}] and [{across}, {also}]"
        )
    })?;
    let grid = Grid { batch, height, width, heads: parts / (3 * head_width), head_width };
    let shape = [batch * height * width, parts / 3];
    let mut out = context.output(0, shape)?.ok_or_else(|| Error::new("expected an output"))?;
    let (_, out) = out.try_extract_tensor_mut::<f32>()?;
    grid_attention(grid, qkv, Tables { rows, columns }, out, scratch, pool);
    Ok(())
}
