//! SPIFFE identities of nodes, workloads and controllers.
//!
//! `spiffe://<trust-domain>/node/<node>` for proxies,
//! `spiffe://<trust-domain>/ns/<namespace>/sa/<account>` for workloads and
//! `spiffe://<trust-domain>/controller/<name>` for one controller towards another
//! (SPIFFE-ID standard, section 2). An identity is trusted only when it comes
//! out of a certificate that the trust domain's authority signed.
//!
//! A certificate has one URI (SPIFFE X.509-SVID, section 2). The proxy beside a workload is a node as well, so its certificate
//! says in a DNS name which: `<node>.node.<trust-domain>`. [`Holder`] is what both together say.

use std::fmt;

use crate::names::{AccountName, NameError, NodeId};

/// Longest SPIFFE ID in bytes (SPIFFE-ID standard, section 2.3).
pub const SPIFFE_ID_LEN_MAX: usize = 2048;

/// The trust domain of a mesh that was not given another.
pub const TRUST_DOMAIN_DEFAULT: &str = "isobar.local";

/// Namespace and account of the controllers' own certificate. Nobody else is given one for it.
const CONTROLLER: (&str, &str) = ("isobar", "controller");

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

    /// The identity of a workload.
    pub fn workload(trust_domain: &str, account: &AccountName) -> SpiffeId {
        SpiffeId {
            trust_domain: trust_domain.to_owned(),
            subject: Subject::Workload {
                namespace: account.namespace().to_owned(),
                account: account.name().to_owned(),
            },
        }
    }

    /// Who every controller is to proxies, and to other controllers that ask it.
    pub fn controller(trust_domain: &str) -> SpiffeId {
        SpiffeId {
            trust_domain: trust_domain.to_owned(),
            subject: Subject::Workload {
                namespace: CONTROLLER.0.to_owned(),
                account: CONTROLLER.1.to_owned(),
            },
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

    /// Namespace and account, if this is a workload's identity; the controllers' own is none.
    pub fn as_workload(&self) -> Option<(&str, &str)> {
        match &self.subject {
            Subject::Workload { namespace, account } => {
                let workload = (namespace.as_str(), account.as_str());
                (workload != CONTROLLER).then_some(workload)
            }
            Subject::Node(_) | Subject::Controller(_) => None,
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

/// Whom a certificate names: who it is, and which node its proxy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its one SPIFFE ID.
    pub id: SpiffeId,
    /// The node: of a node's certificate that of its URI, of a workload's that of its one DNS name. `None` for a workload that has
    /// no such name, and for controllers, whose DNS names are their operators'.
    pub node: Option<NodeId>,
}

impl Holder {
    /// Puts together what a certificate's names say. Only of a certificate that was checked is it worth anything.
    pub fn new<'a>(id: SpiffeId, mut dns_names: impl Iterator<Item = &'a str>) -> Holder {
        let node = match &id.subject {
            Subject::Node(node) => Some(node.clone()),
            Subject::Controller(_) => None,
            Subject::Workload { .. } => {
                match (id.as_workload(), dns_names.next(), dns_names.next()) {
                    (Some(_), Some(name), None) => node_in(&id.trust_domain, name),
                    // Of two names nobody can say which counts.
                    _ => None,
                }
            }
        };
        Holder { id, node }
    }

    /// Namespace and account of a workload whose proxy is a node.
    pub fn account(&self) -> Option<AccountName> {
        let (namespace, account) = self.id.as_workload().filter(|_| self.node.is_some())?;
        AccountName::new(&format!("{namespace}/{account}")).ok()
    }
}

/// Whether an account's identity is the controllers' own, which nobody else is given.
pub fn is_reserved(account: &AccountName) -> bool {
    (account.namespace(), account.name()) == CONTROLLER
}

/// The DNS name by which a workload's certificate says which node its proxy is.
pub fn node_name(trust_domain: &str, node: &NodeId) -> String {
    format!("{node}.node.{trust_domain}")
}

fn node_in(trust_domain: &str, name: &str) -> Option<NodeId> {
    let node = name.strip_suffix(trust_domain)?.strip_suffix(".node.")?;
    NodeId::new(node).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workloads_node_is_its_one_dns_name_and_nothing_else() {
        let front = "ns/shop/sa/front";
        let cases: [(&str, &[&str], Option<&str>); 13] = [
            (front, &["p-1.shop.node.isobar.local"], Some("p-1.shop")),
            (front, &["a.node.node.isobar.local"], Some("a.node")),
            (front, &[], None),
            (front, &["p-1.shop.node.other.local"], None),
            (front, &["p-1.shop.isobar.local"], None),
            (front, &["p-1.shopnode.isobar.local"], None),
            (front, &["node.isobar.local"], None),
            (front, &[".node.isobar.local"], None),
            (front, &["P-1.shop.node.isobar.local"], None),
            (front, &["*.node.isobar.local"], None),
            (front, &["a.node.isobar.local", "b.node.isobar.local"], None),
            // A controller has the names that its operator gives it; a node is what its URI says.
            ("ns/isobar/sa/controller", &["a.node.isobar.local"], None),
            ("node/b", &["a.node.isobar.local"], Some("b")),
        ];
        for (path, names, node) in cases {
            let id = SpiffeId::parse(&format!("spiffe://isobar.local/{path}")).unwrap();
            let holder = Holder::new(id, names.iter().copied());
            let is = holder.node.as_ref().map(NodeId::as_str);
            assert_eq!(is, node, "{path} {names:?}");
            let is_workload = node.is_some() && path == front;
            assert_eq!(holder.account().is_some(), is_workload, "{path} {names:?}");
        }
        let node = NodeId::new("p-1.shop").unwrap();
        assert_eq!(
            node_in("isobar.local", &node_name("isobar.local", &node)),
            Some(node)
        );
    }

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
