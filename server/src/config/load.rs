//! From text to [`Config`]: read the file, lay flags and environment over it, check every value, report every
//! problem.

use std::path::{Path, PathBuf};

use arrcoc_bundle::yaml;

use super::file::File;
use super::settings::Config;
use super::table::{Problem, Values};
use super::{LEAST_BODIES, Overrides};

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
    /// The file is not the YAML that it should be. The message names line, column and, for an unknown key,
    /// the ones that exist.
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
    /// `serve` was given no bundle, and the directory that it takes then is not one of one model.
    #[error(
        "no bundle to run: expected bundles of one model in the directory `engines`, found {found}; or give `serve DIR`, \
         --bundle DIR or --engines DIR (or ARRCOC_BUNDLE, ARRCOC_ENGINES, or `bundle` or `engines` in the file); \
         `arrcoc-export build CHECKPOINT` makes one"
    )]
    NothingToServe {
        /// What there is.
        found: String,
    },
    /// Values are wrong: all of them are listed.
    #[error("the configuration has {} problem(s):{}", .0.len(), list(.0))]
    Invalid(Vec<Problem>),
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
        check(parse(text, Path::new(origin))?, origin, &Overrides::default())
    }

    /// Reads `file` (when given), lays `overrides` over it and checks the result.
    ///
    /// # Errors
    /// [`ConfigError`]; wrong values are reported all at once.
    pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Self, ConfigError> {
        let written = match file {
            None => File::default(),
            Some(path) => read(path)?,
        };
        let origin = file.map_or_else(|| "default".into(), |path| path.display().to_string());
        check(written, &origin, overrides)
    }
}

fn read(path: &Path) -> Result<File, ConfigError> {
    let text = yaml::read(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse(&text, path)
}

/// `path` is for messages.
fn parse(text: &[u8], path: &Path) -> Result<File, ConfigError> {
    // An empty document, or one of comments only, is `null` to YAML and all defaults to us.
    yaml::parse::<Option<File>>(text)
        .map(Option::unwrap_or_default)
        .map_err(|error| ConfigError::Parse { path: path.to_owned(), message: error.to_string() })
}

/// Reads and checks every value: the file's, and what flags and environment lay over it.
fn check(file: File, origin: &str, overrides: &Overrides) -> Result<Config, ConfigError> {
    let written = file.0.into_iter().map(|(key, value)| (key, value, origin.to_owned()));
    let over = overrides.0.iter().map(|over| (over.path, over.value.clone(), over.source.clone()));
    let mut values = Values::new(written.chain(over));
    let config = Config::read(&mut values);
    if let Some(config) = &config {
        check_together(config, &mut values);
    }
    let problems = values.problems();
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(ConfigError::Invalid(problems)),
    }
}

/// What settings say of each other.
fn check_together(config: &Config, values: &mut Values) {
    if config.bundle.is_some() && config.engines.is_some() {
        values.problem("engines", "either `engines` or `bundle`, not both".into());
    }
    let limits = &config.limits;
    if limits.body_memory() / LEAST_BODIES < limits.body.0 {
        values.problem("limits.body_memory", "at least twice limits.body".into());
    }
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
        assert_eq!(options.runtime, Some(arrcoc_runtime::library::LibraryKind::TensorRt));
        let yaml = "engine: {runtime: cuda, gpu: 1, gpu_arena: 2GiB, gpu_arena_growth: doubling}";
        let cuda = load(yaml, &[]).unwrap().options().library.cuda;
        assert_eq!((cuda.device, cuda.arena_limit), (1, Some(2 << 30)));
        assert_eq!(cuda.arena_growth, arrcoc_runtime::library::ArenaGrowth::Doubling);
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
    fn what_is_no_configuration_is_said_in_words_of_configurations() {
        for (yaml, parts) in [
            (
                "limits:\n  bodyy: 1\n",
                &["`bodyy`", "section `limits`", "mean `body`?", "`body_memory`", "line 2"][..],
            ),
            ("limit: {}\n", &["`limit`", "mean `limits`?", "`engine`"]),
            ("limits: 3\n", &["section `limits`", "indented", "integer `3`"]),
            ("limits: {body: {}}\n", &["settings within a setting", "limits.body", "indentation"]),
            ("limits: {body: 1, body: 2}\n", &["`body` is there twice", "section `limits`"]),
            ("auth: {api_keys: [a, ~]}\n", &["auth.api_keys", "found nothing"]),
            ("just words\n", &["one `name: value` a line", "just words"]),
            ("[a]\n", &["one `name: value` a line"]),
        ] {
            let Err(ConfigError::Parse { message, .. }) = load(yaml, &[]) else { panic!("{yaml} is taken") };
            for part in parts {
                assert!(message.contains(part), "{part} is missing in: {message}");
            }
            assert!(!message.contains("struct") && !message.contains("unit"), "{message}");
        }
        load("limits:\nengine: {threads: }\n", &[]).unwrap();
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
