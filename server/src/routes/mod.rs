//! The routes, one file each. An endpoint is its path, its handler and its page in the OpenAPI document, so
//! that none can be forgotten.

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any};
use schemars::JsonSchema;
use serde::Serialize;

use crate::error::ApiError;
use crate::openapi::Page;
use crate::state::App;

mod admin_engines;
mod admin_swap;
mod chat_completions;
mod completions;
mod health;
mod landing;
mod messages;
mod metrics;
mod models;
mod ollama;
mod openapi;
mod ready;
mod responses;
mod tokenize;
mod version;

/// One path.
pub struct Endpoint {
    /// In axum's syntax.
    pub path: &'static str,
    /// What answers.
    pub handler: MethodRouter<App>,
    /// What the OpenAPI document says of it.
    pub page: Page,
}

/// What a probe answers.
#[derive(Debug, Serialize, JsonSchema)]
struct Status {
    status: &'static str,
}

/// All of them.
pub fn endpoints() -> Vec<Endpoint> {
    let mut all = public_endpoints();
    all.extend(admin_endpoints());
    all
}

/// Those for everyone who may use the server.
pub fn public_endpoints() -> Vec<Endpoint> {
    let mut all = vec![
        chat_completions::endpoint(),
        completions::endpoint(),
        messages::endpoint(),
        messages::count(),
        tokenize::tokenize(),
        tokenize::detokenize(),
        tokenize::info(),
        version::endpoint(),
        responses::create(),
        responses::one(),
        models::list(),
        models::one(),
        openapi::endpoint(),
        landing::endpoint(),
    ];
    all.extend(ollama::endpoints());
    all.extend(probe_endpoints());
    all
}

fn admin_endpoints() -> Vec<Endpoint> {
    vec![admin_engines::endpoint(), admin_swap::endpoint()]
}

/// Those that tell how the server is.
fn probe_endpoints() -> Vec<Endpoint> {
    vec![health::endpoint(), ready::endpoint(), metrics::endpoint()]
}

/// Whether a path is one of the probes'.
pub(crate) fn is_probe(path: &str) -> bool {
    [health::PATH, ready::PATH, metrics::PATH].contains(&path)
}

/// A router of what everyone may use, without middleware.
pub fn public_router() -> Router<App> {
    with_fallbacks(router(public_endpoints()))
}

/// A router of the probes, without middleware.
pub fn probe_router() -> Router<App> {
    with_fallbacks(router(probe_endpoints()))
}

/// Tells those who look for /admin on a listener without it that there is another, to be merged with another
/// router.
pub fn admin_elsewhere_router() -> Router<App> {
    Router::new().route("/admin/{*path}", any(admin_elsewhere))
}

/// A router of the administrative interface, to be merged with another one.
pub fn admin_router() -> Router<App> {
    router(admin_endpoints()).method_not_allowed_fallback(method_not_allowed)
}

fn router(endpoints: Vec<Endpoint>) -> Router<App> {
    endpoints
        .into_iter()
        .fold(Router::new(), |router, endpoint| router.route(endpoint.path, endpoint.handler))
}

fn with_fallbacks(router: Router<App>) -> Router<App> {
    router.fallback(unknown_route).method_not_allowed_fallback(method_not_allowed)
}

async fn unknown_route(State(_): State<App>, request: Request) -> Response {
    let path = request.uri().path();
    in_form_of(path, ApiError::unknown_route(path)).await
}

/// An error in the form of the API that a path belongs to.
async fn in_form_of(path: &str, error: ApiError) -> Response {
    let response = error.into_response();
    match path {
        path if path.starts_with("/api/") => crate::ollama::in_form(response).await,
        path if path.starts_with("/v1/messages") => crate::anthropic::in_form(response).await,
        _ => response,
    }
}

/// Says that there is another address, and not which: the operator has read it at the start.
async fn admin_elsewhere(request: Request) -> ApiError {
    let mut error = ApiError::unknown_route(request.uri().path());
    error.message = "there is no /admin at this address: it has a listener of its own (admin_listen, with auth.admin_keys)".into();
    error
}

async fn method_not_allowed(request: Request) -> Response {
    let path = request.uri().path();
    in_form_of(path, ApiError::method_not_allowed(request.method().as_str(), path)).await
}
