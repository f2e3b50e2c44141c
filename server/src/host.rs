//! Hosts as people write them: `host[:port]` in headers, URLs and settings, and the patterns of settings.

use std::net::{IpAddr, Ipv6Addr};

/// The address that a host is, if it is one: IPv6 in brackets.
pub(crate) fn address_of(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::from),
        None => host.parse().ok(),
    }
}

/// Host and port of `host[:port]`, the port as it is written, or empty; `None` where the text is something
/// else.
pub(crate) fn split(text: &str) -> Option<(&str, &str)> {
    let end = match text.strip_prefix('[') {
        Some(rest) => rest.find(']')? + 2,
        None => text.find(':').unwrap_or(text.len()),
    };
    let (host, rest) = text.split_at_checked(end)?;
    let port = match rest {
        "" => rest,
        _ => rest.strip_prefix(':').filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()))?,
    };
    let host_is_one = match host.starts_with('[') {
        true => address_of(host).is_some(),
        false => host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&byte)),
    };
    host_is_one.then_some((host, port))
}

/// Whether a setting names hosts: `example.org`, `*.example.org`, `10.0.0.7`, `[fd00::7]`.
pub(crate) fn is_pattern(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let is_name =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    is_name || (text.starts_with('[') && address_of(text).is_some())
}

/// The same, with or without a port.
pub(crate) fn is_pattern_with_port(text: &str) -> bool {
    split(text).is_some_and(|(host, port)| {
        let port_is_one = text == host || port.parse::<u16>().is_ok_and(|port| port > 0);
        is_pattern(host) && port_is_one
    })
}

/// Whether a pattern names this host; both are in small letters.
pub(crate) fn matches(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(below) => host.len() > below.len() && host.ends_with(below),
        None => {
            pattern == host || address_of(pattern).is_some_and(|address| Some(address) == address_of(host))
        }
    }
}
