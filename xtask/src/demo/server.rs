//! The server of the demo: a child process on a free port, and HTTP to it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::bundles::Programs;
use crate::onnxruntime;
use crate::shell::shown;

/// Loading `arr-coc-ovis-base` takes most of a minute on two cores; this is for slower disks.
const LOAD_TIME: Duration = Duration::from_secs(600);

/// A running server; ends with this value.
pub(super) struct Server {
    child: Child,
    /// Where it listens.
    pub(super) url: String,
    log: PathBuf,
    http: ureq::Agent,
}

/// Seconds and runs of each stage since the server started.
pub(super) type Stages = BTreeMap<String, (f64, f64)>;

impl Server {
    /// Starts it and waits until it is ready.
    pub(super) fn start(
        programs: &Programs,
        bundle: &Path,
        runtime: &str,
        library: Option<&Path>,
        log: &Path,
    ) -> Result<Self> {
        let mut serve = programs.serve();
        serve.args(["serve", "--listen", "127.0.0.1:0", "--engine-runtime", runtime, "--bundle"]).arg(bundle);
        if let Some(library) = library {
            serve.env(onnxruntime::VARIABLE, library);
        }
        let mut child = serve.stdout(Stdio::piped()).stderr(File::create(log)?).spawn()?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let url = line.trim().strip_prefix("listening on ").unwrap_or_default().to_owned();
        // Statuses are answers here, not failures of the transport.
        let http = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut server = Self { child, url, log: log.to_path_buf(), http };
        if server.url.is_empty() {
            return Err(server.failure("it did not say where it listens"));
        }
        println!("{}: loading (log: {})", server.url, shown(log));
        server.await_ready()?;
        Ok(server)
    }

    fn await_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < LOAD_TIME {
            if let Some(status) = self.child.try_wait()? {
                return Err(self.failure(&format!("it ended ({status})")));
            }
            if self
                .http
                .get(format!("{}/ready", self.url))
                .call()
                .is_ok_and(|response| response.status() == 200)
            {
                println!("ready");
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(self.failure("it was not ready in time"))
    }

    fn failure(&self, what: &str) -> anyhow::Error {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        anyhow::anyhow!("the server: {what}; its log:\n{}", log.trim_end())
    }

    /// `POST /v1/chat/completions`.
    pub(super) fn ask(&self, request: &Value) -> Result<Value> {
        let post = self.http.post(format!("{}/v1/chat/completions", self.url));
        let mut response = post.header("Content-Type", "application/json").send(request.to_string())?;
        let body = response.body_mut().read_to_string()?;
        if response.status() != 200 {
            bail!("the server answered {}: {body}", response.status());
        }
        serde_json::from_str(&body).context("the answer is no JSON")
    }

    /// What `/metrics` says of the stages so far.
    pub(super) fn stages(&self) -> Result<Stages> {
        let text = self.http.get(format!("{}/metrics", self.url)).call()?.body_mut().read_to_string()?;
        let mut stages = Stages::new();
        for line in text.lines() {
            let Some((name, rest)) = line.split_once("{stage=\"") else { continue };
            let Some((stage, value)) = rest.split_once("\"} ") else { continue };
            let value: f64 = value.trim().parse().with_context(|| format!("/metrics: `{line}`"))?;
            let entry = stages.entry(stage.to_owned()).or_default();
            match name {
                "arrcoc_stage_seconds_sum" => entry.0 = value,
                "arrcoc_stage_seconds_count" => entry.1 = value,
                _ => {}
            }
        }
        Ok(stages)
    }

    /// Waits until it is ended from outside.
    pub(super) fn wait(mut self) -> Result<()> {
        let status = self.child.wait()?;
        println!("the server ended ({status})");
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails when it has ended already, and that is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
