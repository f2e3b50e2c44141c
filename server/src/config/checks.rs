//! What a setting's type does not say about its values. Each returns what is expected instead, or `None`
//! where the value is good.

#![allow(clippy::ptr_arg, reason = "a check takes what a setting is read into")]

use std::path::PathBuf;

use super::places;
use crate::host::{is_pattern, is_pattern_with_port};

/// `bundle`.
pub(super) fn bundle(dir: &Option<PathBuf>) -> Option<String> {
    places::not_a_bundle(dir.as_deref()?)
}

/// `engines`.
pub(super) fn engines(dir: &Option<PathBuf>) -> Option<String> {
    places::not_engines(dir.as_deref()?)
}

/// `server.hosts`.
pub(super) fn hosts(hosts: &Vec<String>) -> Option<String> {
    unless(
        hosts.iter().all(|host| host == "*" || is_pattern(host)),
        "names or addresses without scheme, port or path, such as api.example.org, *.example.org or *",
    )
}

/// `images.allow_hosts` and `images.allow_private_hosts`.
pub(super) fn image_hosts(hosts: &Vec<String>) -> Option<String> {
    unless(
        hosts.iter().all(|host| is_pattern_with_port(host)),
        "names or addresses without scheme or path, with a port where it is not the usual one, such as \
         images.example.org, *.example.org, 10.0.0.7:8000 or [fd00::7]",
    )
}

/// `cors.origins`.
pub(super) fn origins(origins: &Vec<String>) -> Option<String> {
    unless(
        origins.iter().all(|origin| origin == "*" || is_origin(origin)),
        "origins as browsers send them, such as https://app.example.org (in small letters, without a path \
         and without the usual port), or *",
    )
}

/// `log.filter`.
pub(super) fn log_filter(filter: &String) -> Option<String> {
    unless(
        filter.parse::<tracing_subscriber::EnvFilter>().is_ok(),
        "a level (error, warn, info, debug, trace) or a tracing filter",
    )
}

fn unless(good: bool, expected: &str) -> Option<String> {
    (!good).then(|| expected.to_owned())
}

/// An origin as browsers send it: what is spelt otherwise would be a setting without effect.
fn is_origin(text: &str) -> bool {
    url::Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https") && url.origin().ascii_serialization() == text
    })
}
