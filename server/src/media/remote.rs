//! Remote images: off unless `images.allow_hosts` names hosts.
//!
//! Checking a host's address and then connecting by name leaves a gap in which the name can change its address. Here the
//! check *is* the resolver: the connection goes to the very addresses that passed. Redirects are followed by hand, each
//! one through every check again.

use std::net::IpAddr;

use axum::http::{StatusCode, Uri, header};
use ureq::Agent;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use super::address::is_global;
use crate::config::RemoteImages;

const MAX_REDIRECTS: usize = 3;

/// An image that was not fetched. Messages say nothing about the inside of the network.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Not a URL.
    #[error("expected a data URI or an absolute https URL")]
    Url,
    /// http, ftp, file ...
    #[error("expected an https URL, found `{0}:`")]
    Scheme(String),
    /// `https://user:password@host/`.
    #[error("URLs with a user name or password are not fetched")]
    UserInfo,
    /// Not in `images.allow_hosts`.
    #[error("images are not fetched from the host `{0}` (images.allow_hosts)")]
    Host(String),
    /// A private or otherwise special address.
    #[error("the host `{0}` has no public address")]
    Address(String),
    /// A chain, or a ring.
    #[error("more than {MAX_REDIRECTS} redirects")]
    Redirects,
    /// A redirect to nowhere.
    #[error("the host `{0}` redirects without a usable Location")]
    Location(String),
    /// Not found, forbidden ...
    #[error("the host `{host}` answered with status {status}")]
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
    /// Anything else on the way.
    #[error("the image could not be fetched from `{0}`")]
    Transport(String),
}

/// Fetches images from allowed hosts. Blocking: for a blocking thread. A clone shares its connections.
#[derive(Clone)]
pub struct Fetcher {
    agent: Agent,
    settings: RemoteImages,
    limit: usize,
}

impl Fetcher {
    /// `None` when no host is allowed.
    pub fn new(settings: &RemoteImages, limit: usize) -> Option<Self> {
        (!settings.allow_hosts.is_empty()).then(|| Self::with_guard(settings, limit, is_global))
    }

    fn with_guard(settings: &RemoteImages, limit: usize, allowed: fn(IpAddr) -> bool) -> Self {
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
        let resolver = Guard { inner: DefaultResolver::default(), allowed };
        let agent = Agent::with_parts(config, DefaultConnector::default(), resolver);
        Self { agent, settings: settings.clone(), limit }
    }

