//! Listeners beside the four that every proxy has.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use isobar_mesh_api::names::ServiceName;
use serde::{Deserialize, Serialize};

use super::sources::Sources;

/// Most listeners of a proxy.
pub const LISTENERS_MAX: usize = 256;
/// Most certificates of a listener.
pub const CERTIFICATES_MAX: usize = 1024;
/// Longest wait for a client's first bytes where they decide, in milliseconds.
pub const DETECT_WAIT_MS_MAX: u64 = 60_000;

/// One address that clients or local applications connect to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ListenerConfig {
    /// What it is called in metrics, logs and `addresses.json`: 1 to 63 of a-z, 0-9 and '-'.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// What its clients speak.
    pub protocol: ListenerProtocol,
    /// What it shows to TLS clients: the certificate of exactly the name that they ask for, else of a wildcard (one label),
    /// else the one with `default`, else none: the handshake fails. At most 1024.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<CertificateFiles>,
    /// Whether TLS clients are asked for a certificate of the mesh, by which access policies know them. Who has none comes
    /// in as before. TLS 1.3 alone, no resumption; one that is not believed ends the handshake.
    #[serde(default, skip_serializing_if = "is_false")]
    pub mesh_callers: bool,
    /// Whether HTTP/3 is served on the UDP port of the same number, and clients of HTTPS are told so.
    #[serde(default, skip_serializing_if = "is_false")]
    pub http3: bool,
    /// The port that clients are told, where another one leads here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http3_port: Option<u16>,
    /// Who gets a TCP connection that nothing else decides about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// Who gets a TLS connection that is passed through, by the name it asks for: `db.example`, `*.example` (one label) or
    /// `*`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub by_server_name: BTreeMap<String, ServiceName>,
    /// Who gets an intercepted TCP connection, by the address and port that it was going to.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub by_destination: BTreeMap<SocketAddr, ServiceName>,
    /// Whether connections begin with a header of the PROXY protocol, version 1 or 2.
    #[serde(default)]
    pub proxy_protocol: ProxyProtocol,
    /// Whose word counts, in the PROXY protocol and in forwarding headers; by default the proxy's own list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trusted_sources: Option<Sources>,
    /// Whether HTTP clients may ask for a service's bytes by `CONNECT name.namespace:port`, or by one of its hosts. Only
    /// services of the mesh; what it names is never resolved.
    #[serde(default, skip_serializing_if = "is_false")]
    pub connect: bool,
    /// How connections that were going elsewhere come here. A TCP connection that `by_destination` and `service` do not
    /// know is passed on to where it was going.
    #[serde(default)]
    pub intercept: Intercept,
    /// Ports whose connections are intercepted; all when there are none. What makes it so are rules of the system, which
    /// `isobar-proxy intercept` makes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub intercept_ports: Vec<u16>,
    /// Where the first bytes decide (`detect`, `tls-passthrough`): how long they are waited for, in milliseconds.
    #[serde(default = "detect_wait_ms_default")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = DETECT_WAIT_MS_MAX)))]
    pub detect_wait_ms_max: u64,
}

/// What a listener's clients speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ListenerProtocol {
    /// HTTP/1.1, or HTTP/2 by prior knowledge.
    Http,
    /// The same over TLS that ends here.
    Https,
    /// Anything; TLS ends here when there are certificates.
    Tcp,
    /// TLS that ends at the endpoint.
    TlsPassthrough,
    /// Whatever the first bytes say.
    Detect,
}

/// Key and certificate of some names. The files are read again when they change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// The certificate and what is between it and the root, PEM; read again within two seconds when it changes. Files that
    /// cannot be used change nothing; they are counted and logged.
    pub chain_file: PathBuf,
    /// The key, PEM.
    pub key_file: PathBuf,
    /// Names that it is shown for, `shop.example` or `*.example`; by default those in the certificate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Whether it is shown to clients that ask for another name or none.
    #[serde(default, skip_serializing_if = "is_false")]
    pub default: bool,
}

/// Whether connections begin with a header of the PROXY protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ProxyProtocol {
    /// They do not; nobody looks.
    #[default]
    Off,
    /// They may, from trusted sources. From others a header is refused.
    Accept,
    /// They must, and come from trusted sources.
    Require,
}

/// How connections that were going elsewhere come to a listener.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Intercept {
    /// They do not: clients connect to the listener.
    #[default]
    Off,
    /// By nftables' or iptables' `REDIRECT`.
    Redirect,
    /// By `TPROXY`.
    Tproxy,
}

impl ListenerConfig {
    /// A listener with everything by default.
    pub fn new(name: &str, address: SocketAddr, protocol: ListenerProtocol) -> ListenerConfig {
        ListenerConfig {
            name: name.to_owned(),
            address,
            protocol,
            certificates: Vec::new(),
            mesh_callers: false,
            http3: false,
            http3_port: None,
            service: None,
            by_server_name: BTreeMap::new(),
            by_destination: BTreeMap::new(),
            proxy_protocol: ProxyProtocol::Off,
            trusted_sources: None,
            connect: false,
            intercept: Intercept::Off,
            intercept_ports: Vec::new(),
            detect_wait_ms_max: detect_wait_ms_default(),
        }
    }
}

fn detect_wait_ms_default() -> u64 {
    1_000
}

fn is_false(flag: &bool) -> bool {
    !flag
}
