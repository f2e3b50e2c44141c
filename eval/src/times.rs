//! What each stage of an answer took, for the journal, the summary and the report.
//!
//! No stage is named here: a graph that a family gains has its column without another line of code.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

use crate::measure::median;

/// Milliseconds by the name of the stage, in the order in which the stages first ran. In JSON an object in
/// that order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StageTimes(Vec<(String, f64)>);

/// Stages that have another name in older journals, and their name today.
const OLD_NAMES: [(&str, &str); 2] = [("encode", "vision_encoder"), ("adapter", "quality_adapter")];

impl StageTimes {
    /// Adds to a stage's time. Microseconds are enough, and keep the journal short.
    pub fn add(&mut self, stage: &str, took: Duration) {
        *self.entry(stage) += (took.as_secs_f64() * 1e6).round() / 1e3;
    }

    /// Adds the stages that ran behind these.
    pub fn append(&mut self, later: &Self) {
        later.0.iter().for_each(|(stage, ms)| *self.entry(stage) += ms);
    }

    /// Milliseconds of a stage; `None` where it did not run.
    pub fn get(&self, stage: &str) -> Option<f64> {
        self.0.iter().find(|(name, _)| name == stage).map(|(_, ms)| *ms)
    }

    /// The median of each stage over the answers in which it ran.
    pub fn medians<'a>(all: impl Iterator<Item = &'a Self> + Clone) -> Self {
        let median_of =
            |stage: &str| median(&mut all.clone().filter_map(|times| times.get(stage)).collect::<Vec<_>>());
        let stages = stage_names(all.clone()).into_iter();
        Self(stages.filter_map(|stage| Some((stage.to_owned(), median_of(stage)?))).collect())
    }

    fn entry(&mut self, stage: &str) -> &mut f64 {
        let at = self.0.iter().position(|(name, _)| name == stage).unwrap_or_else(|| {
            self.0.push((stage.to_owned(), 0.0));
            self.0.len() - 1
        });
        &mut self.0[at].1
    }
}

/// The names of all stages that any answer went through. Where two answers went through different stages,
/// those of the first keep their order, and each further stage follows the one that it ran behind.
pub fn stage_names<'a>(all: impl Iterator<Item = &'a StageTimes>) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for times in all {
        let mut next = 0;
        for (name, _) in &times.0 {
            next = match names.iter().position(|known| known == name) {
                Some(at) => at + 1,
                None => {
                    names.insert(next, name);
                    next + 1
                }
            };
        }
    }
    names
}

impl Serialize for StageTimes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, ms)| (name, ms)))
    }
}

impl<'de> Deserialize<'de> for StageTimes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = StageTimes;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object of milliseconds by the name of the stage")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<StageTimes, M::Error> {
        let mut times = StageTimes::default();
        // Older journals have null where a stage did not run.
        while let Some((name, ms)) = map.next_entry::<String, Option<f64>>()? {
            let name =
                OLD_NAMES.iter().find(|(old, _)| *old == name).map_or(name.as_str(), |(_, today)| today);
            if let Some(ms) = ms {
                *times.entry(name) = ms;
            }
        }
        Ok(times)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn times(stages: &[(&str, u64)]) -> StageTimes {
        let mut times = StageTimes::default();
        stages.iter().for_each(|(stage, ms)| times.add(stage, Duration::from_millis(*ms)));
        times
    }

    #[test]
    fn stages_keep_the_order_in_which_they_ran() {
        let times = times(&[("vision_encoder", 3), ("allocator", 1), ("vision_encoder", 4)]);
        let text = serde_json::to_string(&times).unwrap();
        assert_eq!(text, r#"{"vision_encoder":7.0,"allocator":1.0}"#);
        assert_eq!(serde_json::from_str::<StageTimes>(&text).unwrap(), times);
        assert_eq!((times.get("allocator"), times.get("prefill")), (Some(1.0), None));
    }

    #[test]
    fn journals_that_were_written_before_are_read() {
        let old = r#"{"encode":13.976,"allocator":0.002,"compressor":1.5,"refiner":4.0,"adapter":0.8,"prefill":11.0,
                      "decode_per_token":null}"#;
        let times: StageTimes = serde_json::from_str(old).unwrap();
        let names = stage_names(std::iter::once(&times));
        assert_eq!(
            names,
            ["vision_encoder", "allocator", "compressor", "refiner", "quality_adapter", "prefill"]
        );
        assert_eq!((times.get("vision_encoder"), times.get("quality_adapter")), (Some(13.976), Some(0.8)));
    }

    #[test]
    fn medians_are_of_the_answers_that_went_through_the_stage() {
        let all = [times(&[("a", 1), ("c", 9)]), times(&[("a", 3), ("b", 5), ("c", 7)]), times(&[("a", 2)])];
        let medians = StageTimes::medians(all.iter());
        assert_eq!(serde_json::to_string(&medians).unwrap(), r#"{"a":2.0,"b":5.0,"c":8.0}"#);
    }
}
