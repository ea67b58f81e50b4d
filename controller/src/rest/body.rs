//! Bodies of requests and responses.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::problem::Problem;
use crate::resource_text::{Format, TEXT_LEN_MAX, parse};

/// Reads a body as its content type says; JSON when it says nothing.
///
/// # Errors
/// Too long (413), another content type (415), or not of the type it says (400).
pub(super) fn read(
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Value, Problem> {
    read_up_to(headers, body, TEXT_LEN_MAX)
}

/// [`read`] where a body has another limit, in bytes.
pub(super) fn read_up_to(
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
    len_max: usize,
) -> Result<Value, Problem> {
    let format = format(headers)?;
    let bytes = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("a body has at most {len_max} bytes"),
        ),
        status => Problem::new(status, "the body could not be read"),
    })?;
    parse(&bytes, format).map_err(|wrong| Problem {
        status: StatusCode::BAD_REQUEST,
        detail: format!("the body {}", wrong.detail),
        fields: vec![wrong],
    })
}

/// Reads a body that is one value of ours.
///
/// # Errors
/// As [`read`], or the field that is wrong (422).
pub(super) fn decode<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<T, Problem> {
    Ok(crate::resource_text::field("#", read(headers, body)?)?)
}

fn format(headers: &HeaderMap) -> Result<Format, Problem> {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return Ok(Format::Json);
    };
    let text = value.to_str().unwrap_or_default();
    let kind = text.split(';').next().unwrap_or_default().trim();
    match kind.to_ascii_lowercase().as_str() {
        "application/json" => Ok(Format::Json),
        "application/yaml" | "application/x-yaml" | "text/yaml" => Ok(Format::Yaml),
        _ => Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "send application/json or application/yaml",
        )),
    }
}

/// A JSON response.
pub(super) fn json<T: Serialize>(status: StatusCode, value: &T) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => (status, [(CONTENT_TYPE, "application/json")], bytes).into_response(),
        Err(error) => {
            tracing::error!(%error, "an answer has no JSON form");
            let detail = "the answer could not be written; the controller's log says why";
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail).into_response()
        }
    }
}
