//! Swaps between scripted engines.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrcoc_bundle::{Precision, Statistics, Target};
use arrcoc_runtime::generate::{FinishReason, Observer, Request};
use arrcoc_runtime::model::MemoryNeed;
use arrcoc_server::engine::Engine;
use arrcoc_server::engines::{Available, Found, LoadFailure, Source};
use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};

use crate::fake::{Fake, Reply, Service, Step, done, finished, loading_from, request, started, token};

const KEY: &str = "admin-key-1";

/// What loading does.
type Load = fn(&Available) -> Result<Arc<Fake>, LoadFailure>;

/// What a trial does.
type Trial = fn(&MemoryNeed) -> Result<MemoryNeed, LoadFailure>;

/// Engines in three precisions and a bundle that is none.
struct Shelf {
    load: Mutex<Load>,
    loads: AtomicUsize,
    /// What a trial finds.
    trial: Mutex<Trial>,
    trials: AtomicUsize,
    /// `None`: the engines run on the CPU.
    free_gpu_memory: Mutex<Option<u64>>,
}

impl Shelf {
    fn new(load: Load) -> Arc<Self> {
        Arc::new(Self {
            load: Mutex::new(load),
            loads: AtomicUsize::new(0),
            trial: Mutex::new(|need| Ok(*need)),
            trials: AtomicUsize::new(0),
            free_gpu_memory: Mutex::new(None),
        })
    }
}

fn available(model: &str, precision: Precision) -> Available {
    Available {
        dir: PathBuf::from(format!("/engines/{model}/{precision}-cpu")),
        model: model.into(),
        precision,
        target: Target::Cpu,
        on_gpu: false,
        weight_bytes: if precision == Precision::Fp16 { 10_000 } else { 1000 },
        kv_bytes: 2000,
        context_length: 2048,
        token_budgets: vec![64, 100, 160, 256, 400],
        embeds_target: Some(Statistics { mean: 0.0, std: 0.02, sparsity: 0.0 }),
    }
}

impl Source for Shelf {
    fn list(&self) -> Result<Vec<Found>, LoadFailure> {
        let mut engines: Vec<_> = Precision::ALL.map(|precision| available("tiny", precision)).into();
        engines.push(Available { token_budgets: vec![64], ..available("other", Precision::Int8) });
        let mut found: Vec<_> =
            engines.into_iter().map(|engine| Found { dir: engine.dir.clone(), engine: Ok(engine) }).collect();
        found
            .push(Found { dir: "/engines/broken".into(), engine: Err("the manifest does not parse".into()) });
        Ok(found)
    }

    fn need(&self, engine: &Available) -> Result<MemoryNeed, LoadFailure> {
        let weights = engine.weight_bytes;
        Ok(MemoryNeed { weights, copies: weights / 4, kv_cache: engine.kv_bytes, ..MemoryNeed::default() })
    }

    fn try_out(&self, _: &Available, need: &MemoryNeed) -> Result<MemoryNeed, LoadFailure> {
        self.trials.fetch_add(1, Ordering::SeqCst);
        let trial = *self.trial.lock().unwrap();
        trial(need)
    }

    fn load(&self, engine: &Available, _: Arc<dyn Observer>) -> Result<Arc<dyn Engine>, LoadFailure> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        let load = *self.load.lock().unwrap();
        Ok(load(engine)?)
    }

    fn free_gpu_memory(&self) -> Result<Option<u64>, LoadFailure> {
        Ok(*self.free_gpu_memory.lock().unwrap())
    }
}

/// An engine whose every answer is its precision's name.
fn named(precision: Precision) -> Arc<Fake> {
    Fake::of(precision, move |_: &Request| {
        let word = precision.to_string();
        vec![started(), token(0, &word), finished(0, "", FinishReason::Stop), done(1)]
    })
}

fn loads(engine: &Available) -> Result<Arc<Fake>, LoadFailure> {
    Ok(named(engine.precision))
}

