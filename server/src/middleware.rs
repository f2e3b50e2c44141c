//! What happens to every request: an id, a log line, a count, CORS where configured, and a 500 instead of a
//! torn connection should a handler panic.

use std::any::Any;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, AllowOrigin, AllowPrivateNetwork, CorsLayer};
use tracing::Instrument;

use crate::error::{ApiError, Refused};
use crate::routes::is_probe;
use crate::state::App;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id of a client's that is kept.
const LONGEST_ID: usize = 128;

/// How long browsers may remember the answer to a preflight.
const PREFLIGHT_TIME: Duration = Duration::from_secs(600);

/// Wraps the routes. The last layer added is the outermost.
pub(crate) fn wrap(router: Router<App>, app: &App) -> Router<App> {
    router.layer(CatchPanicLayer::custom(panicked)).layer(from_fn_with_state(app.clone(), observe))
}

fn panicked(cause: Box<dyn Any + Send>) -> Response {
    let text = cause.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| cause.downcast_ref::<String>().cloned()).unwrap_or_else(|| "unknown".into());
    ApiError::internal(format!("a handler panicked: {text}")).into_response()
}

/// Opens these routes to pages of the configured origins. Without any, a browser's question (OPTIONS) is
/// answered 405 like every other method that a route does not take.
pub(crate) fn cors(router: Router<App>, app: &App) -> Router<App> {
    let origins = &app.config.cors.origins;
    if origins.is_empty() {
        return router;
    }
    let (allowed, private) = if origins.iter().any(|origin| origin == "*") {
        (AllowOrigin::any(), AllowPrivateNetwork::default())
    } else {
        let listed = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
        (AllowOrigin::list(listed), AllowPrivateNetwork::yes())
    };
    let layer = CorsLayer::new()
        .allow_origin(allowed)
        // A page on the Internet may ask for a server in a private network, if that names the page's origin.
        .allow_private_network(private)
        .allow_methods([Method::GET, Method::POST])
        // OpenAI's client for browsers sends a dozen of its own (x-stainless-*), more with every version.
        // None of them does anything here.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([REQUEST_ID, header::RETRY_AFTER])
        .max_age(PREFLIGHT_TIME);
    router.layer(layer)
}

/// The request's id: the client's own, where it is one word of ASCII, so that its log and ours can be laid
/// side by side.
fn id(headers: &HeaderMap) -> String {
    let sent = headers.get(REQUEST_ID).map(HeaderValue::as_bytes);
    let sent = sent.filter(|id| id.len() <= LONGEST_ID && id.iter().all(u8::is_ascii_graphic));
    match sent.and_then(|id| std::str::from_utf8(id).ok()) {
        Some(id) if !id.is_empty() => id.to_owned(),
        _ => uuid::Uuid::new_v4().simple().to_string(),
    }
}

async fn observe(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = id(request.headers());
    // Labels and fields come from fixed sets: what a client can choose freely must not become a time series.
    let route =
        request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).replace("{*", "{");
    let method = match request.method().as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS") => known.to_owned(),
        _ => "OTHER".to_owned(),
    };
    let span = tracing::info_span!("request", id, method, route);
    let mut response = match request.extensions_mut().remove() {
        Some(Refused(error)) => error.into_response(),
        None => next.run(request).instrument(span.clone()).await,
    };
    let status = response.status().as_u16();
    app.metrics.http(&route, &method, status);
    // For a stream this is the time to its first chunk.
    let seconds = started.elapsed().as_secs_f64();
    span.in_scope(|| match response.extensions().get::<ApiError>() {
        // Probes and scrapes come every few seconds and say nothing new.
        _ if is_probe(&route) => tracing::debug!(status, seconds, "answered"),
        // A message is one line whatever the request held.
        Some(ApiError { code, param, message, .. }) => {
            tracing::info!(status, seconds, code, param, reason = message, "refused");
        }
        None => tracing::info!(status, seconds, "answered"),
    });
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}
