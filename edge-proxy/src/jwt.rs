//! Tokens of end users (JWT, RFC 7519): which are believed.
//!
//! The `jsonwebtoken` crate reads and checks them; the signatures are checked here by ring, which the proxy has for TLS already.
//!
//! **Invariant**: the algorithm follows from the key and never from the token. Keys are public ones: what a token calls
//! `none` or `HS256` has no key that fits.

use std::sync::Once;

use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse,
};
use jsonwebtoken::signature::{self, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, Validation, decode, decode_header};
use ring::signature as ring_signature;

use crate::access::Claims;

/// Longest token that is looked at, in bytes.
pub const TOKEN_LEN_MAX: usize = 16 * 1024;
/// Most keys of one issuer; the rest of the list is left out.
pub const KEYS_MAX: usize = 64;
/// How far clocks may differ, in seconds.
pub const LEEWAY_S: u64 = 60;

/// Why a token is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Too long, not three parts, not JSON, or of an algorithm that is not known here.
    #[error("is no token that can be read")]
    Unreadable,
    /// No policy names its issuer.
    #[error("is of an issuer that no policy names")]
    Issuer,
    /// The issuer's keys are not there yet.
    #[error("is of an issuer whose keys could not be read yet")]
    NoKeys,
    /// The issuer has no such key.
    #[error("names a key that its issuer does not have")]
    Key,
    /// The algorithm is not the key's.
    #[error("is signed by another algorithm than its key's")]
    Algorithm,
    /// The signature is wrong.
    #[error("has a wrong signature")]
    Signature,
    /// Its time is over, or it says no end.
    #[error("has expired, or does not say when")]
    Expired,
    /// Its time has not begun.
    #[error("is not valid yet")]
    Early,
    /// For somebody else.
    #[error("is for another audience")]
    Audience,
}

/// An issuer's keys.
#[derive(Debug, Default)]
pub struct Keys(Vec<Key>);

#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