fn service(shelf: &Arc<Shelf>, settings: &[(&'static str, &str)]) -> Service {
    let settings: Vec<_> = [("auth.admin_keys", KEY)].iter().chain(settings).copied().collect();
    let source = Arc::clone(shelf) as Arc<dyn Source>;
    let service = loading_from(named(Precision::Fp32), Some(source), &settings);
    service.install();
    service
}

async fn swap(service: &Service, order: Value) -> Reply {
    let request = request(Method::POST, "/admin/engines/swap")
        .header("content-type", "application/json")
        .header("authorization", format!("Bearer {KEY}"));
    service.send(request.body(Body::from(order.to_string())).unwrap()).await
}

async fn answer(service: &Service) -> String {
    service.chat(json!({})).await.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

/// State and precision of every engine that is listed.
async fn states(service: &Service) -> Vec<(String, String)> {
    let request = request(Method::GET, "/admin/engines").header("authorization", format!("Bearer {KEY}"));
    let list = service.send(request.body(Body::empty()).unwrap()).await.json();
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let engines = list["data"].as_array().unwrap();
    engines.iter().map(|engine| (text(&engine["state"]), text(&engine["precision"]))).collect()
}

fn states_are(found: &[(String, String)], expected: &[(&str, &str)]) {
    let found: Vec<_> = found.iter().map(|(state, precision)| (state.as_str(), precision.as_str())).collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_swap_sends_new_requests_to_the_new_engine() {
    let shelf = Shelf::new(loads);
    let service = service(&shelf, &[]);
    assert_eq!(answer(&service).await, "fp32");
    let reply = swap(&service, json!({"model": "tiny", "precision": "int8"})).await.json();
    assert_eq!((&reply["changed"], &reply["engine"]["precision"]), (&json!(true), &json!("int8")));
    assert_eq!(answer(&service).await, "int8");
    let again = swap(&service, json!({"precision": "int8"})).await.json();
    assert_eq!(again["changed"], false);
    assert_eq!(shelf.loads.load(Ordering::SeqCst), 1);

    let metrics = service.get("/metrics").await.text;
    for line in [
        r#"arrcoc_requests_total{precision="fp32"} 1"#,
        r#"arrcoc_requests_total{precision="int8"} 1"#,
        r#"arrcoc_swap_seconds_count{precision="int8"} 1"#,
        r#"arrcoc_engine_info{model="tiny",precision="int8",runtime="fake 1.0",target="cpu"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
    assert!(!metrics.contains(r#"arrcoc_engine_info{model="tiny",precision="fp32""#), "{metrics}");
}

#[tokio::test]
async fn a_request_ends_on_the_engine_that_it_began_on() {
    let shelf = Shelf::new(loads);
    let settings = [("auth.admin_keys", KEY)];
    let slow = Fake::of(Precision::Fp32, |_| {
        let rest =
            [Step::Sleep(Duration::from_millis(300)), token(0, " end"), finished(0, "", FinishReason::Stop)];
        [started(), token(0, "old")].into_iter().chain(rest).chain([done(2)]).collect()
    });
    let service = loading_from(slow, Some(Arc::clone(&shelf) as Arc<dyn Source>), &settings);
    service.install();
    let (old, swapped) = tokio::join!(answer(&service), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let reply = swap(&service, json!({"precision": "int4"})).await;
        (reply.json()["changed"].clone(), answer(&service).await, states(&service).await)
    });
    assert_eq!(old, "old end");
    let (changed, new, while_old_runs) = swapped;
    assert_eq!((changed, new.as_str()), (json!(true), "int4"));
    assert!(while_old_runs.contains(&("unloading".into(), "fp32".into())), "{while_old_runs:?}");
}

#[tokio::test]
async fn engines_above_the_limit_are_unloaded_and_others_are_kept() {
    let shelf = Shelf::new(loads);
    let service = service(&shelf, &[("engine.loaded", "2")]);
    let order = |precision: &str| json!({"precision": precision});
    for (precision, loads) in [("int8", 1), ("fp32", 1), ("int8", 1), ("int4", 2)] {
        assert_eq!(swap(&service, order(precision)).await.json()["changed"], true);
        assert_eq!(shelf.loads.load(Ordering::SeqCst), loads, "after the swap to {precision}");
    }
    // fp32 was used longest ago. The test holds on to it: it is the first engine.
    let states = states(&service).await;
    states_are(&states[..2], &[("ready", "int4"), ("kept", "int8")]);
}

#[tokio::test]
async fn whatever_fails_leaves_everything_as_it_was() {
    let shelf = Shelf::new(loads);
    let service = service(&shelf, &[]);
    let before = states(&service).await;
    states_are(
        &before,
        &[
            ("ready", "fp32"),
            ("available", "fp16"),
            ("available", "fp8"),
            ("available", "int8"),
            ("available", "int4"),
            ("available", "int8"),
            ("unusable", "-"),
        ],
    );
    let order = json!({"precision": "int8"});

    *shelf.load.lock().unwrap() = |_| Err("the logit of token 3 is not finite".into());
    let reply = swap(&service, order.clone()).await;
    assert_eq!(reply.error(500).1, "engine_not_loaded");
    assert!(reply.text.contains("token 3 is not finite"), "{}", reply.text);

    *shelf.load.lock().unwrap() = |_| panic!("killed in warm-up");
    assert_eq!(swap(&service, order.clone()).await.error(500).1, "engine_not_loaded");

    *shelf.load.lock().unwrap() = loads;
    for (order, status, code) in [
        (json!({"precision": "int8", "model": "nothing"}), 404, "engine_not_found"),
        (json!({"precision": "int4", "model": "other"}), 404, "engine_not_found"),
        (json!({"precision": "int8", "model": "other"}), 400, "cannot_swap"),
        (json!({"precision": "int5"}), 400, "invalid_value"),
        (json!({"precision": "int8", "modell": "tiny"}), 400, "unknown_parameter"),
        (json!({"precision": "int8", "model": "ti\n\u{1b}ny"}), 400, "invalid_value"),
    ] {
        let reply = swap(&service, order.clone()).await;
        assert_eq!(reply.status.as_u16(), status, "{order}: {}", reply.text);
        let found = reply.error(status).1;
        assert!(found == code || status == 400, "{order}: {found}");
    }
    assert_eq!(states(&service).await, before);
    assert_eq!(answer(&service).await, "fp32");
    assert!(service.get("/metrics").await.text.contains(r#"arrcoc_swap_failures_total{precision="int8"} 4"#));
}

#[tokio::test]
async fn an_engine_that_does_not_fit_is_refused_before_it_is_loaded() {
    let shelf = Shelf::new(loads);
    // The running engine takes 3250 bytes, and so does the next one.
    let tight = service(&shelf, &[("engine.memory", "6000")]);
    let reply = swap(&tight, json!({"precision": "int8"})).await;
    assert_eq!(reply.error(507).1, "no_memory");
    for part in [
        "needs 3250 bytes of engine.memory (6000 bytes)",
        "weights 1000 bytes, copies of weights 250 bytes, KV cache 2000 bytes",
        "2750 bytes are free",
        "lower engine.slots or engine.context_length",
    ] {
        assert!(reply.text.contains(part), "{part} is missing in {}", reply.text);
    }
    assert_eq!(shelf.trials.load(Ordering::SeqCst), 0);
    assert_eq!(shelf.loads.load(Ordering::SeqCst), 0);
    let wide = service(&shelf, &[("engine.memory", "7000")]);
    assert_eq!(swap(&wide, json!({"precision": "int8"})).await.json()["changed"], true);
}

#[tokio::test]
async fn on_a_gpu_it_is_the_gpus_memory_that_must_be_free() {
    let shelf = Shelf::new(loads);
    let service = service(&shelf, &[]);
    *shelf.free_gpu_memory.lock().unwrap() = Some(3249);
    let reply = swap(&service, json!({"precision": "int8"})).await;
    assert_eq!(reply.error(507).1, "no_memory");
    assert!(
        reply.text.contains("3250 bytes of the GPU's memory") && reply.text.contains("3249 bytes are free")
    );
    assert_eq!((shelf.loads.load(Ordering::SeqCst), answer(&service).await.as_str()), (0, "fp32"));
    *shelf.free_gpu_memory.lock().unwrap() = Some(3250);
    assert_eq!(swap(&service, json!({"precision": "int8"})).await.json()["changed"], true);
}

#[tokio::test]
async fn no_engine_is_unloaded_for_one_that_would_not_fit_all_the_same() {
    let shelf = Shelf::new(loads);
    let service = service(&shelf, &[("engine.loaded", "2")]);
    assert_eq!(swap(&service, json!({"precision": "int8"})).await.json()["changed"], true);
    let before = states(&service).await;
    // With the one that is kept gone, 8250 bytes would be free of 14500.
    *shelf.free_gpu_memory.lock().unwrap() = Some(5000);
    assert_eq!(swap(&service, json!({"precision": "fp16"})).await.error(507).1, "no_memory");
    assert_eq!(states(&service).await, before);
}

#[tokio::test]
async fn one_swap_at_a_time_and_a_client_that_hangs_up_does_not_break_it_off() {
    let shelf = Shelf::new(|engine| {
        std::thread::sleep(Duration::from_millis(300));
        loads(engine)
    });
    let service = service(&shelf, &[]);
    // Hangs up while the engine loads.
    let given_up =
        tokio::time::timeout(Duration::from_millis(100), swap(&service, json!({"precision": "int8"})));
    assert!(given_up.await.is_err());
    assert_eq!(swap(&service, json!({"precision": "int4"})).await.error(409).1, "swap_under_way");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(answer(&service).await, "int8");
}

#[tokio::test]
async fn one_bundle_is_nothing_to_swap_between_and_a_loading_server_waits() {
    let settings = [("auth.admin_keys", KEY)];
    let single = loading_from(named(Precision::Fp32), None, &settings);
    single.install();
    assert_eq!(swap(&single, json!({"precision": "int8"})).await.error(400).1, "cannot_swap");
    let source = Shelf::new(loads) as Arc<dyn Source>;
    let early = loading_from(named(Precision::Fp32), Some(source), &settings);
    assert_eq!(swap(&early, json!({"precision": "int8"})).await.error(503).1, "not_serving");
}

/// What happens to an engine in its trial is told, and nothing of it is loaded here.
#[tokio::test]
async fn an_engine_that_fails_its_trial_is_not_loaded() {
    let shelf = Shelf::new(loads);
    let service = service(&shelf, &[]);
    let before = states(&service).await;
    *shelf.trial.lock().unwrap() = |_| Err("the process was ended by SIGSEGV".into());
    let reply = swap(&service, json!({"precision": "int8"})).await;
    assert_eq!(reply.error(500).1, "engine_not_loaded");
    assert!(reply.text.contains("SIGSEGV"), "{}", reply.text);
    assert_eq!((states(&service).await, answer(&service).await.as_str()), (before, "fp32"));
    // Nothing is in the way of the next one.
    *shelf.trial.lock().unwrap() = |need| Ok(*need);
    assert_eq!(swap(&service, json!({"precision": "int8"})).await.json()["changed"], true);
    let counts = (shelf.trials.load(Ordering::SeqCst), shelf.loads.load(Ordering::SeqCst));
    assert_eq!(counts, (2, 1));
}

/// An estimate that was too low is corrected by what the trial took.
#[tokio::test]
async fn what_a_trial_measures_counts() {
    let shelf = Shelf::new(loads);
    let service = service(&shelf, &[("engine.memory", "7000")]);
    *shelf.trial.lock().unwrap() = |need| Ok(need.measured(3000));
    let reply = swap(&service, json!({"precision": "int8"})).await;
    assert_eq!(reply.error(507).1, "no_memory");
    assert!(reply.text.contains("activations 1750 bytes"), "{}", reply.text);
    assert_eq!(shelf.loads.load(Ordering::SeqCst), 0);
}

/// A load that takes too long is given up. No other engine is loaded beside it, and what it loads in the end
/// is dropped.
#[tokio::test]
async fn a_load_that_takes_too_long_is_given_up() {
    let shelf = Shelf::new(|engine| {
        if engine.precision == Precision::Int8 {
            std::thread::sleep(Duration::from_secs(2));
        }
        loads(engine)
    });
    let service = service(&shelf, &[("timeouts.load", "200ms")]);
    let reply = swap(&service, json!({"precision": "int8"})).await;
    assert_eq!(reply.error(504).1, "engine_load_timeout");
    assert!(reply.text.contains("timeouts.load"), "{}", reply.text);
    assert_eq!(answer(&service).await, "fp32");
    let next = || swap(&service, json!({"precision": "int4"}));
    assert_eq!(next().await.error(409).1, "swap_under_way");
    let swapped = loop {
        match next().await {
            busy if busy.status == 409 => tokio::task::yield_now().await,
            other => break other,
        }
    };
    assert_eq!(swapped.json()["changed"], true, "{}", swapped.text);
    assert_eq!(answer(&service).await, "int4");
    let kinds: Vec<_> =
        states(&service).await.into_iter().filter(|(state, _)| state != "available").collect();
    assert!(kinds.iter().all(|(state, precision)| state == "unusable" || precision != "int8"), "{kinds:?}");
}
