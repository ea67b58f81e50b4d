//! The first message of a TLS connection, read without taking part (RFC 8446, sections 4.1.2 and 5.1): whom the client
//! wants, by the server name it asks for (RFC 6066, section 3).
//!
//! Pure: bytes in, name out. The message may stand in several records, and records may come in pieces.

/// Longest beginning of a connection that is looked at, in bytes; a longer first message is an error. Real ones, with
/// post-quantum key shares, stay below 2 KiB.
pub const HELLO_LEN_MAX: usize = 16 * 1024;
/// Longest name, in bytes (RFC 1035, section 2.3.4).
const NAME_LEN_MAX: usize = 253;
const RECORD_HEAD_LEN: usize = 5;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const NAME_TYPE_HOST: u8 = 0;

/// Bytes that are not a client's first TLS message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// Not TLS at all.
    #[error("not a TLS connection")]
    NotTls,
    /// TLS whose first message is broken or longer than [`HELLO_LEN_MAX`].
    #[error("a TLS connection that begins with a broken message")]
    Broken,
}

/// What the first bytes of a connection say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hello {
    /// More bytes are needed.
    Incomplete,
    /// The message is whole.
    Whole {
        /// The host it asks for, in lower case; `None` when it asks for none.
        server_name: Option<String>,
    },
}

/// Whether these bytes begin a TLS connection, or could when more come.
pub fn begins(bytes: &[u8]) -> bool {
    matches!(bytes, [] | [HANDSHAKE] | [HANDSHAKE, 3, ..])
}

/// Reads the first bytes of a connection.
///
/// # Errors
/// They are no client's first message.
pub fn parse(bytes: &[u8]) -> Result<Hello, HelloError> {
    if !begins(bytes) {
        return Err(HelloError::NotTls);
    }
    let message = match handshake(bytes)? {
        Some(message) => message,
        None if bytes.len() >= HELLO_LEN_MAX => return Err(HelloError::Broken),
        None => return Ok(Hello::Incomplete),
    };
    let server_name = hello(&message).ok_or(HelloError::Broken)?;
    Ok(Hello::Whole { server_name })
}

/// The body of the first handshake message, put together from its records; `None` while it is not whole.
fn handshake(mut bytes: &[u8]) -> Result<Option<Vec<u8>>, HelloError> {
    let mut message = Vec::new();
    loop {
        let Some((head, rest)) = bytes.split_at_checked(RECORD_HEAD_LEN) else {
            return Ok(None);
        };
        let len = usize::from(u16::from_be_bytes([head[3], head[4]]));
        if head[0] != HANDSHAKE || head[1] != 3 || len == 0 || len > HELLO_LEN_MAX {
            return Err(HelloError::Broken);
        }
        message.extend_from_slice(&rest[..len.min(rest.len())]);
        if let Some(&kind) = message.first()
            && kind != CLIENT_HELLO
        {
            return Err(HelloError::Broken);
        }
        if let [_, high, middle, low, ..] = message[..] {
            let body_len = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            if body_len > HELLO_LEN_MAX {
                return Err(HelloError::Broken);
            }
            if let Some(body) = message.get(4..4 + body_len) {
                return Ok(Some(body.to_vec()));
            }
        }
        let Some(behind) = rest.get(len..) else {
            return Ok(None);
        };
        bytes = behind;
    }
}

/// The server name of a message's body; `None` outside when it is broken.
fn hello(body: &[u8]) -> Option<Option<String>> {
    let mut body = Reader(body);
    // Version and random.
    body.take(2 + 32)?;
    let _session = body.short()?;
    let _ciphers = body.long()?;
    let _compressions = body.short()?;
    if body.0.is_empty() {
        return Some(None);
    }
    let mut extensions = Reader(body.long()?);
    while !extensions.0.is_empty() {
        let kind = extensions.number()?;
        let content = extensions.long()?;
        if kind == EXTENSION_SERVER_NAME {
            return server_name(content).map(Some);
        }
    }
    Some(None)
}

fn server_name(extension: &[u8]) -> Option<String> {
    let mut names = Reader(Reader(extension).long()?);
    while !names.0.is_empty() {
        let kind = names.take(1)?[0];
        let name = names.long()?;
        if kind != NAME_TYPE_HOST {
            continue;
        }
        let fits = |b: &u8| b.is_ascii_alphanumeric() || b"-._".contains(b);
        if name.is_empty() || name.len() > NAME_LEN_MAX || !name.iter().all(fits) {
            return None;
        }
        let name = std::str::from_utf8(name).ok()?;
        return Some(name.trim_end_matches('.').to_ascii_lowercase());
    }
    None
}

/// Takes lengths and what they cover off the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(front)
    }

    fn number(&mut self) -> Option<u16> {
        let bytes = self.take(2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// What a length of one byte covers.
    fn short(&mut self) -> Option<&'a [u8]> {
        let len = self.take(1)?[0];
        self.take(usize::from(len))
    }

    /// What a length of two bytes covers.
    fn long(&mut self) -> Option<&'a [u8]> {
        let len = self.number()?;
        self.take(usize::from(len))
    }
}

#[cfg(test)]
mod tests;
