use super::*;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use serde_json::{Value, json};

pub(crate) const ISSUER: &str = "https://issuer.example";
/// The end of the century: tokens here do not expire by the clock.
pub(crate) const LATE: u64 = 4_102_444_800;

/// A signer of tokens.
pub(crate) struct Signer {
    key: EcdsaKeyPair,
    kid: &'static str,
}

fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    pub(crate) fn new(kid: &'static str) -> Signer {
        let (random, scheme) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(scheme, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(scheme, pkcs8.as_ref(), &random).unwrap();
        Signer { key, kid }
    }

    pub(crate) fn jwk(&self) -> Value {
        let point = self.key.public_key().as_ref();
        let (x, y) = (base64(&point[1..33]), base64(&point[33..]));
        json!({"kty": "EC", "crv": "P-256", "kid": self.kid, "use": "sig", "x": x, "y": y})
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        self.sign_as(&json!({"alg": "ES256", "kid": self.kid}), claims)
    }

    fn sign_as(&self, header: &Value, claims: &Value) -> String {
        let message = message(header, claims);
        let signed = self.key.sign(&SystemRandom::new(), message.as_bytes());
        format!("{message}.{}", base64(signed.unwrap()))
    }
}

fn message(header: &Value, claims: &Value) -> String {
    format!(
        "{}.{}",
        base64(header.to_string()),
        base64(claims.to_string())
    )
}

pub(crate) fn jwks(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

pub(crate) fn claims() -> Value {
    json!({"iss": ISSUER, "aud": ["shop", "mail"], "sub": "ann", "exp": LATE})
}

fn with(name: &str, value: Value) -> Value {
    let mut all = claims();
    match value {
        Value::Null => drop(all.as_object_mut().unwrap().remove(name)),
        value => all[name] = value,
    }
    all
}

#[test]
fn hostile_tokens() {
    let (ours, theirs) = (Signer::new("a"), Signer::new("a"));
    let second = Signer::new("b");
    let keys = Keys::read(jwks(&[ours.jwk(), second.jwk()]).as_bytes()).unwrap();
    let check = |token: &str| check(token, ISSUER, &["shop".to_owned()], &keys);
    let said = check(&ours.sign(&claims())).unwrap();
    assert_eq!(said["sub"], "ann");
    check(&second.sign(&claims())).unwrap();
    // The public key as the secret of a MAC: what an algorithm taken from the token would believe.
    let public = ours.key.public_key().as_ref().to_vec();
    let confused = message(&json!({"alg": "HS256", "kid": "a"}), &claims());
    let mac = hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA256, &public),
        confused.as_bytes(),
    );
    let confused = format!("{confused}.{}", base64(mac));
    let none = message(&json!({"alg": "none", "kid": "a"}), &claims());
    let sound = ours.sign(&claims());
    let (head, signature) = sound.rsplit_once('.').unwrap();
    let swapped = message(
        &json!({"alg": "ES256", "kid": "a"}),
        &with("sub", json!("bob")),
    );
    let cases = [
        (format!("{none}."), TokenError::Unreadable),
        (confused, TokenError::Algorithm),
        (theirs.sign(&claims()), TokenError::Signature),
        (format!("{swapped}.{signature}"), TokenError::Signature),
        (format!("{head}."), TokenError::Signature),
        (
            ours.sign_as(&json!({"alg": "ES256", "kid": "c"}), &claims()),
            TokenError::Key,
        ),
        (
            ours.sign_as(&json!({"alg": "ES256"}), &claims()),
            TokenError::Key,
        ),
        (
            ours.sign_as(&json!({"alg": "ES384", "kid": "a"}), &claims()),
            TokenError::Algorithm,
        ),
        (
            ours.sign_as(&json!({"alg": "RS256", "kid": "a"}), &claims()),
            TokenError::Algorithm,
        ),
        (
            ours.sign(&with("aud", json!("other"))),
            TokenError::Audience,
        ),
        (ours.sign(&with("aud", Value::Null)), TokenError::Audience),
        (
            ours.sign(&with("iss", json!("https://else.example"))),
            TokenError::Issuer,
        ),
        (
            ours.sign(&with("exp", json!(1_000_000))),
            TokenError::Expired,
        ),
        (ours.sign(&with("exp", Value::Null)), TokenError::Expired),
        (ours.sign(&with("nbf", json!(LATE))), TokenError::Early),
        ("a.b".to_owned(), TokenError::Unreadable),
        ("a.b.c".to_owned(), TokenError::Unreadable),
        (String::new(), TokenError::Unreadable),
        ("x".repeat(TOKEN_LEN_MAX + 1), TokenError::Unreadable),
    ];
    for (token, expected) in cases {
        let short: String = token.chars().take(60).collect();
        assert_eq!(check(&token).unwrap_err(), expected, "{short}");
    }
}

