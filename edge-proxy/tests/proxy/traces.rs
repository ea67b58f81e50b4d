//! Traces: what a collector gets, what endpoints are told, and that nobody waits for a collector.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::access::shown_as_localhost;
use crate::access_log::{get_from_nobody, proxy_with, wait_for, with_nobody};
use crate::listeners::listener;
use crate::support::{
    Authority, HOST, TestEndpoint, TestProxy, connected, full, moves_to, nobody, send, snapshot,
    takes_from,
};
use crate::tcp::{Greeter, local, talk, with_plan};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use isobar_edge_proxy::config::Config;
use isobar_edge_proxy::config::listener::ListenerProtocol;
use isobar_edge_proxy::config::telemetry::{
    AccessLogConfig, Always, Output, ParentRule, TracesConfig,
};
use isobar_mesh_api::message::LocalService;
use isobar_mesh_api::names::ServiceName;
use isobar_mesh_api::weight::WHOLE_PPM;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// Takes OTLP over HTTP and keeps it.
struct Collector {
    address: SocketAddr,
    is_tls: bool,
    got: Arc<Mutex<Vec<(String, Value)>>>,
    task: JoinHandle<()>,
}

impl Collector {
    async fn start() -> Collector {
        Collector::start_with(None).await
    }

    /// With TLS, when there is an acceptor.
    async fn start_with(tls: Option<TlsAcceptor>) -> Collector {
        let is_tls = tls.is_some();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let got = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&got);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let kept = Arc::clone(&kept);
                let service = service_fn(move |request: Request<Incoming>| {
                    let kept = Arc::clone(&kept);
                    async move {
                        assert_eq!(request.headers()["content-type"], "application/json");
                        let path = request.uri().path().to_owned();
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let message = serde_json::from_slice(&body).unwrap();
                        kept.lock().unwrap().push((path, message));
                        let answer = Response::new(Full::new(Bytes::from_static(b"{}")));
                        Ok::<_, std::convert::Infallible>(answer)
                    }
                });
                let tls = tls.clone();
                tokio::spawn(async move {
                    let builder = hyper::server::conn::http1::Builder::new();
                    let Some(tls) = tls else {
                        let _ = builder
                            .serve_connection(TokioIo::new(stream), service)
                            .await;
                        return;
                    };
                    // Who does not believe this one hangs up.
                    if let Ok(stream) = tls.accept(stream).await {
                        let _ = builder
                            .serve_connection(TokioIo::new(stream), service)
                            .await;
                    }
                });
            }
        });
        Collector {
            address,
            is_tls,
            got,
            task,
        }
    }

    fn url(&self) -> String {
        match self.is_tls {
            false => format!("http://{}", self.address),
            true => format!("https://localhost:{}", self.address.port()),
        }
    }

    /// All spans so far, with their node.
    fn spans(&self) -> Vec<Span> {
        let got = self.got.lock().unwrap();
        let mut spans = Vec::new();
        for (path, message) in got.iter().filter(|(path, _)| path == "/v1/traces") {
            assert_eq!(path, "/v1/traces");
            for resource in message["resourceSpans"].as_array().unwrap() {
                let about = attributes(&resource["resource"]);
                assert_eq!(about["service.name"], "isobar-proxy");
                for scope in resource["scopeSpans"].as_array().unwrap() {
                    assert_eq!(scope["scope"]["name"], "isobar-proxy");
                    let all = scope["spans"].as_array().unwrap().iter();
                    spans.extend(all.map(|span| Span::new(span, &about["service.instance.id"])));
                }
            }
        }
        spans
    }

    /// Spans, once there are so many.
    async fn wait_for(&self, count: usize) -> Vec<Span> {
        wait_for("spans arrive", || {
            let spans = self.spans();
            (spans.len() >= count).then_some(spans)
        })
        .await
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug)]
struct Span {
    node: String,
    trace: String,
    id: String,
    parent: String,
    kind: u64,
    took_ns: u128,
    is_error: bool,
    about: BTreeMap<String, String>,
    whole: Value,
}

