//! `arrcoc-serve swap`: asks a running server to swap.

use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::{Failure, print};
use crate::cli::Swap;

/// Large engines load slowly; beyond this something else is wrong.
const TIMEOUT: Duration = Duration::from_secs(1800);

pub(crate) fn run(args: &Swap) -> Result<(), Failure> {
    let answer = order(args)?;
    let text = match args.json {
        true => serde_json::to_string_pretty(&answer)?,
        false => sentence(&answer),
    };
    Ok(print(&format!("{text}\n"))?)
}

fn order(args: &Swap) -> anyhow::Result<Value> {
    let url = format!("{}/admin/engines/swap", args.url.trim_end_matches('/'));
    let agent =
        ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).http_status_as_error(false).build();
    let request = ureq::Agent::from(agent)
        .post(&url)
        .header("Authorization", format!("Bearer {}", args.key))
        .header("Content-Type", "application/json");
    let body = json!({"model": args.model, "precision": args.precision});
    let mut response =
        request.send(body.to_string()).with_context(|| format!("no server answers at {url}"))?;
    let text = response.body_mut().read_to_string().context("the server's answer broke off")?;
    let answer: Value = serde_json::from_str(&text).with_context(|| {
        format!("expected JSON from {url}, found {:?}", text.chars().take(80).collect::<String>())
    })?;
    if !response.status().is_success() {
        bail!("{}", answer["error"]["message"].as_str().unwrap_or("the server gave no reason"));
    }
    Ok(answer)
}

fn sentence(answer: &Value) -> String {
    let engine = &answer["engine"];
    let name = |key: &str| engine[key].as_str().unwrap_or("?").to_owned();
    let (model, precision) = (name("model"), name("precision"));
    match answer["changed"].as_bool() {
        Some(true) => {
            let seconds = answer["seconds"].as_f64().unwrap_or(0.0);
            format!("{model} is served in {precision}, after {seconds:.1} s")
        }
        _ => format!("{model} was served in {precision} already"),
    }
}
