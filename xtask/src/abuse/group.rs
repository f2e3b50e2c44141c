//! A control group with little memory.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::onnxruntime;
use crate::traffic::server::Launch;

/// A control group with a limit on memory; removed with this value.
pub(super) struct Group {
    dir: PathBuf,
}

impl Group {
    pub(super) fn new(limit: u64) -> Option<Self> {
        for (root, file) in
            [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]
        {
            let dir = PathBuf::from(root).join(format!("arrcoc-abuse-{}", std::process::id()));
            if fs::create_dir(&dir).is_err() {
                continue;
            }
            if fs::write(dir.join(file), limit.to_string()).is_ok() {
                return Some(Self { dir });
            }
            let _ = fs::remove_dir(&dir);
        }
        None
    }

    /// Starts a server in it, and says what becomes of that.
    pub(super) fn start(&self, launch: &Launch<'_>) -> Result<String> {
        let line = format!("echo $$ > '{}/cgroup.procs' && exec \"$@\"", self.dir.display());
        let mut server = Command::new("sh")
            .args(["-c", &line, "grouped"])
            .arg(launch.program)
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(&launch.flags)
            .env(onnxruntime::VARIABLE, launch.library)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let start = Instant::now();
        let status = loop {
            match server.try_wait()? {
                Some(status) => break Some(status),
                None if start.elapsed() > Duration::from_secs(5) => break None,
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        let _ = server.kill();
        let output = server.wait_with_output()?;
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        let last = log.lines().last().unwrap_or_default().chars().take(200).collect::<String>();
        Ok(match status {
            None => format!("ready: {last}"),
            Some(status) => format!("{status}: {last}"),
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.dir);
    }
}
