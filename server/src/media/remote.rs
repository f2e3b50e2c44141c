//! Remote images: off unless `images.allow_hosts` or `images.allow_private_hosts` names hosts.
//!
//! Which addresses a host may have is in [`super::address`]. Checking a host's address and then connecting by
//! name leaves a gap in which the name can change its address. Here the check *is* the resolver: the
//! connection goes to the very addresses that passed. Redirects are followed by hand, each one through every
//! check again.

use std::io::{self, Read as _};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrcoc_bundle::quote::quote;
use axum::http::{StatusCode, Uri, header};
use ureq::Agent;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use url::Url;

use super::address::{is_global, is_internal};
use crate::config::RemoteImages;
use crate::host;

const MAX_REDIRECTS: usize = 3;

/// What is read of a body at a time; in between it is asked whether anybody still waits for it.
const PIECE: usize = 64 << 10;

/// An image that was not fetched. Messages say nothing about the inside of the network.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Not a URL.
    #[error("expected a data URI or an absolute https URL")]
    Url,
    /// http, ftp, file ...
    #[error("expected an https URL, found one that begins with {}", quote(.0))]
    Scheme(String),
    /// `https://host:65616/`: such a port is none, and no other one is meant.
    #[error("expected a port from 1 to 65535 in {}", quote(.0))]
    Port(String),
    /// `https://user:password@host/`.
    #[error("URLs with a user name or password are not fetched")]
    UserInfo,
    /// Not in `images.allow_hosts`.
    #[error("images are not fetched from the host {} (images.allow_hosts)", quote(.0))]
    Host(String),
    /// A private or otherwise special address.
    #[error(
        "the host {} has no public address; an operator who wants images from inside the network names it in \
         images.allow_private_hosts",
        quote(.0)
    )]
    Address(String),
    /// A chain, or a ring.
    #[error("more than {MAX_REDIRECTS} redirects")]
    Redirects,
    /// A redirect to nowhere.
    #[error("the host {} redirects without a usable Location", quote(.0))]
    Location(String),
    /// Not found, forbidden ...
    #[error("the host {} answered with status {status}", quote(.host))]
    Status {
        /// Who.
        host: String,
        /// What.
        status: u16,
    },
    /// Larger than `limits.image_bytes`.
    #[error("the image has more than the {0} bytes allowed (limits.image_bytes)")]
    TooLarge(usize),
    /// Slower than `images.timeout`.
    #[error("the image did not arrive within {0:?} (images.timeout)")]
    Timeout(std::time::Duration),
    /// Nobody waits for it any more.
    #[error("the request has ended")]
    Stopped,
    /// Anything else on the way.
    #[error("the image could not be fetched from {}", quote(.0))]
    Transport(String),
}

/// Fetches images from allowed hosts. Blocking: for a blocking thread. A clone shares its connections.
#[derive(Clone)]
pub struct Fetcher {
    agent: Agent,
    settings: RemoteImages,
    /// Both lists of hosts.
    allowed: Vec<Entry>,
    limit: usize,
}

impl Fetcher {
    /// `None` when no host is allowed.
    pub fn new(settings: &RemoteImages, limit: usize) -> Option<Self> {
        let none = settings.allow_hosts.is_empty() && settings.allow_private_hosts.is_empty();
        (!none).then(|| Self::with_guard(settings, limit, is_global))
    }

    /// With another idea of what is public.
    fn with_guard(settings: &RemoteImages, limit: usize, public: fn(IpAddr) -> bool) -> Self {
        let config = Agent::config_builder()
            .https_only(!settings.allow_http)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // A proxy from the environment would resolve the name itself, past our check.
            .proxy(None)
            .timeout_global(Some(settings.timeout.0))
            .user_agent(concat!("arrcoc-serve/", env!("CARGO_PKG_VERSION")))
            .accept("image/*")
            .build();
        let private: Arc<[Entry]> =
            settings.allow_private_hosts.iter().map(|text| Entry::read(text)).collect();
        let allowed = settings.allow_hosts.iter().map(|text| Entry::read(text));
        let allowed = allowed.chain(private.iter().cloned()).collect();
        let resolver = Guard { inner: DefaultResolver::default(), public, private };
        let agent = Agent::with_parts(config, DefaultConnector::default(), resolver);
        Self { agent, settings: settings.clone(), allowed, limit }
    }

