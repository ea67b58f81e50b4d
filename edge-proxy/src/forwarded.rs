//! What an endpoint is told about whom a request comes from.
//!
//! Who stands directly before this proxy is known; what they say of those before them is believed of trusted sources
//! alone. From others, what they sent is replaced: an endpoint can rely on the first entry.
//!
//! Pure; the parts that are the same for all requests of a connection are made once.

use std::net::IpAddr;

use http::header::{FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue};

use crate::config::Forwarded;

/// Whom the request comes from, and before that.
pub const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// What the client speaks: `http` or `https`.
pub const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The host that the client asked for.
pub const HOST_ASKED: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Longest list of earlier proxies that is passed on, in bytes; a longer one is replaced.
pub const LIST_LEN_MAX: usize = 4096;

/// What is said of the client of one connection.
#[derive(Debug, Clone)]
pub struct Client {
    which: Forwarded,
    is_trusted: bool,
    ip: IpAddr,
    address: HeaderValue,
    proto: HeaderValue,
}

impl Client {
    /// A client at this address; `is_trusted`: what it says of those before it is believed.
    pub fn new(which: Forwarded, ip: IpAddr, is_trusted: bool, is_tls: bool) -> Client {
        let ip = ip.to_canonical();
        // An address is digits, letters, '.' and ':'.
        let address = HeaderValue::from_str(&ip.to_string());
        Client {
            which,
            is_trusted,
            ip,
            address: address.unwrap_or_else(|_| HeaderValue::from_static("unknown")),
            proto: HeaderValue::from_static(if is_tls { "https" } else { "http" }),
        }
    }

    /// Whether what it says of those before it is believed.
    pub fn is_trusted(&self) -> bool {
        self.is_trusted
    }

    /// The address that a request comes from: the client's, or, when it is a proxy that is believed, the one that it says.
    pub fn source(&self, headers: &HeaderMap) -> IpAddr {
        let told = || {
            let list = self.is_trusted.then(|| headers.get(FOR))??;
            // What it said, and then itself, as `set` left it.
            let mut before = list.to_str().ok()?.rsplit(',').skip(1);
            before.next()?.trim().parse().ok()
        };
        told().unwrap_or(self.ip)
    }

