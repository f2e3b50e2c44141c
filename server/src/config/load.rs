//! From text to [`Config`]: read the file, lay flags and environment over it, check every value, report every problem.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use arrcoc_runtime::yaml;

use super::keys::KEYS;
use super::raw::{self, Text};
use super::units::Setting;
use super::{
    Auth, Config, Cors, EngineConfig, LEAST_BODIES, Limits, Log, Overrides, RemoteImages, Server, Timeouts,
    places,
};
use crate::host::{is_pattern, is_pattern_with_port};

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not the YAML that it should be. The message names line, column and, for an unknown key, the ones
    /// that exist.
    #[error("{path}: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        message: String,
    },
    /// A command needs a bundle and was given none.
    #[error(
        "no bundle to run: give --bundle DIR or --engines DIR, or `serve DIR` (or ARRCOC_BUNDLE, ARRCOC_ENGINES, or `bundle` or \
         `engines` in the file); `arrcoc-export build` makes one"
    )]
    NoBundle,
    /// Values are wrong: all of them are listed.
    #[error("the configuration has {} problem(s):{}", .0.len(), list(.0))]
    Invalid(Vec<Problem>),
}

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

fn list(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}

impl Config {
    /// The configuration that a text is, as `arrcoc-serve config check` prints one.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn from_yaml(text: &[u8]) -> Result<Self, ConfigError> {
        let origin = "the configuration";
        Checker::new(parse(text, Path::new(origin))?, origin.into(), &Overrides::default()).check()
    }

    /// Reads `file` (when given), lays `overrides` over it and checks the result.
    ///
    /// # Errors
    /// [`ConfigError`]; wrong values are reported all at once.
    pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Self, ConfigError> {
        let raw = match file {
            None => raw::File::default(),
            Some(path) => read(path)?,
        };
        let origin = file.map_or_else(|| "default".into(), |path| path.display().to_string());
        Checker::new(raw, origin, overrides).check()
    }
}

