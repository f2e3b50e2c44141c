//! The networks of arrcoc, written against a small ONNX graph builder.
//!
//! Read it in this order:
//!
//! 1. [`networks`]: one file per network, top to bottom, a shape comment on every tensor.
//! 2. [`bricks`]: what the networks share (linear, norms, attention, rotary embedding, interpolation). Only
//!    bricks and the attention of two networks know the difference between fused and portable operators.
//! 3. [`graph`]: the builder (typed values, symbolic sizes, one function per ONNX operator), the file layout.
//! 4. [`families`]: one file per family of checkpoints. It reads the checkpoint's configuration in two
//!    stages, raw and validated ([`config`]), composes the networks, and says what a runtime must know.
//!
//! Nothing here reads a checkpoint or writes a file: a [`graph::Graph`] names the tensors that it needs
//! ([`graph::Source`]), and the exporter streams them.

pub mod bricks;
pub mod config;
pub mod families;
pub mod graph;
mod image_processor;
pub mod networks;

/// ONNX's protobuf, whole, for those who write graphs or change written ones.
pub mod onnx {
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        clippy::pedantic,
        reason = "generated from onnx.proto"
    )]
    include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
}
