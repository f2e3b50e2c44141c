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
    /// max |a - b| / max |b| from the reference, which has the bundle's own weights; `null` in JSON when it
    /// is infinite.
    pub distance: f64,
    /// The same of the reference with factors rounded as the bundle rounds them, the worst of several draws:
    /// what its arithmetic has to cost. `None` where nothing is rounded.
    pub noise: Option<f64>,
    /// What the distance may be.
    pub limit: f64,
    /// The distance from the checkpoint's weights in 32 bits: what the precision loses in all. `None` where
    /// the reference has them.
    pub loss: Option<f64>,
    /// Cosine of the angle to what the checkpoint's weights make in 32 bits, the worst of the runs.
    pub cosine: f64,
    /// Time that the bundle took for the graph's runs, seconds.
    pub seconds: f64,
    /// Time that the reference took.
    pub reference_seconds: f64,
}

impl StageReport {
    /// Whether the output is within its limit, and has something left of the checkpoint's.
    pub fn passed(&self) -> bool {
        self.distance <= self.limit && self.cosine >= tolerances::LEAST_COSINE
    }
}

/// A bundle, and what runs it.
#[derive(Clone, Copy)]
pub(super) struct Side<'a> {
    /// What it is to whoever waits.
    pub(super) name: &'static str,
    pub(super) bundle: &'a Bundle,
    pub(super) library: &'a dyn Library,
}

/// What is run beside the bundle that is verified, to tell loss from faults.
#[derive(Clone)]
pub(super) struct Yardsticks<'a> {
    /// The bundle's weights in 32 bits, with rounded factors: several draws.
    pub(super) rounded: Vec<Side<'a>>,
    /// The checkpoint's weights in 32 bits.
    pub(super) checkpoint: Side<'a>,
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
    subject: Side<'_>,
    yardsticks: Option<&Yardsticks<'_>>,
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
        let calls: Vec<&Call> = calls.iter().filter(|call| call.graph == name).collect();
        reports.extend(replay_graph(name, &calls, subject, yardsticks)?);
    }
    Ok(reports)
}

fn replay_graph(
    name: &str,
    calls: &[&Call],
    subject: Side<'_>,
    yardsticks: Option<&Yardsticks<'_>>,
) -> Result<Vec<StageReport>, VerifyError> {
    let (found, elapsed) = run_all(name, calls, subject)?;
    let expected: Vec<&Named> = calls.iter().map(|call| &call.outputs).collect();
    let worst = compare(name, &found, &expected)?;
    let (mut noise, mut loss) = (None, None);
    if let Some(Yardsticks { rounded, checkpoint }) = yardsticks {
        let mut worst = Vec::new();
        for side in rounded {
            worst.extend(compare(name, &run_all(name, calls, *side)?.0, &expected)?);
        }
        noise = Some(worst);
        let own = run_all(name, calls, *checkpoint)?.0;
        loss = Some(compare(name, &found, &own.iter().collect::<Vec<_>>())?);
    }
    let file = subject.bundle.graph(name)?;
    let reference: Duration = calls.iter().map(|call| call.took).sum();
    let report = |Worst { output, distance, cosine }: Worst| {
        // An output of no meaning must be equal.
        let meaning = file.outputs.get(&output).copied().unwrap_or(Meaning::Picked);
        let of = |of: &Option<Vec<Worst>>| {
            let of = of.as_ref()?.iter().filter(|worst| worst.output == output);
            of.map(|of| (of.distance, of.cosine)).reduce(|a, b| (a.0.max(b.0), a.1.min(b.1)))
        };
        let (noise, loss) = (of(&noise).map(|(distance, _)| distance), of(&loss));
        StageReport {
            stage: name.to_owned(),
            role: file.role,
            meaning,
            limit: tolerances::limit(subject.bundle.manifest(), name, file.role, meaning, noise),
            noise,
            output,
            distance,
            loss: loss.map(|(distance, _)| distance),
            cosine: loss.map_or(cosine, |(_, cosine)| cosine),
            seconds: elapsed.as_secs_f64(),
            reference_seconds: reference.as_secs_f64(),
        }
    };
    Ok(worst.into_iter().map(report).collect())
}

/// Repeats runs on a side; also how long they took.
fn run_all(name: &str, calls: &[&Call], side: Side<'_>) -> Result<(Vec<Named>, Duration), VerifyError> {
    let mut graph: Box<dyn Graph> = side.library.load_from(side.bundle, name)?;
    let (mut made, mut elapsed) = (Vec::new(), Duration::ZERO);
    for call in calls {
        let inputs: Vec<_> =
            call.inputs.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
        let started = Instant::now();
        made.push(graph.run(&inputs)?);
        elapsed += started.elapsed();
    }
    Ok((made, elapsed))
}

/// Holds what a graph returned, run by run, against what another did.
fn compare(graph: &str, found: &[Named], expected: &[&Named]) -> Result<Vec<Worst>, VerifyError> {
    let mut worst: Vec<Worst> = Vec::new();
    for (found, expected) in found.iter().zip(expected) {
        for (output, expected) in expected.iter() {
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
    }
    Ok(worst)
}