    /// Gets the bytes behind a URL.
    ///
    /// # Errors
    /// [`FetchError`].
    pub fn fetch(&self, url: &str) -> Result<Vec<u8>, FetchError> {
        let started = std::time::Instant::now();
        let mut uri: Uri = url.parse().map_err(|_| FetchError::Url)?;
        for _ in 0..=MAX_REDIRECTS {
            let host = self.check(&uri)?;
            let left = self.settings.timeout.0.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Err(FetchError::Timeout(self.settings.timeout.0));
            }
            let request = self.agent.get(uri.clone()).config().timeout_global(Some(left)).build();
            let mut response = request.call().map_err(|error| self.describe(error, &host))?;
            let status = response.status();
            if status == StatusCode::OK {
                // ureq calls a body that just reaches its limit too large; for us the limit itself is allowed.
                let body = response.body_mut().with_config().limit(self.limit as u64 + 1);
                return body.read_to_vec().map_err(|error| self.describe(error, &host));
            }
            if !status.is_redirection() {
                return Err(FetchError::Status { host, status: status.as_u16() });
            }
            let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            uri = location.and_then(|location| join(&uri, location)).ok_or(FetchError::Location(host))?;
        }
        Err(FetchError::Redirects)
    }

    /// Scheme, host and form; returns the host.
    fn check(&self, uri: &Uri) -> Result<String, FetchError> {
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(FetchError::Url);
        };
        if !(scheme == "https" || scheme == "http" && self.settings.allow_http) {
            return Err(FetchError::Scheme(scheme.into()));
        }
        if authority.as_str().contains('@') {
            return Err(FetchError::UserInfo);
        }
        let host = authority.host().to_ascii_lowercase();
        let usual = if scheme == "https" { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(usual);
        let matches = |entry: &String| {
            let (pattern, expected) = split_port(entry).unwrap_or((entry, usual));
            let same = match pattern.strip_prefix("*.") {
                Some(domain) => {
                    host.strip_suffix(domain).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
                }
                None => pattern.eq_ignore_ascii_case(&host),
            };
            same && port == expected
        };
        if self.settings.allow_hosts.iter().any(matches) {
            Ok(host)
        } else {
            Err(FetchError::Host(authority.as_str().to_ascii_lowercase()))
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

/// `host:port` of an entry that names a port; not `[::1]`.
fn split_port(entry: &str) -> Option<(&str, u16)> {
    let (host, port) = entry.rsplit_once(':')?;
    Some((host, port.parse().ok()?))
}

/// The target of a redirect, as RFC 3986 (5.2) has it; `None` where that is the page itself or no URL.
fn join(base: &Uri, location: &str) -> Option<Uri> {
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    let location = location.split('#').next().filter(|location| !location.is_empty())?;
    let (path, query) = location.split_at(location.find('?').unwrap_or(location.len()));
    // A colon counts as a scheme's only before the first slash.
    let has_scheme = path.split('/').next().is_some_and(|first| first.contains(':'));
    let absolute = if has_scheme {
        location.to_owned()
    } else if path.starts_with("//") {
        format!("{scheme}:{location}")
    } else if path.is_empty() {
        format!("{scheme}://{authority}{}{query}", base.path())
    } else if path.starts_with('/') {
        format!("{scheme}://{authority}{}{query}", without_dots(path))
    } else {
        let directory = base.path().rsplit_once('/').map_or("", |(directory, _)| directory);
        format!("{scheme}://{authority}{}{query}", without_dots(&format!("{directory}/{path}")))
    };
    absolute.parse().ok()
}

/// An absolute path with its `.` and `..` resolved.
fn without_dots(path: &str) -> String {
    let mut kept = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    if path.ends_with("/.") || path.ends_with("/..") {
        kept.push("");
    }
    format!("/{}", kept.join("/"))
}

/// Resolves names, and keeps only the addresses that may be connected to.
#[derive(Debug)]
struct Guard {
    inner: DefaultResolver,
    allowed: fn(IpAddr) -> bool,
}

impl Resolver for Guard {
    fn resolve(
        &self,
        uri: &Uri,
        config: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.inner.resolve(uri, config, timeout)?;
        let mut kept = self.empty();
        for address in found.iter().filter(|address| (self.allowed)(address.ip())) {
            kept.push(*address);
        }
        if kept.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(kept) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener};
    use std::time::Duration;

    use super::*;
    use crate::config::Span;

    fn settings(hosts: &[&str], allow_http: bool) -> RemoteImages {
        let allow_hosts = hosts.iter().map(|&host| host.into()).collect();
        RemoteImages { allow_hosts, allow_http, timeout: Span(Duration::from_secs(5)) }
    }

    /// Answers one connection per given response, in order; returns the port.
    fn serve(responses: Vec<String>) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for response in responses {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(response.replace("PORT", &port.to_string()).as_bytes());
            }
        });
        port
    }

    fn ok(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
    }

    fn redirect(location: &str) -> String {
        format!(
            "HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        )
    }

    #[test]
    fn is_off_without_hosts() {
        assert!(Fetcher::new(&settings(&[], true), 10).is_none());
    }

    #[test]
    fn refuses_before_connecting() {
        let fetcher = Fetcher::new(&settings(&["a.example", "*.b.example"], false), 10).unwrap();
        let refused = |url: &str| fetcher.check(&url.parse().unwrap()).unwrap_err().to_string();
        assert!(refused("http://a.example/").contains("https"));
        assert!(refused("ftp://a.example/").contains("https"));
        assert!(refused("/etc/passwd").contains("absolute"));
        assert!(refused("https://me:pw@a.example/").contains("password"));
        for host in ["https://b.example/", "https://xb.example/", "https://a.example.evil/", "https://[::1]/"]
        {
            assert!(refused(host).contains("allow_hosts"), "{host}");
        }
        assert_eq!(fetcher.check(&"https://x.B.example/".parse().unwrap()).unwrap(), "x.b.example");
    }

    #[test]
    fn other_ports_have_to_be_allowed_by_number() {
        let hosts = ["a.example", "*.b.example:8443", "[::1]", "[::2]:81"];
        let fetcher = Fetcher::new(&settings(&hosts, true), 10).unwrap();
        let check = |url: &str| fetcher.check(&url.parse().unwrap());
        for url in [
            "https://a.example/",
            "https://a.example:443/",
            "http://a.example/",
            "http://a.example:80/",
            "https://x.b.example:8443/",
            "https://[::1]/",
            "http://[::2]:81/",
        ] {
            assert!(check(url).is_ok(), "{url}");
        }
        for url in [
            "https://a.example:80/",
            "http://a.example:443/",
            "https://a.example:22/",
            "https://x.b.example/",
            "https://[::1]:81/",
            "http://[::2]/",
        ] {
            assert!(matches!(check(url), Err(FetchError::Host(_))), "{url}");
        }
        assert_eq!(
            check("https://a.example:22/").unwrap_err().to_string(),
            "images are not fetched from the host `a.example:22` (images.allow_hosts)"
        );
    }

    #[test]
    fn private_addresses_are_refused_by_whatever_name() {
        let port = serve(vec![ok("secret")]);
        for host in ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"] {
            let fetcher = Fetcher::new(&settings(&[&format!("{host}:{port}")], true), 10).unwrap();
            let error = fetcher.fetch(&format!("http://{host}:{port}/x")).unwrap_err();
            // Not `Transport`: that would mean that it tried.
            assert!(matches!(error, FetchError::Address(_)), "{host}: {error}");
        }
    }

    #[test]
    fn follows_redirects_through_every_check() {
        let fetch = |port: u16| {
            let allowed = format!("127.0.0.1:{port}");
            let fetcher = Fetcher::with_guard(&settings(&[&allowed], true), 10, |_| true);
            fetcher.fetch(&format!("http://{allowed}/a"))
        };
        let port = serve(vec![redirect("/b"), redirect("http://127.0.0.1:PORT/c"), ok("picture")]);
        assert_eq!(fetch(port).unwrap(), b"picture");

        let port = serve(vec![redirect("http://localhost:PORT/x")]);
        let error = fetch(port).unwrap_err();
        assert!(matches!(error, FetchError::Host(host) if host == format!("localhost:{port}")));

        let port = serve(vec![redirect("http://127.0.0.1:22/x")]);
        let error = fetch(port).unwrap_err();
        assert!(matches!(error, FetchError::Host(host) if host == "127.0.0.1:22"));

        // The name is allowed, its address is not: the first hop resolves to a public one, the second does not.
        let port = serve(vec![redirect("http://127.0.0.2:PORT/x")]);
        let hosts = [format!("127.0.0.1:{port}"), format!("127.0.0.2:{port}")];
        let allowed = settings(&[&hosts[0], &hosts[1]], true);
        let guarded = Fetcher::with_guard(&allowed, 10, |ip| ip != Ipv4Addr::new(127, 0, 0, 2));
        let error = guarded.fetch(&format!("http://127.0.0.1:{port}/a")).unwrap_err();
        assert!(matches!(error, FetchError::Address(host) if host == "127.0.0.2"));

        let error = fetch(serve(vec![redirect("/a"); 4])).unwrap_err();
        assert!(matches!(error, FetchError::Redirects), "{error}");
    }

    #[test]
    fn bounds_size_and_reports_status() {
        let missing = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".into();
        let allowed = format!("127.0.0.1:{}", serve(vec![ok("12345"), ok("1234"), missing]));
        let fetcher = Fetcher::with_guard(&settings(&[&allowed], true), 4, |_| true);
        let url = format!("http://{allowed}/a");
        assert!(matches!(fetcher.fetch(&url).unwrap_err(), FetchError::TooLarge(4)));
        assert_eq!(fetcher.fetch(&url).unwrap(), b"1234");
        let error = fetcher.fetch(&url).unwrap_err();
        assert!(matches!(error, FetchError::Status { status: 404, .. }), "{error}");
    }

    #[test]
    fn joins_relative_locations() {
        let base: Uri = "https://a.example/x/y?z".parse().unwrap();
        for (location, expected) in [
            ("w", "https://a.example/x/w"),
            ("w?u=https://c.example/", "https://a.example/x/w?u=https://c.example/"),
            ("/w?u=https://c.example/../", "https://a.example/w?u=https://c.example/../"),
            ("?q", "https://a.example/x/y?q"),
            ("?u=a:b#f", "https://a.example/x/y?u=a:b"),
            ("./w:1#f", "https://a.example/x/w:1"),
            ("../v/./w", "https://a.example/v/w"),
            ("/../../w/..", "https://a.example/"),
            ("HTTP://c.example?q", "http://c.example/?q"),
            ("/w", "https://a.example/w"),
            ("//b.example/w", "https://b.example/w"),
            ("https://c.example/w", "https://c.example/w"),
        ] {
            assert_eq!(join(&base, location).unwrap().to_string(), expected);
        }
        for location in ["", "#f", "a b", "https://"] {
            assert!(join(&base, location).is_none(), "{location}");
        }
    }
}
