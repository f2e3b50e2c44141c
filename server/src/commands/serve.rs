//! `arrcoc-serve serve`: listens at once, loads in the background, drains on a signal.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use arrcoc_runtime::console;
use arrcoc_runtime::generate::Observer;
use arrcoc_runtime::model::MemoryNeed;
use arrcoc_server::config::Config;
use arrcoc_server::engines::trial::Trial;
use arrcoc_server::engines::{Available, Bundles, Source, first};
use arrcoc_server::metrics::EngineMetrics;
use arrcoc_server::{listen, memory, state::App};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, load, reachable};

/// Blocking threads still at work when the server ends (a fetch, an image) are not waited for longer than
/// this.
const THREAD_TIME: Duration = Duration::from_secs(2);

pub(crate) fn run(config: &Config) -> Result<(), Failure> {
    config.root()?;
    load::start_logging(config, &config.log.filter);
    memory::keep_large_allocations_apart();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(serve(config));
    runtime.shutdown_timeout(THREAD_TIME);
    Ok(result?)
}

async fn serve(config: &Config) -> anyhow::Result<()> {
    let listener = bind(config.listen, "listen").await?;
    let address = listener.local_addr()?;
    let admin = match admin_apart(config) {
        true => Some(bind(config.admin_listen, "admin_listen").await?),
        false => None,
    };
    let probes = probe_listener(config).await?;
    let source = Arc::new(load::source(config)?.tried_by(Trial::new(config)));
    // An engine that cannot be had is said instead of an address. What goes wrong later, while it loads, ends
    // the server.
    let choosing = tokio::task::spawn_blocking({
        let (config, source) = (config.clone(), Arc::clone(&source));
        move || choose(&config, &source)
    });
    let (available, need) = in_time(choosing, config.timeouts.load.0).await?;
    warn_if_open(config, address);
    // Before the address is printed: a reader of the address may send a signal at once.
    let stop = shutdown_signal()?;
    announce(config, address);
    if let Some(admin) = &admin {
        console::offer(&format!("admin on http://{}\n", admin.local_addr()?));
    }
    if let Some(probes) = &probes {
        console::offer(&format!("probes on http://{}\n", probes.local_addr()?));
    }
    console::offer(&format!("open http://{}/ in a browser to ask about a picture\n", reachable(address)));

    // One bundle is nothing to swap between.
    let others = config.engines.is_some().then(|| Arc::clone(&source) as Arc<dyn Source>);
    let app = App::with_source(config.clone(), others);
    let loading = tokio::task::spawn_blocking({
        let app = app.clone();
        move || load_into(&app, source.as_ref(), &available, &need)
    });
    let listeners = listen::Listeners { main: listener, admin, probes };
    let serving = tokio::spawn(listen::serve(listeners, app.clone(), stop));
    let (ended, result) = wait(serving, in_time(loading, config.timeouts.load.0)).await;
    match ended {
        Some(cut_off) if cut_off > 0 => tracing::warn!(cut_off, "stopped; unfinished requests were cut off"),
        Some(_) => tracing::info!("stopped; every request was finished"),
        None => {}
    }
    result
}

/// The result of a part of loading, unless that takes too long. Its thread cannot be ended, so the process
/// has to be.
async fn in_time<T>(
    loading: tokio::task::JoinHandle<anyhow::Result<T>>,
    limit: Duration,
) -> anyhow::Result<T> {
    match tokio::time::timeout(limit, loading).await {
        Ok(loaded) => loaded.context("loading ended abnormally")?,
        Err(_) => anyhow::bail!(
            "the engine did not load within {limit:?} (timeouts.load): a graph that never ends, or a slow disk"
        ),
    }
}

/// Serves until the end, or until loading fails: a server that will never be ready had better say so by
/// ending.
async fn wait(
    mut serving: tokio::task::JoinHandle<std::io::Result<usize>>,
    loading: impl Future<Output = anyhow::Result<()>>,
) -> (Option<usize>, anyhow::Result<()>) {
    tokio::select! {
        cut_off = &mut serving => return finish(cut_off),
        loaded = loading => {
            if loaded.is_err() {
                serving.abort();
                return (None, loaded);
            }
        }
    }
    finish(serving.await)
}

fn finish(
    cut_off: Result<std::io::Result<usize>, tokio::task::JoinError>,
) -> (Option<usize>, anyhow::Result<()>) {
    match cut_off {
        Ok(Ok(cut_off)) => (Some(cut_off), Ok(())),
        Ok(Err(error)) => (None, Err(error).context("the server cannot listen")),
        Err(error) => (None, Err(error).context("the server ended abnormally")),
    }
}

/// The engine to begin with, and what it needs, of which it is known that it is there.
fn choose(config: &Config, source: &Bundles) -> anyhow::Result<(Available, MemoryNeed)> {
    let available = first(source, config.precision)?;
    let need = check_memory(config, source, &available)?;
    Ok((available, need))
}

