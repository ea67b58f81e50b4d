//! Routes over real sockets: which rule a request follows, and what it does.

use crate::support::{
    Authority, HOST, TestEndpoint, TestProxy, config, connect_http2, full, node, read, send,
    snapshot,
};
use http::{HeaderMap, Request, StatusCode};
use isobar_mesh_api::message::LocalService;
use isobar_mesh_api::names::ServiceName;
use isobar_mesh_api::resource::{HttpRouteSpec, Metadata};
use isobar_mesh_api::route::Route;
use isobar_mesh_api::snapshot::{Endpoint, Row, ServicePlan, Snapshot};
use serde_json::{Value, json};
use std::sync::Arc;

/// Two services, `shop/a` with the host name [`HOST`] and `shop/b` without one, and a proxy with routes of its own.
struct Mesh {
    a: TestEndpoint,
    b: TestEndpoint,
    proxy: TestProxy,
}

fn local(name: &str, endpoint: &TestEndpoint, hosts: &[&str]) -> LocalService {
    LocalService {
        service: ServiceName::new(name).unwrap(),
        hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
        endpoints: vec![Endpoint {
            address: endpoint.address.to_string(),
            workers: 8,
        }],
        capacity_rps: None,
    }
}

impl Mesh {
    /// One `HTTPRoute` in namespace `shop`.
    async fn start(spec: Value) -> Mesh {
        let route = json!({
            "kind": "HTTPRoute", "metadata": { "name": "r", "namespace": "shop" }, "spec": spec
        });
        Mesh::with(&[route]).await
    }

    async fn with(routes: &[Value]) -> Mesh {
        let (a, b) = (
            TestEndpoint::start("a").await,
            TestEndpoint::start("b").await,
        );
        let dir = tempfile::tempdir().unwrap();
        let mut config = config("n", &dir);
        config.services = vec![local("shop/a", &a, &[HOST]), local("shop/b", &b, &[])];
        let read = |route: &Value| serde_json::from_value(route.clone()).unwrap();
        config.routes = routes.iter().map(read).collect();
        let proxy = TestProxy::start(config, dir).await;
        Mesh { a, b, proxy }
    }

    /// Status, headers, body of a request with these headers.
    async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> (StatusCode, HeaderMap, String) {
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", HOST);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        send(
            self.proxy.addresses.ingress,
            request.body(full("")).unwrap(),
        )
        .await
    }

    /// The body alone.
    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> String {
        self.ask("GET", path, headers).await.2
    }
}

fn to(name: &str, mut rule: Value) -> Value {
    rule["backendRefs"] = json!([{ "name": name }]);
    rule
}

#[tokio::test]
async fn a_rules_sessions_stay_with_their_backend() {
    let sessions = |sessions: Value| {
        json!({ "hostnames": [HOST], "rules": [{
            "sessionPersistence": sessions,
            "backendRefs": [{ "name": "a" }, { "name": "b" }],
        }] })
    };
    let by_cookie = Mesh::start(sessions(json!({
        "sessionName": "sid", "absoluteTimeout": "1h", "cookieConfig": { "lifetimeType": "Permanent" }
    })))
    .await;
    let mut used = std::collections::BTreeSet::new();
    for _ in 0..30 {
        let (_, headers, first) = by_cookie.ask("GET", "/", &[]).await;
        let cookie = headers["set-cookie"].to_str().unwrap();
        assert!(cookie.contains("; Max-Age=3600"), "{cookie}");
        let cookie = cookie.split(';').next().unwrap();
        for _ in 0..3 {
            let (_, headers, body) = by_cookie.ask("GET", "/", &[("cookie", cookie)]).await;
            assert_eq!(body, first);
            assert!(!headers.contains_key("set-cookie"));
        }
        used.insert(first);
    }
    assert_eq!(used.len(), 2);
    by_cookie.proxy.end().await;

    let by_header = sessions(json!({ "sessionName": "x-session", "type": "Header" }));
    let by_header = Mesh::start(by_header).await;
    let (_, headers, first) = by_header.ask("GET", "/", &[]).await;
    let token = headers["x-session"].to_str().unwrap();
    for _ in 0..4 {
        assert_eq!(by_header.get("/", &[("x-session", token)]).await, first);
    }
    by_header.proxy.end().await;
}

