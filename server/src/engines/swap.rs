//! One engine takes another's place: load beside the running one, warm up, switch, and unload what nobody
//! uses any more.
//!
//! Nothing is taken away from the running engine before the new one has answered its first question: whatever
//! fails on the way leaves it as it was. (Engines that are only kept for later may have made room by then.) A
//! request finishes on the engine that it began on, since it holds on to it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrcoc_bundle::Precision;
use arrcoc_runtime::generate::Observer;
use arrcoc_runtime::model::{MemoryNeed, Mib};

use super::{Available, LoadFailure, Source};
use crate::memory::{self, Shortage};
use crate::metrics::EngineMetrics;
use crate::state::{App, Phase, Serving};

/// The right to swap.
type Turn = tokio::sync::OwnedMutexGuard<()>;

/// How often an engine is asked whether its last request has ended.
const UNLOAD_POLL: Duration = Duration::from_millis(50);

/// What to swap to.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Model name; `None` for the one that is served.
    pub model: Option<String>,
    /// Precision.
    pub precision: Precision,
}

/// What a swap did.
pub struct Swapped {
    /// The engine in service now.
    pub serving: Arc<Serving>,
    /// False when it was in service already.
    pub changed: bool,
    /// Time from the order to the switch.
    pub took: Duration,
}

/// Why everything is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SwapError {
    /// The server has one bundle and no directory of them.
    #[error("this server has no engines to swap between: start it with --engines DIR")]
    NoEngines,
    /// The first engine is still on its way, or the server is going down.
    #[error("the server is loading its first engine or shutting down; engines are swapped while it serves")]
    NotServing,
    /// One at a time: another one is under way, or its engine is still loading though its time was over.
    #[error("another swap is under way; ask again when it is done")]
    Busy,
    /// There is no such engine.
    #[error("no engine of `{model}` in {precision}; found {}", list(found))]
    Unknown {
        /// The model that was asked for.
        model: String,
        /// The precision that was asked for.
        precision: Precision,
        /// What there is.
        found: Vec<String>,
    },
    /// The new engine is of another model.
    #[error(
        "`{found}` is another model than `{serving}`: its {differs} differ; start a server of its own for it"
    )]
    OtherModel {
        /// The model in service.
        serving: String,
        /// The model that was asked for.
        found: String,
        /// What tells them apart for clients and metrics.
        differs: &'static str,
    },
    /// It does not fit beside the running one.
    #[error("there is no room beside the running engine: {0}")]
    Memory(Shortage),
    /// It cannot be loaded, or its first run failed.
    #[error("the engine did not load: {}", chain(.0.as_ref()))]
    Load(LoadFailure),
    /// It was still loading when its time was over.
    #[error(
        "the engine did not load within {0:?} (timeouts.load); it is dropped when it has, and until then no other swap begins"
    )]
    Slow(Duration),
}

fn list(found: &[String]) -> String {
    if found.is_empty() { "none".to_owned() } else { found.join(", ") }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Swaps. Requests go on meanwhile; only one swap runs at a time.
///
/// # Errors
/// [`SwapError`]; then the engine that served still does.
pub async fn swap(app: &App, wanted: Wanted) -> Result<Swapped, SwapError> {
    let Ok(turn) = Arc::clone(&app.swapping).try_lock_owned() else { return Err(SwapError::Busy) };
    let started = Instant::now();
    let precision = wanted.precision;
    let result = attempt(app, wanted, started, turn).await;
    match &result {
        Ok(swapped) if swapped.changed => {
            tracing::info!(%precision, seconds = swapped.took.as_secs_f64(), "swapped");
            app.metrics.swapped(precision, swapped.took);
        }
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(%precision, %error, "not swapped");
            app.metrics.swap_failed(precision);
        }
    }
    result
}

/// `turn` is held until nothing of this swap goes on, be it on a thread that nobody waits for any more.
async fn attempt(app: &App, wanted: Wanted, started: Instant, turn: Turn) -> Result<Swapped, SwapError> {
    let Some(source) = app.source.clone() else { return Err(SwapError::NoEngines) };
    let Phase::Ready(current) = app.phase() else { return Err(SwapError::NotServing) };
    if app.draining() {
        return Err(SwapError::NotServing);
    }
    let model = wanted.model.unwrap_or_else(|| current.engine.info().name.clone());
    let available = find(Arc::clone(&source), model, wanted.precision).await?;
    same_model(&current, &available)?;
    // One that is broken, since its files have changed for example, is loaded anew.
    if available.is(current.engine.info()) && current.engine.healthy() {
        return Ok(Swapped { serving: current, changed: false, took: started.elapsed() });
    }
    let (next, _turn) = match app.take_loaded(&available) {
        Some(loaded) => (loaded, turn),
        None => load(app, source, available, Arc::clone(&current.metrics), turn).await?,
    };
    let previous = app.switch(Arc::clone(&next));
    for retired in app.keep(previous) {
        tokio::spawn(retire(app, retired));
    }
    Ok(Swapped { serving: next, changed: true, took: started.elapsed() })
}

async fn find(source: Arc<dyn Source>, model: String, precision: Precision) -> Result<Available, SwapError> {
    let found = blocking(move || source.list()).await?;
    let mut usable: Vec<Available> = found.into_iter().filter_map(|found| found.engine.ok()).collect();
    usable.sort_by_key(Available::rank);
    let name = |engine: &Available| format!("`{}` in {}", engine.model, engine.variant());
    let names = || usable.iter().map(name).collect();
    let unknown = || SwapError::Unknown { model: model.clone(), precision, found: names() };
    let fits = |engine: &&Available| engine.model == model && engine.precision == precision;
    usable.iter().find(fits).cloned().ok_or_else(unknown)
}

