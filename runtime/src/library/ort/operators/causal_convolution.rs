//! `CausalConvolution`: the short convolution of recurrent layers.

use ::ort::Error;
use ::ort::operator::KernelContext;
use ::ort::value::TensorElementType::{self, Float32};
use arrcoc_bundle::names::operator;
use arrcoc_kernels::{ConvolutionRun, causal_convolution};

use super::kernel::{Call, Kernel, check};

/// The operator: x \[batch, seq, channels\], the inputs before it \[batch, window, channels\] and weights
/// \[window + 1, channels\] to \[batch, seq, channels\], and the last inputs \[batch, window, channels\].
pub(super) struct CausalConvolution;

impl Kernel for CausalConvolution {
    const OPERATOR: arrcoc_kernels::Operator = arrcoc_kernels::Operator::CausalConvolution;
    const NAME: &'static str = operator::CAUSAL_CONVOLUTION;
    const INPUTS: &'static [(&'static str, TensorElementType)] =
        &[("x", Float32), ("past", Float32), ("weights", Float32)];
    const OUTPUTS: usize = 2;
    type Scratch = ();

    fn new(_: &KernelContext<'_>) -> Result<Self, Error> {
        Ok(Self)
    }

    fn compute(&self, call: &Call<'_>, (): &mut ()) -> Result<(), Error> {
        let [x, past, weights] = call.inputs()?;
        let (x_shape, x) = x.tensor::<f32, 3>()?;
        let (past_shape, past) = past.tensor::<f32, 3>()?;
        let (weights_shape, weights) = weights.tensor::<f32, 2>()?;
        let ([batch, tokens, channels], [_, window, _]) = (x_shape, past_shape);
        let fits = past_shape == [batch, window, channels] && weights_shape == [window + 1, channels];
        check(fits, || {
            format!(
                "CausalConvolution: expected x [batch, seq, channels], a past [batch, window, channels] and weights [window + 1, channels], \
                 found {x_shape:?}, {past_shape:?} and {weights_shape:?}"
            )
        })?;
        let mut out = call.output(0, x_shape)?;
        let mut present = call.output(1, past_shape)?;
        let (_, out) = out.try_extract_tensor_mut::<f32>()?;
        let (_, present) = present.try_extract_tensor_mut::<f32>()?;
        let run = ConvolutionRun { batch, tokens, window, channels };
        causal_convolution(run, x, past, weights, out, present, &call.pool);
        Ok(())
    }
}
