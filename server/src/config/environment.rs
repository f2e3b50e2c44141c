//! Environment variables that look like ours and are none: a misspelt one would be a setting that is not set.

use arrcoc_bundle::quote::quote;

use super::settings::KEYS;
use crate::names::nearest;

/// What all of ours begin with.
const PREFIX: &str = "ARRCOC_";

/// Those that are no settings of the configuration: the file of it, the key of `swap`, and what tests read.
const OTHERS: [&str; 3] = ["ARRCOC_CONFIG", "ARRCOC_ADMIN_KEY", "ARRCOC_TORCH_PYTHON"];

/// Beginnings of what tests read.
const FOR_TESTS: [&str; 4] = ["ARRCOC_TEST_", "ARRCOC_REQUIRE", "ARRCOC_FUZZ_", "ARRCOC_BLESS"];

/// Refuses the first variable of the environment that looks like a setting and is none.
pub(super) fn check() -> Result<(), String> {
    let variables = std::env::vars_os();
    variables
        .into_iter()
        .try_for_each(|(name, value)| check_one(&name.to_string_lossy(), &value.to_string_lossy()))
}

fn check_one(name: &str, value: &str) -> Result<(), String> {
    let settings: Vec<String> = KEYS.iter().map(super::Key::variable).collect();
    let known = || settings.iter().map(String::as_str).chain(OTHERS);
    let others = FOR_TESTS.iter().any(|prefix| name.starts_with(prefix)) || is_kubernetes(name, value);
    if !name.starts_with(PREFIX) || others || known().any(|known| known == name) {
        return Ok(());
    }
    let hint = match nearest(name, known()) {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => "`arrcoc-serve serve --help` lists the settings".to_owned(),
    };
    // Without its value, which may be a key.
    Err(format!(
        "the environment variable {} is no setting: {hint} Unset it where it is meant for another program",
        quote(name)
    ))
}

/// What Kubernetes sets in every pod for a service that is called `arrcoc` or `arrcoc-...`.
fn is_kubernetes(name: &str, value: &str) -> bool {
    let host_or_port = name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT");
    let address = name.ends_with("_PORT") && value.contains("://");
    let protocol = name.contains("_PORT_") && (name.contains("_TCP") || name.contains("_UDP"));
    host_or_port || address || protocol
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_nearly_a_setting_is_refused_with_the_nearest() {
        let refused = |name| check_one(name, "secret-key").err();
        for (slip, meant) in [
            ("ARRCOC_BUNDEL", "ARRCOC_BUNDLE"),
            ("ARRCOC_LIMIT_BODY", "ARRCOC_LIMITS_BODY"),
            ("ARRCOC_AUTH_APIKEYS", "ARRCOC_AUTH_API_KEYS"),
        ] {
            let message = refused(slip).unwrap_or_default();
            assert!(message.contains(slip) && message.contains(meant), "{message}");
            assert!(!message.contains("secret"), "{message}");
        }
        assert!(
            refused("ARRCOC_SOMETHING_ELSE_ALTOGETHER").is_some_and(|message| message.contains("--help"))
        );
    }

    #[test]
    fn what_is_known_or_of_others_is_let_through() {
        let mut known: Vec<String> = KEYS.iter().map(crate::config::Key::variable).collect();
        known.extend(OTHERS.map(str::to_owned));
        known.extend(
            ["ARRCOC_TEST_SERVE", "ARRCOC_REQUIRE_GPU", "ARRCOC_FUZZ_CASES", "ARRCOC_BLESS"]
                .map(str::to_owned),
        );
        known.extend(["ORT_DYLIB_PATH", "arrcoc_x"].map(str::to_owned));
        for name in known {
            assert_eq!(check_one(&name, "x"), Ok(()), "{name}");
        }
        for (name, value) in [
            ("ARRCOC_SERVICE_HOST", "10.0.0.1"),
            ("ARRCOC_SERVICE_PORT_HTTP", "8080"),
            ("ARRCOC_PORT", "tcp://10.0.0.1:8080"),
            ("ARRCOC_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
            ("ARRCOC_PORT_8080_TCP_PROTO", "tcp"),
            ("ARRCOC_PORT_8080_TCP_ADDR", "10.0.0.1"),
            ("ARRCOC_SERVE_PORT_8080_TCP_PORT", "8080"),
        ] {
            assert_eq!(check_one(name, value), Ok(()), "{name}");
        }
        assert!(check_one("ARRCOC_PORT", "8080").is_err());
    }
}
