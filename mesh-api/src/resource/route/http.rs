//! The spec of an `HTTPRoute`.

use serde::{Deserialize, Serialize};

use super::{
    BackendRef, HttpFilter, ParentRef, SessionPersistence, Timeouts, ValueMatch, is_default,
};

/// Where requests go, by host, path, method, headers and query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HttpRouteSpec {
    /// To what it is attached; may be left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parent_refs: Vec<ParentRef>,
    /// Host names it is for, exact or `*.suffix`; empty for any host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<String>,
    /// What happens to which requests. By default one rule that matches all and has no backend.
    #[serde(default = "rules_default")]
    pub rules: Vec<HttpRule>,
}

fn rules_default() -> Vec<HttpRule> {
    vec![HttpRule::default()]
}

impl Default for HttpRouteSpec {
    fn default() -> HttpRouteSpec {
        HttpRouteSpec {
            parent_refs: Vec::new(),
            hostnames: Vec::new(),
            rules: rules_default(),
        }
    }
}

/// What happens to the requests that one of `matches` fits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HttpRule {
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Which requests; empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<HttpMatch>,
    /// What is done to them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<HttpFilter>,
    /// Where they go, by weight.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backend_refs: Vec<BackendRef>,
    /// How long they may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// Which of them belong together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<SessionPersistence>,
}

/// Conditions that must all hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HttpMatch {
    /// On the path; by default any.
    #[serde(default, skip_serializing_if = "is_default")]
    pub path: PathMatch,
    /// On headers, each named once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<ValueMatch>,
    /// On query parameters, each named once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query_params: Vec<ValueMatch>,
    /// On the method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<HttpMethod>,
}

/// A condition on the path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathMatch {
    /// How it is compared.
    #[serde(default, rename = "type")]
    pub kind: PathMatchType,
    /// What it is compared with.
    #[serde(default = "path_default")]
    pub value: String,
}

fn path_default() -> String {
    "/".to_owned()
}

impl Default for PathMatch {
    fn default() -> PathMatch {
        PathMatch {
            kind: PathMatchType::default(),
            value: path_default(),
        }
    }
}

/// How a path is compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathMatchType {
    /// Byte for byte.
    Exact,
    /// It begins with these elements: `/a` fits `/a` and `/a/b`, not `/ab`.
    #[default]
    PathPrefix,
    /// The whole path matches a regular expression.
    RegularExpression,
}

/// A method that the Gateway API knows and a proxy forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum HttpMethod {
    /// RFC 9110, section 9.3.1.
    Get,
    /// RFC 9110, section 9.3.2.
    Head,
    /// RFC 9110, section 9.3.3.
    Post,
    /// RFC 9110, section 9.3.4.
    Put,
    /// RFC 9110, section 9.3.5.
    Delete,
    /// RFC 9110, section 9.3.6.
    Connect,
    /// RFC 9110, section 9.3.7.
    Options,
    /// RFC 9110, section 9.3.8.
    Trace,
    /// RFC 5789.
    Patch,
}

impl HttpMethod {
    /// As it stands in a request.
    pub fn as_str(self) -> &'static str {
        match self {
            HttpMethod::Get => "GET",
            HttpMethod::Head => "HEAD",
            HttpMethod::Post => "POST",
            HttpMethod::Put => "PUT",
            HttpMethod::Delete => "DELETE",
            HttpMethod::Connect => "CONNECT",
            HttpMethod::Options => "OPTIONS",
            HttpMethod::Trace => "TRACE",
            HttpMethod::Patch => "PATCH",
        }
    }
}
