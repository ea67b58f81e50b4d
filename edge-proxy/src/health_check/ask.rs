//! One question to one endpoint, on a connection of its own.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use isobar_mesh_api::resource::traffic_policy::{HealthCheck, HealthProtocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::headers;

/// Longest first line of an HTTP answer that is read, in bytes; a longer one is a bad answer.
const STATUS_LINE_LEN_MAX: usize = 256;
/// Longest message of a gRPC answer, in bytes; a longer one is a bad answer.
const MESSAGE_LEN_MAX: usize = 1024;
/// `grpc.health.v1.HealthCheckResponse.SERVING`.
const SERVING: u64 = 1;

/// Why there is no answer. An answer that says "ill" is none of these.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No connection, or it broke.
    #[error("the connection failed")]
    Connection(#[from] std::io::Error),
    /// The policy's host makes no request.
    #[error("the question cannot be put")]
    Question(#[from] http::Error),
    /// No HTTP/2 answer.
    #[error("no HTTP/2 answer")]
    Http2(#[from] hyper::Error),
    /// The answer's body broke off or is too long.
    #[error("the answer's message cannot be read")]
    Message(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Whether the endpoint at `host:port` says that it is well.
///
/// # Errors
/// There is no answer.
pub async fn ask(address: &str, check: &HealthCheck) -> Result<bool, AskError> {
    let stream = TcpStream::connect(address).await?;
    let host = match check.host.as_str() {
        "" => address,
        host => host,
    };
    match check.protocol {
        HealthProtocol::Tcp => Ok(true),
        HealthProtocol::Http => http(stream, host, &check.path).await,
        HealthProtocol::Grpc => grpc(stream, host, &check.grpc_service).await,
    }
}

/// `GET path`; only the answer's first line is looked at.
async fn http(mut stream: TcpStream, host: &str, path: &str) -> Result<bool, AskError> {
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: isobar-health\r\naccept: */*\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut seen = BytesMut::with_capacity(STATUS_LINE_LEN_MAX);
    while !seen.contains(&b'\n') && seen.len() < STATUS_LINE_LEN_MAX {
        if stream.read_buf(&mut seen).await? == 0 {
            break;
        }
    }
    Ok(is_success(&seen))
}

/// Whether an answer begins with a status line of 2xx (RFC 9112, section 4).
fn is_success(answer: &[u8]) -> bool {
    let Some(rest) = answer.strip_prefix(b"HTTP/1.") else {
        return false;
    };
    matches!(rest, [b'0' | b'1', b' ', b'2', a, b, b' ' | b'\r' | b'\n', ..]
        if a.is_ascii_digit() && b.is_ascii_digit())
}

/// `grpc.health.v1.Health/Check` (the gRPC health checking protocol).
async fn grpc(stream: TcpStream, host: &str, service: &str) -> Result<bool, AskError> {
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .handshake(TokioIo::new(stream))
        .await?;
    let exchange = async {
        let request = Request::post(format!("http://{host}/grpc.health.v1.Health/Check"))
            .header(http::header::CONTENT_TYPE, "application/grpc")
            .header(http::header::TE, "trailers")
            .body(Full::new(question(service)))?;
        let response = sender.send_request(request).await?;
        let (head, body) = response.into_parts();
        let refused = |status: &http::HeaderValue| status != "0";
        if head.status != StatusCode::OK
            || head.headers.get(headers::GRPC_STATUS).is_some_and(refused)
        {
            return Ok(false);
        }
        let body = Limited::new(body, MESSAGE_LEN_MAX).collect();
        let body = body.await.map_err(AskError::Message)?;
        let ended_well = body
            .trailers()
            .and_then(|t| t.get(headers::GRPC_STATUS))
            .is_none_or(|status| status == "0");
        Ok(ended_well && status(body.to_bytes()) == Some(SERVING))
    };
    tokio::select! {
        answer = exchange => answer,
        ended = connection => {
            ended?;
            Ok(false)
        }
    }
}

/// `HealthCheckRequest { service }` as a gRPC message: a flag, a length, then field 1.
fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut left = service.len();
        while left >= 0x80 {
            message.put_u8(left as u8 | 0x80);
            left >>= 7;
        }
        message.put_u8(left as u8);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put(message);
    framed.freeze()
}

/// `status` of a `HealthCheckResponse`; `None` when this is no such message.
fn status(mut framed: Bytes) -> Option<u64> {
    let is_compressed = framed.try_get_u8().ok()? != 0;
    let len = framed.try_get_u32().ok()? as usize;
    if is_compressed || len != framed.len() {
        return None;
    }
    if framed.is_empty() {
        return Some(0);
    }
    if framed.try_get_u8().ok()? != 0x08 {
        return None;
    }
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let byte = framed.try_get_u8().ok()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_status_of_2xx_is_well() {
        let cases: [(&[u8], bool); 9] = [
            (b"HTTP/1.1 200 OK\r\n", true),
            (b"HTTP/1.0 204\r\n", true),
            (b"HTTP/1.1 299 \r\n", true),
            (b"HTTP/1.1 301 Moved\r\n", false),
            (b"HTTP/1.1 503 Unavailable\r\n", false),
            (b"HTTP/1.1 2", false),
            (b"HTTP/1.1 2000 OK\r\n", false),
            (b"SSH-2.0-x\r\n", false),
            (b"", false),
        ];
        for (answer, well) in cases {
            assert_eq!(is_success(answer), well, "{}", answer.escape_ascii());
        }
    }

    #[test]
    fn grpc_messages() {
        assert_eq!(&question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&question("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = "x".repeat(128);
        assert_eq!(question(&long)[..8], [0, 0, 0, 0, 131, 0x0a, 0x80, 1]);
        let cases: [(&[u8], Option<u64>); 7] = [
            (&[0, 0, 0, 0, 2, 8, 1], Some(1)),
            (&[0, 0, 0, 0, 2, 8, 2], Some(2)),
            (&[0, 0, 0, 0, 0], Some(0)),
            (&[1, 0, 0, 0, 2, 8, 1], None),
            (&[0, 0, 0, 0, 3, 8, 1], None),
            (&[0, 0, 0, 0, 1, 8], None),
            (&[0, 0], None),
        ];
        for (framed, expected) in cases {
            assert_eq!(
                status(Bytes::copy_from_slice(framed)),
                expected,
                "{framed:?}"
            );
        }
    }
}
