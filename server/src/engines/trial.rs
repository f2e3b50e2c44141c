//! The trial of an engine in a process of its own: what a hostile or broken bundle does there, it does to
//! nobody else.
//!
//! The server starts its own program again, hands it the configuration without any secret, and waits for one
//! line. A crash, a graph that never ends and memory beyond all measure end that process and are told by what
//! ended it.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arrcoc_bundle::quote::one_line;
use serde::{Deserialize, Serialize};

use crate::config::Config;

/// The hidden command that the child runs.
pub const COMMAND: &str = "try-engine";

/// How often the child is asked whether it has ended.
const POLL: Duration = Duration::from_millis(20);

/// Longest answer that is read, bytes.
const MOST_ANSWER: u64 = 64 << 10;

/// How much of what the child last wrote to standard error is kept, bytes.
const MOST_SAID: usize = 2000;

/// What the child tells, one JSON line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The engine loaded and answered.
    Ready {
        /// Most memory that the process held, bytes, where the system tells.
        peak_bytes: Option<u64>,
    },
    /// It did not, and why.
    Refused(String),
}

/// How to try engines out.
#[derive(Debug)]
pub struct Trial {
    program: PathBuf,
    config: Config,
}

/// A trial did not end well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrialError {
    /// No process could be started for it.
    #[error("cannot start a process to try the engine in: {0}")]
    Start(#[from] std::io::Error),
    /// The engine did not load there.
    #[error("{0}")]
    Refused(String),
    /// It was not ready in time.
    #[error(
        "it was not ready after {0:?} (timeouts.load), in a process of its own that was ended then: a graph that never ends, or a slow disk"
    )]
    Deadline(Duration),
    /// Something ended the process.
    #[error("the process that it was tried in was ended by {signal}{}", quoted(.said))]
    Killed {
        /// The signal and what it stands for.
        signal: String,
        /// What the process wrote last.
        said: String,
    },
    /// It ended without an answer.
    #[error("the process that it was tried in ended with status {code} and no answer{}", quoted(.said))]
    Silent {
        /// Its exit status.
        code: i32,
        /// What the process wrote last.
        said: String,
    },
}

fn quoted(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!("; it wrote: {said}") }
}

impl Trial {
    /// Trials by this very program, with what the configuration says of engines.
    pub fn new(config: &Config) -> Self {
        // The link leads to the program that runs, though another may have taken its place on disk by now.
        let own = Path::new("/proc/self/exe");
        let program = if own.exists() { own.to_owned() } else { std::env::current_exe().unwrap_or_default() };
        Self::by(program, config)
    }

    /// Trials by another program.
    pub fn by(program: PathBuf, config: &Config) -> Self {
        Self { program, config: config.clone() }
    }

    /// Loads the bundle at `dir` in a process that may take `memory` bytes, and says how much it took.
    ///
    /// # Errors
    /// [`TrialError`]; the process is gone then, and so it is afterwards.
    pub fn run(&self, dir: &Path, memory: Option<u64>) -> Result<Option<u64>, TrialError> {
        let config = serde_yaml::to_string(&self.config.for_trial(dir)).map_err(std::io::Error::other)?;
        let mut child = Running(self.start(memory)?);
        let answer = child.0.stdout.take().map(|pipe| listen(pipe.take(MOST_ANSWER))).transpose()?;
        let errors = child.0.stderr.take().map(listen_to_the_end).transpose()?;
        if let Some(input) = child.0.stdin.take() {
            tell(input, config)?;
        }
        let status = child.wait(self.config.timeouts.load.0)?;
        let (answer, said) = (heard(answer), last_lines(&heard(errors)));
        judge(&answer, status, said)
    }

