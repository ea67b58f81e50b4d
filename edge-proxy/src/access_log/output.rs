//! Where lines of the access log go: a file that is put aside when it is full, standard output, or syslog.
//!
//! One task takes what workers have written and has a thread for blocking work write it. A disk that is slow, full or gone
//! costs lines, which are counted; the file is opened again for each batch until it can be written.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::UdpSocket;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::config::Config;
use crate::config::telemetry::{AccessLogConfig, Output, Syslog};
use crate::spool::{Part, Spool};

/// Lines gather this long before they are written.
const GATHER_TIME: Duration = Duration::from_millis(200);
/// How long a syslog of this node may take to make room: its socket holds a dozen datagrams, a batch has hundreds.
const SYSLOG_WAIT_MAX: Duration = Duration::from_secs(1);
/// `local0.info` (RFC 5424, section 6.2.1).
const PRIORITY: u8 = 16 * 8 + 6;

/// Where lines go.
#[derive(Debug)]
pub enum Place {
    /// A file.
    File(LogFile),
    /// Standard output.
    Stdout,
    /// Syslog; what is said of this node before each line.
    Syslog(Syslog, String, Option<Socket>),
}

/// A file that is put aside when it is full.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    len_max: u64,
    kept: u32,
    open: Option<(File, u64)>,
}

/// The way to a syslog. It waits for a second at most, in a thread that nothing else waits for.
#[derive(Debug)]
pub enum Socket {
    /// On this node.
    Unix(UnixDatagram),
    /// Elsewhere.
    Udp(UdpSocket),
}

impl Place {
    /// As the configuration says. Nothing is opened yet.
    pub fn new(log: &AccessLogConfig, config: &Config) -> Place {
        let in_data_dir = || config.data_dir.join("access.log");
        match (log.output, Syslog::parse(&log.syslog)) {
            (Output::Stdout, _) => Place::Stdout,
            (Output::Syslog, Some(syslog)) => {
                let about = format!(
                    "{} isobar-proxy {} access -",
                    config.node,
                    std::process::id()
                );
                Place::Syslog(syslog, about, None)
            }
            _ => Place::File(LogFile {
                path: log.file.clone().unwrap_or_else(in_data_dir),
                len_max: log.file_len_max,
                kept: log.files_kept,
                open: None,
            }),
        }
    }

    /// Writes whole lines; how many were not written, and why.
    fn write(&mut self, lines: &[u8]) -> Result<(), (u64, io::Error)> {
        let all = |error| (count(lines), error);
        match self {
            Place::File(file) => file.write(lines),
            Place::Stdout => {
                let mut stdout = io::stdout().lock();
                let written = stdout.write_all(lines).and_then(|()| stdout.flush());
                written.map_err(all)
            }
            Place::Syslog(syslog, about, socket) => {
                if socket.is_none() {
                    *socket = Some(Socket::open(syslog).map_err(all)?);
                }
                let sent = socket.as_ref().map_or(Ok(()), |s| s.send(about, lines));
                // It may have been opened anew by another syslog.
                sent.inspect_err(|_| *socket = None)
            }
        }
    }
}

fn count(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}

/// Writes what gathers in `spool` until that is closed, and then what is left.
pub async fn run(mut place: Place, spool: Arc<Spool>) {
    let mut spares = vec![Vec::new(); spool.workers()];
    let mut is_well = true;
    loop {
        let goes_on = spool.gather(GATHER_TIME).await;
        let parts: Vec<Part> = spares
            .iter_mut()
            .enumerate()
            .map(|(worker, spare)| spool.take(worker, std::mem::take(spare)))
            .collect();
        let written = tokio::task::spawn_blocking(move || {
            let mut outcomes = Vec::with_capacity(parts.len());
            for part in &parts {
                outcomes.push(match part.bytes.is_empty() {
                    true => Ok(()),
                    false => place.write(&part.bytes),
                });
            }
            (place, parts, outcomes)
        });
        let Ok((back, parts, outcomes)) = written.await else {
            return;
        };
        place = back;
        for ((part, outcome), spare) in parts.into_iter().zip(outcomes).zip(&mut spares) {
            let lost = outcome.as_ref().map_or_else(|(lost, _)| *lost, |()| 0);
            spool.note(part.entries.saturating_sub(lost), true);
            spool.note(lost, false);
            match outcome {
                Err((_, error)) if is_well => {
                    tracing::warn!(%error, "the access log cannot be written; lines that are lost are counted");
                    is_well = false;
                }
                Ok(()) if !is_well && part.entries > 0 => {
                    tracing::info!("the access log is written again");
                    is_well = true;
                }
                _ => {}
            }
            *spare = part.bytes;
        }
        if !goes_on {
            return;
        }
    }
}

