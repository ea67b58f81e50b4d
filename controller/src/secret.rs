//! Secrets that the controller gives out and keeps only the hash of: `kind_id_secret`.
//!
//! The id says which secret is meant, so that a wrong one counts against that id alone; the secret is 32 random bytes,
//! so a plain hash of it is enough: there is nothing to guess from a dictionary.

use ring::digest;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::authority::{AuthorityError, random};

/// Random bytes of a secret, which is written in hexadecimal.
const SECRET_LEN: usize = 32;

/// Longest text that is looked at, in bytes.
pub const TEXT_LEN_MAX: usize = 1024;

/// The SHA-256 of a secret, in hexadecimal: what is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretHash(String);

/// A text of the form `kind_id_secret` or `kind_id_secret_rest`, cut up. Not yet believed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Claim<'a> {
    /// Which secret is meant.
    pub id: &'a str,
    secret: &'a str,
}

/// Makes a secret: its text for whoever shall have it, and its hash.
///
/// # Errors
/// The system gives no random numbers.
pub fn make(kind: &str, id: &str) -> Result<(String, SecretHash), AuthorityError> {
    let secret = hex(&random::<SECRET_LEN>()?);
    let hash = SecretHash::of(&secret);
    Ok((format!("{kind}_{id}_{secret}"), hash))
}

impl SecretHash {
    fn of(secret: &str) -> SecretHash {
        SecretHash(hex(
            digest::digest(&digest::SHA256, secret.as_bytes()).as_ref()
        ))
    }

    /// Whether the claim has the secret. Takes the same time wherever a wrong one differs.
    pub fn fits(&self, claim: Claim<'_>) -> bool {
        let other = SecretHash::of(claim.secret);
        bool::from(self.0.as_bytes().ct_eq(other.0.as_bytes()))
    }
}

impl<'a> Claim<'a> {
    /// Cuts a text; `None` when it is not of this kind.
    pub fn read(kind: &str, text: &'a str) -> Option<Claim<'a>> {
        if text.len() > TEXT_LEN_MAX {
            return None;
        }
        let mut parts = text.strip_prefix(kind)?.strip_prefix('_')?.split('_');
        let (id, secret) = (parts.next()?, parts.next()?);
        (secret.len() == 2 * SECRET_LEN).then_some(Claim { id, secret })
    }
}

/// The SHA-256 of bytes, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// Bytes from hexadecimal; `None` when the text is none.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let pair = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    let is_hex = text.len().is_multiple_of(2) && text.bytes().all(|b| b.is_ascii_hexdigit());
    is_hex.then(|| (0..text.len()).step_by(2).filter_map(pair).collect())
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secret_itself_fits() {
        let (text, hash) = make("credential", "ops").unwrap();
        let claim = Claim::read("credential", &text).unwrap();
        assert_eq!(claim.id, "ops");
        assert!(hash.fits(claim));
        let secret = text.rsplit('_').next().unwrap();
        assert!(!format!("{hash:?}").contains(secret));
        let longer = format!("{text}_pin");
        assert!(hash.fits(Claim::read("credential", &longer).unwrap()));
        let (other, _) = make("credential", "ops").unwrap();
        assert!(!hash.fits(Claim::read("credential", &other).unwrap()));
        for strange in [
            "",
            "credential",
            "credential_ops",
            "credential_ops_00",
            "enrol_ops_",
        ] {
            assert!(Claim::read("credential", strange).is_none(), "{strange:?}");
        }
        assert!(Claim::read("enrol", &text).is_none());
        let endless = format!("{text}{}", "0".repeat(TEXT_LEN_MAX));
        assert!(Claim::read("credential", &endless).is_none());
    }
}
