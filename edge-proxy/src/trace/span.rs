//! Spans as a collector gets them: OTLP's JSON, one object each, with a comma before it.
//!
//! Names are those of OpenTelemetry's semantic conventions for HTTP and for connections where it has one, else they begin
//! with `isobar.`. A connection's spans are told when it ends: that is when its bytes are known.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use http::{Method, StatusCode};
use isobar_mesh_api::names::NodeId;

use super::Trace;
use crate::golden::Outcome;
use crate::json::{self, Value, attribute};
use crate::pick::Cause;
use crate::spool::Spool;
use crate::story::{Asked, AskedHead, Ended, To, Try};

/// `SPAN_KIND_SERVER` and `SPAN_KIND_CLIENT`.
const SERVER: u8 = 2;
const CLIENT: u8 = 3;

/// Tells all spans of a finished request.
pub(super) fn all(node: &NodeId, trace: &Trace, ended: &Ended<'_>, spool: &Spool) {
    // By the system's clock of now, which may have been set since the request arrived.
    let now_ns = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |t| t.as_nanos());
    let at_ns =
        |at_us: u64| now_ns.saturating_sub(u128::from(ended.now_us.saturating_sub(at_us)) * 1000);
    spool.put(ended.worker, |out| {
        let (begun_ns, parent) = (at_ns(ended.arrived_us), trace.parent);
        begin(out, trace, trace.own.span, parent);
        name(out, ended);
        let _ = write!(out, ",\"kind\":{SERVER},\"startTimeUnixNano\":\"{begun_ns}\",\"endTimeUnixNano\":\"{now_ns}\"");
        out.extend_from_slice(b",\"attributes\":[");
        server(out, node, ended);
        end(out, ended.is_error());
    });
    for (place, one) in ended.notes.tries.iter().enumerate() {
        spool.put(ended.worker, |out| {
            begin(out, trace, one.span, trace.own.span);
            name(out, ended);
            let (begun_ns, ended_ns) = (at_ns(one.begun_us), at_ns(one.ended_us));
            let _ = write!(out, ",\"kind\":{CLIENT},\"startTimeUnixNano\":\"{begun_ns}\",\"endTimeUnixNano\":\"{ended_ns}\"");
            out.extend_from_slice(b",\"attributes\":[");
            client(out, node, ended, place, one);
            end(out, has_failed(ended, one));
        });
    }
}

fn begin(out: &mut Vec<u8>, trace: &Trace, span: u64, parent: u64) {
    let _ = write!(
        out,
        ",{{\"traceId\":\"{:032x}\",\"spanId\":\"{span:016x}\"",
        trace.own.trace
    );
    if parent != 0 {
        let _ = write!(out, ",\"parentSpanId\":\"{parent:016x}\"");
    }
    if let Some(state) = &trace.state {
        out.extend_from_slice(b",\"traceState\":");
        json::string(out, state.as_bytes());
    }
}

/// Whether a try came to nothing good. A connection is not answered: it is served or it is not.
fn has_failed(ended: &Ended<'_>, one: &Try) -> bool {
    let is_connection = is_connection(ended);
    let is_bad = |status: StatusCode| status.as_u16() >= 400;
    !one.is_good || one.status.map_or(!is_connection, is_bad)
}

/// Whether it became bytes both ways: a TCP connection, or what a client asked for by `CONNECT`.
fn is_connection(ended: &Ended<'_>) -> bool {
    let head = ended.asked.head.as_ref();
    head.is_none_or(|head| head.method == Method::CONNECT)
}

/// The method, of a connection `TCP`, and the service once it is known: few names, and telling ones.
fn name(out: &mut Vec<u8>, ended: &Ended<'_>) {
    let head = ended.asked.head.as_ref();
    let method = head.map_or("TCP", |head| head.method.as_str());
    out.extend_from_slice(b",\"name\":");
    match &ended.notes.service {
        Some(live) => json::string(out, format!("{method} {}", live.service).as_bytes()),
        None => json::string(out, method.as_bytes()),
    }
}

fn end(out: &mut Vec<u8>, is_error: bool) {
    out.push(b']');
    if is_error {
        out.extend_from_slice(b",\"status\":{\"code\":2}");
    }
    out.push(b'}');
}

/// What both kinds of span say.
fn both(out: &mut Vec<u8>, node: &NodeId, ended: &Ended<'_>) {
    match &ended.asked.head {
        Some(head) => attribute(out, "http.request.method", head.method.as_str().into()),
        None => attribute(out, "network.transport", "tcp".into()),
    }
    attribute(out, "isobar.node", node.as_str().into());
    if let Some(live) = &ended.notes.service {
        attribute(
            out,
            "isobar.service",
            live.service.to_string().as_str().into(),
        );
    }
}

