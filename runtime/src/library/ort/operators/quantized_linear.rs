//! `QuantizedLinear`: a linear layer in 8 bits.

use ::ort::Error;
use ::ort::operator::KernelContext;
use ::ort::value::TensorElementType::{self, Float32, Int8};
use arrcoc_bundle::names::operator;
use arrcoc_kernels::{MOST_INPUTS, Weight, linear};

use super::kernel::{Call, Kernel, check};

/// The operator: x \[rows, in\], weight \[out, in\], scale \[out\], bias \[out\] to \[rows, out\].
pub(super) struct QuantizedLinear;

impl Kernel for QuantizedLinear {
    const OPERATOR: arrcoc_kernels::Operator = arrcoc_kernels::Operator::Linear;
    const NAME: &'static str = operator::QUANTIZED_LINEAR;
    const INPUTS: &'static [(&'static str, TensorElementType)] =
        &[("x", Float32), ("weight", Int8), ("scale", Float32), ("bias", Float32)];
    type Scratch = Vec<u8>;

    fn new(_: &KernelContext<'_>) -> Result<Self, Error> {
        Ok(Self)
    }

    fn compute(&self, call: &Call<'_>, scratch: &mut Vec<u8>) -> Result<(), Error> {
        let [x, values, scales, bias] = call.inputs()?;
        let ([rows, inputs], x) = x.tensor::<f32, 2>()?;
        let ([outputs, columns], values) = values.tensor::<i8, 2>()?;
        let ([scales_of], scales) = scales.tensor::<f32, 1>()?;
        let ([bias_of], bias) = bias.tensor::<f32, 1>()?;
        let possible = (1..=MOST_INPUTS).contains(&inputs);
        check(possible && inputs == columns && scales_of == outputs && bias_of == outputs, || {
            format!(
                "QuantizedLinear: expected x [rows, in], a weight [out, in], scales [out] and a bias [out] with 1 to {MOST_INPUTS} inputs, found [{rows}, {inputs}], [{outputs}, {columns}], [{scales_of}] and [{bias_of}]"
            )
        })?;
        let mut y = call.output(0, [rows, outputs])?;
        let (_, y) = y.try_extract_tensor_mut::<f32>()?;
        linear(x, Weight { values, scales, bias }, y, scratch, &call.pool);
        Ok(())
    }
}