#[tokio::test]
async fn copies_go_elsewhere_and_nobody_waits_for_them() {
    let mirror = |more: Value| {
        let mut mirror = json!({ "backendRef": { "name": "b" } });
        mirror
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let filter = json!({ "type": "RequestMirror", "requestMirror": mirror });
        let rule = to("a", json!({ "filters": [filter] }));
        json!({ "hostnames": [HOST], "rules": [rule] })
    };
    let counted = async |mesh: &Mesh, outcome: &str, count: usize| {
        let line = format!("isobar_proxy_mirrored_total{{outcome=\"{outcome}\"}} {count}\n");
        let (_, metrics) = mesh.proxy.admin("GET", "/metrics").await;
        assert!(metrics.contains(&line), "{line}{metrics}");
    };
    let all = Mesh::start(mirror(json!({}))).await;
    // The copy's endpoint does not answer; the client does not notice.
    for n in 1..=3 {
        all.a.let_go();
        assert_eq!(all.get("/hold", &[]).await, "held");
        all.b.arrival().await;
        counted(&all, "sent", n).await;
    }
    // With its body, if that was kept.
    let post = async |mesh: &Mesh, len: usize| {
        let body = "x".repeat(len);
        let request = Request::post("/echo").header("host", HOST);
        let request = request.body(full(body.clone())).unwrap();
        let (status, _, echoed) = send(mesh.proxy.addresses.ingress, request).await;
        assert_eq!((status, echoed.len()), (StatusCode::OK, len));
    };
    post(&all, 10_000).await;
    all.b.arrival().await;
    post(&all, 200_000).await;
    counted(&all, "sent", 4).await;
    counted(&all, "body", 1).await;
    assert_eq!((all.a.served(), all.b.served()), (5, 4));
    (0..3).for_each(|_| all.b.let_go());
    all.proxy.end().await;

    let none = Mesh::start(mirror(json!({ "percent": 0 }))).await;
    for _ in 0..5 {
        assert_eq!(none.get("/", &[]).await, "a");
    }
    counted(&none, "sent", 0).await;
    none.proxy.end().await;
    let some = Mesh::start(mirror(
        json!({ "fraction": { "numerator": 1, "denominator": 2 } }),
    ))
    .await;
    let mut asked = 0;
    while some.b.served() == 0 || asked < some.b.served() + 3 {
        assert_eq!(some.get("/", &[]).await, "a");
        asked += 1;
    }
    some.proxy.end().await;
}

#[tokio::test]
async fn requests_go_by_host_path_method_header_and_query() {
    let spec = json!({ "hostnames": [HOST, "*.wild.example"], "rules": [
        to("a", json!({})),
        to("b", json!({ "matches": [{ "path": { "type": "Exact", "value": "/exact" } }] })),
        to("b", json!({ "matches": [{ "path": { "type": "PathPrefix", "value": "/prefix" } }] })),
        to("b", json!({ "matches": [{ "path": { "type": "RegularExpression", "value": "/v[0-9]+/.*" } }] })),
        to("b", json!({ "matches": [{ "method": "DELETE" }] })),
        to("b", json!({ "matches": [{ "headers": [{ "name": "X-Beta", "value": "yes" }] }] })),
        to("b", json!({ "matches": [{ "headers": [
            { "name": "content-type", "type": "RegularExpression", "value": "image/.*" }] }] })),
        to("b", json!({ "matches": [{ "queryParams": [{ "name": "beta", "value": "1" }] }] })),
    ] });
    let mesh = Mesh::start(spec).await;
    for (path, expected) in [
        ("/", "a"),
        ("/exact", "b"),
        ("/exact/x", "a"),
        ("/prefix/x", "b"),
        ("/prefixed", "a"),
        ("/v12/x", "b"),
        ("/vx/x", "a"),
        ("/?beta=1", "b"),
        ("/?beta=2&beta=1", "a"),
        ("/x/%2e%2e/%70refix", "b"),
    ] {
        assert_eq!(mesh.get(path, &[]).await, expected, "{path}");
    }
    assert_eq!(mesh.ask("DELETE", "/", &[]).await.2, "b");
    assert_eq!(mesh.get("/", &[("x-beta", "yes")]).await, "b");
    assert_eq!(
        mesh.get("/", &[("x-beta", "yes"), ("x-beta", "no")]).await,
        "a"
    );
    assert_eq!(mesh.get("/", &[("content-type", "image/png")]).await, "b");
    assert_eq!(
        mesh.get("/exact", &[("host", "x.wild.example:7410")]).await,
        "b"
    );
    assert_eq!(
        mesh.ask("GET", "/", &[("host", "wild.example")]).await.0,
        StatusCode::NOT_FOUND
    );
    let (status, _, body) = mesh.ask("GET", "/prefix/..%2fx", &[]).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    mesh.proxy.end().await;
}