impl Span {
    fn new(span: &Value, node: &str) -> Span {
        let text = |name: &str| span[name].as_str().unwrap_or_default().to_owned();
        let at_ns = |name: &str| text(name).parse::<u128>().unwrap();
        Span {
            node: node.to_owned(),
            trace: text("traceId"),
            id: text("spanId"),
            parent: text("parentSpanId"),
            kind: span["kind"].as_u64().unwrap(),
            took_ns: at_ns("endTimeUnixNano") - at_ns("startTimeUnixNano"),
            is_error: span["status"]["code"] == 2,
            about: attributes(span),
            whole: span.clone(),
        }
    }

    fn is(&self, name: &str, value: &str) -> bool {
        self.about.get(name).is_some_and(|is| is == value)
    }
}

fn attributes(of: &Value) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for pair in of["attributes"].as_array().unwrap() {
        let value = pair["value"].as_object().unwrap().values().next().unwrap();
        let name = pair["key"].as_str().unwrap().to_owned();
        let is_new = found
            .insert(name, value.as_str().unwrap().to_owned())
            .is_none();
        assert!(is_new, "twice: {pair}");
    }
    found
}

fn traces(collector: &str, share: f64, always: &[Always]) -> TracesConfig {
    TracesConfig {
        ca_file: None,
        collector: collector.to_owned(),
        share,
        parent: ParentRule::Follow,
        always: always.to_vec(),
        slow_ms: 1_000,
        wait_ms_max: 5_000,
        queue_len_max: 256 * 1024,
    }
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

async fn get_as(proxy: &TestProxy, path: &str, headers: &[(&str, &str)]) -> String {
    let mut request = Request::get(path).header("host", HOST);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (status, _, body) = send(proxy.addresses.ingress, request.body(full("")).unwrap()).await;
    assert_eq!(status, StatusCode::OK);
    body
}

fn line<'a>(headers: &'a str, name: &str) -> Option<&'a str> {
    let found = headers.lines().filter_map(|line| line.split_once(": "));
    let mut found = found.filter(|(is, _)| *is == name).map(|(_, value)| value);
    let first = found.next();
    assert!(found.next().is_none(), "{name} twice: {headers}");
    first
}

#[tokio::test]
async fn a_moved_request_is_one_trace_through_two_proxies() {
    let (a, b) = (
        TestEndpoint::start("a").await,
        TestEndpoint::start("b").await,
    );
    let collector = Collector::start().await;
    let authority = Authority::new();
    // Its home decides: alone, `b` would record nothing.
    let receiver = takes_from(snapshot("b", &b, 8), "a");
    let receiver = proxy_with(&receiver, &authority, |config| {
        config.traces = Some(traces(&collector.url(), 0.0, &[]));
    })
    .await;
    let to_b = moves_to(
        snapshot("a", &a, 8),
        "b",
        receiver.addresses.mesh,
        WHOLE_PPM,
    );
    let home = proxy_with(&to_b, &authority, |config| {
        config.traces = Some(traces(&collector.url(), 1.0, &[]));
    })
    .await;
    let client = [
        ("tracestate", "vendor=1"),
        ("traceparent", &*format!("00-{TRACE}-00f067aa0ba902b7-01")),
    ];
    let seen = get_as(&home, "/headers", &client).await;
    let spans = collector.wait_for(4).await;
    assert_eq!(spans.len(), 4, "{spans:#?}");
    let find = |node: &str, kind: u64| {
        let mut found = spans
            .iter()
            .filter(|span| span.node == node && span.kind == kind);
        found.next().unwrap()
    };
    let (entered, hop) = (find("a", 2), find("a", 3));
    let (taken, served) = (find("b", 2), find("b", 3));
    assert!(spans.iter().all(|span| span.trace == TRACE), "{spans:#?}");
    let parents = [
        (entered, "00f067aa0ba902b7"),
        (hop, &entered.id),
        (taken, &hop.id),
        (served, &taken.id),
    ];
    for (span, parent) in parents {
        assert_eq!(span.parent, *parent, "{spans:#?}");
        assert!(span.is("http.request.method", "GET") && span.is("isobar.service", "shop/cart"));
        assert!(
            span.is("http.response.status_code", "200") && !span.is_error,
            "{span:?}"
        );
        assert_eq!(span.whole["traceState"], "vendor=1");
    }
    assert!(entered.is("isobar.direction", "ingress") && entered.is("isobar.outcome", "moved"));
    assert!(entered.is("url.path", "/headers") && entered.is("server.address", HOST));
    assert!(
        hop.is("isobar.to", "b") && hop.is("isobar.cause", "plan") && hop.is("isobar.try", "1")
    );
    assert!(taken.is("isobar.direction", "mesh") && taken.is("isobar.home", "a"));
    assert!(served.is("isobar.circuit", "closed"), "{served:?}");
    assert!(
        served.is("server.port", &b.address.port().to_string()),
        "{served:?}"
    );
    assert!(entered.took_ns >= hop.took_ns, "{spans:#?}");
    // The endpoint is told of the span that asks it.
    let told = format!("00-{TRACE}-{}-01", served.id);
    assert_eq!(line(&seen, "traceparent"), Some(&*told));
    assert_eq!(line(&seen, "tracestate"), Some("vendor=1"));
    home.end().await;
    receiver.end().await;
}

