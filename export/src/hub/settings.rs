//! Where the hub and its cache are, from the variables that huggingface_hub reads.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use super::error::HubError;

const ENDPOINT: &str = "https://huggingface.co";

/// Where and how checkpoints are fetched.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The hub.
    pub endpoint: Url,
    /// The cache's directory: one directory per repository.
    pub cache: PathBuf,
    /// Sent to the endpoint, and nowhere else.
    pub token: Option<Token>,
    /// Nothing is asked of the network.
    pub offline: bool,
    /// Longest time for the head of an answer, and for a body after which it is asked for again from where it
    /// stopped.
    pub patience: Duration,
    /// Between two attempts, the first time; then it doubles.
    pub pause: Duration,
}

/// A secret: never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Reads a token that was found in `origin`, a variable or a file; `None` where nothing is.
    ///
    /// # Errors
    /// [`HubError::Token`], of what no header can hold.
    pub fn parse(text: &str, origin: &str) -> Result<Option<Self>, HubError> {
        let text = text.trim();
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(HubError::Token { origin: origin.to_owned() });
        }
        Ok((!text.is_empty()).then(|| Self(text.to_owned())))
    }

    /// The header's value.
    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl Settings {
    /// Reads the environment: `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`, `HF_TOKEN_PATH`,
    /// `HF_HUB_OFFLINE`, and the older names that huggingface_hub still takes.
    ///
    /// # Errors
    /// [`HubError`], where a variable or the token's file is wrong, or there is no home.
    pub fn from_env() -> Result<Self, HubError> {
        Self::from_variables(&|name| std::env::var_os(name), std::env::home_dir())
    }

    fn from_variables(
        variable: &dyn Fn(&str) -> Option<OsString>,
        home: Option<PathBuf>,
    ) -> Result<Self, HubError> {
        let home = home.filter(|home| !home.as_os_str().is_empty());
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |name: &str| set(name).map(|value| value.to_string_lossy().into_owned());
        let path = |name: &str| set(name).map(|value| expand(Path::new(&value), home.as_deref()));
        let hub_home = || {
            let caches = path("XDG_CACHE_HOME").or_else(|| home.as_ref().map(|home| home.join(".cache")));
            path("HF_HOME")
                .or_else(|| caches.map(|caches| caches.join("huggingface")))
                .ok_or(HubError::NoHome)
        };
        let cache = match path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE")) {
            Some(cache) => cache,
            None => hub_home()?.join("hub"),
        };
        let is_true = |name: &str| text(name).is_some_and(|value| truth(&value));
        let mut token = None;
        for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
            if token.is_none() {
                token = Token::parse(&text(name).unwrap_or_default(), name)?;
            }
        }
        if token.is_none()
            && let Some(file) = path("HF_TOKEN_PATH").or_else(|| Some(hub_home().ok()?.join("token")))
            && let Ok(bytes) = arrcoc_bundle::small::read(&file, 1 << 16)
        {
            token = Token::parse(&String::from_utf8_lossy(&bytes), &file.display().to_string())?;
        }
        Ok(Self {
            endpoint: endpoint(&text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned()))?,
            cache,
            token: token.filter(|_| !is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN")),
            offline: is_true("HF_HUB_OFFLINE") || is_true("TRANSFORMERS_OFFLINE"),
            patience: Duration::from_secs(60),
            pause: Duration::from_secs(1),
        })
    }
}

/// As huggingface_hub reads it.
fn truth(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].iter().any(|truth| value.eq_ignore_ascii_case(truth))
}

/// A leading `~` is the home.
fn expand(path: &Path, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}

fn endpoint(text: &str) -> Result<Url, HubError> {
    let refused = || HubError::Endpoint { found: text.to_owned() };
    let url = Url::parse(text.trim_end_matches('/')).map_err(|_| refused())?;
    let plain = url.username().is_empty() && url.password().is_none();
    let whole = url.query().is_none() && url.fragment().is_none();
    if matches!(url.scheme(), "https" | "http") && url.has_host() && plain && whole {
        Ok(url)
    } else {
        Err(refused())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, HubError> {
        let variable = |name: &str| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        };
        Settings::from_variables(&variable, Some("/home/me".into()))
    }

    #[test]
    fn the_cache_is_where_huggingface_hub_has_it() {
        for (variables, cache) in [
            (&[][..], "/home/me/.cache/huggingface/hub"),
            (&[("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (&[("HF_HOME", "/h"), ("XDG_CACHE_HOME", "/x")], "/h/hub"),
            (&[("HF_HOME", "~/h")], "/home/me/h/hub"),
            (&[("HF_HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/old")], "/old"),
            (&[("HF_HUB_CACHE", "/c"), ("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HOME", "/h")], "/c"),
            (&[("HF_HUB_CACHE", "")], "/home/me/.cache/huggingface/hub"),
        ] {
            assert_eq!(read(variables).unwrap().cache, Path::new(cache), "{variables:?}");
        }
        let nowhere = Settings::from_variables(&|_| None, None);
        assert!(matches!(nowhere, Err(HubError::NoHome)));
    }

    #[test]
    fn the_token_comes_from_variables_then_from_its_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), " from-file\n").unwrap();
        let home = dir.path().to_str().unwrap();
        let token = |variables: &[(&str, &str)]| read(variables).unwrap().token.map(|token| token.header());
        let bearer = |text: &str| Some(format!("Bearer {text}"));
        assert_eq!(token(&[("HF_HOME", home), ("HF_TOKEN", "t")]), bearer("t"));
        assert_eq!(token(&[("HF_HOME", home), ("HUGGING_FACE_HUB_TOKEN", "old")]), bearer("old"));
        assert_eq!(token(&[("HF_HOME", home)]), bearer("from-file"));
        assert_eq!(token(&[("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        assert_eq!(token(&[("HF_HOME", "/nowhere")]), None);
        let error = read(&[("HF_TOKEN", "a\nb")]).unwrap_err();
        assert!(error.to_string().contains("HF_TOKEN") && !error.to_string().contains("a\nb"), "{error}");
        assert_eq!(format!("{:?}", Token::parse("secret", "").unwrap()), "Some(Token)");
    }

    #[test]
    fn endpoints_are_plain_addresses() {
        let url = |text: &str| read(&[("HF_ENDPOINT", text)]).map(|settings| settings.endpoint.to_string());
        assert_eq!(read(&[]).unwrap().endpoint.as_str(), "https://huggingface.co/");
        assert_eq!(url("http://localhost:8080/hub/").unwrap(), "http://localhost:8080/hub");
        for wrong in ["huggingface.co", "ftp://x", "https://me:pw@x", "https://x?y", "file:///etc"] {
            assert!(matches!(url(wrong), Err(HubError::Endpoint { .. })), "{wrong}");
        }
    }

    #[test]
    fn offline_is_one_of_four_words() {
        let offline = |value: &str| read(&[("HF_HUB_OFFLINE", value)]).unwrap().offline;
        assert!(["1", "on", "Yes", "TRUE"].into_iter().all(offline));
        assert!(!["0", "", "no", "2"].into_iter().any(offline));
    }
}
