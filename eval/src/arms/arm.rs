//! An arm: a method, and what is switched on with it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::method::Method;
use super::names::{UnknownName, named};

/// What a request can ask for beside a way to choose; nothing that a composite has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Switches {
    /// Parts that hold nothing are not encoded.
    pub skip_blank: bool,
    /// The less relevant half of the kept tokens gets the deepest level of rows for deeper layers only.
    pub depth: bool,
}

impl Switches {
    const SKIP_BLANK: &'static str = "skip-blank";
    const DEPTH: &'static str = "depth";

    /// Their names, as they stand behind a `+`.
    pub const NAMES: [&'static str; 2] = [Self::SKIP_BLANK, Self::DEPTH];

    /// The names of those that are on.
    fn on(self) -> impl Iterator<Item = &'static str> {
        let switches = [(Self::SKIP_BLANK, self.skip_blank), (Self::DEPTH, self.depth)];
        switches.into_iter().filter(|(_, on)| *on).map(|(name, _)| name)
    }
}

/// A way to make visual tokens that is held against others: `balanced`, `balanced+skip-blank`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Arm {
    /// What decides.
    pub method: Method,
    /// What is switched on.
    pub switches: Switches,
}

impl Arm {
    /// A method with nothing switched on.
    pub const fn of(method: Method) -> Self {
        Self { method, switches: Switches { skip_blank: false, depth: false } }
    }

    /// Whether nothing is switched on.
    pub fn is_plain(self) -> bool {
        self == Self::of(self.method)
    }
}

impl From<Method> for Arm {
    fn from(method: Method) -> Self {
        Self::of(method)
    }
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<&str> = std::iter::once(self.method.name()).chain(self.switches.on()).collect();
        f.pad(&parts.join("+"))
    }
}

impl FromStr for Arm {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let mut parts = text.split('+');
        let mut arm = Self::of(named(&Method::all(), Method::name, parts.next().unwrap_or_default())?);
        for part in parts {
            match named(&Switches::NAMES, |name| name, part)? {
                Switches::SKIP_BLANK => arm.switches.skip_blank = true,
                _ => arm.switches.depth = true,
            }
        }
        Ok(arm)
    }
}

impl Serialize for Arm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Arm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_wrong_ones_are_told_the_right_ones() {
        for method in Method::all() {
            for (skip_blank, depth) in [(false, false), (true, false), (false, true), (true, true)] {
                let arm = Arm { method, switches: Switches { skip_blank, depth } };
                assert_eq!(arm.to_string().parse(), Ok(arm));
                assert_eq!(serde_json::to_value(arm).unwrap(), arm.to_string());
                assert_eq!(serde_json::from_value::<Arm>(arm.to_string().into()).unwrap(), arm);
            }
        }
        assert_eq!("top-k+depth+skip-blank".parse::<Arm>().unwrap().to_string(), "top-k+skip-blank+depth");
        for (wrong, right) in [("Grid", "downsampled"), ("grid+fast", "skip-blank"), ("", "cdpruner")] {
            let error = wrong.parse::<Arm>().unwrap_err().to_string();
            let named = wrong.rsplit('+').next().unwrap();
            assert!(error.contains(right) && error.contains(&format!("`{named}`")), "{error}");
        }
    }
}
