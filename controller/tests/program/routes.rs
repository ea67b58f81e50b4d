//! Routes: written by REST, told to proxies, with a status.

use std::sync::Arc;

use http::{Method, StatusCode};
use isobar_mesh_api::message::{Down, Up};
use isobar_mesh_api::route::{Route, RouteKey};
use isobar_mesh_api::snapshot::Snapshot;
use serde_json::{Value, json};

use crate::mesh::Mesh;
use crate::proxy::{Proxy, Stream};

const PATH: &str = "/v1/http-routes/shop/r";

fn text(backend: &str) -> String {
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": { "name": "r", "namespace": "shop" },
        "spec": { "hostnames": ["cart.example"], "rules": [{ "backendRefs": [{ "name": backend }] }] }
    });
    route.to_string()
}

/// What the condition of a route's one parent says: status and reason.
fn condition(route: &Value, kind: &str) -> (String, String) {
    let conditions = route["status"]["parents"][0]["conditions"]
        .as_array()
        .unwrap();
    let found = conditions.iter().find(|c| c["type"] == kind).unwrap();
    let word = |field: &str| found[field].as_str().unwrap().to_owned();
    (word("status"), word("reason"))
}

/// The next message that says something of routes: those that are there, and those that are gone.
async fn told(stream: &mut Stream, have: &mut Snapshot) -> (Vec<Arc<Route>>, Vec<RouteKey>) {
    loop {
        if let Down::Delta(delta) = stream.next().await.expect("the stream has ended") {
            let (routes, removed) = (delta.routes.clone(), delta.routes_removed.clone());
            *have = have.apply(delta).unwrap();
            stream.send(&Up::Ack(have.plan)).await;
            if !routes.is_empty() || !removed.is_empty() {
                return (routes, removed);
            }
        }
    }
}

#[tokio::test]
async fn a_route_reaches_proxies_when_it_is_written_replaced_and_deleted() {
    let mesh = Mesh::start().await;
    let door = mesh.door();
    let proxy = Proxy::enrolled(&door, "a").await;
    let hello = || proxy.hello_at(9.0, 100.0);
    let mut stream = proxy.stream(&door, hello()).await.unwrap();
    let mut have = stream.snapshot().await;
    assert!(have.routes.is_empty());

    let (status, created) = mesh.rest(Method::PUT, PATH, &text("cart")).await;
    assert_eq!(status, StatusCode::CREATED, "{created}");
    let (routes, _) = told(&mut stream, &mut have).await;
    assert_eq!(routes[0].rules()[0].backend_refs[0].name, "cart");
    assert_eq!(
        routes[0].created(),
        created["metadata"]["creationTimestamp"]
    );
    assert!(!routes[0].created().is_empty());

    assert_eq!(
        mesh.rest(Method::PUT, PATH, &text("other")).await.0,
        StatusCode::OK
    );
    let (routes, _) = told(&mut stream, &mut have).await;
    assert_eq!(routes[0].rules()[0].backend_refs[0].name, "other");
    // It is as old as it was.
    assert_eq!(
        routes[0].created(),
        created["metadata"]["creationTimestamp"]
    );
    assert_eq!(have.routes.len(), 1);

    // Who comes later is told at once.
    let late = Proxy::enrolled(&door, "b").await;
    let mut other = late.stream(&door, late.hello_at(9.1, 100.0)).await.unwrap();
    assert_eq!(other.snapshot().await.routes, have.routes);

    assert_eq!(
        mesh.rest(Method::DELETE, PATH, "").await.0,
        StatusCode::NO_CONTENT
    );
    let (routes, removed) = told(&mut stream, &mut have).await;
    assert_eq!((routes.len(), removed.len(), have.routes.len()), (0, 1, 0));
    mesh.stop().await;
}

#[tokio::test]
async fn the_status_says_which_backends_are_missing() {
    let mesh = Mesh::start().await;
    let (_, route) = mesh.rest(Method::PUT, PATH, &text("cart")).await;
    assert_eq!(
        condition(&route, "Accepted"),
        ("True".to_owned(), "Accepted".to_owned())
    );
    let missing = ("False".to_owned(), "BackendNotFound".to_owned());
    assert_eq!(condition(&route, "ResolvedRefs"), missing);
    assert!(route.to_string().contains("shop/cart"), "{route}");
    let service = "{kind: Service, metadata: {name: cart, namespace: shop}, spec: {}}";
    mesh.rest(Method::PUT, "/v1/services/shop/cart", service)
        .await;
    let (_, route) = mesh.rest(Method::GET, PATH, "").await;
    assert_eq!(
        condition(&route, "ResolvedRefs"),
        ("True".to_owned(), "ResolvedRefs".to_owned())
    );
    mesh.stop().await;
}

#[tokio::test]
async fn a_route_outlives_the_controller() {
    let mesh = Mesh::start().await;
    let (_, written) = mesh.rest(Method::PUT, PATH, &text("cart")).await;
    let Mesh {
        directory,
        program,
        shutdown,
    } = mesh;
    shutdown.cancel();
    program.wait().await.unwrap();
    let mesh = Mesh::start_in(directory).await;
    assert_eq!(
        mesh.rest(Method::GET, PATH, "").await,
        (StatusCode::OK, written)
    );
    mesh.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_route_is_named() {
    let mesh = Mesh::start().await;
    let cases = [
        (
            json!({ "rules": [{ "retry": {} }] }),
            "#/spec/rules/0/retry",
        ),
        (
            json!({ "rules": [{ "matches": [{ "path": { "type": "Glob" } }] }] }),
            "#/spec/rules/0/matches/0/path/type",
        ),
        (
            json!({ "rules": [{ "matches": [{ "path": { "value": "a" } }] }] }),
            "#/spec/rules/0/matches/0/path/value",
        ),
        (
            json!({ "rules": [{ "backendRefs": [{ "name": "a", "port": 80 }] }] }),
            "#/spec/rules/0/backendRefs/0/port",
        ),
        (json!({ "hostnames": ["*"] }), "#/spec/hostnames/0"),
    ];
    let write = |body: Value| {
        let mesh = &mesh;
        async move { mesh.rest(Method::PUT, PATH, &body.to_string()).await }
    };
    let metadata = json!({ "name": "r", "namespace": "shop" });
    for (spec, pointer) in cases {
        let body = json!({ "kind": "HTTPRoute", "metadata": metadata, "spec": spec });
        let (status, problem) = write(body).await;
        assert_eq!(status.as_u16(), 422, "{problem}");
        assert!(
            problem.to_string().contains(&format!("{pointer}\"")),
            "{pointer}: {problem}"
        );
    }
    let body = json!({ "apiVersion": "v1", "kind": "HTTPRoute", "metadata": metadata, "spec": {} });
    let (status, problem) = write(body).await;
    assert_eq!(status.as_u16(), 422);
    assert!(problem.to_string().contains("#/apiVersion"), "{problem}");
    mesh.stop().await;
}

#[test]
fn examples_in_the_docs_are_read() {
    use isobar_controller::resource_text::{Format, decode, parse};
    let docs = include_str!("../../../docs/routes.md");
    let texts: Vec<&str> = docs
        .split("```yaml\n")
        .skip(1)
        .filter_map(|block| block.split("```").next())
        .collect();
    assert!(!texts.is_empty());
    for text in texts {
        decode(parse(text.as_bytes(), Format::Yaml).unwrap()).unwrap();
    }
}
