//! From a socket to responses: bounded connections, time limits on headers and on unread answers, and an
//! orderly end.
//!
//! `axum::serve` offers none of these bounds, and without them a few thousand idle sockets stop a server.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use self::activity::Activity;
use self::connections::{Connections, Place};
use self::hosts::Hosts;
use self::service::Requests;
use self::socket::Socket;
use crate::state::App;

mod activity;
mod connections;
mod framing;
mod hosts;
mod service;
mod socket;

/// Open connections of the listeners for administration and for probes: a few people, scripts and scrapers.
const FEW_CONNECTIONS: usize = 32;

/// After the last answer, connections get this long to end; idle ones end at once.
const CLOSE_TIME: Duration = Duration::from_secs(2);

/// Longest head of a request, and what is read ahead of a body.
const BUFFER_BYTES: usize = 64 << 10;

/// A silent connection is asked so often, on TCP's level, whether the other machine still knows it.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Where the server listens.
#[derive(Debug)]
pub struct Listeners {
    /// For everyone: the API, the page and the probes.
    pub main: TcpListener,
    /// For `/admin`, which the main one does not know then.
    pub admin: Option<TcpListener>,
    /// For probes and metrics alone.
    pub probes: Option<TcpListener>,
}

impl From<TcpListener> for Listeners {
    fn from(main: TcpListener) -> Self {
        Self { main, admin: None, probes: None }
    }
}

/// Serves until `stop` completes. Then readiness ends and new requests get 503 while running ones finish, for
/// at most `timeouts.drain`; probes and metrics go on until the last one has. Returns how many requests had
/// to be cut off.
///
/// # Errors
/// The system does not tell a listener's address. Once it serves there are none: a connection that fails does
/// not stop the others.
pub async fn serve(
    listeners: impl Into<Listeners>,
    app: App,
    stop: impl Future<Output = ()>,
) -> io::Result<usize> {
    let Listeners { main, admin, probes } = listeners.into();
    let graceful = GracefulShutdown::new();
    let router = match admin {
        Some(_) => crate::public_app(app.clone()),
        None => crate::app(app.clone()),
    };
    let hosts = |listener: &TcpListener| -> io::Result<Hosts> {
        Ok(Hosts::new(&app.config.server.hosts, listener.local_addr()?))
    };
    let names = hosts(&main)?;
    let serving = accept(Some(main), router, app.config.limits.connections.0, names, &app, &graceful);
    let names = admin.as_ref().map_or_else(|| Ok(Hosts::any()), hosts)?;
    let administering = accept(admin, crate::admin_app(app.clone()), FEW_CONNECTIONS, names, &app, &graceful);
    let _probing = probes.map(|listener| probe(listener, app.clone())).transpose()?;
    let drained = async {
        stop.await;
        tracing::info!(in_flight = app.in_flight(), "draining");
        app.drain();
        let finished = tokio::time::timeout(app.config.timeouts.drain.0, app.idle()).await;
        if finished.is_err() { app.in_flight() } else { 0 }
    };
    let cut_off = tokio::select! {
        cut_off = drained => cut_off,
        never = serving => match never {},
        never = administering => match never {},
    };
    let _ = tokio::time::timeout(CLOSE_TIME, graceful.shutdown()).await;
    Ok(cut_off)
}

/// Answers probes on a thread of its own, so that nothing that keeps the others busy delays them, until what
/// is returned is dropped.
fn probe(listener: TcpListener, app: App) -> io::Result<oneshot::Sender<()>> {
    let (end, ended) = oneshot::channel();
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = listener.into_std()?;
    std::thread::Builder::new().name("arrcoc-probes".into()).spawn(move || {
        let probing = async {
            let listener = match TcpListener::from_std(listener) {
                Ok(listener) => listener,
                Err(error) => return tracing::error!(%error, "no probe is answered at {address}"),
            };
            let graceful = GracefulShutdown::new();
            let router = crate::probe_app(app.clone());
            let accepting = accept(Some(listener), router, FEW_CONNECTIONS, Hosts::any(), &app, &graceful);
            tokio::select! {
                _ = ended => {}
                never = accepting => match never {},
            }
        };
        runtime.block_on(probing);
        runtime.shutdown_background();
    })?;
    Ok(end)
}

/// Accepts connections for ever, `most` at a time; none where there is no listener.
async fn accept(
    listener: Option<TcpListener>,
    router: Router,
    most: usize,
    hosts: Hosts,
    app: &App,
    graceful: &GracefulShutdown,
) -> Infallible {
    let Some(listener) = listener else { return std::future::pending().await };
    let connections = Connections::new(most);
    let hosts = Arc::new(hosts);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let activity = Activity::new();
                let place = Arc::new(connections.enter(&activity).await);
                let requests = Requests {
                    app: app.clone(),
                    router: router.clone(),
                    hosts: Arc::clone(&hosts),
                    activity,
                    place,
                };
                tokio::spawn(connection_of(stream, requests, app, graceful));
            }
            Err(error) => refused(&error, &connections).await,
        }
    }
}

fn connection_of(
    stream: TcpStream,
    requests: Requests,
    app: &App,
    graceful: &GracefulShutdown,
) -> impl Future<Output = ()> + use<> {
    let timeouts = &app.config.timeouts;
    // Tokens are small and each should leave at once.
    let _ = stream.set_nodelay(true);
    // A machine that has lost its power or its network sends no end.
    let keep_alive =
        TcpKeepalive::new().with_time(TCP_KEEP_ALIVE).with_interval(TCP_KEEP_ALIVE).with_retries(4);
    let _ = SockRef::from(&stream).set_tcp_keepalive(&keep_alive);
    // HTTP/1 only: what OpenAI's clients and the gateways speak, and the header timeout holds from the first
    // byte on.
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(timeouts.headers.0)
        .max_buf_size(BUFFER_BYTES);
    let (activity, place): (Arc<Activity>, Arc<Place>) =
        (Arc::clone(&requests.activity), Arc::clone(&requests.place));
    let socket = TokioIo::new(Socket::new(stream, timeouts.write.0, Arc::clone(&activity)));
    let watcher = graceful.watcher();
    async move {
        let connection = builder.serve_connection(socket, TowerToHyperService::new(requests));
        tokio::select! {
            ended = watcher.watch(connection.into_owned()) => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection ended");
                }
            }
            () = activity.closed() => {}
            () = place.expired() => {}
        }
    }
}

/// Errors of `accept` are either this connection's, and over, or the process' (no file descriptors left):
/// then an idle connection is closed, and accepting again at once would only spin.
async fn refused(error: &io::Error, connections: &Connections) {
    tracing::warn!(%error, "a connection was not accepted");
    if !matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    ) {
        connections.close_one();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
