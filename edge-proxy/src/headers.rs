//! What is taken off and put on a request or response that passes through.
//!
//! **Invariant**: a header of [`hop::RESERVED`] never comes from a client and
//! never reaches one; hop-by-hop headers (RFC 9110, section 7.6.1) never pass.

use http::header::{
    CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, Uri, Version, request, response};

use isobar_mesh_api::hop;

use crate::proxy_protocol::Ends;

/// [`hop::HOP`] as a header name.
pub const HOP: HeaderName = HeaderName::from_static(hop::HOP);
/// [`hop::HOME`] as a header name.
pub const HOME: HeaderName = HeaderName::from_static(hop::HOME);
/// [`hop::SERVICE`] as a header name.
pub const SERVICE: HeaderName = HeaderName::from_static(hop::SERVICE);
/// [`hop::REFUSED`] as a header name.
pub const REFUSED: HeaderName = HeaderName::from_static(hop::REFUSED);
/// [`hop::LOAD`] as a header name.
pub const LOAD: HeaderName = HeaderName::from_static(hop::LOAD);

/// [`hop::CLIENT`] as a header name.
pub const CLIENT: HeaderName = HeaderName::from_static(hop::CLIENT);
/// [`hop::TIMEOUT`] as a header name.
pub const TIMEOUT: HeaderName = HeaderName::from_static(hop::TIMEOUT);
/// [`hop::KEY`] as a header name.
pub const KEY: HeaderName = HeaderName::from_static(hop::KEY);
/// gRPC's deadline.
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// How a gRPC call ended.
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

const RESERVED: [HeaderName; 8] = [HOP, HOME, SERVICE, REFUSED, LOAD, TIMEOUT, CLIENT, KEY];
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Makes a request's head fit to be sent on: origin form, `Host` set, HTTP/1.1, nothing that
/// belongs to the connection it came on or that only the mesh may say.
pub fn clean_request(head: &mut request::Parts) {
    strip(&mut head.headers, one_hop::PROXY_AUTHORIZATION);
    let authority = head.uri.authority().map(http::uri::Authority::as_str);
    if let Some(authority) = authority {
        // RFC 9112, section 3.2.2: the authority of the target replaces what `Host` said.
        if let Ok(host) = HeaderValue::from_str(authority) {
            head.headers.insert(HOST, host);
        }
        let path = head.uri.path_and_query().cloned();
        head.uri = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    }
    head.version = Version::HTTP_11;
}

/// The head of a request that is sent once more, or elsewhere.
pub fn copy(method: &Method, uri: &Uri, headers: &HeaderMap) -> request::Parts {
    let (mut head, ()) = http::Request::new(()).into_parts();
    head.method = method.clone();
    head.uri = uri.clone();
    head.headers = headers.clone();
    head
}

/// Bytes of a request's target and header lines, as they are sent on.
pub fn len(head: &request::Parts) -> usize {
    let line = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 4;
    let target = head.uri.path_and_query();
    let target = target.map_or(1, |target| target.as_str().len());
    target + head.headers.iter().map(line).sum::<usize>()
}

/// Makes a response's head fit to be sent on.
pub fn clean_response(head: &mut response::Parts) {
    strip(&mut head.headers, one_hop::PROXY_AUTHENTICATE);
    head.version = Version::HTTP_11;
}

/// The host that a request is for, without its port: from the target, else from `Host`.
pub fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    let named = uri.authority().map(http::uri::Authority::as_str);
    let host = named.or_else(|| headers.get(HOST).and_then(|h| h.to_str().ok()))?;
    // Hosts are short: a look from the end is over sooner than a search begins.
    let host = match host.bytes().rposition(|b| b == b'@') {
        Some(at) => &host[at + 1..],
        None => host,
    };
    let digits = host.bytes().rev().take_while(u8::is_ascii_digit).count();
    let named = host[..host.len() - digits].strip_suffix(':');
    Some(named.unwrap_or(host))
}

/// Says on a moved TCP connection whom it came from and whom it was for.
pub(crate) fn set_ends(headers: &mut HeaderMap, ends: Ends) {
    let text = format!("{} {}", ends.source, ends.destination);
    // Digits, letters, '.', ':', brackets and a space.
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.insert(CLIENT, value);
    }
}

/// What [`set_ends`] said.
pub(crate) fn ends(headers: &HeaderMap) -> Option<Ends> {
    let text = headers.get(CLIENT)?.to_str().ok()?;
    let (source, destination) = text.split_once(' ')?;
    Some(Ends {
        source: source.parse().ok()?,
        destination: destination.parse().ok()?,
    })
}

/// What of a head does not pass, each a bit. One look at all names costs less than a removal of each.
mod one_hop {
    pub(super) const CONNECTION: u16 = 1;
    pub(super) const TE: u16 = 2;
    pub(super) const TRANSFER_ENCODING: u16 = 4;
    pub(super) const UPGRADE: u16 = 8;
    pub(super) const KEEP_ALIVE: u16 = 16;
    pub(super) const PROXY_CONNECTION: u16 = 32;
    pub(super) const PROXY_AUTHORIZATION: u16 = 64;
    pub(super) const PROXY_AUTHENTICATE: u16 = 128;
    pub(super) const RESERVED: u16 = 256;

