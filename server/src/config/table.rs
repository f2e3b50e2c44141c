//! From rows to types: the macro behind [`super::settings`], and how a value is looked up, read and checked.

use std::collections::BTreeMap;
use std::fmt;

use super::units::Setting;

/// What users see of a setting.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Dotted path in the file.
    pub path: &'static str,
    /// What stands for the value in help.
    pub value: &'static str,
    /// The default, as it would be written; empty is "not set".
    pub default: &'static str,
    /// What it does.
    pub help: &'static str,
}

impl Key {
    /// The long flag, without its dashes.
    pub fn flag(&self) -> String {
        self.path.replace(['.', '_'], "-")
    }

    /// The environment variable.
    pub fn variable(&self) -> String {
        format!("ARRCOC_{}", self.path.replace('.', "_").to_uppercase())
    }
}

/// Makes the table of keys, the types of the configuration, and how they are read, of one row per setting.
macro_rules! settings {
    (
        $(#[$doc:meta])*
        $config:ident {
            $($key:ident: $type:ty = $default:expr, $value:literal, $help:literal $(, $check:path)?;)*
        } fills $options:ident;
        $(
            $(#[$section_doc:meta])*
            $section:ident: $name:ident {
                $($of:ident: $of_type:ty = $of_default:expr, $of_value:literal, $of_help:literal $(, $of_check:path)?
                    $(=> $($field:ident).+)?;)*
            }
        )*
    ) => {
        /// The settings, in the order of help and file.
        pub const KEYS: &[$crate::config::Key] = &[
            $($crate::config::Key {
                path: stringify!($key),
                value: $value,
                default: $default,
                help: $help,
            },)*
            $($($crate::config::Key {
                path: concat!(stringify!($section), ".", stringify!($of)),
                value: $of_value,
                default: $of_default,
                help: $of_help,
            },)*)*
        ];

        $(#[$doc])*
        #[derive(Debug, Clone, serde::Serialize)]
        #[allow(rustdoc::bare_urls, reason = "help is written for terminals")]
        pub struct $config {
            $(#[doc = $help] pub $key: $type,)*
            $($(#[$section_doc])* pub $section: $name,)*
        }

        impl $config {
            /// Every value is read even when an earlier one is wrong, so that all problems are known.
            pub(super) fn read(values: &mut $crate::config::table::Values) -> Option<Self> {
                $(let $key = values.get::<$type>(stringify!($key), $default, &[$($check)?]);)*
                $(let $section = $name::read(values);)*
                Some(Self { $($key: $key?,)* $($section: $section?,)* })
            }

            /// What the runtime is told: the fields that rows name with `=>`; the others have its own
            /// defaults.
            #[allow(clippy::field_reassign_with_default, reason = "one line per row")]
            pub fn options(&self) -> $options {
                let mut options = $options::default();
                $($($(
                    options.$($field).+ = $crate::config::units::Plain::plain(&self.$section.$of);
                )?)*)*
                options
            }
        }

        $(
            $(#[$section_doc])*
            #[derive(Debug, Clone, serde::Serialize)]
            #[allow(rustdoc::bare_urls, reason = "help is written for terminals")]
            pub struct $name {
                $(#[doc = $of_help] pub $of: $of_type,)*
            }

            impl $name {
                fn read(values: &mut $crate::config::table::Values) -> Option<Self> {
                    $(let $of = values.get::<$of_type>(
                        concat!(stringify!($section), ".", stringify!($of)),
                        $of_default,
                        &[$($of_check)?],
                    );)*
                    Some(Self { $($of: $of?,)* })
                }
            }
        )*
    };
}
pub(super) use settings;

/// One wrong value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Dotted key.
    pub key: &'static str,
    /// Where the value was given.
    pub source: String,
    /// The value; `<hidden>` for secrets.
    pub value: String,
    /// What would have been right.
    pub expected: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, source, value, expected } = self;
        write!(f, "{key}: expected {expected}; found `{value}` (from {source})")
    }
}

/// What a setting's row adds to its type: what is expected instead of a value that is not good.
pub(super) type Check<T> = fn(&T) -> Option<String>;

/// Values by dotted key, each with its origin, and the problems met so far.
pub(super) struct Values {
    given: BTreeMap<&'static str, (String, String)>,
    problems: Vec<Problem>,
}

impl Values {
    /// Triples of key, value and origin; of two with one key, the later counts.
    pub(super) fn new(given: impl Iterator<Item = (&'static str, String, String)>) -> Self {
        let given = given.map(|(key, value, source)| (key, (value, source))).collect();
        Self { given, problems: Vec::new() }
    }

    /// Reads and checks a value.
    pub(super) fn get<T: Setting>(
        &mut self,
        key: &'static str,
        default: &str,
        checks: &[Check<T>],
    ) -> Option<T> {
        // `key:` with nothing after it, or an empty variable, is the default too.
        let text = self.given.get(key).map(|(value, _)| value.as_str()).filter(|value| !value.is_empty());
        let value = T::read(text.unwrap_or(default));
        let expected = match &value {
            None => Some(T::expected()),
            Some(value) => checks.iter().find_map(|check| check(value)),
        };
        if let Some(expected) = expected {
            self.problem(key, expected);
        }
        value
    }

    /// Notes that a value is not good.
    pub(super) fn problem(&mut self, key: &'static str, expected: String) {
        let (value, source) = self.given.get(key).cloned().unwrap_or_default();
        let value = if key.starts_with("auth.") { "<hidden>".into() } else { value };
        self.problems.push(Problem { key, source, value, expected });
    }

    pub(super) fn problems(self) -> Vec<Problem> {
        self.problems
    }
}