fn read(path: &Path) -> Result<raw::File, ConfigError> {
    let text = yaml::read(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse(&text, path)
}

/// `path` is for messages.
fn parse(text: &[u8], path: &Path) -> Result<raw::File, ConfigError> {
    // An empty document, or one of comments only, is `null` to YAML and all defaults to us.
    yaml::parse::<Option<raw::File>>(text)
        .map(Option::unwrap_or_default)
        .map_err(|error| ConfigError::Parse { path: path.to_owned(), message: error.to_string() })
}

/// Values by dotted key, each with its origin, and the problems met so far.
struct Checker {
    given: BTreeMap<&'static str, (String, String)>,
    problems: Vec<Problem>,
}

impl Checker {
    fn new(file: raw::File, origin: String, overrides: &Overrides) -> Self {
        let mut given = BTreeMap::new();
        for (path, text) in flatten(file) {
            if let Some(Text(value)) = text {
                given.insert(path, (value, origin.clone()));
            }
        }
        for entry in &overrides.0 {
            given.insert(entry.path, (entry.value.clone(), entry.source.clone()));
        }
        Self { given, problems: Vec::new() }
    }

    fn check(mut self) -> Result<Config, ConfigError> {
        let config = self.sections();
        if let Some(Config { bundle: Some(bundle), .. }) = &config
            && let Some(expected) = places::not_a_bundle(bundle)
        {
            self.problem("bundle", expected);
        }
        if let Some(Config { engines: Some(engines), bundle, .. }) = &config {
            if bundle.is_some() {
                self.problem("engines", "either `engines` or `bundle`, not both".into());
            } else if let Some(expected) = places::not_engines(engines) {
                self.problem("engines", expected);
            }
        }
        if let Some(Config { cors, .. }) = &config
            && cors.origins.iter().any(|origin| origin != "*" && !is_origin(origin))
        {
            self.problem(
                "cors.origins",
                "origins such as https://app.example.org, without a path, or *".into(),
            );
        }
        if let Some(Config { server, .. }) = &config
            && server.hosts.iter().any(|host| host != "*" && !is_pattern(host))
        {
            self.problem(
                "server.hosts",
                "names or addresses without scheme, port or path, such as api.example.org, *.example.org or *".into(),
            );
        }
        if let Some(Config { images, .. }) = &config {
            let lists = [
                ("images.allow_hosts", &images.allow_hosts),
                ("images.allow_private_hosts", &images.allow_private_hosts),
            ];
            for (key, _) in
                lists.into_iter().filter(|(_, hosts)| !hosts.iter().all(|host| is_pattern_with_port(host)))
            {
                self.problem(key, "names or addresses without scheme or path, with a port where it is not the usual one, such as images.example.org, *.example.org, 10.0.0.7:8000 or [fd00::7]".into());
            }
        }
        if let Some(Config { limits, .. }) = &config
            && limits.body_memory() / LEAST_BODIES < limits.body.0
        {
            self.problem("limits.body_memory", "at least twice limits.body".into());
        }
        if let Some(Config { log, .. }) = &config
            && log.filter.parse::<tracing_subscriber::EnvFilter>().is_err()
        {
            self.problem(
                "log.filter",
                "a level (error, warn, info, debug, trace) or a tracing filter".into(),
            );
        }
        match config {
            Some(config) if self.problems.is_empty() => Ok(config),
            _ => Err(ConfigError::Invalid(self.problems)),
        }
    }

    /// Every section is read even when an earlier one is wrong, so that all problems are known.
    fn sections(&mut self) -> Option<Config> {
        let (bundle, model_name) = (self.get("bundle"), self.get("model_name"));
        let (engines, precision) = (self.get("engines"), self.get("precision"));
        let (listen, port_file) = (self.get("listen"), self.get("port_file"));
        let (admin_listen, probe_listen) = (self.get("admin_listen"), self.get("probe_listen"));
        let hosts = self.get("server.hosts");
        let (engine, limits, timeouts) = (self.engine(), self.limits(), self.timeouts());
        let (api_keys, admin_keys) = (self.get("auth.api_keys"), self.get("auth.admin_keys"));
        let images = self.images();
        let origins = self.get("cors.origins");
        let (filter, format) = (self.get("log.filter"), self.get("log.format"));
        Some(Config {
            bundle: bundle?,
            engines: engines?,
            precision: precision?,
            model_name: model_name?,
            listen: listen?,
            admin_listen: admin_listen?,
            probe_listen: probe_listen?,
            port_file: port_file?,
            server: Server { hosts: hosts? },
            engine: engine?,
            limits: limits?,
            timeouts: timeouts?,
            auth: Auth { api_keys: api_keys?, admin_keys: admin_keys? },
            images: images?,
            cors: Cors { origins: origins? },
            log: Log { filter: filter?, format: format? },
        })
    }

    fn engine(&mut self) -> Option<EngineConfig> {
        let (runtime, threads) = (self.get("engine.runtime"), self.get("engine.threads"));
        let (kernels, profile) = (self.get("engine.kernels"), self.get("engine.profile"));
        let (gpu, gpu_arena) = (self.get("engine.gpu"), self.get("engine.gpu_arena"));
        let gpu_arena_growth = self.get("engine.gpu_arena_growth");
        let tensorrt_engines = self.get("engine.tensorrt_engines");
        let (slots, context_length) = (self.get("engine.slots"), self.get("engine.context_length"));
        let (prefill_chunk, image_size) = (self.get("engine.prefill_chunk"), self.get("engine.image_size"));
        let (feature_cache, token_cache) = (self.get("engine.feature_cache"), self.get("engine.token_cache"));
        let (loaded, memory) = (self.get("engine.loaded"), self.get("engine.memory"));
        Some(EngineConfig {
            runtime: runtime?,
            threads: threads?,
            kernels: kernels?,
            profile: profile?,
            gpu: gpu?,
            gpu_arena: gpu_arena?,
            gpu_arena_growth: gpu_arena_growth?,
            tensorrt_engines: tensorrt_engines?,
            slots: slots?,
            context_length: context_length?,
            prefill_chunk: prefill_chunk?,
            image_size: image_size?,
            feature_cache: feature_cache?,
            token_cache: token_cache?,
            loaded: loaded?,
            memory: memory?,
        })
    }

    fn limits(&mut self) -> Option<Limits> {
        let (queue, connections) = (self.get("limits.queue"), self.get("limits.connections"));
        let (body, text, images) =
            (self.get("limits.body"), self.get("limits.text"), self.get("limits.images"));
        let body_memory = self.get("limits.body_memory");
        let json = self.get("limits.json");
        let (messages, parts) = (self.get("limits.messages"), self.get("limits.parts"));
        let (image_bytes, image_pixels) = (self.get("limits.image_bytes"), self.get("limits.image_pixels"));
        let (image_side, image_aspect) = (self.get("limits.image_side"), self.get("limits.image_aspect"));
        let (choices, max_tokens) = (self.get("limits.choices"), self.get("limits.max_tokens"));
        Some(Limits {
            queue: queue?,
            connections: connections?,
            body: body?,
            body_memory: body_memory?,
            json: json?,
            text: text?,
            messages: messages?,
            parts: parts?,
            images: images?,
            image_bytes: image_bytes?,
            image_pixels: image_pixels?,
            image_side: image_side?,
            image_aspect: image_aspect?,
            choices: choices?,
            max_tokens: max_tokens?,
        })
    }

    fn timeouts(&mut self) -> Option<Timeouts> {
        let (request, headers) = (self.get("timeouts.request"), self.get("timeouts.headers"));
        let load = self.get("timeouts.load");
        let (body, write) = (self.get("timeouts.body"), self.get("timeouts.write"));
        let (drain, keep_alive) = (self.get("timeouts.drain"), self.get("timeouts.keep_alive"));
        Some(Timeouts {
            request: request?,
            load: load?,
            headers: headers?,
            body: body?,
            write: write?,
            drain: drain?,
            keep_alive: keep_alive?,
        })
    }

    fn images(&mut self) -> Option<RemoteImages> {
        let allow_hosts = self.get("images.allow_hosts");
        let allow_private_hosts = self.get("images.allow_private_hosts");
        let (allow_http, timeout) = (self.get("images.allow_http"), self.get("images.timeout"));
        Some(RemoteImages {
            allow_hosts: allow_hosts?,
            allow_private_hosts: allow_private_hosts?,
            allow_http: allow_http?,
            timeout: timeout?,
        })
    }

    fn get<T: Setting>(&mut self, path: &'static str) -> Option<T> {
        let default = || KEYS.iter().find(|key| key.path == path).map_or("", |key| key.default);
        let value = match self.given.get(path) {
            // `key:` with nothing after it, or an empty variable, is the default too.
            Some((value, _)) if !value.is_empty() => T::read(value),
            _ => T::read(default()),
        };
        if value.is_none() {
            self.problem(path, T::expected());
        }
        value
    }

    fn problem(&mut self, key: &'static str, expected: String) {
        let (value, source) = self.given.get(key).cloned().unwrap_or_default();
        let value = if key.starts_with("auth.") { "<hidden>".into() } else { value };
        self.problems.push(Problem { key, source, value, expected });
    }
}

fn is_origin(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, host)| {
        matches!(scheme, "http" | "https")
            && !host.is_empty()
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b))
    })
}

