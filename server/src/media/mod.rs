//! Images of a request: data URIs, and remote URLs where the operator allows them. What the bytes *are* is the
//! runtime's to find out; the declared media type is not believed.

use axum::body::Bytes;

use crate::body::files::Files;
use crate::body::offload;
use crate::error::ApiError;
use crate::state::App;

pub mod address;
pub mod data_uri;
pub mod remote;

/// Gets one image file of a request and counts it among `files`, which travel with the work: threads go on when a client hangs up. `param` is
/// where the URL stood in the request.
///
/// # Errors
/// 400 that names `param`, 503 when there is no memory for it.
pub(crate) async fn load(
    app: &App,
    mut files: Files,
    url: String,
    param: &str,
) -> Result<(Files, Bytes), ApiError> {
    let limit = app.config.limits.image_bytes.0;
    let result = if data_uri::is_data_uri(&url) {
        offload(url.len(), move || {
            let file = data_uri::decode(&url, limit).map_err(|error| error.to_string())?;
            let file = files.decoded(file);
            Ok((files, file))
        })
        .await?
    } else if let Some(fetcher) = app.fetcher.clone() {
        let expected = files.expect(limit).await;
        expected.map_err(|exhausted| ApiError::no_body_memory(exhausted.retry_after))?;
        tokio::task::spawn_blocking(move || {
            let file = fetcher.fetch(&url).map_err(|error| error.to_string())?;
            let file = files.fetched(file);
            Ok((files, file))
        })
        .await
        .map_err(ApiError::internal)?
    } else {
        Err("expected a data URI (data:image/png;base64,...); this server fetches no remote images, \
             because images.allow_hosts is not set"
            .into())
    };
    result.map_err(|message: String| ApiError::invalid(param, format!("`{param}`: {message}")))
}
