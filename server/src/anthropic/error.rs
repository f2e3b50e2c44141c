//! Errors in Anthropic's form.

use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

use crate::error::{ApiError, rewritten};

/// `{"type": "error", "error": {"type": ..., "message": ...}}`.
#[derive(Debug, Serialize)]
pub(super) struct ErrorBody {
    r#type: &'static str,
    error: ErrorDetails,
}

#[derive(Debug, Serialize)]
struct ErrorDetails {
    r#type: &'static str,
    message: String,
}

impl From<&ApiError> for ErrorBody {
    fn from(error: &ApiError) -> Self {
        let kind = match error.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
            status if status.is_server_error() => "api_error",
            _ => "invalid_request_error",
        };
        Self { r#type: "error", error: ErrorDetails { r#type: kind, message: error.naming() } }
    }
}

/// The same response, where it is an error of ours, in Anthropic's form.
pub(crate) async fn in_form(response: Response) -> Response {
    rewritten(response, |error| ErrorBody::from(error))
}
