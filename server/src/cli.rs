//! The command line.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use arrcoc_bundle::Precision;
use arrcoc_eval::arms::{Method, Switches};
use arrcoc_eval::options::{AskedArms, Budgets, PositionKinds};
use arrcoc_runtime::generate::{Budget, Depth, Selector};
use arrcoc_server::config::{Overrides, Setting};
use clap::{Args, Parser, Subcommand};

const AFTER_HELP: &str = "\
Every setting can be given as a flag (--limits-body 8MiB), as an environment variable (ARRCOC_LIMITS_BODY=8MiB) or in \
the file of --config (limits: {body: 8MiB}). A flag outranks the environment, which outranks the file, which outranks \
the default.

Examples:
  arrcoc-serve serve
  arrcoc-serve serve engines/base/fp32-cpu
  arrcoc-serve serve engines/base --port 9000 --auth-admin-keys KEY
  arrcoc-serve swap int4
  arrcoc-serve ask --bundle engines/base/fp32-cpu --image cat.jpg \"What is on the table?\"
  arrcoc-serve eval --bundle engines/base/fp32-cpu --data questions.json
  arrcoc-serve config check serve.yaml

Exit codes: 0 success, 1 failure, 2 wrong command line or configuration.";

const SWAP_HELP: &str = "\
The server loads the engine in a process of its own first, to see whether it can; then beside the running one, warms it
up, sends new requests to it and unloads the one before when its last request has ended. Whatever fails leaves the
running one as it was.

/admin has an address of its own, `admin_listen`, which the server prints when it starts (\"admin on ...\"). Without --url
it is taken from ARRCOC_ADMIN_LISTEN or from the server's --config file, and is 127.0.0.1:8081 where neither says otherwise.

Examples:
  ARRCOC_ADMIN_KEY=... arrcoc-serve swap int4
  ARRCOC_ADMIN_KEY=... arrcoc-serve swap int4 --config serve.yaml
  ARRCOC_ADMIN_KEY=... arrcoc-serve swap int4 --url http://127.0.0.1:9001";

/// Run ARR-COC engines: query-aware vision-language models behind an OpenAI-compatible API.
#[derive(Debug, Parser)]
#[command(name = "arrcoc-serve", version, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve a bundle, or a directory of them, over HTTP.
    #[command(after_help = AFTER_HELP)]
    Serve(Serve),
    /// Answer one question without a server, and say where the time went.
    #[command(after_help = AFTER_HELP)]
    Ask(Box<Ask>),
    /// Answer a data set with every way to choose visual tokens, and say what choosing by the question is
    /// worth.
    #[command(after_help = AFTER_HELP)]
    Eval(Box<Eval>),
    /// Measure how surprised a bundle is by a text, and so what its precision costs.
    Perplexity(Box<Perplexity>),
    /// Have a running server swap to an engine of another precision, without losing a request.
    #[command(after_help = SWAP_HELP)]
    Swap(Swap),
    /// Load a bundle for the server that started this process, and say how that went.
    #[command(name = arrcoc_server::engines::trial::COMMAND, hide = true)]
    TryEngine {
        /// Most data that it may allocate, bytes.
        #[arg(long)]
        memory: Option<u64>,
    },
    /// Work with configuration files.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Configured {
    /// Configuration file, YAML.
    #[arg(long, short, env = "ARRCOC_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) overrides: Overrides,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Bundle, or directory of bundles of one model: short for --bundle or --engines, whichever it is. The
    /// directory `engines`, where `arrcoc-export build` puts bundles, unless any of the three is given.
    #[arg(value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// The same as DIR, for fingers that know other servers.
    #[arg(long, value_name = "DIR", conflicts_with = "dir")]
    pub(crate) model: Option<PathBuf>,
    /// Address to listen on, at the port of --listen: 0.0.0.0 for all of this machine's.
    #[arg(long, value_name = "ADDR", value_parser = host)]
    pub(crate) host: Option<IpAddr>,
    /// Port to listen on, at the address of --listen.
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    #[command(flatten)]
    pub(crate) configured: Configured,
}

#[derive(Debug, Args)]
pub(crate) struct Ask {
    /// What to ask.
    pub(crate) question: String,
    /// Image to ask about; may be given several times.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) image: Vec<PathBuf>,
    /// Visual tokens per image: auto (as the question needs), full (all), a number (one of the bundle's,
    /// where it has any) or a share of all such as 0.25. What the model does by itself, unless given.
    #[arg(long, value_name = "BUDGET", value_parser = budget)]
    pub(crate) budget: Option<Budget>,
    /// How tokens are chosen, in models without an allocator of their own; balanced unless given.
    #[arg(long, value_name = "NAME", value_parser = selector)]
    pub(crate) selector: Option<Selector>,
    /// Which levels of rows for deeper layers a token that is kept gets: all, or relevant (the less relevant
    /// half gets the deepest only).
    #[arg(long, value_name = "NAME", value_parser = depth)]
    pub(crate) depth: Option<Depth>,
    /// Leave out parts of the image that hold nothing before it is encoded.
    #[arg(long)]
    pub(crate) skip_blank: bool,
    /// Most tokens of the answer; 256, or what the context has left where that is less, unless given.
    #[arg(long, value_name = "TOKENS", value_parser = positive)]
    pub(crate) max_tokens: Option<usize>,
    /// Randomness of the answer; 0 always picks the likeliest token. As the checkpoint's
    /// generation_config.json says, unless given.
    #[arg(long, value_name = "NUMBER", value_parser = temperature)]
    pub(crate) temperature: Option<f32>,
    /// Seed, for answers that repeat.
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Whether a model that has both modes thinks before it answers (`enable_thinking` of its template).
    #[arg(long, value_name = "true|false")]
    pub(crate) thinking: Option<bool>,
    /// JSON schema that the answer keeps.
    #[arg(long, value_name = "FILE", conflicts_with = "regex")]
    pub(crate) json_schema: Option<PathBuf>,
    /// Regular expression that the whole answer matches.
    #[arg(long, value_name = "EXPRESSION")]
    pub(crate) regex: Option<String>,
    /// Ask this many times and report the median time of each stage; give the caches size 0 to measure every
    /// stage.
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) repeat: NonZeroUsize,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    /// Write a picture of where the first image's tokens went.
    #[arg(long, value_name = "FILE.png", requires = "image")]
    pub(crate) picture: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) configured: Configured,
}

