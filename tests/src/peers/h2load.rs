//! Load over HTTP/2 or TLS by h2load of nghttp2, on the load core like everything that this program starts.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::grpc;
use super::process::Process;

/// Beyond its own time, h2load may take this long to end.
const END_WAIT_MAX: Duration = Duration::from_secs(10);

/// What h2load speaks.
#[derive(Debug, Clone, Copy)]
pub enum Load {
    /// HTTP/2 with prior knowledge.
    Http2 {
        /// Streams at once on each connection.
        streams: usize,
    },
    /// Unary gRPC calls, HTTP/2 with prior knowledge.
    Grpc {
        /// Calls at once on each connection.
        streams: usize,
    },
    /// HTTP/1.1 over TLS, one request at a time on each connection.
    Tls,
}

/// Whether h2load can be started here.
pub fn is_installed() -> bool {
    let mut command = Command::new("h2load");
    command
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Loads `address` for about `length` and returns how many answers of status 200 came back.
///
/// # Errors
/// Not installed, a request failed, or it did not end.
pub async fn run(
    address: SocketAddr,
    load: Load,
    connections: usize,
    length: Duration,
) -> Result<u64> {
    let dir = tempfile::tempdir()?;
    let out = dir.path().join("out");
    let mut command = Command::new("h2load");
    command.args(["-c", &connections.to_string()]);
    command.args(["-D", &format!("{}ms", length.as_millis())]);
    match load {
        Load::Http2 { streams } => command
            .args(["-m", &streams.to_string()])
            .arg(format!("http://{address}/128")),
        Load::Grpc { streams } => {
            let message = dir.path().join("message");
            fs::write(&message, grpc::MESSAGE)?;
            command
                .args(["-m", &streams.to_string(), "-d"])
                .arg(message)
                .args(["-H", "content-type: application/grpc", "-H", "te: trailers"])
                .args(["-H", &format!(":authority: {}", grpc::HOST)])
                .arg(format!("http://{address}{}", grpc::PATH))
        }
        Load::Tls => command.args(["--h1", &format!("https://{address}/128")]),
    };
    let file = File::create(&out)?;
    command.stdout(file.try_clone()?).stderr(file);
    let mut process = Process::start(command).context("apt-get install nghttp2-client")?;
    let started = Instant::now();
    // The backend shares our thread: look now and then, never block.
    let status = loop {
        if let Some(status) = process.ended()? {
            break status;
        }
        ensure!(
            started.elapsed() < length + END_WAIT_MAX,
            "h2load does not end"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let text = fs::read_to_string(&out)?;
    ensure!(status.success(), "h2load: {status}: {}", text.trim());
    parse(&text)
}

/// Reads `status codes: <n> 2xx, …` and `requests: …, <n> failed, …`.
fn parse(text: &str) -> Result<u64> {
    let field = |line: &str, name: &str| -> Result<u64> {
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix(line))
            .with_context(|| format!("no {line:?}"))?;
        let field = line.split(',').find_map(|f| f.trim().strip_suffix(name));
        let number = field.with_context(|| format!("no {name:?}"))?.trim();
        number.parse().with_context(|| format!("{number:?}"))
    };
    let answered = field("status codes:", "2xx")?;
    let failed = field("requests:", "failed")?;
    if failed > 0 || answered == 0 {
        bail!("{failed} requests failed, {answered} were answered with 200");
    }
    Ok(answered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read() {
        let text = |failed: u32| {
            format!(
                "finished in 2.00s, 13273.00 req/s, 4.05MB/s\n\
                 requests: 26546 total, 26802 started, 26546 done, 26546 succeeded, {failed} failed, 0 errored, 0 timeout\n\
                 status codes: 26546 2xx, 0 3xx, 0 4xx, 0 5xx\n"
            )
        };
        assert_eq!(parse(&text(0)).unwrap(), 26_546);
        assert!(parse(&text(1)).is_err());
        assert!(parse("").is_err());
    }
}
