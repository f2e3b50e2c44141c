//! Under which names the server answers. A web page can have a name of its own lead to this machine (DNS
//! rebinding) and then reads what the browser takes for its own site: a server on a loopback address, which
//! has no keys as a rule, must look at the name.

use std::net::{IpAddr, SocketAddr};

use axum::http::header::{HOST, TRANSFER_ENCODING};
use axum::http::request::Parts;
use axum::http::{Uri, Version};

use crate::error::ApiError;
use crate::host::{address_of, matches, split};

/// The names of one listener.
#[derive(Debug)]
pub(super) struct Hosts {
    /// `server.hosts`.
    names: Vec<String>,
    checked: bool,
}

impl Hosts {
    /// `names` is `server.hosts`; without it, only listeners on loopback addresses ask for the name.
    pub(super) fn new(names: &[String], listener: SocketAddr) -> Self {
        let checked = if names.is_empty() {
            listener.ip().to_canonical().is_loopback()
        } else {
            !names.iter().any(|name| name == "*")
        };
        Self { names: names.iter().map(|name| name.to_ascii_lowercase()).collect(), checked }
    }

    /// Those of a listener for probes: whoever scrapes it calls it by a name that this server does not know,
    /// and finds nothing but numbers.
    pub(super) fn any() -> Self {
        Self { names: Vec::new(), checked: false }
    }

    /// Checks the head of a request as far as hyper does not. A probe may come under any address: pods and
    /// scrapers are not known by name, and an address cannot be rebound.
    ///
    /// # Errors
    /// 400 for a head that is not to be understood in one way only, 421 for a foreign name.
    pub(super) fn check(&self, head: &Parts, probe: bool) -> Result<(), ApiError> {
        check_transfer_encoding(head)?;
        let Some(host) = host_of(head)? else { return Ok(()) };
        let address = address_of(&host);
        if !self.checked || self.known(&host, address) || (probe && address.is_some()) {
            return Ok(());
        }
        Err(ApiError::misdirected(&host))
    }

    fn known(&self, host: &str, address: Option<IpAddr>) -> bool {
        let loopback = match address {
            Some(address) => address.to_canonical().is_loopback(),
            None => is_local_name(host),
        };
        loopback || self.names.iter().any(|name| matches(name, host))
    }
}

/// `localhost` and names below it lead here by definition. For rebinding, a stranger needs a name that is
/// theirs in the DNS. One without a dot is a machine's in the local network, or a top-level domain, which
/// belongs to a registry.
fn is_local_name(host: &str) -> bool {
    !host.is_empty() && !host.contains('%') && (!host.contains('.') || host.ends_with(".localhost"))
}

/// The one name that a request is for, in small letters and without its port; `None` in HTTP/1.0, which knows
/// none.
fn host_of(head: &Parts) -> Result<Option<String>, ApiError> {
    let mut fields = head.headers.get_all(HOST).iter();
    let bad = |what: &str| {
        ApiError::malformed("bad_host", format!("expected one header `Host: NAME`, found {what}"))
    };
    let host = match (fields.next(), fields.next()) {
        (Some(_), Some(_)) => return Err(bad("several")),
        (None, _) if head.version >= Version::HTTP_11 => return Err(bad("none")),
        (host, _) => host,
    };
    let host =
        host.map(|value| value.to_str().ok().and_then(without_port).ok_or_else(|| bad("something else")));
    // Where the target is a whole URL, its host counts (RFC 9112, 3.2.2).
    let target =
        target_host(&head.uri).map(|authority| without_port(authority).ok_or_else(|| bad("something else")));
    let host = target.or(host).transpose()?;
    Ok(host.map(|host| host.trim_end_matches('.').to_ascii_lowercase()))
}

fn target_host(target: &Uri) -> Option<&str> {
    target.authority().map(axum::http::uri::Authority::as_str)
}

/// The host of `host[:port]`; `None` where that is not what it is.
fn without_port(text: &str) -> Option<&str> {
    split(text).map(|(host, _)| host)
}

/// hyper takes every list of codings that ends in `chunked`; other programs on the way may not.
fn check_transfer_encoding(head: &Parts) -> Result<(), ApiError> {
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    let plain = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        _ => false,
    };
    if plain {
        return Ok(());
    }
    Err(ApiError::malformed(
        "bad_framing",
        "expected the header `Transfer-Encoding: chunked` and no other coding",
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn parts(target: &str, version: Version, hosts: &[&str]) -> Parts {
        let request = Request::builder().uri(target).version(version);
        hosts
            .iter()
            .fold(request, |request, host| request.header(HOST, *host))
            .body(())
            .unwrap()
            .into_parts()
            .0
    }

    fn allowed(hosts: &Hosts, host: &str) -> bool {
        hosts.check(&parts("/", Version::HTTP_11, &[host]), false).is_ok()
    }

    #[test]
    fn on_loopback_only_names_that_cannot_be_rebound() {
        let hosts = Hosts::new(&[], "127.0.0.1:8080".parse().unwrap());
        for host in [
            "localhost",
            "LOCALHOST:80",
            "a.localhost",
            "localhost.",
            "127.0.0.1:8080",
            "127.9.9.9",
            "[::1]:9",
            "x",
        ] {
            assert!(allowed(&hosts, host), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "0.0.0.0",
            "[::2]",
            "",
            ".",
        ] {
            assert!(!allowed(&hosts, host), "{host}");
        }
        let open = Hosts::new(&[], "0.0.0.0:8080".parse().unwrap());
        assert!(allowed(&open, "evil.example"));
    }

    #[test]
    fn what_is_set_counts_on_every_address() {
        let names = ["api.example.org".to_owned(), "*.Wild.example".to_owned(), "10.0.0.7".to_owned()];
        for listener in ["127.0.0.1:1", "0.0.0.0:1"] {
            let hosts = Hosts::new(&names, listener.parse().unwrap());
            for host in ["API.example.org:443", "a.b.wild.example", "10.0.0.7", "localhost"] {
                assert!(allowed(&hosts, host), "{host}");
            }
            for host in ["example.org", "wild.example", "10.0.0.8", "evil.example"] {
                assert!(!allowed(&hosts, host), "{host}");
            }
            assert!(hosts.check(&parts("/health", Version::HTTP_11, &["10.1.2.3:8080"]), true).is_ok());
            assert!(hosts.check(&parts("/health", Version::HTTP_11, &["evil.example"]), true).is_err());
        }
        assert!(allowed(&Hosts::new(&["*".to_owned()], "127.0.0.1:1".parse().unwrap()), "evil.example"));
    }

    #[test]
    fn one_host_or_the_targets() {
        let hosts = Hosts::new(&[], "127.0.0.1:8080".parse().unwrap());
        let status = |parts: Parts| hosts.check(&parts, false).err().map(|error| error.status.as_u16());
        assert_eq!(status(parts("/", Version::HTTP_11, &[])), Some(400));
        assert_eq!(status(parts("/", Version::HTTP_10, &[])), None);
        assert_eq!(status(parts("/", Version::HTTP_11, &["localhost", "localhost"])), Some(400));
        for host in ["a b", "localhost:80x", "user@localhost", "[::1", "[x]", "a/b"] {
            assert_eq!(status(parts("/", Version::HTTP_11, &[host])), Some(400), "{host}");
        }
        assert_eq!(status(parts("http://evil.example/", Version::HTTP_11, &["localhost"])), Some(421));
        assert_eq!(status(parts("http://localhost:8080/", Version::HTTP_11, &["evil.example"])), None);
    }
}
