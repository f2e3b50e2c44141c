//! A server under traffic: a child process on a free port, perhaps with less memory than the machine has.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::http;
use crate::{onnxruntime, shell};

/// Longest wait for the ledger's engine, which loads in a second on an idle machine.
const LOAD_TIME: Duration = Duration::from_secs(60);

/// Where the server's log goes.
pub(crate) enum Log {
    /// A file.
    File(PathBuf),
    /// A pipe; the test holds the other end.
    Pipe,
}

/// How a server is started.
pub(crate) struct Launch<'a> {
    pub(crate) program: &'a Path,
    /// The directory with ONNX Runtime's library.
    pub(crate) library: &'a Path,
    /// Command line behind `serve --listen ...`.
    pub(crate) flags: Vec<String>,
    /// Most address space, bytes: what a program does when memory runs out must not be tried on the whole
    /// machine.
    pub(crate) address_space: Option<u64>,
    pub(crate) log: Log,
}

impl Launch<'_> {
    fn command(&self) -> Command {
        let mut serve = match self.address_space {
            None => shell::command(self.program),
            Some(bytes) => {
                let mut limited = shell::command("sh");
                let line = format!("ulimit -v {}; exec \"$@\"", bytes >> 10);
                limited.args(["-c", &line, "limited"]).arg(self.program);
                limited
            }
        };
        serve.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]).args(&self.flags);
        serve.env(onnxruntime::VARIABLE, self.library);
        serve
    }

    /// Starts it; it may still be loading.
    pub(crate) fn start(&self) -> Result<Server> {
        let stderr = match &self.log {
            Log::File(path) => Stdio::from(File::create(path)?),
            Log::Pipe => Stdio::piped(),
        };
        let mut child = self.command().stdout(Stdio::piped()).stderr(stderr).spawn()?;
        let pipe = child.stderr.take();
        let (sender, said) = channel();
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        let address = said.recv_timeout(LOAD_TIME).ok().and_then(|line| address(&line, "listening on"));
        let server = Server {
            child,
            said: Mutex::new(said),
            address: address.unwrap_or(([127, 0, 0, 1], 1).into()),
            pipe,
        };
        match address {
            Some(_) => Ok(server),
            None => bail!("the server did not say where it listens ({})", self.end_of_log()),
        }
    }

    /// Starts it and waits until it is ready.
    pub(crate) fn ready(&self) -> Result<Server> {
        let mut server = self.start()?;
        server.await_ready().with_context(|| self.end_of_log())?;
        Ok(server)
    }

    /// The log's last lines.
    pub(crate) fn end_of_log(&self) -> String {
        let Log::File(path) = &self.log else { return String::new() };
        // A device has no end.
        if !path.is_file() {
            return String::new();
        }
        let log = fs::read(path).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().rev().take(3).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

/// `http://ADDRESS` behind some words.
fn address(line: &str, words: &str) -> Option<SocketAddr> {
    line.strip_prefix(words)?.trim().strip_prefix("http://")?.parse().ok()
}

/// A running server; ends with this value.
pub(crate) struct Server {
    child: Child,
    /// Lines of its standard output that nobody has read yet.
    said: Mutex<Receiver<String>>,
    pub(crate) address: SocketAddr,
    /// The other end of its log, where that is a pipe.
    pub(crate) pipe: Option<ChildStderr>,
}

impl Server {
    /// Waits until it is ready.
    pub(crate) fn await_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < LOAD_TIME {
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended ({status})");
            }
            if self.get("/ready").is_ok_and(|answer| answer.status == 200) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        bail!("the server was not ready after {LOAD_TIME:?}")
    }

    /// An exchange on a connection of its own.
    pub(crate) fn get(&self, path: &str) -> std::io::Result<http::Answer> {
        let request = http::head("GET", path, self.address, &[("Connection", "close")]);
        http::exchange(self.address, &request, Duration::from_secs(5))
    }

    /// Where `/admin` is, when it has a listener of its own.
    pub(crate) fn admin(&self) -> Option<SocketAddr> {
        self.said.lock().ok()?.try_iter().find_map(|line| address(&line, "admin on"))
    }

    pub(crate) fn process(&self) -> Process {
        Process(self.child.id())
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits so long for its end.
    pub(crate) fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let start = Instant::now();
        while start.elapsed() < patience {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            thread::sleep(Duration::from_millis(10));
        }
        None
    }

    /// Asks it to end, and waits so long.
    pub(crate) fn terminate(&mut self, patience: Duration) -> Option<ExitStatus> {
        let pid = self.child.id().to_string();
        let _ = shell::command("kill").args(["-TERM", &pid]).status();
        self.wait(patience)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails when it has ended already, and that is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process, as Linux shows it; nothing is known of it elsewhere.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Process(u32);

impl Process {
    fn status(self, field: &str) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        Some(line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
    }

    /// Resident memory, bytes.
    pub(crate) fn resident(self) -> Option<u64> {
        self.status("VmRSS")
    }

    /// Largest resident memory since [`Self::forget_peak`], bytes.
    pub(crate) fn peak(self) -> Option<u64> {
        self.status("VmHWM")
    }

    pub(crate) fn forget_peak(self) {
        // Where that is not allowed, the peak is that of the whole life: larger, never smaller.
        let _ = fs::write(format!("/proc/{}/clear_refs", self.0), "5");
    }
}
