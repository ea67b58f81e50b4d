//! The gRPC endpoint behind every proxy: answers every unary call with the message that it knows, status 0.
//!
//! h2load counts an answer of HTTP status 200 whatever its gRPC status, so the endpoint counts the calls that reached it:
//! a proxy that refuses calls by trailers is found out.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

/// The host that is called.
pub const HOST: &str = "grpc.example";
/// The method that is called.
pub const PATH: &str = "/bench.Small/Get";
/// A message of 16 bytes, framed: not compressed, its length, itself.
pub const MESSAGE: &[u8] = b"\x00\x00\x00\x00\x10sixteen bytes...";

/// The endpoint.
#[derive(Debug, Clone)]
pub struct Backend {
    /// Where it listens.
    pub address: SocketAddr,
    served: Arc<AtomicU64>,
}

impl Backend {
    /// Starts it in the current runtime, for as long as that lives.
    ///
    /// # Errors
    /// No port to listen on.
    pub async fn start() -> Result<Backend> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let backend = Backend {
            address: listener.local_addr()?,
            served: Arc::default(),
        };
        let served = backend.served.clone();
        tokio::spawn(async move {
            // As of the backend for HTTP/1.1: neither a failed accept nor a broken connection ends it.
            loop {
                if let Ok((stream, _)) = listener.accept().await {
                    let _ = stream.set_nodelay(true);
                    let served = served.clone();
                    let answer = service_fn(move |call| answer(call, served.clone()));
                    let http2 = http2::Builder::new(TokioExecutor::new());
                    tokio::spawn(http2.serve_connection(TokioIo::new(stream), answer));
                } else {
                    tokio::task::yield_now().await;
                }
            }
        });
        Ok(backend)
    }

    /// Calls that it has answered.
    pub fn served(&self) -> u64 {
        self.served.load(Relaxed)
    }
}

async fn answer(
    call: Request<Incoming>,
    served: Arc<AtomicU64>,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, hyper::Error> {
    call.into_body().collect().await?;
    served.fetch_add(1, Relaxed);
    let trailers = async {
        let status = HeaderValue::from_static("0");
        Some(Ok(HeaderMap::from_iter([(
            "grpc-status".parse().ok()?,
            status,
        )])))
    };
    let body = Full::new(Bytes::from_static(MESSAGE)).with_trailers(trailers);
    let mut response = Response::new(body);
    let kind = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}