    /// Gets the bytes behind a URL, unless `stop` says meanwhile that nobody wants them any more.
    ///
    /// # Errors
    /// [`FetchError`].
    pub fn fetch(&self, url: &str, stop: &AtomicBool) -> Result<Vec<u8>, FetchError> {
        let started = std::time::Instant::now();
        let mut url = parse(url)?;
        for _ in 0..=MAX_REDIRECTS {
            let host = self.check(&url)?;
            let left = self.settings.timeout.0.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Err(FetchError::Timeout(self.settings.timeout.0));
            }
            if stop.load(Ordering::Relaxed) {
                return Err(FetchError::Stopped);
            }
            let request = self.agent.get(url.as_str()).config().timeout_global(Some(left)).build();
            let response = request.call().map_err(|error| self.describe(error, &host))?;
            let status = response.status();
            if status == StatusCode::OK {
                return self.read(response.into_body(), &host, stop);
            }
            if !status.is_redirection() {
                return Err(FetchError::Status { host, status: status.as_u16() });
            }
            let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            url = location.and_then(|location| join(&url, location)).ok_or(FetchError::Location(host))?;
        }
        Err(FetchError::Redirects)
    }

    fn read(&self, body: ureq::Body, host: &str, stop: &AtomicBool) -> Result<Vec<u8>, FetchError> {
        // ureq calls a body that just reaches its limit too large; for us the limit itself is allowed.
        let mut body = body.into_with_config().limit(self.limit as u64 + 1).reader();
        let (mut file, mut piece) = (Vec::new(), vec![0; PIECE]);
        loop {
            match body.read(&mut piece) {
                Ok(0) => return Ok(file),
                Ok(count) => file.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.describe(error.into(), host)),
            }
            if stop.load(Ordering::Relaxed) {
                return Err(FetchError::Stopped);
            }
        }
    }

    /// Scheme, host and form; returns the host.
    fn check(&self, url: &Url) -> Result<String, FetchError> {
        let scheme = url.scheme();
        if !(scheme == "https" || scheme == "http" && self.settings.allow_http) {
            return Err(FetchError::Scheme(scheme.into()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(FetchError::UserInfo);
        }
        let place = Place::of(url)?;
        if self.allowed.iter().any(|entry| entry.matches(&place)) {
            Ok(place.host)
        } else {
            let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
            Err(FetchError::Host(place.host + &port))
        }
    }

    fn describe(&self, error: ureq::Error, host: &str) -> FetchError {
        tracing::debug!(host, %error, "remote image not fetched");
        match error {
            ureq::Error::BodyExceedsLimit(_) => FetchError::TooLarge(self.limit),
            ureq::Error::Timeout(_) => FetchError::Timeout(self.settings.timeout.0),
            ureq::Error::HostNotFound => FetchError::Address(host.into()),
            _ => FetchError::Transport(host.into()),
        }
    }
}

fn parse(text: &str) -> Result<Url, FetchError> {
    Url::parse(text).map_err(|error| match error {
        url::ParseError::InvalidPort => FetchError::Port(text.into()),
        _ => FetchError::Url,
    })
}

/// Who is connected to.
struct Place {
    /// In small letters, an address in its one usual form.
    host: String,
    port: u16,
    /// The scheme's own port.
    usual: u16,
}

impl Place {
    fn of(url: &Url) -> Result<Self, FetchError> {
        let usual = if url.scheme() == "http" { 80 } else { 443 };
        let port = url.port().unwrap_or(usual);
        if port == 0 {
            return Err(FetchError::Port(url.as_str().into()));
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(FetchError::Url)?;
        Ok(Self { host: host.to_owned(), port, usual })
    }
}

/// A host that the operator allows: `example.org`, `*.example.org`, `example.org:8443`, `10.0.0.7`,
/// `[fd00::7]:9000`.
#[derive(Debug, Clone)]
struct Entry {
    /// In small letters.
    host: String,
    /// The scheme's own unless set.
    port: Option<u16>,
}

impl Entry {
    fn read(text: &str) -> Self {
        let text = text.to_ascii_lowercase();
        match host::split(&text) {
            Some((host, port)) => Self { host: host.to_owned(), port: port.parse().ok() },
            None => Self { host: text, port: None },
        }
    }

    fn matches(&self, place: &Place) -> bool {
        host::matches(&self.host, &place.host) && place.port == self.port.unwrap_or(place.usual)
    }

    /// Whether a host of this entry may have this address. Addresses of this machine and its link (among them
    /// the clouds' metadata services) have to be meant: a name could come to point there.
    fn may_have(&self, address: IpAddr) -> bool {
        is_internal(address)
            || host::address_of(&self.host) == Some(address)
            || self.host == "localhost" && address.is_loopback()
    }
}

/// The target of a redirect; `None` where that is the page itself or no URL.
fn join(base: &Url, location: &str) -> Option<Url> {
    if location.is_empty() || location.starts_with('#') {
        return None;
    }
    let mut target = base.join(location).ok()?;
    target.set_fragment(None);
    Some(target)
}

/// Resolves names, and keeps only the addresses that may be connected to.
#[derive(Debug)]
struct Guard {
    inner: DefaultResolver,
    /// Which addresses every allowed host may have.
    public: fn(IpAddr) -> bool,
    /// Hosts that may have others.
    private: Arc<[Entry]>,
}

impl Resolver for Guard {
    fn resolve(
        &self,
        uri: &Uri,
        config: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.inner.resolve(uri, config, timeout)?;
        let url = parse(&uri.to_string()).map_err(|_| ureq::Error::HostNotFound)?;
        let place = Place::of(&url).map_err(|_| ureq::Error::HostNotFound)?;
        let entries: Vec<_> = self.private.iter().filter(|entry| entry.matches(&place)).collect();
        let allowed = |ip| (self.public)(ip) || entries.iter().any(|entry| entry.may_have(ip));
        let mut kept = self.empty();
        for address in found.iter().filter(|address| allowed(address.ip())) {
            kept.push(*address);
        }
        if kept.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(kept) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