#[test]
fn kinds_of_keys() {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    let ed = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
    let x = base64(ed.public_key());
    let ed_jwk = json!({"kty": "OKP", "crv": "Ed25519", "kid": "e", "x": x});
    let message = message(&json!({"alg": "EdDSA", "kid": "e"}), &claims());
    let by_ed = format!("{message}.{}", base64(ed.sign(message.as_bytes())));
    let rsa_jwk = json!({"kty": "RSA", "kid": "r", "n": RSA_N, "e": "AQAB", "alg": "RS256"});
    let keys = Keys::read(jwks(&[ed_jwk, rsa_jwk]).as_bytes()).unwrap();
    for token in [by_ed.as_str(), RS256] {
        check(token, ISSUER, &["shop".to_owned()], &keys).unwrap();
    }
    let only_ps = json!({"kty": "RSA", "kid": "r", "n": RSA_N, "e": "AQAB", "alg": "PS256"});
    let keys = Keys::read(jwks(&[only_ps]).as_bytes()).unwrap();
    let refused = check(RS256, ISSUER, &["shop".to_owned()], &keys);
    assert_eq!(refused.unwrap_err(), TokenError::Algorithm);
    let secret = json!({"kty": "oct", "kid": "s", "k": base64("secret")});
    let sealing = json!({"kty": "EC", "crv": "P-256", "use": "enc", "x": base64([1; 32]), "y": base64([2; 32])});
    let keys = Keys::read(jwks(&[secret, sealing]).as_bytes()).unwrap();
    assert!(keys.is_empty());
    assert!(Keys::read(b"{}").is_err() && Keys::read(b"x").is_err());
}

#[test]
fn the_issuer_is_read_without_belief() {
    let signer = Signer::new("a");
    assert_eq!(issuer(&signer.sign(&claims())).unwrap(), ISSUER);
    let nobody = signer.sign(&with("iss", Value::Null));
    assert_eq!(issuer(&nobody).unwrap_err(), TokenError::Issuer);
    assert_eq!(issuer("a.b.c").unwrap_err(), TokenError::Unreadable);
}

/// The modulus of an RSA key of 2048 bits; openssl made it.
const RSA_N: &str = "\
    sa4vruHb_HkWvA81FckaJKwtOa0bfx_sU8NZdiDhdK1kE8L1z8o96mmIMoK0gaoYVRyweLweQ0IWeC4VIkwAbMtbYa_JXTRxmgTX\
    DRsYmrHckYAXQthWvmEB3E0Hp9ELASic4WRrMVVp6fImmz5X5s-crOiYglDpHwJg9fmFGRg9ZiLu_eSkZ8rvwHb8RFGKr2Q6bssH\
    39SIifhACJjY1tZ5jzmCD5FtJrcIgm-Oku2FM-rd6NtaT0hSC1mkqA83C5VUCNJEpa4fwSbFSuPKrfhIAPJS6WDjhXY5KjcaJzHQ\
    14cJIhSMjUJeTsxCU_2asn0JTRHdUOlEEhEJIwGTwQ\
";

/// A token that openssl signed with that key.
const RS256: &str = "\
    eyJhbGciOiJSUzI1NiIsImtpZCI6InIifQ.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwiYXVkIjoic2hvcCIsInN1Y\
    iI6ImFubiIsImV4cCI6NDEwMjQ0NDgwMH0.AIMEnpmF4TrnctkVMVCfl4K73Xi1YCUNoWMPv5NQjU4kWVcVuJDdavPMray6ISaK3\
    TooOyNJNoOnoZH6bYHCtwYLgqVrAx_DLYCVVUt07mtsyWmchrX4BVHHT-Iy9s1mzfUtvdyAuFEy_I8vVtpZTCAfV2iNH1VNaydXF\
    vqsBAo9-DtWs9qhA_9gQ-k5PQ0YbWxboIKt8-tTVKX0Rn9IkXHyI0oGr87r0XecCD2TbR8zBLFTle47i4g-4OPTgCe8y_eVrOLDK\
    4VkZkBSJFYe-5wbvbHJf484wn1BAvsSbocNCbCIuW908ZiVHyZ3rigdj-OGm_Km7eSp2pnnzPnWPg\
";
