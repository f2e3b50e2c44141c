//! Every way a request can fail, and its HTTP form. The one place where errors meet status codes.
//!
//! What the user may know is in [`ApiError::message`]; what only the operator may know is logged under an id,
//! and the user gets the id.

use std::time::Duration;

use arrcoc_runtime::generate::GenerateError;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;

use arrcoc_bundle::quote::{excerpt, one_line, quote};

/// A failed request, in OpenAI's terms.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// OpenAI's `type`: a class of errors.
    pub kind: &'static str,
    /// OpenAI's `code`: exactly this error.
    pub code: &'static str,
    /// The request field at fault.
    pub param: Option<String>,
    /// What was expected, what was found, what to do.
    pub message: String,
    /// When it makes sense to try again.
    pub retry_after: Option<Duration>,
    /// The connection ends with the answer: the rest of the request is not read.
    pub close: bool,
}

/// In a request's extensions: it is refused with this before anything else is looked at.
#[derive(Debug, Clone)]
pub(crate) struct Refused(pub(crate) ApiError);

/// Most bytes of a message: causes that come from elsewhere can be of any length.
const LONGEST_MESSAGE: usize = 2000;
/// A draining server goes away; its successor needs a moment.
pub(crate) const RETRY_LATER: Duration = Duration::from_secs(5);

/// The code of [`ApiError::content_coding`].
const CONTENT_CODING: &str = "unsupported_content_encoding";

impl ApiError {
    pub(crate) fn new(
        status: StatusCode,
        kind: &'static str,
        code: &'static str,
        message: impl Into<String>,
    ) -> Self {
        let message = one_line(&message.into(), LONGEST_MESSAGE);
        Self { status, kind, code, param: None, message, retry_after: None, close: false }
    }

    fn retry(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// The same error, after which the connection is closed.
    pub(crate) fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// 400: a field of the request is wrong.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::malformed("invalid_value", message) }
    }

    /// 400: a prompt with more text than the server takes.
    pub(crate) fn text_too_long(param: &str, limit: usize, at_least: usize) -> Self {
        let message = format!(
            "`{param}`: expected at most {limit} bytes of text, found {at_least} or more (limits.text)"
        );
        Self::invalid(param, message)
    }

    /// The same error, `field` under the name by which the user knows it.
    pub fn renamed(mut self, field: &str, name: &str) -> Self {
        if self.param.as_deref() == Some(field) {
            self.param = Some(name.into());
        }
        self
    }

    /// 400: the field is legal OpenAI API, but not supported here.
    pub fn unsupported(param: impl Into<String>, instead: &str) -> Self {
        let param = param.into();
        let message = format!("`{param}` is not supported by this server: {instead}");
        Self { param: Some(param), ..Self::malformed("unsupported_parameter", message) }
    }

    /// 400: the request as a whole is wrong.
    pub fn malformed(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", code, message)
    }

    /// 401: no key, or not one of ours.
    pub fn unauthorized(message: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "authentication_error", "invalid_api_key", message)
    }

    /// 403: the administrative interface is not switched on.
    pub fn admin_disabled() -> Self {
        let message = "the administrative interface is off; set auth.admin_keys to switch it on";
        Self::new(StatusCode::FORBIDDEN, "permission_error", "admin_disabled", message)
    }

    /// 404: no such model.
    pub fn unknown_model(asked: &str, served: &str) -> Self {
        let asked = quote(asked);
        let message = format!("the model {asked} does not exist; this server has `{served}`");
        Self {
            param: Some("model".into()),
            ..Self::new(StatusCode::NOT_FOUND, "not_found_error", "model_not_found", message)
        }
    }

    /// 404: a response that is not kept, or not any more.
    pub fn unknown_response(id: &str, param: &str) -> Self {
        let id = quote(id);
        let message = format!(
            "there is no response {id}; responses are kept for a while, and not where `store` is false or they are too large (responses.time_to_live, responses.memory)"
        );
        let code = "response_not_found";
        Self {
            param: Some(param.into()),
            ..Self::new(StatusCode::NOT_FOUND, "not_found_error", code, message)
        }
    }

    /// 404: no such route.
    pub fn unknown_route(path: &str) -> Self {
        let message = format!("there is nothing at {}; see /openapi.json for what there is", quote(path));
        Self::new(StatusCode::NOT_FOUND, "not_found_error", "unknown_route", message)
    }

    /// 405.
    pub fn method_not_allowed(method: &str, path: &str) -> Self {
        let (path, method) = (quote(path), excerpt(method));
        let message = format!("{path} does not take {method}; the Allow header says what it takes");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", "method_not_allowed", message)
    }

    /// 408: the body did not arrive in time.
    pub fn slow_body(limit: Duration) -> Self {
        let message = format!("the request body did not arrive within {limit:?}");
        Self::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", "body_timeout", message).closing()
    }

    /// 408: the body stands still and others wait for its memory.
    pub fn stalled_body() -> Self {
        let message = "the request body stopped arriving while others waited for the memory that it held";
        Self::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", "body_timeout", message).closing()
    }

    /// 413.
    pub fn body_too_large(limit: usize) -> Self {
        let message = format!("the request body is larger than the {limit} bytes allowed (limits.body)");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", "body_too_large", message).closing()
    }

    /// 413: too much JSON besides texts and images.
    pub fn json_too_large(limit: usize, found: usize) -> Self {
        let message = format!(
            "expected at most {limit} bytes of JSON besides texts and images, found {found} (limits.json)"
        );
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", "json_too_large", message)
    }

    /// 415.
    pub fn media_type(found: Option<&str>) -> Self {
        let found = excerpt(found.unwrap_or("none"));
        let message = format!("expected the header `Content-Type: application/json`, found {found}");
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "invalid_request_error",
            "unsupported_media_type",
            message,
        )
    }

    /// 415: a body coded in a way that is not decoded here.
    pub fn content_coding(found: &str) -> Self {
        let message = format!(
            "expected the header `Content-Encoding` to be gzip, deflate or identity, or none, found {found}"
        );
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request_error", CONTENT_CODING, message)
            .closing()
    }

    /// 421: a name under which this server does not answer.
    pub fn misdirected(host: &str) -> Self {
        let host = quote(host);
        let message = format!(
            "expected a name of this server in the header `Host`, found {host}; call it by its address or as \
             localhost, or have the name added to its setting server.hosts"
        );
        Self::new(StatusCode::MISDIRECTED_REQUEST, "permission_error", "unknown_host", message)
    }

    /// 503: every connection that the server may have is at work.
    pub fn too_many_connections(retry_after: Duration) -> Self {
        let message =
            "all connections that this server may have (limits.connections) have requests in progress";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", "too_many_connections", message)
            .retry(retry_after)
            .closing()
    }

    /// 503: other requests' bodies take all memory that bodies may take.
    pub fn no_body_memory(retry_after: Duration) -> Self {
        let message =
            "the bodies of other requests take all memory that bodies may take (limits.body_memory)";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", "no_body_memory", message)
            .retry(retry_after)
            .closing()
    }

    /// 503: the system gave no memory for this request.
    pub fn no_memory(message: String) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", "no_memory", message).retry(RETRY_LATER)
    }

    /// 503: no model yet.
    pub fn loading() -> Self {
        let message = "the model is still loading; /ready tells when it is there";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", "loading", message).retry(RETRY_LATER)
    }

    /// 503: no model any more.
    pub fn draining() -> Self {
        let message = "the server is shutting down and takes no new requests";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", "draining", message).retry(RETRY_LATER)
    }

    /// 500: ours to fix. Logs `cause` under an id, and tells the user the id.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        let id = uuid::Uuid::new_v4().simple().to_string();
        tracing::error!(error_id = %id, %cause, "internal error");
        let message = format!("internal error; the server's log has the cause under the id {id}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "internal_error", message)
    }

    /// The message for APIs whose errors have no place for the field at fault: it names that.
    pub(crate) fn naming(&self) -> String {
        match &self.param {
            Some(param) if !self.message.contains(&format!("`{param}`")) => {
                format!("`{param}`: {}", self.message)
            }
            _ => self.message.clone(),
        }
    }

    /// OpenAI's `{"error": {...}}`.
    pub fn body(&self) -> ErrorBody<'_> {
        let Self { message, kind, param, code, .. } = self;
        ErrorBody { error: ErrorDetail { message, kind, param: param.as_deref(), code } }
    }
}

