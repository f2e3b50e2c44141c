//! Bundles in, answers out: inference libraries, pictures, families, prompts, scheduling and decoding.

pub mod cache;
pub mod console;
pub mod dataset;
pub mod decoder;
pub mod embeds;
pub mod error;
pub mod form;
pub mod generate;
pub mod image;
pub mod library;
pub mod mean_time;
pub mod model;
pub mod prompt;
pub mod sampling;
mod scheduler;
pub mod selection;
pub mod tensor;
pub mod text;
mod tools;
pub mod vision;

#[cfg(test)]
mod toy;