#[tokio::test]
async fn traces_begin_here_and_go_on_from_b3() {
    let a = TestEndpoint::start("a").await;
    let collector = Collector::start().await;
    let authority = Authority::new();
    let proxy = proxy_with(&snapshot("a", &a, 8), &authority, |config| {
        config.traces = Some(traces(&collector.url(), 1.0, &[]));
        config.access_log = Some(AccessLogConfig {
            share: 1.0,
            ..AccessLogConfig::default()
        });
    })
    .await;
    let one = format!("{TRACE}-00f067aa0ba902b7-1");
    let seen = get_as(&proxy, "/headers", &[("b3", &one)]).await;
    let told = line(&seen, "traceparent").unwrap().to_owned();
    assert!(
        told.starts_with(&format!("00-{TRACE}-")) && told.ends_with("-01"),
        "{told}"
    );
    let several = [
        ("x-b3-traceid", "a3ce929d0e0e4736"),
        ("x-b3-spanid", "00f067aa0ba902b7"),
        ("x-b3-sampled", "1"),
    ];
    let seen = get_as(&proxy, "/headers", &several).await;
    let told = line(&seen, "traceparent").unwrap();
    assert!(
        told.starts_with("00-0000000000000000a3ce929d0e0e4736-"),
        "{told}"
    );
    let seen = get_as(&proxy, "/headers", &[]).await;
    let own = line(&seen, "traceparent").unwrap().to_owned();
    let spans = collector.wait_for(6).await;
    let of_own = spans.iter().filter(|span| own.contains(&span.trace));
    let begins = of_own.filter(|span| span.parent.is_empty() && span.kind == 2);
    assert_eq!(begins.count(), 1, "{own} {spans:#?}");
    // The access log names the same traces.
    let text = wait_for("the access log is written", || {
        let text = std::fs::read_to_string(proxy.dir.path().join("access.log")).ok()?;
        (text.lines().count() == 3).then_some(text)
    })
    .await;
    for trace in [TRACE, &own[3..35]] {
        assert!(
            text.contains(&format!("\"trace_id\":\"{trace}\"")),
            "{text}"
        );
    }
    proxy.end().await;
}

#[tokio::test]
async fn whoever_is_not_recorded_is_told_of_only_when_it_fails() {
    let a = TestEndpoint::start("a").await;
    let collector = Collector::start().await;
    let authority = Authority::new();
    let plan = with_nobody(snapshot("a", &a, 8));
    let proxy = proxy_with(&plan, &authority, |config| {
        config.traces = Some(traces(&collector.url(), 0.0, &[Always::Errors]));
    })
    .await;
    let seen = get_as(&proxy, "/headers", &[]).await;
    let told = line(&seen, "traceparent").unwrap();
    assert!(told.ends_with("-00"), "{told}");
    let failing = format!("00-{TRACE}-00f067aa0ba902b7-00");
    get_from_nobody(&proxy, &[("traceparent", &failing)]).await;
    let spans = collector.wait_for(2).await;
    assert!(
        spans
            .iter()
            .all(|span| span.trace == TRACE && span.is_error),
        "{spans:#?}"
    );
    let entered = spans.iter().find(|span| span.kind == 2).unwrap();
    assert!(entered.is("error.type", "502") && entered.is("isobar.outcome", "failed"));
    let reason = "the endpoint could not be reached or broke off";
    assert!(entered.is("isobar.reason", reason), "{entered:?}");
    proxy.end().await;
}

