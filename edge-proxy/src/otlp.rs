//! The way to a collector: OTLP over HTTP or HTTPS, in JSON (OpenTelemetry Protocol, "OTLP/HTTP").
//!
//! One task per signal takes what has gathered, wraps it as the protocol wants and posts it. A collector that is slow, hangs or
//! is gone costs what finds no room meanwhile, which is counted; no request waits for this task.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::uri::Scheme;
use isobar_mesh_api::names::NodeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::json::{self, attribute};
use crate::roots::{Roots, RootsError, Wire};
use crate::spool::Spool;

/// What is gathered before it is sent.
const GATHER_TIME: Duration = Duration::from_secs(1);
/// A batch that the collector does not take now is offered to it so often.
const TRIES_MAX: u32 = 4;
/// Shortest pause before it is offered again; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Ports of a collector whose address has none, without TLS and with it.
const PORTS: (u16, u16) = (4318, 443);
/// Of an answer so much is read, in bytes: its first line.
const STATUS_LINE_LEN: usize = 12;

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Spans.
    Traces,
    /// Lines of the access log.
    Logs,
}

/// Where it is sent.
#[derive(Debug)]
pub struct Collector {
    host: String,
    port: u16,
    path: String,
    wait_max: Duration,
    /// By what it is believed, over TLS.
    roots: Option<Roots>,
}

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error)]
enum PostError {
    #[error("the connection to the collector failed")]
    Connection(#[from] std::io::Error),
    #[error("the collector is not believed")]
    Tls(#[from] RootsError),
    #[error("the collector did not answer in time")]
    TooSlow,
    #[error("the collector wants it later: status {0}")]
    Later(u16),
    #[error("the collector refuses it: status {0}")]
    Refused(u16),
}

impl Collector {
    /// One at `http://host:port` or `https://host:port`, which is given so long for each batch; over TLS it is believed by the
    /// roots in this file, or by the system's.
    pub fn new(url: &str, ca_file: Option<PathBuf>, wait_max: Duration) -> Collector {
        // Checked when the configuration was read.
        let uri: Uri = url.parse().unwrap_or_default();
        let is_tls = uri.scheme() == Some(&Scheme::HTTPS);
        let usual = if is_tls { PORTS.1 } else { PORTS.0 };
        Collector {
            host: uri.host().unwrap_or_default().to_owned(),
            port: uri.port_u16().unwrap_or(usual),
            path: uri.path().trim_end_matches('/').to_owned(),
            wait_max,
            roots: is_tls.then(|| Roots::new(ca_file)),
        }
    }

    fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    async fn connect(&self) -> Result<Box<dyn Wire>, PostError> {
        let tcp = TcpStream::connect(self.authority()).await?;
        match &self.roots {
            None => Ok(Box::new(tcp)),
            Some(roots) => Ok(Box::new(roots.connect(&self.host, tcp).await?)),
        }
    }

    /// Posts one batch.
    async fn post(&self, path: &str, body: &[u8]) -> Result<(), PostError> {
        let exchange = async {
            let mut stream = self.connect().await?;
            let head = format!(
                "POST {}{path} HTTP/1.1\r\nhost: {}\r\nuser-agent: isobar\r\ncontent-type: application/json\r\n\
                 content-length: {}\r\nconnection: close\r\n\r\n",
                self.path,
                self.authority(),
                body.len()
            );
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(body).await?;
            stream.flush().await?;
            let mut line = [0; STATUS_LINE_LEN];
            stream.read_exact(&mut line).await?;
            Ok::<_, PostError>(status(&line))
        };
        match tokio::time::timeout(self.wait_max, exchange).await {
            Err(_) => Err(PostError::TooSlow),
            Ok(Err(error)) => Err(error),
            Ok(Ok(200..300)) => Ok(()),
            // What the protocol calls retryable.
            Ok(Ok(status @ (429 | 502 | 503 | 504))) => Err(PostError::Later(status)),
            Ok(Ok(status)) => Err(PostError::Refused(status)),
        }
    }
}

/// The status of a status line; 0 = it is none.
fn status(line: &[u8; STATUS_LINE_LEN]) -> u16 {
    let code = line
        .strip_prefix(b"HTTP/1.")
        .and_then(|rest| rest.get(2..5));
    let code = code.and_then(|code| std::str::from_utf8(code).ok());
    code.and_then(|code| code.parse().ok()).unwrap_or(0)
}

/// Sends what gathers in `spool` until that is closed, and then what is left, once.
pub async fn run(signal: Signal, collector: Collector, node: NodeId, spool: Arc<Spool>) {
    let mut spares = vec![Vec::new(); spool.workers()];
    let mut is_well = true;
    loop {
        let goes_on = spool.gather(GATHER_TIME).await;
        for (worker, spare) in spares.iter_mut().enumerate() {
            let part = spool.take(worker, std::mem::take(spare));
            if part.entries > 0 {
                let body = wrap(signal, &node, &part.bytes);
                let sent = offer(&collector, signal, &body, &spool).await;
                spool.note(part.entries, sent.is_ok());
                match &sent {
                    Ok(()) if !is_well => tracing::info!("the collector takes what it is sent"),
                    Err(error) if is_well => {
                        let error = crate::chain(error);
                        tracing::warn!(
                            error,
                            collector = collector.authority(),
                            "a batch was lost; later ones are counted"
                        );
                    }
                    _ => {}
                }
                is_well = sent.is_ok();
            }
            *spare = part.bytes;
        }
        if !goes_on {
            return;
        }
    }
}

/// Offers a batch until it is taken, refused, or was offered often enough.
async fn offer(
    collector: &Collector,
    signal: Signal,
    body: &[u8],
    spool: &Spool,
) -> Result<(), PostError> {
    let path = match signal {
        Signal::Traces => "/v1/traces",
        Signal::Logs => "/v1/logs",
    };
    let mut pause = PAUSE_MIN;
    for _ in 1..TRIES_MAX {
        match collector.post(path, body).await {
            Ok(()) => return Ok(()),
            Err(error @ PostError::Refused(_)) => return Err(error),
            Err(error) if spool.is_closed() => return Err(error),
            Err(_) => {}
        }
        // Half of it by chance: after an outage not all proxies come back at once.
        let part = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
        tokio::select! {
            () = tokio::time::sleep(part) => {}
            () = spool.closed() => {}
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
    collector.post(path, body).await
}

/// Entries, each with a comma before it, as one message.
fn wrap(signal: Signal, node: &NodeId, entries: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len() + 512);
    let (outer, inner, list) = match signal {
        Signal::Traces => ("resourceSpans", "scopeSpans", "spans"),
        Signal::Logs => ("resourceLogs", "scopeLogs", "logRecords"),
    };
    let _ = write!(out, "{{\"{outer}\":[{{\"resource\":{{\"attributes\":[");
    attribute(&mut out, "service.name", "isobar-proxy".into());
    attribute(&mut out, "service.instance.id", node.as_str().into());
    attribute(
        &mut out,
        "service.version",
        env!("CARGO_PKG_VERSION").into(),
    );
    attribute(&mut out, "host.name", node.as_str().into());
    let _ = write!(out, "]}},\"{inner}\":[{{\"scope\":{{\"name\":");
    json::string(&mut out, b"isobar-proxy");
    let _ = write!(out, "}},\"{list}\":[");
    out.extend_from_slice(entries.strip_prefix(b",").unwrap_or(entries));
    out.extend_from_slice(b"]}]}]}");
    out
}
