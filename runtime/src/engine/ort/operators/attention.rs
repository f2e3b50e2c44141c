//! `AttentionBf16`: attention of a sequence with itself, in 16-bit floats.

use ::ort::Error;
use ::ort::operator::{BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput};
use ::ort::value::TensorElementType::Float32;
use arrcoc_kernels::{Grid, attention};

use super::{Input, Pool, Scratch, VERSION, check, guarded, lock};

/// The operator: q, k and v to a result, all \[batch, seq, num_heads * head_width\].
#[derive(Default)]
pub(super) struct Attention {
    scratch: Scratch<u32>,
}

impl Operator for Attention {
    type Kernel<'a> = BoxedKernel<'a>;

    fn name(&self) -> &str {
        "AttentionBf16"
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

    fn create_kernel<'a>(&self, node: &KernelContext<'a>) -> Result<BoxedKernel<'a>, Error> {
        let found = node.get::<i64>("num_heads");
        let heads = found.and_then(|heads| usize::try_from(heads).ok()).filter(|&heads| heads > 0);
        let heads = heads.ok_or_else(|| {
            Error::new(format!("AttentionBf16: expected num_heads of at least 1, found {found:?}"))
        })?;
        let scratch = self.scratch.clone();
        Ok(guarded(move |context, pool| compute(context, pool, heads, &mut lock(&scratch))))
    }
}

fn compute(context: &ComputeContext, pool: &Pool, heads: usize, scratch: &mut Vec<u32>) -> Result<(), Error> {
    let [q, k, v] = Input::all(context, ["q", "k", "v"])?;
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
    let mut out = context.output(0, shape)?.ok_or_else(|| Error::new("expected an output"))?;
    let (_, out) = out.try_extract_tensor_mut::<f32>()?;
    attention(grid, [q, k, v], out, scratch, pool);
    Ok(())
}
