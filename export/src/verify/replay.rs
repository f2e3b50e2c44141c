//! The reference's runs, one graph after the other, on the bundle that is verified.
//!
//! Each run gets the inputs that the reference had, so a graph answers for itself; only one graph's weights
//! are in memory at a time.

use std::time::{Duration, Instant};

use arrcoc_bundle::{Bundle, Meaning, Role};
use arrcoc_runtime::library::{Graph, Library};
use serde::Serialize;

use super::compare::{cosine, distance};
use super::{VerifyError, tolerances};
use crate::progress::Progress;
use crate::tap::{Call, Named};

/// One output of one graph, the worst of its runs.
#[derive(Debug, Clone, Serialize)]
pub struct StageReport {
    /// The graph.
    pub stage: String,
    /// What the graph is for.
    pub role: Role,
    /// Its output.
    pub output: String,
    /// What the output's numbers mean.
    pub meaning: Meaning,
    /// max |a - b| / max |b|; `null` in JSON when it is infinite.
    pub distance: f64,
    /// What it may be.
    pub limit: f64,
    /// Cosine of the angle between the two, the worst of the runs.
    pub cosine: f64,
    /// Time that the bundle took for the graph's runs, seconds.
    pub seconds: f64,
    /// Time that the reference took.
    pub reference_seconds: f64,
}

impl StageReport {
    /// Whether the output is within its limit.
    pub fn passed(&self) -> bool {
        self.distance <= self.limit
    }
}

/// How far an output was off at worst.
struct Worst {
    output: String,
    distance: f64,
    cosine: f64,
}

/// Replays every run; reports in the order in which the reference ran its graphs first.
pub(super) fn replay(
    calls: &[Call],
    subject: &Bundle,
    library: &dyn Library,
    progress: Progress,
) -> Result<Vec<StageReport>, VerifyError> {
    let mut names: Vec<&str> = Vec::new();
    for call in calls {
        if !names.contains(&call.graph.as_str()) {
            names.push(&call.graph);
        }
    }
    let mut reports = Vec::new();
    for name in names {
        progress.note(&format!("replaying {name}"));
        let mut graph = library.load_from(subject, name)?;
        let calls: Vec<&Call> = calls.iter().filter(|call| call.graph == name).collect();
        reports.extend(replay_graph(name, &calls, subject, graph.as_mut())?);
    }
    Ok(reports)
}

fn replay_graph(
    name: &str,
    calls: &[&Call],
    subject: &Bundle,
    graph: &mut dyn Graph,
) -> Result<Vec<StageReport>, VerifyError> {
    let mut worst: Vec<Worst> = Vec::new();
    let [mut elapsed, mut reference] = [Duration::ZERO; 2];
    for call in calls {
        let inputs: Vec<_> =
            call.inputs.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
        let started = Instant::now();
        let found = graph.run(&inputs)?;
        elapsed += started.elapsed();
        reference += call.took;
        compare(name, &found, &call.outputs, &mut worst)?;
    }
    let file = subject.graph(name)?;
    let report = |Worst { output, distance, cosine }: Worst| {
        // An output of no meaning must be equal.
        let meaning = file.outputs.get(&output).copied().unwrap_or(Meaning::Picked);
        StageReport {
            stage: name.to_owned(),
            role: file.role,
            meaning,
            limit: tolerances::limit(subject.manifest(), name, file.role, meaning),
            output,
            distance,
            cosine,
            seconds: elapsed.as_secs_f64(),
            reference_seconds: reference.as_secs_f64(),
        }
    };
    Ok(worst.into_iter().map(report).collect())
}

/// Holds what a graph returned against what the reference's did.
fn compare(graph: &str, found: &Named, expected: &Named, worst: &mut Vec<Worst>) -> Result<(), VerifyError> {
    for (output, expected) in expected {
        let Some((_, found)) = found.iter().find(|(name, _)| name == output) else {
            return Err(VerifyError::Output { stage: graph.to_owned(), output: output.clone() });
        };
        let (distance, cosine) = (distance(found, expected), cosine(found, expected));
        match worst.iter_mut().find(|worst| worst.output == *output) {
            Some(worst) => {
                worst.distance = worst.distance.max(distance);
                worst.cosine = worst.cosine.min(cosine);
            }
            None => worst.push(Worst { output: output.clone(), distance, cosine }),
        }
    }
    Ok(())
}
