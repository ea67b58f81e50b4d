//! A controller in this process, on free ports and a directory of its own.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use isobar_controller::config::Config;
use isobar_controller::program::{Addresses, Program};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// Longest that anything here may take on the busiest machine; no test depends on it being short.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Mesh {
    pub directory: TempDir,
    pub program: Program,
    pub shutdown: CancellationToken,
}

pub fn config(directory: &Path) -> Config {
    Config {
        rest_listen: "127.0.0.1:0".parse().unwrap(),
        stream_listen: "127.0.0.1:0".parse().unwrap(),
        rest_open: true,
        enrol_open: true,
        period_ms: 50,
        drain_ms: 60_000,
        ..Config::new(directory.join("data"))
    }
}

impl Mesh {
    pub async fn start() -> Mesh {
        Mesh::start_in(tempfile::tempdir().unwrap()).await
    }

    pub async fn start_in(directory: TempDir) -> Mesh {
        let config = config(directory.path());
        Mesh::start_with(directory, config).await
    }

    pub async fn start_with(directory: TempDir, config: Config) -> Mesh {
        let shutdown = CancellationToken::new();
        let program = Program::start(config, shutdown.clone()).await.unwrap();
        Mesh {
            directory,
            program,
            shutdown,
        }
    }

    pub fn addresses(&self) -> Addresses {
        self.program.addresses()
    }

    pub fn file(&self, name: &str) -> String {
        read(self.directory.path(), name)
    }

    pub fn door(&self) -> Door {
        Door::new(self.directory.path(), self.addresses())
    }

    pub async fn rest(&self, method: Method, path: &str, body: &str) -> (StatusCode, Value) {
        rest(self.addresses(), method, path, body).await
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        let ended = tokio::time::timeout(PATIENCE, self.program.wait()).await;
        ended.expect("the controller did not end").unwrap();
    }
}

/// What a proxy must know to find a controller.
#[derive(Clone)]
pub struct Door {
    pub addresses: Addresses,
    pub roots_pem: String,
    pub token: String,
}

impl Door {
    pub fn new(directory: &Path, addresses: Addresses) -> Door {
        Door {
            addresses,
            roots_pem: read(directory, "ca.pem"),
            token: read(directory, "enrol-token").trim().to_owned(),
        }
    }

    /// Reads `/metrics` until the sample is there.
    pub async fn until_metric(&self, sample: &str) {
        let seen = async {
            loop {
                let (_, text) = rest(self.addresses, Method::GET, "/metrics", "").await;
                let text = text.as_str().unwrap_or_default().to_owned();
                if text.lines().any(|line| line == sample) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        let seen = tokio::time::timeout(PATIENCE, seen).await;
        seen.unwrap_or_else(|_| panic!("{sample:?} never appeared"));
    }
}

fn read(directory: &Path, name: &str) -> String {
    std::fs::read_to_string(directory.join("data").join(name)).unwrap()
}

/// One request; the body is sent as YAML, which JSON is too.
pub async fn rest(
    addresses: Addresses,
    method: Method,
    path: &str,
    body: &str,
) -> (StatusCode, Value) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", addresses.rest.to_string())
        .header("content-type", "application/yaml")
        .body(Full::new(Bytes::from(body.to_owned())))
        .unwrap();
    send(addresses, request).await
}

/// The response; what is not JSON comes as a string.
pub async fn send(addresses: Addresses, request: Request<Full<Bytes>>) -> (StatusCode, Value) {
    let (head, value) = exchange(addresses, request).await;
    (head.status, value)
}

/// The response with its headers.
pub async fn exchange(
    addresses: Addresses,
    request: Request<Full<Bytes>>,
) -> (http::response::Parts, Value) {
    let socket = TcpStream::connect(addresses.rest).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await.unwrap();
    let (head, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    drop(sender);
    let _ = connection.await.unwrap();
    // The dashboard is compressed.
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
    (head, value)
}
