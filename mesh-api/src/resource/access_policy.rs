//! Who may call what: the spec of an `AccessPolicy`. `docs/access-policy.md` is the page for operators.
//!
//! For a request to a service, over all policies that select it:
//!
//! 1. one `deny` rule fits: refused;
//! 2. one `allow` rule fits: let in;
//! 3. else by the `default` of the most specific policy (by name before namespace before all; `deny` before `allow`
//!    among equals); a policy with `allow` rules and no `default` has `deny`;
//! 4. without any default: let in.
//!
//! A policy with `audit: true` refuses nobody: what it would refuse is counted and logged.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::names::{NodeId, RegionName, ServiceName};

mod check;

/// Most rules of one policy, `deny` and `allow` together.
pub const RULES_MAX: usize = 256;
/// Most entries of each list in a rule.
pub const ENTRIES_MAX: usize = 256;
/// Most issuers of one policy.
pub const ISSUERS_MAX: usize = 16;
/// Longest text in a rule, in bytes.
pub const TEXT_LEN_MAX: usize = 2048;
/// Longest list of keys, in bytes.
pub const JWKS_LEN_MAX: usize = 64 * 1024;

/// The spec of an `AccessPolicy`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct AccessPolicySpec {
    /// Services it guards, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ServiceName>,
    /// Services it guards, by namespace. With neither names nor namespaces it guards all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// What is refused, whatever else is said.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<Rule>,
    /// What is let in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Rule>,
    /// What becomes of the rest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<Decision>,
    /// Whose tokens are believed, and what for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<TokenIssuer>,
    /// Whether callers must have shown who they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MtlsRule>,
    /// Counts and logs what it would refuse, and refuses nothing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub audit: bool,
}

/// Whether callers must have shown who they are: by a certificate of the mesh, or as a workload that a node knows by its
/// address. Where policies differ, the most specific says; of equals the strictest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MtlsRule {
    /// At every port that is not named below.
    pub mode: MtlsMode,
    /// At single ports where calls enter the mesh.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<MtlsPort>,
}

/// The mode of one port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MtlsPort {
    /// Where calls enter the mesh.
    pub port: u16,
    /// What holds there.
    pub mode: MtlsMode,
}

/// What is asked of callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum MtlsMode {
    /// Nothing, and nobody looks.
    Off,
    /// Nothing; who did not show who they are is counted by caller.
    Permissive,
    /// Who did not show who they are is refused.
    Strict,
}

impl MtlsRule {
    /// What holds at a port.
    pub fn at(&self, port: u16) -> MtlsMode {
        let own = self.ports.iter().find(|own| own.port == port);
        own.map_or(self.mode, |own| own.mode)
    }
}

/// What policies ask of who calls a service at a port, and which of them says so; without `port`, at ports that none names.
pub fn mtls_mode<'a>(
    policies: impl Iterator<Item = &'a AccessPolicy>,
    service: &ServiceName,
    port: Option<u16>,
) -> Option<(MtlsMode, &'a str)> {
    let says = policies.filter_map(|policy| {
        let rule = policy.spec.mtls.as_ref()?;
        let mode = port.map_or(rule.mode, |port| rule.at(port));
        Some((policy.spec.selects(service)?, mode, policy.name.as_str()))
    });
    let first = says.max_by_key(|(weight, mode, _)| (*weight, *mode));
    first.map(|(_, mode, name)| (mode, name))
}

/// Let in or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// Let in.
    Allow,
    /// Refused.
    Deny,
}

/// Somebody does something. Fits when one of `from` and one of `to` fit; an empty list fits all.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    /// Who.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<Who>,
    /// What.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<What>,
}

/// Who: everything that is said must fit; of each list one entry. What is not known of a caller does not fit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Who {
    /// SPIFFE IDs, whole, or with `*` at the end for all that begin so.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub identities: Vec<String>,
    /// Namespaces of workloads.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// Nodes at which it enters the mesh.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeId>,
    /// Regions of these nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<RegionName>,
    /// Addresses or ranges of the client: `10.0.0.0/8`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// End users, by a token of one of the policies' issuers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenCondition>,
}

/// What a token must say; an empty condition is any valid token.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct TokenCondition {
    /// By one of these issuers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<String>,
    /// About one of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subjects: Vec<String>,
    /// Claims by name, each with one of these values. A list of values in the token has each of them, and a text each of its
    /// words (as in `scope`).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, Vec<String>>,
}

/// What: everything that is said must fit; of each list one entry. A TCP connection fits by its port alone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct What {
    /// Hosts, whole, or `*.example` for every name below.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Paths, whole, or with `*` at the end for all that begin so.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// Methods.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Headers by name, each with this value, or with any when it is `*`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Ports at which it enters the mesh.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
}

/// Whose tokens (JWT, RFC 7519) are believed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct TokenIssuer {
    /// `iss`, exactly.
    pub issuer: String,
    /// `aud` must name one of these.
    pub audiences: Vec<String>,
    /// The issuer's keys (JWKS, RFC 7517), as JSON text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks: Option<String>,
    /// The same in a file on each node, read again when it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks_file: Option<String>,
    /// The same at an `https://` or `http://` address that each node reaches, read again every five minutes and when a token names
    /// an unknown key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<String>,
    /// The file on each node with the roots, PEM, that an `https://` address is believed by; by default those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks_ca_file: Option<String>,
    /// Whether a request must have a token of one of the issuers. Without it, one is only checked where it is.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// Claims that the endpoint is told, by the header to put them in. These headers are taken from every client's request.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub claims_to_headers: BTreeMap<String, String>,
}

/// A policy on its way to proxies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AccessPolicy {
    /// Its name.
    pub name: String,
    /// What it says.
    pub spec: AccessPolicySpec,
}

impl AccessPolicySpec {
    /// How specifically it selects a service: 2 by name, 1 by namespace, 0 as one of all; `None`: not at all.
    pub fn selects(&self, service: &ServiceName) -> Option<u8> {
        let namespace = service.as_str().split('/').next().unwrap_or_default();
        if self.services.contains(service) {
            Some(2)
        } else if self.namespaces.iter().any(|n| n == namespace) {
            Some(1)
        } else {
            (self.services.is_empty() && self.namespaces.is_empty()).then_some(0)
        }
    }

    /// What becomes of what no rule is for.
    pub fn otherwise(&self) -> Option<Decision> {
        let listed = (!self.allow.is_empty()).then_some(Decision::Deny);
        self.default.or(listed)
    }
}