/// The file's values by dotted key.
fn flatten(file: raw::File) -> Vec<(&'static str, Option<Text>)> {
    let engine = file.engine.unwrap_or_default();
    let limits = file.limits.unwrap_or_default();
    let timeouts = file.timeouts.unwrap_or_default();
    let auth = file.auth.unwrap_or_default();
    let images = file.images.unwrap_or_default();
    let log = file.log.unwrap_or_default();
    vec![
        ("bundle", file.bundle),
        ("engines", file.engines),
        ("precision", file.precision),
        ("model_name", file.model_name),
        ("listen", file.listen),
        ("admin_listen", file.admin_listen),
        ("probe_listen", file.probe_listen),
        ("port_file", file.port_file),
        ("server.hosts", file.server.unwrap_or_default().hosts),
        ("engine.runtime", engine.runtime),
        ("engine.threads", engine.threads),
        ("engine.kernels", engine.kernels),
        ("engine.profile", engine.profile),
        ("engine.gpu", engine.gpu),
        ("engine.gpu_arena", engine.gpu_arena),
        ("engine.gpu_arena_growth", engine.gpu_arena_growth),
        ("engine.tensorrt_engines", engine.tensorrt_engines),
        ("engine.slots", engine.slots),
        ("engine.context_length", engine.context_length),
        ("engine.prefill_chunk", engine.prefill_chunk),
        ("engine.image_size", engine.image_size),
        ("engine.feature_cache", engine.feature_cache),
        ("engine.token_cache", engine.token_cache),
        ("engine.loaded", engine.loaded),
        ("engine.memory", engine.memory),
        ("limits.queue", limits.queue),
        ("limits.connections", limits.connections),
        ("limits.body", limits.body),
        ("limits.body_memory", limits.body_memory),
        ("limits.json", limits.json),
        ("limits.text", limits.text),
        ("limits.messages", limits.messages),
        ("limits.parts", limits.parts),
        ("limits.images", limits.images),
        ("limits.image_bytes", limits.image_bytes),
        ("limits.image_pixels", limits.image_pixels),
        ("limits.image_side", limits.image_side),
        ("limits.image_aspect", limits.image_aspect),
        ("limits.choices", limits.choices),
        ("limits.max_tokens", limits.max_tokens),
        ("timeouts.request", timeouts.request),
        ("timeouts.load", timeouts.load),
        ("timeouts.headers", timeouts.headers),
        ("timeouts.body", timeouts.body),
        ("timeouts.write", timeouts.write),
        ("timeouts.drain", timeouts.drain),
        ("timeouts.keep_alive", timeouts.keep_alive),
        ("auth.api_keys", auth.api_keys),
        ("auth.admin_keys", auth.admin_keys),
        ("images.allow_hosts", images.allow_hosts),
        ("images.allow_private_hosts", images.allow_private_hosts),
        ("images.allow_http", images.allow_http),
        ("images.timeout", images.timeout),
        ("cors.origins", file.cors.unwrap_or_default().origins),
        ("log.filter", log.filter),
        ("log.format", log.format),
    ]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn load(yaml: &str, overrides: &[(&'static str, &str)]) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("serve.yaml");
        std::fs::write(&path, yaml).unwrap();
        Config::load(Some(&path), &Overrides::from_pairs(overrides))
    }

    #[test]
    fn the_example_for_a_gpu_is_what_it_says() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/serve-gpu.yaml");
        let options = Config::load(Some(&path), &Overrides::default()).unwrap().options();
        assert_eq!(options.runtime, Some(arrcoc_runtime::engine::RuntimeKind::TensorRt));
        let yaml = "engine: {runtime: cuda, gpu: 1, gpu_arena: 2GiB, gpu_arena_growth: doubling}";
        let cuda = load(yaml, &[]).unwrap().options().cuda;
        assert_eq!((cuda.device, cuda.arena_limit), (1, Some(2 << 30)));
        assert_eq!(cuda.arena_growth, arrcoc_runtime::engine::ArenaGrowth::Doubling);
        let error = load("engine: {runtime: gpu, gpu_arena_growth: fast}", &[]).unwrap_err().to_string();
        assert!(
            error.contains("auto, ort, cuda, tensorrt or tract") && error.contains("requested or doubling"),
            "{error}"
        );
    }

    #[test]
    fn defaults_are_legal_and_overrides_outrank_the_file() {
        let config = load("# nothing\n", &[]).unwrap();
        assert_eq!((config.limits.body.0, config.engine.slots.0), (32 << 20, 4));
        let yaml = "limits: {body: 1MiB, images: 2}\nimages:\n  allow_hosts: [a.example, '*.b.example']\n";
        let config = load(yaml, &[("limits.images", "3")]).unwrap();
        assert_eq!((config.limits.body.0, config.limits.images), (1 << 20, 3));
        assert_eq!(config.images.allow_hosts, ["a.example", "*.b.example"]);
    }

    #[test]
    fn every_key_of_the_table_is_read_from_the_file() {
        let in_file: Vec<_> = flatten(raw::File::default()).into_iter().map(|(path, _)| path).collect();
        assert_eq!(in_file, KEYS.iter().map(|key| key.path).collect::<Vec<_>>());
    }

    #[test]
    fn every_problem_names_key_value_and_expectation() {
        let error = load("limits: {body: 32 bananas}\nlisten: here\n", &[("engine.slots", "0")]).unwrap_err();
        let text = error.to_string();
        for part in [
            "limits.body",
            "`32 bananas`",
            "KiB",
            "listen",
            "`here`",
            "engine.slots",
            "at least 1",
            "override",
        ] {
            assert!(text.contains(part), "{part} is missing in: {text}");
        }
    }

    #[test]
    fn a_misspelt_key_is_an_error_that_lists_the_right_ones() {
        let text = load("limits:\n  bodyy: 1\n", &[]).unwrap_err().to_string();
        assert!(text.contains("bodyy") && text.contains("`body`") && text.contains("line 2"), "{text}");
        assert!(matches!(load("limits: 3\n", &[]), Err(ConfigError::Parse { .. })));
    }

    /// What matches no host would be a setting without effect.
    #[test]
    fn hosts_of_images_are_hosts() {
        for good in
            ["a.example", "*.b.example:8443", "10.0.0.7", "[fd00::7]", "[fd00::7]:9000", "localhost:1"]
        {
            load("", &[("images.allow_hosts", good), ("images.allow_private_hosts", good)]).unwrap();
        }
        for bad in ["https://x", "x/y", "fd00::7", "x:", "x:0", "x:70000", "*", "a b", "user@x", "[x]"] {
            for key in ["images.allow_hosts", "images.allow_private_hosts"] {
                let text = load("", &[(key, bad)]).unwrap_err().to_string();
                assert!(text.contains(key) && text.contains(bad), "{bad}: {text}");
            }
        }
    }

    #[test]
    fn a_bundle_must_be_one_and_secrets_stay_secret() {
        let text = load("bundle: /nonexistent\nauth: {api_keys: [short]}\n", &[]).unwrap_err().to_string();
        assert!(text.contains("auth.api_keys") && !text.contains("short`"), "{text}");
        let text = load("bundle: /nonexistent\n", &[]).unwrap_err().to_string();
        assert!(text.contains("/nonexistent") && text.contains("manifest.yaml"), "{text}");
        let text =
            load("log: {filter: 'a=b=c'}\ncors: {origins: 'https://a/path'}\n", &[]).unwrap_err().to_string();
        assert!(text.contains("log.filter") && text.contains("cors.origins"), "{text}");
    }
}
