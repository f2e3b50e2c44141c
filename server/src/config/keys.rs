//! What users see of every setting: flags, environment variables, defaults, help and `configs/serve.yaml` follow from this table. `raw.rs` and
//! `load.rs` have what it becomes.

/// One setting. `limits.body` is `--limits-body` on the command line, `ARRCOC_LIMITS_BODY` in the environment and
/// `body` under `limits` in the file.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Dotted path in the file.
    pub path: &'static str,
    /// What stands for the value in help.
    pub value: &'static str,
    /// The default, as it would be written; empty is "not set".
    pub default: &'static str,
    /// What it does.
    pub help: &'static str,
}

impl Key {
    /// The long flag, without its dashes.
    pub fn flag(&self) -> String {
        self.path.replace(['.', '_'], "-")
    }

    /// The environment variable.
    pub fn variable(&self) -> String {
        format!("ARRCOC_{}", self.path.replace('.', "_").to_uppercase())
    }
}

const fn key(path: &'static str, value: &'static str, default: &'static str, help: &'static str) -> Key {
    Key { path, value, default, help }
}

/// What `serve` logs unless told otherwise: ONNX Runtime's own notes would drown the rest.
pub const LOG_FILTER: &str = "info,ort=warn";

/// The settings, in the order of help and file.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("bundle", "DIR", "", "Engine bundle to serve, as written by `arrcoc-export build`"),
    key("engines", "DIR", "", "Directory of bundles of one model to swap between, as `arrcoc-export build --out` makes it; instead of `bundle`"),
    key("precision", "NAME", "", "Which of `engines` to begin with: fp32, int8, int4, or fp16 and fp8 for GPUs; the best for this CPU unless set"),
    key("model_name", "NAME", "", "Name of the model in the API; the bundle's own name unless set"),
    key("listen", "ADDR", "127.0.0.1:8080", "Address and port to listen on, or a port alone; port 0 picks a free one"),
    key("admin_listen", "ADDR", "127.0.0.1:8081", "Address and port of /admin, open only with auth.admin_keys; the same as `listen` puts both on one"),
    key("probe_listen", "ADDR", "", "Address and port of /health, /ready and /metrics alone, where they answer whatever the other listeners do; unless set, 127.0.0.1:8082, or a free port where that is taken; the same as `listen` puts all on one"),
    key("port_file", "FILE", "", "File to write the port to once the server listens"),

    key("server.hosts", "HOSTS", "", "Names under which the server answers (`*.example.org` matches below it, * is all), against web pages that have a name of theirs lead here; unless set, localhost, loopback addresses and names without a dot where `listen` is a loopback address, else all"),

    key("engine.runtime", "NAME", "auto", "Inference library: auto, ort (ONNX Runtime on the CPU), and for portable bundles tract, cuda or tensorrt (ONNX Runtime on a GPU)"),
    key("engine.threads", "N", "0", "Threads of the inference library; 0 takes one per processor"),
    key("engine.kernels", "NAME", "own", "Who computes attention and layers in 8 and 4 bits on the CPU: own (kernels for AVX-512, where the CPU has it) or library (ONNX Runtime's operators)"),
    key("engine.profile", "DIR", "", "Directory to write ONNX Runtime's profile of every graph to, for chrome://tracing, on ort and cuda; none unless set"),
    key("engine.gpu", "N", "0", "Number of the GPU for cuda and tensorrt"),
    key("engine.gpu_arena", "SIZE", "", "Most GPU memory that the arena of each graph may take on cuda; no limit unless set"),
    key("engine.gpu_arena_growth", "NAME", "requested", "How these arenas grow: requested (by what is needed) or doubling (fewer allocations, more memory)"),
    key("engine.tensorrt_engines", "DIR", "", "Where `arrcoc-export engines` put its engines; .tensorrt beside the bundle unless set"),
    key("engine.slots", "N", "4", "Answers generated at the same time; each holds KV cache for a whole context"),
    key("engine.context_length", "TOKENS", "", "Longest prompt plus answer; unless set, 4096 or the model's own limit if that is smaller"),
    key("engine.prefill_chunk", "TOKENS", "256", "Prompt tokens processed per step while other answers go on; twice as many while none do (bundles for the CPU)"),
    key("engine.image_size", "PIXELS", "", "Input size of the vision encoder; the checkpoint's native one unless set"),
    key("engine.feature_cache", "SIZE", "256MiB", "Cache of encoded images, so that a second question about one is cheap; 0 turns it off"),
    key("engine.token_cache", "SIZE", "64MiB", "Cache of visual tokens by image, question and budget; 0 turns it off"),
    key("engine.loaded", "N", "1", "Engines that stay in memory: above 1, those that were swapped away from are kept for a swap back, the least recently used goes first"),
    key("engine.memory", "SIZE", "", "Memory that engines may take together (weights, KV cache, activations), on a GPU the GPU's; what there is unless set"),

    key("limits.queue", "N", "64", "Requests that may wait; more are answered 429"),
    key("limits.connections", "N", "256", "Open connections; at the limit the longest idle one is closed for a new one, and probes still get in"),
    key("limits.body", "SIZE", "32MiB", "Largest request body; larger ones are answered 413"),
    key("limits.body_memory", "SIZE", "", "Memory for all request bodies being read and parsed, where each byte counts twice, and for their image files until they are encoded. Requests that would wait longer than 2 s get 503. Default: 8 x limits.body"),
    key("limits.json", "SIZE", "4MiB", "Largest JSON of a body, not counting strings of 1 KiB and more, such as images; larger ones are answered 413"),
    key("limits.text", "SIZE", "1MiB", "Largest text of a prompt"),
    key("limits.messages", "N", "1024", "Messages per chat"),
    key("limits.parts", "N", "1024", "Parts of the messages of a chat together: texts and images"),
    key("limits.images", "N", "8", "Images per request"),
    key("limits.image_bytes", "SIZE", "20MiB", "Largest image file"),
    key("limits.image_pixels", "N", "50000000", "Largest image, width times height"),
    key("limits.image_side", "PIXELS", "32768", "Longest side of an image"),
    key("limits.image_aspect", "N", "200", "Most times that one side of an image may be as long as the other"),
    key("limits.choices", "N", "8", "Largest `n`: answers per request"),
    key("limits.max_tokens", "TOKENS", "4096", "Largest `max_tokens`, and the limit where a chat request sets none"),

    key("timeouts.request", "TIME", "5m", "Longest time from a request's arrival to the end of its answer"),
    key("timeouts.load", "TIME", "5m", "Longest time to load an engine and warm it up, at start and in a swap, there for its trial and again for itself"),
    key("timeouts.headers", "TIME", "30s", "Longest time a client may take to send a request's headers"),
    key("timeouts.body", "TIME", "60s", "Longest time a client may take to send a request's body"),
    key("timeouts.write", "TIME", "60s", "Longest time a client may leave an answer unread before its connection is cut off"),
    key("timeouts.drain", "TIME", "45s", "Longest wait for running answers after SIGTERM or SIGINT"),
    key("timeouts.keep_alive", "TIME", "15s", "Longest silence in a stream before a comment is sent to keep it open"),

    key("auth.api_keys", "KEYS", "", "Keys that /v1 accepts as `Authorization: Bearer KEY`, of 8 visible ASCII characters or more each; open to everyone unless set"),
    key("auth.admin_keys", "KEYS", "", "Keys that /admin accepts, of 8 visible ASCII characters or more each; closed to everyone unless set"),

    key("images.allow_hosts", "HOSTS", "", "Hosts from which image URLs are fetched (`*.example.org` matches below it, `example.org:8443` allows a port other than the usual one); none unless set"),
    key("images.allow_private_hosts", "HOSTS", "", "The same for hosts inside your network: these may have private addresses (10.x, 172.16.x to 172.31.x, 192.168.x, 100.64.x, fc00::/7), and loopback or link-local ones where the entry is that very address or `localhost`"),
    key("images.allow_http", "BOOL", "false", "Fetch images over plain http too"),
    key("images.timeout", "TIME", "10s", "Longest time to fetch one image, redirects included"),

    key("cors.origins", "ORIGINS", "", "Web origins whose pages may call the API, such as https://app.example.org; * for all"),

    key("log.filter", "FILTER", LOG_FILTER, "Level, or tracing filter such as info,arrcoc_runtime=debug"),
    key("log.format", "FORMAT", "text", "text or json"),
];
