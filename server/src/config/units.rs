//! Values of settings: every one is read from text, whether it came from a flag, the environment or the file.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use arrcoc_bundle::Precision;
use arrcoc_runtime::generate::Budget;
use arrcoc_runtime::library::{ArenaGrowth, Kernels};
use serde::{Serialize, Serializer};
use subtle::{Choice, ConstantTimeEq};

/// A type that a setting can have.
pub trait Setting: Sized {
    /// What a legal value looks like, for messages: "expected ...".
    fn expected() -> String;

    /// Reads a value; `None` when the text is not one.
    fn read(text: &str) -> Option<Self>;
}

/// A setting's value as the runtime's options have it.
pub(super) trait Plain<T> {
    /// The plain value.
    fn plain(&self) -> T;
}

/// Types that are the same on both sides.
macro_rules! plain_already {
    ($($type:ty)*) => {
        $(impl Plain<$type> for $type {
            fn plain(&self) -> $type {
                self.clone()
            }
        })*
    };
}
plain_already!(usize u32 PathBuf Kernels ArenaGrowth Budget);

impl<T, S: Plain<T>> Plain<Option<T>> for Option<S> {
    fn plain(&self) -> Option<T> {
        self.as_ref().map(S::plain)
    }
}

impl Plain<usize> for Count {
    fn plain(&self) -> usize {
        self.0
    }
}

impl Plain<u64> for Count {
    fn plain(&self) -> u64 {
        self.0 as u64
    }
}

/// More than fits is as good as no limit.
impl Plain<u32> for Count {
    fn plain(&self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }
}

impl Plain<usize> for Size {
    fn plain(&self) -> usize {
        self.0
    }
}

impl Plain<Duration> for Span {
    fn plain(&self) -> Duration {
        self.0
    }
}

/// A number of bytes, written `4096`, `64KiB`, `32MiB` or `2GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub usize);