impl LogFile {
    fn write(&mut self, mut lines: &[u8]) -> Result<(), (u64, io::Error)> {
        let left = |lines: &[u8], error| (count(lines), error);
        self.follow();
        while !lines.is_empty() {
            let len_max = self.len_max;
            let (mut file, len) = self.opened().map_err(|error| left(lines, error))?;
            let room = usize::try_from(len_max.saturating_sub(len)).unwrap_or(usize::MAX);
            let fits = match lines.len() <= room {
                true => Some(lines.len()),
                false => memchr::memrchr(b'\n', &lines[..room]).map(|at| at + 1),
            };
            // A line that is longer than a file has one of its own.
            let alone = || memchr::memchr(b'\n', lines).map_or(lines.len(), |at| at + 1);
            let Some(fits) = fits.or_else(|| (len == 0).then(alone)) else {
                self.put_aside().map_err(|error| left(lines, error))?;
                continue;
            };
            if let Err(error) = file.write_all(&lines[..fits]) {
                // Half a line would spoil the next one.
                let _ = file.set_len(len);
                self.open = None;
                return Err(left(lines, error));
            }
            if let Some((_, len)) = &mut self.open {
                *len += fits as u64;
            }
            lines = &lines[fits..];
        }
        Ok(())
    }

    /// Lets go of a file that somebody moved or removed.
    fn follow(&mut self) {
        let is_same = |file: &File| {
            let (own, there) = (file.metadata()?, std::fs::metadata(&self.path)?);
            io::Result::Ok((own.dev(), own.ino()) == (there.dev(), there.ino()))
        };
        if let Some((file, _)) = &self.open
            && !is_same(file).unwrap_or(false)
        {
            self.open = None;
        }
    }

    fn opened(&mut self) -> io::Result<(&File, u64)> {
        let (file, len) = match self.open.take() {
            Some(open) => open,
            None => {
                let file = OpenOptions::new()
                    .append(true)
                    .create(true)
                    .open(&self.path)?;
                let len = file.metadata()?.len();
                (file, len)
            }
        };
        let (file, len) = self.open.insert((file, len));
        Ok((file, *len))
    }

    /// Renames the file and those put aside before; the oldest goes.
    fn put_aside(&mut self) -> io::Result<()> {
        self.open = None;
        if self.kept == 0 {
            return std::fs::remove_file(&self.path);
        }
        for number in (1..self.kept).rev() {
            let (from, to) = (aside(&self.path, number), aside(&self.path, number + 1));
            match std::fs::rename(from, to) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        std::fs::rename(&self.path, aside(&self.path, 1))
    }
}

/// `access.log.1`
fn aside(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

impl Socket {
    fn open(syslog: &Syslog) -> io::Result<Socket> {
        match syslog {
            Syslog::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.set_write_timeout(Some(SYSLOG_WAIT_MAX))?;
                socket.connect(path)?;
                Ok(Socket::Unix(socket))
            }
            Syslog::Udp(address) => {
                let any = match address.is_ipv4() {
                    true => "0.0.0.0:0",
                    false => "[::]:0",
                };
                let socket = UdpSocket::bind(any)?;
                socket.set_nonblocking(true)?;
                socket.connect(address)?;
                Ok(Socket::Udp(socket))
            }
        }
    }

    /// One datagram a line (RFC 5424, section 6). Who makes no room in time gets no more of these lines.
    fn send(&self, about: &str, lines: &[u8]) -> Result<(), (u64, io::Error)> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let time = super::time(now.map_or(0, |now| now.as_micros()));
        let mut failed = None;
        let mut left = count(lines);
        let lines = lines
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty());
        for line in lines {
            left = left.saturating_sub(1);
            let mut message = format!("<{PRIORITY}>1 {time} {about} ").into_bytes();
            message.extend_from_slice(line);
            let sent = match self {
                Socket::Unix(socket) => socket.send(&message),
                Socket::Udp(socket) => socket.send(&message),
            };
            match sent {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let lost = failed.map_or(0, |(lost, _)| lost);
                    return Err((lost + 1 + left, error));
                }
                Err(error) => {
                    let (lost, first) = failed.unwrap_or((0, error));
                    failed = Some((lost + 1, first));
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests;
