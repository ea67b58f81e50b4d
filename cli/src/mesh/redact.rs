//! Takes secrets out of what leaves the house: for `isobar support-bundle`. Decides and knows no socket.
//!
//! Rather too much than too little: everything below a field whose name sounds like a secret goes, every value of a
//! header, and every text that looks like a key or a token wherever it stands.

use isobar_mesh_api::tap::{REDACTED, is_secret};
use serde_json::Value;

/// Fields with names and values of headers and parameters.
const PAIRS: [&str; 5] = ["headers", "set", "add", "queryParams", "cookies"];
/// What tokens of ours begin with.
const TOKENS: [&str; 2] = ["enrol_", "credential_"];

/// Redacts a value in place; returns how much was taken out.
pub fn redact(value: &mut Value) -> u64 {
    match value {
        Value::Object(map) => {
            let mut taken = 0;
            for (name, value) in map.iter_mut() {
                taken += match value {
                    Value::Null | Value::Bool(_) | Value::Number(_) => 0,
                    value if sounds_secret(name) => {
                        *value = Value::String(REDACTED.to_owned());
                        1
                    }
                    Value::Array(pairs) if PAIRS.contains(&name.as_str()) => {
                        pairs.iter_mut().map(pair).sum()
                    }
                    value => redact(value),
                };
            }
            taken
        }
        Value::Array(list) => list.iter_mut().map(redact).sum(),
        Value::String(text) => match redacted(text) {
            Some(other) => {
                *text = other;
                1
            }
            None => 0,
        },
        _ => 0,
    }
}

/// The value of a header or parameter goes, its name stays.
fn pair(pair: &mut Value) -> u64 {
    match pair.get_mut("value") {
        Some(value) => {
            *value = Value::String(REDACTED.to_owned());
            1 + redact(pair)
        }
        None => redact(pair),
    }
}

fn sounds_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    // The authority, and what is not authenticated, are counted and named all over.
    let name = name.replace("authority", "").replace("authenticated", "");
    is_secret(&name.replace(['_', '.'], "-")) || name == "keys" || name == "key_pem"
}

/// A text without what looks like a key or a token; `None` when there is nothing of it.
pub fn redacted(text: &str) -> Option<String> {
    if text.contains("PRIVATE KEY") {
        return Some(REDACTED.to_owned());
    }
    let is_edge = |c: char| !(c.is_ascii_alphanumeric() || "-_.~+/=:".contains(c));
    let looks = |word: &&str| {
        let ours = TOKENS.iter().any(|begin| word.starts_with(begin)) && word.len() > 20;
        // A JSON Web Token (RFC 7519).
        ours || (word.starts_with("eyJ") && word.matches('.').count() == 2)
    };
    let mut words: Vec<&str> = text.split(is_edge).filter(looks).collect();
    if words.is_empty() {
        return None;
    }
    words.sort_unstable_by_key(|word| std::cmp::Reverse(word.len()));
    let replace = |text: String, word: &str| text.replace(word, REDACTED);
    Some(words.into_iter().fold(text.to_owned(), replace))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_go_and_the_rest_stays() {
        let mut value = json!({
            "tokens": [{ "issuer": "x" }], "admin_token": "abc", "node": "a", "count": 3,
            "spec": { "rules": [{ "matches": [{ "headers": [{ "name": "x-a", "value": "v1" }] }],
                "filters": [{ "set": [{ "name": "x-b", "value": "v2" }] }] }] },
            "log": "node came with enrol_abcdefghijklmnopqrstuvwxyz, then left",
            "pem": "-----BEGIN PRIVATE KEY-----\nabc",
            "jwt": "Bearer eyJhbGciOi.J9eyJzdWI.abc",
            "authority": { "stage": "steady" }, "key": { "header": "x-user" },
        });
        assert_eq!(redact(&mut value), 7);
        let text = value.to_string();
        for secret in ["abc", "v1", "v2", "issuer", "enrol_", "eyJ"] {
            assert!(!text.contains(secret), "{secret} is in {text}");
        }
        for kept in [
            "x-a",
            "x-b",
            "node came with",
            "steady",
            "x-user",
            "\"count\":3",
        ] {
            assert!(text.contains(kept), "{kept} is not in {text}");
        }
    }

    #[test]
    fn ordinary_text_is_left_alone() {
        for text in ["", "a plan", "enrol_open", "isobar_controller_plan_epoch 3"] {
            assert_eq!(redacted(text), None, "{text}");
        }
    }
}
