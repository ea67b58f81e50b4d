//! Bytes become heads.
//!
//! A head is first found ([`HeadEnd`]), then read in one go, so that what it
//! means cannot depend on how its bytes arrived. Both refuse what RFC 9112 lets
//! a recipient guess at: bare line feeds, folded lines, two lengths.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, Request, Response, StatusCode, Uri, Version, request};

use super::fault::Fault;
use super::{HEAD_LEN_MAX, HEADERS_MAX, Upgrade};

/// A message's head and body are taken over in one copy up to this length together, in bytes.
pub const SMALL_LEN_MAX: usize = 4 * 1024;

/// A request's map has room for so many more headers than came: those that the proxy sets, so that it need not grow.
const SPARE: usize = 4;

/// Where a message's body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// After this many bytes.
    Exactly(u64),
    /// After the last chunk.
    Chunked,
    /// With the connection. Answers only.
    UntilClose,
}

impl BodyLength {
    /// No body, not even an empty one that is announced.
    pub const NONE: BodyLength = BodyLength::Exactly(0);
}

/// Finds where a head, or the lines after the last chunk, end.
#[derive(Debug, Clone, Copy, Default)]
pub struct HeadEnd {
    seen: usize,
}

impl HeadEnd {
    /// The length of the head at the beginning of `bytes`, its empty line included; `None` = more
    /// bytes are needed. `bytes` only grows between calls.
    ///
    /// # Errors
    /// A line that ends in a bare line feed; no end within `len_max` bytes.
    pub fn find(&mut self, bytes: &[u8], len_max: usize) -> Result<Option<usize>, Fault> {
        let within = &bytes[..bytes.len().min(len_max)];
        while let Some(at) = memchr::memchr(b'\n', &within[self.seen..]) {
            let at = self.seen + at;
            if at == 0 || within[at - 1] != b'\r' {
                return Err(Fault::BareLineFeed);
            }
            self.seen = at + 1;
            if at == 1 || within[..at - 1].ends_with(b"\r\n") {
                self.seen = 0;
                return Ok(Some(at + 1));
            }
        }
        self.seen = within.len();
        match bytes.len() >= len_max {
            true => Err(Fault::HeadTooLong),
            false => Ok(None),
        }
    }
}

/// A request's head, and what it says of the connection.
#[derive(Debug)]
pub struct RequestHead {
    /// The head as the rest of the proxy knows it. In a box: it passes through many hands.
    pub request: Box<request::Parts>,
    /// Where its body ends.
    pub length: BodyLength,
    /// Its body, if there is none or all of it came with the head.
    pub whole: Option<Bytes>,
    /// Whether another request may follow.
    pub keep_alive: bool,
    /// Whether the client waits for a `100 Continue` before it sends the body.
    pub expects_continue: bool,
}

/// Takes the head of a request off the beginning of `bytes`; `None` = more bytes are needed.
///
/// # Errors
/// It is not exactly a request of HTTP/1.1 or HTTP/1.0.
pub fn take_request(bytes: &mut BytesMut, end: &mut HeadEnd) -> Result<Option<RequestHead>, Fault> {
    // RFC 9112, section 2.2: an empty line before a request is no request.
    while bytes.starts_with(b"\r\n") {
        bytes.advance(2);
    }
    // What cannot begin a method will not become a request however long it grows.
    match &bytes[..] {
        [] | [b'\r'] => return Ok(None),
        [first, ..] if is_of_token(*first) => {}
        _ => return Err(Fault::FirstLine),
    }
    let Some(len) = end.find(bytes, HEAD_LEN_MAX)? else {
        return Ok(None);
    };
    let copied = bytes.len().min(len.max(SMALL_LEN_MAX));
    let message = Bytes::copy_from_slice(&bytes[..copied]);
    let mut head = read_request(&message.slice(..len))?;
    let end = match head.length {
        BodyLength::Exactly(body_len) => usize::try_from(body_len)
            .ok()
            .and_then(|body_len| body_len.checked_add(len))
            .filter(|&end| end <= copied),
        _ => None,
    };
    head.whole = end.map(|end| message.slice(len..end));
    consume(bytes, end.unwrap_or(len));
    Ok(Some(head))
}

/// Takes bytes off the beginning. A buffer that becomes empty is as large as it was.
pub fn consume(bytes: &mut BytesMut, len: usize) {
    match len == bytes.len() {
        true => bytes.clear(),
        false => bytes.advance(len),
    }
}

