//! `arrcoc-serve eval`: a data set through the engines, and what choosing visual tokens is worth on it.
//!
//! [`arrcoc_runtime::dataset`] reads the questions, [`run()`] puts them to an
//! [`OfflineModel`](crate::offline::OfflineModel) with every arm, budget and kind of positions and writes
//! each answer into the [`journal`], from which [`summary`] computes all that [`report`] shows. From the
//! journal, all of it can be computed again.

pub mod arms;
pub mod bootstrap;
pub mod journal;
pub mod measure;
pub mod mismatched_questions;
pub mod neck;
pub mod offline;
pub mod options;
pub mod perplexity;
pub mod provenance;
pub mod report;
mod run;
pub mod summary;
pub mod times;
pub mod variants;

pub use run::{EvalError, Finished, run};
