use super::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::routing::post;
use serde_json::{Value, json};

/// What an API server with two service accounts answers: `ops` may operate in `shop` and view, `nobody` nothing.
async fn api() -> (Client, Arc<AtomicU32>) {
    let asked = Arc::new(AtomicU32::new(0));
    let token = async |State(asked): State<Arc<AtomicU32>>, Json(mut review): Json<Value>| {
        asked.fetch_add(1, Relaxed);
        let account = review["spec"]["token"].as_str().unwrap().to_owned();
        let (account, audience) = account.split_once('/').unwrap();
        let wanted = review["spec"]["audiences"][0].as_str().unwrap();
        let is_known = matches!(account, "ops" | "nobody") && audience != "other";
        let audiences = match audience {
            "none" => json!(null),
            _ => json!([wanted]),
        };
        let user = json!({ "username": format!("system:serviceaccount:mesh:{account}"), "groups": ["system:serviceaccounts"] });
        review["status"] = match is_known {
            true => json!({ "authenticated": true, "user": user, "audiences": audiences }),
            false => json!({ "authenticated": false }),
        };
        Json(review)
    };
    let access = async |Json(mut review): Json<Value>| {
        let spec = &review["spec"];
        let what = &spec["resourceAttributes"];
        let is_mesh = what["group"] == "isobar.dev" && what["resource"] == "mesh";
        let is_ops = spec["user"] == "system:serviceaccount:mesh:ops";
        let may = match what["verb"].as_str().unwrap() {
            "view" => true,
            "operate" => what["namespace"] == "shop",
            _ => false,
        };
        review["status"] = json!({ "allowed": is_mesh && is_ops && may });
        Json(review)
    };
    let router = Router::new()
        .route("/apis/authentication.k8s.io/v1/tokenreviews", post(token))
        .route(
            "/apis/authorization.k8s.io/v1/subjectaccessreviews",
            post(access),
        )
        .with_state(asked.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let config = kube::Config::new(url.parse().unwrap());
    (Client::try_from(config).unwrap(), asked)
}

fn deed(role: Role, namespace: Option<&str>) -> Deed {
    let namespace = namespace.map(str::to_owned);
    Deed { role, namespace }
}

#[tokio::test]
async fn kubernetes_says_who_it_is_and_what_they_may() {
    let (client, asked) = api().await;
    let reviews = KubernetesReviews::new(client);
    let ops = "system:serviceaccount:mesh:ops".to_owned();
    let cases = [
        ("ops/isobar", deed(Role::Viewer, None), Some(true)),
        ("ops/isobar", deed(Role::Operator, Some("shop")), Some(true)),
        (
            "ops/isobar",
            deed(Role::Operator, Some("mail")),
            Some(false),
        ),
        ("ops/isobar", deed(Role::Operator, None), Some(false)),
        ("ops/isobar", deed(Role::Admin, None), Some(false)),
        ("nobody/isobar", deed(Role::Viewer, None), Some(false)),
        ("ops/other", deed(Role::Viewer, None), None),
        ("ops/none", deed(Role::Viewer, None), None),
        ("stranger/isobar", deed(Role::Viewer, None), None),
    ];
    for (token, deed, expected) in &cases {
        let review = reviews.review(token, deed).await.unwrap();
        match expected {
            Some(true) => assert_eq!(review, Review::Allowed(ops.clone()), "{token} {deed:?}"),
            Some(false) => assert!(matches!(review, Review::Denied(..)), "{token} {deed:?}"),
            None => assert_eq!(review, Review::Nobody, "{token} {deed:?}"),
        }
    }
    // An answer that is fresh is not asked for again.
    let before = asked.load(Relaxed);
    let (token, deed, _) = cases.last().unwrap();
    reviews.review(token, deed).await.unwrap();
    assert_eq!(asked.load(Relaxed), before);
}

#[tokio::test]
async fn nobody_is_let_in_while_the_api_is_away() {
    let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
    let reviews = KubernetesReviews::new(Client::try_from(config).unwrap());
    let review = reviews
        .review("ops/isobar", &deed(Role::Viewer, None))
        .await;
    assert_eq!(review, None);
}
