//! The REST API: resources come, go and are refused with the field named.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use isobar_controller::resource_text::TEXT_LEN_MAX;
use serde_json::json;

use crate::mesh::{Mesh, send};
use crate::proxy::Proxy;

#[tokio::test]
async fn each_kind_is_created_read_replaced_listed_and_deleted() {
    let mesh = Mesh::start().await;
    let cases = [
        (
            "/v1/nodes",
            "a",
            "Node",
            "{name: a}",
            "{region: north}",
            "{region: south}",
        ),
        (
            "/v1/services",
            "shop/cart",
            "Service",
            "{name: cart, namespace: shop}",
            "{hosts: [a]}",
            "{hosts: [b]}",
        ),
        (
            "/v1/weight-policies",
            "all",
            "WeightPolicy",
            "{name: all}",
            "{neighbours: 3}",
            "{neighbours: 4}",
        ),
        (
            "/v1/traffic-policies",
            "all",
            "TrafficPolicy",
            "{name: all}",
            "{timeouts: {request: 5s}}",
            "{timeouts: {request: 250ms}}",
        ),
        (
            "/v1/http-routes",
            "shop/cart",
            "HTTPRoute",
            "{name: cart, namespace: shop}",
            "{hostnames: [a.example], rules: [{backendRefs: [{name: cart}]}]}",
            "{rules: [{matches: [{path: {type: Exact, value: /a}}], backendRefs: [{name: cart}]}]}",
        ),
        (
            "/v1/grpc-routes",
            "shop/cart",
            "GRPCRoute",
            "{name: cart, namespace: shop}",
            "{rules: [{matches: [{method: {service: shop.Cart}}]}]}",
            "{rules: [{matches: [{method: {method: Add}}]}]}",
        ),
        (
            "/v1/tcp-routes",
            "shop/db",
            "TCPRoute",
            "{name: db, namespace: shop}",
            "{parentRefs: [{name: isobar, sectionName: db}], rules: [{backendRefs: [{name: db}]}]}",
            "{parentRefs: [{name: isobar, sectionName: db}], rules: [{backendRefs: [{name: db, weight: 9}, {name: db-next}]}]}",
        ),
    ];
    for (list, name, kind, metadata, first, second) in cases {
        let path = format!("{list}/{name}");
        let text = |spec: &str| format!("{{kind: {kind}, metadata: {metadata}, spec: {spec}}}");
        let rest = |method, path: &str, body: String| {
            let (mesh, path) = (&mesh, path.to_owned());
            async move { mesh.rest(method, &path, &body).await }
        };
        let none = String::new;
        assert_eq!(
            rest(Method::GET, &path, none()).await.0,
            StatusCode::NOT_FOUND
        );
        let created = rest(Method::PUT, &path, text(first)).await;
        assert_eq!(created.0, StatusCode::CREATED, "{}", created.1);
        let read = rest(Method::GET, &path, none()).await;
        assert_eq!(read, (StatusCode::OK, created.1));
        // What was read can be written back.
        let again = rest(Method::PUT, &path, read.1.to_string()).await;
        assert_eq!(again, (StatusCode::OK, read.1.clone()));
        let replaced = rest(Method::PUT, &path, text(second)).await;
        assert_ne!(replaced.1, read.1);
        let listed = rest(Method::GET, list, none()).await;
        assert_eq!(listed, (StatusCode::OK, json!({"items": [replaced.1]})));
        assert_eq!(
            rest(Method::DELETE, &path, none()).await.0,
            StatusCode::NO_CONTENT
        );
        assert_eq!(
            rest(Method::DELETE, &path, none()).await.0,
            StatusCode::NOT_FOUND
        );
        assert_eq!(
            rest(Method::GET, list, none()).await.1,
            json!({"items": []})
        );
    }
    mesh.stop().await;
}

