//! Private keys at rest: sealed under a key that is not in the store.
//!
//! AES-256-GCM by ring, which is the TLS library's own cryptography too. What a seal is for is bound into it, so that
//! one sealed key cannot be put in another's place.

use std::path::Path;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf;
use serde::{Deserialize, Serialize};

use super::{AuthorityError, AuthorityOptions, random};
use crate::files::{Readers, read_if_there, write_whole};
use crate::secret::{hex, unhex};

/// The sealing key in the data directory, when the configuration names no other.
const KEY_FILE: &str = "authority.key";

/// Shortest text that a key is made of, in bytes.
pub const KEY_TEXT_LEN_MIN: usize = 32;

/// What the derived key is for (RFC 5869, section 3.2).
const INFO: &[u8] = b"isobar authority, private keys at rest, 1";

/// A private key that only the right [`Seal`] opens: nonce and ciphertext in hexadecimal.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sealed(String);

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealed")
    }
}

/// Seals and opens.
pub struct Seal(LessSafeKey);

/// The seal by the key that the options name; made in the data directory when they name none and nothing is sealed
/// yet.
///
/// # Errors
/// The key is missing or too short.
pub fn open(
    directory: &Path,
    options: &AuthorityOptions,
    has_sealed: bool,
) -> Result<Seal, AuthorityError> {
    if let Some(text) = &options.key_text {
        return Seal::new(text);
    }
    let own = directory.join(KEY_FILE);
    let path = options.key_file.as_ref().unwrap_or(&own);
    if let Some(text) = read_if_there(path)? {
        return Seal::new(&text);
    }
    if has_sealed || options.key_file.is_some() {
        return Err(AuthorityError::KeyMissing(path.clone()));
    }
    let text = hex(&random::<32>()?);
    write_whole(path, format!("{text}\n").as_bytes(), Readers::Owner)?;
    Seal::new(&text)
}

impl Seal {
    /// The seal of a secret text; of a text of enough random characters, whatever they are.
    ///
    /// # Errors
    /// The text has fewer than [`KEY_TEXT_LEN_MIN`] bytes.
    pub fn new(text: &str) -> Result<Seal, AuthorityError> {
        let text = text.trim();
        if text.len() < KEY_TEXT_LEN_MIN {
            return Err(AuthorityError::KeyShort);
        }
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(text.as_bytes());
        let derived = secret.expand(&[INFO], &AES_256_GCM);
        let key = derived.map(UnboundKey::from);
        Ok(Seal(LessSafeKey::new(
            key.map_err(|_| AuthorityError::Random)?,
        )))
    }

    /// Seals bytes for a purpose.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn close(&self, purpose: &str, secret: &[u8]) -> Result<Sealed, AuthorityError> {
        let nonce = random::<NONCE_LEN>()?;
        let mut bytes = secret.to_vec();
        self.0
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(purpose),
                &mut bytes,
            )
            .map_err(|_| AuthorityError::Random)?;
        Ok(Sealed(hex(&nonce) + &hex(&bytes)))
    }

    /// What was sealed for that purpose.
    ///
    /// # Errors
    /// [`AuthorityError::Sealed`]: another key, another purpose, or damage.
    pub fn open(&self, purpose: &str, sealed: &Sealed) -> Result<Vec<u8>, AuthorityError> {
        let bytes = unhex(&sealed.0).ok_or(AuthorityError::Sealed)?;
        let (nonce, rest) = bytes
            .split_first_chunk::<NONCE_LEN>()
            .ok_or(AuthorityError::Sealed)?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let mut rest = rest.to_vec();
        let opened = self.0.open_in_place(nonce, Aad::from(purpose), &mut rest);
        Ok(opened.map_err(|_| AuthorityError::Sealed)?.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_key_and_purpose_open() {
        let text = "0123456789abcdef0123456789abcdef";
        let seal = Seal::new(text).unwrap();
        let sealed = seal.close("root a", b"private").unwrap();
        let again = Seal::new(&format!("{text}\n")).unwrap();
        assert_eq!(again.open("root a", &sealed).unwrap(), b"private");
        assert!(!sealed.0.contains(&hex(b"private")));
        let other = Seal::new(&text.replace('0', "1")).unwrap();
        let mut damaged = sealed.clone();
        damaged.0.replace_range(30..31, "x");
        let mut short = sealed.clone();
        short.0.truncate(10);
        let refused = [
            other.open("root a", &sealed),
            seal.open("root b", &sealed),
            seal.open("root a", &damaged),
            seal.open("root a", &short),
        ];
        assert!(
            refused
                .iter()
                .all(|r| matches!(r, Err(AuthorityError::Sealed)))
        );
        assert!(matches!(Seal::new("short"), Err(AuthorityError::KeyShort)));
        let twice = seal.close("root a", b"private").unwrap();
        assert_ne!(sealed, twice, "a nonce was used twice");
    }
}
