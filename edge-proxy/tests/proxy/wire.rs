//! Clients and endpoints on bare sockets: every byte is the test's own.

use std::net::SocketAddr;

use isobar_edge_proxy::config::Config;
use isobar_mesh_api::message::LocalService;
use isobar_mesh_api::snapshot::Endpoint;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::support::{HOST, TestProxy, config, service};

/// One end of a connection.
pub struct Wire {
    pub stream: TcpStream,
    seen: Vec<u8>,
}

/// An answer as it came: status, head, body.
pub type Answer = (u16, String, String);

impl Wire {
    pub fn new(stream: TcpStream) -> Wire {
        stream.set_nodelay(true).unwrap();
        Wire {
            stream,
            seen: Vec::new(),
        }
    }

    pub async fn connect(address: SocketAddr) -> Wire {
        Wire::new(TcpStream::connect(address).await.unwrap())
    }

    /// Sends, unless the other end does not want any more.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// The next bytes, until this text has come.
    pub async fn until(&mut self, text: &str) -> String {
        loop {
            let found = self
                .seen
                .windows(text.len())
                .position(|w| w == text.as_bytes());
            if let Some(at) = found {
                return self.take(at + text.len());
            }
            let read = self.stream.read_buf(&mut self.seen).await;
            let seen = String::from_utf8_lossy(&self.seen);
            assert!(matches!(read, Ok(1..)), "no {text:?} in {seen:?}: {read:?}");
        }
    }

    pub async fn exactly(&mut self, len: usize) -> Vec<u8> {
        while self.seen.len() < len {
            let read = self.stream.read_buf(&mut self.seen).await.unwrap();
            assert!(read > 0, "{} of {len} bytes came", self.seen.len());
        }
        let rest = self.seen.split_off(len);
        std::mem::replace(&mut self.seen, rest)
    }

    fn take(&mut self, len: usize) -> String {
        let rest = self.seen.split_off(len);
        let taken = std::mem::replace(&mut self.seen, rest);
        String::from_utf8_lossy(&taken).into_owned()
    }

    /// The next head.
    pub async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    /// The next answer, whose head says how long it is.
    pub async fn answer(&mut self) -> Answer {
        let head = self.head().await;
        let status = head[9..12].parse().unwrap();
        let len = header(&head, "content-length").map_or(0, |len| len.parse().unwrap());
        let body = self.exactly(len).await;
        (status, head, String::from_utf8_lossy(&body).into_owned())
    }

    /// What comes until the other end closes, or resets.
    pub async fn rest(&mut self) -> String {
        while matches!(self.stream.read_buf(&mut self.seen).await, Ok(1..)) {}
        self.take(self.seen.len())
    }

    /// Says that nothing more will be sent.
    pub async fn finish(&mut self) {
        self.stream.shutdown().await.unwrap();
    }
}

/// A header's value in a head.
pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(": ")?;
        found.eq_ignore_ascii_case(name).then_some(value)
    })
}

/// An endpoint that does with each connection what the test says.
pub struct WireEndpoint {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl WireEndpoint {
    pub async fn start<F>(serve: impl Fn(Wire) -> F + Send + 'static) -> WireEndpoint
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(Wire::new(stream)));
            }
        });
        WireEndpoint { address, task }
    }

    /// One that says the same to every head.
    pub async fn saying(bytes: impl Into<Vec<u8>>) -> WireEndpoint {
        let bytes = bytes.into();
        WireEndpoint::start(move |mut wire| {
            let bytes = bytes.clone();
            async move {
                wire.head().await;
                wire.send(&bytes).await;
                wire.rest().await;
            }
        })
        .await
    }
}

impl Drop for WireEndpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A proxy that stands alone before one endpoint with four workers.
pub async fn before(address: SocketAddr, change: impl FnOnce(&mut Config)) -> TestProxy {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config("a", &dir);
    config.services.push(LocalService {
        service: service(),
        hosts: vec![HOST.to_owned()],
        endpoints: vec![Endpoint {
            address: address.to_string(),
            workers: 4,
        }],
        capacity_rps: None,
    });
    change(&mut config);
    TestProxy::start(config, dir).await
}

/// How many messages a proxy refused, by side and reason.
pub async fn refused(proxy: &TestProxy, side: &str, reason: &str) -> u64 {
    let name = "isobar_proxy_messages_refused_total";
    let line = format!("{name}{{side=\"{side}\",reason=\"{reason}\"}} ");
    let (_, metrics) = proxy.admin("GET", "/metrics").await;
    let count = metrics.lines().find_map(|l| l.strip_prefix(&*line));
    count.map_or(0, |count| count.parse().unwrap())
}

/// Waits until a gauge or counter of the proxy has this value.
pub async fn shows(proxy: &TestProxy, line: &str) {
    loop {
        let (_, metrics) = proxy.admin("GET", "/metrics").await;
        if metrics.lines().any(|l| l == line) {
            return;
        }
        tokio::task::yield_now().await;
    }
}