    /// The bit of a name, in lower case; 0 = it passes.
    pub(super) fn of(name: &str) -> u16 {
        // Few names share their length with one of these.
        match (name.len(), name) {
            (2, "te") => TE,
            (7, "upgrade") => UPGRADE,
            (10, "connection") => CONNECTION,
            (10, "keep-alive") => KEEP_ALIVE,
            (16, "proxy-connection") => PROXY_CONNECTION,
            (17, "transfer-encoding") => TRANSFER_ENCODING,
            (18, "proxy-authenticate") => PROXY_AUTHENTICATE,
            (19, "proxy-authorization") => PROXY_AUTHORIZATION,
            _ if name.starts_with("isobar-") => RESERVED,
            _ => 0,
        }
    }
}

/// Takes off what belongs to the connection or to the mesh, and `also`.
fn strip(headers: &mut HeaderMap, also: u16) {
    let found = headers
        .keys()
        .fold(0, |found, name| found | one_hop::of(name.as_str()));
    if found == 0 {
        return;
    }
    if found & one_hop::RESERVED != 0 {
        for name in RESERVED {
            headers.remove(name);
        }
    }
    if found & one_hop::CONNECTION != 0 {
        strip_named(headers);
    }
    if found & one_hop::TE != 0 {
        let te = headers.get(TE).map(HeaderValue::as_bytes);
        if !te.is_some_and(|te| te.eq_ignore_ascii_case(b"trailers")) {
            headers.remove(TE);
        }
    }
    if found & one_hop::TRANSFER_ENCODING != 0 {
        // RFC 9112, section 6.3: a length beside a coding is not to be believed.
        headers.remove(http::header::CONTENT_LENGTH);
        headers.remove(TRANSFER_ENCODING);
    }
    for (bit, name) in [
        (one_hop::KEEP_ALIVE, KEEP_ALIVE),
        (one_hop::PROXY_CONNECTION, PROXY_CONNECTION),
        (one_hop::UPGRADE, UPGRADE),
        (one_hop::PROXY_AUTHORIZATION & also, PROXY_AUTHORIZATION),
        (one_hop::PROXY_AUTHENTICATE & also, PROXY_AUTHENTICATE),
    ] {
        if found & bit != 0 {
            headers.remove(name);
        }
    }
}

/// Takes off `Connection` and what it names.
fn strip_named(headers: &mut HeaderMap) {
    // Options of the connection that are no headers, or are taken off in any case.
    let is_plain = |name: &&str| {
        let plain = ["close", "keep-alive", "upgrade", "te"];
        !plain.iter().any(|plain| name.eq_ignore_ascii_case(plain))
    };
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(is_plain)
        .filter_map(|name| name.parse().ok())
        .collect();
    headers.remove(CONNECTION);
    for name in named {
        // What frames the message or names its target is not the connection's to take away.
        if name != http::header::CONTENT_LENGTH && name != HOST {
            headers.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn cleaned(uri: &str, headers: &[(&str, &str)]) -> request::Parts {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        clean_request(&mut head);
        head
    }

    #[test]
    fn what_does_not_pass() {
        let head = cleaned(
            "/a?b=c",
            &[
                ("host", "shop"),
                ("connection", "close, X-Mine, content-length"),
                ("x-mine", "1"),
                ("content-length", "5"),
                ("keep-alive", "timeout=5"),
                ("upgrade", "h2c"),
                ("te", "gzip"),
                ("isobar-hop", "1"),
                ("isobar-home", "b"),
                ("isobar-load", "0/4;1"),
                ("x-yours", "2"),
            ],
        );
        let mut left: Vec<&str> = head.headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "host", "x-yours"]);
        assert_eq!(head.uri, "/a?b=c");
        let both = [("transfer-encoding", "chunked"), ("content-length", "5")];
        assert!(cleaned("/", &both).headers.is_empty());
    }

    #[test]
    fn the_target_names_the_host() {
        let head = cleaned("http://shop.example:81/x", &[("host", "other")]);
        assert_eq!(head.headers[HOST], "shop.example:81");
        assert_eq!(head.uri, "/x");
        assert_eq!(cleaned("/", &[("te", "trailers")]).headers[TE], "trailers");
    }

    #[test]
    fn hosts() {
        let cases = [
            ("/", Some("shop:7410"), Some("shop")),
            ("/", Some("shop"), Some("shop")),
            ("/", Some("[::1]:80"), Some("[::1]")),
            ("/", Some("[::1]"), Some("[::1]")),
            ("http://a.b/", Some("shop"), Some("a.b")),
            ("/", None, None),
        ];
        for (uri, header, expected) in cases {
            let mut headers = HeaderMap::new();
            if let Some(header) = header {
                headers.insert(HOST, HeaderValue::from_static(header));
            }
            assert_eq!(
                host(&uri.parse().unwrap(), &headers),
                expected,
                "{uri} {header:?}"
            );
        }
    }
}
