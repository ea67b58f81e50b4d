//! What goes to etcd and comes back, in JSON: keys and values in base64, 64-bit numbers as text
//! (etcd's `rpc.proto` in proto3's JSON form).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

/// One key.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct KeyValue {
    /// Its name.
    #[serde(deserialize_with = "text")]
    pub key: String,
    /// What it says; absent when it is empty.
    #[serde(default, deserialize_with = "bytes")]
    pub value: Vec<u8>,
    /// The revision that made it.
    #[serde(default, deserialize_with = "number")]
    pub create_revision: i64,
    /// The lease it ends with; 0 for none.
    #[serde(default, deserialize_with = "number")]
    pub lease: i64,
}

/// Of every answer.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Header {
    /// The store's.
    #[serde(default, deserialize_with = "number")]
    pub revision: i64,
}

/// Keys.
#[derive(Debug, Clone, Deserialize)]
pub struct Range {
    /// At which revision.
    #[serde(default)]
    pub header: Header,
    /// In order.
    #[serde(default)]
    pub kvs: Vec<KeyValue>,
    /// Whether there are more than were asked for.
    #[serde(default)]
    pub more: bool,
}

/// What came of a transaction.
#[derive(Debug, Clone, Deserialize)]
pub struct TxnDone {
    /// At which revision.
    #[serde(default)]
    pub header: Header,
    /// Whether all comparisons held.
    #[serde(default)]
    pub succeeded: bool,
    /// Answers to its reads and writes.
    #[serde(default)]
    responses: Vec<OpDone>,
}

#[derive(Debug, Clone, Deserialize)]
struct OpDone {
    response_range: Option<Range>,
}

impl TxnDone {
    /// The first key that was read.
    pub fn first(&self) -> Option<&KeyValue> {
        let mut ranges = self
            .responses
            .iter()
            .filter_map(|r| r.response_range.as_ref());
        ranges.find_map(|range| range.kvs.first())
    }
}

/// Part of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Sets a key, which ends with a lease unless that is 0.
    Put {
        /// Which.
        key: String,
        /// To what.
        value: Vec<u8>,
        /// With which lease.
        lease: i64,
    },
    /// Removes keys up to before `end`, or `key` alone when that is empty.
    Delete {
        /// The first.
        key: String,
        /// The first that stays.
        end: String,
    },
    /// Reads a key.
    Get(String),
}

/// A transaction: when every key has been made at that revision (0: is not there), then, else otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// Keys and the revisions that made them.
    pub when: Vec<(String, i64)>,
    /// What to do then.
    pub then: Vec<Op>,
    /// What to do otherwise.
    pub otherwise: Vec<Op>,
}

impl Txn {
    pub(super) fn to_json(&self) -> Value {
        let compare = self.when.iter().map(|(key, made)| {
            json!({
                "key": STANDARD.encode(key),
                "target": "CREATE",
                "result": "EQUAL",
                "create_revision": made.to_string(),
            })
        });
        json!({
            "compare": compare.collect::<Vec<_>>(),
            "success": self.then.iter().map(Op::to_json).collect::<Vec<_>>(),
            "failure": self.otherwise.iter().map(Op::to_json).collect::<Vec<_>>(),
        })
    }
}

impl Op {
    fn to_json(&self) -> Value {
        match self {
            Op::Put { key, value, lease } => json!({ "request_put": {
                "key": STANDARD.encode(key),
                "value": STANDARD.encode(value),
                "lease": lease.to_string(),
            }}),
            Op::Delete { key, end } => json!({ "request_delete_range": {
                "key": STANDARD.encode(key),
                "range_end": STANDARD.encode(end),
            }}),
            Op::Get(key) => json!({ "request_range": { "key": STANDARD.encode(key) } }),
        }
    }
}

pub(super) fn range(key: &str, end: &str, limit: u64, revision: i64) -> Value {
    json!({
        "key": STANDARD.encode(key),
        "range_end": STANDARD.encode(end),
        "limit": limit.to_string(),
        "revision": revision.to_string(),
    })
}

