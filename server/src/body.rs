//! Request bodies: bounded in size and time. What they say is read in [`crate::json`].

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use futures::StreamExt;

use crate::error::ApiError;
use crate::json::{self, Body as JsonRequest};
use crate::state::App;

/// A request body of type `T`.
pub struct JsonBody<T>(pub T);

/// Bodies above this are parsed on a blocking thread: a megabyte of JSON takes about as long as a decode step.
pub(crate) const OFFLOAD_BYTES: usize = 64 << 10;

/// How much of an oversized body is read and thrown away before the 413 goes out, as a multiple of the limit. Closing
/// while the client still sends makes many clients report a broken connection instead of the error.
const DISCARD_FACTOR: usize = 8;

impl<T: JsonRequest> FromRequest<App> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        check_content_type(request.headers())?;
        let limit = app.config.limits.body.0;
        let timeout = app.config.timeouts.body.0;
        let (parts, body) = request.into_parts();
        let bytes = tokio::time::timeout(timeout, read(&parts.headers, body, limit))
            .await
            .map_err(|_| ApiError::slow_body(timeout))??;
        let app = app.clone();
        let value = offload(bytes.len(), move || json::parse(&bytes, &app.config.limits)).await??;
        Ok(Self(value))
    }
}

/// Runs `work` here when `bytes` is small, and on a blocking thread when it is large.
///
/// # Errors
/// 500 when `work` panics.
pub(crate) async fn offload<R: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> R + Send + 'static,
) -> Result<R, ApiError> {
    if bytes <= OFFLOAD_BYTES {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(ApiError::internal)
}

fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let found = headers.get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let essence = found.as_deref().and_then(|value| value.split(';').next()).unwrap_or("").trim();
    if essence.eq_ignore_ascii_case("application/json") {
        Ok(())
    } else {
        Err(ApiError::media_type(found.as_deref()))
    }
}

async fn read(headers: &HeaderMap, body: Body, limit: usize) -> Result<Vec<u8>, ApiError> {
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse::<usize>().ok());
    let mut bytes = Vec::with_capacity(announced.unwrap_or(0).min(OFFLOAD_BYTES));
    let mut total = 0_usize;
    let mut stream = body.into_data_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| {
            ApiError::malformed("body_unreadable", format!("the body broke off: {error}"))
        })?;
        total += chunk.len();
        if total <= limit && announced.is_none_or(|length| length <= limit) {
            bytes.extend_from_slice(&chunk);
        } else if total > limit.saturating_mul(DISCARD_FACTOR) {
            break;
        } else {
            bytes = Vec::new();
        }
    }
    if total > limit { Err(ApiError::body_too_large(limit)) } else { Ok(bytes) }
}
