//! From a socket to responses: bounded connections, time limits on headers and on unread answers, and an orderly end.
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
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::config::Timeouts;
use crate::state::App;
use crate::write_timeout::WriteTimeout;

/// Open connections of the administrative listener: a few people and scripts.
const ADMIN_CONNECTIONS: usize = 32;

/// After the last answer, connections get this long to end; idle ones end at once.
const CLOSE_TIME: Duration = Duration::from_secs(2);

/// Serves until `stop` completes. Then readiness ends and new requests get 503 while running ones finish, for at most
/// `timeouts.drain`; probes and metrics go on until the last one has. Returns how many requests had to be cut off.
///
/// With a listener of its own for `/admin`, the main one does not know those paths.
///
/// # Errors
/// None once listening: a connection that fails does not stop the others.
pub async fn serve(
    listener: TcpListener,
    admin: Option<TcpListener>,
    app: App,
    stop: impl Future<Output = ()>,
) -> usize {
    let graceful = GracefulShutdown::new();
    let main = match admin {
        Some(_) => crate::public_app(app.clone()),
        None => crate::app(app.clone()),
    };
    let most = app.config.limits.connections.0;
    let serving = accept(&listener, main, most, &app, &graceful);
    let administering = async {
        match &admin {
            Some(listener) => {
                accept(listener, crate::app(app.clone()), ADMIN_CONNECTIONS, &app, &graceful).await
            }
            None => std::future::pending().await,
        }
    };
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
    drop((listener, admin));
    let _ = tokio::time::timeout(CLOSE_TIME, graceful.shutdown()).await;
    cut_off
}

/// Accepts connections for ever, `most` at a time.
async fn accept(
    listener: &TcpListener,
    router: Router,
    most: usize,
    app: &App,
    graceful: &GracefulShutdown,
) -> Infallible {
    let permits = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
    loop {
        // Never closed, so there is always a permit in the end.
        let permit = Arc::clone(&permits).acquire_owned().await.ok();
        match listener.accept().await {
            Ok((stream, _)) => {
                let connection = connection_of(stream, &router, &app.config.timeouts, graceful);
                tokio::spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(error) => refused(&error).await,
        }
    }
}

fn connection_of(
    stream: TcpStream,
    router: &Router,
    timeouts: &Timeouts,
    graceful: &GracefulShutdown,
) -> impl Future<Output = ()> + use<> {
    // Tokens are small and each should leave at once.
    let _ = stream.set_nodelay(true);
    // HTTP/1 only: what OpenAI's clients and the gateways speak, and the header timeout holds from the first byte on.
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(timeouts.headers.0);
    let service = TowerToHyperService::new(router.clone());
    let watcher = graceful.watcher();
    let stream = TokioIo::new(WriteTimeout::new(stream, timeouts.write.0));
    async move {
        let connection = builder.serve_connection(stream, service);
        if let Err(error) = watcher.watch(connection.into_owned()).await {
            tracing::debug!(%error, "connection ended");
        }
    }
}

/// Errors of `accept` are either this connection's, and over, or the process' (no file descriptors left), and then
/// accepting again at once would only spin.
async fn refused(error: &io::Error) {
    tracing::warn!(%error, "a connection was not accepted");
    if !matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    ) {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
