//! Our own operators, as ONNX Runtime's custom ones
//! (<https://onnxruntime.ai/docs/reference/operators/add-custom-op.html>).
//!
//! A graph defines each of them by a body of standard ones. Where the CPU can run the kernel, it is
//! registered and takes the call; where it cannot, nothing is registered, and ONNX Runtime puts the body in
//! the call's place. One file of a bundle serves both.

use ::ort::Error;
use ::ort::operator::OperatorDomain;
use ::ort::session::builder::SessionBuilder;
use arrcoc_bundle::names::operator::DOMAIN;

use kernel::{Custom, Kernel};

mod attention;
mod block_linear;
mod cached_attention;
mod causal_convolution;
mod gated_delta;
mod grid_attention;
mod kernel;
mod quantized_linear;

/// Registers what this CPU can run.
pub(super) fn register(builder: SessionBuilder) -> Result<SessionBuilder, Error> {
    let all = [
        add::<quantized_linear::QuantizedLinear>,
        add::<block_linear::BlockLinear>,
        add::<attention::Attention>,
        add::<grid_attention::GridAttention>,
        add::<cached_attention::CachedAttention>,
        add::<causal_convolution::CausalConvolution>,
        add::<gated_delta::GatedDelta>,
    ];
    let domain = all.into_iter().try_fold(None, |domain, add| add(domain))?;
    match domain {
        Some(domain) => Ok(builder.with_operators(domain)?),
        None => Ok(builder),
    }
}

/// Adds an operator to the domain, which begins with the first that has a kernel on this CPU.
fn add<K: Kernel>(domain: Option<OperatorDomain>) -> Result<Option<OperatorDomain>, Error> {
    if !K::OPERATOR.has_kernel() {
        return Ok(domain);
    }
    let domain = domain.map_or_else(|| OperatorDomain::new(DOMAIN), Ok)?;
    Ok(Some(domain.add(Custom::<K>::default())?))
}
