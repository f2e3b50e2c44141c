//! Checkpoints in, engine bundles out.
//!
//! [`checkpoint`] reads Hugging Face directories, [`calibrate`] sees how large their tensors get, [`build`]
//! turns them into bundles, [`init`] makes random ones, [`inspect`] shows either, [`plan`] says where a model
//! fits, [`verify`] proves a bundle on two inference libraries, and [`compile`] compiles the graphs of one
//! into TensorRT plans. [`hub`] fetches checkpoints. The networks themselves are `arrcoc-models`'s, the
//! bundle's format is `arrcoc-bundle`'s.

mod ask;
pub mod build;
pub mod calibrate;
pub mod checkpoint;
pub mod compile;
pub mod hashed_file;
pub mod hub;
pub mod init;
pub mod inspect;
pub mod onnx;
pub mod passes;
pub mod plan;
pub mod progress;
mod quantize;
pub mod staging;
pub mod table;
pub mod tap;
pub mod verify;
