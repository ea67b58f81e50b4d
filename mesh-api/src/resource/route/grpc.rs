//! The spec of a `GRPCRoute`, and the HTTP rules that it means.
//!
//! A gRPC call is a `POST` to `/service/method` (gRPC over HTTP/2, "Requests"), so a method match is a path match.

use serde::{Deserialize, Serialize};

use super::{
    BackendRef, HttpFilter, HttpMatch, HttpRule, ParentRef, PathMatch, PathMatchType,
    SessionPersistence, ValueMatch, ValueMatchType, is_default,
};

/// Where gRPC calls go, by host, service, method and metadata.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct GrpcRouteSpec {
    /// To what it is attached; may be left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parent_refs: Vec<ParentRef>,
    /// Host names it is for, exact or `*.suffix`; empty for any host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<String>,
    /// What happens to which calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<GrpcRule>,
}

/// What happens to the calls that one of `matches` fits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct GrpcRule {
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Which calls; empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<GrpcMatch>,
    /// What is done to them: header modifiers, mirror, fault.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<HttpFilter>,
    /// Where they go, by weight.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backend_refs: Vec<BackendRef>,
    /// Which of them belong together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<SessionPersistence>,
}

/// Conditions that must all hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrpcMatch {
    /// On service and method; by default any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<GrpcMethodMatch>,
    /// On metadata, each key named once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<ValueMatch>,
}

/// A condition on service and method, of which at least one is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrpcMethodMatch {
    /// How both are compared.
    #[serde(default, rename = "type", skip_serializing_if = "is_default")]
    pub kind: ValueMatchType,
    /// The service with its package; absent for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The method; absent for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
}

impl GrpcRule {
    /// The HTTP rule with the same meaning.
    pub fn to_http(&self) -> HttpRule {
        HttpRule {
            name: self.name.clone(),
            matches: self.matches.iter().map(GrpcMatch::to_http).collect(),
            filters: self.filters.clone(),
            backend_refs: self.backend_refs.clone(),
            timeouts: None,
            session_persistence: self.session_persistence.clone(),
        }
    }
}

impl GrpcMatch {
    fn to_http(&self) -> HttpMatch {
        let path = self.method.as_ref().map(GrpcMethodMatch::to_path);
        HttpMatch {
            path: path.unwrap_or_default(),
            headers: self.headers.clone(),
            ..HttpMatch::default()
        }
    }
}

impl GrpcMethodMatch {
    fn to_path(&self) -> PathMatch {
        let (service, method) = (self.service.as_deref(), self.method.as_deref());
        let path = |kind, value| PathMatch { kind, value };
        match (self.kind, service, method) {
            (_, None, None) => PathMatch::default(),
            (ValueMatchType::Exact, Some(service), Some(method)) => {
                path(PathMatchType::Exact, format!("/{service}/{method}"))
            }
            (ValueMatchType::Exact, Some(service), None) => {
                path(PathMatchType::PathPrefix, format!("/{service}"))
            }
            // The letters of a method need no escapes.
            (ValueMatchType::Exact, None, Some(method)) => {
                path(PathMatchType::RegularExpression, format!("/[^/]+/{method}"))
            }
            (ValueMatchType::RegularExpression, service, method) => {
                let part = |regex: Option<&str>| match regex {
                    Some(regex) => format!("(?:{regex})"),
                    None => "[^/]+".to_owned(),
                };
                let regex = format!("/{}/{}", part(service), part(method));
                path(PathMatchType::RegularExpression, regex)
            }
        }
    }
}
