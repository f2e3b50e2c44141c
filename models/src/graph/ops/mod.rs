//! One method per ONNX operator: it checks its inputs, works out the result's shape and adds the node.
//!
//! Standard operators follow <https://onnx.ai/onnx/operators/> at opset 18 and are unchanged at 21; those of
//! ONNX Runtime ([`fused`]) follow
//! <https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md>.

pub mod attention;
pub mod cached_attention;
pub mod causal_convolution;
mod elementwise;
pub mod fused;
pub mod gated_delta;
pub mod linear;
mod product;
mod reduction;
mod shape;

/// A node attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    /// 64-bit integer.
    Int(i64),
    /// List of integers.
    Ints(Vec<i64>),
    /// 32-bit float.
    Float(f32),
    /// In a function's body: the integer that the call gives under this name.
    Reference(&'static str),
    /// In a function's body: the float that the call gives under this name.
    FloatReference(&'static str),
}