/// Reads the head of a request, its empty line included.
fn read_request(head: &Bytes) -> Result<RequestHead, Fault> {
    let mut lines = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    let read = parsed.parse_with_uninit_headers(head, &mut lines);
    if read.map_err(fault)?.is_partial() {
        return Err(Fault::FirstLine);
    }
    let (Some(method), Some(path), Some(minor)) = (parsed.method, parsed.path, parsed.version)
    else {
        return Err(Fault::FirstLine);
    };
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| Fault::FirstLine)?;
    let uri = target(&method, head.slice_ref(path.as_bytes()))?;
    let version = version(minor);
    let (headers, said) = headers(head, parsed.headers, SPARE)?;
    if said.hosts > 1 || (said.hosts == 0 && version == Version::HTTP_11) {
        return Err(Fault::Host);
    }
    let chunked = said.is_chunked(version)?;
    let length = match chunked {
        true => BodyLength::Chunked,
        false => BodyLength::Exactly(said.length.unwrap_or(0)),
    };
    let mut request = Box::new(Request::new(()).into_parts().0);
    request.method = method;
    request.uri = uri;
    request.version = version;
    if said.upgrade
        && version == Version::HTTP_11
        && let Some(protocol) = headers.get(UPGRADE)
    {
        let upgrade = Upgrade(protocol.clone());
        request.extensions.insert(upgrade);
    }
    request.headers = headers;
    Ok(RequestHead {
        request,
        length,
        whole: None,
        keep_alive: said.keeps_alive(version),
        expects_continue: said.expects_continue && version == Version::HTTP_11,
    })
}

/// A response's head, and what it says of the connection.
#[derive(Debug)]
pub struct ResponseHead {
    /// The head as the rest of the proxy knows it.
    pub response: Response<()>,
    /// Where its body ends, if the request and the status let it have one.
    pub length: BodyLength,
    /// Whether the connection can be used again.
    pub keep_alive: bool,
}

/// Reads the head of a response, its empty line included; `method` is that of its request.
///
/// # Errors
/// It is not exactly a response of HTTP/1.1 or HTTP/1.0.
pub fn response(head: &Bytes, method: &Method) -> Result<ResponseHead, Fault> {
    let mut lines = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    let read = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut parsed,
        head,
        &mut lines,
    );
    if read.map_err(fault)?.is_partial() {
        return Err(Fault::FirstLine);
    }
    let (Some(code), Some(minor)) = (parsed.code, parsed.version) else {
        return Err(Fault::FirstLine);
    };
    let status = StatusCode::from_u16(code).map_err(|_| Fault::FirstLine)?;
    let version = version(minor);
    let (headers, said) = headers(head, parsed.headers, 0)?;
    let bodiless = status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
        || *method == Method::HEAD;
    let chunked = said.is_chunked(version)?;
    let length = match said.length {
        _ if bodiless => BodyLength::NONE,
        _ if chunked => BodyLength::Chunked,
        Some(len) => BodyLength::Exactly(len),
        None => BodyLength::UntilClose,
    };
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.version_mut() = version;
    if status == StatusCode::SWITCHING_PROTOCOLS {
        let protocol = headers.get(UPGRADE).ok_or(Fault::Upgrade)?;
        let upgrade = Upgrade(protocol.clone());
        response.extensions_mut().insert(upgrade);
    }
    *response.headers_mut() = headers;
    Ok(ResponseHead {
        response,
        length,
        keep_alive: said.keeps_alive(version) && length != BodyLength::UntilClose,
    })
}

/// Reads the lines after the last chunk, their empty line included. What frames or routes a message
/// is left out: it comes too late to be believed (RFC 9110, section 6.5.1).
///
/// # Errors
/// A malformed line.
pub fn trailers(block: &Bytes) -> Result<HeaderMap, Fault> {
    let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let read = httparse::parse_headers(block, &mut lines);
    let parsed = match read.map_err(|_| Fault::Trailers)? {
        httparse::Status::Complete((_, lines)) => lines,
        httparse::Status::Partial => return Err(Fault::Trailers),
    };
    let mut trailers = HeaderMap::with_capacity(parsed.len());
    for line in parsed {
        let (name, value) = header(block, line).map_err(|_| Fault::Trailers)?;
        let late = [CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, HOST].contains(&name);
        if !late && !name.as_str().starts_with("isobar-") {
            trailers.append(name, value);
        }
    }
    Ok(trailers)
}

/// What the header lines say of the message and its connection.
#[derive(Debug, Default)]
struct Said {
    hosts: usize,
    length: Option<u64>,
    codings: usize,
    /// The last coding is `chunked`, and it is the only one.
    chunked_only: bool,
    /// The last coding is `chunked`.
    chunked_last: bool,
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    expects_continue: bool,
}

impl Said {
    fn is_chunked(&self, version: Version) -> Result<bool, Fault> {
        match self.codings {
            0 => Ok(false),
            _ if self.length.is_some() => Err(Fault::LengthAndCoding),
            // Before HTTP/1.1 there were no codings: whoever passed this on did not see one.
            _ if version != Version::HTTP_11 => Err(Fault::Coding),
            1 if self.chunked_only => Ok(true),
            _ if self.chunked_last && self.codings > 1 => Err(Fault::CodingUnknown),
            _ => Err(Fault::Coding),
        }
    }

