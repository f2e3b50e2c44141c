//! Keys. A handler that takes [`ApiKey`] or [`AdminKey`] as an argument is closed to everyone without one.

use axum::extract::FromRequestParts;
use axum::http::HeaderName;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;

use crate::config::Keys;
use crate::error::ApiError;
use crate::state::App;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The request may use what is no administrator's: `/v1`, `/api` and the like.
pub struct ApiKey;

/// The request may use `/admin`.
pub struct AdminKey;

impl FromRequestParts<App> for ApiKey {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let keys = &app.config.auth.api_keys;
        if !keys.is_empty() {
            check(parts, keys, "auth.api_keys")?;
        }
        Ok(Self)
    }
}

impl FromRequestParts<App> for AdminKey {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let keys = &app.config.auth.admin_keys;
        if keys.is_empty() {
            return Err(ApiError::admin_disabled());
        }
        check(parts, keys, "auth.admin_keys")?;
        Ok(Self)
    }
}

/// `setting` is where the keys come from.
fn check(parts: &Parts, keys: &Keys, setting: &str) -> Result<(), ApiError> {
    let text = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text(AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    // Anthropic's clients send the second.
    let Some(key) = bearer.or_else(|| text(API_KEY).map(str::trim)) else {
        return Err(ApiError::unauthorized(&format!(
            "expected the header `Authorization: Bearer KEY`, or `x-api-key`, with one of the server's {setting}, found none"
        )));
    };
    if keys.contains(key) {
        Ok(())
    } else {
        Err(ApiError::unauthorized(&format!("the key is not one of the server's {setting}")))
    }
}
