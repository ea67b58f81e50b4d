//! Operators at the REST API: who gets in, and how far.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use isobar_controller::guesses::WRONG_MAX;
use serde_json::{Value, json};

use crate::mesh::{Mesh, config, send};

/// A request with this token, or without any.
async fn ask(
    mesh: &Mesh,
    token: Option<&str>,
    method: Method,
    path: &str,
    body: Value,
) -> (StatusCode, Value) {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "controller.example")
        .header("content-type", "application/json");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let body = Full::new(Bytes::from(body.to_string()));
    send(mesh.addresses(), request.body(body).unwrap()).await
}

async fn guarded() -> (Mesh, String) {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    config.rest_open = false;
    config.rest_insecure = true;
    let mesh = Mesh::start_with(directory, config).await;
    let admin = mesh.file("admin-token").trim().to_owned();
    (mesh, admin)
}

async fn credential(mesh: &Mesh, admin: &str, asked: Value) -> String {
    let (status, said) = ask(mesh, Some(admin), Method::POST, "/v1/credentials", asked).await;
    assert_eq!(status, StatusCode::CREATED, "{said}");
    said["token"].as_str().unwrap().to_owned()
}

fn metric(text: &str, cause: &str) -> u64 {
    let name = format!("isobar_controller_rest_refused_total{{cause=\"{cause}\"}} ");
    let found = text.lines().find_map(|line| line.strip_prefix(&name));
    found.unwrap().parse().unwrap()
}

#[tokio::test]
async fn each_role_gets_as_far_as_it_reaches() {
    let (mesh, admin) = guarded().await;
    let make = async |name: &str, role: &str, namespaces: Value| {
        let asked = json!({ "name": name, "role": role, "namespaces": namespaces });
        credential(&mesh, &admin, asked).await
    };
    let viewer = make("view", "viewer", json!([])).await;
    let operator = make("ops", "operator", json!([])).await;
    let shop = make("shop", "operator", json!(["shop"])).await;
    let node = json!({"kind": "Node", "metadata": {"name": "a"}, "spec": {}});
    let service = |ns: &str| json!({"kind": "Service", "metadata": {"name": "cart", "namespace": ns}, "spec": {}});
    let tokens = [
        Some(&admin),
        Some(&operator),
        Some(&shop),
        Some(&viewer),
        None,
    ];
    let cases: [(Method, &str, Value, [u16; 5]); 8] = [
        (Method::GET, "/livez", Value::Null, [200; 5]),
        (
            Method::GET,
            "/metrics",
            Value::Null,
            [200, 200, 200, 200, 401],
        ),
        (
            Method::GET,
            "/v1/status",
            Value::Null,
            [200, 200, 200, 200, 401],
        ),
        (Method::PUT, "/v1/nodes/a", node, [201, 200, 403, 403, 401]),
        (
            Method::PUT,
            "/v1/services/shop/cart",
            service("shop"),
            [201, 200, 200, 403, 401],
        ),
        (
            Method::PUT,
            "/v1/services/mail/cart",
            service("mail"),
            [201, 200, 403, 403, 401],
        ),
        (
            Method::GET,
            "/v1/credentials",
            Value::Null,
            [200, 403, 403, 403, 401],
        ),
        (
            Method::GET,
            "/v1/nowhere",
            Value::Null,
            [404, 404, 404, 404, 401],
        ),
    ];
    for (method, path, body, expected) in cases {
        for (token, expected) in tokens.into_iter().zip(expected) {
            let token = token.map(String::as_str);
            let (status, said) = ask(&mesh, token, method.clone(), path, body.clone()).await;
            assert_eq!(status.as_u16(), expected, "{method} {path} {said}");
        }
    }
    let (_, text) = ask(&mesh, Some(&viewer), Method::GET, "/metrics", Value::Null).await;
    let text = text.as_str().unwrap();
    assert_eq!(metric(text, "missing"), 7);
    assert_eq!(metric(text, "role"), 6);
    assert_eq!(metric(text, "namespace"), 2);
    mesh.stop().await;
}

