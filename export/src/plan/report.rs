//! A plan as people and programs read it.

use std::fmt;

use serde::Serialize;

use super::advice::{Outcome, Verdict};
use super::budgets::BudgetCost;
use super::devices::Device;
use super::memory::{Attention, Estimate, Workload};
use super::precision::Precision;
use super::units::{gib, gib_number};
use crate::table::{Table, grouped};

/// What a model needs, and where it fits.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Directory of the checkpoint, or name of the preset.
    pub model: String,
    /// Number of parameters.
    pub parameters: u64,
    /// Bytes of the checkpoint's weights; `None` for a preset.
    pub stored: Option<u64>,
    /// What was asked of it.
    pub workload: Workload,
    /// How attention is computed.
    pub attention: Attention,
    /// Bytes by precision.
    pub estimates: Vec<Estimate>,
    /// Every GPU with every precision.
    pub verdicts: Vec<Verdict>,
    /// Precision of the KV cache in [`Self::budgets`].
    pub budgets_in: Precision,
    /// What an image costs by its budget.
    pub budgets: Vec<BudgetCost>,
}

impl Report {
    /// Whether nothing that was asked about is refused or too large.
    pub fn all_fit(&self) -> bool {
        self.verdicts.iter().all(|verdict| matches!(verdict.outcome, Outcome::Fits { .. }))
    }

    fn devices(&self) -> Vec<Device> {
        let mut devices: Vec<_> = self.verdicts.iter().map(|verdict| verdict.device).collect();
        devices.dedup();
        devices
    }
}

/// Bytes in MiB, one decimal, digits in groups.
fn mib(bytes: u64) -> String {
    let tenths = (bytes as f64 / f64::from(1 << 20) * 10.0).round() as u64;
    format!("{}.{}", grouped(tenths / 10), tenths % 10)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.head(f)?;
        writeln!(f, "Memory, MiB\n\n{}", self.memory())?;
        writeln!(f, "{}", self.peaks())?;
        writeln!(f, "GPUs: GiB left, or missing (-)\n\n{}", self.gpus())?;
        self.advice(f)?;
        write!(f, "What an image costs the decoder, KV cache in {}\n\n{}", self.budgets_in, self.costs())
    }
}

impl Report {
    fn head(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stored =
            self.stored.map(|bytes| format!(", {} MiB in its files", mib(bytes))).unwrap_or_default();
        writeln!(f, "{}: {} parameters{stored}", self.model, grouped(self.parameters))?;
        let Workload { slots, context, image_size, prefill_chunk } = self.workload;
        let attention = match self.attention {
            Attention::Materialized => "materialized",
            Attention::Cached => "materialized (the decoder's cached)",
            Attention::Fused => "fused",
        };
        writeln!(
            f,
            "{slots} answer(s) at a time, context of {} tokens, images of {image_size} px, prefill by {prefill_chunk}, \
             {attention} attention\n",
            grouped(context as u64),
        )
    }

    fn memory(&self) -> Table {
        let stages: Vec<&str> =
            self.estimates.iter().take(1).flat_map(|x| &x.peaks).map(|x| x.stage).collect();
        // The last word says enough in a column.
        let short = |stage: &str| format!(">{}", stage.rsplit('_').next().unwrap_or(stage));
        let mut columns = vec!["precision".to_owned()];
        columns.extend(stages.iter().map(|stage| short(stage)));
        columns.extend([">KV cache", ">activations", ">runtime", ">total"].map(str::to_owned));
        let mut table = Table::new(&columns.iter().map(String::as_str).collect::<Vec<_>>());
        for estimate in &self.estimates {
            let weights = stages.iter().map(|stage| estimate.weights.get(stage).copied().unwrap_or(0));
            let Estimate { kv_cache, activations, overhead, total, .. } = *estimate;
            let bytes = weights.chain([kv_cache, activations, overhead, total]);
            table.row([estimate.precision.to_string()].into_iter().chain(bytes.map(mib)));
        }
        table
    }