fn load_into(app: &App, source: &Bundles, available: &Available, need: &MemoryNeed) -> anyhow::Result<()> {
    let started = Instant::now();
    let config = &app.config;
    let limit = config.engine.memory.map_or(u64::MAX, |limit| limit.0 as u64);
    if need.total() > limit {
        tracing::warn!(
            %need,
            "the first engine alone takes more than engine.memory: no swap will find room"
        );
    }
    let bodies = config.limits.body_memory();
    tracing::info!(bytes = need.total(), parts = %need, bodies, "memory at the worst request");
    let name = config.model_name.as_deref().unwrap_or(&available.model);
    let metrics =
        EngineMetrics::new(name, available.context_length, &available.token_budgets, available.embeds_target);
    let metrics = Arc::new(metrics);
    // Dashboards and gateways find every series from here on, at zero.
    app.metrics.set_engine(Arc::clone(&metrics));
    let observer = Arc::clone(&metrics) as Arc<dyn Observer>;
    let engine = source
        .load(available, observer)
        .map_err(anyhow::Error::from_boxed)
        .with_context(|| format!("cannot load {}", available.dir.display()))?;
    let info = engine.info();
    tracing::info!(
        model = info.name,
        precision = %info.precision,
        target = ?info.target,
        runtime = info.runtime,
        context_length = info.context_length,
        slots = info.kv_slots,
        weight_bytes = info.weight_bytes,
        kv_bytes = info.kv_bytes,
        seconds = started.elapsed().as_secs_f64(),
        "ready"
    );
    app.install(engine, metrics);
    Ok(())
}

/// Refuses an engine whose worst request would not fit, before anything of it runs.
fn check_memory(config: &Config, source: &Bundles, engine: &Available) -> anyhow::Result<MemoryNeed> {
    let need = source.need(engine).map_err(anyhow::Error::from_boxed)?;
    let gpu = source.free_gpu_memory().unwrap_or_else(|error| {
        tracing::warn!(%error, "the GPU's free memory is not known: whether the engine fits will be seen when it is loaded");
        Some(u64::MAX)
    });
    let allowances = memory::allowances();
    let bodies = config.limits.body_memory() as u64;
    memory::check(&need, gpu, bodies, &allowances)
        .with_context(|| format!("{} does not fit", engine.dir.display()))?;
    Ok(need)
}

async fn bind(address: SocketAddr, setting: &str) -> anyhow::Result<TcpListener> {
    let advice = || format!("cannot listen on {address}; choose another address or port with `{setting}`");
    TcpListener::bind(address).await.with_context(advice)
}

/// Whether `/admin` has a listener of its own: strangers who reach the API should not find it there.
fn admin_apart(config: &Config) -> bool {
    let (admin, main) = (config.admin_listen, config.listen);
    // Port 0 is another free port each time.
    !config.auth.admin_keys.is_empty() && (admin != main || admin.port() == 0)
}

/// Where probes listen unless `probe_listen` says.
const PROBE_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8082);

/// The listener for probes alone; `None` where the main one is all there is to be. A second server on the
/// machine finds the default port taken, which is no reason not to start.
async fn probe_listener(config: &Config) -> anyhow::Result<Option<TcpListener>> {
    match config.probe_listen {
        Some(probes) if probes == config.listen && probes.port() != 0 => Ok(None),
        Some(probes) => bind(probes, "probe_listen").await.map(Some),
        None => {
            if let Ok(listener) = TcpListener::bind(PROBE_LISTEN).await {
                return Ok(Some(listener));
            }
            let free = SocketAddr::new(PROBE_LISTEN.ip(), 0);
            tracing::warn!(
                "{PROBE_LISTEN} is taken, by another server perhaps: probes of this one get a free port; `probe_listen` sets one"
            );
            bind(free, "probe_listen").await.map(Some)
        }
    }
}

/// Says where the server is. It serves all the same where nobody hears of it.
fn announce(config: &Config, address: SocketAddr) {
    tracing::info!(%address, "listening");
    console::offer(&format!("listening on http://{address}\n"));
    if let Some(path) = &config.port_file
        && let Err(error) = write_port(path, address.port())
    {
        tracing::error!(%error, port = address.port(), "cannot write the port to {}", path.display());
    }
}

/// Written beside and renamed, so that a reader never sees half a number.
fn write_port(path: &Path, port: u16) -> std::io::Result<()> {
    // A rename would replace a device or a link as readily as a file.
    if std::fs::symlink_metadata(path).is_ok_and(|there| !there.is_file()) {
        return Err(std::io::Error::other("expected a file, or nothing, in its place"));
    }
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    std::fs::write(&partial, format!("{port}\n"))?;
    std::fs::rename(&partial, path)
}

fn warn_if_open(config: &Config, address: SocketAddr) {
    if config.auth.api_keys.is_empty() && !address.ip().is_loopback() {
        tracing::warn!("no auth.api_keys: everyone who reaches {address} can use this server");
    }
}

/// Completes on the first SIGTERM or SIGINT; a second one ends the process at once.
fn shutdown_signal() -> std::io::Result<impl Future<Output = ()> + Send> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::warn!("second signal: ending at once");
            console::flush();
            // 128 + SIGINT, as shells report it.
            std::process::exit(130);
        });
    })
}
