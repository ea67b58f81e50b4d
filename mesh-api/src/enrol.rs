//! How a proxy gets its first certificate.
//!
//! Over TLS to the controller's stream port, before it has a certificate, a
//! proxy posts a certificate request and a token. The proxy makes the key; it
//! never leaves the node.

use serde::{Deserialize, Serialize};

use crate::names::NodeId;

/// The request path of enrolment, on the stream port.
pub const ENROL_PATH: &str = "/v1/enrol";

/// Longest enrolment body, in bytes.
pub const ENROL_LEN_MAX: usize = 16 * 1024;

/// What a proxy asks.
#[derive(Clone, Serialize, Deserialize)]
pub struct EnrolRequest {
    /// Which node it is; the token must allow it.
    pub node: NodeId,
    /// PKCS #10, PEM. Only its key is used: names and usages are the controller's.
    pub csr_pem: String,
    /// The credential. Never logged.
    pub token: String,
}

impl std::fmt::Debug for EnrolRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnrolRequest")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}