fn server(out: &mut Vec<u8>, node: &NodeId, ended: &Ended<'_>) {
    let (asked, notes) = (ended.asked, ended.notes);
    both(out, node, ended);
    if let Some(head) = &asked.head {
        request(out, asked, head);
    }
    if let Some(to) = asked.destination {
        attribute(out, "server.address", to.ip().to_string().as_str().into());
        attribute(out, "server.port", Value::Number(to.port().into()));
    }
    if let Some(client) = asked.client {
        attribute(out, "client.address", client.to_string().as_str().into());
    }
    if let Some(status) = notes.status.filter(|_| asked.head.is_some()) {
        let status = u64::from(status.as_u16());
        attribute(out, "http.response.status_code", Value::Number(status));
    }
    let sent = Value::Number(ended.sent_len);
    match is_connection(ended) {
        true => {
            let received = Value::Number(ended.received_len);
            attribute(out, "isobar.received_len", received);
            attribute(out, "isobar.sent_len", sent);
        }
        false => attribute(out, "http.response.body.size", sent),
    }
    attribute(out, "isobar.direction", asked.direction.as_str().into());
    attribute(out, "isobar.outcome", ended.outcome.as_str().into());
    if let Some(rule) = &notes.rule {
        let route = format!("{} {}", rule.route, rule.place);
        attribute(out, "isobar.route", route.as_str().into());
    }
    if let Some(home) = &asked.home {
        attribute(out, "isobar.home", home.as_str().into());
    }
    if let Some(reason) = notes.reason() {
        attribute(out, "isobar.reason", (&*reason).into());
    }
    if ended.is_error() || ended.outcome == Outcome::Gone {
        let status = notes.status.filter(|_| asked.head.is_some());
        let status = status.map(|status| status.as_u16());
        error_type(out, status, ended.outcome.as_str());
    }
}

/// What only a request has.
fn request(out: &mut Vec<u8>, asked: &Asked, head: &AskedHead) {
    // Without its query: what may be in there is for nobody else.
    attribute(out, "url.path", head.uri.path().into());
    attribute(out, "url.scheme", asked.scheme.into());
    if let Some(host) = head.host() {
        attribute(out, "server.address", Value::Text(host));
    }
    if let Some(agent) = &head.user_agent {
        attribute(out, "user_agent.original", Value::Text(agent.as_bytes()));
    }
    let version = match head.version {
        http::Version::HTTP_2 => "2",
        http::Version::HTTP_3 => "3",
        http::Version::HTTP_10 => "1.0",
        _ => "1.1",
    };
    attribute(out, "network.protocol.version", version.into());
}

fn client(out: &mut Vec<u8>, node: &NodeId, ended: &Ended<'_>, place: usize, one: &Try) {
    both(out, node, ended);
    let address = match &one.to {
        To::Endpoint(endpoint, is_probe) => {
            let circuit = if *is_probe { "half_open" } else { "closed" };
            attribute(out, "isobar.circuit", circuit.into());
            Some(endpoint.address())
        }
        To::Cloud(cloud) => {
            attribute(out, "isobar.to", "cloud".into());
            Some(cloud.address())
        }
        To::Node(neighbour, cause) => {
            attribute(out, "isobar.to", neighbour.node.as_str().into());
            attribute(out, "isobar.cause", cause.as_str().into());
            attribute(out, "server.address", neighbour.node.as_str().into());
            None
        }
    };
    if let Some((host, port)) = address.and_then(|address| address.rsplit_once(':')) {
        attribute(out, "server.address", host.into());
        if let Ok(port) = port.parse() {
            attribute(out, "server.port", Value::Number(port));
        }
    }
    attribute(out, "isobar.try", Value::Number(place as u64 + 1));
    if place > 0 && ended.asked.head.is_some() {
        attribute(
            out,
            "http.request.resend_count",
            Value::Number(place as u64),
        );
    }
    let status = one.status.map(|status| status.as_u16());
    if let Some(status) = status {
        attribute(
            out,
            "http.response.status_code",
            Value::Number(status.into()),
        );
    }
    if has_failed(ended, one) {
        error_type(out, status.filter(|status| *status >= 400), "failed");
    }
}

fn error_type(out: &mut Vec<u8>, status: Option<u16>, otherwise: &str) {
    match status {
        Some(status) => attribute(out, "error.type", status.to_string().as_str().into()),
        None => attribute(out, "error.type", otherwise.into()),
    }
}

impl Cause {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Plan => "plan",
            Cause::Spill => "spill",
        }
    }
}
