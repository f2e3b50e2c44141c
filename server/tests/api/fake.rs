//! An engine that plays a script, and a client that talks to the router in memory.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrcoc_bundle::{GenerationSpec, Precision, Statistics, Target};
use arrcoc_runtime::generate::{
    Allocation, Budget, Event, FinishReason, GenerateError, Logprob, MaxTokens, Place, Receipt, Request,
    Score, Timings, TokenLogprob, Usage,
};
use arrcoc_runtime::model::{Generation, ModelInfo, Occupancy};
use arrcoc_server::config::{Config, Overrides};
use arrcoc_server::engine::Engine;
use arrcoc_server::engines::Source;
use arrcoc_server::metrics::EngineMetrics;
use arrcoc_server::state::App;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt;

/// What the engine does next.
#[derive(Clone)]
pub enum Step {
    Emit(Event),
    Sleep(Duration),
    /// Waits until the receiver is gone, and notes it.
    Hang,
}

type Script = Box<dyn Fn(&Request) -> Vec<Step> + Send + Sync>;

pub struct Fake {
    info: ModelInfo,
    script: Script,
    pub refuse: Mutex<Option<GenerateError>>,
    pub requests: Mutex<Vec<Request>>,
    pub waiting: AtomicUsize,
    pub retry_after: Mutex<Duration>,
    pub draining: AtomicBool,
    pub sick: AtomicBool,
    pub cancelled: Arc<AtomicBool>,
}

impl Fake {
    pub fn new(script: impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static) -> Arc<Self> {
        Self::of(Precision::Fp32, script)
    }

    pub fn of(
        precision: Precision,
        script: impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Self::with(|info| info.precision = precision, script)
    }

    /// A model that differs from the usual one.
    pub fn with(
        change: impl FnOnce(&mut ModelInfo),
        script: impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let mut fake = Self {
            info: ModelInfo {
                name: "tiny".into(),
                family: "fake".into(),
                precision: Precision::Fp32,
                target: Target::Cpu,
                runtime: "fake 1.0".into(),
                checkpoint_sha256: "0123456789abcdef".into(),
                context_length: 2048,
                token_budgets: vec![64, 100, 160, 256, 400],
                default_budget: Budget::Auto,
                selectors: &[],
                depths: &[],
                images_first: false,
                named_tokens: vec![("eos_token".into(), "</s>".into())],
                generation: GenerationSpec::default(),
                kv_slots: 4,
                weight_bytes: 1000,
                kv_bytes: 2000,
                working_bytes: 0,
            },
            script: Box::new(script),
            refuse: Mutex::new(None),
            requests: Mutex::new(Vec::new()),
            waiting: AtomicUsize::new(0),
            retry_after: Mutex::new(Duration::from_secs(1)),
            draining: AtomicBool::new(false),
            sick: AtomicBool::new(false),
            cancelled: Arc::new(AtomicBool::new(false)),
        };
        change(&mut fake.info);
        Arc::new(fake)
    }

    pub fn last_request(&self) -> Request {
        self.requests.lock().unwrap().last().unwrap().clone()
    }
}

impl Engine for Fake {
    fn submit(&self, request: Request) -> Result<Generation, GenerateError> {
        if let Some(error) = self.refuse.lock().unwrap().clone() {
            return Err(error);
        }
        if let MaxTokens::Exactly(most) = request.max_tokens
            && most > self.info.context_length
        {
            return Err(GenerateError::Invalid { field: "max_tokens", message: "beyond the context".into() });
        }
        let steps = (self.script)(&request);
        self.requests.lock().unwrap().push(request);
        let (sender, events) = tokio::sync::mpsc::unbounded_channel();
        let cancelled = Arc::clone(&self.cancelled);
        tokio::spawn(async move {
            for step in steps {
                match step {
                    Step::Emit(event) => drop(sender.send(event)),
                    Step::Sleep(time) => tokio::time::sleep(time).await,
                    Step::Hang => {
                        sender.closed().await;
                        cancelled.store(true, Ordering::SeqCst);
                    }
                }
            }
        });
        Ok(Generation { events })
    }

    fn prompt_ids(&self, _: &Request) -> Result<Vec<u32>, GenerateError> {
        Ok(vec![7, 8])
    }

    fn token_bytes(&self, id: u32) -> Vec<u8> {
        if id < 10 { b"x".to_vec() } else { Vec::new() }
    }

    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn occupancy(&self) -> Occupancy {
        Occupancy { running: 1, waiting: self.waiting.load(Ordering::SeqCst), kv_usage: 0.25 }
    }

    fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    fn healthy(&self) -> bool {
        !self.sick.load(Ordering::SeqCst)
    }

    fn retry_after(&self) -> Duration {
        *self.retry_after.lock().unwrap()
    }
}

pub fn started() -> Step {
    Step::Emit(Event::Started { prompt_tokens: 110, visual_tokens: 100, receipts: vec![receipt()] })
}