impl Keys {
    /// Reads a JWKS. Keys of kinds that are not used here, or that are not for signing, are left out.
    ///
    /// # Errors
    /// It is not a list of keys.
    pub fn read(text: &[u8]) -> Result<Keys, serde_json::Error> {
        let set: JwkSet = serde_json::from_slice(text)?;
        let usable = set.keys.iter().filter_map(Key::read).take(KEYS_MAX);
        Ok(Keys(usable.collect()))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The key that a token names; without a name the only one there is.
    fn find(&self, id: Option<&str>) -> Option<&Key> {
        match (id, self.0.as_slice()) {
            (None, [only]) => Some(only),
            (None, _) => None,
            (Some(id), all) => all.iter().find(|key| key.id.as_deref() == Some(id)),
        }
    }
}

impl Key {
    fn read(jwk: &Jwk) -> Option<Key> {
        let common = &jwk.common;
        if matches!(common.public_key_use, Some(PublicKeyUse::Encryption)) {
            return None;
        }
        let fitting = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => vec![
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ],
            AlgorithmParameters::EllipticCurve(ec) => match ec.curve {
                EllipticCurve::P256 => vec![Algorithm::ES256],
                EllipticCurve::P384 => vec![Algorithm::ES384],
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(pair) => match pair.curve {
                EllipticCurve::Ed25519 => vec![Algorithm::EdDSA],
                _ => return None,
            },
            // A secret key in a list that others can read is worth nothing.
            _ => return None,
        };
        let algorithms = match common.key_algorithm {
            None => fitting,
            Some(own) => fitting.into_iter().filter(|&a| is_same(own, a)).collect(),
        };
        Some(Key {
            id: common.key_id.clone(),
            algorithms,
            key: DecodingKey::from_jwk(jwk).ok()?,
        })
    }
}

fn is_same(own: KeyAlgorithm, algorithm: Algorithm) -> bool {
    format!("{own:?}") == format!("{algorithm:?}")
}

/// The issuer that a token names, read without believing anything. A token that names none has none.
///
/// # Errors
/// Not a token.
pub fn issuer(token: &str) -> Result<String, TokenError> {
    if token.len() > TOKEN_LEN_MAX {
        return Err(TokenError::Unreadable);
    }
    let claims = jsonwebtoken::dangerous::insecure_decode::<Claims>(token);
    let claims = claims.map_err(|_| TokenError::Unreadable)?.claims;
    let issuer = claims.get("iss").and_then(serde_json::Value::as_str);
    issuer.map(str::to_owned).ok_or(TokenError::Issuer)
}

/// What a token says, if it is believed.
///
/// # Errors
/// Why it is not.
pub fn check(
    token: &str,
    issuer: &str,
    audiences: &[String],
    keys: &Keys,
) -> Result<Claims, TokenError> {
    install();
    if token.len() > TOKEN_LEN_MAX {
        return Err(TokenError::Unreadable);
    }
    let header = decode_header(token).map_err(|_| TokenError::Unreadable)?;
    let key = keys.find(header.kid.as_deref()).ok_or(TokenError::Key)?;
    if !key.algorithms.contains(&header.alg) {
        return Err(TokenError::Algorithm);
    }
    let mut validation = Validation::new(header.alg);
    validation.leeway = LEEWAY_S;
    validation.validate_nbf = true;
    validation.set_issuer(&[issuer]);
    validation.set_audience(audiences);
    validation.set_required_spec_claims(&["exp", "iss", "aud"]);
    let decoded = decode::<Claims>(token, &key.key, &validation);
    decoded
        .map(|data| data.claims)
        .map_err(|error| reason(&error))
}

fn reason(error: &Error) -> TokenError {
    match error.kind() {
        ErrorKind::InvalidSignature => TokenError::Signature,
        ErrorKind::ExpiredSignature => TokenError::Expired,
        ErrorKind::ImmatureSignature => TokenError::Early,
        ErrorKind::InvalidIssuer => TokenError::Issuer,
        ErrorKind::InvalidAudience => TokenError::Audience,
        ErrorKind::MissingRequiredClaim(claim) if claim == "aud" => TokenError::Audience,
        ErrorKind::MissingRequiredClaim(claim) if claim == "iss" => TokenError::Issuer,
        ErrorKind::MissingRequiredClaim(_) => TokenError::Expired,
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidKeyFormat => TokenError::Algorithm,
        _ => TokenError::Unreadable,
    }
}

/// Has signatures checked by ring, in the whole process.
fn install() {
    static PROVIDER: CryptoProvider = CryptoProvider {
        signer_factory: |_, _| Err(ErrorKind::InvalidAlgorithm.into()),
        verifier_factory: verifier,
        key_utils: KeyUtils::new_unimplemented(),
    };
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Fails when there is one already; this crate installs no other.
        let _ = PROVIDER.install_default();
    });
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    use Algorithm as A;
    use ring_signature as s;
    let scheme = match (algorithm, key.kind()) {
        (A::RS256, DecodingKeyKind::RsaModulusExponent { .. }) => {
            Scheme::Rsa(&s::RSA_PKCS1_2048_8192_SHA256)
        }
        (A::RS384, DecodingKeyKind::RsaModulusExponent { .. }) => {
            Scheme::Rsa(&s::RSA_PKCS1_2048_8192_SHA384)
        }
        (A::RS512, DecodingKeyKind::RsaModulusExponent { .. }) => {
            Scheme::Rsa(&s::RSA_PKCS1_2048_8192_SHA512)
        }
        (A::PS256, DecodingKeyKind::RsaModulusExponent { .. }) => {
            Scheme::Rsa(&s::RSA_PSS_2048_8192_SHA256)
        }
        (A::PS384, DecodingKeyKind::RsaModulusExponent { .. }) => {
            Scheme::Rsa(&s::RSA_PSS_2048_8192_SHA384)
        }
        (A::PS512, DecodingKeyKind::RsaModulusExponent { .. }) => {
            Scheme::Rsa(&s::RSA_PSS_2048_8192_SHA512)
        }
        (A::ES256, DecodingKeyKind::SecretOrDer(_)) => Scheme::Raw(&s::ECDSA_P256_SHA256_FIXED),
        (A::ES384, DecodingKeyKind::SecretOrDer(_)) => Scheme::Raw(&s::ECDSA_P384_SHA384_FIXED),
        (A::EdDSA, DecodingKeyKind::SecretOrDer(_)) => Scheme::Raw(&s::ED25519),
        _ => return Err(ErrorKind::InvalidAlgorithm.into()),
    };
    Ok(Box::new(ByRing {
        algorithm: *algorithm,
        scheme,
        key: key.clone(),
    }))
}

struct ByRing {
    algorithm: Algorithm,
    scheme: Scheme,
    key: DecodingKey,
}

enum Scheme {
    Rsa(&'static ring_signature::RsaParameters),
    Raw(&'static dyn ring_signature::VerificationAlgorithm),
}

impl Verifier<Vec<u8>> for ByRing {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let verified = match (&self.scheme, self.key.kind()) {
            (Scheme::Rsa(scheme), DecodingKeyKind::RsaModulusExponent { n, e }) => {
                let key = ring_signature::RsaPublicKeyComponents { n, e };
                key.verify(scheme, message, signature)
            }
            (Scheme::Raw(scheme), DecodingKeyKind::SecretOrDer(key)) => {
                let key = ring_signature::UnparsedPublicKey::new(*scheme, key);
                key.verify(message, signature)
            }
            _ => return Err(signature::Error::new()),
        };
        verified.map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for ByRing {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

#[cfg(test)]
pub(crate) mod tests;
