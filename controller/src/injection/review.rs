//! The API server's question before it takes a pod, and our answer (`admission.k8s.io/v1`).

use serde_json::{Value, json};

use super::{Injection, difference, inject};

/// Longest question, in bytes: the API server's own limit for an object, twice, and what is around it.
pub const REVIEW_LEN_MAX: usize = 7 << 20;
/// Longest identifier of a question, in characters.
const UID_LEN_MAX: usize = 256;

/// Why a text is no question. Whoever sent it was not an API server, or one of another time.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// Not JSON.
    #[error("the body is not JSON")]
    Json(#[from] serde_json::Error),
    /// Something else, or another version of it.
    #[error("the body is not an AdmissionReview of admission.k8s.io/v1")]
    Kind,
    /// Nothing to name the answer by.
    #[error("request.uid must be a text of 1 to {UID_LEN_MAX} characters")]
    Uid,
}

/// Answers one question. What is not a new pod is let through as it is.
///
/// # Errors
/// It is no question; see [`ReviewError`].
pub fn review(body: &[u8], injection: &Injection) -> Result<Value, ReviewError> {
    let asked: Value = serde_json::from_slice(body)?;
    if asked["kind"] != "AdmissionReview" || asked["apiVersion"] != "admission.k8s.io/v1" {
        return Err(ReviewError::Kind);
    }
    let request = &asked["request"];
    let uid = request["uid"].as_str().unwrap_or_default();
    if uid.is_empty() || uid.len() > UID_LEN_MAX {
        return Err(ReviewError::Uid);
    }
    let mut response = answer(request, injection);
    response["uid"] = json!(uid);
    Ok(
        json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response}),
    )
}

fn answer(request: &Value, injection: &Injection) -> Value {
    let kind = &request["kind"];
    if kind["kind"] != "Pod"
        || kind["group"]
            .as_str()
            .is_some_and(|group| !group.is_empty())
    {
        let what = "Isobar was asked about something that is no pod and let it through; check the webhook's rules";
        return json!({"allowed": true, "warnings": [what]});
    }
    if request["operation"] != "CREATE" {
        return json!({"allowed": true});
    }
    let before = &request["object"];
    let mut after = before.clone();
    match inject(&mut after, injection) {
        Ok(None) => patched(&difference(before, &after)),
        Ok(Some(left)) => {
            let what = format!("Isobar added no proxy: {}", left.as_str());
            json!({"allowed": true, "warnings": [what]})
        }
        Err(error) => {
            let message = format!("Isobar cannot add its proxy: the pod {error}");
            json!({"allowed": false, "status": {"code": 422, "reason": "Invalid", "message": message}})
        }
    }
}

fn patched(operations: &[Value]) -> Value {
    if operations.is_empty() {
        return json!({"allowed": true});
    }
    let text = json!(operations).to_string();
    json!({"allowed": true, "patchType": "JSONPatch", "patch": base64(text.as_bytes())})
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk
            .iter()
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - chunk.len()));
        for place in 0..4 {
            match place <= chunk.len() {
                true => text.push(char::from(
                    LETTERS[(bits >> (18 - 6 * place) & 63) as usize],
                )),
                false => text.push('='),
            }
        }
    }
    text
}
