//! Which lengths a plan takes: from the manifest's axes to the profile that TensorRT builds for.
//!
//! TensorRT picks kernels at `opt`, sets memory aside for `max`, and refuses what lies outside. Where a
//! dynamic input has no profile, ONNX Runtime would compile plans anew as requests come in, each time a range
//! widens; so every one has one.

use arrcoc_bundle::names::axis;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::library::{Axis, PlanLengths};
use arrcoc_bundle::AxisRange;

/// Ranges by axis.
pub type Ranges = BTreeMap<String, AxisRange>;

/// The ranges of a graph's axes for one lengths.
///
/// A portable graph is run one row at a time, so `batch` is 1. The decoder's axes are bound to each other,
/// `total = past + seq`, and TensorRT looks at all of them at min, at opt and at max: the sum holds at each
/// of the three points.
pub fn ranges(axes: &BTreeMap<String, AxisRange>, lengths: PlanLengths) -> Ranges {
    let context = lengths.context_length.max(1) as u64;
    let decodes = axes.contains_key(axis::PAST);
    let longest_step = if decodes { (lengths.prefill_chunk.max(1) as u64).min(context) } else { context };
    let mut narrowed: Ranges = axes
        .iter()
        .map(|(name, range)| {
            let most = match name.as_str() {
                axis::BATCH => 1,
                axis::SEQ => longest_step,
                axis::PAST => context - 1,
                axis::TOTAL | axis::QUERY_LEN => context,
                _ => range.max,
            };
            (name.clone(), at_most(*range, most))
        })
        .collect();
    if let (Some(past), Some(seq)) = (narrowed.get(axis::PAST).copied(), narrowed.get(axis::SEQ).copied())
        && let Some(total) = narrowed.get_mut(axis::TOTAL)
    {
        *total = AxisRange { min: past.min + seq.min, opt: past.opt + seq.opt, max: past.max + seq.max };
    }
    narrowed
}

fn at_most(range: AxisRange, most: u64) -> AxisRange {
    let max = range.max.min(most).max(range.min);
    // Of an axis that was cut, the middle is the better guess than what is usual for the whole of it.
    let opt = if max < range.max { range.opt.min(max.div_ceil(2)).max(range.min) } else { range.opt };
    AxisRange { min: range.min, opt, max }
}

/// An axis of a graph for which there is no range: graph and manifest disagree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "input `{input}` has a dynamic axis `{axis}` and the manifest no range for it; export the checkpoint again"
)]
pub struct NoRange {
    /// The graph's input.
    pub input: String,
    /// The axis.
    pub axis: String,
}

/// The shapes of one input at the three points.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct InputProfile {
    /// The input's name.
    pub name: String,
    /// Smallest shape.
    pub min: Vec<u64>,
    /// Shape to optimise for.
    pub opt: Vec<u64>,
    /// Largest shape.
    pub max: Vec<u64>,
}

/// The profile of a plan: every input with a dynamic axis.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Profile(pub Vec<InputProfile>);

impl Profile {
    /// The profile of a graph with these inputs (name and shape).
    ///
    /// # Errors
    /// [`NoRange`].
    pub fn new(inputs: &[(String, Vec<Axis>)], ranges: &Ranges) -> Result<Self, NoRange> {
        let dynamic =
            |(_, shape): &&(String, Vec<Axis>)| shape.iter().any(|axis| matches!(axis, Axis::Named(_)));
        let profile = |(name, shape): &(String, Vec<Axis>)| {
            let at = |point: fn(&AxisRange) -> u64| {
                shape
                    .iter()
                    .map(|axis| match axis {
                        Axis::Fixed(length) => Ok(*length as u64),
                        Axis::Named(axis) => ranges
                            .get(axis)
                            .map(point)
                            .ok_or_else(|| NoRange { input: name.clone(), axis: axis.clone() }),
                    })
                    .collect::<Result<Vec<_>, _>>()
            };
            Ok(InputProfile {
                name: name.clone(),
                min: at(|range| range.min)?,
                opt: at(|range| range.opt)?,
                max: at(|range| range.max)?,
            })
        };
        inputs.iter().filter(dynamic).map(profile).collect::<Result<_, _>>().map(Self)
    }

