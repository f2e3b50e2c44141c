//! From hyper to the router: what is refused before anything is looked up, and when a request begins and
//! ends.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::header::{CONNECTION, CONTENT_TYPE};
use axum::http::{Request, Response, Version};
use http_body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep};
use tower::{BoxError, Service};

use super::activity::{Activity, Answering};
use super::connections::Place;
use super::hosts::Hosts;
use super::socket::ANNOUNCED_PATIENCE;
use crate::error::{ApiError, Refused};
use crate::routes::is_probe;
use crate::state::App;

/// The service of one connection.
#[derive(Clone)]
pub(super) struct Requests {
    pub(super) app: App,
    pub(super) router: Router,
    pub(super) hosts: Arc<Hosts>,
    pub(super) activity: Arc<Activity>,
    pub(super) place: Arc<Place>,
}

impl Requests {
    /// Why a request is refused whatever it asks for.
    fn refusal<B>(&self, request: Request<B>, probe: bool) -> (Request<B>, Option<ApiError>) {
        let (head, body) = request.into_parts();
        let fault = self.activity.fault();
        let fault = fault
            .map(|found| ApiError::malformed("bad_framing", format!("the request has {found}")).closing());
        let refusal = fault.or_else(|| self.hosts.check(&head, probe).err());
        (Request::from_parts(head, body), refusal)
    }
}

impl<B> Service<Request<B>> for Requests
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let answering = self.activity.begin(is_last(&request));
        let probe = is_probe(request.uri().path());
        let (mut request, mut refusal) = self.refusal(request, probe);
        let (mut router, place, app) = (self.router.clone(), Arc::clone(&self.place), self.app.clone());
        Box::pin(async move {
            if refusal.is_none() && !probe && !place.promote().await {
                refusal = Some(ApiError::too_many_connections(app.retry_after()));
            }
            if let Some(error) = refusal {
                request.extensions_mut().insert(Refused(error));
            }
            let response = Service::call(&mut router, request).await?;
            let stream = response
                .headers()
                .get(CONTENT_TYPE)
                .is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
            Ok(response.map(|body| Answer { body, answering, stream, comment: None }))
        })
    }
}

/// Whether the client announces that it sends no other request.
fn is_last<B>(request: &Request<B>) -> bool {
    let close = |value: &axum::http::HeaderValue| {
        value
            .as_bytes()
            .split(|&byte| byte == b',')
            .any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
    };
    request.version() < Version::HTTP_11 || request.headers().get_all(CONNECTION).iter().any(close)
}

/// An answer's body. Its request is in progress as long as this lives.
pub(super) struct Answer {
    body: Body,
    answering: Answering,
    /// Server-sent events, one or more whole ones in each frame.
    stream: bool,
    /// Runs while a client that has ended its side waits for the next event.
    comment: Option<Pin<Box<Sleep>>>,
}

/// What clients of server-sent events skip.
const COMMENT: &[u8] = b":\n\n";

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        if frame.is_ready() {
            this.comment = None;
        } else if this.stream && this.answering.activity().ended() {
            // Nothing but a write tells whether the client is still there.
            let comment = this.comment.get_or_insert_with(|| Box::pin(sleep(ANNOUNCED_PATIENCE)));
            if comment.as_mut().poll(cx).is_ready() {
                this.comment = None;
                return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(COMMENT)))));
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