/// Clients and metrics know a model by its name and tiers: a swap changes neither.
fn same_model(current: &Serving, available: &Available) -> Result<(), SwapError> {
    let info = current.engine.info();
    let differs = if info.name != available.model {
        "names"
    } else if current.metrics.token_budgets() != available.token_budgets {
        "token budgets"
    } else {
        return Ok(());
    };
    let (serving, found) = (info.name.clone(), available.model.clone());
    Err(SwapError::OtherModel { serving, found, differs })
}

async fn load(
    app: &App,
    source: Arc<dyn Source>,
    available: Available,
    metrics: Arc<EngineMetrics>,
    turn: Turn,
) -> Result<(Arc<Serving>, Turn), SwapError> {
    let available = Arc::new(available);
    let need = {
        let (source, available) = (Arc::clone(&source), Arc::clone(&available));
        blocking(move || source.need(&available)).await?
    };
    make_room(app, &source, &need).await?;
    let measured = {
        let (source, available) = (Arc::clone(&source), Arc::clone(&available));
        blocking(move || source.try_out(&available, &need)).await?
    };
    if measured != need {
        make_room(app, &source, &measured).await?;
    }
    let observer = Arc::clone(&metrics) as Arc<dyn Observer>;
    let limit = app.config.timeouts.load.0;
    // A thread cannot be ended from outside. One that takes too long is left to itself with the turn: a third
    // engine must not be loaded beside it. What it has loaded in the end is dropped, then the turn.
    let loading = blocking(move || source.load(&available, observer).map(|engine| (engine, turn)));
    let (engine, turn) = tokio::time::timeout(limit, loading).await.map_err(|_| SwapError::Slow(limit))??;
    Ok((app.serving_of(engine, metrics), turn))
}

/// Asks a source on a thread that may block. A thread that dies is a failure like any other.
async fn blocking<T: Send + 'static>(
    ask: impl FnOnce() -> Result<T, LoadFailure> + Send + 'static,
) -> Result<T, SwapError> {
    let answer = tokio::task::spawn_blocking(ask).await.map_err(|died| SwapError::Load(died.into()))?;
    answer.map_err(SwapError::Load)
}

/// Unloads engines that are kept for later, the least recently used one first, until there is room for
/// another; none of them where all together would not make enough.
async fn make_room(app: &App, source: &Arc<dyn Source>, need: &MemoryNeed) -> Result<(), SwapError> {
    loop {
        let gpu = gpu_memory(source).await;
        let Some(shortage) = shortage(app, need, gpu) else { return Ok(()) };
        if shortage.needed > shortage.free.saturating_add(shortage.kept) {
            return Err(SwapError::Memory(shortage));
        }
        let Some(kept) = app.drop_least_recent() else { return Err(SwapError::Memory(shortage)) };
        retire(app, kept).await;
    }
}

/// What is free on the GPU that engines run on; `None` where they run on the CPU.
async fn gpu_memory(source: &Arc<dyn Source>) -> Option<u64> {
    let source = Arc::clone(source);
    blocking(move || source.free_gpu_memory()).await.unwrap_or_else(|error| {
        tracing::warn!(%error, "the GPU's free memory is not known: whether the next engine fits will be seen when it is loaded");
        Some(u64::MAX)
    })
}

/// What is missing for an engine. `engine.memory` bounds all engines together.
fn shortage(app: &App, need: &MemoryNeed, gpu: Option<u64>) -> Option<Shortage> {
    let (loaded, kept) = (app.loaded_bytes(), app.kept_bytes());
    let engines = if gpu.is_some() { 0 } else { loaded.saturating_sub(touched(app)) };
    let promised = engines.saturating_add(app.bodies.left());
    let check = memory::check(need, gpu, promised, &memory::allowances());
    // Unloading engines makes room where they compute.
    let system = |shortage: &Shortage| gpu.is_some() && shortage.place != memory::GPU;
    let short = check.err().map(|shortage| match system(&shortage) {
        true => shortage,
        false => Shortage { kept, ..shortage },
    });
    short.or_else(|| {
        let limit = app.config.engine.memory?.0 as u64;
        let needed = need.engine();
        let free = limit.saturating_sub(loaded);
        let place = format!("engine.memory ({})", Mib(limit));
        (needed > free).then_some(Shortage { place, need: *need, needed, free, kept })
    })
}

/// Memory that the engines have touched, bytes: what the process holds beyond its beginnings and requests'
/// bodies. Where the system does not tell, all of theirs.
fn touched(app: &App) -> u64 {
    let others = app.base_memory.saturating_add(app.bodies.held());
    memory::resident().map_or(u64::MAX, |held| held.saturating_sub(others))
}

/// Unloads an engine that nothing new is sent to; until it has ended it is listed and counted.
fn retire(app: &App, engine: Arc<Serving>) -> impl Future<Output = ()> + use<> {
    app.retiring(&engine);
    unload(engine)
}

/// Unloads an engine once its last request has ended. Unloading joins its threads, so it happens on a thread
/// that may block.
async fn unload(mut engine: Arc<Serving>) {
    let last = loop {
        match Arc::try_unwrap(engine) {
            Ok(last) => break last,
            Err(shared) => engine = shared,
        }
        tokio::time::sleep(UNLOAD_POLL).await;
    };
    let info = last.engine.info();
    let (model, precision) = (info.name.clone(), info.precision);
    let unloaded = tokio::task::spawn_blocking(move || {
        drop(last);
        memory::give_back();
    });
    match unloaded.await {
        Ok(()) => tracing::info!(model, %precision, "unloaded"),
        Err(error) => tracing::error!(model, %precision, %error, "an engine died while it was unloaded"),
    }
}