    /// Where the activations come from: in the last precision of more than 8 bits, or the one that was asked
    /// for.
    fn peaks(&self) -> Table {
        let wanted =
            self.estimates.iter().find(|x| x.precision == self.budgets_in).or(self.estimates.first());
        let head = wanted.map_or_else(String::new, |x| format!("activations in {}", x.precision));
        let mut table = Table::new(&[&head, ">MiB", "at", ">largest tensor", ">MiB"]);
        for peak in wanted.iter().flat_map(|estimate| &estimate.peaks) {
            let largest = format!("{:?}", peak.largest);
            table.row([
                peak.stage.to_owned(),
                mib(peak.bytes),
                peak.node.clone(),
                largest,
                mib(peak.largest_bytes),
            ]);
        }
        table
    }

    fn gpus(&self) -> Table {
        let precisions = self.estimates.iter().map(|estimate| format!(">{}", estimate.precision));
        let columns: Vec<String> =
            [">class", "GPU", "", ">GiB"].map(str::to_owned).into_iter().chain(precisions).collect();
        let mut table = Table::new(&columns.iter().map(String::as_str).collect::<Vec<_>>());
        for device in self.devices() {
            let facts = device.facts();
            let verdicts = self.verdicts.iter().filter(|verdict| verdict.device == device);
            let cells = verdicts.map(|verdict| match verdict.outcome {
                Outcome::Fits { left } => gib_number(left),
                Outcome::TooLarge { missing, .. } => format!("-{}", gib_number(missing)),
                Outcome::Refused(_) => "refused".to_owned(),
            });
            let (class, compute) = (format!("{} GB", facts.class_gb), facts.compute.to_string());
            let head = [class, facts.name.to_owned(), compute, gib_number(device.memory())];
            table.row(head.into_iter().chain(cells));
        }
        table
    }

    /// Reasons, alternatives and changes; what holds for several GPUs is said once.
    fn advice(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said: Vec<(String, Vec<String>)> = Vec::new();
        let mut say = |text: String, device: Device| {
            let device = format!("{device} ({})", device.compute());
            match said.iter_mut().find(|(other, _)| *other == text) {
                Some((_, devices)) if devices.contains(&device) => {}
                Some((_, devices)) => devices.push(device),
                None => said.push((text, vec![device])),
            }
        };
        for Verdict { device, precision, outcome, caveats } in &self.verdicts {
            match outcome {
                Outcome::Fits { .. } => {}
                Outcome::TooLarge { missing, change } => {
                    say(format!("{precision} is {} too large: {change}", gib(*missing)), *device);
                }
                Outcome::Refused(refusal) => {
                    say(
                        format!("{precision} is refused: it {}; take {}", refusal.reason, refusal.instead),
                        *device,
                    );
                }
            }
            caveats.iter().for_each(|caveat| say((*caveat).to_owned(), *device));
        }
        for (text, devices) in &said {
            writeln!(f, "- {}: {text}", devices.join(", "))?;
        }
        if said.is_empty() { Ok(()) } else { writeln!(f) }
    }

    fn costs(&self) -> Table {
        let columns = ["", ">visual tokens", ">KV MiB", ">of a context", ">prefill GFLOP", ">of full"];
        let mut table = Table::new(&columns);
        for cost in &self.budgets {
            let share = match cost.context_share {
                share if share > 1.0 => "too long".to_owned(),
                share => format!("{:.1} %", share * 100.0),
            };
            table.row([
                if cost.full { "full" } else { "budget" }.to_owned(),
                grouped(cost.tokens as u64),
                mib(cost.kv_cache),
                share,
                format!("{:.1}", cost.prefill_flops as f64 / 1e9),
                format!("{:.1} %", cost.prefill_share * 100.0),
            ]);
        }
        table
    }
}