#[tokio::test]
async fn a_host_with_a_route_is_the_routes_alone() {
    let mesh = Mesh::start(json!({ "hostnames": [HOST], "rules": [
        to("b", json!({ "matches": [{ "path": { "value": "/b" } }] })) ] }))
    .await;
    assert_eq!(mesh.get("/b", &[]).await, "b");
    let (status, _, body) = mesh.ask("GET", "/", &[]).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(body.contains("no route fits"), "{body}");
    mesh.proxy.end().await;

    let mesh =
        Mesh::start(json!({ "hostnames": ["other.example"], "rules": [to("b", json!({}))] })).await;
    // As before there were routes: not even the path is looked at.
    let (status, headers, _) = mesh.ask("GET", "/b/..%2f", &[]).await;
    assert_eq!(
        (status, headers["x-seen"].to_str().unwrap()),
        (StatusCode::OK, "/b/..%2f")
    );
    assert_eq!(mesh.a.served(), 1);
    mesh.proxy.end().await;
}

#[tokio::test]
async fn backends_get_their_exact_shares_and_one_that_is_missing_is_a_500() {
    let mesh = Mesh::start(json!({ "rules": [
        { "matches": [{ "path": { "value": "/split" } }],
          "backendRefs": [{ "name": "a", "weight": 7 }, { "name": "b", "weight": 2 }, { "name": "none", "weight": 1 }] },
        { "matches": [{ "path": { "value": "/nothing" } }], "backendRefs": [{ "name": "a", "weight": 0 }] },
        { "matches": [{ "path": { "value": "/nobody" } }] },
    ] })).await;
    let host = [("host", "any.example")];
    let mut failed = 0;
    for _ in 0..50 {
        failed += usize::from(
            mesh.ask("GET", "/split", &host).await.0 == StatusCode::INTERNAL_SERVER_ERROR,
        );
    }
    assert_eq!((mesh.a.served(), mesh.b.served(), failed), (35, 10, 5));
    for path in ["/nothing", "/nobody"] {
        assert_eq!(
            mesh.ask("GET", path, &host).await.0,
            StatusCode::INTERNAL_SERVER_ERROR,
            "{path}"
        );
    }
    mesh.proxy.end().await;
}

#[tokio::test]
async fn headers_are_changed_both_ways_for_the_rule_and_for_its_backend() {
    let modify = |kind: &str, field: &str, change: Value| json!({ "type": kind, field: change });
    let mut rule = to(
        "a",
        json!({ "filters": [
        modify("RequestHeaderModifier", "requestHeaderModifier", json!({
            "set": [{ "name": "X-Set", "value": "new" }],
            "add": [{ "name": "X-Add", "value": "more" }],
            "remove": ["X-Gone"] })),
        modify("ResponseHeaderModifier", "responseHeaderModifier", json!({
            "set": [{ "name": "x-answer", "value": "1" }], "remove": ["x-seen"] })),
    ] }),
    );
    rule["backendRefs"][0]["filters"] = json!([
        modify(
            "RequestHeaderModifier",
            "requestHeaderModifier",
            json!({ "set": [{ "name": "x-backend", "value": "a" }] })
        ),
        modify(
            "ResponseHeaderModifier",
            "responseHeaderModifier",
            json!({ "add": [{ "name": "x-by", "value": "a" }] })
        ),
    ]);
    let mesh = Mesh::start(json!({ "hostnames": [HOST], "rules": [rule] })).await;
    let sent = [
        ("x-set", "old"),
        ("x-add", "one"),
        ("x-gone", "1"),
        ("x-kept", "1"),
    ];
    let (_, headers, seen) = mesh.ask("GET", "/headers", &sent).await;
    for line in [
        "x-set: new\n",
        "x-add: one\n",
        "x-add: more\n",
        "x-kept: 1\n",
        "x-backend: a\n",
    ] {
        assert!(seen.contains(line), "{line}{seen}");
    }
    assert!(!seen.contains("x-gone") && !seen.contains("old"), "{seen}");
    assert_eq!(
        (headers["x-answer"].as_bytes(), headers["x-by"].as_bytes()),
        (&b"1"[..], &b"a"[..])
    );
    assert!(!headers.contains_key("x-seen"));
    mesh.proxy.end().await;
}