#[derive(Debug, Args)]
pub(crate) struct Perplexity {
    /// Text files; one after the other.
    #[arg(value_name = "FILE")]
    pub(crate) text: Vec<PathBuf>,
    /// Token ids of another tool's windows instead of texts: JSON, a list of lists, or an object with such a
    /// list `windows`.
    #[arg(long, value_name = "FILE")]
    pub(crate) windows: Option<PathBuf>,
    /// Tokens of a window of text.
    #[arg(long, value_name = "TOKENS", default_value_t = 512, value_parser = positive)]
    pub(crate) window: usize,
    /// Score only so many tokens at the end of each window, such as an answer behind its question.
    #[arg(long, value_name = "TOKENS")]
    pub(crate) last: Option<NonZeroUsize>,
    /// Threads of the inference library, as `--engine-threads`.
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) configured: Configured,
}

#[derive(Debug, Args)]
pub(crate) struct Eval {
    /// Data set: a JSON list or JSON Lines of objects with `image`, `query` and `answer`.
    #[arg(long, value_name = "FILE")]
    pub(crate) data: PathBuf,
    #[arg(long, value_name = "LIST", default_value = "all", help = arms_help())]
    pub(crate) arms: AskedArms,
    /// Visual tokens, between commas; auto is the tier head's choice, or the question's.
    #[arg(long, value_name = "LIST", default_value = "16,32,64,100,160,256,400,auto")]
    pub(crate) budgets: Budgets,
    /// Where the refiner takes tokens to be, between commas: original, repacked. Without one, original.
    #[arg(long, value_name = "LIST", default_value = "original")]
    pub(crate) positions: PositionKinds,
    /// At most this many rows, from the first.
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(crate) limit: Option<usize>,
    /// Trained neck of the grid, safetensors with `weight` and `bias`; means take its place unless given.
    #[arg(long, value_name = "FILE")]
    pub(crate) grid_neck: Option<PathBuf>,
    /// Seed of the random arm and of the intervals.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Most tokens of an answer; 8 more than the longest right answer has, unless given.
    #[arg(long, value_name = "TOKENS", value_parser = positive)]
    pub(crate) max_tokens: Option<usize>,
    /// Directory for the results; a run that broke off goes on with what is there.
    #[arg(long, short, value_name = "DIR", default_value = "eval")]
    pub(crate) output: PathBuf,
    /// Threads of the inference library, as `--engine-threads`.
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) configured: Configured,
}

#[derive(Debug, Args)]
pub(crate) struct Swap {
    /// Precision to swap to: fp32, fp16, fp8, int8 or int4.
    pub(crate) precision: Precision,
    /// Model, as its bundle names it; the one in service unless given.
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// Where the server's /admin listens; where its configuration says, unless given.
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// The server's configuration file, for its admin_listen.
    #[arg(long, short, env = "ARRCOC_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The server's admin_listen.
    #[arg(long, env = "ARRCOC_ADMIN_LISTEN", value_name = "ADDR")]
    pub(crate) admin_listen: Option<String>,
    /// One of the server's auth.admin_keys.
    #[arg(long, env = "ARRCOC_ADMIN_KEY", hide_env_values = true, value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// Print the server's answer, one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check a file, together with flags and environment, and print the effective configuration.
    #[command(after_help = AFTER_HELP)]
    Check {
        /// Configuration file, YAML.
        file: PathBuf,
        #[command(flatten)]
        overrides: Overrides,
    },
}

fn arms_help() -> String {
    let methods: Vec<&str> = Method::all().into_iter().map(Method::name).collect();
    let switches: Vec<String> = Switches::NAMES.iter().map(|name| format!("+{name}")).collect();
    format!(
        "Arms, between commas: all, or of {}; without an allocator also with {}. Which there are depends on the bundle",
        methods.join(", "),
        switches.join(", ")
    )
}

fn budget(text: &str) -> Result<Budget, String> {
    <Budget as Setting>::read(text).ok_or_else(|| format!("expected {}", <Budget as Setting>::expected()))
}

fn selector(name: &str) -> Result<Selector, String> {
    let names = Selector::ALL.map(Selector::name).join(", ");
    Selector::named(name).ok_or_else(|| format!("expected one of {names}"))
}

fn depth(name: &str) -> Result<Depth, String> {
    let names = Depth::ALL.map(Depth::name).join(", ");
    Depth::named(name).ok_or_else(|| format!("expected one of {names}"))
}

fn host(text: &str) -> Result<IpAddr, String> {
    IpAddr::read(text).ok_or_else(|| format!("expected {}", IpAddr::expected()))
}

fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&n| n > 0).ok_or_else(|| "expected a whole number of at least 1".into())
}

fn temperature(text: &str) -> Result<f32, String> {
    text.parse()
        .ok()
        .filter(|t| (0.0..=2.0).contains(t))
        .ok_or_else(|| "expected a number from 0 to 2".into())
}
