//! What `/metrics` says of requests, and that nobody outside can make it grow.

use crate::access_log::{get_from_nobody, proxy_with, with_nobody};
use crate::support::{
    Authority, HOST, TestEndpoint, TestProxy, connect, full, moves_to, send, snapshot, takes_from,
};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use isobar_edge_proxy::config::telemetry::{AccessLogConfig, TracesConfig};
use isobar_mesh_api::route::Route;

const SERVER: &str = "http_server_request_duration_seconds";

/// A request's own series' count, or nothing.
fn count(metrics: &str, labels: &str) -> Option<u64> {
    let begin = format!("{SERVER}_count{{{labels}}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&begin))?;
    line.parse().ok()
}

fn labels(service: &str, direction: &str, outcome: &str, method: &str, status: u16) -> String {
    let service = match service {
        "" => String::new(),
        service => format!("service=\"{service}\","),
    };
    format!(
        "{service}direction=\"{direction}\",outcome=\"{outcome}\",http_request_method=\"{method}\",\
         http_response_status_code=\"{status}\""
    )
}

#[tokio::test]
async fn requests_are_told_apart_by_what_was_asked_and_what_came_of_it() {
    let (a, b) = (
        TestEndpoint::start("a").await,
        TestEndpoint::start("b").await,
    );
    let authority = Authority::new();
    let receiver = takes_from(snapshot("b", &b, 8), "a");
    let receiver = TestProxy::with_snapshot(&receiver, &authority).await;
    let plan = with_nobody(snapshot("a", &a, 8));
    let plan = moves_to(plan, "b", receiver.addresses.mesh, 500_000);
    let home = TestProxy::with_snapshot(&plan, &authority).await;
    for _ in 0..4 {
        home.get("/").await;
    }
    get_from_nobody(&home, &[]).await;
    let put = Request::builder()
        .method("BREW")
        .uri("/echo")
        .header("host", HOST);
    send(
        home.addresses.outbound.unwrap(),
        put.body(full("x")).unwrap(),
    )
    .await;
    let strange = Request::get("/").header("host", "strange.example");
    send(home.addresses.ingress, strange.body(full("")).unwrap()).await;
    let (_, metrics) = home.admin("GET", "/metrics").await;
    let expected = [
        (labels("shop/cart", "ingress", "home", "GET", 200), 2),
        (labels("shop/cart", "ingress", "moved", "GET", 200), 2),
        (labels("shop/nobody", "ingress", "failed", "GET", 502), 1),
        (labels("", "ingress", "refused", "GET", 404), 1),
    ];
    for (labels, expected) in expected {
        assert_eq!(
            count(&metrics, &labels),
            Some(expected),
            "{labels}\n{metrics}"
        );
    }
    assert!(metrics.contains("direction=\"outbound\""), "{metrics}");
    assert!(metrics.contains("http_request_method=\"_OTHER\",http_response_status_code=\"200\""));
    let moved = "isobar_proxy_moved_duration_seconds_count{service=\"shop/cart\",to=\"b\"} ";
    assert!(metrics.contains(moved), "{metrics}");
    let (_, metrics) = receiver.admin("GET", "/metrics").await;
    let taken = labels("shop/cart", "mesh", "home", "GET", 200);
    assert_eq!(count(&metrics, &taken), Some(2), "{metrics}");
    let bucket = format!("{SERVER}_bucket{{{taken},le=\"+Inf\"}} 2\n");
    assert!(metrics.contains(&bucket), "{metrics}");
    for name in [
        "isobar_proxy_certificate_remaining_seconds ",
        "isobar_proxy_retry_budget_left{service=\"shop/cart\"} ",
        "isobar_proxy_endpoint_connections_idle{service=\"shop/cart\",endpoint=",
        "isobar_proxy_info{node=\"b\",version=",
    ] {
        assert!(metrics.contains(name), "{name}\n{metrics}");
    }
    home.end().await;
    receiver.end().await;
}

#[tokio::test]
async fn answers_are_counted_by_their_route() {
    let a = TestEndpoint::start("a").await;
    let authority = Authority::new();
    let mut plan = snapshot("a", &a, 8);
    let route = serde_json::json!({
        "kind": "HTTPRoute", "name": "shop/front",
        "rules": [{ "backendRefs": [{ "namespace": "shop", "name": "cart" }] }],
    });
    let route: Route = serde_json::from_value(route).unwrap();
    plan.routes.push(std::sync::Arc::new(route));
    let proxy = TestProxy::with_snapshot(&plan, &authority).await;
    let request = Request::get("/").header("host", "any.example");
    let (status, ..) = send(proxy.addresses.ingress, request.body(full("")).unwrap()).await;
    assert_eq!(status, StatusCode::OK);
    let (_, metrics) = proxy.admin("GET", "/metrics").await;
    let counted = "isobar_proxy_route_requests_total{kind=\"HTTPRoute\",route=\"shop/front\",rule=\"0\",\
                   http_response_status_class=\"2xx\"} 1\n";
    assert!(metrics.contains(counted), "{metrics}");
    proxy.end().await;
}

/// Resident memory of this process, in KiB.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Set in the process that looks at its own memory.
const ALONE: &str = "ISOBAR_TEST_ALONE";

#[tokio::test]
async fn ten_thousand_names_of_a_client_make_no_series_and_take_no_memory() {
    // In a process of its own: what other tests hold is not memory of names.
    if std::env::var_os(ALONE).is_none() {
        let name = "seen::ten_thousand_names_of_a_client_make_no_series_and_take_no_memory";
        let alone = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(ALONE, "yes")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&alone.stdout);
        let failed = String::from_utf8_lossy(&alone.stderr);
        assert!(alone.status.success(), "{said}{failed}");
        assert!(said.contains("1 passed"), "{said}");
        return;
    }
    let a = TestEndpoint::start("a").await;
    let authority = Authority::new();
    // With everything on that looks at names.
    let proxy = proxy_with(&snapshot("a", &a, 8), &authority, |config| {
        config.access_log = Some(AccessLogConfig {
            share: 1.0,
            file_len_max: 100_000,
            ..AccessLogConfig::default()
        });
        let traces = "collector = \"http://127.0.0.1:1\"\nshare = 1.0\nqueue_len_max = 65536";
        config.traces = Some(toml::from_str::<TracesConfig>(traces).unwrap());
    })
    .await;
    let mut sender = connect(proxy.addresses.ingress).await;
    let mut series = Vec::new();
    let mut memory_kib = Vec::new();
    for round in 0..2 {
        for number in 0..5_000 {
            let (method, host) = match number % 3 {
                0 => ("GET".to_owned(), HOST.to_owned()),
                1 => ("POST".to_owned(), format!("h{round}-{number}.example")),
                _ => (
                    format!("M{round}X{number}"),
                    format!("{number}.h{round}.example"),
                ),
            };
            let request = Request::builder()
                .method(method.as_str())
                .uri(format!("/p{round}/{number}?{number}={round}"))
                .header("host", host)
                .header("user-agent", format!("agent {round} {number}"))
                .header(
                    "traceparent",
                    format!("00-{:032x}-{:016x}-01", number + 1, round + 1),
                );
            let response = sender
                .send_request(request.body(full("")).unwrap())
                .await
                .unwrap();
            response.into_body().collect().await.unwrap();
        }
        let (_, metrics) = proxy.admin("GET", "/metrics").await;
        for name in ["M0X", "h0-", "/p0", "agent 0"] {
            assert!(!metrics.contains(name), "{name}");
        }
        series.push(
            metrics
                .lines()
                .filter(|line| !line.starts_with('#'))
                .count(),
        );
        memory_kib.push(resident_kib());
    }
    assert_eq!(series[0], series[1]);
    println!("resident after each 5000 names: {memory_kib:?} KiB");
    // A KiB for each name would be 5000.
    assert!(memory_kib[1] < memory_kib[0] + 4096, "{memory_kib:?}");
    let kept = std::fs::read_dir(proxy.dir.path()).unwrap();
    let logs = kept.filter(|file| {
        let name = file.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with("access.log")
    });
    for log in logs.map(|file| file.unwrap()) {
        // One that made room for the next since it was listed is gone.
        if let Ok(metadata) = log.metadata() {
            assert!(metadata.len() <= 100_000, "{log:?}");
        }
    }
    proxy.end().await;
}
