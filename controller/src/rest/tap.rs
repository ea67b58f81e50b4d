//! `GET /v1/tap/{namespace}/{name}`: single requests of a service as they end, as Server-Sent Events; `GET /v1/tap`: those that
//! no known service is for.
//!
//! | event | data |
//! |---|---|
//! | `tapping` | the nodes that look, once at the beginning |
//! | `tapped` | one request: [`Line`] |
//! | `left_out` | how many matched and were not told, since the beginning |
//!
//! The tap ends when its reader goes. Who leaves an answer unread is cut off by the kernel, see
//! [`super::READ_TIME_MAX`]; until then its lines are counted instead of kept.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http_body::Frame;
use isobar_mesh_api::names::{NodeId, ServiceName};
use isobar_mesh_api::tap::{Filter, HEADERS_MAX, LINES_PER_S_MAX, PATH_LEN_MAX, is_secret};
use serde_json::{Value, json};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::Rest;
use super::call::{Call, Parameters, refused};
use super::errands::noted;
use crate::control_task::{Line, TapAsked, TapReader};
use crate::problem::Problem;

/// Requests a second that each proxy tells when nothing is said.
const LINES_PER_S_DEFAULT: u32 = 50;
/// How often a reader hears something, so that both ends notice when the other is gone.
const COMMENT_INTERVAL: Duration = Duration::from_secs(2);

/// The query parameters.
pub(super) const PARAMETERS: [&str; 8] = [
    "from", "to", "method", "path", "status", "moved", "max_rps", "headers",
];

pub(super) fn routes() -> Router<Rest> {
    Router::new()
        .route("/v1/tap/{namespace}/{name}", get(of_service))
        .route("/v1/tap", get(of_none))
}

async fn of_service(
    State(rest): State<Rest>,
    Path((namespace, name)): Path<(String, String)>,
    call: Call,
) -> Result<Response, Problem> {
    let service = format!("{namespace}/{name}");
    match ServiceName::new(&service) {
        Ok(known) => tap(&rest, Some(known), &call).await,
        Err(_) => Err(missing(&service)),
    }
}

async fn of_none(State(rest): State<Rest>, call: Call) -> Result<Response, Problem> {
    tap(&rest, None, &call).await
}

fn missing(service: &str) -> Problem {
    let detail = format!("there is no service {service:?}");
    Problem::new(StatusCode::NOT_FOUND, detail)
}

async fn tap(rest: &Rest, service: Option<ServiceName>, call: &Call) -> Result<Response, Problem> {
    let asked = asked(service, &call.parameters(&PARAMETERS)?)?;
    let view = rest.control.view().await?;
    if let Some(service) = &asked.filter.service
        && !view.services.iter().any(|s| s.service == *service)
    {
        return Err(missing(&service.to_string()));
    }
    for node in asked.from.iter().chain(&asked.filter.to) {
        if !view.nodes.iter().any(|n| n.node == *node) {
            let detail = format!("there is no node {node}");
            return Err(Problem::new(StatusCode::NOT_FOUND, detail));
        }
    }
    noted(rest, call, "Tap", described(&asked)).await?;
    let reader = rest.control.tap(asked).await?;
    let begin = event("tapping", &json!({ "nodes": reader.nodes }));
    let mut comments = tokio::time::interval(COMMENT_INTERVAL);
    comments.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let body = TapBody {
        begin: Some(begin),
        reader,
        told: [0; 2],
        comments,
        end: Box::pin(rest.signal.clone().cancelled_owned()),
    };
    let headers = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, Body::new(body)).into_response())
}

/// What the parameters ask for.
fn asked(service: Option<ServiceName>, parameters: &Parameters) -> Result<TapAsked, Problem> {
    let node = |name: &str| parameters.parsed::<NodeId>(name, "must be a node's name");
    let method = parameters.get("method").map(|method| {
        let method = method.to_ascii_uppercase();
        Method::from_bytes(method.as_bytes()).map_err(|_| refused("method", "must be a method"))
    });
    let path = parameters.get("path");
    if path.is_some_and(|path| !path.starts_with('/') || path.len() > PATH_LEN_MAX) {
        let detail = format!("must begin with / and have at most {PATH_LEN_MAX} bytes");
        return Err(refused("path", &detail));
    }
    let statuses = "must be a status such as 503, a class such as 5xx, or a range such as 500-503";
    let max_rps = format!("must be from 1 to {LINES_PER_S_MAX}");
    let lines_per_s_max = parameters.parsed("max_rps", &max_rps)?;
    let lines_per_s_max = lines_per_s_max.unwrap_or(LINES_PER_S_DEFAULT);
    if !(1..=LINES_PER_S_MAX).contains(&lines_per_s_max) {
        return Err(refused("max_rps", &max_rps));
    }
    Ok(TapAsked {
        filter: Filter {
            service,
            method: method.transpose()?.map(|method| method.to_string()),
            path: path.map(str::to_owned),
            status: parameters.parsed("status", statuses)?,
            moved: parameters.flag("moved")?,
            to: node("to")?,
        },
        from: node("from")?,
        headers: headers(parameters.get("headers").unwrap_or_default())?,
        lines_per_s_max,
    })
}

