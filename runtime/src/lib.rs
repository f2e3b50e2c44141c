//! Bundles in, answers out: engines, image preprocessing, query-aware token allocation, scheduling and decoding.

pub mod arms;
pub mod bundle;
pub mod cache;
pub mod console;
pub mod decoder;
pub mod engine;
pub mod error;
pub mod generate;
pub mod image;
pub mod mean_time;
pub mod model;
pub mod offline;
pub mod prompt;
pub mod quote;
pub mod sampling;
mod scheduler;
pub mod tensor;
pub mod text;
pub mod vision;
pub mod yaml;

#[cfg(test)]
mod toy;
