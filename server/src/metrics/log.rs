//! What the log lost.

use arrcoc_runtime::console;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, Opts};

/// `arrcoc_log_dropped_total`: counted where the lines are dropped, asked for when it is scraped.
pub(super) struct LogDropped {
    /// Name and help.
    description: IntCounter,
}

impl LogDropped {
    pub(super) fn new() -> prometheus::Result<Self> {
        Ok(Self { description: counter()? })
    }
}

fn counter() -> prometheus::Result<IntCounter> {
    let help = "Lines of the log that were dropped: standard error was full, closed or stalled.";
    IntCounter::with_opts(Opts::new("arrcoc_log_dropped_total", help))
}

impl Collector for LogDropped {
    fn desc(&self) -> Vec<&Desc> {
        self.description.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Ok(now) = counter() else { return Vec::new() };
        now.inc_by(console::dropped());
        now.collect()
    }
}
