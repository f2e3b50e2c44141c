//! Every setting, one row each. What it is called in the file, on the command line (`limits.body` is
//! `--limits-body`) and in the environment (`ARRCOC_LIMITS_BODY`), its place in [`Config`], its default, its
//! check, help and `configs/serve.yaml` follow from the row.
//!
//! ```text
//! key: TYPE = default, what stands for the value in help, help, check => field of the runtime's options;
//! ```
//!
//! A default is written as in the file; empty is "not set". The type reads the text ([`super::Setting`]); a
//! check, where there is one, looks at the value that was read. Where a row names a field behind `=>`,
//! [`Config::options`] puts the value there ([`super::units::Plain`]), and a new setting of the runtime needs
//! no other line in this crate.

use std::net::SocketAddr;
use std::path::PathBuf;

use arrcoc_bundle::Precision;
use arrcoc_runtime::library::{ArenaGrowth, Kernels};
use arrcoc_runtime::model::Options;

use super::checks;
use super::table::settings;
use arrcoc_runtime::generate::Budget;

use super::engine_units::RuntimeChoice;
use super::units::{Count, Keys, LogFormat, Size, Span};

/// What `serve` logs unless told otherwise: ONNX Runtime's own notes would drown the rest.
pub const LOG_FILTER: &str = "info,ort=warn";