/// A home that moves every connection to `b`, and `b`, which records nothing of its own accord.
async fn two_that_move(collector: &Collector, greeters: [&Greeter; 2]) -> [TestProxy; 2] {
    let unused = TestEndpoint::start("unused").await;
    let authority = Authority::new();
    let plan = takes_from(snapshot("b", &unused, 8), "a");
    let receiver = with_plan(plan, greeters[1], &authority, |config| {
        config.traces = Some(traces(&collector.url(), 0.0, &[]));
    })
    .await;
    let mesh = receiver.addresses.mesh;
    let plan = moves_to(snapshot("a", &unused, 8), "b", mesh, WHOLE_PPM);
    let home = with_plan(plan, greeters[0], &authority, |config| {
        let mut connects = listener(ListenerProtocol::Http);
        connects.name = "connects".to_owned();
        connects.connect = true;
        config.listeners.push(connects);
        config.traces = Some(traces(&collector.url(), 1.0, &[]));
    })
    .await;
    [home, receiver]
}

/// The four spans of a connection that moved: it entered, the hop, it was taken, it was served. Each is in the one before it.
fn chain(spans: &[Span]) -> [&Span; 4] {
    let find = |node: &str, kind: u64| {
        let mut found = spans
            .iter()
            .filter(|span| span.node == node && span.kind == kind);
        found.next().unwrap()
    };
    let chain = [find("a", 2), find("a", 3), find("b", 2), find("b", 3)];
    for pair in chain.windows(2) {
        assert_eq!(pair[1].parent, pair[0].id, "{spans:#?}");
        assert_eq!(pair[1].trace, pair[0].trace, "{spans:#?}");
    }
    for span in chain {
        assert!(span.is("isobar.service", "shop/db") && !span.is_error);
        assert!(!span.about.contains_key("error.type"), "{span:?}");
        assert!(
            !span.about.contains_key("http.response.status_code") || span.node == "a",
            "{span:?}"
        );
    }
    chain
}

#[tokio::test]
async fn a_moved_connection_is_one_trace_through_two_proxies() {
    let (a, b) = (Greeter::start().await, Greeter::start().await);
    let collector = Collector::start().await;
    let [home, receiver] = two_that_move(&collector, [&a, &b]).await;
    talk(home.own(), 1000).await;
    let spans = collector.wait_for(4).await;
    assert_eq!(spans.len(), 4, "{spans:#?}");
    let [entered, hop, taken, served] = chain(&spans);
    assert_eq!(entered.parent, "");
    for span in &spans {
        assert!(span.is("network.transport", "tcp"), "{span:?}");
        assert_eq!(span.whole["name"], "TCP shop/db");
        let has_method = span.about.contains_key("http.request.method");
        assert!(!has_method && !span.about.contains_key("url.path"));
    }
    for (span, direction, outcome) in [(entered, "ingress", "moved"), (taken, "mesh", "home")] {
        assert!(span.is("isobar.direction", direction) && span.is("isobar.outcome", outcome));
        assert!(span.is("isobar.received_len", "1000") && span.is("isobar.sent_len", "1008"));
        assert!(span.is("client.address", "127.0.0.1"), "{span:?}");
        assert!(span.is("server.port", &home.own().port().to_string()));
    }
    assert!(hop.is("isobar.to", "b") && hop.is("isobar.cause", "plan"));
    assert!(taken.is("isobar.home", "a") && !entered.about.contains_key("isobar.home"));
    assert!(served.is("server.port", &b.address.port().to_string()));
    assert!(entered.took_ns >= hop.took_ns, "{spans:#?}");
    home.end().await;
    receiver.end().await;
}

