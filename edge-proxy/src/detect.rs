//! Which protocol a client speaks, by its first bytes.
//!
//! Pure: bytes in, protocol out. Whoever reads the bytes decides how long to wait for more; a client that says nothing
//! in that time is taken for one of a protocol where the server speaks first, and served as plain TCP.

use crate::client_hello;

/// Longest beginning of a connection that is looked at, in bytes. A request line that is longer is HTTP/1's when it
/// begins with a method.
pub const LINE_LEN_MAX: usize = 8 * 1024;
/// The beginning of every HTTP/2 connection (RFC 9113, section 3.4).
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Methods that a connection of HTTP/1 may begin with (RFC 9110, section 9; RFC 5789; RFC 4918).
const METHODS: [&[u8]; 15] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"CONNECT ",
    b"OPTIONS ",
    b"TRACE ",
    b"PATCH ",
    b"PROPFIND ",
    b"PROPPATCH ",
    b"MKCOL ",
    b"COPY ",
    b"MOVE ",
    b"REPORT ",
];

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2 without TLS.
    Http2,
    /// TLS, whatever is in it.
    Tls,
    /// Something else.
    Tcp,
}

/// What the first bytes are; `None` while more are needed to tell.
pub fn protocol(bytes: &[u8]) -> Option<Protocol> {
    if bytes.is_empty() {
        return None;
    }
    if client_hello::begins(bytes) {
        return (bytes.len() > 1).then_some(Protocol::Tls);
    }
    if begins(bytes, HTTP2) {
        return (bytes.len() >= HTTP2.len()).then_some(Protocol::Http2);
    }
    let method = METHODS.iter().find(|method| begins(bytes, method));
    let Some(method) = method else {
        return Some(Protocol::Tcp);
    };
    if bytes.len() < method.len() {
        return None;
    }
    match bytes.iter().position(|&b| b == b'\n') {
        Some(end) => Some(request_line(&bytes[..end])),
        None if bytes.len() >= LINE_LEN_MAX => Some(Protocol::Http1),
        None => None,
    }
}

/// What bytes that [`protocol`] could not tell are taken for when no more come in time.
pub fn after_waiting(bytes: &[u8]) -> Protocol {
    let has_method = |method: &&[u8]| bytes.starts_with(method);
    match METHODS.iter().any(has_method) {
        true => Protocol::Http1,
        false => Protocol::Tcp,
    }
}

/// Other protocols have words like `GET` too; only HTTP's line ends with its version.
fn request_line(line: &[u8]) -> Protocol {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let version = line.rsplit(|&b| b == b' ').next().unwrap_or_default();
    match version.strip_prefix(b"HTTP/1.") {
        Some([digit]) if digit.is_ascii_digit() => Protocol::Http1,
        _ => Protocol::Tcp,
    }
}

/// Whether `bytes` begin with `begin`, or could when more come.
fn begins(bytes: &[u8], begin: &[u8]) -> bool {
    let n = bytes.len().min(begin.len());
    bytes[..n] == begin[..n]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn first_bytes() {
        let cases: [(&[u8], Option<Protocol>); 16] = [
            (b"", None),
            (b"G", None),
            (b"GET /", None),
            (b"GET / HTTP/1.1\r\n", Some(Protocol::Http1)),
            (b"POST http://a/ HTTP/1.0\nHost: a\n", Some(Protocol::Http1)),
            (b"GET key\r\n", Some(Protocol::Tcp)),
            (b"GET / HTTP/2.0\r\n", Some(Protocol::Tcp)),
            (b"SET key value\r\n", Some(Protocol::Tcp)),
            (b"SSH-2.0-OpenSSH_10\r\n", Some(Protocol::Tcp)),
            (b"PRI * HTTP/2.0\r\n\r\nSM", None),
            (HTTP2, Some(Protocol::Http2)),
            (b"PRI * HTTP/1.1\r\n\r\nSM", Some(Protocol::Tcp)),
            (b"\x16", None),
            (b"\x16\x03\x01", Some(Protocol::Tls)),
            (b"\x16\x02", Some(Protocol::Tcp)),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", Some(Protocol::Tcp)),
        ];
        for (bytes, expected) in cases {
            assert_eq!(
                protocol(bytes),
                expected,
                "{:?}",
                bytes.escape_ascii().to_string()
            );
        }
        let long = [b"GET /".to_vec(), vec![b'x'; LINE_LEN_MAX]].concat();
        assert_eq!(protocol(&long), Some(Protocol::Http1));
        assert_eq!(after_waiting(b"GET /half"), Protocol::Http1);
        assert_eq!(after_waiting(b"GE"), Protocol::Tcp);
        assert_eq!(after_waiting(b""), Protocol::Tcp);
    }

    proptest! {
        #[test]
        fn more_bytes_do_not_change_the_answer(bytes in any::<Vec<u8>>(), more in any::<Vec<u8>>()) {
            if let Some(told) = protocol(&bytes) {
                prop_assert_eq!(protocol(&[bytes, more].concat()), Some(told));
            }
        }
    }
}
