//! `QuantizedLinear`: a linear layer in 8 bits.

use ::ort::Error;
use ::ort::operator::{BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput};
use ::ort::value::TensorElementType;
use arrcoc_kernels::{MOST_INPUTS, Weight, linear};

use super::{Input, Pool, Scratch, VERSION, check, guarded, lock};

/// The operator: x \[rows, in\], weight \[out, in\], scale \[out\], bias \[out\] to \[rows, out\].
#[derive(Default)]
pub(super) struct QuantizedLinear {
    scratch: Scratch<u8>,
}

impl Operator for QuantizedLinear {
    type Kernel<'a> = BoxedKernel<'a>;

    fn name(&self) -> &str {
        "QuantizedLinear"
    }

    fn versions(&self) -> std::ops::RangeInclusive<u32> {
        VERSION
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        use TensorElementType::{Float32, Int8};
        [Float32, Int8, Float32, Float32].map(OperatorInput::required)
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'a>(&self, _: &KernelContext<'a>) -> Result<BoxedKernel<'a>, Error> {
        let scratch = self.scratch.clone();
        Ok(guarded(move |context, pool| compute(context, pool, &mut lock(&scratch))))
    }
}

fn compute(context: &ComputeContext, pool: &Pool, scratch: &mut Vec<u8>) -> Result<(), Error> {
    let [x, values, scales, bias] = Input::all(context, ["x", "weight", "scale", "bias"])?;
    let ([rows, inputs], x) = x.tensor::<f32, 2>()?;
    let ([outputs, columns], values) = values.tensor::<i8, 2>()?;
    let ([scales_of], scales) = scales.tensor::<f32, 1>()?;
    let ([bias_of], bias) = bias.tensor::<f32, 1>()?;
    let possible = (1..=MOST_INPUTS).contains(&inputs);
    check(possible && inputs == columns && scales_of == outputs && bias_of == outputs, || {
        format!(
            "QuantizedLinear: x [{rows}, {inputs}] (at most {MOST_INPUTS}) does not go with a weight [{outputs}, {columns}], {scales_of} scales and a bias of {bias_of}"
        )
    })?;
    let mut y = context.output(0, [rows, outputs])?.ok_or_else(|| Error::new("expected an output"))?;
    let (_, y) = y.try_extract_tensor_mut::<f32>()?;
    linear(x, Weight { values, scales, bias }, y, scratch, pool);
    Ok(())
}
