//! Processes that this program starts and ends, and what the kernel counts for them.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

/// What `/proc/<pid>/stat` counts in, ticks per second: `USER_HZ`, 100 on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;
/// A process that is asked to end has this long before it is killed.
const END_WAIT_MAX: Duration = Duration::from_secs(5);

/// A process of ours with all its children. Ended when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts a command without input.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(mut command: Command) -> Result<Process> {
        command.stdin(Stdio::null());
        let child = command
            .spawn()
            .with_context(|| format!("starting {:?}", command.get_program()))?;
        Ok(Process { child })
    }

    /// Its standard output, if it was piped and not taken yet.
    pub fn stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// The system does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Itself and all its descendants that live now.
    ///
    /// # Errors
    /// No `/proc`.
    pub fn tree(&self) -> Result<Vec<u32>> {
        let mut parents = Vec::new();
        for entry in fs::read_dir("/proc").context("reading /proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            // Processes end while we look; those are not ours to count.
            if let Ok(stat) = read_stat(pid) {
                parents.push((pid, stat.parent));
            }
        }
        let mut tree = BTreeSet::from([self.child.id()]);
        loop {
            let before = tree.len();
            let below = parents.iter().filter(|(_, parent)| tree.contains(parent));
            let below: Vec<u32> = below.map(|&(pid, _)| pid).collect();
            tree.extend(below);
            if tree.len() == before {
                return Ok(tree.into_iter().collect());
            }
        }
    }

    /// Kills it and its descendants as a crash would.
    ///
    /// # Errors
    /// No `/proc`, or the system refuses.
    pub fn kill(mut self) -> Result<()> {
        if self.ended()?.is_none() {
            signal("KILL", &self.tree()?)?;
            self.child.wait()?;
        }
        Ok(())
    }

    /// Asks it to end, and kills it and its descendants if they do not.
    fn end(&mut self) -> Result<()> {
        if self.ended()?.is_some() {
            return Ok(());
        }
        let tree = self.tree()?;
        signal("TERM", &[self.child.id()])?;
        let asked = Instant::now();
        while asked.elapsed() < END_WAIT_MAX {
            if self.ended()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        signal("KILL", &tree)?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("process {}: {error:#}", self.child.id());
        }
    }
}

/// Signals processes of ours by their ids. The shell's own `kill` is on every system.
fn signal(name: &str, pids: &[u32]) -> Result<()> {
    let mut command = Command::new("sh");
    command.args(["-c", "kill -s \"$@\" 2>/dev/null", "sh", name]);
    command.args(pids.iter().map(u32::to_string));
    command.status().context("starting sh")?;
    Ok(())
}

/// Processor time spent since the start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu {
    /// User and system, to the nanosecond where the kernel says so, otherwise to 10 ms.
    pub total: Duration,
    /// User alone, to 10 ms.
    pub user: Duration,
    /// Time in which its threads could have run and others had the core; zero where the kernel does not say.
    pub waited: Duration,
}

/// Processor time of these processes with all their threads.
///
/// # Errors
/// One of them is gone.
pub fn cpu(pids: &[u32]) -> Result<Cpu> {
    let mut sum = Cpu::default();
    for &pid in pids {
        let stat = read_stat(pid)?;
        let (ran, waited) = threads_time(pid).unwrap_or_default();
        // Threads that have ended are in the ticks alone.
        sum.total += ran.max(stat.user + stat.system);
        sum.waited += waited;
        sum.user += stat.user;
    }
    Ok(sum)
}

/// Time on a processor of all threads that live now, from `schedstat`: finer than ticks. A thread that
/// ends in between takes its time with it, so a proxy that starts threads per request would look too
/// good here; none of the peers does.
fn threads_time(pid: u32) -> Option<(Duration, Duration)> {
    let (mut ran_ns, mut waited_ns) = (0, 0);
    for entry in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let text = fs::read_to_string(entry.ok()?.path().join("schedstat")).ok()?;
        let mut fields = text.split_whitespace().map(str::parse::<u64>);
        ran_ns += fields.next()?.ok()?;
        waited_ns += fields.next()?.ok()?;
    }
    Some((
        Duration::from_nanos(ran_ns),
        Duration::from_nanos(waited_ns),
    ))
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    user: Duration,
    system: Duration,
}

fn read_stat(pid: u32) -> Result<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid}"))?;
    parse_stat(&text).ok_or_else(|| anyhow!("process {pid}: stat is not understood"))
}

/// Fields 4, 14 and 15 of proc(5)'s stat. The name in the second may hold blanks and parentheses.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text
        .get(text.rfind(')')? + 1..)?
        .split_whitespace()
        .collect();
    let ticks = |at: usize| {
        let ticks = fields.get(at)?.parse::<u32>().ok()?;
        Some(Duration::from_secs_f64(f64::from(ticks) / TICKS_PER_SECOND))
    };
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        user: ticks(11)?,
        system: ticks(12)?,
    })
}

/// Memory of these processes, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// Resident, summed: pages shared by two processes count twice.
    pub rss_bytes: u64,
    /// Resident, shared pages divided among those who share them.
    pub pss_bytes: u64,
}

/// What of these processes is in memory now.
///
/// # Errors
/// One of them is gone.
pub fn memory(pids: &[u32]) -> Result<Memory> {
    let mut sum = Memory::default();
    for pid in pids {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        let bytes = |name| {
            kilobytes(&text, name)
                .map(|kb| kb * 1024)
                .with_context(|| path.clone())
        };
        sum.rss_bytes += bytes("Rss:")?;
        sum.pss_bytes += bytes("Pss:")?;
    }
    Ok(sum)
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_any_name() {
        let text = "7 (a) b (c) S 3 7 7 0 -1 4194560 1 0 0 0 150 25 0 0 20 0 1 0 5 6 7";
        let expected = Stat {
            parent: 3,
            user: Duration::from_millis(1_500),
            system: Duration::from_millis(250),
        };
        assert_eq!(parse_stat(text), Some(expected));
        assert_eq!(parse_stat("7 (a) S 3"), None);
        assert_eq!(parse_stat("7 (a"), None);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let text = "55e0-7ffc ---p 00000000 00:00 0 [rollup]\nRss:     12 kB\nPss:   7 kB\nPss_Anon: 3 kB\n";
        assert_eq!(kilobytes(text, "Rss:"), Some(12));
        assert_eq!(kilobytes(text, "Pss:"), Some(7));
        assert_eq!(kilobytes(text, "Swap:"), None);
    }

    #[test]
    fn a_process_and_its_children_end_together() {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "trap 'kill $child; exit' TERM; sleep 600 & child=$!; echo; wait",
        ]);
        command.stdout(Stdio::piped());
        let mut process = Process::start(command).unwrap();
        let mut ready = [0];
        std::io::Read::read_exact(&mut process.stdout().unwrap(), &mut ready).unwrap();
        let tree = process.tree().unwrap();
        assert_eq!(tree.len(), 2, "{tree:?}");
        assert!(memory(&tree).unwrap().rss_bytes > 0);
        cpu(&tree).unwrap();
        drop(process);
        assert!(cpu(&tree).is_err());
    }
}