#[tokio::test]
async fn a_tunnel_that_a_client_asks_for_is_in_its_trace() {
    let (a, b) = (Greeter::start().await, Greeter::start().await);
    let collector = Collector::start().await;
    let [home, receiver] = two_that_move(&collector, [&a, &b]).await;
    let mut client = TcpStream::connect(home.addresses.listeners["connects"])
        .await
        .unwrap();
    let asked = format!(
        "CONNECT db.shop:5432 HTTP/1.1\r\nhost: db.shop:5432\r\n\
         traceparent: 00-{TRACE}-00f067aa0ba902b7-01\r\n\r\n"
    );
    client.write_all(asked.as_bytes()).await.unwrap();
    let mut heard = vec![0; 12];
    client.read_exact(&mut heard).await.unwrap();
    client.write_all(b"hi").await.unwrap();
    client.shutdown().await.unwrap();
    client.read_to_end(&mut heard).await.unwrap();
    let heard = String::from_utf8(heard).unwrap();
    assert!(
        heard.starts_with("HTTP/1.1 200") && heard.ends_with("hellohibye"),
        "{heard}"
    );
    let spans = collector.wait_for(4).await;
    assert_eq!(spans.len(), 4, "{spans:#?}");
    let [entered, hop, taken, _] = chain(&spans);
    assert_eq!(
        (&*entered.trace, &*entered.parent),
        (TRACE, "00f067aa0ba902b7")
    );
    assert!(entered.is("http.request.method", "CONNECT") && entered.is("isobar.outcome", "moved"));
    assert!(entered.is("http.response.status_code", "200") && hop.is("isobar.to", "b"));
    for span in [entered, taken] {
        assert!(span.is("isobar.received_len", "2") && span.is("isobar.sent_len", "10"));
    }
    home.end().await;
    receiver.end().await;
}

#[tokio::test]
async fn of_connections_that_are_not_recorded_those_that_fail_are_told_of() {
    let a = Greeter::start().await;
    let unused = TestEndpoint::start("unused").await;
    let collector = Collector::start().await;
    let authority = Authority::new();
    let nobody = nobody();
    let proxy = with_plan(snapshot("a", &unused, 8), &a, &authority, |config| {
        let service = ServiceName::new("shop/nobody").unwrap();
        config.services.push(LocalService {
            service: service.clone(),
            ..local(nobody)
        });
        let mut to_nobody = listener(ListenerProtocol::Tcp);
        to_nobody.name = "to-nobody".to_owned();
        to_nobody.service = Some(service);
        config.listeners.push(to_nobody);
        config.traces = Some(traces(&collector.url(), 0.0, &[Always::Errors]));
    })
    .await;
    talk(proxy.own(), 10).await;
    let mut failed = connected(proxy.addresses.listeners["to-nobody"]);
    assert!(failed.read(&mut [0; 8]).await.is_err());
    let spans = collector.wait_for(2).await;
    assert_eq!(spans.len(), 2, "{spans:#?}");
    for span in &spans {
        assert!(span.is_error && span.is("isobar.service", "shop/nobody"));
        assert_eq!(span.whole["status"]["code"], 2);
        assert!(span.about.contains_key("error.type"), "{span:?}");
    }
    let entered = spans.iter().find(|span| span.kind == 2).unwrap();
    assert!(entered.is("isobar.outcome", "failed") && entered.is("error.type", "failed"));
    assert!(
        entered.is("isobar.reason", "nobody has room"),
        "{entered:?}"
    );
    let tried = spans.iter().find(|span| span.kind == 3).unwrap();
    assert!(tried.is("server.port", &nobody.port().to_string()));
    proxy.end().await;
}

#[tokio::test]
async fn switched_off_headers_pass_as_they_came() {
    let a = TestEndpoint::start("a").await;
    let authority = Authority::new();
    let proxy = TestProxy::with_snapshot(&snapshot("a", &a, 8), &authority).await;
    let strange = [
        ("traceparent", "00-what-ever"),
        ("tracestate", "x=1"),
        ("b3", "0"),
    ];
    let seen = get_as(&proxy, "/headers", &strange).await;
    for (name, value) in strange {
        assert_eq!(line(&seen, name), Some(value));
    }
    let seen = get_as(&proxy, "/headers", &[]).await;
    assert_eq!(line(&seen, "traceparent"), None);
    proxy.end().await;
}

