//! How far two libraries may lie apart, by what a graph is for and what the numbers of an output mean, and
//! why.
//!
//! Distances are max |a - b| / max |b| over an output, with the same inputs bit for bit on both sides, so
//! that a graph answers for itself and not for the ones before it.

use arrcoc_bundle::{Manifest, Meaning, Role, WeightForm};

/// The contract of the reference tests: 1e-3 for networks in 32-bit floats. Runtimes differ in the order of
/// their sums and in their exponentials, which came to 3e-6 at most on the three presets; trained weights
/// have outliers that random ones lack. A wrong operator, layout or weight differs by far more than either.
const NETWORK: f64 = 1e-3;

/// A handful of operations on small whole numbers: one rounding more or less.
const ARITHMETIC: f64 = 1e-6;

/// Rows or indices picked, not computed.
const EXACT: f64 = 0.0;

/// Sixteen bits keep eleven of a number: every tensor that is stored so is off by 2^-12 of itself, and a
/// network of a few dozen layers stores a few hundred of them, whose errors add up as the root of their
/// number; twice that, since logits are sums of cancelling terms.
const FP16: f64 = 1e-2;

/// E4M3 keeps four bits of a number: weights and activations are off by up to 1/16 of themselves, by half of
/// that on the average, and unlike int8's the error does not shrink for what is small. Sums of many products
/// lose less, layers add up.
const FP8: f64 = 2e-1;

/// The rows of a table in 16 bits: half of the last bit.
const FP16_TABLE: f64 = 5e-4;

/// int8 activations carry an error of half a step into every product: 1/254 of the largest value of a token
/// in encoders, of 32 neighbours of it in decoders. It adds up over the layers as the root of their number,
/// and outliers make the step wider for all that stands beside them.
const INT8: f64 = 8e-2;

/// The rows of a table in int8: half a step of 1/127 of a block's largest entry, or, in tables that have no
/// tiles, of the row's.
const INT8_TABLE: f64 = 4e-3;

/// Blocks of int4 weights: half a step is 1/16 of a block's largest weight. Random weights have no direction
/// that training would have kept clear of that noise: they lose more than trained ones do.
const INT4: f64 = 4e-1;

/// The rows of a table in blocks of 4 bits: half a step of 1/8 of a block's largest entry.
const INT4_TABLE: f64 = 7e-2;

/// The limit of an output of a graph in a bundle: that of the coarsest form which a rule of the manifest, the
/// precision's or the user's, gives to weights of the graph. A rule for 32 bits takes nothing back, since
/// other weights may stay. Graphs of which no rule speaks keep 32 bits.
pub fn limit(manifest: &Manifest, graph: &str, role: Role, meaning: Meaning) -> f64 {
    let exact = match meaning {
        // Both sides see the same scores; ties go to the lower index by contract.
        Meaning::Picked => EXACT,
        Meaning::Arithmetic => ARITHMETIC,
        Meaning::Network | Meaning::Logits => NETWORK,
    };
    if matches!(meaning, Meaning::Picked | Meaning::Arithmetic) && role != Role::Embedding {
        return exact;
    }
    let rules = manifest.weights.iter().filter(|rule| {
        rule.role.is_none_or(|of| of == role) && rule.graph.as_deref().is_none_or(|name| name == graph)
    });
    rules.filter_map(|rule| limit_of_form(rule.form, role)).reduce(f64::max).unwrap_or(exact)
}

/// The limit of a graph whose weights have a form; `None` for 32 bits.
fn limit_of_form(form: WeightForm, role: Role) -> Option<f64> {
    let (table, network) = match form {
        WeightForm::Fp32 => return None,
        WeightForm::Fp16 => (FP16_TABLE, FP16),
        WeightForm::Fp8 => (FP16_TABLE, FP8),
        WeightForm::W8a8 | WeightForm::Blocks { bits: 8, .. } => (INT8_TABLE, INT8),
        WeightForm::Blocks { .. } => (INT4_TABLE, INT4),
    };
    Some(if role == Role::Embedding { table } else { network })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coarsest_form_of_a_graph_counts() {
        let form = |text: &str| limit_of_form(text.parse().unwrap_or(WeightForm::Fp32), Role::Decoder);
        assert_eq!([form("fp32"), form("w8a8"), form("int8-block16")], [None, Some(INT8), Some(INT8)]);
        assert_eq!([form("int4-block32"), form("int4-block16-asymmetric")], [Some(INT4), Some(INT4)]);
        assert_eq!(limit_of_form(WeightForm::W8a8, Role::Embedding), Some(INT8_TABLE));
        assert!(form("int8-block32") < form("int4-block32"));
    }
}
