//! Errors in Ollama's form: `{"error": "message"}`.

use axum::response::Response;
use serde::Serialize;

use crate::error::rewritten;

#[derive(Debug, Serialize)]
pub(super) struct ErrorBody {
    pub(super) error: String,
}

/// The same response, where it is an error of ours, in Ollama's form.
pub(crate) async fn in_form(response: Response) -> Response {
    rewritten(response, |error| ErrorBody { error: error.naming() })
}
