//! `BlockLinear`: a linear layer whose weights lie in blocks of 8 or 4 bits.

use ::ort::Error;
use ::ort::operator::{BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput};
use ::ort::value::TensorElementType::{Float32, Uint8};
use arrcoc_kernels::{BLOCK, Bits, BlockedWeight, block_linear};

use super::{Input, Pool, Scratch, VERSION, check, lock};

/// The operator: x \[rows, in\], values \[out, in / 32, bytes of a block\], scales \[out, in / 32\] to \[rows, out\].
#[derive(Default)]
pub(super) struct BlockLinear {
    scratch: Scratch<u8>,
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
        [Float32, Uint8, Float32].map(OperatorInput::required)
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(Float32)]
    }

    fn create_kernel<'a>(&self, node: &KernelContext<'a>) -> Result<BoxedKernel<'a>, Error> {
        let bits = match (node.get::<i64>("bits"), node.get::<i64>("block_size")) {
            (Some(4), Some(size)) if size == BLOCK as i64 => Bits::Four,
            (Some(8), Some(size)) if size == BLOCK as i64 => Bits::Eight,
            (bits, size) => {
                return Err(Error::new(format!(
                    "BlockLinear: expected 4 or 8 bits in blocks of {BLOCK}, found {bits:?} in {size:?}"
                )));
            }
        };
        let scratch = self.scratch.clone();
        Ok(Box::new(move |context: &ComputeContext| compute(context, bits, &mut lock(&scratch))))
    }
}

fn compute(context: &ComputeContext, bits: Bits, scratch: &mut Vec<u8>) -> Result<(), Error> {
    let [x, values, scales] = Input::all(context, ["x", "values", "scales"])?;
    let ([rows, inputs], x) = x.tensor::<f32, 2>()?;
    let ([outputs, blocks, bytes], values) = values.tensor::<u8, 3>()?;
    let ([scales_of, scaled], scales) = scales.tensor::<f32, 2>()?;
    let fits =
        blocks > 0 && inputs.is_multiple_of(BLOCK) && inputs / BLOCK == blocks && bytes == bits.bytes();
    check(fits && scales_of == outputs && scaled == blocks, || {
        format!(
            "BlockLinear: x [{rows}, {inputs}] does not go with values [{outputs}, {blocks}, {bytes}] and scales [{scales_of}, {scaled}]"
        )
    })?;
    let mut y = context.output(0, [rows, outputs])?.ok_or_else(|| Error::new("expected an output"))?;
    let (_, y) = y.try_extract_tensor_mut::<f32>()?;
    block_linear(x, BlockedWeight { bits, inputs, values, scales }, y, scratch, &Pool(context));
    Ok(())
}
