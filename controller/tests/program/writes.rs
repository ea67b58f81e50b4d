//! Every write: preconditions, dry runs, the audit; and lists in pages.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use isobar_mesh_api::message::{Down, Up};
use isobar_mesh_api::snapshot::PlanId;
use serde_json::{Value, json};

use crate::mesh::{Mesh, exchange};
use crate::proxy::{Proxy, report};

const PATH: &str = "/v1/weight-policies/all";

fn policy(neighbours: u32) -> String {
    json!({
        "kind": "WeightPolicy",
        "metadata": { "name": "all" },
        "spec": { "neighbours": neighbours }
    })
    .to_string()
}

/// Sends a request with one more header. Returns the status, the `ETag` and the body.
async fn ask(
    mesh: &Mesh,
    method: Method,
    path: &str,
    (name, value): (&str, &str),
    body: &str,
) -> (StatusCode, String, Value) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", mesh.addresses().rest.to_string())
        .header("content-type", "application/json")
        .header(name, value)
        .body(Full::new(Bytes::from(body.to_owned())))
        .unwrap();
    let (head, body) = exchange(mesh.addresses(), request).await;
    let tag = head.headers.get("etag");
    let tag = tag.map(|tag| tag.to_str().unwrap().to_owned());
    (head.status, tag.unwrap_or_default(), body)
}

#[tokio::test]
async fn a_write_that_expects_something_else_changes_nothing() {
    let mesh = Mesh::start().await;
    let none = ("x-nothing", "1");
    let put = Method::PUT;
    let missing = ask(&mesh, put.clone(), PATH, ("if-match", "*"), &policy(3)).await;
    assert_eq!(missing.0, StatusCode::PRECONDITION_FAILED, "{}", missing.2);
    let created = ask(&mesh, put.clone(), PATH, ("if-none-match", "*"), &policy(3)).await;
    assert_eq!(created.0, StatusCode::CREATED, "{}", created.2);
    let again = ask(&mesh, put.clone(), PATH, ("if-none-match", "*"), &policy(4)).await;
    assert_eq!(again.0, StatusCode::PRECONDITION_FAILED);
    let read = ask(&mesh, Method::GET, PATH, none, "").await;
    assert_eq!((read.1.as_str(), read.1.len()), (created.1.as_str(), 18));
    let first = ("if-match", read.1.as_str());
    let replaced = ask(&mesh, put.clone(), PATH, first, &policy(4)).await;
    assert_eq!(replaced.0, StatusCode::OK);
    assert_ne!(replaced.1, read.1);
    // Of two writers who read the same, the second is told.
    let late = ask(&mesh, put.clone(), PATH, first, &policy(5)).await;
    assert_eq!(late.0, StatusCode::PRECONDITION_FAILED);
    assert!(late.2["detail"].as_str().unwrap().contains("read it again"));
    let late = ask(&mesh, Method::DELETE, PATH, first, "").await;
    assert_eq!(late.0, StatusCode::PRECONDITION_FAILED);
    let now = ask(&mesh, Method::GET, PATH, none, "").await;
    assert_eq!(now.2["spec"]["neighbours"], 4);
    let both = format!("\"0000000000000000\", {}", now.1);
    let gone = ask(&mesh, Method::DELETE, PATH, ("if-match", &both), "").await;
    assert_eq!(gone.0, StatusCode::NO_CONTENT);
    for unreadable in ["yes", "\"\"", "\"12\"", "W/\"0000000000000000\""] {
        let said = ask(
            &mesh,
            put.clone(),
            PATH,
            ("if-match", unreadable),
            &policy(1),
        )
        .await;
        assert_eq!(said.0, StatusCode::BAD_REQUEST, "{unreadable}");
    }
    mesh.stop().await;
}