#[tokio::test]
async fn bad_input_is_refused_with_its_field() {
    let mesh = Mesh::start().await;
    let node = |spec: &str| format!("{{kind: Node, metadata: {{name: a}}, spec: {{{spec}}}}}");
    let policy =
        |spec: &str| format!("{{kind: WeightPolicy, metadata: {{name: a}}, spec: {{{spec}}}}}");
    let traffic =
        |spec: &str| format!("{{kind: TrafficPolicy, metadata: {{name: a}}, spec: {{{spec}}}}}");
    let cases = [
        ("/v1/nodes/a", "{".to_owned(), 400, "#"),
        ("/v1/nodes/a", String::new(), 422, "#"),
        ("/v1/nodes/b", node(""), 422, "#/metadata/name"),
        ("/v1/weight-policies/a", node(""), 422, "#/kind"),
        ("/v1/nodes/a", node("location: {lat_deg: 100, lon_deg: 0}"), 422, "#/spec/location/lat_deg"),
        ("/v1/nodes/a", node("location: {lat_deg: .nan, lon_deg: 0}"), 400, "#"),
        ("/v1/nodes/a", node("colour: red"), 422, "#/spec/colour"),
        ("/v1/weight-policies/a", policy("move_max: 1.5"), 422, "#/spec/move_max"),
        ("/v1/weight-policies/a", policy("neighbours: -1"), 422, "#/spec/neighbours"),
        ("/v1/weight-policies/a", policy("ceiling_utilisation: 0.1"), 422, "#/spec/ceiling_utilisation"),
        ("/v1/weight-policies/a", policy("static_weights: {a: {b: 2000000}}"), 422, "#/spec/static_weights"),
        ("/v1/traffic-policies/a", traffic("timeouts: {request: 5}"), 422, "#/spec/timeouts/request"),
        ("/v1/traffic-policies/a", traffic("timeouts: {request: 25h}"), 422, "#/spec/timeouts/request"),
        ("/v1/traffic-policies/a", traffic("retries: {atempts: 2}"), 422, "#/spec/retries/atempts"),
        ("/v1/traffic-policies/a", traffic("retries: {attempts: 0}"), 422, "#/spec/retries/attempts"),
        (
            "/v1/services/s/a",
            "{kind: Service, metadata: {name: a, namespace: s}, spec: {endpoints: [{node: n, address: x}]}}".to_owned(),
            422,
            "#/spec/endpoints/0/address",
        ),
    ];
    for (path, body, status, pointer) in cases {
        let (said, problem) = mesh.rest(Method::PUT, path, &body).await;
        assert_eq!(said.as_u16(), status, "{body}: {problem}");
        assert_eq!(problem["status"], status, "{body}");
        assert_eq!(
            problem["errors"][0]["pointer"], pointer,
            "{body}: {problem}"
        );
    }
    for list in [
        "/v1/nodes",
        "/v1/services",
        "/v1/weight-policies",
        "/v1/traffic-policies",
        "/v1/http-routes",
        "/v1/grpc-routes",
        "/v1/tcp-routes",
    ] {
        let (_, left) = mesh.rest(Method::GET, list, "").await;
        assert_eq!(left, json!({"items": []}));
    }
    mesh.stop().await;
}

#[tokio::test]
async fn requests_that_do_not_fit_are_told_why() {
    let mesh = Mesh::start().await;
    let address = mesh.addresses().rest.to_string();
    let cases = [
        (
            Method::GET,
            "/v2/nodes",
            address.as_str(),
            "application/json",
            0,
            404,
        ),
        (
            Method::POST,
            "/v1/nodes/a",
            &address,
            "application/json",
            0,
            405,
        ),
        (Method::PUT, "/v1/nodes/a", &address, "text/plain", 2, 415),
        (
            Method::PUT,
            "/v1/nodes/a",
            &address,
            "application/json",
            TEXT_LEN_MAX + 1,
            413,
        ),
        (
            Method::GET,
            "/v1/nodes",
            "evil.example",
            "application/json",
            0,
            421,
        ),
        (
            Method::GET,
            "/v1/nodes",
            "localhost",
            "application/json",
            0,
            200,
        ),
    ];
    for (method, path, host, kind, len, status) in cases {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", host)
            .header("content-type", kind)
            .body(Full::new(Bytes::from(vec![b' '; len])))
            .unwrap();
        let (said, body) = send(mesh.addresses(), request).await;
        assert_eq!(said.as_u16(), status, "{path}: {body}");
        if status >= 400 {
            assert_eq!(body["status"], status, "{path}: {body}");
        }
    }
    mesh.stop().await;
}

#[tokio::test]
async fn health_and_metrics_are_there() {
    let mesh = Mesh::start().await;
    for path in ["/livez", "/readyz"] {
        assert_eq!(
            mesh.rest(Method::GET, path, "").await.0,
            StatusCode::OK,
            "{path}"
        );
    }
    let door = mesh.door();
    let proxy = Proxy::enrolled(&door, "a").await;
    let mut stream = proxy
        .stream(&door, proxy.hello_at(9.0, 120.0))
        .await
        .unwrap();
    stream.snapshot().await;
    door.until_metric("isobar_controller_service_capacity_rps{service=\"shop/cart\"} 120")
        .await;
    let (_, nodes) = mesh.rest(Method::GET, "/v1/nodes", "").await;
    assert_eq!(nodes["items"][0]["spec"]["location"]["lon_deg"], 9.0);
    // A node that is connected goes on by its own word.
    let path = "/v1/nodes/a";
    assert_eq!(
        mesh.rest(Method::DELETE, path, "").await.0,
        StatusCode::NOT_FOUND
    );
    assert_eq!(mesh.rest(Method::GET, path, "").await.0, StatusCode::OK);
    mesh.stop().await;
}