    fn start(&self, memory: Option<u64>) -> std::io::Result<Child> {
        let mut command = Command::new(&self.program);
        command.arg(COMMAND);
        if let Some(bytes) = memory {
            command.arg("--memory").arg(bytes.to_string());
        }
        // All settings go by the configuration, and keys go nowhere.
        let settings = std::env::vars_os().map(|(name, _)| name);
        for name in settings.filter(|name| name.to_string_lossy().starts_with("ARRCOC_")) {
            command.env_remove(name);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    }
}

/// A child that does not outlive the trial.
struct Running(Child);

impl Running {
    fn wait(&mut self, deadline: Duration) -> Result<ExitStatus, TrialError> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            if started.elapsed() >= deadline {
                self.end();
                return Err(TrialError::Deadline(deadline));
            }
            std::thread::sleep(POLL);
        }
    }

    fn end(&mut self) {
        // It may have ended by itself just now.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

fn judge(answer: &[u8], status: ExitStatus, said: String) -> Result<Option<u64>, TrialError> {
    let line = answer.split(|&byte| byte == b'\n').next().unwrap_or_default();
    match (serde_json::from_slice(line), status.signal()) {
        (Ok(Answer::Refused(reason)), _) => Err(TrialError::Refused(one_line(&reason, MOST_SAID))),
        (_, Some(signal)) => Err(TrialError::Killed { signal: describe(signal), said }),
        (Ok(Answer::Ready { peak_bytes }), None) if status.success() => Ok(peak_bytes),
        _ => Err(TrialError::Silent { code: status.code().unwrap_or(-1), said }),
    }
}

fn describe(signal: i32) -> String {
    let (name, meaning) = match signal {
        libc::SIGSEGV => ("SIGSEGV", "a crash: a stack that overflowed, or an address that is none"),
        libc::SIGBUS => ("SIGBUS", "a file became shorter while it was read, or an address is none"),
        libc::SIGABRT => ("SIGABRT", "it gave up: an overflowed stack, or memory that was refused"),
        libc::SIGKILL => ("SIGKILL", "by the system, when it takes more memory than there is"),
        libc::SIGILL => ("SIGILL", "an instruction that this CPU does not have"),
        libc::SIGFPE => ("SIGFPE", "arithmetic that the CPU refuses"),
        libc::SIGPIPE => ("SIGPIPE", "it wrote without end"),
        libc::SIGTERM => ("SIGTERM", "somebody ended it"),
        other => return format!("signal {other}"),
    };
    format!("{name} ({meaning})")
}

/// Writes on a thread of its own: a child that reads nothing has a deadline, too. One that ends before it has
/// read everything is judged by how it ended.
fn tell(mut pipe: impl Write + Send + 'static, text: String) -> std::io::Result<()> {
    let write = move || drop(pipe.write_all(text.as_bytes()));
    std::thread::Builder::new().name("arrcoc-trial".into()).spawn(write).map(drop)
}

/// Reads on a thread of its own, so that a child which writes much never waits for its reader.
fn listen(mut pipe: impl Read + Send + 'static) -> std::io::Result<JoinHandle<Vec<u8>>> {
    std::thread::Builder::new().name("arrcoc-trial".into()).spawn(move || {
        let mut bytes = Vec::new();
        // What was read before a failure is what there is.
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

/// The same for the end of what is written, however much that is.
fn listen_to_the_end(mut pipe: impl Read + Send + 'static) -> std::io::Result<JoinHandle<Vec<u8>>> {
    std::thread::Builder::new().name("arrcoc-trial".into()).spawn(move || {
        let (mut last, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(read @ 1..) = pipe.read(&mut buffer) {
            last.extend_from_slice(&buffer[..read]);
            let surplus = last.len().saturating_sub(MOST_SAID);
            last.drain(..surplus);
        }
        last
    })
}

fn heard(listener: Option<JoinHandle<Vec<u8>>>) -> Vec<u8> {
    listener.and_then(|listener| listener.join().ok()).unwrap_or_default()
}

/// Most bytes of it that a message repeats.
const MOST_QUOTED: usize = 300;

/// What was written last, on one line.
fn last_lines(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let text = lines[lines.len().saturating_sub(3)..].join(" / ");
    let start = text.ceil_char_boundary(text.len().saturating_sub(MOST_QUOTED));
    one_line(&text[start..], MOST_QUOTED)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::config::Overrides;

    /// Tries an engine out with a shell script in the program's place.
    fn tried(script: &str, deadline: &str) -> Result<Option<u64>, TrialError> {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let settings = [("timeouts.load", deadline), ("auth.api_keys", "a-secret-key-of-mine")];
        let config = Config::load(None, &Overrides::from_pairs(&settings)).unwrap();
        Trial::by(program, &config).run(Path::new("/engines/one"), Some(1 << 30))
    }

    #[test]
    fn an_answer_is_taken_as_it_is() {
        let ready = r#"cat > /dev/null; echo '{"ready":{"peak_bytes":4096}}'"#;
        assert_eq!(tried(ready, "1m").unwrap(), Some(4096));
        let refused = r#"cat > /dev/null; echo '{"refused":"the logit of token 3 is not finite"}'"#;
        assert_eq!(tried(refused, "1m").unwrap_err().to_string(), "the logit of token 3 is not finite");
    }

    /// The child knows the bundle and the command, and no key.
    #[test]
    fn the_child_gets_the_configuration_without_secrets() {
        let script = r#"text=$(cat | tr '\n' ' ' | tr -d '"'); echo "{\"refused\":\"$* $text\"}""#;
        let told = tried(script, "1m").unwrap_err().to_string();
        assert!(told.starts_with("try-engine --memory 1073741824 bundle: /engines/one"), "{told}");
        assert!(told.contains("slots: 4") && !told.contains("a-secret-key-of-mine"), "{told}");
    }

    #[test]
    fn whatever_ends_the_child_is_told() {
        let cases = [
            ("echo 'thread main has overflowed its stack' >&2; kill -ABRT $$", "SIGABRT"),
            ("kill -SEGV $$", "SIGSEGV"),
            ("kill -BUS $$", "SIGBUS"),
            ("kill -KILL $$", "SIGKILL"),
            ("exit 7", "status 7 and no answer"),
            ("echo nonsense", "status 0 and no answer"),
            (r#"echo '{"ready":{"peak_bytes":1}}'; exit 3"#, "status 3 and no answer"),
            (r#"echo '{"ready":{"peak_bytes":1}}'; kill -SEGV $$"#, "SIGSEGV"),
        ];
        for (script, part) in cases {
            let error = tried(script, "1m").unwrap_err().to_string();
            assert!(error.contains(part), "{script}: {error}");
        }
        let error = tried(cases[0].0, "1m").unwrap_err().to_string();
        assert!(error.contains("it wrote: thread main has overflowed its stack"), "{error}");
    }

    /// One that never ends is ended, however much it writes meanwhile.
    #[test]
    fn a_child_that_never_ends_is_ended() {
        for script in ["while :; do :; done", "while :; do echo a long line of nothing >&2; done"] {
            let error = tried(script, "300ms").unwrap_err();
            assert!(matches!(error, TrialError::Deadline(_)), "{error}");
        }
        let error = tried("while :; do echo a long line of nothing; done", "1m").unwrap_err();
        assert!(!matches!(error, TrialError::Deadline(_)), "{error}");
    }

    /// The configuration is longer than a pipe takes at once.
    #[test]
    fn a_child_that_reads_nothing_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        std::fs::write(&program, "#!/bin/sh\nexec sleep 60\n").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let config = Config::load(None, &Overrides::from_pairs(&[("timeouts.load", "300ms")])).unwrap();
        let long = PathBuf::from("x".repeat(1 << 20));
        let error = Trial::by(program, &config).run(&long, None).unwrap_err();
        assert!(matches!(error, TrialError::Deadline(_)), "{error}");
    }

    #[test]
    fn a_program_that_cannot_be_started_is_an_error() {
        let config = Config::load(None, &Overrides::default()).unwrap();
        let error = Trial::by("/nowhere/program".into(), &config).run(Path::new("/"), None).unwrap_err();
        assert!(matches!(error, TrialError::Start(_)), "{error}");
    }
}
