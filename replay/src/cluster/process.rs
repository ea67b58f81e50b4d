//! One child process: started with a lifeline, ended by its own id.
//!
//! A child's standard input is a pipe whose other end this process holds. When
//! this process is gone, however it went, the pipe closes and the child ends
//! itself (see [`lifeline`](super::lifeline)). In the other direction
//! [`Process::stop`] asks with SIGTERM and kills at its deadline, and dropping
//! a [`Process`] kills at once, so no child is left behind by any path.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use super::error::ClusterError;

/// How much of a dead child's log goes into an error, in bytes.
const LOG_TAIL_LEN_MAX: u64 = 2_000;
/// Time between two looks at a child that is ending or starting.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A running child.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program` with `arguments`; its output goes to the file `log`.
    ///
    /// # Errors
    /// The log cannot be made or the program cannot be started.
    pub fn start(
        name: &str,
        program: &Path,
        arguments: &[&str],
        log: &Path,
    ) -> Result<Process, ClusterError> {
        let spawn = || -> io::Result<Child> {
            let output = File::options().create(true).append(true).open(log)?;
            Command::new(program)
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(output.try_clone()?)
                .stderr(output)
                // A group of its own: Ctrl-C at the terminal reaches the parent alone, which ends
                // its children in order.
                .process_group(0)
                .spawn()
        };
        let child = spawn().map_err(|source| ClusterError::Start {
            name: name.to_owned(),
            source,
        })?;
        Ok(Process {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        })
    }

    /// What errors call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fails when the process has ended, with the end of its log.
    ///
    /// # Errors
    /// [`ClusterError::Ended`].
    pub fn check_running(&mut self) -> Result<(), ClusterError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(ClusterError::Ended {
                name: self.name.clone(),
                status: status.to_string(),
                log: self.log_tail(),
            }),
            Err(source) => Err(ClusterError::Start {
                name: self.name.clone(),
                source,
            }),
        }
    }

    /// Kills at once (SIGKILL) and waits for the end.
    pub fn kill(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks with SIGTERM, without waiting.
    pub fn ask_to_end(&mut self) {
        // Not waited for yet, so the id still is this child's.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        }
    }

    /// Waits until it ends by itself; kills it at the deadline. `None` when it had to be killed.
    pub async fn wait_or_kill(&mut self, deadline: Instant) -> Option<ExitStatus> {
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            if Instant::now() >= deadline {
                self.kill();
                return None;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Asks with SIGTERM and kills at the deadline. `None` when it had to be killed.
    pub async fn stop(&mut self, deadline: Instant) -> Option<ExitStatus> {
        self.ask_to_end();
        self.wait_or_kill(deadline).await
    }

    /// The end of what it wrote.
    pub fn log_tail(&self) -> String {
        let read = || -> io::Result<String> {
            let mut file = File::open(&self.log)?;
            let len = file.metadata()?.len();
            file.seek(SeekFrom::Start(len.saturating_sub(LOG_TAIL_LEN_MAX)))?;
            let mut bytes = Vec::new();
            file.take(LOG_TAIL_LEN_MAX).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
        };
        read().unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, directory: &Path) -> Process {
        let log = directory.join("log");
        Process::start("a shell", Path::new("/bin/sh"), &["-c", script], &log).unwrap()
    }

    fn is_there(id: u32) -> bool {
        Path::new(&format!("/proc/{id}")).exists()
    }

    #[tokio::test]
    async fn a_child_ends_when_asked_and_is_killed_when_it_does_not_listen() {
        let directory = tempfile::tempdir().unwrap();
        let far = Instant::now() + Duration::from_secs(60);
        let mut polite = shell("exec sleep 1000", directory.path());
        assert!(polite.check_running().is_ok());
        assert!(polite.stop(far).await.is_some());

        let mut deaf = shell(
            "trap '' TERM; echo ready; while :; do sleep 1; done",
            directory.path(),
        );
        while deaf.log_tail() != "ready" {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        assert!(deaf.stop(Instant::now()).await.is_none());
        assert!(!is_there(deaf.id()));
    }

    #[tokio::test]
    async fn a_closed_lifeline_reaches_the_child_and_its_last_words_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let mut child = shell("cat; echo last words >&2; exit 3", directory.path());
        drop(child.child.stdin.take());
        let end = Instant::now() + Duration::from_secs(60);
        assert_eq!(
            child.wait_or_kill(end).await.and_then(|s| s.code()),
            Some(3)
        );
        let error = child.check_running().unwrap_err().to_string();
        assert!(error.contains("last words"), "{error}");
    }

    #[test]
    fn a_dropped_child_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let child = shell("exec sleep 1000", directory.path());
        let id = child.id();
        drop(child);
        assert!(!is_there(id));
    }
}
