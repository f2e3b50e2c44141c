//! Prometheus metrics: vLLM's names exactly ([`vllm`]), so that dashboards, autoscalers and gateways work
//! unchanged, and our own ([`arrcoc`]).

use std::time::Duration;

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use arrcoc_bundle::{Precision, Statistics};
use arrcoc_runtime::generate::{Cache, Note, Observer};
use arrcoc_runtime::model::{ModelInfo, Occupancy};
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

mod arrcoc;
mod exposition;
mod log;
mod vllm;

pub use vllm::{Finish, Vllm};

/// From a kept engine (at once) to a large one from a slow disk.
const SWAP: &[f64] = &[0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];

/// Everything under `/metrics`: the server's own counters, and those of the engine in service.
pub struct Metrics {
    registry: Registry,
    http_requests: IntCounterVec,
    swap_seconds: HistogramVec,
    swap_failures: IntCounterVec,
    engine: ArcSwapOption<EngineMetrics>,
}

impl Metrics {
    /// Counters at zero, no engine.
    #[allow(clippy::new_without_default, reason = "one instance, made by the state")]
    pub fn new() -> Self {
        let registry = Registry::new();
        observe_process(&registry);
        let http_requests = register(
            &registry,
            IntCounterVec::new(
                Opts::new("arrcoc_http_requests_total", "HTTP responses by route, method and status."),
                &["route", "method", "status"],
            ),
        );
        let swap_seconds = HistogramOpts::new(
            "arrcoc_swap_seconds",
            "Time from the order to swap to the moment that new requests went to the new engine.",
        )
        .buckets(SWAP.to_vec());
        let swap_seconds = register(&registry, HistogramVec::new(swap_seconds, &["precision"]));
        let swap_failures =
            Opts::new("arrcoc_swap_failures_total", "Swaps that changed nothing, by precision.");
        let swap_failures = register(&registry, IntCounterVec::new(swap_failures, &["precision"]));
        register_collector(&registry, log::LogDropped::new());
        Self { registry, http_requests, swap_seconds, swap_failures, engine: ArcSwapOption::empty() }
    }

    /// Shows this engine's metrics from now on.
    pub fn set_engine(&self, engine: Arc<EngineMetrics>) {
        self.engine.store(Some(engine));
    }

    /// The engine's metrics, if there is one.
    pub fn engine(&self) -> Option<Arc<EngineMetrics>> {
        self.engine.load_full()
    }

    /// Counts a swap.
    pub fn swapped(&self, precision: Precision, took: Duration) {
        self.swap_seconds.with_label_values(&[&precision.to_string()]).observe(took.as_secs_f64());
    }

    /// Counts a swap that failed.
    pub fn swap_failed(&self, precision: Precision) {
        self.swap_failures.with_label_values(&[&precision.to_string()]).inc();
    }

    /// Counts a response.
    pub fn http(&self, route: &str, method: &str, status: u16) {
        self.http_requests.with_label_values(&[route, method, &status.to_string()]).inc();
    }

    /// The text exposition format, version 0.0.4.
    ///
    /// # Errors
    /// The encoder's, which is a defect of ours.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut families = self.registry.gather();
        if let Some(engine) = self.engine() {
            families.extend(engine.registry.gather());
        }
        exposition::encode(&families)
    }
}

/// Metrics of one engine: made before it loads, since it reports through them from its first run on.
pub struct EngineMetrics {
    registry: Registry,
    /// The vLLM set.
    pub vllm: Vllm,
    arrcoc: arrcoc::Arrcoc,
}

impl EngineMetrics {
    /// Metrics for a model. `token_budgets` names its tiers, and `target` is what its visual tokens
    /// should look like to the decoder, where the model says so.
    pub fn new(
        model_name: &str,
        context_length: usize,
        token_budgets: &[usize],
        target: Option<Statistics>,
    ) -> Self {
        let registry = Registry::new();
        let vllm = Vllm::new(&registry, model_name, context_length);
        let arrcoc = arrcoc::Arrcoc::new(&registry, token_budgets, target);
        Self { registry, vllm, arrcoc }
    }

    /// Fills in what is known once the engine is loaded.
    pub fn describe(&self, info: &ModelInfo) {
        self.vllm.describe(info);
        self.arrcoc.describe(info);
    }

    /// The tiers, by their budgets, as the metrics name them.
    pub fn token_budgets(&self) -> &[usize] {
        self.arrcoc.token_budgets()
    }

    /// Counts a request that an engine of this precision took in.
    pub fn request(&self, precision: Precision) {
        self.arrcoc.request(precision);
    }

    /// Brings the gauges up to date; called before each scrape. `answers` are being written.
    pub fn set_occupancy(&self, load: Occupancy, answers: usize) {
        self.vllm.set_occupancy(load, answers);
    }
}

impl Observer for EngineMetrics {
    fn note(&self, note: Note<'_>) {
        self.arrcoc.note(note);
        match note {
            // vLLM's multi-modal cache spares an image its processing, and each of ours does. An image is
            // looked up among the visual tokens first, and among the image features only where it was not
            // found: one query, whichever answers.
            Note::Cache { cache, hit } if hit || cache == Cache::ImageFeatures => self.vllm.mm_cache(hit),
            Note::Iteration { tokens } => self.vllm.iteration(tokens),
            _ => {}
        }
    }
}

/// What operating systems know of every process, by the names that all of Prometheus' clients give it:
/// `process_*`.
#[cfg(target_os = "linux")]
#[allow(clippy::expect_used, reason = "a registry is empty when it is made")]
fn observe_process(registry: &Registry) {
    let collector = prometheus::process_collector::ProcessCollector::for_self();
    registry.register(Box::new(collector)).expect("the process is registered twice");
}

/// There is a collector for Linux alone.
#[cfg(not(target_os = "linux"))]
fn observe_process(_: &Registry) {}

/// Registers a metric. Names, labels and buckets are constants of this module (the model's name is a label
/// *value*, and any text is a legal one), so a failure is a defect that the first test to build the registry
/// shows.
#[allow(clippy::expect_used, reason = "see above")]
fn register<M: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<M>,
) -> M {
    let metric = metric.expect("a metric's name, labels or buckets are illegal");
    register_collector(registry, Ok(metric.clone()));
    metric
}

/// The same for a metric that nobody else holds.
#[allow(clippy::expect_used, reason = "as for `register`")]
fn register_collector(
    registry: &Registry,
    metric: prometheus::Result<impl prometheus::core::Collector + 'static>,
) {
    let metric = metric.expect("a metric's name, labels or buckets are illegal");
    registry.register(Box::new(metric)).expect("a metric is registered twice");
}
