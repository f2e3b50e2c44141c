//! A stock model: the small Qwen3-VL of the fixtures, and pages of records.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use arrcoc_bundle::{Precision, Target};
use arrcoc_export::build::{self, Options};
use arrcoc_export::calibrate::RangeMethod;
use arrcoc_export::progress::Progress;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{answers, lines, outcome, root, set, stderr};

/// The bundle, built once for all tests.
fn bundle() -> PathBuf {
    static BUILT: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let build = || {
        let scratch = tempfile::tempdir().unwrap();
        let options = Options {
            out: scratch.path().to_owned(),
            precision: Precision::Fp32,
            target: Target::Cpu,
            weight_rules: Vec::new(),
            calibration: None,
            range: RangeMethod::Absmax,
            name: Some("reader".to_owned()),
            max_context: Some(2048),
            force: false,
        };
        let checkpoint = root().join("tests/fixtures/stock/qwen3_vl/checkpoint");
        let built = build::build(&checkpoint, &options, Progress::detect(true)).unwrap();
        (scratch, built.bundle)
    };
    BUILT.get_or_init(build).1.clone()
}

fn picture(name: &str) -> String {
    let path = root().join("tests/fixtures/stock/qwen3_vl/images").join(name);
    path.canonicalize().unwrap().to_str().unwrap().to_owned()
}

/// Rows as those of a ledger: two about one picture, one about another.
fn data(dir: &Path) -> String {
    let row = |image: &str, query: &str, kind: &str, answer_box: [u32; 4]| json!({"image": picture(image), "query": query, "answer": "größer 1", "kind": kind, "box": answer_box, "characters": 300});
    let rows = json!([
        row("square.png", "What is the value of AB?", "record", [10, 10, 30, 20]),
        row("square.png", "Which number belongs to CD?", "record", [40, 40, 60, 60]),
        row("photograph.png", "Find EF.", "record", [10, 10, 30, 20]),
    ]);
    set(dir, "ledger.json", &rows)
}

fn run(data: &str, arms: &str, output: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_arrcoc-serve"));
    command.args(["eval", "--data", data, "--arms", arms, "--max-tokens", "4", "--threads", "2", "--bundle"]);
    command.arg(bundle()).arg("--output").arg(output).args(more).output().unwrap()
}

/// Every answer's number of tokens, by arm and budget.
fn tokens(lines: &[Value]) -> BTreeMap<(String, String), Vec<u64>> {
    let mut tokens: BTreeMap<_, Vec<u64>> = BTreeMap::new();
    for line in lines.iter().filter(|line| line["line"] == "answer") {
        let key = (line["arm"].as_str().unwrap().to_owned(), line["budget"].to_string());
        tokens.entry(key).or_default().push(line["tokens"].as_u64().unwrap());
    }
    tokens
}

#[test]
fn every_arm_once() {
    let dir = tempfile::tempdir().unwrap();
    let (data, output) = (data(dir.path()), dir.path().join("out"));
    let done = run(&data, "all", &output, &["--budgets", "5,auto", "--json"]);
    assert!(done.status.success(), "{}", stderr(&done));
    let lines = lines(&output);
    let tokens = tokens(&lines);
    let of = |arm: &str, budget: &str| tokens.get(&(arm.to_owned(), budget.to_owned())).cloned();
    let full = of("full", "\"full\"").unwrap();
    assert!(full.iter().all(|tokens| *tokens > 5), "{full:?}");
    let selectors = ["balanced", "mmtok", "scope", "cdpruner", "divprune", "top-k", "uniform"];
    let switched = ["balanced+skip-blank", "balanced+depth", "shuffled"];
    for arm in selectors.into_iter().chain(switched) {
        assert_eq!(of(arm, "5"), Some(vec![5; 3]), "{arm}");
        let auto = of(arm, "\"auto\"").unwrap();
        assert!(auto.iter().zip(&full).all(|(auto, full)| auto <= full), "{arm}: {auto:?}");
    }
    for arm in ["random", "oracle"] {
        assert_eq!((of(arm, "5"), of(arm, "\"auto\"")), (Some(vec![5; 3]), None), "{arm}");
    }
    assert!(of("downsampled", "5").unwrap().iter().all(|tokens| (1..=5).contains(tokens)));
    assert!(of("full+skip-blank", "\"full\"").is_some());
    assert_eq!(of("grid", "5"), None, "that is a composite's");
    for line in answers(&lines, "oracle") {
        assert!(line["recall"].as_f64().unwrap() > 0.0, "{line}");
    }
    for line in answers(&lines, "full") {
        assert_eq!(line["recall"], 1.0);
    }

    let summary: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((&summary["questions"], &summary["images"]), (&json!(3), &json!(2)));
    let differences = summary["differences"].as_array().unwrap();
    let pairs = |arm: &str, against: &str| {
        let held =
            |one: &&Value| one["arm"] == arm && one["against"] == against && one["scope"]["budget"] == 5;
        differences.iter().find(held).map(|one| one["pairs"].clone())
    };
    assert_eq!(pairs("balanced", "cdpruner"), Some(json!(3)));
    assert_eq!((pairs("cdpruner", "full"), pairs("balanced", "full")), (Some(json!(3)), Some(json!(3))));
    let page = std::fs::read_to_string(output.join("eval.md")).unwrap();
    for part in ["| balanced+skip-blank |", "`select` is the choosing", "| budget 5 | balanced | oracle |"] {
        assert!(page.contains(part), "{part} is missing in {page}");
    }
    assert!(std::fs::read_to_string(output.join("curves.svg")).unwrap().contains("balanced+depth"));
}

