//! The routes, one file each. An endpoint is its path, its handler and its page in the OpenAPI document, so that none
//! can be forgotten.

use axum::Router;
use axum::extract::{Request, State};
use axum::routing::{MethodRouter, any};
use serde_json::Value;

use crate::error::ApiError;
use crate::state::App;

mod admin_engines;
mod admin_swap;
mod chat_completions;
mod completions;
mod health;
mod landing;
mod metrics;
mod models;
mod openapi;
mod ready;

/// What the paths of the administrative interface begin with.
const ADMIN: &str = "/admin";

/// One path.
pub struct Endpoint {
    /// In axum's syntax.
    pub path: &'static str,
    /// What answers.
    pub handler: MethodRouter<App>,
    /// The path's entry in the OpenAPI document.
    pub document: Value,
}

/// All of them.
pub fn endpoints() -> Vec<Endpoint> {
    let mut all = public_endpoints();
    all.extend([admin_engines::endpoint(), admin_swap::endpoint()]);
    all
}

/// Those for everyone who may use the server.
pub fn public_endpoints() -> Vec<Endpoint> {
    vec![
        chat_completions::endpoint(),
        completions::endpoint(),
        models::list(),
        models::one(),
        health::endpoint(),
        ready::endpoint(),
        metrics::endpoint(),
        openapi::endpoint(),
        landing::endpoint(),
    ]
}

/// A router of these endpoints, without middleware.
pub fn router(endpoints: Vec<Endpoint>) -> Router<App> {
    let administers = endpoints.iter().any(|endpoint| endpoint.path.starts_with(ADMIN));
    let router = match administers {
        true => Router::new(),
        false => Router::new().route("/admin/{*path}", any(admin_elsewhere)),
    };
    endpoints
        .into_iter()
        .fold(router, |router, endpoint| router.route(endpoint.path, endpoint.handler))
        .fallback(unknown_route)
        .method_not_allowed_fallback(method_not_allowed)
}

async fn unknown_route(State(_): State<App>, request: Request) -> ApiError {
    ApiError::unknown_route(request.uri().path())
}

/// Says that there is another address, and not which: whoever runs the server has read it at the start.
async fn admin_elsewhere(request: Request) -> ApiError {
    let mut error = ApiError::unknown_route(request.uri().path());
    error.message = "there is no /admin at this address: it has a listener of its own (admin_listen, with auth.admin_keys)".into();
    error
}

async fn method_not_allowed(request: Request) -> ApiError {
    ApiError::method_not_allowed(request.method().as_str(), request.uri().path())
}