#[tokio::test]
async fn urls_are_rewritten() {
    let rewrite = |value: &str, rewrite: Value| {
        to(
            "a",
            json!({ "matches": [{ "path": { "value": value } }],
            "filters": [{ "type": "URLRewrite", "urlRewrite": rewrite }] }),
        )
    };
    let mesh = Mesh::start(json!({ "hostnames": [HOST], "rules": [
        rewrite("/full", json!({ "path": { "type": "ReplaceFullPath", "replaceFullPath": "/new" } })),
        rewrite("/old", json!({ "path": { "type": "ReplacePrefixMatch", "replacePrefixMatch": "/new" } })),
        rewrite("/cut", json!({ "path": { "type": "ReplacePrefixMatch", "replacePrefixMatch": "/" } })),
        rewrite("/headers", json!({ "hostname": "inner.example" })),
    ] })).await;
    for (path, expected) in [
        ("/full/x?y=1", "/new?y=1"),
        ("/old/x?y=1", "/new/x?y=1"),
        ("/old", "/new"),
        ("/old/", "/new/"),
        ("/cut", "/"),
        ("/cut/a", "/a"),
        ("/%6fld/./a", "/new/a"),
    ] {
        let (_, headers, _) = mesh.ask("GET", path, &[]).await;
        assert_eq!(headers["x-seen"], expected, "{path}");
    }
    let seen = mesh.get("/headers", &[]).await;
    assert!(seen.contains("host: inner.example\n"), "{seen}");
    mesh.proxy.end().await;
}

#[tokio::test]
async fn redirects_are_answered_by_the_proxy() {
    let redirect = |value: &str, redirect: Value| {
        json!({ "matches": [{ "path": { "value": value } }],
            "filters": [{ "type": "RequestRedirect", "requestRedirect": redirect }] })
    };
    let mesh = Mesh::start(json!({ "hostnames": [HOST], "rules": [
        redirect("/", json!({})),
        redirect("/https", json!({ "scheme": "https", "statusCode": 301 })),
        redirect("/all", json!({ "scheme": "https", "hostname": "new.example", "port": 8443, "statusCode": 308,
            "path": { "type": "ReplacePrefixMatch", "replacePrefixMatch": "/new" } })),
    ] })).await;
    let host = format!("{HOST}:7410");
    for (path, status, location) in [
        ("/a?b=1", 302, format!("http://{HOST}:7410/a?b=1")),
        ("/https/x", 301, format!("https://{HOST}/https/x")),
        (
            "/all/x?y",
            308,
            "https://new.example:8443/new/x?y".to_owned(),
        ),
    ] {
        let (got, headers, _) = mesh.ask("GET", path, &[("host", &host)]).await;
        assert_eq!(
            (got.as_u16(), headers["location"].to_str().unwrap()),
            (status, location.as_str()),
            "{path}"
        );
    }
    assert_eq!(mesh.a.served() + mesh.b.served(), 0);
    mesh.proxy.end().await;
}

#[tokio::test]
async fn faults_delay_and_abort() {
    let fault = |value: &str, fault: Value| {
        to(
            "a",
            json!({ "matches": [{ "path": { "value": value } }],
            "filters": [{ "type": "Fault", "fault": fault }] }),
        )
    };
    let mesh = Mesh::start(json!({ "hostnames": [HOST], "rules": [
        fault("/abort", json!({ "abort": { "httpStatus": 418, "grpcStatus": 8 } })),
        fault("/never", json!({ "abort": { "percent": 0 }, "delay": { "duration": "60s", "percent": 0 } })),
        fault("/slow", json!({ "delay": { "duration": "20ms" } })),
        fault("/both", json!({ "delay": { "duration": "1ms" }, "abort": { "fraction": { "numerator": 1, "denominator": 1 } } })),
    ] })).await;
    let (status, _, body) = mesh.ask("GET", "/abort", &[]).await;
    assert_eq!(status, 418, "{body}");
    let (status, headers, _) = mesh
        .ask("POST", "/abort", &[("content-type", "application/grpc")])
        .await;
    assert_eq!(
        (status.as_u16(), headers["grpc-status"].to_str().unwrap()),
        (200, "8")
    );
    assert_eq!(mesh.a.served(), 0);
    assert_eq!(mesh.get("/never", &[]).await, "a");
    let began = std::time::Instant::now();
    assert_eq!(mesh.get("/slow", &[]).await, "a");
    assert!(began.elapsed() >= std::time::Duration::from_millis(20));
    assert_eq!(
        mesh.ask("GET", "/both", &[]).await.0,
        StatusCode::SERVICE_UNAVAILABLE
    );
    mesh.proxy.end().await;
}