#[tokio::test]
async fn a_revoked_credential_is_refused_at_once_and_its_token_is_told_once() {
    let (mesh, admin) = guarded().await;
    let token = credential(&mesh, &admin, json!({ "name": "ops", "role": "operator" })).await;
    let status = async |token: &str| {
        let asked = ask(&mesh, Some(token), Method::GET, "/v1/status", Value::Null);
        asked.await.0
    };
    assert_eq!(status(&token).await, StatusCode::OK);
    let get = (Method::GET, "/v1/credentials");
    let (_, list) = ask(&mesh, Some(&admin), get.0, get.1, Value::Null).await;
    let secret = token.rsplit('_').next().unwrap();
    assert!(list.to_string().contains("\"ops\"") && !list.to_string().contains(secret));
    let path = "/v1/credentials/ops";
    let revoke = async || ask(&mesh, Some(&admin), Method::DELETE, path, Value::Null).await;
    assert_eq!(revoke().await.0, StatusCode::NO_CONTENT);
    assert_eq!(status(&token).await, StatusCode::UNAUTHORIZED);
    assert_eq!(revoke().await.0, StatusCode::NOT_FOUND);
    let path = "/v1/credentials/admin";
    let (last, said) = ask(&mesh, Some(&admin), Method::DELETE, path, Value::Null).await;
    assert_eq!(last, StatusCode::CONFLICT, "{said}");
    mesh.stop().await;
}

#[tokio::test]
async fn who_guesses_one_token_is_stopped_without_harm_to_others() {
    let (mesh, admin) = guarded().await;
    let token = credential(&mesh, &admin, json!({ "name": "ops", "role": "viewer" })).await;
    let wrong = format!("credential_ops_{}", "0".repeat(64));
    let status = async |token: &str| {
        let asked = ask(&mesh, Some(token), Method::GET, "/v1/status", Value::Null);
        asked.await.0
    };
    for _ in 0..WRONG_MAX {
        assert_eq!(status(&wrong).await, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(status(&wrong).await, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(status(&token).await, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(status(&admin).await, StatusCode::OK);
    let nobody = format!("credential_nobody_{}", "0".repeat(64));
    for _ in 0..=WRONG_MAX {
        assert_eq!(status(&nobody).await, StatusCode::UNAUTHORIZED);
    }
    for strange in ["", "x", "credential_", "enrol_ops_00", &token[1..]] {
        assert_eq!(status(strange).await, StatusCode::UNAUTHORIZED, "{strange}");
    }
    mesh.stop().await;
}

#[tokio::test]
async fn single_requests_are_seen_by_operators_of_the_namespace_alone() {
    let (mesh, admin) = guarded().await;
    let make = async |name: &str, role: &str, namespaces: Value| {
        let asked = json!({ "name": name, "role": role, "namespaces": namespaces });
        credential(&mesh, &admin, asked).await
    };
    let viewer = make("view", "viewer", json!([])).await;
    let shop = make("shop", "operator", json!(["shop"])).await;
    let node = json!({ "kind": "Node", "metadata": { "name": "a" }, "spec": {} });
    let (status, said) = ask(&mesh, Some(&admin), Method::PUT, "/v1/nodes/a", node).await;
    assert_eq!(status, StatusCode::CREATED, "{said}");
    let levels = json!({ "levels": "debug" });
    let cases = [
        (&viewer, Method::GET, "/v1/tap/shop/cart", Value::Null, 403),
        (&shop, Method::GET, "/v1/tap/other/cart", Value::Null, 403),
        // What is for no service is in no namespace.
        (&viewer, Method::GET, "/v1/tap", Value::Null, 403),
        (&shop, Method::GET, "/v1/tap", Value::Null, 403),
        // It may, and there is no such service.
        (&shop, Method::GET, "/v1/tap/shop/cart", Value::Null, 404),
        (
            &shop,
            Method::GET,
            "/v1/tap/shop/cart?headers=cookie",
            Value::Null,
            400,
        ),
        (
            &shop,
            Method::GET,
            "/v1/tap/shop/cart?max_rps=0",
            Value::Null,
            400,
        ),
        (&viewer, Method::PUT, "/v1/log-levels", levels.clone(), 403),
        (
            &shop,
            Method::PUT,
            "/v1/nodes/a/log-levels",
            levels.clone(),
            403,
        ),
        // A node that is declared and not there.
        (
            &admin,
            Method::PUT,
            "/v1/nodes/a/log-levels",
            levels.clone(),
            409,
        ),
        (&admin, Method::PUT, "/v1/nodes/b/log-levels", levels, 404),
        (
            &admin,
            Method::POST,
            "/v1/bench-link",
            json!({ "from": "a", "to": "a" }),
            422,
        ),
        (
            &viewer,
            Method::POST,
            "/v1/bench-link",
            json!({ "from": "a", "to": "b" }),
            403,
        ),
    ];
    for (token, method, path, body, expected) in cases {
        let (status, said) = ask(&mesh, Some(token), method, path, body).await;
        assert_eq!(status, expected, "{path}: {said}");
    }
    mesh.stop().await;
}
