//! Messages become bytes.

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, COOKIE, DATE, HOST, HeaderMap, HeaderValue};
use http::{StatusCode, Version, request, response};

use super::Upgrade;
use super::head::BodyLength;
use super::io::Output;

/// A piece of a body up to this length is copied behind what is to be sent; a longer one is sent
/// from where it is.
const COPIED_LEN_MAX: usize = 8 * 1024;

/// A body does not have the length that its head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body is not as long as its head says")]
pub struct WrongLength;

/// Puts the pieces of a body behind its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoder {
    /// So many bytes are still to be sent.
    Exactly(u64),
    /// In chunks.
    Chunked,
    /// As it comes; the connection's end is its end.
    UntilClose,
}

impl Encoder {
    /// For a body of that length.
    pub fn new(length: BodyLength) -> Encoder {
        match length {
            BodyLength::Exactly(len) => Encoder::Exactly(len),
            BodyLength::Chunked => Encoder::Chunked,
            BodyLength::UntilClose => Encoder::UntilClose,
        }
    }

    /// Whether nothing more is to come.
    pub fn is_complete(&self) -> bool {
        *self == Encoder::Exactly(0)
    }

    /// Appends a piece. `output` has room.
    ///
    /// # Errors
    /// It is longer than announced.
    pub fn data(&mut self, output: &mut Output, data: Bytes) -> Result<(), WrongLength> {
        if data.is_empty() {
            return Ok(());
        }
        match self {
            Encoder::Exactly(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(WrongLength)?;
                put(output, data, b"");
            }
            Encoder::UntilClose => put(output, data, b""),
            Encoder::Chunked => {
                put_hex(output.text(), data.len());
                output.text().put_slice(b"\r\n");
                put(output, data, b"\r\n");
            }
        }
        Ok(())
    }

    /// Appends the end. `output` has room.
    ///
    /// # Errors
    /// The body is shorter than announced.
    pub fn end(
        &mut self,
        output: &mut Output,
        trailers: Option<&HeaderMap>,
    ) -> Result<(), WrongLength> {
        match self {
            Encoder::Exactly(0) | Encoder::UntilClose => Ok(()),
            Encoder::Exactly(_) => Err(WrongLength),
            Encoder::Chunked => {
                let text = output.text();
                text.put_slice(b"0\r\n");
                for (name, value) in trailers.into_iter().flatten() {
                    line(text, name.as_str(), value.as_bytes());
                }
                text.put_slice(b"\r\n");
                *self = Encoder::Exactly(0);
                Ok(())
            }
        }
    }
}

fn put(output: &mut Output, data: Bytes, tail: &'static [u8]) {
    if data.len() <= COPIED_LEN_MAX {
        output.text().put_slice(&data);
        output.text().put_slice(tail);
    } else {
        output.append(data, tail);
    }
}

/// How a request's body is sent, given what its head says and how long it is known to be.
pub fn request_length(headers: &HeaderMap, exact: Option<u64>) -> BodyLength {
    match exact.or_else(|| announced(headers)) {
        Some(len) => BodyLength::Exactly(len),
        None => BodyLength::Chunked,
    }
}

/// Appends a request's head: in origin form, cleaned of what belongs to another connection.
pub fn request(text: &mut BytesMut, head: &request::Parts, length: BodyLength) {
    text.put_slice(head.method.as_str().as_bytes());
    text.put_u8(b' ');
    let target = head.uri.path_and_query();
    text.put_slice(target.map_or("/", |target| target.as_str()).as_bytes());
    text.put_slice(b" HTTP/1.1\r\n");
    let (mut cookies, mut has_host, mut has_length) = (false, false, false);
    for (name, value) in &head.headers {
        has_host |= *name == HOST;
        has_length |= *name == CONTENT_LENGTH;
        if *name != COOKIE {
            line(text, name.as_str(), value.as_bytes());
        } else if !cookies {
            // RFC 9113, section 8.2.3: HTTP/2 may have split them.
            cookies = true;
            text.put_slice(b"cookie: ");
            for (at, value) in head.headers.get_all(COOKIE).iter().enumerate() {
                text.put_slice(if at > 0 { b"; " } else { b"" });
                text.put_slice(value.as_bytes());
            }
            text.put_slice(b"\r\n");
        }
    }
    if !has_host {
        text.put_slice(b"host: \r\n");
    }
    if let Some(Upgrade(protocol)) = head.extensions.get() {
        text.put_slice(b"connection: upgrade\r\n");
        line(text, "upgrade", protocol.as_bytes());
    }
    match length {
        BodyLength::Chunked => text.put_slice(b"transfer-encoding: chunked\r\n"),
        BodyLength::Exactly(len) if len > 0 && !has_length => {
            content_length(text, len);
        }
        _ => {}
    }
    text.put_slice(b"\r\n");
}

