//! Precision passes: graphs in 32-bit floats in, graphs of another precision out.
//!
//! A pass is one file here and one arm of [`apply`]. It sees every graph of the model before anything is laid out or
//! written, so it may change operators, split weights, or refuse with a reason.

use arrcoc_models::graph::Graph;
use arrcoc_runtime::bundle::manifest::Precision;

/// Brings `graphs` to `precision`. The networks are written in 32-bit floats, so that `fp32` changes nothing.
pub fn apply(precision: Precision, graphs: Vec<Graph>) -> Vec<Graph> {
    match precision {
        Precision::Fp32 => graphs,
    }
}
