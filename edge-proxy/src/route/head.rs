//! What a rule changes on a request's or an answer's head.
//!
//! Which names may be changed was checked when the route was written: none that frames a message, belongs to a
//! connection or to the mesh.

use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{StatusCode, Uri};
use isobar_mesh_api::resource::route::{
    HeaderModifier, PathModifier, RequestRedirect, Scheme, UrlRewrite,
};

use super::path;

/// Changes on the way there and back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeadChange {
    /// On the request's headers.
    pub request: HeaderChange,
    /// On the answer's headers.
    pub response: HeaderChange,
    /// On the request's host.
    pub host: Option<HeaderValue>,
    /// On the request's path.
    pub path: Option<PathChange>,
}

/// Changes of headers: first set, then add, then remove.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderChange {
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
    remove: Vec<HeaderName>,
}

/// Another path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathChange {
    /// Instead of the whole.
    Full(String),
    /// Instead of the prefix that matched.
    Prefix(String),
}

/// An answer that sends the client elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// The status.
    pub status: StatusCode,
    scheme: Option<&'static str>,
    host: Option<String>,
    port: Option<u16>,
    path: Option<PathChange>,
}

impl HeaderChange {
    pub(super) fn new(modifier: &HeaderModifier) -> HeaderChange {
        let header = |name: &str, value: &str| {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            Some((name, HeaderValue::from_bytes(value.as_bytes()).ok()?))
        };
        let all = |list: &[isobar_mesh_api::resource::route::Header]| {
            list.iter()
                .filter_map(|h| header(&h.name, &h.value))
                .collect()
        };
        let remove = modifier.remove.iter();
        HeaderChange {
            set: all(&modifier.set),
            add: all(&modifier.add),
            remove: remove.filter_map(|name| name.parse().ok()).collect(),
        }
    }

    /// Makes the changes.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

impl HeadChange {
    pub(super) fn rewrite(&mut self, rewrite: &UrlRewrite) {
        let host = rewrite.hostname.as_deref();
        self.host = host.and_then(|host| HeaderValue::from_str(host).ok());
        self.path = rewrite.path.as_ref().map(PathChange::new);
    }

    /// Changes a request whose path matched a prefix of this length.
    pub fn apply(&self, head: &mut Parts, prefix_len: usize) {
        self.request.apply(&mut head.headers);
        if let Some(host) = &self.host {
            head.headers.insert(HOST, host.clone());
        }
        if let Some(change) = &self.path {
            let path = change.path(head.uri.path(), prefix_len);
            set_path(&mut head.uri, &path);
        }
    }
}

impl PathChange {
    pub(super) fn new(modifier: &PathModifier) -> PathChange {
        // Checked: it has no ambiguous escapes. A dot segment is the operator's own.
        let plain = |text: &str| path::decoded(text).unwrap_or_else(|_| text.to_owned());
        match modifier {
            PathModifier::ReplaceFullPath(path) => PathChange::Full(plain(path)),
            PathModifier::ReplacePrefixMatch(path) => PathChange::Prefix(plain(path)),
        }
    }

    fn path(&self, path: &str, prefix_len: usize) -> String {
        let prefix = match self {
            PathChange::Full(full) => return full.clone(),
            PathChange::Prefix(prefix) => prefix,
        };
        let rest = path.get(prefix_len..).unwrap_or_default();
        let joined = match rest.is_empty() {
            true => prefix.clone(),
            false => format!("{}{rest}", prefix.trim_end_matches('/')),
        };
        match joined.is_empty() {
            true => "/".to_owned(),
            false => joined,
        }
    }
}

impl Redirect {
    pub(super) fn new(redirect: &RequestRedirect) -> Redirect {
        Redirect {
            status: StatusCode::from_u16(redirect.status_code).unwrap_or(StatusCode::FOUND),
            scheme: redirect.scheme.map(|scheme| match scheme {
                Scheme::Http => "http",
                Scheme::Https => "https",
            }),
            host: redirect.hostname.clone(),
            port: redirect.port,
            path: redirect.path.as_ref().map(PathChange::new),
        }
    }

    /// Where a request that came by `scheme` is sent. `None` when it names no host and the rule neither.
    ///
    /// The port is the rule's; else, with a scheme in the rule, that scheme's own; else the one that the client named.
    pub fn location(&self, head: &Parts, scheme: &str, prefix_len: usize) -> Option<HeaderValue> {
        let asked = head.headers.get(HOST).and_then(|host| host.to_str().ok());
        let asked = asked.unwrap_or_default();
        let (asked_host, asked_port) = match asked.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => {
                (host, port.parse().ok())
            }
            _ => (asked, None),
        };
        let host = self.host.as_deref().unwrap_or(asked_host);
        if host.is_empty() {
            return None;
        }
        let port = match (self.port, self.scheme) {
            (Some(port), _) => Some(port),
            (None, Some(_)) => None,
            (None, None) => asked_port,
        };
        let scheme = self.scheme.unwrap_or(scheme);
        let own = if scheme == "https" { 443 } else { 80 };
        let port = port.filter(|&port| port != own);
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let path = match &self.path {
            Some(change) => change.path(head.uri.path(), prefix_len),
            None => head.uri.path().to_owned(),
        };
        let query = head.uri.query().map(|query| format!("?{query}"));
        let query = query.unwrap_or_default();
        HeaderValue::from_str(&format!("{scheme}://{host}{port}{path}{query}")).ok()
    }
}