pub fn token(choice: usize, text: &str) -> Step {
    let logprob = |bytes: &[u8], logprob| Logprob { id: 7, bytes: bytes.to_vec(), logprob };
    let top = vec![logprob(text.as_bytes(), -0.5), logprob(&[0xe2, 0x82], f32::NEG_INFINITY)];
    let logprob = Some(TokenLogprob { token: logprob(text.as_bytes(), -0.5), top });
    Step::Emit(Event::Token { choice, text: text.into(), calls: Vec::new(), reasoning: None, logprob, id: 7 })
}

pub fn finished(choice: usize, text: &str, reason: FinishReason) -> Step {
    Step::Emit(Event::Finished { choice, text: text.into(), calls: Vec::new(), reasoning: None, reason })
}

pub fn done(completion_tokens: usize) -> Step {
    let usage = Usage { prompt_tokens: 110, visual_tokens: 100, completion_tokens, reasoning_tokens: 0 };
    Step::Emit(Event::Done { usage, timings: Timings::default() })
}

/// "Hello" and " world" from every choice; log-probabilities where the request asks for them.
pub fn hello(request: &Request) -> Vec<Step> {
    let with_logprobs = request.top_logprobs.is_some();
    let mut steps = vec![started()];
    for text in ["Hello", " wor"] {
        for choice in 0..request.choices {
            let mut step = token(choice, text);
            if let (Step::Emit(Event::Token { logprob, .. }), false) = (&mut step, with_logprobs) {
                *logprob = None;
            }
            steps.push(step);
        }
    }
    steps.extend((0..request.choices).map(|choice| finished(choice, "ld", FinishReason::Stop)));
    steps.push(done(2 * request.choices));
    steps
}

fn receipt() -> Receipt {
    let score = Some(Score { relevance: 0.75, knowing: [0.25, 0.5, 0.75] });
    let place = Place { rect: [0.0, 0.0, 16.0, 16.0], score, ..Place::default() };
    let allocation = Allocation {
        tier: 1,
        tier_logits: vec![0.0, 1.0, 0.0, 0.0, 0.0],
        tension_weights: [0.5, 0.25, 0.25],
    };
    Receipt { tokens: 100, allocation: Some(allocation), ..Receipt::of_all([640, 480], vec![place]) }
}

/// A service under test.
pub struct Service {
    pub engine: Arc<Fake>,
    pub app: App,
    router: Router,
}

pub fn config(settings: &[(&'static str, &str)]) -> Config {
    Config::load(None, &Overrides::from_pairs(settings)).unwrap()
}

/// A service with an engine in place.
pub fn service(engine: Arc<Fake>, settings: &[(&'static str, &str)]) -> Service {
    let service = loading(engine, settings);
    service.install();
    service
}

/// A service whose engine is not there yet.
pub fn loading(engine: Arc<Fake>, settings: &[(&'static str, &str)]) -> Service {
    loading_from(engine, None, settings)
}

/// The same, with engines to swap between.
pub fn loading_from(
    engine: Arc<Fake>,
    source: Option<Arc<dyn Source>>,
    settings: &[(&'static str, &str)],
) -> Service {
    let app = App::with_source(config(settings), source);
    Service { engine, router: arrcoc_server::app(app.clone()), app }
}

pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }

    /// Checks OpenAI's error form; returns (param, code).
    #[track_caller]
    pub fn error(&self, status: u16) -> (Option<String>, String) {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        let error = &self.json()["error"];
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{error}");
        assert!(error["type"].is_string(), "{error}");
        let param = error["param"].as_str().map(str::to_owned);
        (param, error["code"].as_str().unwrap().to_owned())
    }

    /// The data of every server-sent event.
    pub fn events(&self) -> Vec<&str> {
        self.text.lines().filter_map(|line| line.strip_prefix("data: ")).collect()
    }

    /// Every chunk of a stream that ends as it should.
    pub fn chunks(&self) -> Vec<Value> {
        let mut events = self.events();
        assert_eq!(events.pop(), Some("[DONE]"));
        events.into_iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }
}

impl Service {
    pub fn install(&self) {
        let target = Statistics { mean: 0.0, std: 0.02, sparsity: 0.0 };
        let metrics = Arc::new(EngineMetrics::new("tiny", 2048, &[64, 100, 160, 256, 400], Some(target)));
        self.app.install(Arc::clone(&self.engine) as Arc<dyn Engine>, metrics);
    }

    pub async fn send(&self, request: axum::http::Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Reply { status: parts.status, headers: parts.headers, text }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(request(Method::GET, path).body(Body::empty()).unwrap()).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.post_text(path, body.to_string()).await
    }

    pub async fn post_text(&self, path: &str, body: impl Into<Body>) -> Reply {
        let request = request(Method::POST, path).header("content-type", "application/json");
        self.send(request.body(body.into()).unwrap()).await
    }

    /// Posts a chat request with one message, plus these fields.
    pub async fn chat(&self, fields: Value) -> Reply {
        self.post("/v1/chat/completions", &chat_body(fields)).await
    }
}

pub fn request(method: Method, path: &str) -> axum::http::request::Builder {
    axum::http::Request::builder().method(method).uri(path)
}

pub fn chat_body(fields: Value) -> Value {
    let mut body = json!({"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]});
    for (name, value) in fields.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}
