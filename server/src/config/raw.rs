//! The configuration as written, before any check. Nothing outside [`super`] sees these types.

use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};

/// The text of a setting: YAML may hold a string, number, boolean or list, flags and environment only hold strings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Text(pub(super) String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a value or a list of values")
            }
            fn visit_str<E>(self, value: &str) -> Result<Text, E> {
                Ok(Text(value.to_owned()))
            }
            fn visit_bool<E>(self, value: bool) -> Result<Text, E> {
                Ok(Text(value.to_string()))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Text, E> {
                Ok(Text(value.to_string()))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Text, E> {
                Ok(Text(value.to_string()))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Text, E> {
                Ok(Text(value.to_string()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Text, A::Error> {
                let mut texts = Vec::new();
                while let Some(Text(item)) = items.next_element()? {
                    texts.push(item);
                }
                Ok(Text(texts.join(",")))
            }
        }
        deserializer.deserialize_any(TextVisitor)
    }
}

/// A section of the file. Its keys are listed once, in [`super::keys::KEYS`]; this spells out their nesting, so that
/// a misspelt key is an error with a line number.
macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct $name {
            $(pub(super) $field: Option<$kind>,)*
        }
    };
}

section!(
    /// The whole file.
    File {
        bundle: Text,
        engines: Text,
        precision: Text,
        model_name: Text,
        listen: Text,
        admin_listen: Text,
        probe_listen: Text,
        port_file: Text,
        server: ServerSection,
        engine: EngineSection,
        limits: LimitsSection,
        timeouts: TimeoutsSection,
        auth: AuthSection,
        images: ImagesSection,
        cors: CorsSection,
        log: LogSection,
    }
);
section!(ServerSection { hosts: Text });
section!(EngineSection {
    runtime: Text,
    threads: Text,
    kernels: Text,
    profile: Text,
    gpu: Text,
    gpu_arena: Text,
    gpu_arena_growth: Text,
    tensorrt_engines: Text,
    slots: Text,
    context_length: Text,
    prefill_chunk: Text,
    image_size: Text,
    feature_cache: Text,
    token_cache: Text,
    loaded: Text,
    memory: Text,
});
section!(LimitsSection {
    queue: Text,
    connections: Text,
    body: Text,
    body_memory: Text,
    json: Text,
    text: Text,
    messages: Text,
    parts: Text,
    images: Text,
    image_bytes: Text,
    image_pixels: Text,
    image_side: Text,
    image_aspect: Text,
    choices: Text,
    max_tokens: Text,
});
section!(TimeoutsSection {
    request: Text,
    load: Text,
    headers: Text,
    body: Text,
    write: Text,
    drain: Text,
    keep_alive: Text
});
section!(AuthSection { api_keys: Text, admin_keys: Text });
section!(ImagesSection { allow_hosts: Text, allow_private_hosts: Text, allow_http: Text, timeout: Text });
section!(CorsSection { origins: Text });
section!(LogSection { filter: Text, format: Text });