/// What a response's head depends on beside itself.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Whether the request was a `HEAD`.
    pub to_head: bool,
    /// The version that the client speaks.
    pub version: Version,
    /// Whether the connection stays open behind it.
    pub keep_alive: bool,
}

/// Whether a response has a body, and how it is sent, given how long it is known to be.
pub fn response_length(head: &response::Parts, exact: Option<u64>, terms: Terms) -> BodyLength {
    if terms.to_head || is_bodiless(head.status) {
        return BodyLength::NONE;
    }
    match announced(&head.headers).or(exact) {
        Some(len) => BodyLength::Exactly(len),
        None if terms.version == Version::HTTP_11 => BodyLength::Chunked,
        None => BodyLength::UntilClose,
    }
}

/// Appends a response's head, cleaned of what belongs to another connection.
pub fn response(text: &mut BytesMut, head: &response::Parts, length: BodyLength, terms: Terms) {
    status_line(text, head.status);
    let (mut has_date, mut has_length) = (false, false);
    for (name, value) in &head.headers {
        has_date |= *name == DATE;
        has_length |= *name == CONTENT_LENGTH;
        line(text, name.as_str(), value.as_bytes());
    }
    if !has_date && !head.status.is_informational() {
        text.put_slice(b"date: ");
        text.put_slice(&super::date::now());
        text.put_slice(b"\r\n");
    }
    if let Some(Upgrade(protocol)) = head.extensions.get() {
        text.put_slice(b"connection: upgrade\r\n");
        line(text, "upgrade", protocol.as_bytes());
    } else if !terms.keep_alive {
        text.put_slice(b"connection: close\r\n");
    } else if terms.version == Version::HTTP_10 {
        text.put_slice(b"connection: keep-alive\r\n");
    }
    match length {
        BodyLength::Chunked => text.put_slice(b"transfer-encoding: chunked\r\n"),
        BodyLength::Exactly(len) if !terms.to_head && !is_bodiless(head.status) && !has_length => {
            content_length(text, len);
        }
        _ => {}
    }
    text.put_slice(b"\r\n");
}

/// Appends the head of an interim response (1xx).
pub fn interim(text: &mut BytesMut, status: StatusCode, headers: &HeaderMap) {
    status_line(text, status);
    for (name, value) in headers {
        line(text, name.as_str(), value.as_bytes());
    }
    text.put_slice(b"\r\n");
}

fn is_bodiless(status: StatusCode) -> bool {
    status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    let value: &HeaderValue = headers.get(CONTENT_LENGTH)?;
    value.to_str().ok()?.parse().ok()
}

fn status_line(text: &mut BytesMut, status: StatusCode) {
    if status == StatusCode::OK {
        return text.put_slice(b"HTTP/1.1 200 OK\r\n");
    }
    text.put_slice(b"HTTP/1.1 ");
    text.put_slice(status.as_str().as_bytes());
    text.put_u8(b' ');
    text.put_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    text.put_slice(b"\r\n");
}

fn line(text: &mut BytesMut, name: &str, value: &[u8]) {
    text.reserve(name.len() + value.len() + 4);
    text.put_slice(name.as_bytes());
    text.put_slice(b": ");
    text.put_slice(value);
    text.put_slice(b"\r\n");
}

fn content_length(text: &mut BytesMut, len: u64) {
    line(text, "content-length", len.to_string().as_bytes());
}

fn put_hex(text: &mut BytesMut, mut number: usize) {
    let mut digits = [0; 16];
    let mut at = digits.len();
    while at == digits.len() || number > 0 {
        at -= 1;
        digits[at] = b"0123456789abcdef"[number % 16];
        number /= 16;
    }
    text.put_slice(&digits[at..]);
}

#[cfg(test)]
mod tests;
