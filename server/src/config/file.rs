//! The configuration file as written: texts by dotted key, before any is read. Nothing outside [`super`] sees
//! them.
//!
//! The file's sections and keys are those of [`KEYS`]: another one is an error with a line number, and says
//! which one was meant.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::settings::KEYS;
use crate::names::nearest;
use arrcoc_bundle::quote::quote;

/// What the file says: dotted keys and their texts.
#[derive(Debug, Default)]
pub(super) struct File(pub(super) Vec<(&'static str, String)>);

impl<'de> Deserialize<'de> for File {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut given = Vec::new();
        Level { section: None, given: &mut given }.deserialize(deserializer)?;
        Ok(Self(given))
    }
}

/// The file's outermost level, or a section of it.
struct Level<'f> {
    section: Option<&'static str>,
    given: &'f mut Vec<(&'static str, String)>,
}

/// What a name of a level stands for.
enum Meaning {
    Section(&'static str),
    Setting(&'static str),
}

impl Level<'_> {
    /// Names of this level, and what they stand for.
    fn names(&self) -> Vec<(&'static str, Meaning)> {
        let mut names: Vec<(&'static str, Meaning)> = Vec::new();
        for path in KEYS.iter().map(|key| key.path) {
            let (name, meaning) = match (self.section, path.split_once('.')) {
                (None, None) => (path, Meaning::Setting(path)),
                (None, Some((section, _))) => (section, Meaning::Section(section)),
                (Some(section), Some((of, name))) if of == section => (name, Meaning::Setting(path)),
                _ => continue,
            };
            if names.last().is_none_or(|(last, _)| *last != name) {
                names.push((name, meaning));
            }
        }
        names
    }

    /// Where the level is, for messages.
    fn place(&self) -> String {
        self.section.map_or_else(String::new, |section| format!(" in the section `{section}`"))
    }

    fn unknown(&self, name: &str) -> String {
        let names = self.names();
        let known: Vec<String> = names.iter().map(|(name, _)| format!("`{name}`")).collect();
        let meant = match nearest(name, names.iter().map(|(name, _)| *name)) {
            Some(meant) => format!("did you mean `{meant}`? "),
            None => String::new(),
        };
        let place = self.place();
        format!("there is no setting {}{place}; {meant}expected one of {}", quote(name), known.join(", "))
    }
}

impl<'de> DeserializeSeed<'de> for Level<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.section {
            None => f.write_str("settings, one `name: value` a line"),
            Some(section) => {
                write!(
                    f,
                    "the settings of the section `{section}` below it, indented, one `name: value` a line"
                )
            }
        }
    }

    /// A section with nothing in it.
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen: Vec<&'static str> = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            let known = self.names().into_iter().find(|(known, _)| *known == name);
            let Some((name, meaning)) = known else { return Err(A::Error::custom(self.unknown(&name))) };
            if seen.contains(&name) {
                return Err(A::Error::custom(format!("`{name}` is there twice{}", self.place())));
            }
            seen.push(name);
            match meaning {
                Meaning::Section(section) => {
                    map.next_value_seed(Level { section: Some(section), given: &mut *self.given })?;
                }
                Meaning::Setting(path) => {
                    if let Text(Some(text)) = map.next_value()? {
                        self.given.push((path, text));
                    }
                }
            }
        }
        Ok(())
    }
}

/// The text of a setting: YAML may hold a string, number, boolean or list, flags and environment only hold
/// strings.
struct Text(Option<String>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor).map(Self)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value or a list of values")
    }
    fn visit_unit<E>(self) -> Result<Option<String>, E> {
        Ok(None)
    }
    fn visit_str<E>(self, value: &str) -> Result<Option<String>, E> {
        Ok(Some(value.to_owned()))
    }
    fn visit_bool<E>(self, value: bool) -> Result<Option<String>, E> {
        Ok(Some(value.to_string()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Option<String>, E> {
        Ok(Some(value.to_string()))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Option<String>, E> {
        Ok(Some(value.to_string()))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Option<String>, E> {
        Ok(Some(value.to_string()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Option<String>, A::Error> {
        let mut texts = Vec::new();
        while let Some(Text(item)) = items.next_element()? {
            texts.push(item.ok_or_else(|| A::Error::custom("expected a value in the list, found nothing"))?);
        }
        Ok(Some(texts.join(",")))
    }
    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Option<String>, A::Error> {
        Err(A::Error::custom(
            "expected a value or a list of values, found settings within a setting; is the indentation right?",
        ))
    }
}
