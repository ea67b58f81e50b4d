//! What of a request is its key: requests with one key go to one endpoint, and with affinity to one node.
//!
//! The key is a hash. A peer is told it in a header that only the mesh may set, so that home and the node that serves
//! mean the same.
//!
//! A client without the cookie gets one: 64 random bits, in hexadecimal digits. It names no endpoint and no node, so it
//! says nothing of the mesh, and needs no secret.

use std::net::IpAddr;

use http::header::{COOKIE, HeaderMap, HeaderName, HeaderValue, SET_COOKIE};
use isobar_mesh_api::resource::route::{SessionPersistence, SessionType};
use isobar_mesh_api::resource::traffic_policy::{HashKey, KeyOf};

use crate::balance::hash;
use crate::headers;

/// Name of a cookie or header where a route gives none.
const NAME_DEFAULT: &str = "isobar-session";

/// Where the key is.
#[derive(Debug, Clone)]
pub struct Rule {
    of: Of,
    max_age_s: u64,
}

#[derive(Debug, Clone)]
enum Of {
    Cookie(String),
    Header(HeaderName),
    /// A header that the client gets, if it has none.
    Token(HeaderName),
    Source,
}

/// A request's key.
#[derive(Debug, Default)]
pub struct Key {
    /// Its hash; absent when the request has none.
    pub hash: Option<u64>,
    /// A header of the answer that gives the client its key.
    pub told: Option<(HeaderName, HeaderValue)>,
}

impl Rule {
    /// As a checked policy says.
    pub fn new(policy: &HashKey) -> Rule {
        let of = match policy.of {
            KeyOf::Cookie => Of::Cookie(policy.name.clone()),
            // A checked name is a header's; one that is none matches no request.
            KeyOf::Header => HeaderName::from_bytes(policy.name.as_bytes())
                .map_or(Of::Cookie(String::new()), Of::Header),
            KeyOf::SourceAddress => Of::Source,
        };
        Rule {
            of,
            max_age_s: policy.ttl.as_micros().div_ceil(1_000_000),
        }
    }

    /// As a route's rule says.
    pub fn of_route(sessions: &SessionPersistence) -> Rule {
        let name = sessions.session_name.as_deref();
        let name = name.unwrap_or(NAME_DEFAULT);
        let header = HeaderName::from_bytes(name.as_bytes());
        let of = match (sessions.kind, header) {
            (SessionType::Header, Ok(header)) => Of::Token(header),
            _ => Of::Cookie(name.to_owned()),
        };
        let age = sessions.absolute_timeout.map_or(0, |age| age.as_micros());
        Rule {
            of,
            max_age_s: age.div_ceil(1_000_000),
        }
    }

    /// The key of a request from this address. `new` is for a client that needs a cookie.
    pub fn key(&self, headers: &HeaderMap, source: IpAddr, is_tls: bool, new: u64) -> Key {
        let hash = match &self.of {
            Of::Cookie(name) => match cookie(headers, name) {
                Some(value) => Some(hash::of(value.as_bytes())),
                None => return self.with_cookie(name, is_tls, new),
            },
            Of::Token(name) => match headers.get(name) {
                Some(value) => Some(hash::of(value.as_bytes())),
                None => {
                    let value = format!("{new:016x}");
                    return Key {
                        hash: Some(hash::of(value.as_bytes())),
                        told: HeaderValue::from_str(&value)
                            .ok()
                            .map(|v| (name.clone(), v)),
                    };
                }
            },
            Of::Header(name) => headers.get(name).map(|value| hash::of(value.as_bytes())),
            Of::Source => Some(of_address(source)),
        };
        Key { hash, told: None }
    }

    /// The key of a connection that is not HTTP's.
    pub fn of_connection(&self, source: IpAddr) -> Option<u64> {
        matches!(self.of, Of::Source).then(|| of_address(source))
    }

