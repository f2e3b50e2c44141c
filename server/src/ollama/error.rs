//! Errors in Ollama's form: `{"error": "message"}`.

use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::error::ApiError;

#[derive(Debug, Serialize)]
pub(super) struct ErrorBody {
    pub(super) error: String,
}

/// The same response, where it is an error of ours, in Ollama's form.
pub(crate) async fn in_form(response: Response) -> Response {
    let Some(error) = response.extensions().get::<ApiError>().cloned() else { return response };
    let (mut parts, _) = response.into_parts();
    let body = axum::Json(ErrorBody { error: error.naming() }).into_response().into_body();
    // It was another body's.
    parts.headers.remove(axum::http::header::CONTENT_LENGTH);
    Response::from_parts(parts, body)
}
