//! A report as people read it.

use std::fmt;

use arrcoc_bundle::Statistics;

use super::{AdapterReport, DecodingReport, NotFinite, Report, StageReport, Strayed, WeightLoss};
use crate::table::{Table, grouped};

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weights = &self.weights;
        let (tensors, elements) = (weights.tensors, grouped(weights.elements));
        match weights.not_finite.len() {
            0 => writeln!(f, "{tensors} weight tensors, {elements} elements, all finite\n")?,
            n => writeln!(f, "{n} of {tensors} weight tensors are not finite; no stage was run\n")?,
        }
        for NotFinite { graph, tensor, count, first } in &weights.not_finite {
            writeln!(f, "  {tensor} ({graph}): {count} NaN or infinite, the first at element {first}")?;
        }
        for Strayed { graph, tensor, count, first } in &self.strayed {
            writeln!(
                f,
                "  {tensor} ({graph}): {count} numbers are not what their form makes of the checkpoint's, the \
                 first at element {first}"
            )?;
        }
        if !self.strayed.is_empty() {
            writeln!(f)?;
        }
        if !self.stages.is_empty() {
            let [subject, reference] = &self.runtimes;
            writeln!(
                f,
                "{subject} on {}\n{reference} on {}\n",
                self.bundle.display(),
                self.reference.display()
            )?;
            write!(f, "{}", stage_table(&self.stages))?;
        }
        if !self.losses.is_empty() {
            write!(f, "\n{}", loss_table(&self.losses))?;
        }
        if let (Some(target), false) = (&self.adapter_target, self.adapter.is_empty()) {
            write!(f, "\n{}", adapter_table(&self.adapter, target))?;
        }
        if let Some(DecodingReport { tokens, agreeing, differing, kept }) = &self.decoding {
            let ties = tokens - agreeing - differing;
            writeln!(f, "\ngreedy tokens: {agreeing} of {tokens} equal, {differing} differ, {ties} tied")?;
            if !self.losses.is_empty() {
                writeln!(f, "of the checkpoint's own choices, {kept} of {tokens} are kept")?;
            }
        }
        writeln!(f, "\n{}", if self.passed { "passed" } else { "FAILED" })
    }
}

fn stage_table(stages: &[StageReport]) -> Table {
    let columns = [
        "stage",
        "output",
        ">max|a-b|/max|b|",
        ">rounding",
        ">limit",
        "",
        ">loss",
        ">cosine",
        ">seconds",
        ">reference s",
    ];
    let of = |number: Option<f64>| number.map_or("-".to_owned(), |number| format!("{number:.1e}"));
    let mut table = Table::new(&columns);
    for stage in stages {
        table.row([
            stage.stage.clone(),
            stage.output.clone(),
            format!("{:.1e}", stage.distance),
            of(stage.noise),
            format!("{:.1e}", stage.limit),
            if stage.passed() { "ok" } else { "FAILED" }.to_owned(),
            of(stage.loss),
            format!("{:.6}", stage.cosine),
            format!("{:.2}", stage.seconds),
            format!("{:.2}", stage.reference_seconds),
        ]);
    }
    table
}

fn adapter_table(tiers: &[AdapterReport], target: &Statistics) -> Table {
    let mut table = Table::new(&["quality adapter", ">mean", ">std", ">zeros", ""]);
    let mut row = |name: String, of: &Statistics, verdict: String| {
        table.row([
            name,
            format!("{:.5}", of.mean),
            format!("{:.5}", of.std),
            format!("{:.3}", of.sparsity),
            verdict,
        ]);
    };
    row("target".to_owned(), target, String::new());
    for AdapterReport { tokens, statistics, drift } in tiers {
        let verdict = drift.map_or("ok".to_owned(), |drift| format!("DRIFTED ({drift})"));
        row(format!("{tokens} tokens"), statistics, verdict);
    }
    table
}

fn loss_table(losses: &[WeightLoss]) -> Table {
    let mut table = Table::new(&["weights of", ">in fewer bits", ">lost of them"]);
    for WeightLoss { graph, tensors, lost } in losses {
        table.row([graph.clone(), tensors.to_string(), format!("{lost:.1e}")]);
    }
    table
}