settings! {
    /// The effective configuration, every value checked.
    Config {
        bundle: Option<PathBuf> = "", "DIR",
            "Engine bundle to serve, as written by `arrcoc-export build`", checks::bundle;
        engines: Option<PathBuf> = "", "DIR",
            "Directory of bundles of one model to swap between, as `arrcoc-export build \
             --out` makes it; instead of `bundle`. `serve` takes `engines` where neither is set", checks::engines;
        precision: Option<Precision> = "", "NAME",
            "Which of `engines` to begin with: fp32, int8, int4, or fp16 and fp8 for GPUs; the best for this \
             CPU unless set";
        model_name: Option<String> = "", "NAME",
            "Name of the model in the API; the bundle's own name unless set";
        listen: SocketAddr = "127.0.0.1:8080", "ADDR",
            "Address and port to listen on, or a port alone; port 0 picks a free one";
        admin_listen: SocketAddr = "127.0.0.1:8081", "ADDR",
            "Address and port of /admin, open only with auth.admin_keys; the same as `listen` puts both on \
             one";
        probe_listen: Option<SocketAddr> = "", "ADDR",
            "Address and port of /health, /ready and /metrics alone, where they answer whatever the other \
             listeners do; unless set, 127.0.0.1:8082, or a free port where that is taken; the same as \
             `listen` puts all on one";
        port_file: Option<PathBuf> = "", "FILE", "File to write the port to once the server listens";
    } fills Options;

    /// How the server is called.
    server: Server {
        hosts: Vec<String> = "", "HOSTS",
            "Names under which the server answers (`*.example.org` matches below it, * is \
             all), against web pages that have a name of theirs lead here; unless set, \
             localhost, loopback addresses and names without a dot where `listen` is a \
             loopback address, else all", checks::hosts;
    }

    /// The runtime.
    engine: EngineConfig {
        runtime: RuntimeChoice = "auto", "NAME",
            "Inference library: auto, ort (ONNX Runtime on the CPU), cuda (ONNX Runtime on a GPU; cuda and \
             portable bundles), and for portable bundles tract or tensorrt" => runtime;
        threads: usize = "0", "N", "Threads of the inference library; 0 takes one per processor"
            => library.threads;
        kernels: Kernels = "own", "NAME",
            "Who computes attention and layers in 8 and 4 bits on the CPU: own (kernels for AVX-512, where \
             the CPU has it) or library (ONNX Runtime's operators)" => library.cpu.kernels;
        profile: Option<PathBuf> = "", "DIR",
            "Directory to write ONNX Runtime's profile of every graph to, for chrome://tracing, on ort and \
             cuda; none unless set" => library.profile;
        gpu: u32 = "0", "N", "Number of the GPU for cuda and tensorrt" => library.cuda.device;
        gpu_arena: Option<Size> = "", "SIZE",
            "Most GPU memory that the arena of each graph may take on cuda; no limit unless set"
            => library.cuda.arena_limit;
        gpu_arena_growth: ArenaGrowth = "requested", "NAME",
            "How these arenas grow: requested (by what is needed) or doubling (fewer allocations, more \
             memory)" => library.cuda.arena_growth;
        tensorrt_plans: Option<PathBuf> = "", "DIR",
            "Where `arrcoc-export compile` put its plans; .tensorrt beside the bundle unless set"
            => library.tensorrt.plans;
        slots: Count = "4", "N",
            "Answers generated at the same time; each holds KV cache for a whole context" => slots;
        context_length: Option<Count> = "", "TOKENS",
            "Longest prompt plus answer; unless set, 4096 or the model's own limit if that is smaller"
            => context_length;
        prefill_chunk: Count = "256", "TOKENS",
            "Prompt tokens processed per step while other answers go on; twice as many while none do \
             (bundles for the CPU)" => prefill_chunk;
        image_size: Option<Count> = "", "PIXELS",
            "Input size of the vision encoder; the checkpoint's native one unless set" => vision.image_size;
        budget: Option<Budget> = "", "BUDGET",
            "Visual tokens of images whose request does not say: auto, full, a number or a share of all; unless set, \
             auto where the model has an allocator of its own, else full" => vision.budget;
        feature_cache: Size = "256MiB", "SIZE",
            "Cache of encoded images, so that a second question about one is cheap; 0 turns it off"
            => vision.feature_cache_bytes;
        token_cache: Size = "64MiB", "SIZE",
            "Cache of visual tokens by image, question and budget; 0 turns it off"
            => vision.token_cache_bytes;
        loaded: Count = "1", "N",
            "Engines that stay in memory: above 1, those that were swapped away from are kept for a swap \
             back, the least recently used goes first";
        memory: Option<Size> = "", "SIZE",
            "Memory that engines may take together (weights, KV cache, activations), on a GPU the GPU's; \
             what there is unless set";
    }

    /// What a request may cost.
    limits: Limits {
        queue: Count = "64", "N", "Requests that may wait; more are answered 429" => queue_limit;
        connections: Count = "256", "N",
            "Open connections; at the limit the longest idle one is closed for a new one, and probes still \
             get in";
        body: Size = "32MiB", "SIZE", "Largest request body; larger ones are answered 413";
        body_memory: Option<Size> = "", "SIZE",
            "Memory for all request bodies being read and parsed, where each byte counts twice, and for \
             their image files until they are encoded. Requests that would wait longer than 2 s get 503. \
             Default: 8 x limits.body";
        json: Size = "4MiB", "SIZE",
            "Largest JSON of a body, not counting strings of 1 KiB and more, such as images; larger ones are \
             answered 413";
        text: Size = "1MiB", "SIZE", "Largest text of a prompt";
        messages: Count = "1024", "N", "Messages per chat";
        parts: Count = "1024", "N", "Parts of the messages of a chat together: texts and images";
        images: usize = "8", "N", "Images per request";
        image_bytes: Size = "20MiB", "SIZE", "Largest image file" => vision.limits.max_bytes;
        image_pixels: Count = "50000000", "N", "Largest image, width times height"
            => vision.limits.max_pixels;
        image_side: Count = "32768", "PIXELS", "Longest side of an image" => vision.limits.max_side;
        image_aspect: Count = "200", "N", "Most times that one side of an image may be as long as the other"
            => vision.limits.max_aspect;
        choices: Count = "8", "N", "Largest `n`: answers per request";
        max_tokens: Count = "4096", "TOKENS",
            "Largest `max_tokens`, and the limit where a chat request sets none";
    }

    /// What may take how long.
    timeouts: Timeouts {
        request: Span = "5m", "TIME", "Longest time from a request's arrival to the end of its answer"
            => timeout;
        load: Span = "5m", "TIME",
            "Longest time to load an engine and warm it up, at start and in a swap, there for its trial and \
             again for itself";
        headers: Span = "30s", "TIME", "Longest time a client may take to send a request's headers";
        body: Span = "60s", "TIME", "Longest time a client may take to send a request's body";
        write: Span = "60s", "TIME",
            "Longest time a client may leave an answer unread before its connection is cut off";
        drain: Span = "45s", "TIME", "Longest wait for running answers after SIGTERM or SIGINT";
        keep_alive: Span = "15s", "TIME",
            "Longest silence in a stream before a comment is sent to keep it open";
    }

    /// Responses that others may go on from.
    responses: Responses {
        memory: Size = "64MiB", "BYTES",
            "Memory for responses that requests may go on from (`previous_response_id`), the oldest of which \
             go first; 0 keeps none";
        time_to_live: Span = "60m", "TIME", "How long a response is kept";
    }

    /// Who may call.
    auth: Auth {
        api_keys: Keys = "", "KEYS",
            "Keys that /v1 accepts as `Authorization: Bearer KEY`, of 8 visible ASCII characters or more \
             each; open to everyone unless set";
        admin_keys: Keys = "", "KEYS",
            "Keys that /admin accepts, of 8 visible ASCII characters or more each; closed to everyone unless \
             set";
    }

    /// Remote images.
    images: RemoteImages {
        allow_hosts: Vec<String> = "", "HOSTS",
            "Hosts from which image URLs are fetched (`*.example.org` matches below it, \
             `example.org:8443` allows a port other than the usual one); none unless \
             set", checks::image_hosts;
        allow_private_hosts: Vec<String> = "", "HOSTS",
            "The same for hosts inside your network: these may have private addresses \
             (10.x, 172.16.x to 172.31.x, 192.168.x, 100.64.x, fc00::/7), and loopback \
             or link-local ones where the entry is that very address or `localhost`", checks::image_hosts;
        allow_http: bool = "false", "BOOL", "Fetch images over plain http too";
        timeout: Span = "10s", "TIME", "Longest time to fetch one image, redirects included";
    }

    /// Browsers.
    cors: Cors {
        origins: Vec<String> = "", "ORIGINS",
            "Web origins whose pages may call the API, such as https://app.example.org; * \
             for all", checks::origins;
    }

    /// Logs.
    log: Log {
        filter: String = LOG_FILTER, "FILTER",
            "Level, or tracing filter such as info,arrcoc_runtime=debug", checks::log_filter;
        format: LogFormat = "text", "FORMAT", "text or json";
    }
}