    fn with_cookie(&self, name: &str, is_tls: bool, new: u64) -> Key {
        let value = format!("{new:016x}");
        let hash = Some(hash::of(value.as_bytes()));
        let age = match self.max_age_s {
            0 => String::new(),
            s => format!("; Max-Age={s}"),
        };
        let secure = if is_tls { "; Secure" } else { "" };
        let text = format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax{age}{secure}");
        Key {
            hash,
            told: HeaderValue::from_str(&text).ok().map(|v| (SET_COOKIE, v)),
        }
    }
}

/// What a peer says the key is.
pub fn told(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(headers::KEY)?.to_str().ok()?;
    u64::from_str_radix(text, 16).ok()
}

/// Tells a peer the key.
pub fn tell(key: u64, headers: &mut HeaderMap) {
    // Hexadecimal digits.
    if let Ok(value) = HeaderValue::from_str(&format!("{key:016x}")) {
        headers.insert(headers::KEY, value);
    }
}

impl Key {
    /// Gives the client its key.
    pub fn tell_client(self, headers: &mut HeaderMap) {
        if let Some((name, value)) = self.told {
            headers.append(name, value);
        }
    }
}

fn of_address(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(ip) => hash::of(&ip.octets()),
        IpAddr::V6(ip) => hash::of(&ip.octets()),
    }
}

/// A cookie's value (RFC 6265, section 5.4), if it has one.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lists = headers.get_all(COOKIE).iter();
    let pairs = lists
        .filter_map(|list| list.to_str().ok())
        .flat_map(|list| list.split(';'));
    let mut named = pairs.filter_map(|pair| pair.trim().split_once('='));
    let found = named.find(|(own, value)| *own == name && !value.is_empty());
    found.map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(of: KeyOf, name: &str) -> Rule {
        Rule::new(&HashKey {
            of,
            name: name.to_owned(),
            ..HashKey::default()
        })
    }

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), value.parse().unwrap())
        };
        list.iter().map(pair).collect()
    }

    #[test]
    fn cookies_are_found_among_others_or_made() {
        let rule = rule(KeyOf::Cookie, "sid");
        let ip = IpAddr::from([10, 0, 0, 1]);
        let key = |list: &[(&'static str, &str)]| rule.key(&headers(list), ip, true, 0xab);
        let known = key(&[("cookie", "a=b; sid=7"), ("cookie", "c=d")]);
        assert!(known.hash.is_some() && known.told.is_none());
        assert_eq!(known.hash, key(&[("cookie", "sid=7")]).hash);
        assert_ne!(known.hash, key(&[("cookie", "sid=8")]).hash);
        for nothing in ["", "xsid=7", "sid=", "sid"] {
            let new = key(&[("cookie", nothing)]);
            let (name, cookie) = new.told.unwrap();
            assert_eq!(name, SET_COOKIE);
            let expected = "sid=00000000000000ab; Path=/; HttpOnly; SameSite=Lax; Secure";
            assert_eq!(cookie, expected);
            // The next request of the same client has the same key.
            let back = key(&[("cookie", "sid=00000000000000ab")]);
            assert_eq!(new.hash, back.hash);
        }
    }

    #[test]
    fn headers_addresses_and_what_peers_are_told() {
        let by_header = rule(KeyOf::Header, "x-user");
        let ip = IpAddr::from([10, 0, 0, 1]);
        let of = |list: &[(&'static str, &str)]| by_header.key(&headers(list), ip, false, 1).hash;
        assert_eq!(of(&[]), None);
        assert_ne!(of(&[("x-user", "a")]), of(&[("x-user", "b")]));
        let by_source = rule(KeyOf::SourceAddress, "");
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        let hash = by_source.key(&headers(&[]), ip, false, 1).hash;
        assert_eq!(by_source.of_connection(mapped), hash);
        assert_eq!(by_header.of_connection(ip), None);
        let mut head = HeaderMap::new();
        tell(0x1f, &mut head);
        assert_eq!(told(&head), Some(0x1f));
        assert_eq!(told(&headers(&[("isobar-key", "x")])), None);
    }
}
