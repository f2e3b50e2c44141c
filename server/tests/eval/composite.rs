//! A composite: the tiny bundle and a small data set.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::{answers, lines, outcome, root, set, stderr};

/// What `cargo xtask test` has made.
fn bundle() -> PathBuf {
    let dir = root().join("target/test-bundles/arr-coc-ovis-tiny/fp32-cpu");
    let there = dir.join("manifest.yaml").is_file();
    assert!(there, "no test bundle at {}: run `cargo xtask test`, which makes it", dir.display());
    dir
}

fn image(name: &str) -> String {
    root().join("tests/fixtures/images").join(name).canonicalize().unwrap().to_str().unwrap().to_owned()
}

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_arrcoc-serve"));
    command.args(arguments).arg("--bundle").arg(bundle()).output().unwrap()
}

/// Five rows: four about pictures, one about a picture that does not open.
fn data(dir: &Path) -> String {
    let broken = dir.join("broken.png");
    std::fs::write(&broken, b"no picture").unwrap();
    let rows = json!([
        {"image": image("rocket.jpg"), "query": "What is in the sky?", "answer": "a rocket", "kind": "record",
         "box": [100, 50, 200, 300], "characters": 900, "unknown": {"field": 1}},
        {"image": image("rocket.jpg"), "query": "What colour is the sky?", "answer": "größtenteils blau", "kind": "second_question",
         "pair": 0, "characters": 900},
        {"image": "broken.png", "query": "Nothing?", "answer": "nothing", "kind": "record"},
        {"image": image("astronaut.jpg"), "query": "Who is this?", "answer": "an astronaut", "kind": "shape",
         "box": [9000, 9000, 9001, 9001], "characters": 40},
        {"image": image("rgb.png"), "query": "What is this?", "answer": "colours"},
    ]);
    let path = dir.join("set.json");
    std::fs::write(&path, rows.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

const SMALL: [&str; 6] = ["--max-tokens", "6", "--budgets", "16,64,auto", "--threads", "2"];

/// A small run of some arms into a directory.
fn eval(data: &str, arms: &str, output: &Path, more: &[&str]) -> Output {
    let mut arguments = vec!["eval", "--data", data, "--arms", arms, "--output", output.to_str().unwrap()];
    arguments.extend(SMALL);
    arguments.extend(more);
    run(&arguments)
}

#[test]
fn a_small_set_with_every_arm() {
    let dir = tempfile::tempdir().unwrap();
    let (data, output) = (data(dir.path()), dir.path().join("out"));
    let done = eval(&data, "all", &output, &["--positions", "original,repacked", "--json"]);
    assert!(done.status.success(), "{}", stderr(&done));

    let lines = lines(&output);
    assert_eq!(lines[0]["line"], "header");
    for line in lines.iter().filter(|line| line["line"] == "answer") {
        let exact = line["answer"].as_str().unwrap().trim() == line["reference"].as_str().unwrap();
        assert_eq!(line["exact"], exact);
        assert!(line["cer"].as_f64().unwrap() >= 0.0 && line["ms"]["prefill"].as_f64().unwrap() > 0.0);
    }
    // Four rows by two positions; auto for one arm alone, full once.
    for (arm, budgets, rows) in [
        ("query_aware", 3, 4),
        ("full", 1, 4),
        ("grid", 2, 4),
        ("downsampled", 2, 4),
        ("blank", 2, 4),
        ("shuffled", 2, 4),
        ("first_question", 2, 1),
        ("oracle", 2, 1),
    ] {
        assert_eq!(answers(&lines, arm).len(), budgets * rows * 2, "{arm}");
    }
    let oracle: Vec<_> = answers(&lines, "oracle").iter().map(|line| line["recall"].clone()).collect();
    assert!(oracle[0] == 0.0 && oracle[2].as_f64().unwrap() > 0.0, "16 tokens are all gist: {oracle:?}");

    let summary: Value = serde_json::from_slice(&std::fs::read(output.join("eval.json")).unwrap()).unwrap();
    let printed: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(printed, summary);
    assert_eq!((&summary["questions"], &summary["images"]), (&json!(4), &json!(3)));
    assert_eq!(summary["skipped"].as_array().unwrap().len(), 1);
    assert_eq!(summary["skipped"][0]["image"], "broken.png");
    let left_out = summary["left_out"].as_array().unwrap();
    let counted = |arm: &str| {
        left_out.iter().filter(|one| one["arm"] == arm).map(|one| one["rows"].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!((counted("oracle"), counted("first_question")), (3, 3));
    // Three of the four rows are about one place.
    let pooled =
        |cell: &&Value| cell["kind"].is_null() && cell["arm"] == "query_aware" && cell["budget"] == 64;
    let cell = summary["cells"].as_array().unwrap().iter().find(pooled).unwrap();
    assert_eq!((&cell["questions"], &cell["tokens"]), (&json!(3), &json!(64.0)));
    assert!(!summary["differences"].as_array().unwrap().is_empty());
    if cfg!(target_os = "linux") {
        // The weights alone take more.
        assert!(summary["circumstances"]["peak_bytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20));
    }
    // One second question at two budgets, about a dense page: each alone and, among dense ones, both and each
    // alone.
    let second = |one: &&Value| one["against"] == "first_question" && one["positions"] == "original";
    let differences = summary["differences"].as_array().unwrap();
    let pairs: Vec<_> = differences.iter().filter(second).map(|one| one["pairs"].clone()).collect();
    assert_eq!(pairs, [1, 1, 2, 1, 1], "{differences:?}");

    let claims = summary["claims"].as_array().unwrap();
    assert!(claims.len() == 2 && claims.iter().all(|one| one["verdict"] == "not_tested"), "{claims:?}");

    let page = std::fs::read_to_string(output.join("eval.md")).unwrap();
    for part in
        ["| query_aware |", "## Left out", "broken.png", "plain means", "repacked positions", "is not tested"]
    {
        assert!(page.contains(part), "{part} is missing in {page}");
    }
    assert!(std::fs::read_to_string(output.join("curves.svg")).unwrap().contains("query_aware"));
    assert!(std::fs::read(output.join("curves.png")).unwrap().starts_with(b"\x89PNG"));
}

#[test]
fn the_query_aware_arm_answers_what_ask_answers() {
    let dir = tempfile::tempdir().unwrap();
    let (data, output) = (data(dir.path()), dir.path().join("out"));
    let done = eval(&data, "query_aware", &output, &[]);
    assert!(done.status.success(), "{}", stderr(&done));
    let lines = lines(&output);
    for (row, picture, question) in
        [(0, "rocket.jpg", "What is in the sky?"), (4, "rgb.png", "What is this?")]
    {
        for budget in ["64", "auto"] {
            let arguments = [
                "ask",
                question,
                "--image",
                &image(picture),
                "--budget",
                budget,
                "--max-tokens",
                "6",
                "--json",
            ];
            let asked: Value = serde_json::from_slice(&run(&arguments).stdout).unwrap();
            let same = |line: &&&Value| {
                line["row"] == row
                    && line["budget"] == budget.parse::<u64>().map_or(json!("auto"), Value::from)
            };
            let answers = answers(&lines, "query_aware");
            let line = answers.iter().find(same).unwrap();
            assert_eq!(line["answer"], asked["answer"], "row {row} at {budget}");
            assert_eq!(line["tokens"], asked["usage"]["prompt_tokens_details"]["visual_tokens"]);
            assert_eq!(line["prompt_tokens"], asked["usage"]["prompt_tokens"]);
        }
    }
}

#[test]
fn an_answer_that_is_the_reference_is_right() {
    let dir = tempfile::tempdir().unwrap();
    let run = |name: &str, reference: &str| -> Value {
        let row = json!({"image": image("rgb.png"), "query": "What is this?", "answer": reference});
        let (data, output) = (set(dir.path(), &format!("{name}.json"), &json!([row])), dir.path().join(name));
        let done = eval(&data, "query_aware", &output, &[]);
        assert!(done.status.success(), "{}", stderr(&done));
        let lines = lines(&output);
        answers(&lines, "query_aware").into_iter().find(|line| line["budget"] == 64).unwrap().clone()
    };
    let wrong = run("wrong", "certainly not this");
    assert_eq!(wrong["exact"], false);
    let answer = wrong["answer"].as_str().unwrap();
    assert!(!answer.trim().is_empty());
    let right = run("right", answer);
    assert_eq!(
        (&right["exact"], &right["cer"], &right["answer"]),
        (&json!(true), &json!(0.0), &wrong["answer"])
    );
    let summary: Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("right/eval.json")).unwrap()).unwrap();
    let cell = summary["cells"].as_array().unwrap().iter().find(|cell| cell["budget"] == 64).unwrap();
    assert_eq!(cell["exact"]["mean"], 1.0);
}

#[test]
fn rows_that_do_not_fit_end_no_run() {
    let dir = tempfile::tempdir().unwrap();
    let row = |query: &str| json!({"image": image("rgb.png"), "query": query, "answer": "a"});
    // The first is refused as a prompt; the second leaves room for few visual tokens; both may be mismatched
    // with another.
    let rows = json!([
        row(&"long ".repeat(200_000)),
        row(&"word ".repeat(10)),
        row("What is this?"),
        row("And this?")
    ]);
    let data = set(dir.path(), "set.json", &rows);
    let output = dir.path().join("out");
    let done = eval(&data, "query_aware,shuffled", &output, &["--engine-context-length", "128"]);
    assert!(done.status.success(), "{}", stderr(&done));
    let lines = lines(&output);
    let budgets = |row: usize| -> Vec<Value> {
        answers(&lines, "query_aware")
            .iter()
            .filter(|line| line["row"] == row)
            .map(|line| line["budget"].clone())
            .collect()
    };
    assert_eq!((budgets(0), budgets(1)), (vec![], vec![json!(16)]));
    assert_eq!(budgets(2)[..2], [json!(16), json!(64)]);
    let summary: Value = serde_json::from_slice(&std::fs::read(output.join("eval.json")).unwrap()).unwrap();
    assert_eq!(summary["skipped"][0]["row"], 0);
    assert!(summary["skipped"][0]["reason"].as_str().unwrap().contains("query"));
    let left_out = summary["left_out"].as_array().unwrap();
    let too_long = |one: &&Value| one["reason"].as_str().unwrap().contains("context of 128");
    assert!(
        left_out.iter().filter(too_long).any(|one| one["budget"] == 64 && one["rows"] == 1),
        "{left_out:?}"
    );
    let mismatched = |one: &&Value| one["arm"] == "shuffled" && one["budget"].is_null();
    let found = left_out.iter().find(mismatched).unwrap();
    assert!(found["reason"].as_str().unwrap().contains("other question"), "{found}");
    assert!(std::fs::read_to_string(output.join("eval.md")).unwrap().contains("- row 0, "));
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let (whole, broken) = (dir.path().join("whole"), dir.path().join("broken"));
    let arms = "grid,random,coverage,query_aware,shuffled";
    assert!(eval(&data, arms, &whole, &[]).status.success());
    // As if it had been killed in the middle of the second row's answers.
    let text = std::fs::read_to_string(whole.join("answers.jsonl")).unwrap();
    let first = text.find("{\"line\":\"row\"").unwrap();
    // ... and in the middle of a character.
    let cut = first + text[first..].find('ö').unwrap() + 1;
    std::fs::create_dir(&broken).unwrap();
    std::fs::write(broken.join("answers.jsonl"), &text.as_bytes()[..cut]).unwrap();
    let done = eval(&data, arms, &broken, &[]);
    assert!(done.status.success(), "{}", stderr(&done));

    assert_eq!(outcome(&broken), outcome(&whole));
    // A finished run has nothing left to do; another one is not mixed in.
    assert!(eval(&data, arms, &whole, &[]).status.success());
    assert_eq!(std::fs::read_to_string(whole.join("answers.jsonl")).unwrap(), text);
    let other = eval(&data, arms, &whole, &["--seed", "5"]);
    assert_eq!(other.status.code(), Some(1));
    assert!(stderr(&other).contains("seed was 0 and is 5"), "{}", stderr(&other));
}

#[test]
fn what_cannot_be_run_is_refused_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("out");
    let write = |text: &str| {
        let path = dir.path().join("other.json");
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let good = data(dir.path());
    let cases: [(String, &str, &[&str], &str); 6] = [
        (write("[]"), "grid", &[], "no question"),
        (good.clone(), "grid", &["--grid-neck", &good], "safetensors"),
        (good.clone(), "first_question", &["--limit", "1"], "none of the 1 rows"),
        (good.clone(), "grid", &["--budgets", "4"], "coarser"),
        (good.clone(), "shuffled", &["--limit", "1"], "question of another row"),
        (dir.path().join("none.json").to_str().unwrap().to_owned(), "grid", &[], "none.json"),
    ];
    for (index, (data, arms, more, expected)) in cases.iter().enumerate() {
        let done = Command::new(env!("CARGO_BIN_EXE_arrcoc-serve"))
            .args(["eval", "--data", data, "--arms", arms, "--bundle"])
            .arg(bundle())
            .arg("--output")
            .arg(output.join(index.to_string()))
            .args(*more)
            .output()
            .unwrap();
        assert_eq!(done.status.code(), Some(1), "{expected}: {}", stderr(&done));
        assert!(stderr(&done).contains(expected), "{expected} is missing in {}", stderr(&done));
    }
    for arguments in [["--arms", "nothing"], ["--budgets", "0"], ["--positions", "here"], ["--limit", "0"]] {
        let done = run(&["eval", "--data", "x.json", arguments[0], arguments[1]]);
        assert_eq!(done.status.code(), Some(2), "{arguments:?}");
    }
}
