//! A few JSON requests to the controller's REST API, one connection each.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::error::ClusterError;

/// Longest answer that is read, in bytes.
const ANSWER_LEN_MAX: usize = 16 << 20;
/// Longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Sends a request and reads a JSON answer; `Value::Null` for an empty one.
///
/// # Errors
/// No connection, no answer in time, a status that is no success, or an answer that is not JSON.
pub async fn send(
    to: SocketAddr,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Value, ClusterError> {
    let failed = |problem: String| ClusterError::Rest {
        method: method.to_string(),
        path: path.to_owned(),
        problem,
    };
    let exchange = async {
        let socket = TcpStream::connect(to)
            .await
            .map_err(|e| failed(e.to_string()))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
            .await
            .map_err(|e| failed(e.to_string()))?;
        let text = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(&method)
            .uri(path)
            .header("host", to.to_string())
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(text)))
            .map_err(|e| failed(e.to_string()))?;
        let answer = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_LEN_MAX)
                .collect()
                .await;
            Ok::<_, hyper::Error>((status, body.map(|body| body.to_bytes())))
        };
        // The connection must be driven; when it breaks, the sender says so.
        let drive = async {
            let _ = connection.await;
            std::future::pending::<Infallible>().await
        };
        let (status, body) = tokio::select! {
            answer = answer => answer.map_err(|e| failed(e.to_string()))?,
            never = drive => match never {},
        };
        let body = body.map_err(|e| failed(e.to_string()))?;
        if !status.is_success() {
            let text: String = String::from_utf8_lossy(&body).chars().take(400).collect();
            return Err(failed(format!("{status}: {text}")));
        }
        match body.is_empty() {
            true => Ok(Value::Null),
            false => serde_json::from_slice(&body).map_err(|e| failed(e.to_string())),
        }
    };
    let answer = timeout(ANSWER_MAX, exchange).await;
    answer.unwrap_or_else(|_| Err(failed(format!("no answer in {} s", ANSWER_MAX.as_secs()))))
}
