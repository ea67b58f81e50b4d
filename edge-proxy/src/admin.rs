//! The operator's port, on loopback.
//!
//! | path | answer |
//! |---|---|
//! | `GET /livez` | 200 while the program runs |
//! | `GET /readyz` | 200 while requests are taken, a service is known and one can be served, else 503 |
//! | `GET /metrics` | Prometheus text |
//! | `GET /config` | configuration, plan and weights in force, JSON |
//! | `GET /circuits` | every endpoint's circuit: state, since when, why, counters; JSON |
//! | `GET /logs` | the level of the program's own log |
//! | `PUT /logs?level=debug` | changes it until the next start |
//! | `POST /reload` | 202; the configuration file and certificates are read again |
//! | `POST /drain` | 202; the proxy ends when its requests have |

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use isobar_mesh_api::log_level::{self, LevelError};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::metrics;
use crate::proxy::Proxy;

/// Connections at once; more wait.
pub const CONNECTIONS_MAX: usize = 64;
/// Longest wait for a request's head.
const HEAD_WAIT_MAX: Duration = Duration::from_secs(10);
/// When the system is out of files, nothing is accepted for this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Answers operators until it is dropped; also while the proxy drains.
pub async fn run(proxy: Arc<Proxy>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        let room = connections.len() < CONNECTIONS_MAX;
        tokio::select! {
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if room => match accepted {
                Ok((stream, _)) => {
                    let proxy = Arc::clone(&proxy);
                    let service = service_fn(move |request| {
                        let answer = answer(&proxy, &request);
                        async move { Ok::<_, Infallible>(answer) }
                    });
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(HEAD_WAIT_MAX)
                        .serve_connection(TokioIo::new(stream), service);
                    connections.spawn(async move {
                        if let Err(error) = connection.await {
                            tracing::debug!(%error, "an admin connection ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting an admin connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

fn answer(proxy: &Proxy, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let text = |status, text: &str| reply(status, "text/plain; charset=utf-8", text.to_owned());
    let path = request.uri().path();
    let wanted = match path {
        "/drain" | "/reload" => &[Method::POST][..],
        "/logs" => &[Method::GET, Method::PUT],
        _ => &[Method::GET],
    };
    let known = [
        "/livez",
        "/readyz",
        "/metrics",
        "/config",
        "/circuits",
        "/drain",
        "/reload",
        "/logs",
    ]
    .contains(&path);
    if known && !wanted.contains(request.method()) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "another method is needed\n");
        let allow = HeaderValue::from_static(match path {
            "/drain" | "/reload" => "POST",
            "/logs" => "GET, PUT",
            _ => "GET",
        });
        response.headers_mut().insert(ALLOW, allow);
        return response;
    }
    match path {
        "/livez" => text(StatusCode::OK, "ok\n"),
        "/readyz" if proxy.drain.is_begun() => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        "/readyz" if !proxy.is_ready() => {
            let why = match proxy.knows_services() {
                false => "no service is known yet\n",
                true => "no endpoint of any service is healthy, here or near\n",
            };
            text(StatusCode::SERVICE_UNAVAILABLE, why)
        }
        "/readyz" => text(StatusCode::OK, "ok\n"),
        "/metrics" => reply(
            StatusCode::OK,
            "text/plain; version=0.0.4; charset=utf-8",
            metrics::render(proxy),
        ),
        "/config" => reply(StatusCode::OK, "application/json", config(proxy)),
        "/circuits" => reply(StatusCode::OK, "application/json", circuits(proxy)),
        "/logs" => levels(request),
        "/reload" => {
            proxy.reload.want();
            text(StatusCode::ACCEPTED, "reading the configuration\n")
        }
        "/drain" => {
            proxy.drain.begin();
            text(StatusCode::ACCEPTED, "draining\n")
        }
        _ => text(StatusCode::NOT_FOUND, "nothing here\n"),
    }
}

/// Shows or changes the levels of the program's own log.
fn levels(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let pairs = request.uri().query().unwrap_or_default().split('&');
    let asked = pairs.filter_map(|pair| pair.strip_prefix("level=")).next();
    let changed = match *request.method() == Method::PUT {
        true => log_level::set(&unescape(asked.unwrap_or_default())).map(drop),
        false => Ok(()),
    };
    let shown = || log_level::in_force().ok_or(LevelError::NotOurs);
    let (status, body) = match changed.and_then(|()| shown()) {
        Ok(levels) => (StatusCode::OK, format!("{levels}\n")),
        Err(LevelError::NotOurs) => (StatusCode::CONFLICT, format!("{}\n", LevelError::NotOurs)),
        Err(error) => (
            StatusCode::BAD_REQUEST,
            format!("{}\n", crate::chain(&error)),
        ),
    };
    reply(status, "text/plain; charset=utf-8", body)
}

/// What may be escaped in a query and stands in a level: `=`, `,` and `:`.
fn unescape(text: &str) -> String {
    let mut text = text.to_owned();
    for (escaped, plain) in [("%3D", "="), ("%2C", ","), ("%3A", ":")] {
        text = text.replace(escaped, plain);
        text = text.replace(&escaped.to_ascii_lowercase(), plain);
    }
    text
}

fn config(proxy: &Proxy) -> String {
    let routes = proxy.table.load();
    let shown = serde_json::json!({
        "config": **proxy.in_force.load(),
        "share_left": routes.share_left,
        "snapshot": &*routes.snapshot,
    });
    format!("{shown:#}\n")
}

fn circuits(proxy: &Proxy) -> String {
    let now_us = proxy.clock.now_us();
    let routes = proxy.table.load();
    let mut shown = Vec::new();
    for route in &routes.services {
        for endpoint in route.endpoints.iter() {
            let (view, through) = (endpoint.circuit.view(now_us), endpoint.circuit.through());
            shown.push(serde_json::json!({
                "service": route.live.service,
                "endpoint": endpoint.address(),
                "state": view.state.as_str(),
                "since_s": now_us.saturating_sub(view.since_us) as f64 / 1e6,
                "cause": view.cause.map(|cause| cause.as_str()),
                "wait_s": view.wait_us as f64 / 1e6,
                "failures_in_row": view.failures_in_row,
                "openings": view.openings,
                "requests": through.tally.ended,
                "failures": through.tally.failed,
                "errors": through.errors,
                "ejections": view.ejections,
                "healthy": view.is_healthy,
            }));
        }
    }
    format!("{:#}\n", serde_json::Value::Array(shown))
}

fn reply(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
