//! Flags and environment variables, made from [`KEYS`].

use std::path::Path;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

use super::environment;
use super::places;
use super::settings::KEYS;

/// What the command line and the environment say. `clap::Args` by hand, since the flags come from a table.
#[derive(Debug, Clone, Default)]
pub struct Overrides(pub(super) Vec<Override>);

/// One value that outranks the file's.
#[derive(Debug, Clone)]
pub(super) struct Override {
    pub(super) path: &'static str,
    pub(super) value: String,
    /// `--limits-body` or `ARRCOC_LIMITS_BODY`, for messages.
    pub(super) source: String,
}

impl Overrides {
    /// Overrides as if given by flags; for tests and for commands that fix a setting.
    pub fn from_pairs(pairs: &[(&'static str, &str)]) -> Self {
        Self(
            pairs
                .iter()
                .map(|&(path, value)| Override { path, value: value.into(), source: "override".into() })
                .collect(),
        )
    }
}

impl Overrides {
    /// Takes a bundle, or a directory of bundles, from the command line: it outranks what environment and
    /// file say of either.
    ///
    /// # Errors
    /// The flag that names one already.
    pub fn serve_from(&mut self, dir: &Path) -> Result<(), String> {
        let flags = ["bundle", "engines"].map(|key| format!("--{key}"));
        if let Some(given) = self.0.iter().find(|given| flags.contains(&given.source)) {
            return Err(given.source.clone());
        }
        let (key, other) = if places::is_bundle(dir) { ("bundle", "engines") } else { ("engines", "bundle") };
        for (path, value) in [(key, dir.display().to_string()), (other, String::new())] {
            self.0.push(Override { path, value, source: "the command line".into() });
        }
        Ok(())
    }
}

/// What other servers call a setting.
fn alias(path: &str) -> Option<&'static str> {
    (path == "model_name").then_some("served-model-name")
}

impl clap::Args for Overrides {
    fn augment_args(command: Command) -> Command {
        KEYS.iter().fold(command, |command, key| {
            let default =
                if key.default.is_empty() { String::new() } else { format!(" [default: {}]", key.default) };
            let (section, _) = key.path.split_once('.').unwrap_or(("main", ""));
            command.arg(
                Arg::new(key.path)
                    .long(key.flag())
                    .aliases(alias(key.path))
                    .env(key.variable())
                    // Keys may be in the environment; help output gets pasted into bug reports.
                    .hide_env_values(true)
                    .value_name(key.value)
                    .allow_negative_numbers(true)
                    .help(format!("{}{default}", key.help))
                    .help_heading(format!("Settings: {section}")),
            )
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for Overrides {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        environment::check().map_err(|message| clap::Error::raw(ErrorKind::UnknownArgument, message))?;
        let given = KEYS.iter().filter_map(|key| {
            let value = matches.get_one::<String>(key.path)?.clone();
            let source = match matches.value_source(key.path) {
                Some(ValueSource::EnvVariable) => key.variable(),
                _ => format!("--{}", key.flag()),
            };
            Some(Override { path: key.path, value, source })
        });
        Ok(Self(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
