//! The dashboard: one page with everything in it, that asks this API for what it shows.
//!
//! Its sources are in `controller/dashboard/`; what is served is built from them and committed, compressed. The page has
//! no figures of any mesh, so anybody may load it; what it shows it asks for with the token of whoever looks at it.

use std::sync::LazyLock;

use axum::Router;
use axum::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::Rest;
use super::picture::has;
use crate::problem::Problem;
use crate::secret::sha256;

/// The page, gzip.
const PAGE: &[u8] = include_bytes!("../../dashboard/dist/dashboard.html.gz");
/// What a browser may do with it: its own script and style by their hashes, requests to this API, nothing else.
const POLICY: &str = include_str!("../../dashboard/dist/csp.txt");

/// The page's tag.
static TAG: LazyLock<String> = LazyLock::new(|| format!("\"{}\"", &sha256(PAGE)[..16]));

pub(super) fn routes() -> Router<Rest> {
    Router::new()
        .route("/", get(page))
        .route("/dashboard", get(page))
}

async fn page(headers: HeaderMap) -> Result<Response, Problem> {
    if !takes_gzip(&headers) {
        let detail = "the dashboard is sent compressed with gzip alone; send Accept-Encoding: gzip";
        return Err(Problem::new(StatusCode::NOT_ACCEPTABLE, detail));
    }
    let every: [(HeaderName, &str); 8] = [
        (ETAG, &TAG),
        (CACHE_CONTROL, "no-cache"),
        (VARY, "accept-encoding"),
        (CONTENT_SECURITY_POLICY, POLICY.trim()),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ];
    if has(&headers, &TAG) {
        return Ok((StatusCode::NOT_MODIFIED, every).into_response());
    }
    let body = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_ENCODING, "gzip"),
    ];
    Ok((every, body, PAGE).into_response())
}

/// Whether gzip is among what a caller can read; who says nothing takes everything (RFC 9110, section 12.5.3).
fn takes_gzip(headers: &HeaderMap) -> bool {
    let mut said = headers.get_all(ACCEPT_ENCODING).iter().peekable();
    if said.peek().is_none() {
        return true;
    }
    let lists = said.filter_map(|value| value.to_str().ok());
    let mut named = None;
    let mut any = None;
    for entry in lists.flat_map(|list| list.split(',')) {
        let (coding, quality) = entry.split_once(';').unwrap_or((entry, "q=1"));
        let quality = quality.trim().trim_start_matches("q=").parse::<f64>();
        let wanted = quality.is_ok_and(|q| q > 0.0);
        match coding.trim() {
            "gzip" | "x-gzip" => named = Some(wanted),
            "*" => any = Some(wanted),
            _ => {}
        }
    }
    named.or(any).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_can_read_gzip() {
        let cases = [
            (None, true),
            (Some("gzip"), true),
            (Some("gzip, deflate, br, zstd"), true),
            (Some("br;q=1.0, gzip;q=0.5"), true),
            (Some("*"), true),
            (Some("*;q=0, gzip"), true),
            (Some("identity"), false),
            (Some(""), false),
            (Some("gzip;q=0, *"), false),
            (Some("br"), false),
        ];
        for (said, expected) in cases {
            let mut headers = HeaderMap::new();
            if let Some(said) = said {
                headers.insert(ACCEPT_ENCODING, said.parse().unwrap());
            }
            assert_eq!(takes_gzip(&headers), expected, "{said:?}");
        }
    }
}
