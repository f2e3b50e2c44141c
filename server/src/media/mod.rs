//! Images of a request: data URIs, and remote URLs where the operator allows them. What the bytes *are* is the
//! runtime's to find out; the declared media type is not believed.

use std::sync::Arc;

use crate::body::offload;
use crate::error::ApiError;
use crate::state::App;

pub mod address;
pub mod data_uri;
pub mod remote;

/// Gets the bytes of one image. `param` is where the URL stood in the request.
///
/// # Errors
/// 400 that names `param`.
pub async fn load(app: &App, url: String, param: &str) -> Result<Arc<[u8]>, ApiError> {
    let limit = app.config.limits.image_bytes.0;
    let result = if data_uri::is_data_uri(&url) {
        offload(url.len(), move || data_uri::decode(&url, limit).map_err(|error| error.to_string())).await?
    } else if let Some(fetcher) = app.fetcher.clone() {
        tokio::task::spawn_blocking(move || fetcher.fetch(&url).map_err(|error| error.to_string()))
            .await
            .map_err(ApiError::internal)?
    } else {
        Err("expected a data URI (data:image/png;base64,...); this server fetches no remote images, \
             because images.allow_hosts is not set"
            .into())
    };
    result.map(Arc::from).map_err(|message| ApiError::invalid(param, format!("`{param}`: {message}")))
}
