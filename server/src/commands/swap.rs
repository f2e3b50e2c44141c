//! `arrcoc-serve swap`: asks a running server to swap.

use std::time::Duration;

use anyhow::{Context, bail};
use arrcoc_server::config::{Config, Overrides};
use serde_json::{Value, json};

use super::{Failure, print, reachable};
use crate::cli::Swap;

/// Large engines load slowly; beyond this something else is wrong.
const TIMEOUT: Duration = Duration::from_secs(1800);

/// Where to look for the right address.
const WHERE: &str = "the server prints it as \"admin on ...\" when it starts with --auth-admin-keys; give it as --url, or give \
                     --config or --admin-listen as the server has them";

pub(crate) fn run(args: &Swap) -> Result<(), Failure> {
    let answer = order(args)?;
    let text = match args.json {
        true => serde_json::to_string_pretty(&answer)?,
        false => sentence(&answer),
    };
    Ok(print(&format!("{text}\n"))?)
}

/// The key is checked first: without one nothing is asked.
fn key(args: &Swap) -> &str {
    args.key.as_deref().filter(|key| !key.is_empty()).unwrap_or_else(|| {
        let message = "expected a key, found none: give one of the server's auth.admin_keys as --key or in \
                       ARRCOC_ADMIN_KEY; it is sent in the header `Authorization: Bearer KEY`\n";
        clap::Error::raw(clap::error::ErrorKind::MissingRequiredArgument, message).exit()
    })
}

fn order(args: &Swap) -> anyhow::Result<Value> {
    let key = key(args);
    let admin = admin(args)?;
    let admin = if admin.contains("://") { admin } else { format!("http://{admin}") };
    let url = format!("{}/admin/engines/swap", admin.trim_end_matches('/'));
    let agent =
        ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).http_status_as_error(false).build();
    let request = ureq::Agent::from(agent)
        .post(&url)
        .header("Authorization", format!("Bearer {key}"))
        .header("Content-Type", "application/json");
    let body = json!({"model": args.model, "precision": args.precision});
    let mut response = request
        .send(body.to_string())
        .with_context(|| format!("no server answers at {url}; expected its admin listener there: {WHERE}"))?;
    let text = response.body_mut().read_to_string().context("the server's answer broke off")?;
    let answer: Value = serde_json::from_str(&text).with_context(|| {
        format!("expected JSON from {url}, found {:?}", text.chars().take(80).collect::<String>())
    })?;
    if !response.status().is_success() {
        let reason = answer["error"]["message"].as_str().unwrap_or("the server gave no reason");
        match answer["error"]["code"].as_str() {
            Some("unknown_route") => bail!("{url} is not an admin listener: {reason}. {WHERE}"),
            _ => bail!("{reason}"),
        }
    }
    Ok(answer)
}

/// Where the server's `/admin` listens.
fn admin(args: &Swap) -> anyhow::Result<String> {
    if let Some(url) = &args.url {
        return Ok(url.clone());
    }
    // Which engines the server has is none of this command's business.
    let mut settings = vec![("bundle", ""), ("engines", "")];
    settings.extend(args.admin_listen.as_deref().map(|address| ("admin_listen", address)));
    let config = Config::load(args.config.as_deref(), &Overrides::from_pairs(&settings))?;
    if config.admin_listen.port() == 0 {
        bail!("admin_listen has port 0, another one each time: give --url with what the server printed");
    }
    Ok(format!("http://{}", reachable(config.admin_listen)))
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
