//! One file per network, readable from top to bottom.
//!
//! Letters, the same in every file: B batch, P patches, C width of the image features, Q query length, H
//! width of the decoder, T visual tokens, D width of the refiner, S sequence, V vocabulary; `rows` are \[B *
//! positions, width\].

pub mod allocator;
pub mod clip;
pub mod compressor;
pub mod decoder;
pub mod idefics3;
pub mod quality_adapter;
pub mod qwen2_5_vision;
pub mod qwen3_vision;
pub mod qwen_tower;
pub mod sam;
pub mod siglip;
