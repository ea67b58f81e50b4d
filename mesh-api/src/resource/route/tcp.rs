//! The spec of a `TCPRoute`: where connections of a listener, or to a service, go, by weight.

use serde::{Deserialize, Serialize};

use super::{BackendRef, HttpRule, ParentRef};
use crate::names::ServiceName;

/// Where connections go that come in on listeners, or that are for services.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TcpRouteSpec {
    /// To which listeners it is attached, each by its `sectionName`, and to which services (group `""`, kind `Service`);
    /// at least one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parent_refs: Vec<ParentRef>,
    /// Where their connections go; exactly one, for nothing of a connection is looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<TcpRule>,
}

/// Where connections go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TcpRule {
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// To which services, by weight; without filters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backend_refs: Vec<BackendRef>,
}

impl TcpRouteSpec {
    /// Names of the listeners that it is for.
    pub fn listeners(&self) -> Vec<String> {
        let names = self
            .parent_refs
            .iter()
            .filter_map(|p| p.section_name.clone());
        names.collect()
    }

    /// Services that it is for: connections that were going to them. A name without a namespace is of the route's own.
    pub fn parents(&self, namespace: &str) -> Vec<ServiceName> {
        let services = self.parent_refs.iter().filter(|p| p.is_service());
        let name = |p: &ParentRef| {
            let namespace = p.namespace.as_deref().unwrap_or(namespace);
            ServiceName::new(&format!("{namespace}/{}", p.name)).ok()
        };
        services.filter_map(name).collect()
    }
}

impl TcpRule {
    /// The same in the form in which routes cross the wire.
    pub fn to_http(&self) -> HttpRule {
        HttpRule {
            backend_refs: self.backend_refs.clone(),
            ..HttpRule::default()
        }
    }
}
