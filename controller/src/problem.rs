//! What a caller is told when a request is refused: RFC 9457 `application/problem+json`.
//!
//! One type for the REST API and the stream port. The public text says what the caller can
//! change; what only the operator may know goes to the log, where the problem is made.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use serde::Serialize;

use crate::store::StoreError;

/// A refused request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {detail}")]
pub struct Problem {
    /// The response's status.
    pub status: StatusCode,
    /// What is wrong, for people.
    pub detail: String,
    /// The fields that are wrong.
    pub fields: Vec<FieldProblem>,
}

/// What a failed store means for who asked: make room (507), ask again (503), or look at the log (500).
pub fn status_of(error: &StoreError) -> StatusCode {
    match error {
        StoreError::Full => StatusCode::INSUFFICIENT_STORAGE,
        StoreError::Busy | StoreError::Closed => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// One wrong field of a request's body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{pointer}: {detail}")]
pub struct FieldProblem {
    /// Where it stands: a JSON pointer as URI fragment (RFC 6901, section 6), `#/spec/workers`.
    pub pointer: String,
    /// What is wrong and what would be right.
    pub detail: String,
}

impl FieldProblem {
    /// A problem with the field at a pointer.
    pub fn new(pointer: impl Into<String>, detail: impl Into<String>) -> FieldProblem {
        FieldProblem {
            pointer: pointer.into(),
            detail: detail.into(),
        }
    }
}

/// The wire form (RFC 9457, section 3.1). `type` is `about:blank`, so the title is the status's.
#[derive(Serialize)]
struct Body<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldProblem],
}

impl Problem {
    /// A problem without a field.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Problem {
        Problem {
            status,
            detail: detail.into(),
            fields: Vec::new(),
        }
    }

    /// The problem as a response.
    pub fn to_response(&self) -> Response<Bytes> {
        let body = Body {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            errors: &self.fields,
        };
        // Strings and numbers always have a JSON form.
        let bytes = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = Response::new(Bytes::from(bytes));
        *response.status_mut() = self.status;
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }
}

/// A wrong field makes the body as a whole unprocessable.
impl From<FieldProblem> for Problem {
    fn from(field: FieldProblem) -> Problem {
        Problem {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            detail: field.to_string(),
            fields: vec![field],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_names_the_field() {
        let problem = Problem::from(FieldProblem::new("#/spec/workers", "must be 1 or more"));
        let response = problem.to_response();
        let said: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        let expected = serde_json::json!({
            "type": "about:blank",
            "title": "Unprocessable Entity",
            "status": 422,
            "detail": "#/spec/workers: must be 1 or more",
            "errors": [{"pointer": "#/spec/workers", "detail": "must be 1 or more"}],
        });
        assert_eq!(said, expected);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
    }
}