#[tokio::test]
async fn a_rules_time_for_a_request_ends() {
    let mut rule = to(
        "a",
        json!({ "matches": [{ "path": { "value": "/hold" } }] }),
    );
    rule["timeouts"] = json!({ "request": "10ms" });
    let mesh = Mesh::start(json!({ "hostnames": [HOST], "rules": [rule] })).await;
    assert_eq!(
        mesh.ask("GET", "/hold", &[]).await.0,
        StatusCode::GATEWAY_TIMEOUT
    );
    let grpc = [("content-type", "application/grpc")];
    let (status, headers, _) = mesh.ask("POST", "/hold", &grpc).await;
    assert_eq!(
        (status, headers["grpc-status"].as_bytes()),
        (StatusCode::OK, &b"4"[..])
    );
    mesh.proxy.end().await;
}

#[tokio::test]
async fn grpc_routes_and_answers_of_the_proxy_to_grpc_clients() {
    let route = json!({ "kind": "GRPCRoute", "metadata": { "name": "g", "namespace": "shop" }, "spec": {
        "hostnames": [HOST], "rules": [
            { "matches": [{ "method": { "service": "shop.Cart", "method": "Add" } }], "backendRefs": [{ "name": "b" }] },
            { "matches": [{ "method": { "service": "shop.Gone" } }], "backendRefs": [{ "name": "gone" }] },
        ] } });
    let mesh = Mesh::with(&[route]).await;
    let mut client = connect_http2(mesh.proxy.addresses.ingress).await;
    for (path, answer, grpc_status) in [
        ("/shop.Cart/Add", "b", None),
        ("/shop.Cart/Remove", "", Some("12")),
        ("/shop.Gone/Add", "", Some("13")),
    ] {
        let request = Request::post(format!("http://{HOST}{path}"))
            .header("content-type", "application/grpc");
        let response = client
            .send_request(request.body(full("x")).unwrap())
            .await
            .unwrap();
        let (status, headers, body) = read(response).await;
        let told = headers.get("grpc-status").map(|s| s.to_str().unwrap());
        assert_eq!(
            (status.as_u16(), body.as_str(), told),
            (200, answer, grpc_status),
            "{path}"
        );
    }
    // Not a call: no rule is for it.
    assert_eq!(
        mesh.ask("POST", "/shop.Cart/Add", &[]).await.0,
        StatusCode::NOT_FOUND
    );
    mesh.proxy.end().await;
}

fn plan(name: &str, endpoint: &TestEndpoint, spec: Value) -> Snapshot {
    let mut snapshot = snapshot("n", endpoint, 8);
    snapshot.services[0].service = ServiceName::new(name).unwrap();
    let metadata = Metadata {
        name: "r".to_owned(),
        namespace: "shop".to_owned(),
        ..Metadata::default()
    };
    let spec: HttpRouteSpec = serde_json::from_value(spec).unwrap();
    snapshot.routes = vec![Arc::new(Route::from_http(&metadata, &spec).unwrap())];
    snapshot
}

#[tokio::test]
async fn routes_of_the_last_snapshot_hold_after_a_restart() {
    let (a, b) = (
        TestEndpoint::start("a").await,
        TestEndpoint::start("b").await,
    );
    let mut plan = plan(
        "shop/a",
        &a,
        json!({ "hostnames": [HOST], "rules": [
        to("b", json!({ "matches": [{ "path": { "value": "/b" } }] })), to("a", json!({})) ] }),
    );
    plan.services.push(ServicePlan {
        service: ServiceName::new("shop/b").unwrap(),
        hosts: Vec::new(),
        endpoints: vec![Endpoint {
            address: b.address.to_string(),
            workers: 8,
        }],
        row: Row::home(),
        ..plan.services[0].clone()
    });
    assert_eq!(plan.node, node("n"));
    let proxy = TestProxy::with_snapshot(&plan, &Authority::new()).await;
    assert_eq!(proxy.get("/b/x").await.2, "b");
    assert_eq!(proxy.get("/x").await.2, "a");
    proxy.end().await;
}
