//! What the demo prints in the end.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::server::Stages;
use super::subject::Subject;
use crate::shell::shown;

/// Stages of every request, before and behind the graphs of the vision side.
const BEFORE: [&str; 2] = ["decode_image", "preprocess"];
const BEHIND: [&str; 2] = ["prefill", "decode_step"];

/// What happened between two readings.
pub(super) fn since(before: &Stages, after: &Stages) -> Stages {
    let earlier = |stage: &str| before.get(stage).copied().unwrap_or_default();
    let difference = |(stage, (seconds, runs)): (&String, &(f64, f64))| {
        let (seconds_before, runs_before) = earlier(stage);
        (stage.clone(), (seconds - seconds_before, runs - runs_before))
    };
    after.iter().map(difference).collect()
}

/// Prints the answer, what it cost in tokens, and the table of stages; returns the answer.
pub(super) fn answer<'a>(answer: &'a Value, stages: &Stages, random: bool) -> Result<&'a str> {
    let text = answer["choices"][0]["message"]["content"].as_str().context("the answer holds no text")?;
    let (usage, image) = (&answer["usage"], &answer["arrcoc"]["images"][0]);
    println!("\nanswer:   {text:?}");
    if random {
        println!("          (gibberish: the weights are random. Everything else is real.)");
    }
    println!(
        "tier:     {} of 0 to 4, chosen by the question: {} visual tokens",
        image["tier"], image["tokens"]
    );
    let weights = &image["tension_weights"];
    let weight = |name: &str| weights[name].as_f64().unwrap_or(f64::NAN);
    println!(
        "weighed:  propositional {:.2}, perspectival {:.2}, participatory {:.2}",
        weight("propositional"),
        weight("perspectival"),
        weight("participatory")
    );
    println!("tokens:   {} in the prompt, {} generated", usage["prompt_tokens"], usage["completion_tokens"]);
    println!("\n{:<16} {:>5} {:>12}", "stage", "runs", "ms in all");
    let mut total = 0.0;
    let graphs =
        stages.keys().map(String::as_str).filter(|stage| !BEFORE.contains(stage) && !BEHIND.contains(stage));
    for stage in BEFORE.into_iter().chain(graphs).chain(BEHIND) {
        let (seconds, runs) = stages.get(stage).copied().unwrap_or_default();
        total += seconds;
        println!("{stage:<16} {runs:>5} {:>12.2}", seconds * 1e3);
    }
    println!("{:<16} {:>5} {:>12.2}", "together", "", total * 1e3);
    Ok(text)
}

/// What to try next.
pub(super) fn how_to_go_on(subject: &Subject, bundle: &Path, url: &str, keep: bool) {
    let (model, bundle, picture) = (&subject.model, shown(bundle), shown(&subject.picture));
    let question = subject.questions.first().map_or("What is this?", |question| &question.text);
    if keep {
        println!("\nThe server goes on at {url} until Ctrl-C. Open it in a browser, or ask it:");
    } else {
        println!(
            "\nHow to go on: `cargo xtask demo --keep` leaves the server running. Or start it yourself:\n"
        );
        println!("  target/release/arrcoc-serve serve --bundle {bundle}");
    }
    let url = if keep { url } else { "http://127.0.0.1:8080" };
    println!(
        r#"
  curl {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{{"model": "{model}",
    "messages": [{{"role": "user", "content": "Hello"}}], "max_tokens": 16}}'

  python3 - <<'PYTHON'    # pip install openai
  import base64, openai
  image = base64.b64encode(open("{picture}", "rb").read()).decode()
  client = openai.OpenAI(base_url="{url}/v1", api_key="none")
  print(client.chat.completions.create(model="{model}", max_tokens=16, messages=[{{"role": "user", "content": [
      {{"type": "image_url", "image_url": {{"url": "data:image/png;base64," + image}}}},
      {{"type": "text", "text": "{question}"}}]}}]))
  PYTHON

  target/release/arrcoc-serve ask --bundle {bundle} --image {picture} "{question}"

A picture of your own: cargo xtask demo --image FILE. The guide: docs/user-guide.md."#
    );
}
