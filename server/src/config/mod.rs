//! Configuration in two stages: `raw` is what was written, [`Config`] what was checked. Only the latter travels.
//!
//! Precedence, setting by setting: command-line flag, then `ARRCOC_*` environment variable, then file, then default.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use arrcoc_runtime::bundle::manifest::Precision;
use arrcoc_runtime::engine::{ArenaGrowth, CpuOptions, CudaOptions, Kernels};
use arrcoc_runtime::image::ImageLimits;
use arrcoc_runtime::model::{Options, WarmUp};
use serde::Serialize;

mod environment;
mod keys;
mod load;
mod overrides;
mod places;
mod raw;
mod units;

pub use keys::{KEYS, Key, LOG_FILTER};
pub use load::{ConfigError, Problem};
pub use overrides::Overrides;
pub use units::{Count, Keys, LogFormat, RuntimeChoice, Setting, Size, Span};

/// The effective configuration, every value checked.
#[derive(Debug, Clone, Serialize)]
pub struct Config {
    /// Engine bundle; checked to be there, when set.
    pub bundle: Option<PathBuf>,
    /// Directory of bundles to swap between; checked to be there, when set, and never set beside `bundle`.
    pub engines: Option<PathBuf>,
    /// Which of them to begin with.
    pub precision: Option<Precision>,
    /// Name of the model in the API.
    pub model_name: Option<String>,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where `/admin` listens.
    pub admin_listen: SocketAddr,
    /// Where probes and metrics listen.
    pub probe_listen: Option<SocketAddr>,
    /// Where to write the port.
    pub port_file: Option<PathBuf>,
    /// How the server is called.
    pub server: Server,
    /// The runtime.
    pub engine: EngineConfig,
    /// What a request may cost.
    pub limits: Limits,
    /// What may take how long.
    pub timeouts: Timeouts,
    /// Who may call.
    pub auth: Auth,
    /// Remote images.
    pub images: RemoteImages,
    /// Browsers.
    pub cors: Cors,
    /// Logs.
    pub log: Log,
}

/// Section `server`.
#[derive(Debug, Clone, Serialize)]
pub struct Server {
    /// Names under which it answers.
    pub hosts: Vec<String>,
}

/// Section `engine`.
#[derive(Debug, Clone, Serialize)]
pub struct EngineConfig {
    /// Inference library.
    pub runtime: RuntimeChoice,
    /// Threads; 0 takes one per processor.
    pub threads: usize,
    /// Who computes layers in 8 and 4 bits on the CPU.
    pub kernels: Kernels,
    /// Profiles of the graphs.
    pub profile: Option<PathBuf>,
    /// Number of the GPU.
    pub gpu: u32,
    /// Arena of each graph on the GPU.
    pub gpu_arena: Option<Size>,
    /// How these arenas grow.
    pub gpu_arena_growth: ArenaGrowth,
    /// TensorRT's engines.
    pub tensorrt_engines: Option<PathBuf>,
    /// KV slots.
    pub slots: Count,
    /// Longest context, tokens.
    pub context_length: Option<Count>,
    /// Prompt tokens per step.
    pub prefill_chunk: Count,
    /// Input size of the vision encoder, pixels.
    pub image_size: Option<Count>,
    /// Cache of image features.
    pub feature_cache: Size,
    /// Cache of visual tokens.
    pub token_cache: Size,
    /// Engines that stay in memory.
    pub loaded: Count,
    /// Memory of all engines.
    pub memory: Option<Size>,
}

/// Section `limits`.
#[derive(Debug, Clone, Serialize)]
pub struct Limits {
    /// Waiting requests.
    pub queue: Count,
    /// Open connections.
    pub connections: Count,
    /// Request body.
    pub body: Size,
    /// Memory of all request bodies.
    pub body_memory: Option<Size>,
    /// JSON of a body besides long strings.
    pub json: Size,
    /// Text of a prompt.
    pub text: Size,
    /// Messages of a chat.
    pub messages: Count,
    /// Parts of all its messages.
    pub parts: Count,
    /// Images per request.
    pub images: usize,
    /// Image file.
    pub image_bytes: Size,
    /// Width times height.
    pub image_pixels: Count,
    /// Longest side of an image, pixels.
    pub image_side: Count,
    /// One side over the other.
    pub image_aspect: Count,
    /// `n`.
    pub choices: Count,
    /// `max_tokens`.
    pub max_tokens: Count,
}