    /// What the client of a request speaks, `http` or `https`, by the word of who is believed.
    pub fn scheme(&self, headers: &HeaderMap) -> &'static str {
        let told = match self.is_trusted {
            true => headers.get(PROTO),
            false => None,
        };
        match told.unwrap_or(&self.proto) == "https" {
            true => "https",
            false => "http",
        }
    }

    /// Who sends a request: of a client that is believed, whom it names last; else the client itself. Before
    /// [`Client::set`].
    pub fn address(&self, headers: &HeaderMap) -> IpAddr {
        if !self.is_trusted {
            return self.ip;
        }
        let lists = headers.get_all(&FOR).iter();
        let last = lists.filter_map(|list| list.to_str().ok()).next_back();
        let last = last.and_then(|list| list.rsplit(',').next());
        let told = last.and_then(|text| text.trim().parse::<IpAddr>().ok());
        told.map_or(self.ip, |told| told.to_canonical())
    }

    /// Sets the headers of one request.
    pub fn set(&self, headers: &mut HeaderMap) {
        if self.which == Forwarded::Off {
            return;
        }
        let list = self.list(headers, &FOR, &self.address);
        headers.insert(FOR, list);
        if !self.is_trusted || !headers.contains_key(PROTO) {
            headers.insert(PROTO, self.proto.clone());
        }
        if !self.is_trusted || !headers.contains_key(HOST_ASKED) {
            match headers.get(HOST).cloned() {
                Some(host) => headers.insert(HOST_ASKED, host),
                None => headers.remove(HOST_ASKED),
            };
        }
        match self.which {
            Forwarded::Both => {
                let element = self.element(headers);
                let list = self.list(headers, &FORWARDED, &element);
                headers.insert(FORWARDED, list);
            }
            _ if !self.is_trusted => drop(headers.remove(FORWARDED)),
            _ => {}
        }
    }

    /// What a trusted client said, and `last`.
    fn list(&self, headers: &HeaderMap, name: &HeaderName, last: &HeaderValue) -> HeaderValue {
        if !self.is_trusted || !headers.contains_key(name) {
            return last.clone();
        }
        let said = headers.get_all(name).iter().map(HeaderValue::as_bytes);
        let all: Vec<&[u8]> = said.chain([last.as_bytes()]).collect();
        let list = all.join(&b", "[..]);
        let fits = list.len() <= LIST_LEN_MAX;
        let list = HeaderValue::from_maybe_shared(bytes::Bytes::from(list)).ok();
        list.filter(|_| fits).unwrap_or_else(|| last.clone())
    }

    /// One element of `Forwarded` (RFC 7239, section 4).
    fn element(&self, headers: &HeaderMap) -> HeaderValue {
        let node = match self.ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("\"[{ip}]\""),
        };
        let proto = if self.proto == "https" {
            "https"
        } else {
            "http"
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        let host = host.filter(|host| host.bytes().all(plain));
        let text = match host {
            Some(host) => format!("for={node};proto={proto};host=\"{host}\""),
            None => format!("for={node};proto={proto}"),
        };
        HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("for=unknown"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(
        which: Forwarded,
        ip: &str,
        is_trusted: bool,
        sent: &[(&'static str, &str)],
    ) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        Client::new(which, ip.parse().unwrap(), is_trusted, true).set(&mut headers);
        let line = |(name, value): (&HeaderName, &HeaderValue)| {
            format!("{name}: {}", value.to_str().unwrap())
        };
        let mut lines: Vec<String> = headers
            .iter()
            .map(line)
            .filter(|line| !line.starts_with("host"))
            .collect();
        lines.sort();
        lines
    }

    const SENT: [(&str, &str); 6] = [
        ("host", "shop.example:8443"),
        ("x-forwarded-for", "198.51.100.1"),
        ("x-forwarded-for", "10.0.0.9"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "other.example"),
        ("forwarded", "for=198.51.100.1"),
    ];

    #[test]
    fn the_scheme_is_the_connections_or_what_is_believed() {
        let mut headers = HeaderMap::new();
        headers.insert(PROTO, HeaderValue::from_static("https"));
        let scheme = |is_trusted, is_tls, headers: &HeaderMap| {
            let ip = IpAddr::from([192, 0, 2, 1]);
            Client::new(Forwarded::XForwarded, ip, is_trusted, is_tls).scheme(headers)
        };
        assert_eq!(scheme(false, false, &headers), "http");
        assert_eq!(scheme(false, true, &HeaderMap::new()), "https");
        assert_eq!(scheme(true, false, &headers), "https");
        assert_eq!(scheme(true, false, &HeaderMap::new()), "http");
    }

    #[test]
    fn the_word_of_a_stranger_is_replaced() {
        let expected = [
            "x-forwarded-for: 192.0.2.1",
            "x-forwarded-host: shop.example:8443",
            "x-forwarded-proto: https",
        ];
        assert_eq!(
            told(Forwarded::XForwarded, "192.0.2.1", false, &SENT),
            expected
        );
        let both = told(Forwarded::Both, "2001:db8::1", false, &SENT);
        let element = "forwarded: for=\"[2001:db8::1]\";proto=https;host=\"shop.example:8443\"";
        assert_eq!(both[0], element);
        assert_eq!(
            told(Forwarded::XForwarded, "::ffff:192.0.2.1", false, &[])[0],
            "x-forwarded-for: 192.0.2.1"
        );
    }

    #[test]
    fn a_trusted_proxy_is_added_to() {
        let expected = [
            "forwarded: for=198.51.100.1, for=10.0.0.1;proto=https;host=\"shop.example:8443\"",
            "x-forwarded-for: 198.51.100.1, 10.0.0.9, 10.0.0.1",
            "x-forwarded-host: other.example",
            "x-forwarded-proto: http",
        ];
        assert_eq!(told(Forwarded::Both, "10.0.0.1", true, &SENT), expected);
        let long = "9".repeat(LIST_LEN_MAX);
        let list = told(
            Forwarded::XForwarded,
            "10.0.0.1",
            true,
            &[("x-forwarded-for", &long)],
        );
        assert_eq!(list[0], "x-forwarded-for: 10.0.0.1");
    }

    #[test]
    fn switched_off_nothing_is_touched() {
        assert_eq!(
            told(Forwarded::Off, "192.0.2.1", false, &SENT).len(),
            SENT.len() - 1
        );
    }
}