    fn keeps_alive(&self, version: Version) -> bool {
        match version {
            Version::HTTP_11 => !self.close,
            _ => self.keep_alive && !self.close,
        }
    }
}

fn headers(
    head: &Bytes,
    lines: &[httparse::Header<'_>],
    spare: usize,
) -> Result<(HeaderMap, Said), Fault> {
    let mut headers = HeaderMap::with_capacity(lines.len() + spare);
    let mut said = Said::default();
    for line in lines {
        let (name, value) = header(head, line)?;
        said.note(&name, line.value)?;
        headers.append(name, value);
    }
    Ok((headers, said))
}

fn header(head: &Bytes, line: &httparse::Header<'_>) -> Result<(HeaderName, HeaderValue), Fault> {
    let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| Fault::HeaderLine)?;
    // An empty value need not lie within the head.
    let value = match line.value.is_empty() {
        true => HeaderValue::from_static(""),
        false => HeaderValue::from_maybe_shared(head.slice_ref(line.value))
            .map_err(|_| Fault::HeaderLine)?,
    };
    Ok((name, value))
}

impl Said {
    fn note(&mut self, name: &HeaderName, value: &[u8]) -> Result<(), Fault> {
        // A look at the length spares most lines the comparisons.
        match name.as_str().len() {
            4 if *name == HOST => {
                self.hosts += 1;
                if !value.iter().copied().all(is_of_host) {
                    return Err(Fault::Host);
                }
            }
            6 if *name == EXPECT => {
                self.expects_continue = value.eq_ignore_ascii_case(b"100-continue");
            }
            10 if *name == CONNECTION => {
                for token in tokens(value) {
                    self.close |= token.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                    self.upgrade |= token.eq_ignore_ascii_case(b"upgrade");
                }
            }
            14 if *name == CONTENT_LENGTH => {
                if self.length.is_some() {
                    return Err(Fault::Length);
                }
                self.length = Some(length(value)?);
            }
            17 if *name == TRANSFER_ENCODING => {
                for token in tokens(value) {
                    let chunked = token.eq_ignore_ascii_case(b"chunked");
                    // `chunked` twice, or not last, ends nowhere that all agree on.
                    self.chunked_last = chunked && !self.chunked_last;
                    self.codings += 1;
                    self.chunked_only = chunked && self.codings == 1;
                }
                if tokens(value).next().is_none() {
                    return Err(Fault::Coding);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// The elements of a comma-separated list.
fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let trimmed = value.split(|&b| b == b',').map(<[u8]>::trim_ascii);
    trimmed.filter(|token| !token.is_empty())
}

/// Digits alone: no sign, no space, no list.
fn length(value: &[u8]) -> Result<u64, Fault> {
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return Err(Fault::Length);
    }
    Ok(value
        .iter()
        .fold(0, |len, digit| len * 10 + u64::from(digit - b'0')))
}

/// Whether it may stand in a method's name.
fn is_of_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_of_host(byte: u8) -> bool {
    OF_HOST[usize::from(byte)]
}

/// Which bytes may stand in a `Host`.
const OF_HOST: [bool; 256] = {
    let mut of_host = [false; 256];
    let others = b"-._~%!$&'()*+;=:[]";
    let mut at = 0;
    while at < others.len() {
        of_host[others[at] as usize] = true;
        at += 1;
    }
    let mut byte = 0;
    while byte < 128 {
        of_host[byte] |= (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    of_host
};

/// The target: a path, a whole URI, the authority for `CONNECT`, or `*` for `OPTIONS` (RFC 9112,
/// section 3.2).
fn target(method: &Method, path: Bytes) -> Result<Uri, Fault> {
    let (first, star) = (path.first().copied(), &path[..] == b"*");
    let uri = Uri::from_maybe_shared(path).map_err(|_| Fault::Target)?;
    let fits = match *method {
        Method::CONNECT => uri.authority().is_some() && uri.scheme().is_none(),
        Method::OPTIONS if star => true,
        _ => first == Some(b'/') || (uri.scheme().is_some() && uri.authority().is_some()),
    };
    match fits {
        true => Ok(uri),
        false => Err(Fault::Target),
    }
}

fn version(minor: u8) -> Version {
    match minor {
        0 => Version::HTTP_10,
        _ => Version::HTTP_11,
    }
}

fn fault(error: httparse::Error) -> Fault {
    match error {
        httparse::Error::HeaderName | httparse::Error::HeaderValue => Fault::HeaderLine,
        httparse::Error::TooManyHeaders => Fault::TooManyHeaders,
        httparse::Error::Version => Fault::Version,
        httparse::Error::NewLine | httparse::Error::Status | httparse::Error::Token => {
            Fault::FirstLine
        }
    }
}

#[cfg(test)]
mod tests;
