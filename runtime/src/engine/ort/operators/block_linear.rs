//! `BlockLinear`: a linear layer with 4-bit weights in tiles of blocks.

use ::ort::Error;
use ::ort::operator::{BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput};
use ::ort::value::TensorElementType::{Float16, Float32, Uint8};
use arrcoc_kernels::{BLOCK, BlockedWeight, TILE, block_linear};
use half::f16;

use super::{Input, Pool, Scratch, VERSION, check, guarded, lock};

/// The operator: x \[rows, in\], values \[out / 16, in / 32, 4, 16, 4\] and scales \[out / 16, in / 32, 16\] to \[rows, out\].
#[derive(Default)]
pub(super) struct BlockLinear {
    scratch: Scratch<[i32; BLOCK / 4]>,
}

impl Operator for BlockLinear {
    type Kernel<'a> = BoxedKernel<'a>;

    fn name(&self) -> &str {
        "BlockLinear"
    }

    fn versions(&self) -> std::ops::RangeInclusive<u32> {
        VERSION
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [Float32, Uint8, Float16].map(OperatorInput::required)
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(Float32)]
    }

    fn create_kernel<'a>(&self, _: &KernelContext<'a>) -> Result<BoxedKernel<'a>, Error> {
        let scratch = self.scratch.clone();
        Ok(guarded(move |context, pool| compute(context, pool, &mut lock(&scratch))))
    }
}

fn compute(context: &ComputeContext, pool: &Pool, scratch: &mut Vec<[i32; BLOCK / 4]>) -> Result<(), Error> {
    let [x, values, scales] = Input::all(context, ["x", "values", "scales"])?;
    let ([rows, inputs], x) = x.tensor::<f32, 2>()?;
    let (shape, values) = values.tensor::<u8, 5>()?;
    let (scaled, scales) = scales.tensor::<f16, 3>()?;
    let [tiles, blocks, ..] = shape;
    let tiled = shape == [tiles, blocks, BLOCK / 8, TILE, 4] && scaled == [tiles, blocks, TILE];
    check(tiled && blocks > 0 && inputs == blocks * BLOCK, || {
        format!(
            "BlockLinear: x [{rows}, {inputs}] does not go with values {shape:?} and scales {scaled:?}; expected [{tiles}, {}, 4, 16, 4] and [{tiles}, {0}, 16]",
            inputs / BLOCK
        )
    })?;
    let mut y = context.output(0, [rows, tiles * TILE])?.ok_or_else(|| Error::new("expected an output"))?;
    let (_, y) = y.try_extract_tensor_mut::<f32>()?;
    block_linear(x, BlockedWeight { inputs, values, scales }, y, scratch, pool);
    Ok(())
}
