//! How far two libraries may lie apart, by what a graph is for and what the numbers of an output mean, and
//! why.
//!
//! Distances are max |a - b| / max |b| over an output, with the same inputs bit for bit on both sides, so
//! that a graph answers for itself and not for the ones before it. Both sides have the same weights, too:
//! what a form loses of them is held against the form alone ([`super::fidelity`]), and no limit here makes
//! room for it.

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

/// E4M3 keeps four bits of a number: activations are off by up to 1/16 of themselves, by half of that on the
/// average, and unlike int8's the error does not shrink for what is small. Sums of many products lose less,
/// layers add up.
const FP8: f64 = 2e-1;

/// How much further a bundle may be from the reference than the worst of the rounded references is.
///
/// Products in integers round their factors, and what that costs depends on the network: a thousandth of the
/// logits where training kept directions clear, a tenth where random weights let every token attend to one
/// or two others. So it is measured, on the same question, by rounding in the reference what the bundle
/// rounds ([`super::rounding`]), in three draws of the same noise. The bundle is one more: numbers near the
/// middle between two steps fall to either side, after which the two part. Worst deviations are taken over
/// hundreds of numbers, and so lie close together from draw to draw: of 40 random networks in two precisions,
/// none went beyond 1.3 times the worst of the three. A wrong operator, layout or order of weights is not of
/// the size of a rounding.
const NOISE: f64 = 2.0;

/// The least that may be left of an output's direction, by what the checkpoint's weights make of the same
/// inputs in 32 bits. What a precision loses is not the build's fault, and has no limit but this one, which
/// is there to catch nonsense: outputs that have nothing to do with each other have a cosine of 1 over the
/// root of their length, 0.06 with 256 numbers, give or take. Four times that is more than chance.
pub const LEAST_COSINE: f64 = 0.25;

/// The limit of an output of a graph in a bundle, from a reference that has the same weights.
pub fn limit(manifest: &Manifest, graph: &str, role: Role, meaning: Meaning, noise: Option<f64>) -> f64 {
    let rules = manifest.weights.iter().filter(|rule| {
        rule.role.is_none_or(|of| of == role) && rule.graph.as_deref().is_none_or(|name| name == graph)
    });
    let halves = manifest.target.has_small_floats();
    let form = rules.filter_map(|rule| limit_of_form(rule.form, halves)).reduce(f64::max);
    match (meaning, form) {
        // A row of a table, read from fewer bits as the reference's were.
        (_, Some(_)) if role == Role::Embedding => ARITHMETIC,
        // Both sides see the same scores; ties go to the lower index by contract.
        (Meaning::Picked, _) => EXACT,
        (Meaning::Arithmetic, _) => ARITHMETIC,
        (Meaning::Network | Meaning::Logits, None) => NETWORK,
        (Meaning::Network | Meaning::Logits, Some(limit)) => limit + NOISE * noise.unwrap_or(0.0),
    }
}

/// The limit of a graph whose weights have a form; `None` for 32 bits. `halves` is whether what integers are
/// multiplied with has 16 bits.
fn limit_of_form(form: WeightForm, halves: bool) -> Option<f64> {
    match form {
        WeightForm::Fp32 => None,
        WeightForm::Fp16 => Some(FP16),
        WeightForm::Fp8 => Some(FP8),
        WeightForm::W8a8 | WeightForm::Blocks { .. } => Some(if halves { FP16 } else { NETWORK }),
    }
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_have_no_room_of_their_own() {
        let form = |text: &str, halves| {
            limit_of_form(text.parse().unwrap_or(WeightForm::Fp32), halves).unwrap_or(0.0)
        };
        assert_eq!(
            [form("fp32", false), form("w8a8", false), form("int8-block16", false)],
            [0.0, NETWORK, NETWORK]
        );
        assert_eq!([form("int4-block32", false), form("int4-block32", true)], [NETWORK, FP16]);
        assert!(form("fp16", true) < form("fp8", true));
    }
}
