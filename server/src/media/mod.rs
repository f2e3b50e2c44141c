//! Images of a request: data URIs, and remote URLs where the operator allows them. What the bytes *are* is
//! the runtime's to find out; the declared media type is not believed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Bytes;
use futures::TryStreamExt;
use futures::stream::FuturesOrdered;

use crate::body::files::Files;
use crate::body::offload;
use crate::error::ApiError;
use crate::state::App;

pub mod address;
pub mod data_uri;
pub mod remote;

/// Most images of a request that are loaded at the same time.
const SIDE_BY_SIDE: usize = 4;

/// Images that are expected from elsewhere may take this share of the memory of all bodies, however small
/// they turn out to be.
const SHARE: usize = 4;

/// An image of a request.
pub(crate) struct Wanted {
    /// Its URL.
    pub(crate) url: String,
    /// Where in the request the URL stood.
    pub(crate) param: String,
}

/// Gets the image files of a request in their order and counts them among `files`, a few at a time. The files
/// in work travel with the threads that load them, since threads go on when a client hangs up.
///
/// # Errors
/// 400 that names the place of the first image that cannot be had, 503 when there is no memory for them.
pub(crate) async fn load(
    app: &App,
    mut files: Files,
    wanted: Vec<Wanted>,
) -> Result<(Files, Vec<Bytes>), ApiError> {
    let limits = &app.config.limits;
    let most = limits.image_bytes.0;
    let at_once = (limits.body_memory() / SHARE / most.max(1)).clamp(1, SIDE_BY_SIDE);
    let mut loaded = Vec::with_capacity(wanted.len());
    let mut wanted = wanted.into_iter();
    loop {
        let round: Vec<Wanted> = wanted.by_ref().take(at_once).collect();
        if round.is_empty() {
            return Ok((files, loaded));
        }
        let remote = round.iter().filter(|image| !data_uri::is_data_uri(&image.url)).count();
        if remote > 0 && app.fetcher.is_some() {
            let expected = files.expect(most.saturating_mul(remote)).await;
            expected.map_err(|exhausted| ApiError::no_body_memory(exhausted.retry_after))?;
        }
        let (counted, stop) = (Arc::new(files), Stop::default());
        // Results come in the order of the images: of several errors, the first image's is the answer.
        let loading: FuturesOrdered<_> =
            round.into_iter().map(|image| load_one(app, image, Arc::clone(&counted), stop.flag())).collect();
        let found: Vec<File> = loading.try_collect().await?;
        // Every thread has given its own up before its file was there.
        files = Arc::into_inner(counted)
            .ok_or_else(|| ApiError::internal("the memory of images is held by a thread that has ended"))?;
        loaded.extend(found.into_iter().map(|file| match file {
            File::Decoded(file) => files.decoded(file),
            File::Fetched(file) => files.fetched(file),
        }));
    }
}

/// An image file, and where it was.
enum File {
    /// In the body itself.
    Decoded(Vec<u8>),
    /// Elsewhere.
    Fetched(Vec<u8>),
}

async fn load_one(
    app: &App,
    Wanted { url, param }: Wanted,
    counted: Arc<Files>,
    stop: Arc<AtomicBool>,
) -> Result<File, ApiError> {
    let limit = app.config.limits.image_bytes.0;
    let result = if data_uri::is_data_uri(&url) {
        offload(url.len(), move || {
            let file = data_uri::decode(&url, limit).map_err(|error| error.to_string());
            drop(counted);
            file.map(File::Decoded)
        })
        .await?
    } else if let Some(fetcher) = app.fetcher.clone() {
        tokio::task::spawn_blocking(move || {
            let file = fetcher.fetch(&url, &stop).map_err(|error| error.to_string());
            drop(counted);
            file.map(File::Fetched)
        })
        .await
        .map_err(ApiError::internal)?
    } else {
        Err("expected a data URI (data:image/png;base64,...); this server fetches no remote images, \
             because images.allow_hosts is not set"
            .into())
    };
    result.map_err(|message: String| ApiError::invalid(&param, format!("`{param}`: {message}")))
}

/// Tells threads to stop when it is dropped: the client has hung up, or an image before theirs cannot be had.
#[derive(Default)]
struct Stop(Arc<AtomicBool>);

impl Stop {
    fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
