//! The networks of arrcoc, written against a small ONNX graph builder.
//!
//! Read it in this order:
//!
//! 1. [`networks`]: one file per network, top to bottom, a shape comment on every tensor.
//! 2. [`bricks`]: what the networks share (linear, norms, attention, rotary embedding, interpolation); only they and
//!    the attention of two networks know the difference between fused and portable operators.
//! 3. [`graph`]: the builder (typed values, symbolic sizes, one function per ONNX operator) and the file layout.
//! 4. [`config`]: `config.json` in two stages, raw and validated; [`arr_coc_ovis`] composes the networks.
//!
//! Nothing here reads a checkpoint or writes a file: a [`graph::Graph`] names the tensors that it needs
//! ([`graph::Source`]), and the exporter streams them.

pub mod arr_coc_ovis;
pub mod bricks;
pub mod config;
pub mod graph;
pub mod networks;

mod onnx {
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        clippy::pedantic,
        reason = "generated from onnx.proto"
    )]
    include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
}

/// What the graphs are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// ONNX Runtime's CPU provider: fused `com.microsoft` operators, the KV cache updated in place. Opset 21.
    Cpu,
    /// Standard operators only, at opset 18 (21 with 8-bit floats or 4-bit integers): tract, TensorRT, and any other reader.
    Portable,
}

impl Target {
    /// Opset of the default ONNX domain.
    pub const fn opset(self) -> i64 {
        match self {
            Self::Cpu => 21,
            Self::Portable => 18,
        }
    }

    /// ONNX IR version that introduced no feature beyond [`Self::opset`]
    /// (<https://github.com/onnx/onnx/blob/main/docs/Versioning.md>).
    pub const fn ir_version(self) -> i64 {
        match self {
            Self::Cpu => 10,
            Self::Portable => 8,
        }
    }
}