/// Names of headers, separated by commas; those that may hold a secret are refused.
fn headers(text: &str) -> Result<Vec<String>, Problem> {
    let mut names: Vec<String> = Vec::new();
    for name in text.split(',').map(str::trim).filter(|n| !n.is_empty()) {
        let short: String = name.chars().take(64).collect();
        let name = HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes());
        let name =
            name.map_err(|_| refused("headers", &format!("has {short:?}, which is no name")))?;
        if is_secret(name.as_str()) {
            let detail = format!("has {name}, which may hold a secret and is never told");
            return Err(refused("headers", &detail));
        }
        if !names.iter().any(|n| n == name.as_str()) {
            names.push(name.to_string());
        }
    }
    match names.len() > HEADERS_MAX {
        true => Err(refused("headers", &format!("may have {HEADERS_MAX} names"))),
        false => Ok(names),
    }
}

/// A tap in words, for the audit.
fn described(asked: &TapAsked) -> String {
    let filter = &asked.filter;
    let service = filter.service.as_ref();
    let mut text = service.map_or_else(|| "no service".to_owned(), ServiceName::to_string);
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            text.push_str(&format!(" {name}={value}"));
        }
    };
    add("from", asked.from.as_ref().map(NodeId::to_string));
    add("to", filter.to.as_ref().map(NodeId::to_string));
    add("method", filter.method.clone());
    add("path", filter.path.clone());
    let status = |s: isobar_mesh_api::tap::Statuses| format!("{}-{}", s.from, s.to);
    add("status", filter.status.map(status));
    add("moved", filter.moved.then(|| "true".to_owned()));
    let headers = asked.headers.join(",");
    add("headers", (!headers.is_empty()).then_some(headers));
    text
}

/// A body of requests that ends with the program, and ends the tap with itself.
struct TapBody {
    begin: Option<Bytes>,
    reader: TapReader,
    /// How many were left out, as last told: by proxies, by this reader.
    told: [u64; 2],
    comments: Interval,
    end: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl http_body::Body for TapBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = |bytes| Poll::Ready(Some(Ok(Frame::data(bytes))));
        if let Some(bytes) = self.begin.take() {
            return frame(bytes);
        }
        if self.end.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        if self.comments.poll_tick(context).is_ready() {
            let left_out = &self.reader.left_out;
            let [proxies, reader] =
                [&left_out.by_proxies, &left_out.by_reader].map(|c| c.load(Relaxed));
            if self.told != [proxies, reader] {
                self.told = [proxies, reader];
                return frame(event(
                    "left_out",
                    &json!({ "by_proxies": proxies, "by_reader": reader }),
                ));
            }
            return frame(Bytes::from_static(b":\n\n"));
        }
        match self.reader.lines.poll_recv(context) {
            Poll::Ready(Some(line)) => frame(event("tapped", &told(&line))),
            // The control task has ended.
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

fn told(line: &Line) -> Value {
    // Strings and numbers always have a JSON form.
    serde_json::to_value(line).unwrap_or_default()
}

fn event(name: &str, data: &Value) -> Bytes {
    // JSON on one line has no line breaks.
    Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_may_hold_secrets_are_refused() {
        assert_eq!(
            headers("User-Agent, x-b,user-agent").unwrap(),
            ["user-agent", "x-b"]
        );
        assert_eq!(headers("").unwrap(), Vec::<String>::new());
        for wrong in [
            "Cookie",
            "x-api-key",
            "a b",
            "a,b,c,d,e,f,g,h,i",
            "authorization",
        ] {
            assert!(headers(wrong).is_err(), "{wrong}");
        }
    }
}