/// Replaces the path of a target in origin form; the query stays. A path that is none changes nothing.
pub fn set_path(uri: &mut Uri, path: &str) {
    let target = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    if let Ok(new) = Uri::try_from(target) {
        *uri = new;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn head(uri: &str, host: &str) -> Parts {
        let request = Request::get(uri).header("host", host);
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn prefixes_are_replaced() {
        let cases = [
            ("/foo/bar", 4, "/xyz", "/xyz/bar"),
            ("/foo/bar", 4, "/xyz/", "/xyz/bar"),
            ("/foo", 4, "/xyz", "/xyz"),
            ("/foo", 4, "/xyz/", "/xyz/"),
            ("/foo/", 4, "/xyz", "/xyz/"),
            ("/foo/bar", 4, "", "/bar"),
            ("/foo/bar", 4, "/", "/bar"),
            ("/foo", 4, "", "/"),
            ("/foo/", 4, "", "/"),
            ("/foo", 4, "/", "/"),
            ("/", 0, "/xyz", "/xyz/"),
            ("/a", 0, "/xyz", "/xyz/a"),
        ];
        for (path, len, replacement, expected) in cases {
            let change = PathChange::Prefix(replacement.to_owned());
            assert_eq!(change.path(path, len), expected, "{path} {replacement}");
        }
    }

    #[test]
    fn locations() {
        let check = |text: &str, uri: &str, host: &str, expected: Option<&str>| {
            let redirect = Redirect::new(&serde_json::from_str(text).unwrap());
            let location = redirect.location(&head(uri, host), "http", 2);
            assert_eq!(
                location.as_ref().map(|l| l.to_str().unwrap()),
                expected,
                "{text}"
            );
        };
        check("{}", "/a?b=c", "shop:7410", Some("http://shop:7410/a?b=c"));
        check("{}", "/", "shop:80", Some("http://shop/"));
        check("{}", "/", "[::1]:7410", Some("http://[::1]:7410/"));
        check(
            r#"{"scheme": "https"}"#,
            "/a",
            "shop:7410",
            Some("https://shop/a"),
        );
        check(
            r#"{"scheme": "https", "port": 8443}"#,
            "/a",
            "shop",
            Some("https://shop:8443/a"),
        );
        check(
            r#"{"scheme": "https", "port": 443}"#,
            "/a",
            "shop",
            Some("https://shop/a"),
        );
        check(
            r#"{"hostname": "new"}"#,
            "/a",
            "shop:81",
            Some("http://new:81/a"),
        );
        check(r#"{"hostname": "new"}"#, "/a", "", Some("http://new/a"));
        check("{}", "/a", "", None);
        let path = r#"{"path": {"type": "ReplaceFullPath", "replaceFullPath": "/n%65w"}}"#;
        check(path, "/a?b", "shop", Some("http://shop/new?b"));
        let path = r#"{"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/n"}}"#;
        check(path, "/a/b", "shop", Some("http://shop/n/b"));
    }

    #[test]
    fn heads_are_changed() {
        let modifier = r#"{"set": [{"name": "X-A", "value": "new"}], "add": [{"name": "x-b", "value": "2"}],
            "remove": ["X-C"]}"#;
        let mut change = HeadChange {
            request: HeaderChange::new(&serde_json::from_str(modifier).unwrap()),
            ..HeadChange::default()
        };
        let rewrite = r#"{"hostname": "new.example", "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/v2"}}"#;
        change.rewrite(&serde_json::from_str(rewrite).unwrap());
        let mut head = head("/v1/x?y=1", "shop");
        for (name, value) in [("x-a", "1"), ("x-a", "2"), ("x-b", "1"), ("x-c", "1")] {
            head.headers.append(name, HeaderValue::from_static(value));
        }
        change.apply(&mut head, 3);
        let all = |name: &str| head.headers.get_all(name).iter().collect::<Vec<_>>();
        assert_eq!(all("x-a"), ["new"]);
        assert_eq!(all("x-b"), ["1", "2"]);
        assert!(all("x-c").is_empty());
        assert_eq!(all("host"), ["new.example"]);
        assert_eq!(head.uri, "/v2/x?y=1");
    }
}
