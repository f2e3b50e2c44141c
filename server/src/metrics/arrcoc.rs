//! Our own metrics: where the time of a request goes, how many tokens images get, and whether the adapter
//! keeps to the statistics that the decoder was trained on.

use arrcoc_bundle::{Precision, Statistics};
use arrcoc_runtime::generate::{Cache, Note};
use arrcoc_runtime::model::ModelInfo;
use prometheus::{Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

use super::register;

/// From a millisecond (a small allocator) to minutes (a large encoder on a small CPU).
const STAGE: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0];
const VISUAL_TOKENS: &[f64] = &[16.0, 32.0, 64.0, 100.0, 160.0, 256.0, 400.0, 1024.0, 4096.0];

/// What the visual tokens look like to the decoder, beside what they should.
struct Adapter {
    target: Statistics,
    found: [GaugeVec; 3],
    drifted: IntCounterVec,
}

pub(super) struct Arrcoc {
    stages: HistogramVec,
    visual_tokens: Histogram,
    tiers: IntCounterVec,
    cache_queries: IntCounterVec,
    cache_hits: IntCounterVec,
    adapter: Option<Adapter>,
    info: GaugeVec,
    requests: IntCounterVec,
    /// Budgets of the tiers, which are their label values too.
    token_budgets: Vec<usize>,
}

impl Arrcoc {
    pub(super) fn new(registry: &Registry, token_budgets: &[usize], target: Option<Statistics>) -> Self {
        let counter = |name: &str, help: &str, label: &str| {
            register(registry, IntCounterVec::new(Opts::new(name, help), &[label]))
        };
        let stages =
            HistogramOpts::new("arrcoc_stage_seconds", "Time of one run of a stage.").buckets(STAGE.to_vec());
        let visual = HistogramOpts::new("arrcoc_visual_tokens", "Visual tokens per image.")
            .buckets(VISUAL_TOKENS.to_vec());
        let info = Opts::new("arrcoc_engine_info", "The engine in service. Always 1.");
        let arrcoc = Self {
            stages: register(registry, HistogramVec::new(stages, &["stage"])),
            visual_tokens: register(registry, Histogram::with_opts(visual)),
            tiers: counter("arrcoc_tier_total", "Images by tier, named by its token budget.", "tier"),
            cache_queries: counter("arrcoc_cache_queries_total", "Lookups by cache.", "cache"),
            cache_hits: counter("arrcoc_cache_hits_total", "Successful lookups by cache.", "cache"),
            adapter: target.map(|target| Adapter::new(registry, target)),
            info: register(registry, GaugeVec::new(info, &["model", "precision", "target", "runtime"])),
            requests: counter(
                "arrcoc_requests_total",
                "Requests by the precision of the engine that took them in.",
                "precision",
            ),
            token_budgets: token_budgets.to_vec(),
        };
        for budget in token_budgets.iter().map(usize::to_string) {
            arrcoc.tiers.with_label_values(&[&budget]);
            if let Some(adapter) = &arrcoc.adapter {
                adapter.drifted.with_label_values(&[&budget]);
            }
        }
        for cache in Cache::ALL {
            arrcoc.cache_queries.with_label_values(&[cache.name()]);
            arrcoc.cache_hits.with_label_values(&[cache.name()]);
        }
        arrcoc
    }

    pub(super) fn describe(&self, info: &ModelInfo) {
        let (precision, target) = (info.precision.name(), info.target.name());
        self.info.reset();
        self.info.with_label_values(&[&info.name, precision, target, &info.runtime]).set(1.0);
        self.requests.with_label_values(&[precision]);
    }

    pub(super) fn token_budgets(&self) -> &[usize] {
        &self.token_budgets
    }

    pub(super) fn request(&self, precision: Precision) {
        self.requests.with_label_values(&[&precision.to_string()]).inc();
    }

    pub(super) fn note(&self, note: Note<'_>) {
        match note {
            Note::Stage(stage, took) => {
                self.stages.with_label_values(&[stage.name()]).observe(took.as_secs_f64());
            }
            Note::Image { tier, tokens } => {
                self.visual_tokens.observe(tokens as f64);
                if let Some(tier) = tier {
                    self.tiers.with_label_values(&[&self.tier(tier)]).inc();
                }
            }
            Note::Cache { cache, hit } => {
                self.cache_queries.with_label_values(&[cache.name()]).inc();
                self.cache_hits.with_label_values(&[cache.name()]).inc_by(hit.into());
            }
            Note::Embeds { tier, statistics } => {
                if let Some(adapter) = &self.adapter {
                    adapter.note(&self.tier(tier), statistics);
                }
            }
            Note::Iteration { .. } => {}
        }
    }

    fn tier(&self, tier: usize) -> String {
        self.token_budgets.get(tier).map_or_else(|| "unknown".to_owned(), usize::to_string)
    }
}

impl Adapter {
    fn new(registry: &Registry, target: Statistics) -> Self {
        let target_gauge = |name: &str, help: &str, value: f32| {
            register(registry, Gauge::with_opts(Opts::new(name, help))).set(value.into());
        };
        target_gauge("arrcoc_adapter_output_mean_target", "Mean that the adapter aims at.", target.mean);
        target_gauge(
            "arrcoc_adapter_output_std_target",
            "Standard deviation that the adapter aims at.",
            target.std,
        );
        target_gauge(
            "arrcoc_adapter_output_sparsity_target",
            "Share of zeros the adapter aims at.",
            target.sparsity,
        );
        let found = ["mean", "std", "sparsity"].map(|statistic| {
            let name = format!("arrcoc_adapter_output_{statistic}");
            let help = format!("The adapter's output for the last image of a tier: {statistic}.");
            register(registry, GaugeVec::new(Opts::new(name, help), &["tier"]))
        });
        let drifted = Opts::new(
            "arrcoc_adapter_drift_total",
            "Images for which the adapter's output had left its target statistics, by tier.",
        );
        Self { target, found, drifted: register(registry, IntCounterVec::new(drifted, &["tier"])) }
    }

    fn note(&self, budget: &str, statistics: Statistics) {
        let values = [statistics.mean, statistics.std, statistics.sparsity];
        for (gauge, value) in self.found.iter().zip(values) {
            gauge.with_label_values(&[budget]).set(value.into());
        }
        if let Some(drift) = statistics.drift(&self.target) {
            let target = self.target;
            tracing::warn!(budget, %drift, ?statistics, ?target, "the quality adapter has drifted; verify the bundle");
            self.drifted.with_label_values(&[budget]).inc();
        }
    }
}