/// The same response, where it is an error of ours, with another body.
pub(crate) fn rewritten<B: Serialize>(response: Response, body: impl FnOnce(&ApiError) -> B) -> Response {
    let Some(error) = response.extensions().get::<ApiError>().cloned() else { return response };
    let (mut parts, _) = response.into_parts();
    // It was the other body's.
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, axum::Json(body(&error)).into_response().into_body())
}

/// The body of every answer that is an error.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Error")]
pub struct ErrorBody<'e> {
    error: ErrorDetail<'e>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
struct ErrorDetail<'e> {
    /// What was expected, what was found, what to do
    message: &'e str,
    /// A class of errors
    #[serde(rename = "type")]
    kind: &'e str,
    /// The request field at fault
    param: Option<&'e str>,
    /// Exactly this error
    code: &'e str,
}

impl From<GenerateError> for ApiError {
    fn from(error: GenerateError) -> Self {
        let message = error.to_string();
        match error {
            GenerateError::Invalid { field, .. } => Self::invalid(field, message),
            GenerateError::QueueFull { retry_after, .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "queue_full", message)
                    .retry(retry_after.max(Duration::from_secs(1)))
            }
            GenerateError::Draining => Self::draining(),
            GenerateError::Timeout(_) => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, "server_error", "timeout", message)
            }
            GenerateError::Memory(_) => Self::no_memory(message),
            GenerateError::Internal(cause) => Self::internal(cause),
        }
    }
}

/// The refusal that [`crate::state::Serving::admit`] gives before anything is decoded.
pub(crate) fn queue_full(waiting: usize, retry_after: Duration) -> ApiError {
    GenerateError::QueueFull { waiting, retry_after }.into()
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        // For the log line about the request, which is written further out.
        response.extensions_mut().insert(self.clone());
        let headers = response.headers_mut();
        if let Some(after) = self.retry_after {
            headers
                .insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs_f64().ceil().max(1.0) as u64));
        }
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if self.code == CONTENT_CODING {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn generate_errors_map_to_their_status() {
        let cases = [
            (GenerateError::Invalid { field: "max_tokens", message: "m".into() }, 400, Some("max_tokens")),
            (GenerateError::QueueFull { waiting: 3, retry_after: Duration::from_millis(2500) }, 429, None),
            (GenerateError::Draining, 503, None),
            (GenerateError::Timeout(Duration::from_secs(1)), 504, None),
            (GenerateError::Memory("no memory".into()), 503, None),
            (GenerateError::Internal("secret path".into()), 500, None),
        ];
        for (error, status, param) in cases {
            let api = ApiError::from(error);
            assert_eq!((api.status.as_u16(), api.param.as_deref()), (status, param));
            assert!(!api.message.contains("secret"), "{}", api.message);
        }
    }

    #[test]
    fn retry_after_is_whole_seconds_rounded_up() {
        let error = GenerateError::QueueFull { waiting: 3, retry_after: Duration::from_millis(2500) };
        let response = ApiError::from(error).into_response();
        assert_eq!(response.headers()[header::RETRY_AFTER], "3");
    }
}
