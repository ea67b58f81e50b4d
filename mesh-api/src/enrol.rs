//! How a proxy gets its first certificate.
//!
//! Over TLS to the controller's stream port, before it has a certificate, a
//! proxy posts a certificate request and a token. The proxy makes the key; it
//! never leaves the node.

use serde::{Deserialize, Serialize};

use crate::names::{NodeId, SiteName};

/// The request path of enrolment, on the stream port.
pub const ENROL_PATH: &str = "/v1/enrol";

/// Longest enrolment body, in bytes.
pub const ENROL_LEN_MAX: usize = 16 * 1024;

/// The root's fingerprint at the end of a token's text (`enrol_id_secret_fingerprint`): the SHA-256 of its certificate, in
/// hexadecimal. By it a proxy knows the controller before it has any certificate.
pub fn pin(token: &str) -> Option<&str> {
    let mut parts = token.strip_prefix("enrol_")?.split('_').skip(2);
    let (pin, None) = (parts.next()?, parts.next()) else {
        return None;
    };
    let is_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    (pin.len() == 64 && pin.bytes().all(is_hex)).then_some(pin)
}

/// What a proxy asks.
#[derive(Clone, Serialize, Deserialize)]
pub struct EnrolRequest {
    /// Which node it is; the token must allow it.
    pub node: NodeId,
    /// PKCS #10, PEM. Only its key is used: names and usages are the controller's.
    pub csr_pem: String,
    /// The credential. Never logged.
    pub token: String,
    /// The site that the node says to be of; a token may be for one site alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<SiteName>,
}

impl std::fmt::Debug for EnrolRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnrolRequest")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pin_stands_at_the_end() {
        let print = "0a".repeat(32);
        assert_eq!(
            pin(&format!("enrol_id_secret_{print}")),
            Some(print.as_str())
        );
        let upper = print.to_uppercase();
        for strange in [
            "",
            "enrol_id_secret",
            "enrol_id_secret_0a",
            &format!("renewal_id_secret_{print}"),
            &format!("enrol_id_secret_{upper}"),
            &format!("enrol_id_secret_{print}_"),
        ] {
            assert_eq!(pin(strange), None, "{strange}");
        }
    }
}
