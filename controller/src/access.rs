//! Who may do what with the REST API: a role for every method and path. Decides and knows no socket.
//!
//! | who | may |
//! |---|---|
//! | anybody | the dashboard's page, `/livez`, `/readyz`, `/openapi.json` |
//! | viewer | read everything but credentials, tokens and taps |
//! | operator | the same, and write resources; within their namespaces, when limited to some |
//! | admin | everything |
//!
//! **Invariant**: what no rule names needs an operator to write and a viewer to read, so a path that is added later is
//! never open by accident.

use http::Method;
use serde::{Deserialize, Serialize};

use crate::rest::{KINDS, KindRow};

/// Paths that anybody may read.
const OPEN: [&str; 5] = ["/", "/dashboard", "/livez", "/readyz", "/openapi.json"];

/// Paths that hand out or take away trust: an admin's, reading included.
const ADMIN: [&str; 2] = ["/v1/credentials", "/v1/tokens"];

/// Paths that change nothing although a body is sent there.
const ASKS: [&str; 1] = ["/v1/what-if"];

/// Paths that anybody with a credential may read and an admin write.
const ADMIN_WRITES: [&str; 2] = ["/v1/authority", "/v1/revocations"];

/// Paths that show what clients send: an operator's, and a limited one's within its namespaces.
const WATCHES: [&str; 1] = ["/v1/tap"];

/// How much somebody may do. Each may do what those before it may.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Reads, and writes resources.
    Operator,
    /// Everything, credentials and the authority included.
    Admin,
}

impl Role {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
        }
    }
}

/// Whom a request comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The credential's name.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Where it may write; everywhere when empty.
    pub namespaces: Vec<String>,
}

impl Caller {
    /// Whoever comes, where nobody is asked.
    pub fn anyone() -> Caller {
        Caller {
            name: "anonymous".to_owned(),
            role: Role::Admin,
            namespaces: Vec::new(),
        }
    }
}

/// What a request is, to somebody else who says whether it is allowed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deed {
    /// The role that it takes.
    pub role: Role,
    /// The namespace of what is written; `None` for what is in none, and for what is only read.
    pub namespace: Option<String>,
}

/// What a request is; `None` when anybody may send it.
pub fn deed(method: &Method, path: &str) -> Option<Deed> {
    let role = need(method, path)?;
    let own = (role == Role::Operator).then(|| namespace(path)).flatten();
    Some(Deed {
        role,
        namespace: own.map(str::to_owned),
    })
}

/// Why a caller may not do something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The role is too small.
    #[error("this needs the role {}; the credential has {}", .need.as_str(), .have.as_str())]
    Role {
        /// What it takes.
        need: Role,
        /// What there is.
        have: Role,
    },
    /// Not in the caller's namespaces.
    #[error("the credential may write in namespace {} alone", .0.join(", "))]
    Namespace(Vec<String>),
    /// Another authority that was asked said no.
    #[error("{0}")]
    Elsewhere(String),
}

/// The role that a request takes; `None` when anybody may send it.
pub fn need(method: &Method, path: &str) -> Option<Role> {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let within = |roots: &[&str]| roots.iter().any(|root| is_within(path, root));
    if reads && OPEN.contains(&path) {
        return None;
    }
    Some(match reads {
        _ if within(&ADMIN) => Role::Admin,
        _ if within(&WATCHES) => Role::Operator,
        false if within(&ASKS) => Role::Viewer,
        false if within(&ADMIN_WRITES) => Role::Admin,
        true => Role::Viewer,
        false => Role::Operator,
    })
}

/// Whether the caller may send the request.
///
/// # Errors
/// [`Denied`], which says what it would take.
pub fn check(caller: &Caller, method: &Method, path: &str) -> Result<(), Denied> {
    let Some(need) = need(method, path) else {
        return Ok(());
    };
    if caller.role < need {
        return Err(Denied::Role {
            need,
            have: caller.role,
        });
    }
    let namespaces = &caller.namespaces;
    let is_limited = need == Role::Operator && !namespaces.is_empty();
    let inside = namespace(path).is_some_and(|own| namespaces.iter().any(|n| n == own));
    match is_limited && !inside {
        true => Err(Denied::Namespace(namespaces.clone())),
        false => Ok(()),
    }
}

