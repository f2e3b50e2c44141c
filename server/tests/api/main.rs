//! The HTTP service, tested from outside with a scripted engine in the model's place.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod bodies;
mod chat;
mod completions;
mod connections;
mod defaults;
mod ends;
mod fake;
mod fields;
mod forms;
mod hosts;
mod images;
mod limits;
mod metrics;
mod operation;
mod port;
mod swap;
mod tools;
