//! SPIFFE identities of nodes, workloads and controllers.
//!
//! `spiffe://<trust-domain>/node/<node>` for proxies,
//! `spiffe://<trust-domain>/ns/<namespace>/sa/<account>` for workloads and
//! `spiffe://<trust-domain>/controller/<name>` for one controller towards another
//! (SPIFFE-ID standard, section 2). An identity is trusted only when it comes
//! out of a certificate that the trust domain's authority signed.

use std::fmt;

use crate::names::{NameError, NodeId};

/// Longest SPIFFE ID in bytes (SPIFFE-ID standard, section 2.3).
pub const SPIFFE_ID_LEN_MAX: usize = 2048;

/// The trust domain of a mesh that was not given another.
pub const TRUST_DOMAIN_DEFAULT: &str = "isobar.local";

/// Why a text is not an identity of this mesh.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not `spiffe://…`, too long, or with a query, fragment, port or user.
    #[error("not a SPIFFE ID: {0:?}")]
    NotSpiffe(String),
    /// A SPIFFE ID whose path is neither a node's, a workload's nor a controller's.
    #[error("SPIFFE ID {0:?} names neither a node nor a workload nor a controller")]
    UnknownPath(String),
    /// A part of the path is not a name.
    #[error("SPIFFE ID with a bad name")]
    Name(#[from] NameError),
}

/// Who holds a certificate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A proxy.
    Node(NodeId),
    /// An application, by Kubernetes namespace and service account.
    Workload {
        /// Namespace.
        namespace: String,
        /// Service account.
        account: String,
    },
    /// One of several controllers, towards the others.
    Controller(NodeId),
}

/// A SPIFFE ID of this mesh.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    /// The trust domain, lower case.
    pub trust_domain: String,
    /// Who it is.
    pub subject: Subject,
}

impl SpiffeId {
    /// The identity of a node's proxy.
    pub fn node(trust_domain: &str, node: &NodeId) -> SpiffeId {
        SpiffeId {
            trust_domain: trust_domain.to_owned(),
            subject: Subject::Node(node.clone()),
        }
    }

    /// Reads a URI.
    ///
    /// # Errors
    /// Not a SPIFFE ID, or one with a path this mesh does not use.
    pub fn parse(uri: &str) -> Result<SpiffeId, IdentityError> {
        let not_spiffe = || IdentityError::NotSpiffe(uri.chars().take(80).collect());
        if uri.len() > SPIFFE_ID_LEN_MAX {
            return Err(not_spiffe());
        }
        let rest = uri.strip_prefix("spiffe://").ok_or_else(not_spiffe)?;
        let (trust_domain, path) = rest.split_once('/').ok_or_else(not_spiffe)?;
        let domain_ok = !trust_domain.is_empty()
            && trust_domain
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'));
        if !domain_ok {
            return Err(not_spiffe());
        }
        let parts: Vec<&str> = path.split('/').collect();
        let subject = match parts.as_slice() {
            ["node", node] => Subject::Node(NodeId::new(node)?),
            ["controller", name] => Subject::Controller(NodeId::new(name)?),
            ["ns", namespace, "sa", account] => Subject::Workload {
                namespace: NodeId::new(namespace)?.to_string(),
                account: NodeId::new(account)?.to_string(),
            },
            _ => return Err(IdentityError::UnknownPath(uri.chars().take(80).collect())),
        };
        Ok(SpiffeId {
            trust_domain: trust_domain.to_owned(),
            subject,
        })
    }

    /// The node, if this is a proxy's identity.
    pub fn as_node(&self) -> Option<&NodeId> {
        match &self.subject {
            Subject::Node(node) => Some(node),
            Subject::Workload { .. } | Subject::Controller(_) => None,
        }
    }

    /// The name, if this is a controller's identity towards other controllers.
    pub fn as_controller(&self) -> Option<&NodeId> {
        match &self.subject {
            Subject::Controller(name) => Some(name),
            Subject::Node(_) | Subject::Workload { .. } => None,
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/", self.trust_domain)?;
        match &self.subject {
            Subject::Node(node) => write!(f, "node/{node}"),
            Subject::Controller(name) => write!(f, "controller/{name}"),
            Subject::Workload { namespace, account } => write!(f, "ns/{namespace}/sa/{account}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_refuses_the_rest() {
        let good = [
            "spiffe://isobar.local/node/edge-1",
            "spiffe://city.example/ns/shop/sa/cart",
            "spiffe://city.example/controller/a",
        ];
        for uri in good {
            assert_eq!(SpiffeId::parse(uri).unwrap().to_string(), uri);
        }
        let bad = [
            "",
            "https://isobar.local/node/a",
            "spiffe://isobar.local",
            "spiffe:///node/a",
            "spiffe://u@isobar.local/node/a",
            "spiffe://isobar.local:1/node/a",
            "spiffe://isobar.local/node/a/",
            "spiffe://isobar.local/node//a",
            "spiffe://isobar.local/node/a?x=1",
            "spiffe://isobar.local/node/a#f",
            "spiffe://isobar.local/other/a",
            "spiffe://isobar.local/node/..",
            "spiffe://ISOBAR.local/node/a",
        ];
        for uri in bad {
            assert!(SpiffeId::parse(uri).is_err(), "{uri}");
        }
    }
}