/// Section `timeouts`.
#[derive(Debug, Clone, Serialize)]
pub struct Timeouts {
    /// Arrival to end of answer.
    pub request: Span,
    /// Loading an engine.
    pub load: Span,
    /// Reading headers.
    pub headers: Span,
    /// Reading the body.
    pub body: Span,
    /// Writing, while the client reads nothing.
    pub write: Span,
    /// Waiting for running answers at shutdown.
    pub drain: Span,
    /// Silence in a stream.
    pub keep_alive: Span,
}

/// Section `auth`.
#[derive(Debug, Clone, Serialize)]
pub struct Auth {
    /// Keys for `/v1`.
    pub api_keys: Keys,
    /// Keys for `/admin`.
    pub admin_keys: Keys,
}

/// Section `images`.
#[derive(Debug, Clone, Serialize)]
pub struct RemoteImages {
    /// Hosts to fetch from.
    pub allow_hosts: Vec<String>,
    /// Hosts to fetch from whose addresses may be private.
    pub allow_private_hosts: Vec<String>,
    /// Plain http too.
    pub allow_http: bool,
    /// Per image.
    pub timeout: Span,
}

/// Section `cors`.
#[derive(Debug, Clone, Serialize)]
pub struct Cors {
    /// Origins, or `*`.
    pub origins: Vec<String>,
}

/// Section `log`.
#[derive(Debug, Clone, Serialize)]
pub struct Log {
    /// tracing filter.
    pub filter: String,
    /// Form of a line.
    pub format: LogFormat,
}

/// Bodies of the largest size that `limits.body_memory` has room for unless it is set.
const BODIES: usize = 8;

/// What is counted for a byte of a body is twice that: a budget has room for one body at least.
pub(crate) const LEAST_BODIES: usize = 2;

impl Limits {
    /// Memory of all request bodies while they are read and parsed, bytes.
    pub fn body_memory(&self) -> usize {
        self.body_memory.map_or(self.body.0.saturating_mul(BODIES), |size| size.0)
    }
}

impl Config {
    /// Where the engines are: one bundle, or a directory of them.
    ///
    /// # Errors
    /// [`ConfigError::NoBundle`].
    pub fn root(&self) -> Result<&Path, ConfigError> {
        self.bundle.as_deref().or(self.engines.as_deref()).ok_or(ConfigError::NoBundle)
    }

    /// What a process needs that only tries out the engine of the bundle at `bundle`. Sections are named one by one, so that none with a secret
    /// is ever among them by accident; the others have their defaults there.
    pub fn for_trial<'a>(&'a self, bundle: &'a Path) -> impl Serialize + 'a {
        #[derive(Serialize)]
        struct ForTrial<'a> {
            bundle: &'a Path,
            engine: &'a EngineConfig,
            limits: &'a Limits,
            timeouts: &'a Timeouts,
            log: &'a Log,
        }
        ForTrial {
            bundle,
            engine: &self.engine,
            limits: &self.limits,
            timeouts: &self.timeouts,
            log: &self.log,
        }
    }

    /// What the runtime needs to know of it.
    pub fn options(&self) -> Options {
        let (engine, limits) = (&self.engine, &self.limits);
        Options {
            runtime: engine.runtime.kind(),
            threads: engine.threads,
            cpu: CpuOptions { kernels: engine.kernels },
            profile: engine.profile.clone(),
            cuda: CudaOptions {
                device: engine.gpu,
                arena_limit: engine.gpu_arena.map(|size| size.0),
                arena_growth: engine.gpu_arena_growth,
            },
            tensorrt_engines: engine.tensorrt_engines.clone(),
            slots: engine.slots.0,
            context_length: engine.context_length.map(|n| n.0),
            prefill_chunk: engine.prefill_chunk.0,
            queue_limit: limits.queue.0,
            feature_cache_bytes: engine.feature_cache.0,
            token_cache_bytes: engine.token_cache.0,
            image_size: engine.image_size.map(|n| n.0),
            limits: ImageLimits {
                max_pixels: limits.image_pixels.0 as u64,
                max_side: u32::try_from(limits.image_side.0).unwrap_or(u32::MAX),
                max_aspect: u32::try_from(limits.image_aspect.0).unwrap_or(u32::MAX),
                max_bytes: limits.image_bytes.0,
                max_images: limits.images,
            },
            timeout: self.timeouts.request.0,
            warm_up: WarmUp::Short,
        }
    }
}