#[test]
fn arms_answer_what_ask_answers() {
    let dir = tempfile::tempdir().unwrap();
    let (data, output) = (data(dir.path()), dir.path().join("out"));
    let arms = "full,balanced,cdpruner,balanced+depth,full+skip-blank";
    let done = run(&data, arms, &output, &["--budgets", "5,auto"]);
    assert!(done.status.success(), "{}", stderr(&done));
    let lines = lines(&output);
    for (arm, budget, flags) in [
        ("full", json!("full"), &["--budget", "full"][..]),
        ("balanced", json!(5), &["--budget", "5"]),
        ("balanced", json!("auto"), &["--budget", "auto"]),
        ("cdpruner", json!(5), &["--budget", "5", "--selector", "cdpruner"]),
        ("balanced+depth", json!(5), &["--budget", "5", "--depth", "relevant"]),
        ("full+skip-blank", json!("full"), &["--budget", "full", "--skip-blank"]),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_arrcoc-serve"));
        command.args(["ask", "What is the value of AB?", "--image", &picture("square.png")]).args(flags);
        command.args(["--temperature", "0", "--max-tokens", "4", "--json", "--bundle"]).arg(bundle());
        let asked = command.output().unwrap();
        assert!(asked.status.success(), "{}", stderr(&asked));
        let asked: Value = serde_json::from_slice(&asked.stdout).unwrap();
        let same = |line: &&&Value| line["row"] == 0 && line["budget"] == budget;
        let answers = answers(&lines, arm);
        let line = answers.iter().find(same).unwrap();
        assert_eq!(line["answer"], asked["answer"], "{arm} at {budget}");
        assert_eq!(
            line["tokens"], asked["usage"]["prompt_tokens_details"]["visual_tokens"],
            "{arm} at {budget}"
        );
        assert_eq!(line["prompt_tokens"], asked["usage"]["prompt_tokens"], "{arm} at {budget}");
    }
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let (whole, broken) = (dir.path().join("whole"), dir.path().join("broken"));
    let (arms, budgets) = ("balanced,random,shuffled,downsampled", ["--budgets", "4,auto"]);
    assert!(run(&data, arms, &whole, &budgets).status.success());
    // As if it had been killed in the middle of the second row's answers, and of a character.
    let text = std::fs::read_to_string(whole.join("answers.jsonl")).unwrap();
    let first = text.find("{\"line\":\"row\"").unwrap();
    let cut = first + text[first..].find('ö').unwrap() + 1;
    std::fs::create_dir(&broken).unwrap();
    std::fs::write(broken.join("answers.jsonl"), &text.as_bytes()[..cut]).unwrap();
    let done = run(&data, arms, &broken, &budgets);
    assert!(done.status.success(), "{}", stderr(&done));
    assert_eq!(outcome(&broken), outcome(&whole));
}

#[test]
fn what_is_not_there_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (data, output) = (data(dir.path()), dir.path().join("out"));
    let cases: [(&str, &[&str], &[&str]); 5] = [
        ("query_aware", &[], &["`query_aware`", "reader", "cdpruner"]),
        ("random+depth", &[], &["`random+depth`", "balanced+depth"]),
        ("balanced", &["--positions", "repacked"], &["`repacked`", "original"]),
        ("balanced", &["--grid-neck", &data], &["neck", "ledger.json"]),
        ("random", &["--budgets", "auto"], &["auto"]),
    ];
    for (arms, more, expected) in cases {
        let done = run(&data, arms, &output, more);
        assert_eq!(done.status.code(), Some(1), "{arms} {more:?}: {}", stderr(&done));
        for part in expected {
            assert!(stderr(&done).contains(part), "{part} is missing in {}", stderr(&done));
        }
    }
    let unknown = run(&data, "balanced,best", &output, &[]);
    assert_eq!(unknown.status.code(), Some(2));
    let text = stderr(&unknown);
    assert!(text.contains("`best`") && text.contains("cdpruner") && text.contains("oracle"), "{text}");
}