    /// `trt_profile_min_shapes`, `trt_profile_opt_shapes` and `trt_profile_max_shapes`.
    pub fn options(&self) -> [(&'static str, String); 3] {
        let list = |point: fn(&InputProfile) -> &[u64]| {
            let mut text = String::new();
            for input in &self.0 {
                let separator = if text.is_empty() { "" } else { "," };
                // Writing to a string cannot fail.
                let _ = write!(text, "{separator}{}:{}", input.name, shape(point(input)));
            }
            text
        };
        [
            ("trt_profile_min_shapes", list(|input| &input.min)),
            ("trt_profile_opt_shapes", list(|input| &input.opt)),
            ("trt_profile_max_shapes", list(|input| &input.max)),
        ]
    }
}

/// A shape as the options have it: `1x64x768`.
pub fn shape(lengths: &[u64]) -> String {
    lengths.iter().map(u64::to_string).collect::<Vec<_>>().join("x")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn axes(list: &[(&str, [u64; 3])]) -> BTreeMap<String, AxisRange> {
        list.iter()
            .map(|(name, [min, opt, max])| ((*name).into(), AxisRange { min: *min, opt: *opt, max: *max }))
            .collect()
    }

    fn named(name: &str) -> Axis {
        Axis::Named(name.into())
    }

    /// What the exporter writes for a decoder of 40,960 positions.
    fn decoder() -> BTreeMap<String, AxisRange> {
        axes(&[
            ("batch", [1, 1, 64]),
            ("seq", [1, 1, 40_960]),
            ("past", [0, 20_480, 40_960]),
            ("total", [1, 20_480, 40_960]),
        ])
    }

    #[test]
    fn past_and_seq_add_up_at_every_point() {
        let ranges = ranges(&decoder(), PlanLengths { context_length: 4096, prefill_chunk: 256 });
        let at = |name: &str| ranges[name];
        assert_eq!(at("batch"), AxisRange { min: 1, opt: 1, max: 1 });
        assert_eq!(at("seq"), AxisRange { min: 1, opt: 1, max: 256 });
        assert_eq!(at("past"), AxisRange { min: 0, opt: 2048, max: 4095 });
        for point in [|r: AxisRange| r.min, |r: AxisRange| r.opt, |r: AxisRange| r.max] {
            assert_eq!(point(at("total")), point(at("past")) + point(at("seq")));
        }
    }

    #[test]
    fn a_short_model_narrows_more_than_a_long_context() {
        let short = axes(&[("seq", [1, 1, 512]), ("past", [0, 256, 512]), ("total", [1, 256, 512])]);
        let ranges = ranges(&short, PlanLengths { context_length: 4096, prefill_chunk: 1024 });
        assert_eq!((ranges["seq"].max, ranges["past"].max, ranges["past"].opt), (512, 512, 256));
    }

    #[test]
    fn only_the_decoder_is_cut_to_the_prefill_chunk() {
        let wide = axes(&[("batch", [1, 1, 64]), ("seq", [1, 1, 40_960]), ("tokens", [64, 256, 400])]);
        let ranges = ranges(&wide, PlanLengths { context_length: 4096, prefill_chunk: 256 });
        assert_eq!(ranges["seq"].max, 4096);
        assert_eq!(ranges["tokens"], AxisRange { min: 64, opt: 256, max: 400 });
    }

    #[test]
    fn every_dynamic_input_has_shapes_and_fixed_ones_none() {
        let ranges =
            ranges(&axes(&[("batch", [1, 1, 64]), ("tokens", [64, 256, 400])]), PlanLengths::default());
        let inputs = [
            ("visual_tokens".to_owned(), vec![named("batch"), named("tokens"), Axis::Fixed(768)]),
            ("scale".to_owned(), vec![Axis::Fixed(3)]),
            ("token_slots".to_owned(), vec![named("tokens")]),
        ];
        let options = Profile::new(&inputs, &ranges).unwrap().options();
        assert_eq!(
            options,
            [
                ("trt_profile_min_shapes", "visual_tokens:1x64x768,token_slots:64".to_owned()),
                ("trt_profile_opt_shapes", "visual_tokens:1x256x768,token_slots:256".to_owned()),
                ("trt_profile_max_shapes", "visual_tokens:1x400x768,token_slots:400".to_owned()),
            ]
        );
        let unknown = [("x".to_owned(), vec![named("rows")])];
        let error = Profile::new(&unknown, &ranges).unwrap_err();
        assert_eq!((error.input.as_str(), error.axis.as_str()), ("x", "rows"));
    }
}