#[derive(Debug, Deserialize)]
pub(super) struct Granted {
    #[serde(rename = "ID", deserialize_with = "number")]
    pub id: i64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Kept {
    pub result: KeptResult,
}

#[derive(Debug, Deserialize)]
pub(super) struct KeptResult {
    /// Absent when the lease has ended.
    #[serde(rename = "TTL", default, deserialize_with = "number")]
    pub ttl: i64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Token {
    pub token: String,
}

/// An answer of which nothing is needed.
#[derive(Debug, Deserialize)]
pub(super) struct Message {}

/// A refusal: the words stand under one of two names, or in an object, from version to version.
#[derive(Debug, Default, Deserialize)]
struct Refused {
    #[serde(default)]
    error: Value,
    #[serde(default)]
    message: Option<String>,
}

/// How much of a refusal's words is kept, in characters.
const MESSAGE_LEN_MAX: usize = 300;

/// The words of a refusal, at most [`MESSAGE_LEN_MAX`]; what is not JSON is taken as it is.
pub(super) fn words(answer: &[u8]) -> String {
    let said = serde_json::from_slice::<Refused>(answer).map(Refused::message);
    // A character has at most four bytes.
    let start = &answer[..answer.len().min(4 * MESSAGE_LEN_MAX)];
    let text = match said {
        Ok(text) if !text.is_empty() => text,
        _ => String::from_utf8_lossy(start).into_owned(),
    };
    let text = text.trim().chars().take(MESSAGE_LEN_MAX);
    let text: String = text.map(|c| if c.is_control() { ' ' } else { c }).collect();
    match text.is_empty() {
        true => "without a word".to_owned(),
        false => text,
    }
}

impl Refused {
    fn message(self) -> String {
        match self.error {
            Value::String(text) => text,
            Value::Object(inner) => inner
                .get("message")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
            _ => self.message.unwrap_or_default(),
        }
    }
}

fn bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(from)?;
    STANDARD.decode(text).map_err(serde::de::Error::custom)
}

fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    String::from_utf8(bytes(from)?).map_err(serde::de::Error::custom)
}

fn number<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(i64),
        Text(String),
    }
    match Either::deserialize(from)? {
        Either::Number(number) => Ok(number),
        Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_etcd_writes_them() {
        let text = r#"{"header":{"cluster_id":"1","revision":"7"},"kvs":[{"key":"YS9i","create_revision":"5",
            "mod_revision":"6","version":"2","value":"AXs=","lease":"-9"}],"count":"1"}"#;
        let range: Range = serde_json::from_str(text).unwrap();
        assert_eq!((range.header.revision, range.more), (7, false));
        let one = &range.kvs[0];
        assert_eq!((one.key.as_str(), &one.value[..]), ("a/b", &[1, b'{'][..]));
        assert_eq!((one.create_revision, one.lease), (5, -9));
        let done = r#"{"header":{"revision":"8"},"responses":[{"response_range":{"kvs":[{"key":"YQ=="}]}}]}"#;
        let done: TxnDone = serde_json::from_str(done).unwrap();
        assert_eq!(
            (done.succeeded, done.first().unwrap().key.as_str()),
            (false, "a")
        );
        let gone: Kept = serde_json::from_str(r#"{"result":{"header":{},"ID":"5"}}"#).unwrap();
        assert_eq!(gone.result.ttl, 0);
    }

    #[test]
    fn refusals_of_every_version_are_told() {
        for text in [
            r#"{"error":"etcdserver: no leader","message":"etcdserver: no leader","code":14}"#,
            r#"{"error":{"grpc_code":14,"message":"etcdserver: no leader"}}"#,
            r#"{"message":"etcdserver: no leader","code":14}"#,
        ] {
            assert_eq!(words(text.as_bytes()), "etcdserver: no leader");
        }
        let plain = "CommonName of client sending a request against gateway will be ignored\n";
        assert_eq!(words(plain.as_bytes()), plain.trim());
        assert_eq!(words(b""), "without a word");
        assert_eq!(words(b"{}"), "{}");
        assert_eq!(words(b"a\r\n\x1b[31mb"), "a   [31mb");
        let long = "\u{e9}".repeat(100_000);
        assert_eq!(words(long.as_bytes()).chars().count(), MESSAGE_LEN_MAX);
    }
}