#[tokio::test]
async fn nobody_waits_for_a_collector_that_hangs() {
    let a = TestEndpoint::start("a").await;
    let authority = Authority::new();
    // It accepts connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let proxy = proxy_with(&snapshot("a", &a, 8), &authority, |config| {
        let mut traces = traces(&url, 1.0, &[]);
        traces.queue_len_max = 4096;
        traces.wait_ms_max = 50;
        config.traces = Some(traces);
    })
    .await;
    // It is not asked for anything in return: answers come, and what has no room is counted.
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        for _ in 0..50 {
            assert_eq!(proxy.get("/").await.0, StatusCode::OK);
        }
        let (_, metrics) = proxy.admin("GET", "/metrics").await;
        let is_zero = |outcome: &str| {
            metrics.contains(&format!(
                "isobar_proxy_spans_total{{outcome=\"{outcome}\"}} 0\n"
            ))
        };
        if !is_zero("dropped") && !is_zero("lost") {
            assert!(is_zero("written"), "{metrics}");
            break;
        }
        assert!(Instant::now() < until, "{metrics}");
    }
    proxy.end().await;
}

#[tokio::test]
async fn an_access_log_goes_to_the_collector_too() {
    let a = TestEndpoint::start("a").await;
    let collector = Collector::start().await;
    let authority = Authority::new();
    let log = |config: &mut Config| {
        config.access_log = Some(AccessLogConfig {
            output: Output::Otlp,
            collector: Some(collector.url()),
            share: 1.0,
            ..AccessLogConfig::default()
        });
    };
    let proxy = proxy_with(&snapshot("a", &a, 8), &authority, log).await;
    let traceparent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    get_as(&proxy, "/x", &[("traceparent", &traceparent)]).await;
    let record = wait_for("a record arrives", || {
        let got = collector.got.lock().unwrap();
        let (_, message) = got.iter().find(|(path, _)| path == "/v1/logs")?;
        Some(message["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0].clone())
    })
    .await;
    let about = attributes(&record);
    assert_eq!(
        (&*about["path"], &*about["status"]),
        ("/x", "200"),
        "{record}"
    );
    assert_eq!(record["traceId"], TRACE);
    assert!(
        record["timeUnixNano"].as_str().unwrap().len() >= 19,
        "{record}"
    );
    proxy.end().await;
}

#[tokio::test]
async fn a_collector_over_https_is_believed_by_its_roots_alone() {
    let a = TestEndpoint::start("a").await;
    let directory = tempfile::tempdir().unwrap();
    let (acceptor, roots) = shown_as_localhost(&directory);
    let collector = Collector::start_with(Some(acceptor)).await;
    let authority = Authority::new();
    let other = directory.path().join("other.pem");
    std::fs::write(&other, &authority.roots_pem).unwrap();
    let with = |ca_file: &Path| {
        let (url, ca_file) = (collector.url(), ca_file.to_owned());
        move |config: &mut Config| {
            config.access_log = Some(AccessLogConfig {
                output: Output::Otlp,
                collector: Some(url.clone()),
                ca_file: Some(ca_file.clone()),
                share: 1.0,
                ..AccessLogConfig::default()
            });
            config.traces = Some(TracesConfig {
                ca_file: Some(ca_file),
                ..traces(&url, 1.0, &[])
            });
        }
    };
    // Roots that do not vouch for it: what waits when the proxy ends is lost, and nothing arrives.
    let proxy = proxy_with(&snapshot("a", &a, 8), &authority, with(&other)).await;
    get_as(&proxy, "/strange", &[]).await;
    proxy.end().await;
    assert!(collector.got.lock().unwrap().is_empty());
    let proxy = proxy_with(&snapshot("a", &a, 8), &authority, with(&roots)).await;
    get_as(&proxy, "/x", &[]).await;
    let spans = collector.wait_for(1).await;
    assert!(
        spans
            .iter()
            .any(|span| span.about.get("url.path").is_some_and(|path| path == "/x")),
        "{spans:?}"
    );
    wait_for("a record arrives", || {
        let got = collector.got.lock().unwrap();
        got.iter().any(|(path, _)| path == "/v1/logs").then_some(())
    })
    .await;
    proxy.end().await;
}
