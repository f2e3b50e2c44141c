//! `arrcoc-serve`: query-aware vision-language models behind an OpenAI-compatible API.
//!
//! [`app`] is the whole HTTP service over a [`state::App`]; [`listen`] puts it on a port; [`config`] says
//! how. What answers is behind [`engine::Engine`], so that all of it is tested without a model; [`engines`]
//! finds, loads and swaps them.

pub mod anthropic;
pub mod auth;
pub mod body;
pub mod chat;
pub mod config;
pub mod engine;
pub mod engines;
pub mod error;
mod fields;
pub mod generation;
mod host;
pub mod json;
pub mod listen;
pub mod media;
pub mod memory;
pub mod metrics;
mod middleware;
mod names;
pub mod ollama;
pub mod openai;
pub mod openapi;
mod pace;
pub mod routes;

pub mod state;
pub mod stream;

/// The HTTP service: routes and middleware over the shared state.
pub fn app(state: state::App) -> axum::Router {
    let router = middleware::cors(routes::public_router(), &state).merge(routes::admin_router());
    middleware::wrap(router, &state).with_state(state)
}

/// The same without the administrative interface, for listeners that strangers reach.
pub fn public_app(state: state::App) -> axum::Router {
    let router = middleware::cors(routes::public_router(), &state).merge(routes::admin_elsewhere_router());
    middleware::wrap(router, &state).with_state(state)
}

/// The same with the administrative interface, for its own listener, which no web page has business with.
pub fn admin_app(state: state::App) -> axum::Router {
    middleware::wrap(routes::public_router().merge(routes::admin_router()), &state).with_state(state)
}

/// Probes and metrics alone.
pub fn probe_app(state: state::App) -> axum::Router {
    middleware::wrap(routes::probe_router(), &state).with_state(state)
}