const UNITS: [(&str, usize); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

impl Setting for Size {
    fn expected() -> String {
        "a number of bytes, or one with KiB, MiB or GiB".into()
    }

    fn read(text: &str) -> Option<Self> {
        let (digits, unit) = UNITS
            .iter()
            .find_map(|&(suffix, unit)| Some((text.strip_suffix(suffix)?, unit)))
            .unwrap_or((text, 1));
        digits.trim().parse::<usize>().ok()?.checked_mul(unit).map(Self)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|&&(_, unit)| self.0 >= unit && self.0.is_multiple_of(unit)) {
            Some((suffix, unit)) => write!(f, "{}{suffix}", self.0 / unit),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A length of time, written `250ms`, `30s`, `5m`, or a plain number of seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Setting for Span {
    fn expected() -> String {
        "a time above zero such as 250ms, 30s or 5m".into()
    }

    fn read(text: &str) -> Option<Self> {
        let (digits, unit) = if let Some(digits) = text.strip_suffix("ms") {
            (digits, 1e-3)
        } else if let Some(digits) = text.strip_suffix('s') {
            (digits, 1.0)
        } else if let Some(digits) = text.strip_suffix('m') {
            (digits, 60.0)
        } else {
            (text, 1.0)
        };
        let seconds = digits.trim().parse::<f64>().ok()? * unit;
        // A day is the upper end: beyond it the value is a slip, and far beyond it arithmetic on instants
        // overflows.
        (1e-3..=86_400.0).contains(&seconds).then(|| Self(Duration::from_secs_f64(seconds)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.subsec_millis() == 0 {
            write!(f, "{}s", self.0.as_secs())
        } else {
            write!(f, "{}ms", self.0.as_millis())
        }
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Secrets. They are compared, never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Keys(Vec<String>);

impl Keys {
    /// Whether no key is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `candidate` is one of the keys. The time taken depends on the lengths only: every key is
    /// compared, and in constant time, so that a guess that starts right is not refused later than one that
    /// starts wrong.
    pub fn contains(&self, candidate: &str) -> bool {
        let same = |key: &String| key.as_bytes().ct_eq(candidate.as_bytes());
        self.0.iter().fold(Choice::from(0), |found, key| found | same(key)).into()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({} hidden)", self.0.len())
    }
}

impl Setting for Keys {
    fn expected() -> String {
        "a list of keys of at least 8 visible ASCII characters each".into()
    }

    fn read(text: &str) -> Option<Self> {
        let keys: Vec<String> = Setting::read(text)?;
        keys.iter()
            .all(|key| key.len() >= 8 && key.bytes().all(|b| b.is_ascii_graphic()))
            .then_some(Self(keys))
    }
}

impl Serialize for Keys {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|_| "<hidden>"))
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl Setting for LogFormat {
    fn expected() -> String {
        "text or json".into()
    }

    fn read(text: &str) -> Option<Self> {
        match text {
            "text" => Some(Self::Text),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// A whole number of at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Count(pub usize);

impl Setting for Count {
    fn expected() -> String {
        "a whole number of at least 1".into()
    }

    fn read(text: &str) -> Option<Self> {
        text.parse().ok().filter(|&n| n > 0).map(Self)
    }
}

impl Setting for Precision {
    fn expected() -> String {
        format!("one of {}", Precision::ALL.map(Precision::name).join(", "))
    }

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Setting for u32 {
    fn expected() -> String {
        "a whole number of at least 0".into()
    }

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Setting for usize {
    fn expected() -> String {
        "a whole number of at least 0".into()
    }

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Setting for bool {
    fn expected() -> String {
        "true or false".into()
    }

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Setting for String {
    fn expected() -> String {
        "some text".into()
    }

    fn read(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| text.to_owned())
    }
}

impl Setting for PathBuf {
    fn expected() -> String {
        "a path".into()
    }

    fn read(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| text.into())
    }
}

impl Setting for SocketAddr {
    fn expected() -> String {
        "an IP address and a port such as 127.0.0.1:8080, 0.0.0.0:8080 or [::]:8080, or a port alone, which is this machine's \
         own (port 0 picks a free one)"
            .into()
    }

    fn read(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse() {
            return Some(address);
        }
        // A port alone is no invitation to the whole network.
        let (host, port) = text.rsplit_once(':').unwrap_or(("localhost", text));
        if !host.eq_ignore_ascii_case("localhost") || !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        Some(Self::new(Ipv4Addr::LOCALHOST.into(), port.parse().ok()?))
    }
}

impl Setting for IpAddr {
    fn expected() -> String {
        "an IP address such as 0.0.0.0, 127.0.0.1 or ::, or localhost".into()
    }

    fn read(text: &str) -> Option<Self> {
        match text {
            name if name.eq_ignore_ascii_case("localhost") => Some(Ipv4Addr::LOCALHOST.into()),
            address => address.trim_start_matches('[').trim_end_matches(']').parse().ok(),
        }
    }
}

/// Absent when the text is empty.
impl<T: Setting> Setting for Option<T> {
    fn expected() -> String {
        format!("{}, or nothing", T::expected())
    }

    fn read(text: &str) -> Option<Self> {
        if text.is_empty() { Some(None) } else { T::read(text).map(Some) }
    }
}

/// Separated by commas.
impl<T: Setting> Setting for Vec<T> {
    fn expected() -> String {
        format!("a list (in flags and environment, separated by commas); of each, {}", T::expected())
    }

    fn read(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Vec::new());
        }
        text.split(',').map(|item| T::read(item.trim())).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sizes_round_trip() {
        for (text, bytes) in [("0", 0), ("7", 7), ("64KiB", 65_536), ("32 MiB", 32 << 20), ("2GiB", 2 << 30)]
        {
            let size = Size::read(text).unwrap();
            assert_eq!(size.0, bytes, "{text}");
            assert_eq!(Size::read(&size.to_string()), Some(size));
        }
        for text in ["", "-1", "1.5MiB", "32 bananas", "99999999999999999999", "18446744073709551615GiB"] {
            assert_eq!(Size::read(text), None, "{text}");
        }
    }

    #[test]
    fn spans_round_trip() {
        for (text, millis) in [("250ms", 250), ("30s", 30_000), ("5m", 300_000), ("1.5", 1_500)] {
            let span = Span::read(text).unwrap();
            assert_eq!(span.0.as_millis(), millis, "{text}");
            assert_eq!(Span::read(&span.to_string()), Some(span));
        }
        for text in ["", "0", "-3s", "NaN", "inf", "1e300", "2h"] {
            assert_eq!(Span::read(text), None, "{text}");
        }
    }

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (text, address) in [
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("[::1]:8080", "[::1]:8080"),
            ("18080", "127.0.0.1:18080"),
            ("0", "127.0.0.1:0"),
            ("localhost:8080", "127.0.0.1:8080"),
            ("LocalHost:1", "127.0.0.1:1"),
        ] {
            assert_eq!(SocketAddr::read(text), Some(address.parse().unwrap()), "{text}");
        }
        for text in ["", "here", ":8080", "example.org:80", "65536", "localhost:", "localhost:+8", "1.2.3.4"]
        {
            assert_eq!(SocketAddr::read(text), None, "{text}");
        }
        for (text, address) in
            [("localhost", "127.0.0.1"), ("0.0.0.0", "0.0.0.0"), ("[::]", "::"), ("::1", "::1")]
        {
            assert_eq!(IpAddr::read(text), Some(address.parse().unwrap()), "{text}");
        }
        assert_eq!(IpAddr::read("example.org"), None);
    }

    #[test]
    fn keys_match_whole_and_stay_hidden() {
        let keys = Keys::read("first-key-1, second-key-2").unwrap();
        assert!(keys.contains("first-key-1") && keys.contains("second-key-2"));
        for wrong in ["", "first-key-", "first-key-12", "Second-key-2", "first-key-1,"] {
            assert!(!keys.contains(wrong), "{wrong}");
        }
        assert!(!format!("{keys:?}").contains("first"));
        assert!(!serde_json::to_string(&keys).unwrap().contains("first"));
        assert_eq!(Keys::read("short"), None);
    }
}
