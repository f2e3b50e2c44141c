//! The text that scrapers read, version 0.0.4, with bucket bounds as Python's client spells them.
//!
//! A bound is a label, so its spelling counts: `le="1.0"` and `le="1"` are different series, and dashboards
//! that were written for vLLM ask for the first.

use prometheus::proto::{MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};

/// From here on Python's client writes exponents, as Go does.
const EXPONENTS_FROM: f64 = 1e6;

/// Encodes metric families.
///
/// # Errors
/// The encoder's, which is a defect of ours.
pub(super) fn encode(families: &[MetricFamily]) -> Result<Vec<u8>, prometheus::Error> {
    let encoder = TextEncoder::new();
    let mut text = String::new();
    for family in families {
        let mut part = Vec::new();
        encoder.encode(std::slice::from_ref(family), &mut part)?;
        let part = String::from_utf8_lossy(&part);
        if family.get_field_type() == MetricType::HISTOGRAM {
            let bucket = format!("{}_bucket{{", family.name());
            for line in part.lines() {
                text.push_str(&respelt(line, &bucket).unwrap_or_else(|| line.to_owned()));
                text.push('\n');
            }
        } else {
            text.push_str(&part);
        }
    }
    Ok(text.into_bytes())
}

/// A line of a bucket with its bound as Python spells it; `None` for all other lines.
fn respelt(line: &str, bucket: &str) -> Option<String> {
    if !line.starts_with(bucket) {
        return None;
    }
    // The encoder writes the bound behind all other labels.
    let (before, rest) = line.rsplit_once("le=\"")?;
    let (bound, after) = rest.split_once('"')?;
    let bound = bound.parse::<f64>().ok().filter(|bound| bound.is_finite())?;
    Some(format!("{before}le=\"{}\"{after}", python(bound)))
}

/// A positive number as Python's client writes bounds: `0.25`, `1.0`, `1e+06`.
fn python(number: f64) -> String {
    if number < EXPONENTS_FROM {
        return format!("{number:?}");
    }
    let text = format!("{number:e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => format!("{mantissa}e+0{exponent}"),
        None => text,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use prometheus::{Histogram, HistogramOpts, IntGauge, Opts, Registry};

    use super::*;

    /// What `prometheus_client.utils.floatToGoString` returns.
    #[test]
    fn bounds_are_spelt_as_python_spells_them() {
        for (number, text) in [
            (0.001, "0.001"),
            (0.25, "0.25"),
            (1.0, "1.0"),
            (7.5, "7.5"),
            (7680.0, "7680.0"),
            (16384.0, "16384.0"),
            (100_000.0, "100000.0"),
            (1_000_000.0, "1e+06"),
            (1_500_000.0, "1.5e+06"),
            (2_000_000.0, "2e+06"),
        ] {
            assert_eq!(python(number), text);
        }
    }

    #[test]
    fn only_bounds_are_touched_whatever_a_label_says() {
        let registry = Registry::new();
        let hostile = "a,le=\"1\"} 3\n";
        let opts = HistogramOpts::new("seconds", "Some help, le=\"1\"").buckets(vec![1.0, 2.5]);
        let histogram = Histogram::with_opts(opts.const_label("model", hostile)).unwrap();
        histogram.observe(2.0);
        let gauge = IntGauge::with_opts(Opts::new("seconds_bucket", "A name that looks like one."));
        registry.register(Box::new(histogram)).unwrap();
        registry.register(Box::new(gauge.unwrap())).unwrap();
        let text = String::from_utf8(encode(&registry.gather()).unwrap()).unwrap();
        let label = r#"model="a,le=\"1\"} 3\n""#;
        for line in [
            format!("seconds_bucket{{{label},le=\"1.0\"}} 0"),
            format!("seconds_bucket{{{label},le=\"2.5\"}} 1"),
            format!("seconds_bucket{{{label},le=\"+Inf\"}} 1"),
            format!("seconds_sum{{{label}}} 2"),
            "seconds_bucket 0".to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in:\n{text}");
        }
    }
}