#[tokio::test]
async fn a_dry_run_says_what_the_plan_would_be_and_changes_nothing() {
    let mesh = Mesh::start().await;
    let door = mesh.door();
    let (a, b) = (
        Proxy::enrolled(&door, "a").await,
        Proxy::enrolled(&door, "b").await,
    );
    let mut at_b = b.stream(&door, b.hello_at(9.1, 100.0)).await.unwrap();
    let neighbour = tokio::spawn(async move {
        while let Some(down) = at_b.next().await {
            if let Down::Ping { .. } = down {
                at_b.send(&Up::Report(report(0))).await;
            }
        }
    });
    let mut at_a = a.stream(&door, a.hello_at(9.0, 100.0)).await.unwrap();
    let moves = |row: &isobar_mesh_api::snapshot::Row| row.weight_ppm(&b.node) > 100_000;
    at_a.until_row(&report(150), moves).await;
    let off = json!({
        "kind": "WeightPolicy",
        "metadata": { "name": "all" },
        "spec": { "algorithm": "off" }
    });
    let path = format!("{PATH}?dry_run=true");
    let (status, tried) = mesh.rest(Method::PUT, &path, &off.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{tried}");
    assert_eq!(tried["dry_run"], true);
    let service = &tried["plan"]["services"][0];
    assert_eq!(service["service"], "shop/cart");
    assert_eq!(service["before"]["policy"], "default");
    assert_eq!(service["after"]["policy"], "all");
    assert!(service["before"]["moved_rps"].as_f64().unwrap() > 20.0);
    assert_eq!(service["after"]["moved_rps"], 0.0);
    let seat = &tried["plan"]["seats"][0];
    assert_eq!(seat["node"], "a");
    assert_eq!(seat["after"]["row"]["home_ppm"], 1_000_000);
    // Nothing came of it.
    assert_eq!(
        mesh.rest(Method::GET, PATH, "").await.0,
        StatusCode::NOT_FOUND
    );
    let (_, audit) = mesh.rest(Method::GET, "/v1/audit", "").await;
    assert_eq!(audit, json!({"items": []}));
    // What would be refused is refused.
    let wrong = off.to_string().replace("off", "magic");
    let (status, _) = mesh.rest(Method::PUT, &path, &wrong).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let (status, _) = mesh.rest(Method::DELETE, &path, "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let maybe = format!("{PATH}?dry_run=maybe");
    let (status, problem) = mesh.rest(Method::PUT, &maybe, &off.to_string()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(problem["errors"][0]["pointer"], "?dry_run");
    mesh.stop().await;
    neighbour.await.unwrap();
}

#[tokio::test]
async fn every_write_is_in_the_audit_also_after_a_restart() {
    let mesh = Mesh::start().await;
    for neighbours in [1, 2] {
        mesh.rest(Method::PUT, PATH, &policy(neighbours)).await;
    }
    mesh.rest(Method::DELETE, PATH, "").await;
    // What was refused is no change.
    mesh.rest(Method::DELETE, PATH, "").await;
    let (status, audit) = mesh.rest(Method::GET, "/v1/audit", "").await;
    assert_eq!(status, StatusCode::OK);
    let said = |entry: &Value| {
        let part = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        (entry["number"].as_u64(), part("outcome"), part("name"))
    };
    let items = audit["items"].as_array().unwrap();
    let all: Vec<_> = items.iter().map(said).collect();
    let entry = |number, outcome: &str| (Some(number), outcome.to_owned(), "all".to_owned());
    assert_eq!(
        all,
        [
            entry(3, "deleted"),
            entry(2, "replaced"),
            entry(1, "created")
        ]
    );
    assert_eq!(items[0]["before"], items[1]["after"]);
    assert_eq!(items[0]["who"], "anonymous");
    assert_eq!(items[0]["kind"], "WeightPolicy");
    let (_, page) = mesh.rest(Method::GET, "/v1/audit?limit=2", "").await;
    let next = format!("/v1/audit?after={}", page["after"].as_str().unwrap());
    let (_, rest) = mesh.rest(Method::GET, &next, "").await;
    assert_eq!(rest["items"], json!([items[2]]));
    let Mesh {
        directory,
        program,
        shutdown,
    } = mesh;
    shutdown.cancel();
    program.wait().await.unwrap();
    let mesh = Mesh::start_in(directory).await;
    assert_eq!(mesh.rest(Method::GET, "/v1/audit", "").await.1, audit);
    mesh.rest(Method::PUT, PATH, &policy(1)).await;
    let (_, later) = mesh.rest(Method::GET, "/v1/audit?limit=1", "").await;
    assert_eq!(later["items"][0]["number"], 4);
    mesh.stop().await;
}

#[tokio::test]
async fn lists_come_in_pages_and_forged_tokens_are_refused() {
    let mesh = Mesh::start().await;
    for name in ["a", "b", "c"] {
        let node = format!("{{kind: Node, metadata: {{name: {name}}}, spec: {{}}}}");
        mesh.rest(Method::PUT, &format!("/v1/nodes/{name}"), &node)
            .await;
    }
    let (mut path, mut seen, mut token) = ("/v1/nodes?limit=2".to_owned(), vec![], String::new());
    loop {
        let (status, page) = mesh.rest(Method::GET, &path, "").await;
        assert_eq!(status, StatusCode::OK, "{page}");
        let items = page["items"].as_array().unwrap().clone();
        seen.extend(items.iter().map(|n| n["metadata"]["name"].clone()));
        let Some(after) = page["after"].as_str() else {
            break;
        };
        token = after.to_owned();
        path = format!("/v1/nodes?limit=2&after={after}");
    }
    assert_eq!(seen, ["a", "b", "c"]);
    let forged = token.replace(&token[..1], "7");
    let other = format!("/v1/services?after={token}");
    let cases = [
        (format!("/v1/nodes?after={forged}"), "?after"),
        ("/v1/nodes?after=b".to_owned(), "?after"),
        (other, "?after"),
        ("/v1/nodes?limit=0".to_owned(), "?limit"),
        ("/v1/nodes?limit=1001".to_owned(), "?limit"),
        ("/v1/nodes?limit=-1".to_owned(), "?limit"),
    ];
    for (path, pointer) in cases {
        let (status, problem) = mesh.rest(Method::GET, &path, "").await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{path}");
    }
    for (path, word) in [
        ("/v1/nodes?limti=1", "limti"),
        ("/v1/nodes?limit=1&limit=2", "twice"),
        ("/v1/nodes/a?dry_run=true", "dry_run"),
    ] {
        let (status, problem) = mesh.rest(Method::GET, path, "").await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
        assert!(problem["detail"].as_str().unwrap().contains(word));
    }
    mesh.stop().await;
}

#[tokio::test]
async fn who_lost_its_store_plans_beyond_what_the_proxies_have() {
    let mesh = Mesh::start().await;
    let door = mesh.door();
    let proxy = Proxy::enrolled(&door, "a").await;
    let mut hello = proxy.hello_at(9.0, 100.0);
    let had = PlanId {
        epoch: 41,
        generation: 7,
    };
    hello.plan = Some(had);
    let mut stream = proxy.stream(&door, hello.clone()).await.unwrap();
    let plan = stream.snapshot().await.plan;
    assert_eq!(plan.epoch, 42, "{plan}");
    let mut wild = hello.clone();
    wild.plan = Some(PlanId {
        epoch: u64::MAX,
        generation: 0,
    });
    let (status, problem) = proxy.stream(&door, wild).await.err().unwrap();
    assert!(status.is_client_error());
    assert!(problem.to_string().contains("#/plan/epoch"), "{problem}");
    // And so does its successor.
    let Mesh {
        directory,
        program,
        shutdown,
    } = mesh;
    shutdown.cancel();
    program.wait().await.unwrap();
    let mesh = Mesh::start_in(directory).await;
    let (_, view) = mesh.rest(Method::GET, "/v1/status", "").await;
    assert_eq!(view["plan"]["epoch"], 43);
    mesh.stop().await;
}