fn is_within(path: &str, root: &str) -> bool {
    let rest = path.strip_prefix(root);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The namespace in `/v1/kind/namespace/name`, as it is written there, and in what is below a name. One that is written
/// with escapes is none of anybody's, so it is refused rather than misread.
fn namespace(path: &str) -> Option<&str> {
    let is_below = |row: &&KindRow| row.namespaced && is_within(path, row.path);
    let roots = KINDS.iter().filter(is_below).map(|row| row.path);
    let watched = WATCHES.into_iter().filter(|root| is_within(path, root));
    let root = roots.chain(watched).next()?;
    let mut parts = path[root.len()..].strip_prefix('/')?.split('/');
    let (namespace, name) = (parts.next()?, parts.next()?);
    let is_own = matches!(parts.next(), None | Some("endpoints"));
    (is_own && !name.is_empty()).then_some(namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_needs_its_role() {
        use Role::{Admin, Operator, Viewer};
        let cases = [
            (Method::GET, "/livez", None),
            (Method::GET, "/openapi.json", None),
            (Method::GET, "/", None),
            (Method::GET, "/dashboard", None),
            (Method::POST, "/", Some(Operator)),
            (Method::GET, "/dashboard/more", Some(Viewer)),
            (Method::GET, "/v1/picture", Some(Viewer)),
            (Method::GET, "/v1/whoami", Some(Viewer)),
            (Method::POST, "/livez", Some(Operator)),
            (Method::GET, "/metrics", Some(Viewer)),
            (Method::GET, "/v1/status", Some(Viewer)),
            (Method::HEAD, "/v1/nodes/a", Some(Viewer)),
            (Method::PUT, "/v1/nodes/a", Some(Operator)),
            (Method::DELETE, "/v1/services/shop/cart", Some(Operator)),
            (Method::POST, "/v1/what-comes-later", Some(Operator)),
            (Method::POST, "/v1/what-if", Some(Viewer)),
            (Method::GET, "/v1/credentials", Some(Admin)),
            (Method::DELETE, "/v1/credentials/a", Some(Admin)),
            (Method::GET, "/v1/credentials-of-others", Some(Viewer)),
            (Method::GET, "/v1/tokens", Some(Admin)),
            (Method::GET, "/v1/tap/shop/cart", Some(Operator)),
            (Method::GET, "/v1/tap", Some(Operator)),
            (Method::PUT, "/v1/log-levels", Some(Operator)),
            (Method::PUT, "/v1/nodes/a/log-levels", Some(Operator)),
            (Method::POST, "/v1/bench-link", Some(Operator)),
            (Method::GET, "/v1/authority", Some(Viewer)),
            (Method::POST, "/v1/authority/rotation", Some(Admin)),
        ];
        for (method, path, expected) in cases {
            assert_eq!(need(&method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn a_limited_operator_writes_in_its_namespaces_alone() {
        let caller = Caller {
            name: "shop".to_owned(),
            role: Role::Operator,
            namespaces: vec!["shop".to_owned()],
        };
        let cases = [
            (Method::PUT, "/v1/services/shop/cart", true),
            (Method::DELETE, "/v1/http-routes/shop/cart", true),
            (Method::GET, "/v1/services/other/cart", true),
            (Method::PUT, "/v1/services/other/cart", false),
            (Method::PUT, "/v1/services/sh%6fp/cart", false),
            (Method::PUT, "/v1/services/shop/cart/more", false),
            (Method::PUT, "/v1/services/shop/cart/endpoints/a/h:1", true),
            (
                Method::PUT,
                "/v1/services/other/cart/endpoints/a/h:1",
                false,
            ),
            (Method::POST, "/v1/nodes/shop/drain", false),
            (Method::POST, "/v1/import", false),
            (Method::POST, "/v1/what-if", true),
            (Method::PUT, "/v1/services/shop/", false),
            (Method::PUT, "/v1/services//shop", false),
            (Method::PUT, "/v1/nodes/shop", false),
            (Method::PUT, "/v1/weight-policies/all", false),
            (Method::GET, "/v1/tokens", false),
            (Method::GET, "/v1/tap/shop/cart", true),
            (Method::GET, "/v1/tap/other/cart", false),
            (Method::GET, "/v1/tap", false),
            (Method::PUT, "/v1/log-levels", false),
            (Method::PUT, "/v1/nodes/shop/log-levels", false),
            (Method::POST, "/v1/bench-link", false),
        ];
        for (method, path, may) in cases {
            let checked = check(&caller, &method, path);
            assert_eq!(checked.is_ok(), may, "{method} {path}: {checked:?}");
        }
    }

    #[test]
    fn every_role_may_what_smaller_ones_may() {
        for (have, need) in [
            (Role::Viewer, Role::Viewer),
            (Role::Operator, Role::Viewer),
            (Role::Admin, Role::Operator),
        ] {
            assert!(have >= need);
        }
        let viewer = Caller {
            role: Role::Viewer,
            ..Caller::anyone()
        };
        let denied = check(&viewer, &Method::PUT, "/v1/nodes/a").unwrap_err();
        assert_eq!(
            denied.to_string(),
            "this needs the role operator; the credential has viewer"
        );
    }
}
