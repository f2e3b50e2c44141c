//! Requests to the hub. Redirects are followed by hand: the token goes to the hub's own address alone, and
//! never along to where its files lie.

use std::time::Duration;

use ureq::http::{HeaderMap, StatusCode, header};
use ureq::{Agent, Body};
use url::Url;

use arrcoc_bundle::quote::Brief;

use super::error::HubError;
use super::settings::{Settings, Token};

/// Longest chain of redirects. The hub needs two.
const MAX_REDIRECTS: usize = 8;
/// How often what may pass is tried.
pub(super) const ATTEMPTS: u32 = 4;
/// Longest pause that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Asks a hub.
pub(super) struct Client {
    agent: Agent,
    endpoint: Url,
    token: Option<Token>,
    pause: Duration,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// The headers alone, and of a redirect, too, where it has what the hub says of a large file.
    Head,
    /// The contents from a byte on.
    Get(u64),
}

/// An answer that is no refusal.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
}

impl Client {
    pub(super) fn new(settings: &Settings) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(settings.patience.min(Duration::from_secs(15))))
            .timeout_recv_response(Some(settings.patience))
            .timeout_recv_body(Some(settings.patience))
            .user_agent(concat!("arrcoc-export/", env!("CARGO_PKG_VERSION")))
            .build();
        Self {
            agent: config.into(),
            endpoint: settings.endpoint.clone(),
            token: settings.token.clone(),
            pause: settings.pause,
        }
    }

    /// The address of a path below the hub's, each part quoted.
    pub(super) fn url<'a>(&self, parts: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.endpoint.clone();
        // http and https have paths: the constructor of settings takes no other scheme.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(parts);
        }
        url
    }

    /// Asks, a few times where that may help.
    ///
    /// # Errors
    /// [`HubError`]; every status but success is one.
    pub(super) fn ask(&self, ask: Ask, url: &Url) -> Result<Reply, HubError> {
        let mut attempt = 0;
        loop {
            match self.ask_once(ask, url) {
                Err(error) if error.passes() && attempt + 1 < ATTEMPTS => self.rest(attempt),
                outcome => return outcome,
            }
            attempt += 1;
        }
    }

    /// Waits before attempt number `attempt + 1`, longer each time.
    pub(super) fn rest(&self, attempt: u32) {
        std::thread::sleep(self.pause.saturating_mul(1 << attempt.min(5)).min(LONGEST_PAUSE));
    }

    /// Asks once, along the redirects.
    ///
    /// # Errors
    /// [`HubError`]; every status but success is one.
    pub(super) fn ask_once(&self, ask: Ask, url: &Url) -> Result<Reply, HubError> {
        let mut at = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let (token, response) = self.send(ask, &at)?;
            let (parts, body) = response.into_parts();
            let reply = Reply { status: parts.status, headers: parts.headers, body };
            if reply.status.is_success() || (ask == Ask::Head && describes(&reply)) {
                return Ok(reply);
            }
            if !reply.status.is_redirection() {
                return Err(self.refusal(&at, &reply, token));
            }
            at = follow(&at, reply.text("location").unwrap_or_default())?;
        }
        Err(HubError::Redirects { url: shown(url) })
    }

    /// Sends one request; says whether the token went with it.
    fn send(&self, ask: Ask, url: &Url) -> Result<(bool, ureq::http::Response<Body>), HubError> {
        let mut request = match ask {
            Ask::Head => self.agent.head(url.as_str()),
            Ask::Get(_) => self.agent.get(url.as_str()),
        };
        // Sizes and hashes are those of the files, not of something packed.
        request = request.header(header::ACCEPT_ENCODING, "identity");
        if let Ask::Get(from @ 1..) = ask {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        let token = self.token.as_ref().filter(|_| url.origin() == self.endpoint.origin());
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, token.header());
        }
        match request.call() {
            Ok(response) => Ok((token.is_some(), response)),
            Err(error) => Err(HubError::Transport { url: shown(url), source: Box::new(Brief(error)) }),
        }
    }

    /// What a status means.
    fn refusal(&self, url: &Url, reply: &Reply, token: bool) -> HubError {
        let said = match (reply.text("x-error-message"), reply.text("x-error-code")) {
            (Some(message), _) => message.to_owned(),
            (None, Some(code)) => code.to_owned(),
            (None, None) => reply.status.canonical_reason().unwrap_or("no reason given").to_owned(),
        };
        let gated = reply.text("x-error-code") == Some("GatedRepo");
        let of_the_hub = url.origin() == self.endpoint.origin();
        match reply.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if of_the_hub && gated => {
                HubError::Gated { page: self.page(url), token, said }
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if of_the_hub => {
                HubError::Unauthorized { url: shown(url), token }
            }
            StatusCode::NOT_FOUND if of_the_hub => HubError::NotFound { url: shown(url), said },
            status => HubError::Status { url: shown(url), status: status.as_u16(), said },
        }
    }

    /// The page of the repository that an address below the hub's belongs to.
    fn page(&self, url: &Url) -> String {
        let below = url.path().strip_prefix(self.endpoint.path()).unwrap_or(url.path());
        let parts = below.split('/').filter(|part| !part.is_empty() && !matches!(*part, "api" | "models"));
        self.url(parts.take(2)).to_string()
    }
}

impl Reply {
    /// A header, where it is there and is text.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Whether a redirect says by itself all that the hub knows of a large file.
fn describes(reply: &Reply) -> bool {
    let has = |name| reply.headers.contains_key(name);
    reply.status.is_redirection() && has("x-linked-etag") && has("x-linked-size") && has("x-repo-commit")
}

/// Where a redirect leads. What was asked for in secret is not fetched in the open.
fn follow(from: &Url, location: &str) -> Result<Url, HubError> {
    let to = from.join(location).ok().filter(|_| !location.is_empty());
    to.filter(|to| {
        to.has_host() && (to.scheme() == "https" || (to.scheme() == "http" && from.scheme() == "http"))
    })
    .ok_or_else(|| HubError::Location { url: shown(from), location: without_query(location).to_owned() })
}

/// An address for messages.
pub(super) fn shown(url: &Url) -> String {
    without_query(url.as_str()).to_owned()
}

fn without_query(text: &str) -> &str {
    text.split(['?', '#']).next().unwrap_or(text)
}
